/* previous.c - rules of rows beside those before them; previous.h has the contract. */
#include "ops/previous/previous.h"

#include "base/err.h"
#include "ops/case.h"
#include "ops/seqs.h"

static int check_state(const char *op, const kr_tensor *state, int64_t W, krait_error *e) {
    if (state->rank >= 2 && kr_slot_width(state) == W) return 0;
    char text[96];
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: a slot of the state must have %lld numbers, is %s", op,
                   (long long)W, kr_tensor_describe(state, text));
}

/* x, seqs, reset and state from input i on. */
static int check(const char *op, const kr_call *c, int i, krait_error *e) {
    const kr_tensor *x = &c->in[i], *state = &c->in[i + 3];
    KR_TRY(kr_need_rank(op, "x", x, 2, e));
    KR_TRY(kr_need_seqs(op, c, i + 1, x->shape[0], e));
    return state->data ? check_state(op, state, x->shape[1], e) : 0;
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0];
    KR_TRY(check("previous", c, 0, e));
    out[0] = kr_tensor_make(NULL, x->dtype, 2, (int64_t[]){x->shape[0], 2 * x->shape[1]});
    out[0].dim0 = x->dim0;
    out[1].rank = 0;
    return c->n_out < 2 || !c->out[1].rank ? 0
                                           : check_state("previous", &c->out[1], x->shape[1], e);
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *dy = &c->in[0], *x = &c->in[1];
    KR_TRY(check("previous_grad", c, 1, e));
    if (dy->data) KR_TRY(kr_need_dim("previous_grad", "dy", dy, 1, 2 * x->shape[1], e));
    out[0] = kr_out_like(x);
    out[1].rank = 0;
    if (c->in[4].data) out[1] = kr_out_like(&c->in[4]);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *dy = kr_rule_dout(t, n, 0), *dstate = kr_rule_dout(t, n, 1), *outs[2] = {NULL};
    uint32_t accumulate = 0;
    if (!dy && !dstate) return;
    kr_rule_din(t, n, 0, outs, 0, &accumulate);
    kr_rule_din(t, n, 3, outs, 1, &accumulate);
    kr_value *ins[6] = {dy,
                        kr_rule_saved(t, kr_rule_in(n, 0)),
                        kr_rule_in(n, 1),
                        kr_rule_in(n, 2),
                        kr_rule_in(n, 3),
                        dstate};
    kr_rule_emit(t, &kr_op_previous_grad, NULL, 0, ins, 6, outs, 2, accumulate);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 0;
    *bytes = 3 * (double)kr_tensor_bytes(&c->in[c->n_in > 4 ? 1 : 0]);
}

static const struct {
    const char *name;
    int64_t M, W, S;
    bool reset, state;
} table[] = {{"T=1", 1, 1, 1, false, true},
             {"T=63 with reset", 63, 17, 1, true, true},
             {"ragged, reset", 100, 33, 7, true, true},
             {"steps", 9, 64, 9, false, true},
             {"whole pieces, reset", 100, 64, 3, true, true},
             {"no state", 40, 5, 3, true, false},
             {"more sequences than rows", 2, 6, 4, true, true},
             {"far", 5, 9, 2, true, true},
             {"more sequences than a grid is high", 66000, 2, 65800, true, true}};

static bool inputs(int index, kr_case *k, int first) {
    if (index >= (int)(sizeof table / sizeof *table)) return false;
    int64_t M = table[index].M, S = table[index].S;
    k->name = table[index].name;
    k->tokens = M;
    kr_case_normal(k, first, 2, (int64_t[]){M, table[index].W});
    kr_case_in(k, first + 1, KR_I64, 2, (int64_t[]){S, 3}, KR_FILL_SEQS, 0, 0);
    kr_case_in(k, first + 2, KR_U8, 1, &M, KR_FILL_RESET, 0.1, 0);
    kr_case_normal(k, first + 3, 2, (int64_t[]){S, table[index].W});
    if (!table[index].reset) kr_case_without(k, first + 2);
    if (!table[index].state) kr_case_without(k, first + 3);
    k->large = index == 8;
    k->n_out = table[index].state ? 2 : 1;
    return true;
}

static bool forward_cases(int index, kr_case *k) {
    if (!inputs(index, k, 0)) return false;
    if (table[index].state) k->out[1] = kr_tensor_make(NULL, KR_F32, 2, k->in[3].shape);
    if (index == 7) kr_case_far(k);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    if (!inputs(index, k, 1)) return false;
    kr_case_normal(k, 0, 2, (int64_t[]){table[index].M, 2 * table[index].W});
    kr_case_normal(k, 5, 2, k->in[4].shape);
    if (!table[index].state) kr_case_without(k, 5);
    if (index == 7) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_previous);
KR_DECLARE_KERNEL(kr_previous_grad);

const kr_op kr_op_previous = {
    .name = "previous",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = cost,
    .cases = forward_cases,
    .n_in = 4,
    .n_out = 2,
    .no_accumulate = 3,
    .half_in = 1,
    .kernel = KR_KERNELS_GPU(kr_previous),
};

const kr_op kr_op_previous_grad = {
    .name = "previous_grad",
    .shape = backward_shape,
    .cost = cost,
    .cases = backward_cases,
    .n_in = 6,
    .n_out = 2,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_previous_grad),
};
