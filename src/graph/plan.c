/* plan.c - liveness, and one arena for everything that lives between two nodes.
 *
 * A value is alive from the node that first writes it to the last that touches it. Values are
 * placed largest first, each at the lowest offset where it overlaps nobody alive at the same time:
 * within a few percent of the best on our graphs, and deterministic. Sizes are known, and can be
 * printed, before any memory is asked for. */
#include "graph/graph_impl.h"

#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"

/* Values begin where the widest accesses of the GPU want them. */
enum { ALIGN = 256 };
_Static_assert(ALIGN % KR_ALIGN == 0, "values are aligned for the CPU too");

static size_t value_bytes(const kr_value *v) {
    return (kr_tensor_bytes(&v->t) + ALIGN - 1) / ALIGN * ALIGN;
}

static void touch(kr_value *v, int64_t at) {
    if (!v) return;
    v = kr_value_root(v);
    if (v->birth < 0) v->birth = at;
    v->death = at;
}

static void find_lifetimes(kr_graph *g) {
    for (int64_t i = 0; i < g->n_values; i++) {
        g->values[i]->birth = g->values[i]->death = -1;
        g->values[i]->alias = NULL;
    }
    for (int64_t k = 0; k < g->n_nodes; k++) {
        const kr_node *n = g->nodes[k];
        for (int i = 0; i < n->n_in; i++) touch(n->in[i], k);
        for (int i = 0; i < n->n_out; i++) touch(n->out[i], k);
    }
    for (int64_t i = 0; i < g->n_values; i++) {
        kr_value *v = g->values[i];
        if (v->keep || v->constant) v->death = g->n_nodes;
        if (v->constant) v->birth = 0;
    }
}

static bool may_reuse(const kr_node *n, int i, int64_t k) {
    if (!(n->op->inplace >> i & 1) || i >= n->n_in || !n->in[i] || !n->out[i]) return false;
    const kr_value *in = n->in[i], *out = n->out[i];
    return !in->parent && !out->parent && in->kind == KR_VALUE_ACTIVATION &&
           out->kind == KR_VALUE_ACTIVATION && !in->keep && !in->constant && in->death == k &&
           out->birth == k && in->birth < k && kr_tensor_bytes(&in->t) == kr_tensor_bytes(&out->t);
}

/* Where an op may work in place and its input dies there, the output takes the input's memory over.
 */
static void share_in_place(kr_graph *g) {
    for (int64_t k = 0; k < g->n_nodes; k++) {
        kr_node *n = g->nodes[k];
        for (int i = 0; i < n->n_out; i++) {
            if (!may_reuse(n, i, k)) continue;
            kr_value *owner = n->in[i]->alias ? n->in[i]->alias : n->in[i];
            n->out[i]->alias = owner;
            if (n->out[i]->death > owner->death) owner->death = n->out[i]->death;
        }
    }
}

static bool in_arena(const kr_value *v) {
    return v->kind == KR_VALUE_ACTIVATION && !v->parent && !v->alias && v->birth >= 0;
}

static int larger_first(const void *a, const void *b) {
    const kr_value *x = *(kr_value *const *)a, *y = *(kr_value *const *)b;
    size_t p = value_bytes(x), q = value_bytes(y);
    if (p != q) return p < q ? 1 : -1;
    if (x->birth != y->birth) return x->birth < y->birth ? -1 : 1;
    return x->death < y->death ? -1 : x->death > y->death;
}

/* A value that has its place: apart from the value, since all of them are looked at very often. */
typedef struct spot {
    int64_t birth, death;
    size_t begin, end;
} spot;

/* The lowest offset at which v fits between the spots (sorted by offset) that are in use while it
 * lives. */
static size_t lowest_fit(const spot *spots, int64_t n, const kr_value *v, size_t need) {
    size_t at = 0;
    int64_t birth = v->birth, death = v->death;
    for (int64_t i = 0; i < n; i++) {
        const spot *s = &spots[i];
        if (s->death < birth || s->birth > death || s->end <= at) continue;
        if (s->begin >= at + need) break;
        at = s->end;
    }
    return at;
}

static void insert_by_offset(spot *spots, int64_t n, const kr_value *v, size_t need) {
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (spots[middle].begin > v->offset)
            high = middle;
        else
            low = middle + 1;
    }
    memmove(&spots[low + 1], &spots[low], (size_t)(n - low) * sizeof *spots);
    spots[low] = (spot){v->birth, v->death, v->offset, v->offset + need};
}

static void place_listed(kr_graph *g, kr_value **list, spot *spots, int64_t n) {
    qsort(list, (size_t)n, sizeof *list, larger_first);
    for (int64_t i = 0; i < n; i++) {
        size_t need = value_bytes(list[i]);
        list[i]->offset = lowest_fit(spots, i, list[i], need);
        insert_by_offset(spots, i, list[i], need);
        size_t end = list[i]->offset + need;
        if (end > g->sizes.activations) g->sizes.activations = end;
        g->sizes.unshared += need;
    }
}

static int place_all(kr_graph *g, krait_error *e) {
    int64_t n = 0;
    for (int64_t i = 0; i < g->n_values; i++) n += in_arena(g->values[i]);
    kr_value **list = kr_calloc((size_t)n + 1, sizeof *list);
    spot *spots = kr_calloc((size_t)n + 1, sizeof *spots);
    int rc = list && spots ? 0 : kr_fail_memory(e, "the memory plan");
    n = 0;
    for (int64_t i = 0; i < g->n_values && rc == 0; i++)
        if (in_arena(g->values[i])) list[n++] = g->values[i];
    if (rc == 0) place_listed(g, list, spots, n);
    kr_free(list);
    kr_free(spots);
    return rc;
}

static void place_gradient(kr_graph *g, kr_value *v) {
    if (!v || v->kind != KR_VALUE_GRADIENT || v->placed) return;
    v->placed = true;
    v->offset = g->sizes.gradients;
    g->sizes.gradients += value_bytes(v);
}

static int group_of(const kr_param_decl *d) { return d->recurrent ? 2 : d->no_decay; }

/* Decayed parameters first, then those without decay, then the recurrent ones, each in order of
 * declaration: an optimiser may take each part as one vector. */
static void place_gradients(kr_graph *g) {
    size_t *ends[] = {&g->layout.decayed, &g->layout.plain, &g->layout.parameters};
    for (int group = 0; group < 3; group++) {
        for (int64_t i = 0; i < g->n_params; i++)
            if (group_of(g->params[i]->decl) == group) place_gradient(g, g->params[i]->grad);
        *ends[group] = g->sizes.gradients;
    }
    for (int64_t i = 0; i < g->n_values; i++) place_gradient(g, g->values[i]);
}

/* Which node begins each gradient: cleared ones need no zeros when it overwrites. */
static void find_first_writers(kr_graph *g) {
    for (int64_t k = 0; k < g->n_nodes; k++) {
        kr_node *n = g->nodes[k];
        n->first = 0;
        for (int i = 0; i < n->n_out; i++)
            if (n->out[i] && n->out[i]->kind == KR_VALUE_GRADIENT && n->out[i]->birth == k)
                n->first |= 1u << i;
    }
}

static void count_outside(kr_graph *g) {
    for (int64_t i = 0; i < g->n_values; i++) {
        kr_value *v = g->values[i];
        if (v->parent) continue;
        if (v->kind == KR_VALUE_PARAM) g->sizes.parameters += kr_tensor_bytes(&v->t);
        if (!v->from_host) continue;
        v->offset = g->sizes.inputs;
        g->sizes.inputs += value_bytes(v);
    }
    for (int64_t k = 0; k < g->n_nodes; k++) {
        kr_node *n = g->nodes[k];
        kr_node_shapes(n);
        n->call.threads = g->o.threads;
        size_t need = kr_op_scratch(n->op, g->o.level, &n->call);
        if (need > g->sizes.scratch) g->sizes.scratch = need;
    }
    g->sizes.n_nodes = g->n_nodes;
    g->sizes.n_values = g->n_values;
}

int kr_graph_plan(kr_graph *g, krait_error *e) {
    if (g->failed) return kr_fail(e, g->error.code, "%s", g->error.message);
    memset(&g->sizes, 0, sizeof g->sizes);
    for (int64_t i = 0; i < g->n_values; i++) g->values[i]->placed = false;
    find_lifetimes(g);
    share_in_place(g);
    KR_TRY(place_all(g, e));
    place_gradients(g);
    find_first_writers(g);
    count_outside(g);
    g->planned = true;
    return 0;
}

void kr_graph_sizes(const kr_graph *g, kr_plan_sizes *sizes) { *sizes = g->sizes; }

void kr_graph_gradient_layout(const kr_graph *g, kr_gradient_layout *layout) {
    *layout = g->layout;
}
size_t kr_graph_gradient_offset(const kr_value *gradient) { return gradient->offset; }
void *kr_graph_gradient_block(const kr_graph *g) { return g->gradients; }

/* Blocks are of one plan, which is told whole, with what is free beside what it has already. */
static unsigned char *block(const kr_graph *g, size_t size, krait_error *e) {
    unsigned char *p = kr_device_alloc(g->o.level, size);
    if (p) return p;
    size_t own = g->borrowed ? 0 : g->sizes.activations + g->sizes.scratch, left, all;
    double need = (double)(own + g->sizes.gradients + g->sizes.inputs) / 1e6;
    kr_device_memory(g->o.level, &left, &all);
    if (all == 0)
        kr_fail(e, KRAIT_ERR_MEMORY, "not enough memory: the plan takes %.1f MB", need);
    else
        kr_fail(e, KRAIT_ERR_MEMORY,
                "not enough memory: the plan takes %.1f MB; of its next block of %.1f MB %s has "
                "%.1f MB free",
                need, (double)size / 1e6, kr_device_name(g->o.level), (double)left / 1e6);
    return NULL;
}

/* The library of matrix products makes its code at its first call, in memory of its own, and
 * crashes where it gets none: so there must be some left. */
static int check_spare(krait_error *e) {
    enum { SPARE = 16 << 20 };
    void *spare = kr_malloc(SPARE);
    if (!spare) return kr_fail_memory(e, "matrix products");
    kr_free(spare);
    return 0;
}

/* Where each value of the plan lies; what the host binds has a copy of what was sent last. */
static int place_value(kr_graph *g, kr_value *v, krait_error *e) {
    const kr_value *owner = v->alias ? v->alias : v;
    if (v->kind == KR_VALUE_GRADIENT) v->t.data = g->gradients + v->offset;
    if (v->kind == KR_VALUE_ACTIVATION && !v->parent && v->birth >= 0)
        v->t.data = g->arena + owner->offset;
    if (!v->from_host) return 0;
    v->place = g->inputs + v->offset;
    v->shown = kr_malloc(value_bytes(v));
    if (v->host) v->t.data = v->place; /* bound before */
    return v->shown ? 0 : kr_fail_memory(e, v->name);
}

static void clear_gradients(kr_graph *g) {
    (void)kr_device_fill(g->o.level, g->gradients, 0, g->sizes.gradients, NULL);
}

static int allocate_rest(kr_graph *g, krait_error *e) {
    if (!(g->gradients = block(g, g->sizes.gradients, e))) return KRAIT_ERR_MEMORY;
    if (g->sizes.inputs && !(g->inputs = block(g, g->sizes.inputs, e))) return KRAIT_ERR_MEMORY;
    KR_TRY(check_spare(e));
    for (int64_t i = 0; i < g->n_values; i++) KR_TRY(place_value(g, g->values[i], e));
    clear_gradients(g); /* also what pads them */
    g->allocated = g->stale = true;
    return 0;
}

int kr_graph_allocate(kr_graph *g, krait_error *e) {
    if (!g->planned) return kr_fail(e, KRAIT_ERR_ARGUMENT, "the graph has not been planned");
    if (!(g->arena = block(g, g->sizes.activations, e))) return KRAIT_ERR_MEMORY;
    if (!(g->scratch = block(g, g->sizes.scratch, e))) return KRAIT_ERR_MEMORY;
    return allocate_rest(g, e);
}

bool kr_graph_fits(const kr_graph *g, const kr_graph *other) {
    return g->sizes.activations <= other->sizes.activations &&
           g->sizes.scratch <= other->sizes.scratch;
}

int kr_graph_allocate_over(kr_graph *g, const kr_graph *other, krait_error *e) {
    if (!other->allocated || !kr_graph_fits(g, other))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "the graph does not fit into the other's memory");
    g->borrowed = true;
    g->arena = other->arena;
    g->scratch = other->scratch;
    return allocate_rest(g, e);
}

void kr_graph_zero_gradients(kr_graph *g) {
    if (g->o.level == KR_LEVEL_CUDA)
        g->fresh = g->stale = true;
    else
        clear_gradients(g);
}
