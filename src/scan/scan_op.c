/* scan_op.c - shape and gradient rules of the recurrence; scan.h has the equations, scan_ref.c the
 * specification. */
#include "scan/scan_op.h"

#include "base/err.h"
#include "ops/case.h"
#include "scan/scan_case.h"
#include "scan/scan_gpu.h"
#include "scan/scan_plan.h"

/* Inputs that are bf16 in the half form where they vary in time; y and the gradients of these are
 * bf16 then. */
#define HALF_IN                                                                                    \
    (1u << KR_SCAN_X | 1u << KR_SCAN_DT | 1u << KR_SCAN_A | 1u << KR_SCAN_B | 1u << KR_SCAN_C |    \
     1u << KR_SCAN_Z | 1u << KR_SCAN_GAIN | 1u << KR_SCAN_DY)

static const char *const names[KR_SCAN_GRAD_INS] = {"x",    "dt",    "A",        "b",
                                                    "c",    "D",     "z",        "dt_bias",
                                                    "seqs", "reset", "state_in", "index",
                                                    "gain", "dy",    "dstate"};

/* What input i must be: rows x cols, or cols numbers when constant in time; cols 0: the member does
 * not take it. */
typedef struct want {
    int64_t cols;
    bool constant, needed;
} want;

static want input_want(const krait_scan_desc *d, int i) {
    bool dt = kr_scan_uses_dt(d), decay = d->decay != KRAIT_DECAY_NONE;
    int64_t lanes = kr_scan_lanes(d);
    switch (i) {
    case KR_SCAN_X: return (want){d->inputs * lanes, false, true};
    case KR_SCAN_DT: return (want){dt ? kr_scan_dt_cols(d) : 0, d->dt_constant, dt};
    case KR_SCAN_A: return (want){kr_scan_a_cols(d), d->a_constant, decay};
    case KR_SCAN_B: return (want){kr_scan_b_cols(d), d->b_constant, !d->complex_lanes};
    case KR_SCAN_C: return (want){kr_scan_c_cols(d), d->c_constant, !d->complex_lanes};
    case KR_SCAN_D: return (want){d->reads <= d->inputs ? kr_scan_d_cols(d) : 0, true, false};
    case KR_SCAN_Z: return (want){d->reads * lanes, false, false};
    case KR_SCAN_BIAS: return (want){dt ? kr_scan_dt_cols(d) : 0, true, false};
    case KR_SCAN_GAIN:
        return (want){d->gain == KRAIT_GAIN_GIVEN ? d->inputs * d->heads : 0, false,
                      d->gain == KRAIT_GAIN_GIVEN};
    case KR_SCAN_DY: return (want){d->reads * lanes, false, false};
    default: return (want){0, false, false};
    }
}

int64_t kr_scan_input_cols(const krait_scan_desc *d, int input, bool *constant) {
    want w = input_want(d, input);
    *constant = w.constant;
    return w.cols;
}

static bool given(const kr_call *c, int i) { return i < c->n_in && c->in[i].data; }

/* Of what stays wide in the half form: what is constant in time, and states. */
static kr_dtype wide_type(const kr_call *c) {
    kr_dtype x = c->in[KR_SCAN_X].dtype;
    return x == KR_BF16 ? KR_F32 : x;
}

static int input_type(const kr_call *c, int i, bool constant, krait_error *e) {
    const kr_tensor *t = &c->in[i];
    bool half = !constant && (HALF_IN >> i & 1);
    kr_dtype x = c->in[KR_SCAN_X].dtype, wanted = half ? x : wide_type(c);
    char text[96];
    if (t->dtype == wanted && (x == KR_F32 || x == KR_F64 || x == KR_BF16)) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "scan: %s must be %s (x f32, f64 or bf16), is %s", names[i],
                   kr_dtype_name(wanted), kr_tensor_describe(t, text));
}

static int float_input(const kr_call *c, int i, krait_error *e) {
    const krait_scan_desc *d = c->attr;
    const kr_tensor *t = &c->in[i];
    want w = input_want(d, i);
    char text[96];
    if (!given(c, i))
        return w.needed ? kr_fail(e, KRAIT_ERR_SHAPE, "scan: %s is missing", names[i]) : 0;
    if (!w.cols) return kr_fail(e, KRAIT_ERR_SHAPE, "scan: this member takes no %s", names[i]);
    KR_TRY(input_type(c, i, w.constant, e));
    if (w.constant) {
        if (kr_tensor_count(t) == w.cols && kr_tensor_contiguous(t)) return 0;
        return kr_fail(e, KRAIT_ERR_SHAPE, "scan: %s must be %lld contiguous numbers, is %s",
                       names[i], (long long)w.cols, kr_tensor_describe(t, text));
    }
    KR_TRY(kr_need_rank("scan", names[i], t, 2, e));
    KR_TRY(kr_need_dim("scan", names[i], t, 0, c->in[KR_SCAN_X].shape[0], e));
    return kr_need_dim("scan", names[i], t, 1, w.cols, e);
}

static int state_tensor(const kr_call *c, const kr_tensor *t, const char *name, krait_error *e) {
    const krait_scan_desc *d = c->attr;
    char text[96];
    int64_t want_count = t->shape[0] * kr_scan_lanes(d) * kr_scan_n(d);
    bool half = c->in[KR_SCAN_X].dtype == KR_BF16 && c->n_in <= KR_SCAN_INS; /* or may be */
    if (t->rank >= 2 && (t->dtype == wide_type(c) || (half && t->dtype == KR_BF16)) &&
        kr_tensor_contiguous(t) && kr_tensor_count(t) == want_count)
        return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "scan: %s must be contiguous [slots, %lld, %lld], is %s",
                   name, (long long)kr_scan_lanes(d), (long long)kr_scan_n(d),
                   kr_tensor_describe(t, text));
}

static int whole_input(const kr_call *c, int i, kr_dtype dtype, int rank, krait_error *e) {
    char text[96];
    const kr_tensor *t = &c->in[i];
    if (t->dtype == dtype && t->rank == rank) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "scan: %s must be %s with %d dimensions, is %s", names[i],
                   kr_dtype_name(dtype), rank, kr_tensor_describe(t, text));
}

static int check_inputs(const kr_call *c, krait_error *e) {
    const krait_scan_desc *d = c->attr;
    KR_TRY(krait_scan_check(d, e));
    for (int i = 0; i < KR_SCAN_GRAD_INS; i++)
        if (i < KR_SCAN_SEQS || i == KR_SCAN_GAIN || i == KR_SCAN_DY) KR_TRY(float_input(c, i, e));
    if (!given(c, KR_SCAN_SEQS)) return kr_fail(e, KRAIT_ERR_SHAPE, "scan: seqs is missing");
    KR_TRY(whole_input(c, KR_SCAN_SEQS, KR_I64, 2, e));
    KR_TRY(kr_need_dim("scan", "seqs", &c->in[KR_SCAN_SEQS], 1, 3, e));
    if (given(c, KR_SCAN_RESET)) {
        KR_TRY(whole_input(c, KR_SCAN_RESET, KR_U8, 1, e));
        KR_TRY(kr_need_dim("scan", "reset", &c->in[KR_SCAN_RESET], 0, c->in[0].shape[0], e));
    }
    if (given(c, KR_SCAN_STATE)) KR_TRY(state_tensor(c, &c->in[KR_SCAN_STATE], "state_in", e));
    if (given(c, KR_SCAN_DSTATE)) KR_TRY(state_tensor(c, &c->in[KR_SCAN_DSTATE], "dstate", e));
    if ((d->order == KRAIT_ORDER_INDEX) != given(c, KR_SCAN_INDEX))
        return kr_fail(e, KRAIT_ERR_SHAPE, "scan: index and order INDEX belong together");
    return d->order == KRAIT_ORDER_INDEX ? whole_input(c, KR_SCAN_INDEX, KR_I32, 1, e) : 0;
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const krait_scan_desc *d = c->attr;
    const kr_tensor *x = &c->in[KR_SCAN_X];
    KR_TRY(check_inputs(c, e));
    out[KR_SCAN_OUT_Y] =
        kr_tensor_make(NULL, x->dtype, 2, (int64_t[]){x->shape[0], d->reads * kr_scan_lanes(d)});
    out[KR_SCAN_OUT_Y].dim0 = x->dim0;
    out[KR_SCAN_OUT_STATE].rank = 0;
    const kr_tensor *state = &c->out[KR_SCAN_OUT_STATE];
    return c->n_out > KR_SCAN_OUT_STATE && state->rank ? state_tensor(c, state, "state_out", e) : 0;
}

/* Output i of scan_grad is the gradient of input grad_of[i]. */
static const int grad_of[KR_SCAN_GRAD_OUTS] = {KR_SCAN_X,     KR_SCAN_DT,  KR_SCAN_A, KR_SCAN_B,
                                               KR_SCAN_C,     KR_SCAN_D,   KR_SCAN_Z, KR_SCAN_BIAS,
                                               KR_SCAN_STATE, KR_SCAN_GAIN};

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check_inputs(c, e));
    for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++) {
        const kr_tensor *t = &c->in[grad_of[i]];
        out[i].rank = 0;
        if (!given(c, grad_of[i])) continue;
        out[i] = kr_tensor_make(NULL, t->dtype, t->rank, t->shape);
        out[i].dim0 = t->dim0;
    }
    const kr_tensor *x = &c->in[KR_SCAN_X];
    const krait_scan_desc *d = c->attr;
    out[KR_SCAN_Y_AGAIN] =
        kr_tensor_make(NULL, x->dtype, 2, (int64_t[]){x->shape[0], d->reads * kr_scan_lanes(d)});
    out[KR_SCAN_Y_AGAIN].dim0 = x->dim0;
    return 0;
}

/* Whether the backward pass reads the states that forward left in y: then x need not be kept. */
static bool reads_states(const kr_tape *t, const kr_node *n) {
    return kr_scan_y_is_states(kr_rule_attr(n)) && !kr_rule_in(n, KR_SCAN_D) &&
           !kr_rule_in(n, KR_SCAN_Z) && !kr_rule_on_gpu(t) &&
           kr_rule_kept(t, kr_rule_out(n, KR_SCAN_OUT_Y));
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *ins[KR_SCAN_GRAD_INS], *outs[KR_SCAN_BACK_OUTS] = {NULL};
    uint32_t accumulate = 0;
    bool states = reads_states(t, n);
    for (int i = 0; i < KR_SCAN_INS; i++) {
        kr_value *v = states && i == KR_SCAN_X ? kr_rule_out(n, KR_SCAN_OUT_Y) : kr_rule_in(n, i);
        ins[i] = v ? kr_rule_saved(t, v) : NULL;
    }
    ins[KR_SCAN_DY] = kr_rule_dout(t, n, KR_SCAN_OUT_Y);
    ins[KR_SCAN_DSTATE] = kr_rule_dout(t, n, KR_SCAN_OUT_STATE);
    if (!ins[KR_SCAN_DY] && !ins[KR_SCAN_DSTATE]) return;
    for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++) kr_rule_din(t, n, grad_of[i], outs, i, &accumulate);
    if (!states) outs[KR_SCAN_Y_AGAIN] = kr_rule_remade(t, n, KR_SCAN_OUT_Y);
    kr_rule_emit(t, states ? &kr_op_scan_states_grad : &kr_op_scan_grad, kr_rule_attr(n),
                 sizeof(krait_scan_desc), ins, KR_SCAN_GRAD_INS, outs,
                 states ? KR_SCAN_GRAD_OUTS : KR_SCAN_BACK_OUTS, accumulate);
}

static int states_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    if (!kr_scan_y_is_states(c->attr) || given(c, KR_SCAN_D) || given(c, KR_SCAN_Z))
        return kr_fail(e, KRAIT_ERR_SHAPE, "scan_states_grad: y of this member is not its states");
    return backward_shape(c, out, e);
}

void kr_scan_ref_plan(const krait_scan_desc *d, int64_t M, kr_scan_ref_layout *s) {
    bool matrix = d->decay == KRAIT_DECAY_MATRIX;
    int64_t at = 2 * (M + 2) * d->state + d->low_rank;
    for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++) {
        want w = input_want(d, grad_of[i]);
        bool own = i == KR_SCAN_DX || i == KR_SCAN_DZ ||
                   (matrix && !w.constant && (i == KR_SCAN_DDT || i == KR_SCAN_DA));
        s->rows[i] = own ? 0 : w.constant ? 1 : M;
        s->cols[i] = w.cols;
        s->at[i] = at;
        at += s->rows[i] * s->cols[i];
    }
    s->total = at;
}

static size_t forward_scratch(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    size_t ref = (size_t)(d->state * 2 + d->low_rank) * sizeof(double);
    size_t vec = kr_scan_vec_scratch(c, false) * sizeof(float);
    return ref > vec ? ref : vec;
}

static size_t backward_scratch(const kr_call *c) {
    kr_scan_ref_layout s;
    kr_scan_ref_plan(c->attr, c->in[KR_SCAN_X].shape[0], &s);
    size_t ref = (size_t)s.total * sizeof(double);
    size_t vec = kr_scan_vec_scratch(c, true) * sizeof(float);
    return ref > vec ? ref : vec;
}

static size_t states_scratch(const kr_call *c) {
    return (size_t)kr_scan_complex_sums(c->attr) * sizeof(float);
}

/* Updates of one state: decay (exp, multiply), input (multiply-add), read (multiply-add); bytes of
 * the rows. */
static void cost(const kr_call *c, double work, double *flops, double *bytes) {
    const krait_scan_desc *d = c->attr;
    double updates = (double)c->in[0].shape[0] * (double)kr_scan_lanes(d) * (double)d->state;
    *flops = work * updates * (d->complex_state ? 4 : 1);
    *bytes = kr_call_bytes(c);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    cost(c, 6, flops, bytes);
}
static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    cost(c, 18, flops, bytes);
}
static void states_cost(const kr_call *c, double *flops, double *bytes) {
    cost(c, 4, flops, bytes);
}

KR_DECLARE_KERNEL(kr_scan);
KR_DECLARE_KERNEL(kr_scan_grad);
KR_DECLARE_KERNEL(kr_scan_states_grad);

const kr_op kr_op_scan = {
    .name = "scan",
    .shape = forward_shape,
    .grad = forward_grad,
    .scratch = forward_scratch,
    .scratch_cuda = kr_scan_gpu_scratch,
    .check_cuda = kr_scan_gpu_check,
    .cost = forward_cost,
    .cases = kr_scan_cases,
    .n_in = KR_SCAN_INS,
    .n_out = KR_SCAN_OUTS,
    .no_accumulate = 1 << KR_SCAN_OUT_STATE,
    .half_in = HALF_IN | 1u << KR_SCAN_STATE, /* states may be */
    .kernel = KR_KERNELS_GPU(kr_scan),
};

const kr_op kr_op_scan_grad = {
    .name = "scan_grad",
    .shape = backward_shape,
    .scratch = backward_scratch,
    .scratch_cuda = kr_scan_gpu_scratch_grad,
    .check_cuda = kr_scan_gpu_check,
    .cost = backward_cost,
    .cases = kr_scan_grad_cases,
    .n_in = KR_SCAN_GRAD_INS,
    .n_out = KR_SCAN_BACK_OUTS,
    .no_accumulate = 1 << KR_SCAN_Y_AGAIN,
    .half_in = HALF_IN,
    .kernel = KR_KERNELS_GPU(kr_scan_grad),
};

const kr_op kr_op_scan_states_grad = {
    .name = "scan_states_grad",
    .shape = states_shape,
    .scratch = states_scratch,
    .cost = states_cost,
    .cases = kr_scan_states_grad_cases,
    .n_in = KR_SCAN_GRAD_INS,
    .n_out = KR_SCAN_GRAD_OUTS,
    .kernel = KR_KERNELS(kr_scan_states_grad),
};
