/* rope.c - rules of rotary positions; rope.h has the contract. */
#include "ops/rope/rope.h"

#include "base/err.h"
#include "ops/case.h"

/* x, and seqs, reset and state from input i on. */
static int check(const char *op, const kr_call *c, const kr_tensor *x, int i, krait_error *e) {
    const kr_rope_attr *a = c->attr;
    const kr_tensor *reset = &c->in[i + 1], *state = &c->in[i + 2];
    KR_TRY(kr_need_rank(op, "x", x, 2, e));
    if (a->width < 2 || a->width % 2 || x->shape[1] % a->width)
        return kr_fail(e, KRAIT_ERR_SHAPE, "%s: width must be even and divide %lld, is %lld", op,
                       (long long)x->shape[1], (long long)a->width);
    KR_TRY(kr_need_rank(op, "seqs", &c->in[i], 2, e));
    KR_TRY(kr_need_dim(op, "seqs", &c->in[i], 1, 3, e));
    if (reset->data) {
        KR_TRY(kr_need_rank(op, "reset", reset, 1, e));
        KR_TRY(kr_need_dim(op, "reset", reset, 0, x->shape[0], e));
    }
    if (!state->data) return 0;
    KR_TRY(kr_need_rank(op, "state", state, 2, e));
    return kr_need_dim(op, "state", state, 1, a->width / 2, e);
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check("rope", c, &c->in[0], 1, e));
    out[0] = kr_out_like(&c->in[0]);
    out[1].rank = 0;
    if (c->n_out < 2 || !c->out[1].rank) return 0;
    KR_TRY(kr_need_rank("rope", "state_out", &c->out[1], 2, e));
    return kr_need_dim("rope", "state_out", &c->out[1], 1,
                       ((const kr_rope_attr *)c->attr)->width / 2, e);
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check("rope_grad", c, &c->in[0], 2, e));
    out[0] = kr_out_like(&c->in[0]);
    out[1].rank = 0;
    if (c->in[4].data) out[1] = kr_out_like(&c->in[4]);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *dy = kr_rule_dout(t, n, 0), *dstate = kr_rule_dout(t, n, 1), *outs[2] = {NULL};
    uint32_t accumulate = 0;
    if (!dy) return;
    kr_rule_din(t, n, 0, outs, 0, &accumulate);
    kr_rule_din(t, n, 3, outs, 1, &accumulate);
    kr_value *ins[6] = {dy, NULL, kr_rule_in(n, 1), kr_rule_in(n, 2), kr_rule_in(n, 3), dstate};
    if (outs[1]) ins[1] = kr_rule_saved(t, kr_rule_in(n, 0));
    kr_rule_emit(t, &kr_op_rope_grad, kr_rule_attr(n), sizeof(kr_rope_attr), ins, 6, outs, 2,
                 accumulate);
}

/* A thread: thetas in double; cosines and sines. */
static size_t scratch(const kr_call *c) {
    return (size_t)c->threads * (size_t)((const kr_rope_attr *)c->attr)->width * sizeof(double);
}

/* Where each row stands. */
static size_t scratch_cuda(const kr_call *c) {
    return (size_t)c->in[0].shape[0] * 2 * sizeof(int64_t);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 3 * (double)kr_tensor_count(&c->in[0]);
    *bytes = 2 * (double)kr_tensor_bytes(&c->in[0]);
}

static const kr_rope_attr attrs[] = {{2, 10000}, {6, 10000}, {34, 100}, {64, 10000}};

/* M, heads, S, which attributes; reset, state */
static const struct {
    const char *name;
    int64_t m, heads, s;
    int attr;
    bool reset, state;
} list[] = {{"T=1", 1, 1, 1, 0, false, false},
            {"T=63 with reset", 63, 3, 1, 1, true, true},
            {"ragged, reset", 100, 2, 7, 2, true, true},
            {"steps", 9, 4, 9, 3, false, true},
            {"no state", 40, 2, 3, 3, true, false},
            {"far", 5, 2, 2, 1, true, true}};

/* Behind `first` inputs of x's shape: dy and x, or x. */
static bool cases_of(int index, kr_case *k, int first) {
    if (index >= (int)(sizeof list / sizeof *list)) return false;
    int64_t m = list[index].m, s = list[index].s, N = attrs[list[index].attr].width;
    int64_t x[2] = {m, list[index].heads * N}, state[2] = {s, N / 2};
    k->name = list[index].name;
    k->tokens = m;
    for (int i = 0; i < first; i++) kr_case_normal(k, i, 2, x);
    kr_case_in(k, first, KR_I64, 2, (int64_t[]){s, 3}, KR_FILL_SEQS, 0, 0);
    kr_case_in(k, first + 1, KR_U8, 1, &m, KR_FILL_RESET, 0.1, 0);
    kr_case_normal(k, first + 2, 2, state);
    if (!list[index].reset) kr_case_without(k, first + 1);
    if (!list[index].state) kr_case_without(k, first + 2);
    k->attr = &attrs[list[index].attr];
    k->attr_size = sizeof attrs[0];
    k->n_out = 2;
    if (index == 5) kr_case_far(k);
    return true;
}

static bool forward_cases(int index, kr_case *k) {
    if (!cases_of(index, k, 1)) return false;
    if (!list[index].state) k->n_out = 1;
    if (list[index].state) k->out[1] = kr_tensor_make(NULL, KR_F32, 2, k->in[3].shape);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    if (!cases_of(index, k, 2)) return false;
    kr_case_normal(k, 5, 2, k->in[4].shape);
    if (!list[index].state) {
        kr_case_without(k, 1);
        kr_case_without(k, 5);
        k->n_out = 1;
    }
    return true;
}

KR_DECLARE_KERNEL(kr_rope);
KR_DECLARE_KERNEL(kr_rope_grad);

const kr_op kr_op_rope = {
    .name = "rope",
    .shape = forward_shape,
    .grad = forward_grad,
    .scratch = scratch,
    .scratch_cuda = scratch_cuda,
    .cost = cost,
    .cases = forward_cases,
    .n_in = 4,
    .n_out = 2,
    .no_accumulate = 2,
    .half_in = 1,
    .kernel = KR_KERNELS_GPU(kr_rope),
};

const kr_op kr_op_rope_grad = {
    .name = "rope_grad",
    .shape = backward_shape,
    .scratch = scratch,
    .scratch_cuda = scratch_cuda,
    .cost = cost,
    .cases = backward_cases,
    .n_in = 6,
    .n_out = 2,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_rope_grad),
};
