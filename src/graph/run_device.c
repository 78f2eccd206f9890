/* run_device.c - runs on the GPU: inputs are copied in, nodes launched one by one or as one
 * recording, results copied out. Which work a run is made of is decided in run.c.
 *
 * A launch costs the host a few microseconds, more than many kernels take: so a run that comes
 * again is recorded (a CUDA graph) and from then on launched at once. What a recording holds are
 * the addresses and sizes of its calls; a key made of all of them says which one fits. Inputs pass
 * through places of the graph's own, so new ones need no new recording. */
#include "graph/graph_impl.h"

#include "base/err.h"
#include "base/mem.h"

static uint64_t mixed(uint64_t key, uint64_t x) {
    key = (key ^ x) * 0x9E3779B97F4A7C15u;
    return key ^ key >> 29;
}

uint64_t kr_graph_key(const kr_graph *g, int64_t m, int64_t r) {
    uint64_t key = mixed(mixed(g->fresh ? 2 : 1, (uint64_t)m), (uint64_t)r);
    for (int64_t i = 0; i < g->n_values; i++) {
        const kr_value *v = g->values[i];
        if (v->kind == KR_VALUE_ACTIVATION || v->kind == KR_VALUE_GRADIENT || v->parent) continue;
        key = mixed(key, (uint64_t)(uintptr_t)v->t.data);
        key = mixed(key, (uint64_t)v->t.dtype);
        key = mixed(key, (uint64_t)v->t.shape[0]);
        key = mixed(key, (uint64_t)v->t.stride[0]);
    }
    return key ? key : 1;
}

/* ---- in and out ------------------------------------------------------------------------------ */

/* Bytes of the rows that this run has of a value. */
static size_t current_bytes(const kr_graph *g, const kr_value *v) {
    kr_tensor t = v->t;
    if (t.dim0 == KR_DIM0_TOKENS) t.shape[0] = g->last_m;
    if (t.dim0 == KR_DIM0_ROWS) t.shape[0] = g->last_r;
    return kr_tensor_bytes(&t);
}

/* Sends what the host has bound, except what is there already: the cuts of a batch and the seeds of
 * a loss are the same in most runs. */
static int send_inputs(kr_graph *g, krait_error *e) {
    for (int64_t i = 0; i < g->n_values; i++) {
        kr_value *v = g->values[i];
        if (!v->host) continue;
        size_t bytes = current_bytes(g, v);
        if (bytes <= v->copied && memcmp(v->shown, v->host, bytes) == 0) continue;
        v->copied = 0;
        KR_TRY(kr_device_put(g->o.level, v->place, v->host, bytes, e));
        memcpy(v->shown, v->host, bytes);
        v->copied = bytes;
    }
    return 0;
}

const void *kr_graph_fetch(kr_graph *g, kr_value *v, krait_error *e) {
    kr_value *root = kr_value_root(v);
    size_t skip = (size_t)v->first * kr_dtype_size(v->t.dtype);
    if (g->o.level != KR_LEVEL_CUDA) return (const char *)root->t.data + skip;
    if (!root->fetched) root->fetched = kr_malloc(kr_tensor_bytes(&root->t));
    if (!root->fetched) {
        kr_fail_memory(e, root->name);
        return NULL;
    }
    size_t bytes = current_bytes(g, root);
    if (kr_device_get(g->o.level, root->fetched, root->t.data, bytes, e) < 0) return NULL;
    return (const char *)root->fetched + skip;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static int run_node(kr_graph *g, kr_node *n, krait_error *e) {
    n->kernel(&n->call);
    KR_TRY(kr_device_check(g->o.level, n->op->name, e));
    if (g->hook) g->hook(g->hook_user, n, n->op, n->call.out, n->n_out, g->scopes[n->scope]);
    return 0;
}

/* The next node behind k that runs in this turn; NULL: there is none. */
static kr_node *node_behind(kr_graph *g, int64_t *k, bool constant) {
    while (++*k < g->n_nodes)
        if (g->nodes[*k]->constant == constant) return g->nodes[*k];
    return NULL;
}

/* Runs the node at *k and those behind it that its op does in one; *k is then the last of them. */
static int run_chain(kr_graph *g, int64_t *k, bool constant, krait_error *e) {
    const kr_call *calls[KR_GRAPH_CHAIN];
    const kr_node *last = g->nodes[*k];
    int64_t at = *k;
    int n = 0;
    for (const kr_node *next = last; next && n < KR_GRAPH_CHAIN; n++) {
        if (n > 0 && (next->op != last->op || next->in[0] != last->out[0])) break;
        calls[n] = &next->call;
        last = next;
        *k = at;
        next = node_behind(g, &at, constant);
    }
    last->op->chain_cuda(calls, n);
    return kr_device_check(g->o.level, last->op->name, e);
}

/* The nodes that depend on parameters alone, or the others. */
static int run_nodes(kr_graph *g, bool constant, krait_error *e) {
    if (g->calls_key != g->key) KR_TRY(kr_graph_refresh(g, g->last_m, g->last_r, e));
    g->calls_key = g->key;
    int64_t k = -1;
    for (kr_node *n; (n = node_behind(g, &k, constant)) != NULL;) {
        if (n->op->chain_cuda && !g->hook)
            KR_TRY(run_chain(g, &k, constant, e));
        else
            KR_TRY(run_node(g, n, e));
    }
    return 0;
}

/* ---- recordings ------------------------------------------------------------------------------ */

static void drop(kr_run_record *r) {
    kr_recording_free(r->work);
    *r = (kr_run_record){0};
}

void kr_graph_drop_records(kr_graph *g) {
    for (int i = 0; i < KR_RUN_RECORDS; i++) drop(&g->records[i]);
}

/* The record of this run's key; a new one takes the place that was used longest ago. */
static kr_run_record *record_of(kr_graph *g, bool *is_new) {
    kr_run_record *oldest = &g->records[0];
    *is_new = false;
    for (int i = 0; i < KR_RUN_RECORDS; i++) {
        if (g->records[i].used && g->records[i].key == g->key) return &g->records[i];
        if (g->records[i].used < oldest->used) oldest = &g->records[i];
    }
    drop(oldest);
    oldest->key = g->key;
    *is_new = true;
    return oldest;
}

static int record(kr_graph *g, kr_run_record *r, krait_error *e) {
    kr_recording *work = NULL;
    krait_error second;
    KR_TRY(kr_device_record_begin(g->o.level, e));
    int rc = run_nodes(g, false, e);
    int end = kr_device_record_end(g->o.level, &work, rc < 0 ? &second : e);
    if (rc == 0 && end == 0) {
        r->work = work;
        return 0;
    }
    kr_recording_free(work);
    return rc < 0 ? rc : end;
}

static int run_work(kr_graph *g, krait_error *e) {
    bool is_new;
    KR_TRY(send_inputs(g, e));
    if (!g->constants_done) KR_TRY(run_nodes(g, true, e));
    g->constants_done = true;
    if (g->hook || !kr_device_records(g->o.level)) return run_nodes(g, false, e);
    kr_run_record *r = record_of(g, &is_new);
    r->used = ++g->runs;
    if (is_new) { /* plans matrix products, which cannot be recorded */
        int rc = run_nodes(g, false, e);
        if (rc < 0) drop(r);
        return rc;
    }
    if (!r->work) KR_TRY(record(g, r, e));
    return kr_device_replay(r->work, e);
}

int kr_graph_run_device(kr_graph *g, krait_error *e) {
    kr_device_lock(g->o.level);
    int rc = run_work(g, e);
    kr_device_unlock(g->o.level);
    if (rc < 0) return rc;
    if (g->fresh) g->stale = true; /* the next run adds */
    g->fresh = false;
    return 0;
}
