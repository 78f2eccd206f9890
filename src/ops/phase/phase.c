/* phase.c - rules of angles through time; phase.h has the contract. */
#include "ops/phase/phase.h"

#include "base/err.h"
#include "ops/case.h"
#include "ops/seqs.h"

enum { ANGLE, DELTA, SEQS, RESET, STATE, INS };

static int check_state(const char *op, const kr_tensor *state, int64_t H, int64_t S,
                       krait_error *e) {
    KR_TRY(kr_need_rank(op, "state", state, 3, e));
    KR_TRY(kr_need_dim(op, "state", state, 1, H, e));
    return kr_need_dim(op, "state", state, 2, S, e);
}

/* The inputs from i on. */
static int check(const char *op, const kr_call *c, int i, krait_error *e) {
    const kr_tensor *angle = &c->in[i + ANGLE], *delta = &c->in[i + DELTA];
    const kr_tensor *state = &c->in[i + STATE];
    KR_TRY(kr_need_rank(op, "angle", angle, 2, e));
    KR_TRY(kr_need_rank(op, "delta", delta, 2, e));
    KR_TRY(kr_need_dim(op, "delta", delta, 0, angle->shape[0], e));
    KR_TRY(kr_need_seqs(op, c, i + SEQS, angle->shape[0], e));
    return state->data ? check_state(op, state, delta->shape[1], angle->shape[1], e) : 0;
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *angle = &c->in[ANGLE];
    KR_TRY(check("phase", c, 0, e));
    int64_t H = c->in[DELTA].shape[1], S = angle->shape[1];
    out[0] = kr_tensor_make(NULL, angle->dtype, 2, (int64_t[]){angle->shape[0], H * S});
    out[0].dim0 = angle->dim0;
    out[1].rank = 0;
    return c->n_out < 2 || !c->out[1].rank ? 0 : check_state("phase", &c->out[1], H, S, e);
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *state = &c->in[1 + STATE];
    KR_TRY(check("phase_grad", c, 1, e));
    out[0] = kr_out_like(&c->in[1 + ANGLE]);
    out[1] = kr_out_like(&c->in[1 + DELTA]);
    out[2].rank = 0;
    if (state->data) out[2] = kr_out_like(state);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *dphi = kr_rule_dout(t, n, 0), *dstate = kr_rule_dout(t, n, 1), *outs[3] = {NULL};
    uint32_t accumulate = 0;
    if (!dphi && !dstate) return;
    kr_rule_din(t, n, ANGLE, outs, 0, &accumulate);
    kr_rule_din(t, n, DELTA, outs, 1, &accumulate);
    kr_rule_din(t, n, STATE, outs, 2, &accumulate);
    kr_value *ins[7] = {dphi,
                        kr_rule_saved(t, kr_rule_in(n, ANGLE)),
                        kr_rule_saved(t, kr_rule_in(n, DELTA)),
                        kr_rule_in(n, SEQS),
                        kr_rule_in(n, RESET),
                        kr_rule_in(n, STATE),
                        dstate};
    kr_rule_emit(t, &kr_op_phase_grad, NULL, 0, ins, 7, outs, 3, accumulate);
}

/* A thread: a number for each angle of each head, and two for each angle. */
static size_t scratch_of(const kr_call *c, int i) {
    int64_t H = c->in[i + DELTA].shape[1], S = c->in[i + ANGLE].shape[1];
    return (size_t)c->threads * (size_t)((H + 2) * (S + 16)) * sizeof(double);
}
static size_t forward_scratch(const kr_call *c) { return scratch_of(c, 0); }
static size_t backward_scratch(const kr_call *c) { return scratch_of(c, 1); }

/* What later rows give to each angle. */
static size_t scratch_cuda(const kr_call *c) {
    const kr_tensor *angle = &c->in[1 + ANGLE], *delta = &c->in[1 + DELTA];
    return (size_t)(angle->shape[0] * angle->shape[1] * delta->shape[1]) * sizeof(float);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    const kr_tensor *phi = c->n_in > INS ? &c->in[0] : &c->out[0];
    *flops = 5 * (double)kr_tensor_count(phi);
    *bytes = (double)kr_tensor_bytes(phi);
}

static const struct {
    const char *name;
    int64_t M, H, S, n;
    bool reset, state;
} table[] = {{"T=1", 1, 1, 1, 1, false, true},
             {"T=63 with reset", 63, 3, 17, 1, true, true},
             {"ragged, reset", 100, 5, 8, 7, true, true},
             {"steps", 9, 4, 32, 9, false, true},
             {"no state", 40, 2, 3, 3, true, false},
             {"long, reset", 600, 4, 9, 2, true, true},
             {"far", 5, 2, 6, 2, true, true},
             {"more sequences than a grid is high", 66000, 1, 2, 65800, true, true}};

static bool inputs(int index, kr_case *k, int first) {
    if (index >= (int)(sizeof table / sizeof *table)) return false;
    int64_t M = table[index].M, H = table[index].H, S = table[index].S, n = table[index].n;
    k->name = table[index].name;
    k->tokens = M;
    k->tolerance = 1e-5;
    kr_case_normal(k, first + ANGLE, 2, (int64_t[]){M, S});
    kr_case_in(k, first + DELTA, KR_F32, 2, (int64_t[]){M, H}, KR_FILL_UNIFORM, 0, 1);
    kr_case_in(k, first + SEQS, KR_I64, 2, (int64_t[]){n, 3}, KR_FILL_SEQS, 0, 0);
    kr_case_in(k, first + RESET, KR_U8, 1, &M, KR_FILL_RESET, 0.1, 0);
    kr_case_normal(k, first + STATE, 3, (int64_t[]){n, H, S});
    if (!table[index].reset) kr_case_without(k, first + RESET);
    if (!table[index].state) kr_case_without(k, first + STATE);
    k->large = index == 7;
    return true;
}

static bool forward_cases(int index, kr_case *k) {
    if (!inputs(index, k, 0)) return false;
    k->n_out = table[index].state ? 2 : 1;
    if (table[index].state) k->out[1] = kr_tensor_make(NULL, KR_F32, 3, k->in[STATE].shape);
    if (index == 6) kr_case_far(k);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    if (!inputs(index, k, 1)) return false;
    kr_case_normal(k, 0, 2, (int64_t[]){table[index].M, table[index].H * table[index].S});
    kr_case_normal(k, 1 + INS, 3, k->in[1 + STATE].shape);
    if (!table[index].state) kr_case_without(k, 1 + INS);
    k->n_out = table[index].state ? 3 : 2;
    if (index == 6) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_phase);
KR_DECLARE_KERNEL(kr_phase_grad);

const kr_op kr_op_phase = {
    .name = "phase",
    .shape = forward_shape,
    .grad = forward_grad,
    .scratch = forward_scratch,
    .cost = cost,
    .cases = forward_cases,
    .n_in = INS,
    .n_out = 2,
    .no_accumulate = 3,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_phase),
};

const kr_op kr_op_phase_grad = {
    .name = "phase_grad",
    .shape = backward_shape,
    .scratch = backward_scratch,
    .cost = cost,
    .cases = backward_cases,
    .n_in = INS + 2,
    .n_out = 3,
    .scratch_cuda = scratch_cuda,
    .half_in = 7,
    .kernel = KR_KERNELS_GPU(kr_phase_grad),
};
