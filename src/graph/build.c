/* build.c - recording: values, views and nodes. Knows nothing of gradients (grad.c) and of memory
 * (plan.c). */
#include "graph/graph_impl.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"

/* Shape rules read "data == NULL" as "absent"; before memory exists, present arguments point here.
 */
static char present;

int kr_graph_fail(kr_graph *g, krait_err code, const char *format, ...) {
    if (g->failed) return g->error.code;
    g->failed = true;
    char message[400];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return kr_fail(&g->error, code, "%s", message);
}

kr_graph *kr_graph_create(const kr_graph_options *o, krait_error *e) {
    kr_graph *g = kr_calloc(1, sizeof *g);
    if (!g) {
        kr_fail_memory(e, "graph");
        return NULL;
    }
    g->o = *o;
    if (g->o.threads <= 0) g->o.threads = kr_device_threads();
    if (g->o.f64) g->o.level = KR_LEVEL_REF64;
    g->last_m = g->last_r = -1;
    kr_graph_scope(g, "");
    return g;
}

void kr_graph_free(kr_graph *g) {
    if (!g) return;
    for (int64_t i = 0; i < g->n_nodes; i++) {
        kr_free(g->nodes[i]->attr);
        kr_free(g->nodes[i]);
    }
    for (int64_t i = 0; i < g->n_values; i++) {
        kr_free(g->values[i]->decl);
        kr_free(g->values[i]->shown);
        kr_free(g->values[i]->fetched);
        kr_free(g->values[i]);
    }
    for (int64_t i = 0; i < g->n_scopes; i++) kr_free(g->scopes[i]);
    kr_free(g->nodes);
    kr_free(g->values);
    kr_free(g->params);
    kr_free(g->names);
    kr_free(g->scopes);
    kr_graph_drop_records(g);
    if (!g->borrowed) kr_device_free(g->o.level, g->arena);
    if (!g->borrowed) kr_device_free(g->o.level, g->scratch);
    kr_device_free(g->o.level, g->gradients);
    kr_device_free(g->o.level, g->inputs);
    kr_free(g);
}

bool kr_graph_trains(const kr_graph *g) { return g->o.training; }

bool kr_graph_ok(const kr_graph *g, krait_error *e) {
    if (g->failed && e) *e = g->error;
    return !g->failed;
}

kr_dtype kr_graph_real(const kr_graph *g) { return g->o.f64 ? KR_F64 : KR_F32; }

bool kr_graph_half(const kr_graph *g) { return g->o.half; }
kr_level kr_graph_level(const kr_graph *g) { return g->o.level; }

void kr_graph_scope(kr_graph *g, const char *scope) {
    char *copy = kr_strdup(scope);
    if (!copy || kr_grow((void **)&g->scopes, &g->scopes_capacity, (size_t)g->n_scopes + 1,
                         sizeof *g->scopes) < 0) {
        kr_free(copy);
        kr_graph_fail(g, KRAIT_ERR_MEMORY, "not enough memory for the graph");
        return;
    }
    g->scopes[g->n_scopes++] = copy;
}

kr_value *kr_value_new(kr_graph *g, kr_value_kind kind, const char *name, const kr_tensor *shape) {
    if (g->failed) return NULL;
    kr_value *v = kr_calloc(1, sizeof *v);
    if (!v || kr_grow((void **)&g->values, &g->values_capacity, (size_t)g->n_values + 1,
                      sizeof *g->values) < 0) {
        kr_free(v);
        kr_graph_fail(g, KRAIT_ERR_MEMORY, "not enough memory for the graph");
        return NULL;
    }
    g->values[g->n_values++] = v;
    v->kind = kind;
    v->t = *shape;
    v->t.data = NULL;
    v->planned0 = shape->rank ? shape->shape[0] : 0;
    snprintf(v->name, sizeof v->name, "%s", name ? name : "");
    if (kr_checked_count(shape->rank, shape->shape) < 0)
        kr_graph_fail(g, KRAIT_ERR_SHAPE, "%s: its size leaves 64 bits", v->name);
    return v;
}

/* ---- values from outside --------------------------------------------------------------------- */

/* Where a name is in the table of names, or would be. */
static int64_t *name_slot(const kr_graph *g, const char *name) {
    size_t i = (size_t)kr_hash_string(name);
    for (;; i++) {
        int64_t *slot = &g->names[i & (g->name_slots - 1)];
        if (*slot == 0 || strcmp(g->params[*slot - 1]->name, name) == 0) return slot;
    }
}

/* A table that one more parameter leaves half empty. */
static int grow_names(kr_graph *g) {
    size_t slots = g->name_slots ? 2 * g->name_slots : 64;
    if (2 * ((size_t)g->n_params + 1) <= g->name_slots) return 0;
    int64_t *names = kr_calloc(slots, sizeof *names);
    if (!names) return KRAIT_ERR_MEMORY;
    kr_free(g->names);
    g->names = names;
    g->name_slots = slots;
    for (int64_t i = 0; i < g->n_params; i++) *name_slot(g, g->params[i]->name) = i + 1;
    return 0;
}

static int add_param(kr_graph *g, kr_value *v) {
    size_t count = (size_t)g->n_params + 1;
    if (grow_names(g) < 0 ||
        kr_grow((void **)&g->params, &g->params_capacity, count, sizeof *g->params) < 0)
        return KRAIT_ERR_MEMORY;
    *name_slot(g, v->name) = (int64_t)count;
    g->params[g->n_params++] = v;
    return 0;
}

const kr_param_decl *kr_graph_param_named(const kr_graph *g, const char *name) {
    int64_t at = g->name_slots ? *name_slot(g, name) : 0;
    return at ? g->params[at - 1]->decl : NULL;
}

static kr_value *find_param(kr_graph *g, const kr_param_decl *d) {
    int64_t at = g->name_slots ? *name_slot(g, d->name) : 0;
    if (at == 0) return NULL;
    kr_value *v = g->params[at - 1];
    kr_tensor t = kr_tensor_make(NULL, v->t.dtype, d->rank, d->shape);
    if (!kr_tensor_same_shape(&t, &v->t))
        kr_graph_fail(g, KRAIT_ERR_SHAPE, "%s is declared twice with different shapes", d->name);
    return v;
}

kr_value *kr_graph_param(kr_graph *g, const kr_param_decl *d) {
    if (g->failed) return NULL;
    kr_value *v = find_param(g, d);
    if (v) return v;
    bool half = g->o.half && !g->o.cast && !g->o.training && d->matrix;
    kr_tensor t = kr_tensor_make(NULL, half ? KR_BF16 : kr_graph_real(g), d->rank, d->shape);
    v = kr_value_new(g, KR_VALUE_PARAM, d->name, &t);
    if (!v) return NULL;
    v->needs_grad = g->o.training;
    v->constant = !g->o.training;
    v->decl = kr_malloc(sizeof *v->decl);
    if (!v->decl || add_param(g, v) < 0) {
        kr_graph_fail(g, KRAIT_ERR_MEMORY, "not enough memory for the graph");
        return NULL;
    }
    *v->decl = *d;
    return v;
}

kr_value *kr_graph_half_of(kr_graph *g, kr_value *param) {
    if (g->failed || !param || param->kind != KR_VALUE_PARAM) return NULL;
    kr_tensor t = kr_tensor_make(NULL, KR_BF16, param->t.rank, param->t.shape);
    if (!param->half) param->half = kr_value_new(g, KR_VALUE_INPUT, param->name, &t);
    return param->half;
}

kr_value *kr_graph_half_at(const kr_graph *g, int i) { return g->params[i]->half; }

int kr_graph_param_count(const kr_graph *g) { return (int)g->n_params; }

kr_value *kr_graph_param_at(const kr_graph *g, int i, const kr_param_decl **decl) {
    if (decl) *decl = g->params[i]->decl;
    return g->params[i];
}

kr_value *kr_graph_input(kr_graph *g, const char *name, kr_dtype type, kr_dim0 dim0, int rank,
                         const int64_t *shape) {
    kr_tensor t = kr_tensor_make(NULL, type, rank, shape);
    t.dim0 = dim0;
    kr_value *v = kr_value_new(g, KR_VALUE_INPUT, name, &t);
    if (v) v->from_host = g->o.level == KR_LEVEL_CUDA;
    return v;
}

kr_value *kr_graph_state(kr_graph *g, const char *name, kr_dtype t, bool is_output, int rank,
                         const int64_t *shape) {
    kr_tensor made = kr_tensor_make(NULL, t, rank, shape);
    return kr_value_new(g, is_output ? KR_VALUE_STATE : KR_VALUE_INPUT, name, &made);
}

void kr_graph_output(kr_graph *g, const char *name, kr_value *v) {
    if (g->failed || !v) return;
    kr_value_root(v)->keep = true;
    snprintf(v->name, sizeof v->name, "%s", name);
}

kr_value *kr_graph_columns(kr_graph *g, kr_value *v, int64_t first, int64_t count) {
    if (g->failed || !v) return NULL;
    int last = v->t.rank - 1;
    if (v->t.rank < 2 || first < 0 || count < 1 || first + count > v->t.shape[last]) {
        kr_graph_fail(g, KRAIT_ERR_SHAPE, "columns %lld..%lld of %s are outside it",
                      (long long)first, (long long)(first + count), v->name);
        return NULL;
    }
    kr_tensor t = v->t;
    t.shape[last] = count;
    kr_value *view = kr_value_new(g, v->kind, v->name, &t);
    if (!view) return NULL;
    view->parent = kr_value_root(v);
    view->first = v->first + first;
    view->producer = v->producer;
    view->needs_grad = v->needs_grad;
    view->constant = v->constant;
    return view;
}

void kr_graph_recompute(kr_graph *g, kr_value *v) {
    if (!g->failed && v) kr_value_root(v)->again = 1;
}

void kr_graph_recompute_dear(kr_graph *g, kr_value *v, kr_value *const *ins, int n_in) {
    if (g->failed || !v || n_in > KR_MAX_AGAIN) return;
    v->again = 2;
    v->n_again = n_in;
    for (int i = 0; i < n_in; i++) v->again_in[i] = ins[i];
}

void kr_graph_remake(kr_graph *g, kr_value *v) {
    if (!g->failed && v) v->remade = true;
}

const kr_tensor *kr_value_tensor(const kr_value *v) { return &v->t; }

/* ---- nodes ----------------------------------------------------------------------------------- */

static kr_node *new_node(kr_graph *g, const kr_op *op, const void *attr, size_t attr_size) {
    kr_node *n = kr_calloc(1, sizeof *n);
    void *copy = attr_size ? kr_malloc(attr_size) : NULL;
    if (!n || (attr_size && !copy) ||
        kr_grow((void **)&g->nodes, &g->nodes_capacity, (size_t)g->n_nodes + 1, sizeof *g->nodes) <
            0) {
        kr_free(n);
        kr_free(copy);
        kr_graph_fail(g, KRAIT_ERR_MEMORY, "not enough memory for the graph");
        return NULL;
    }
    if (attr_size) memcpy(copy, attr, attr_size);
    n->op = op;
    n->attr = copy;
    n->attr_size = attr_size;
    n->scope = (int)g->n_scopes - 1;
    g->nodes[g->n_nodes++] = n;
    return n;
}

void kr_node_shapes(kr_node *n) {
    kr_call *c = &n->call;
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i]) {
            c->in[i] = n->in[i]->t;
            c->in[i].data = &present;
        }
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i]) {
            c->out[i] = n->out[i]->t;
            c->out[i].data = &present;
        }
    c->n_in = n->n_in;
    c->n_out = n->n_out;
    c->attr = n->attr;
    c->accumulate = n->accumulate;
}

/* Makes output i of n what the shape rule derived, or checks the given value against it. */
static kr_value *settle_output(kr_graph *g, kr_node *n, kr_value *given, const kr_tensor *derived,
                               bool create) {
    if (!given) {
        if (!create || derived->rank == 0) return NULL;
        kr_value *v = kr_value_new(g, KR_VALUE_ACTIVATION, n->op->name, derived);
        if (v) v->producer = n;
        return v;
    }
    if (derived->rank > 0 &&
        (!kr_tensor_same_shape(&given->t, derived) || given->t.dtype != derived->dtype)) {
        char is[96], expected[96];
        kr_graph_fail(g, KRAIT_ERR_SHAPE, "%s: output %s is %s, must be %s", n->op->name,
                      given->name, kr_tensor_describe(&given->t, is),
                      kr_tensor_describe(derived, expected));
    }
    if (!given->producer) given->producer = n;
    return given;
}

static void mark_dependence(kr_node *n) {
    bool needs = false, constant = n->n_in > 0 && n->accumulate == 0;
    for (int i = 0; i < n->n_in; i++) {
        if (!n->in[i]) continue;
        needs = needs || n->in[i]->needs_grad;
        constant = constant && n->in[i]->constant;
    }
    for (int i = 0; i < n->n_out; i++) {
        if (!n->out[i]) continue;
        constant = constant && n->out[i]->kind == KR_VALUE_ACTIVATION;
    }
    n->constant = constant;
    for (int i = 0; i < n->n_out; i++) {
        if (!n->out[i]) continue;
        if (needs && n->op->grad) n->out[i]->needs_grad = true;
        n->out[i]->constant = constant;
    }
}

void kr_graph_record(kr_graph *g, const kr_op *op, const void *attr, size_t attr_size,
                     kr_value *const *ins, int n_in, kr_value **outs, int n_out,
                     uint32_t accumulate, bool create) {
    if (g->failed) return;
    if (n_in > KR_MAX_IN || n_out > KR_MAX_OUT || (accumulate & op->no_accumulate)) {
        kr_graph_fail(g, KRAIT_ERR_ARGUMENT, "%s: too many arguments, or an output that cannot add",
                      op->name);
        return;
    }
    kr_node *n = new_node(g, op, attr, attr_size);
    if (!n) return;
    n->n_in = n_in;
    n->n_out = n_out;
    n->accumulate = accumulate;
    for (int i = 0; i < n_in; i++) n->in[i] = ins[i];
    for (int i = 0; i < n_out; i++) n->out[i] = outs[i];
    kr_node_shapes(n);
    kr_tensor derived[KR_MAX_OUT] = {0};
    krait_error e = {0};
    if (op->shape(&n->call, derived, &e) < 0) {
        kr_graph_fail(g, e.code, "%s", e.message);
        return;
    }
    for (int i = 0; i < n_out; i++)
        n->out[i] = outs[i] = settle_output(g, n, outs[i], &derived[i], create);
    kr_node_shapes(n);
    n->kernel = kr_op_kernel(op, g->o.level);
    if (!n->kernel)
        kr_graph_fail(g, KRAIT_ERR_UNSUPPORTED, "%s has no kernel at level %s", op->name,
                      kr_level_name(g->o.level));
    if (g->o.level == KR_LEVEL_CUDA && op->check_cuda && op->check_cuda(&n->call, &e) < 0)
        kr_graph_fail(g, e.code, "%s", e.message);
    mark_dependence(n);
}

void kr_apply(kr_graph *g, const kr_op *op, const void *attr, size_t attr_size,
              kr_value *const *ins, int n_in, kr_value **outs, int n_out) {
    kr_graph_record(g, op, attr, attr_size, ins, n_in, outs, n_out, 0, true);
}

kr_value *kr_apply1(kr_graph *g, const kr_op *op, const void *attr, size_t attr_size,
                    kr_value *const *ins, int n_in) {
    kr_value *outs[KR_MAX_OUT] = {NULL};
    kr_graph_record(g, op, attr, attr_size, ins, n_in, outs, op->n_out, 0, true);
    return outs[0];
}
