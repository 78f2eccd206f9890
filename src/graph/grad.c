/* grad.c - reverse mode: walks the recorded nodes backwards and lets each op's rule record its
 * backward op.
 *
 * Each value has one place where its gradient gathers. The first writer overwrites it, later ones
 * add into it, so no separate sums are needed. Parameters' places outlive the run and are always
 * added to. Four complications live here and nowhere else: a gradient shared by several values (a
 * residual sum hands the same one to both sides) is never written in place; a view's gradient is a
 * view of the whole's, which may be written part by part; a value marked cheap is computed again
 * where the backward pass needs it; and what needs a value that a later backward op makes again in
 * passing waits for that one. */
#include "graph/graph_impl.h"

#include "base/err.h"
#include "ops/add/add.h"
#include "ops/fill/fill.h"

static kr_value *new_gradient(kr_graph *g, const kr_value *like, kr_value_kind kind) {
    kr_tensor t = kr_tensor_make(NULL, like->t.dtype, like->t.rank, like->t.shape);
    t.dim0 = like->t.dim0;
    return kr_value_new(g, kind, like->name, &t);
}

static kr_value *sum_of(kr_graph *g, kr_value *a, kr_value *b) {
    return kr_apply1(g, &kr_op_add, NULL, 0, (kr_value *[]){a, b}, 2);
}

/* ---- gradients of views ---------------------------------------------------------------------- */

static void fill_columns(kr_graph *g, kr_value *whole, int64_t first, int64_t count) {
    kr_value *out = kr_graph_columns(g, whole, first, count);
    kr_fill_attr zero = {0};
    kr_graph_record(g, &kr_op_fill, &zero, sizeof zero, NULL, 0, &out, 1, 0, false);
}

/* Writes zeros where no part of a partial gradient has been written. */
static void complete(kr_graph *g, kr_value *v) {
    if (!v->grad || !v->grad_partial) return;
    v->grad_partial = false;
    int64_t next = 0, width = v->t.shape[v->t.rank - 1];
    while (next < width && !g->failed) {
        int64_t hole_end = width, range_end = next;
        for (int i = 0; i < v->n_ranges; i++) {
            int64_t first = v->range[i].first;
            if (first <= next && first + v->range[i].count > range_end)
                range_end = first + v->range[i].count;
            if (first > next && first < hole_end) hole_end = first;
        }
        if (range_end == next) {
            fill_columns(g, v->grad, next, hole_end - next);
            range_end = hole_end;
        }
        next = range_end;
    }
}

static bool persistent(const kr_value *v) { return v->kind == KR_VALUE_PARAM || v->wanted; }

/* Parameters and wanted inputs have a gradient of their own memory, from the start. */
static kr_value *persistent_slot(kr_graph *g, kr_value *v) {
    if (!v->grad) v->grad = new_gradient(g, v, KR_VALUE_GRADIENT);
    return v->grad;
}

/* The place for the gradient of view v, inside its parent's. *accumulate is set when something is
 * there already. */
static kr_value *view_slot(kr_graph *g, kr_value *v, bool *accumulate) {
    kr_value *whole = v->parent;
    int64_t count = v->t.shape[v->t.rank - 1];
    if (persistent(whole)) {
        *accumulate = true;
        return kr_graph_columns(g, persistent_slot(g, whole), v->first, count);
    }
    if (!whole->grad) {
        whole->grad = new_gradient(g, whole, KR_VALUE_ACTIVATION);
        whole->grad_partial = true;
    } else if (whole->grad_shared) {
        complete(g, whole);
        kr_value *copy = sum_of(g, whole->grad, NULL);
        whole->grad = copy;
        whole->grad_shared = false;
    }
    *accumulate = !whole->grad_partial;
    for (int i = 0; whole->grad_partial && i < whole->n_ranges; i++) {
        int64_t first = whole->range[i].first, end = first + whole->range[i].count;
        if (end <= v->first || first >= v->first + count) continue;
        if (first != v->first || end != v->first + count) complete(g, whole);
        *accumulate = true;
    }
    if (!*accumulate && whole->n_ranges == KR_MAX_RANGES) {
        complete(g, whole);
        *accumulate = true;
    }
    if (!*accumulate) {
        whole->range[whole->n_ranges].first = v->first;
        whole->range[whole->n_ranges++].count = count;
    }
    return kr_graph_columns(g, whole->grad, v->first, count);
}

/* ---- what gradient rules may ask ------------------------------------------------------------- */

kr_value *kr_rule_in(const kr_node *n, int i) { return i < n->n_in ? n->in[i] : NULL; }
kr_value *kr_rule_out(const kr_node *n, int i) { return i < n->n_out ? n->out[i] : NULL; }
const void *kr_rule_attr(const kr_node *n) { return n->attr; }
kr_dtype kr_rule_type(const kr_value *v) { return v->t.dtype; }

kr_value *kr_rule_dout(kr_tape *t, const kr_node *n, int i) {
    kr_value *v = kr_rule_out(n, i);
    if (!v) return NULL;
    complete(t->g, v);
    return v->grad;
}

void kr_rule_din(kr_tape *t, const kr_node *n, int i, kr_value **outs, int k,
                 uint32_t *accumulate) {
    kr_value *v = kr_rule_in(n, i);
    outs[k] = NULL;
    if (!v || !v->needs_grad || t->g->failed) return;
    bool add = false;
    if (v->parent) {
        outs[k] = view_slot(t->g, v, &add);
    } else if (persistent(v)) {
        outs[k] = persistent_slot(t->g, v);
        add = true;
    } else if (!v->grad) {
        outs[k] = v->grad = new_gradient(t->g, v, KR_VALUE_ACTIVATION);
    } else if (v->grad_shared && t->n_pending < KR_MAX_PENDING) {
        outs[k] = new_gradient(t->g, v, KR_VALUE_ACTIVATION);
        t->pending[t->n_pending].value = v;
        t->pending[t->n_pending++].fresh = outs[k];
    } else {
        complete(t->g, v);
        outs[k] = v->grad;
        add = true;
    }
    if (add) *accumulate |= 1u << k;
}

void kr_rule_din_is(kr_tape *t, const kr_node *n, int i, kr_value *g) {
    kr_value *v = kr_rule_in(n, i);
    if (!v || !g || !v->needs_grad || t->g->failed) return;
    if (v->parent || persistent(v)) {
        kr_value *outs[1];
        uint32_t accumulate = 0;
        kr_rule_din(t, n, i, outs, 0, &accumulate);
        kr_graph_record(t->g, &kr_op_add, NULL, 0, (kr_value *[]){g, NULL}, 2, outs, 1, accumulate,
                        false);
    } else if (!v->grad) {
        v->grad = g;
        v->grad_shared = true;
    } else {
        complete(t->g, v);
        v->grad = sum_of(t->g, v->grad, g);
        v->grad_shared = false;
    }
}

kr_value *kr_rule_temporary(kr_tape *t, const kr_value *v) {
    return t->g->failed || !v ? NULL : new_gradient(t->g, v, KR_VALUE_ACTIVATION);
}

/* Whether its producer's gradient, still to come, can make v again. */
static bool awaitable(const kr_graph *g, const kr_value *v) {
    return v && v->remade && g->o.recompute && !v->twin && !v->parent && v->needs_grad &&
           v->producer && v->producer->op->grad;
}

/* The value itself, or its copy made by running its producer again here, recursively for that one's
 * inputs. */
static kr_value *at_hand(kr_tape *t, kr_value *v) {
    kr_graph *g = t->g;
    if (!v || g->failed || !g->o.recompute) return v;
    kr_value *root = kr_value_root(v);
    if (root->remade && root->twin) return root->twin;
    if (!root->again || root->again > g->o.recompute) return v;
    if (!root->producer || root->kind != KR_VALUE_ACTIVATION) return v;
    if (!root->twin) {
        kr_node *n = root->producer;
        kr_value *ins[KR_MAX_IN] = {NULL}, *outs[KR_MAX_OUT] = {NULL};
        kr_value *const *from = root->n_again ? root->again_in : n->in;
        int n_from = root->n_again ? root->n_again : n->n_in;
        for (int i = 0; i < n_from; i++) ins[i] = at_hand(t, from[i]);
        if (!root->twin) /* it may have been made with one of those */
            kr_graph_record(g, n->op, n->attr, n->attr_size, ins, n->n_in, outs, n->n_out, 0, true);
        for (int i = 0; i < n->n_out && !g->failed; i++)
            if (outs[i] && n->out[i]->kind == KR_VALUE_ACTIVATION) n->out[i]->twin = outs[i];
    }
    if (!v->parent) return root->twin;
    return kr_graph_columns(g, root->twin, v->first, v->t.shape[v->t.rank - 1]);
}

kr_value *kr_rule_saved(kr_tape *t, kr_value *v) {
    return !t->g->failed && awaitable(t->g, v) ? v : at_hand(t, v);
}

bool kr_rule_on_gpu(const kr_tape *t) { return t->g->o.level == KR_LEVEL_CUDA; }

bool kr_rule_kept(const kr_tape *t, const kr_value *v) {
    int level = t->g->o.recompute;
    return !v || v->twin || !(level && ((v->again && v->again <= level) || v->remade));
}

kr_value *kr_rule_remade(kr_tape *t, const kr_node *n, int i) {
    kr_value *v = kr_rule_out(n, i);
    if (!v || t->g->failed || v->twin) return NULL;
    for (int k = 0; k < t->n_waiting && !v->twin; k++)
        if (t->waiting[k].awaited == v) v->twin = new_gradient(t->g, v, KR_VALUE_ACTIVATION);
    return v->twin;
}

/* Puts a backward op off until the one value that it lacks is made again: only what ends in
 * gradients of parameters may be late. */
static bool put_off(kr_tape *t, const kr_op *op, size_t attr_size, kr_value *const *ins, int n_in,
                    kr_value *const *outs, int n_out, uint32_t accumulate) {
    kr_waiting w = {.op = op, .n_in = n_in, .n_out = n_out, .accumulate = accumulate};
    for (int i = 0; i < n_in; i++) {
        w.in[i] = ins[i];
        if (!awaitable(t->g, ins[i])) continue;
        if (w.awaited) return false;
        w.awaited = ins[i];
    }
    for (int i = 0; i < n_out; i++) {
        w.out[i] = outs[i];
        if (outs[i] && outs[i]->kind != KR_VALUE_GRADIENT) return false;
    }
    if (!w.awaited || attr_size || t->n_waiting == KR_MAX_WAITING) return false;
    w.scope = (int)t->g->n_scopes - 1;
    t->waiting[t->n_waiting++] = w;
    return true;
}

void kr_rule_emit(kr_tape *t, const kr_op *op, const void *attr, size_t attr_size,
                  kr_value *const *ins, int n_in, kr_value *const *outs, int n_out,
                  uint32_t accumulate) {
    kr_value *in[KR_MAX_IN], *out[KR_MAX_OUT];
    bool any = false;
    for (int i = 0; i < n_out && i < KR_MAX_OUT; i++) any = (out[i] = outs[i]) != NULL || any;
    if (!any || t->g->failed) return;
    for (int i = 0; i < n_in && i < KR_MAX_IN; i++) in[i] = kr_rule_saved(t, ins[i]);
    if (put_off(t, op, attr_size, in, n_in, out, n_out, accumulate)) return;
    for (int i = 0; i < n_in && i < KR_MAX_IN; i++) in[i] = at_hand(t, in[i]);
    kr_graph_record(t->g, op, attr, attr_size, in, n_in, out, n_out, accumulate, false);
    for (int i = 0; i < t->n_pending; i++) {
        kr_value *v = t->pending[i].value;
        v->grad = sum_of(t->g, v->grad, t->pending[i].fresh);
        v->grad_shared = false;
    }
    t->n_pending = 0;
}

void kr_rule_pull_back(kr_tape *t, const kr_node *n, const kr_op *op, const void *attr,
                       size_t attr_size, kr_value *const *saved, int n_saved, int first,
                       int n_into) {
    kr_value *ins[KR_MAX_IN] = {kr_rule_dout(t, n, 0)}, *outs[KR_MAX_OUT] = {NULL};
    uint32_t accumulate = 0;
    if (!ins[0]) return;
    for (int i = 0; i < n_into; i++) kr_rule_din(t, n, first + i, outs, i, &accumulate);
    for (int i = 0; i < n_saved; i++) ins[1 + i] = saved[i];
    kr_rule_emit(t, op, attr, attr_size, ins, 1 + n_saved, outs, n_into, accumulate);
}

/* Records what waited for values that are there now, or, at the end, all that waits. */
static void catch_up(kr_tape *t, bool all) {
    int left = 0;
    for (int k = 0; k < t->n_waiting && !t->g->failed; k++) {
        kr_waiting w = t->waiting[k];
        if (!all && !w.awaited->twin) {
            t->waiting[left++] = w;
            continue;
        }
        kr_graph_scope(t->g, t->g->scopes[w.scope]);
        for (int i = 0; i < w.n_in; i++) w.in[i] = at_hand(t, w.in[i]);
        kr_graph_record(t->g, w.op, NULL, 0, w.in, w.n_in, w.out, w.n_out, w.accumulate, false);
    }
    t->n_waiting = left;
}

/* ---- the walk -------------------------------------------------------------------------------- */

void kr_graph_want_gradient(kr_graph *g, kr_value *v) {
    if (g->failed || !v) return;
    v->wanted = v->needs_grad = true;
    for (int64_t k = 0; k < g->n_nodes; k++) { /* values recorded before this call */
        kr_node *n = g->nodes[k];
        bool needs = false;
        for (int i = 0; i < n->n_in; i++)
            needs = needs ||
                    (n->in[i] && (n->in[i]->needs_grad || kr_value_root(n->in[i])->needs_grad));
        for (int i = 0; needs && n->op->grad && i < n->n_out; i++)
            if (n->out[i]) n->out[i]->needs_grad = true;
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i] && n->in[i]->parent && n->in[i]->parent->needs_grad)
                n->in[i]->needs_grad = true;
    }
}

void kr_graph_seed(kr_graph *g, kr_value *y, kr_value *seed) {
    if (g->failed || !y || !seed) return;
    if (!kr_tensor_same_shape(&y->t, &seed->t))
        kr_graph_fail(g, KRAIT_ERR_SHAPE, "the seed of %s has another shape", y->name);
    y->grad = seed;
    y->grad_shared = true;
}

void kr_graph_backward(kr_graph *g) {
    kr_tape t = {.g = g};
    for (int64_t k = g->n_nodes - 1; k >= 0 && !g->failed; k--) {
        const kr_node *n = g->nodes[k];
        bool reached = false, needs = false;
        for (int i = 0; i < n->n_out; i++) reached = reached || (n->out[i] && n->out[i]->grad);
        for (int i = 0; i < n->n_in; i++) needs = needs || (n->in[i] && n->in[i]->needs_grad);
        if (!reached || !needs || !n->op->grad) continue;
        kr_graph_scope(g, g->scopes[n->scope]);
        n->op->grad(&t, n);
        catch_up(&t, false);
    }
    catch_up(&t, true);
    for (int64_t i = 0; i < g->n_values && !g->failed; i++)
        if (!g->values[i]->parent) complete(g, g->values[i]);
}

kr_value *kr_graph_gradient(kr_graph *g, kr_value *v) { return g->failed || !v ? NULL : v->grad; }
