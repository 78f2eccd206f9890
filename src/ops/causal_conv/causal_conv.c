/* causal_conv.c - rules of the causal convolution; causal_conv.h has the contract. */
#include "ops/causal_conv/causal_conv.h"

#include "base/err.h"
#include "ops/case.h"

/* The arguments that forward and backward share: in[0..] = x weight bias seqs reset state_in. */
static int need_inputs(const char *op, const kr_tensor *in, krait_error *e) {
    const kr_tensor *x = &in[0], *weight = &in[1], *bias = &in[2], *seqs = &in[3];
    KR_TRY(kr_need_rank(op, "x", x, 2, e));
    KR_TRY(kr_need_rank(op, "weight", weight, 3, e));
    KR_TRY(kr_need_dim(op, "weight", weight, 0, x->shape[1], e));
    KR_TRY(kr_need_dim(op, "weight", weight, 1, 1, e));
    if (weight->shape[2] < 1)
        return kr_fail(e, KRAIT_ERR_SHAPE, "%s: weight must have at least one tap", op);
    if (bias->data) KR_TRY(kr_need_dim(op, "bias", bias, 0, x->shape[1], e));
    KR_TRY(kr_need_rank(op, "seqs", seqs, 2, e));
    KR_TRY(kr_need_dim(op, "seqs", seqs, 1, 3, e));
    KR_TRY(kr_need_type(op, "seqs", seqs, KR_I64, e));
    if (in[4].data) KR_TRY(kr_need_dim(op, "reset", &in[4], 0, x->shape[0], e));
    return 0;
}

/* state [slots,K-1,E] */
static int need_state(const char *op, const char *arg, const kr_tensor *state, const kr_tensor *x,
                      const kr_tensor *weight, krait_error *e) {
    KR_TRY(kr_need_rank(op, arg, state, 3, e));
    KR_TRY(kr_need_dim(op, arg, state, 1, weight->shape[2] - 1, e));
    return kr_need_dim(op, arg, state, 2, x->shape[1], e);
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0], *weight = &c->in[1];
    KR_TRY(need_inputs("causal_conv", c->in, e));
    if (c->in[5].data) KR_TRY(need_state("causal_conv", "state_in", &c->in[5], x, weight, e));
    if (c->out[1].rank) KR_TRY(need_state("causal_conv", "state_out", &c->out[1], x, weight, e));
    out[0] = kr_out_like(x);
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const char *op = "causal_conv_grad";
    const kr_tensor *dy = &c->in[0], *x = &c->in[1], *weight = &c->in[2];
    KR_TRY(need_inputs(op, &c->in[1], e));
    if (dy->data) KR_TRY(kr_need_dim(op, "dy", dy, 0, x->shape[0], e));
    if (dy->data) KR_TRY(kr_need_dim(op, "dy", dy, 1, x->shape[1], e));
    if (c->in[6].data) KR_TRY(need_state(op, "state_in", &c->in[6], x, weight, e));
    if (c->in[7].data) KR_TRY(need_state(op, "dstate_out", &c->in[7], x, weight, e));
    out[0] = kr_out_like(x);
    out[1] = kr_out_like(weight);
    out[2] = kr_tensor_make(NULL, weight->dtype, 1, &x->shape[1]);
    if (c->in[6].data) out[3] = kr_out_like(&c->in[6]);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *dy = kr_rule_dout(t, n, 0), *dstate = kr_rule_dout(t, n, 1), *outs[4] = {NULL};
    uint32_t accumulate = 0;
    if (!dy && !dstate) return;
    static const int input_of[4] = {0, 1, 2, 5}; /* x weight bias state_in */
    for (int i = 0; i < 4; i++) kr_rule_din(t, n, input_of[i], outs, i, &accumulate);
    kr_value *ins[8] = {dy};
    for (int i = 0; i < 6; i++)
        ins[i + 1] = kr_rule_in(n, i) ? kr_rule_saved(t, kr_rule_in(n, i)) : NULL;
    ins[7] = dstate;
    kr_rule_emit(t, &kr_op_causal_conv_grad, kr_rule_attr(n), sizeof(kr_causal_conv_attr), ins, 8,
                 outs, 4, accumulate);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    double elements = (double)kr_tensor_count(&c->in[0]);
    double slots = (double)c->in[3].shape[0] * (double)(c->in[1].shape[2] - 1);
    double states = (c->in[5].data ? 1 : 0) + (c->out[1].data ? 1 : 0);
    *flops = elements * (2 * (double)c->in[1].shape[2] + 20);
    *bytes =
        2 * (double)kr_tensor_bytes(&c->in[0]) + 4 * states * slots * (double)c->in[0].shape[1];
}

static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    double elements = (double)kr_tensor_count(&c->in[1]);
    *flops = elements * (6 * (double)c->in[2].shape[2] + 25);
    *bytes = 3 * (double)kr_tensor_bytes(&c->in[1]);
}

/* The backward kernels' sums over tokens and one row of gradients: K + 2 rows of E. */
static size_t backward_scratch(const kr_call *c) {
    const kr_tensor *weight = &c->in[2];
    return (size_t)(weight->shape[2] + 2) * (size_t)weight->shape[0] * sizeof(float);
}

static size_t backward_scratch_cuda(const kr_call *c) {
    const kr_tensor *x = &c->in[1], *weight = &c->in[2];
    return (size_t)kr_causal_conv_most_parts(x->shape[0], x->shape[1]) *
           (size_t)(weight->shape[2] + 1) * (size_t)x->shape[1] * sizeof(float);
}

static const kr_causal_conv_attr with_silu = {.silu = 1, .early = 1}, without_silu = {0};

static const char far[] = "offsets past 2^31", silent[] = "nothing uses y";

/* M, E, K, S; reset, states, bias, silu. More sequences than tokens leave empty ones. */
static const struct {
    const char *name;
    int64_t m, e, k, s;
    bool reset, state, bias, silu;
} list[] = {
    {"T=1", 1, 17, 4, 1, false, true, true, true},
    {"T=1, stateless", 1, 1, 4, 1, false, false, true, true},
    {"T=63 with reset", 63, 33, 4, 1, true, true, true, true},
    {"T=100 ragged, reset", 100, 16, 4, 7, true, true, true, true},
    {"32 steps of one token", 32, 100, 4, 32, false, true, true, true},
    {"stateless, no silu", 64, 48, 4, 3, false, false, true, false},
    {"no bias", 37, 19, 4, 5, true, true, false, true},
    {"K=1", 20, 17, 1, 3, true, false, true, true},
    {"K=2", 41, 20, 2, 4, true, true, true, true},
    {"K=3", 41, 5, 3, 2, true, true, true, false},
    {"K=7 longer than its sequences", 20, 18, 7, 9, true, true, true, true},
    {"long runs", 2500, 24, 4, 3, true, true, true, true},
    {silent, 9, 18, 4, 2, true, true, true, true},
    {far, 21, 17, 4, 2, true, true, true, true},
    {far, 21, 17, 3, 2, true, true, true, true},
};

static bool cases_of(int index, kr_case *k, int first) {
    if (index >= (int)(sizeof list / sizeof *list)) return false;
    int64_t m = list[index].m, e = list[index].e, taps = list[index].k, s = list[index].s;
    int64_t seqs[2] = {s, 3}, x[2] = {m, e}, weight[3] = {e, 1, taps}, state[3] = {s, taps - 1, e};
    k->name = list[index].name;
    k->tokens = m;
    kr_case_normal(k, first, 2, x);
    kr_case_normal(k, first + 1, 3, weight);
    kr_case_normal(k, first + 2, 1, &e);
    kr_case_in(k, first + 3, KR_I64, 2, seqs, KR_FILL_SEQS, 0, 0);
    kr_case_in(k, first + 4, KR_U8, 1, &m, KR_FILL_RESET, 0.1, 0);
    kr_case_normal(k, first + 5, 3, state);
    if (!list[index].bias) kr_case_without(k, first + 2);
    if (!list[index].reset) kr_case_without(k, first + 4);
    if (!list[index].state) kr_case_without(k, first + 5);
    k->attr = list[index].silu ? &with_silu : &without_silu;
    k->attr_size = sizeof(kr_causal_conv_attr);
    return true;
}

static bool forward_cases(int index, kr_case *k) {
    if (!cases_of(index, k, 0)) return false;
    k->n_out = 2;
    k->out[1] = k->in[5];
    k->out_absent[1] = !list[index].state;
    if (list[index].name == far) kr_case_far(k);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    if (!cases_of(index, k, 1)) return false;
    kr_case_normal(k, 0, 2, k->in[1].shape);
    kr_case_normal(k, 7, 3, k->in[6].shape);
    if (!list[index].state) kr_case_without(k, 7);
    if (list[index].name == silent) kr_case_without(k, 0);
    k->n_out = 4;
    k->out_absent[2] = !list[index].bias;
    k->out_absent[3] = !list[index].state;
    if (list[index].name == far) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_causal_conv);
KR_DECLARE_KERNEL(kr_causal_conv_grad);

static int check_taps(const kr_tensor *weight, krait_error *e) {
    if (weight->shape[2] <= KR_CAUSAL_CONV_GPU_TAPS) return 0;
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "causal_conv: a kernel of %lld taps; on the GPU there are none of more than %d: "
                   "use --device cpu",
                   (long long)weight->shape[2], KR_CAUSAL_CONV_GPU_TAPS);
}

static int forward_check(const kr_call *c, krait_error *e) { return check_taps(&c->in[1], e); }
static int backward_check(const kr_call *c, krait_error *e) { return check_taps(&c->in[2], e); }

const kr_op kr_op_causal_conv = {
    .name = "causal_conv",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = forward_cost,
    .cases = forward_cases,
    .n_in = 6,
    .n_out = 2,
    .no_accumulate = 3,
    .half_in = 1,
    .check_cuda = forward_check,
    .kernel = KR_KERNELS_GPU(kr_causal_conv),
};

const kr_op kr_op_causal_conv_grad = {
    .name = "causal_conv_grad",
    .shape = backward_shape,
    .scratch = backward_scratch,
    .scratch_cuda = backward_scratch_cuda,
    .cost = backward_cost,
    .cases = backward_cases,
    .n_in = 8,
    .n_out = 4,
    .half_in = 3,
    .check_cuda = backward_check,
    .kernel = KR_KERNELS_GPU(kr_causal_conv_grad),
};
