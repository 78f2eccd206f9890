/* run.c - binding memory from outside, and running the nodes in order. Allocates nothing. Runs on
 * the GPU go on in run_device.c. */
#include "graph/graph_impl.h"

#include "base/err.h"

static bool may_have_dtype(const kr_graph *g, const kr_value *v, kr_dtype t) {
    if (t == v->t.dtype) return true;
    if (g->o.level == KR_LEVEL_CUDA) return false;
    bool low = t == KR_BF16 || t == KR_F16 || t == KR_F32;
    return v->kind == KR_VALUE_PARAM && v->decl->matrix && low && !v->needs_grad &&
           v->t.dtype != KR_F64;
}

static int check_binding(const kr_graph *g, const kr_value *v, const kr_tensor *t, krait_error *e) {
    bool fits = t->rank == v->t.rank && may_have_dtype(g, v, t->dtype);
    bool outside = v->kind == KR_VALUE_INPUT || v->kind == KR_VALUE_STATE;
    for (int i = outside ? 1 : 0; fits && i < t->rank; i++) fits = t->shape[i] == v->t.shape[i];
    if (outside && fits) fits = t->shape[0] <= v->planned0;
    if (fits) return 0;
    char is[96], expected[96];
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s is %s, must be %s", v->name, kr_tensor_describe(t, is),
                   kr_tensor_describe(&v->t, expected));
}

int kr_graph_bind_device(kr_graph *g, kr_value *v, const kr_tensor *t, krait_error *e) {
    KR_TRY(check_binding(g, v, t, e));
    kr_tensor bound = *t;
    bound.dim0 = v->t.dim0;
    if (bound.dim0 != KR_DIM0_FIXED) bound.shape[0] = v->planned0;
    v->host = NULL;
    if (kr_tensor_same(&bound, &v->t)) return 0;
    v->t = bound;
    g->stale = true;
    if (v->kind == KR_VALUE_PARAM) g->constants_done = false;
    return 0;
}

int kr_graph_bind(kr_graph *g, kr_value *v, const kr_tensor *t, krait_error *e) {
    if (!v->from_host) return kr_graph_bind_device(g, v, t, e);
    if (!kr_tensor_contiguous(t))
        return kr_fail(e, KRAIT_ERR_SHAPE, "%s: its rows must follow each other", v->name);
    kr_tensor placed = *t;
    placed.data = v->place;
    KR_TRY(kr_graph_bind_device(g, v, &placed, e));
    v->host = t->data;
    return 0;
}

/* A tensor as node calls see it now: views inside their whole, first dimensions as many as this run
 * has. */
static kr_tensor current(const kr_value *v, int64_t m, int64_t r) {
    kr_tensor t = v->t;
    if (v->parent) {
        const kr_tensor *whole = &v->parent->t;
        t.dtype = whole->dtype;
        for (int i = 0; i < t.rank; i++) t.stride[i] = whole->stride[i];
        size_t skip = (size_t)v->first * kr_dtype_size(t.dtype);
        t.data = whole->data ? (unsigned char *)whole->data + skip : NULL;
    }
    if (t.dim0 == KR_DIM0_TOKENS) t.shape[0] = m;
    if (t.dim0 == KR_DIM0_ROWS) t.shape[0] = r;
    return t;
}

static int refresh_argument(const kr_node *n, const kr_value *v, kr_tensor *t, int64_t m, int64_t r,
                            krait_error *e) {
    if (!v) {
        t->data = NULL;
        return 0;
    }
    *t = current(v, m, r);
    if (t->data) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s, argument of %s, was not bound", v->name,
                   n->op->name);
}

int kr_graph_refresh(kr_graph *g, int64_t m, int64_t r, krait_error *e) {
    for (int64_t k = 0; k < g->n_nodes; k++) {
        kr_node *n = g->nodes[k];
        for (int i = 0; i < n->n_in; i++)
            KR_TRY(refresh_argument(n, n->in[i], &n->call.in[i], m, r, e));
        for (int i = 0; i < n->n_out; i++)
            KR_TRY(refresh_argument(n, n->out[i], &n->call.out[i], m, r, e));
        n->call.accumulate = n->accumulate & ~(g->fresh ? n->first : 0);
        n->call.scratch = g->scratch;
        n->call.threads = g->o.threads;
    }
    return 0;
}

static void run_node(kr_graph *g, kr_node *n) {
    n->kernel(&n->call);
    if (g->hook) g->hook(g->hook_user, n, n->op, n->call.out, n->n_out, g->scopes[n->scope]);
}

static int check_counts(const kr_graph *g, int64_t m, int64_t r, krait_error *e) {
    if (!g->allocated) return kr_fail(e, KRAIT_ERR_ARGUMENT, "the graph has no memory yet");
    for (int64_t i = 0; i < g->n_values; i++) {
        const kr_value *v = g->values[i];
        int64_t n = v->t.dim0 == KR_DIM0_TOKENS ? m : v->t.dim0 == KR_DIM0_ROWS ? r : 0;
        if (n > v->planned0)
            return kr_fail(e, KRAIT_ERR_ARGUMENT, "%lld rows asked of a plan made for %lld",
                           (long long)n, (long long)v->planned0);
    }
    return 0;
}

/* All nodes in order; what depends on parameters alone only when those changed. */
static int run_host(kr_graph *g) {
    for (int64_t k = 0; k < g->n_nodes; k++)
        if (!g->nodes[k]->constant || !g->constants_done) run_node(g, g->nodes[k]);
    g->constants_done = true;
    return 0;
}

int kr_graph_run(kr_graph *g, int64_t m, int64_t r, krait_error *e) {
    bool device = g->o.level == KR_LEVEL_CUDA, other = m != g->last_m || r != g->last_r;
    if (other) KR_TRY(check_counts(g, m, r, e));
    if (other || g->stale) {
        if (device)
            g->key = kr_graph_key(g, m, r);
        else
            KR_TRY(kr_graph_refresh(g, m, r, e));
    }
    g->stale = false;
    g->last_m = m;
    g->last_r = r;
    return device ? kr_graph_run_device(g, e) : run_host(g);
}

void kr_graph_params_changed(kr_graph *g) { g->constants_done = false; }

void kr_graph_hook(kr_graph *g, kr_run_hook *hook, void *user) {
    g->hook = hook;
    g->hook_user = user;
}
