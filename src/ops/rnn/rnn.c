/* rnn.c - rules of the nonlinear recurrences; rnn.h has the contract. */
#include "ops/rnn/rnn.h"

#include "base/err.h"
#include "ops/case.h"

static kr_rnn_cell cell_of(const kr_call *c) { return ((const kr_rnn_attr *)c->attr)->cell; }

static bool given(const kr_call *c, int i) { return i < c->n_in && c->in[i].data; }

/* x and what lies like it are bf16 in the half form; the rest is f32 then. */
static kr_dtype wide_type(const kr_call *c) {
    return c->in[KR_RNN_X].dtype == KR_BF16 ? KR_F32 : c->in[KR_RNN_X].dtype;
}

static int need(const char *arg, const kr_tensor *t, kr_dtype type, int64_t rows, int64_t columns,
                krait_error *e) {
    char text[96];
    int rank = columns < 0 ? 1 : 2;
    KR_TRY(kr_need_rank("rnn", arg, t, rank, e));
    KR_TRY(kr_need_dim("rnn", arg, t, 0, rows, e));
    if (rank == 2) KR_TRY(kr_need_dim("rnn", arg, t, 1, columns, e));
    if (t->dtype == type) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "rnn: %s must be %s, is %s", arg, kr_dtype_name(type),
                   kr_tensor_describe(t, text));
}

static int check_state(const kr_call *c, const kr_tensor *t, const char *arg, int64_t H,
                       krait_error *e) {
    char text[96];
    int64_t count = t->shape[0] * kr_rnn_states(cell_of(c)) * H;
    if (t->rank >= 2 && t->dtype == wide_type(c) && kr_tensor_contiguous(t) &&
        kr_tensor_count(t) == count)
        return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "rnn: %s must be contiguous [slots, %d, %lld], is %s", arg,
                   kr_rnn_states(cell_of(c)), (long long)H, kr_tensor_describe(t, text));
}

static int check_inputs(const kr_call *c, krait_error *e) {
    if (!c->attr || (unsigned)cell_of(c) > KR_RNN_GRU)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "rnn: no such cell");
    const kr_tensor *x = &c->in[KR_RNN_X], *w = &c->in[KR_RNN_W];
    KR_TRY(kr_need_rank("rnn", "x", x, 2, e));
    KR_TRY(kr_need_rank("rnn", "w", w, 2, e));
    int64_t H = w->shape[1], columns = kr_rnn_gates(cell_of(c)) * H;
    KR_TRY(kr_need_dim("rnn", "x", x, 1, columns, e));
    KR_TRY(need("w", w, wide_type(c), columns, H, e));
    if (given(c, KR_RNN_BIAS))
        KR_TRY(need("bias", &c->in[KR_RNN_BIAS], wide_type(c), columns, -1, e));
    KR_TRY(need("seqs", &c->in[KR_RNN_SEQS], KR_I64, c->in[KR_RNN_SEQS].shape[0], 3, e));
    if (given(c, KR_RNN_RESET))
        KR_TRY(need("reset", &c->in[KR_RNN_RESET], KR_U8, x->shape[0], -1, e));
    if (!given(c, KR_RNN_STATE)) return 0;
    return check_state(c, &c->in[KR_RNN_STATE], "state_in", H, e);
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check_inputs(c, e));
    const kr_tensor *x = &c->in[KR_RNN_X];
    int64_t H = c->in[KR_RNN_W].shape[1];
    out[KR_RNN_Y] = kr_tensor_make(NULL, x->dtype, 2, (int64_t[]){x->shape[0], H});
    out[KR_RNN_Y].dim0 = x->dim0;
    out[KR_RNN_STATE_OUT].rank = out[KR_RNN_GATES].rank = out[KR_RNN_MEMORY].rank = 0;
    if (kr_rnn_keeps(cell_of(c)) && c->n_out > KR_RNN_MEMORY) {
        out[KR_RNN_GATES] = kr_out_like(x);
        out[KR_RNN_MEMORY] = out[KR_RNN_Y];
        out[KR_RNN_GATES].dtype = out[KR_RNN_MEMORY].dtype = wide_type(c);
    }
    const kr_tensor *state = &c->out[KR_RNN_STATE_OUT];
    return c->n_out > KR_RNN_STATE_OUT && state->rank ? check_state(c, state, "state_out", H, e)
                                                      : 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check_inputs(c, e));
    static const int of[] = {KR_RNN_X, KR_RNN_W, KR_RNN_BIAS, KR_RNN_STATE};
    int64_t M = c->in[KR_RNN_X].shape[0], H = c->in[KR_RNN_W].shape[1];
    kr_dtype x = c->in[KR_RNN_X].dtype;
    KR_TRY(need("y", &c->in[KR_RNN_IN_Y], x, M, H, e));
    if (given(c, KR_RNN_DY)) KR_TRY(need("dy", &c->in[KR_RNN_DY], x, M, H, e));
    if (given(c, KR_RNN_DSTATE)) KR_TRY(check_state(c, &c->in[KR_RNN_DSTATE], "dstate", H, e));
    if (kr_rnn_keeps(cell_of(c))) {
        KR_TRY(need("gates", &c->in[KR_RNN_IN_GATES], wide_type(c), M, c->in[0].shape[1], e));
        KR_TRY(need("cell", &c->in[KR_RNN_IN_MEMORY], wide_type(c), M, H, e));
    }
    for (int i = 0; i < KR_RNN_GRAD_OUTS; i++) {
        out[i].rank = 0;
        if (given(c, of[i])) out[i] = kr_out_like(&c->in[of[i]]);
    }
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    static const int of[] = {KR_RNN_X, KR_RNN_W, KR_RNN_BIAS, KR_RNN_STATE};
    static const int kept[] = {KR_RNN_Y, KR_RNN_GATES, KR_RNN_MEMORY};
    kr_value *ins[KR_RNN_GRAD_INS] = {NULL}, *outs[KR_RNN_GRAD_OUTS] = {NULL};
    uint32_t accumulate = 0;
    ins[KR_RNN_DY] = kr_rule_dout(t, n, KR_RNN_Y);
    ins[KR_RNN_DSTATE] = kr_rule_dout(t, n, KR_RNN_STATE_OUT);
    if (!ins[KR_RNN_DY] && !ins[KR_RNN_DSTATE]) return;
    for (int i = 0; i < KR_RNN_INS; i++) {
        kr_value *v = kr_rule_in(n, i);
        ins[i] = v ? kr_rule_saved(t, v) : NULL;
    }
    for (int i = 0; i < 3; i++) {
        kr_value *v = kr_rule_out(n, kept[i]);
        ins[KR_RNN_IN_Y + i] = v ? kr_rule_saved(t, v) : NULL;
    }
    for (int i = 0; i < KR_RNN_GRAD_OUTS; i++) kr_rule_din(t, n, of[i], outs, i, &accumulate);
    kr_rule_emit(t, &kr_op_rnn_grad, kr_rule_attr(n), sizeof(kr_rnn_attr), ins, KR_RNN_GRAD_INS,
                 outs, KR_RNN_GRAD_OUTS, accumulate);
}

/* ---- sizes ---- */

static size_t forward_scratch(const kr_call *c) {
    int64_t H = c->in[KR_RNN_W].shape[1], G = kr_rnn_gates(cell_of(c));
    size_t ref = (size_t)((3 + G) * H) * sizeof(double);
    size_t vec = (size_t)(H * kr_rnn_line(G * H) + c->in[KR_RNN_SEQS].shape[0] * kr_rnn_own(H, G)) *
                 sizeof(float);
    return ref > vec ? ref : vec;
}

static size_t backward_scratch(const kr_call *c) {
    int64_t H = c->in[KR_RNN_W].shape[1], G = kr_rnn_gates(cell_of(c)), M = c->in[0].shape[0];
    int64_t S = c->in[KR_RNN_SEQS].shape[0];
    size_t ref = (size_t)((3 + G) * H + G * H * (H + 1)) * sizeof(double);
    size_t vec = (size_t)(S * kr_rnn_own(H, G) + kr_rnn_line(M * G * H) + kr_rnn_line(M * H)) *
                 sizeof(float);
    return ref > vec ? ref : vec;
}

static size_t forward_scratch_cuda(const kr_call *c) { /* W transposed */
    return (size_t)kr_tensor_count(&c->in[KR_RNN_W]) * sizeof(float);
}

static size_t backward_scratch_cuda(const kr_call *c) { /* gates' gradients, states before, parts */
    int64_t H = c->in[KR_RNN_W].shape[1], GH = c->in[KR_RNN_W].shape[0], M = c->in[0].shape[0];
    return (size_t)(M * (GH + H) + KR_RNN_CUDA_PARTS * GH) * sizeof(float);
}

#if defined(KR_CUDA)
/* Numbers of h that the shared memory of the GPU that was opened has room for (rnn.cu). */
int64_t kr_rnn_cuda_most(kr_rnn_cell cell, bool backward);
#endif

static int check_cuda(const kr_call *c, krait_error *e) {
    int64_t H = c->in[KR_RNN_W].shape[1], most = KR_RNN_CUDA_MOST;
#if defined(KR_CUDA)
    most = kr_rnn_cuda_most(cell_of(c), c->n_in > KR_RNN_INS);
#endif
    if (H <= most) return 0;
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "rnn: on this GPU h has at most %lld numbers%s, here it has %lld",
                   (long long)most, c->n_in > KR_RNN_INS ? " in training" : "", (long long)H);
}

static void cost(const kr_call *c, double times, double *flops, double *bytes) {
    double M = (double)c->in[0].shape[0], w = (double)kr_tensor_count(&c->in[KR_RNN_W]);
    *flops = times * M * w;
    *bytes = kr_call_bytes(c);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    cost(c, 2, flops, bytes);
}
static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    cost(c, 4, flops, bytes);
}

/* ---- cases ---- */

enum { BIAS = 1, RESET = 2, STATE = 4, ALL = 7, FAR = 8 };

static const struct {
    const char *name;
    kr_rnn_attr attr;
    int64_t M, S, H;
    unsigned with;
} table[] = {
    {"tanh T=1", {KR_RNN_TANH}, 1, 1, 17, ALL},
    {"tanh ragged", {KR_RNN_TANH}, 63, 5, 33, ALL},
    {"relu, bare", {KR_RNN_RELU}, 40, 2, 5, 0},
    {"lstm T=1 of 7", {KR_RNN_LSTM}, 7, 7, 20, ALL & ~RESET},
    {"lstm ragged", {KR_RNN_LSTM}, 100, 9, 17, ALL},
    {"lstm one sequence", {KR_RNN_LSTM}, 63, 1, 40, STATE | BIAS},
    {"lstm more sequences than rows", {KR_RNN_LSTM}, 2, 4, 6, ALL},
    {"lstm, far rows", {KR_RNN_LSTM}, 7, 2, 9, ALL | FAR},
    {"gru ragged", {KR_RNN_GRU}, 100, 4, 33, ALL},
    {"gru, no state", {KR_RNN_GRU}, 63, 3, 16, BIAS | RESET},
    {"gru T=1 of 5, no bias", {KR_RNN_GRU}, 5, 5, 24, STATE},
};

static void fill(kr_case *k, int i, kr_tensor t, kr_fill kind, double a, double b) {
    k->in[i] = t;
    k->fill[i].kind = kind;
    k->fill[i].a = a;
    k->fill[i].b = b;
}

static kr_tensor matrix(int64_t rows, int64_t columns) {
    return kr_tensor_make(NULL, KR_F32, 2, (int64_t[]){rows, columns});
}

static bool inputs(int index, kr_case *k, int n_in) {
    if (index >= (int)(sizeof table / sizeof *table)) return false;
    int64_t M = table[index].M, S = table[index].S, H = table[index].H;
    int64_t G = kr_rnn_gates(table[index].attr.cell), K = kr_rnn_states(table[index].attr.cell);
    unsigned with = table[index].with;
    k->name = table[index].name;
    k->n_in = n_in;
    k->tokens = M;
    k->attr = &table[index].attr;
    k->attr_size = sizeof table[index].attr;
    k->tolerance = 1e-5;
    for (int i = 0; i < n_in; i++) k->fill[i].kind = KR_FILL_ABSENT;
    fill(k, KR_RNN_X, matrix(M, G * H), KR_FILL_NORMAL, 1, 0);
    fill(k, KR_RNN_W, matrix(G * H, H), KR_FILL_UNIFORM, -0.2, 0.2);
    kr_tensor bias = kr_tensor_make(NULL, KR_F32, 1, (int64_t[]){G * H});
    if (with & BIAS) fill(k, KR_RNN_BIAS, bias, KR_FILL_NORMAL, 0.3, 0);
    fill(k, KR_RNN_SEQS, kr_tensor_make(NULL, KR_I64, 2, (int64_t[]){S, 3}), KR_FILL_SEQS, 0, 0);
    if (with & RESET)
        fill(k, KR_RNN_RESET, kr_tensor_make(NULL, KR_U8, 1, &M), KR_FILL_RESET, 0.1, 0);
    kr_tensor state = kr_tensor_make(NULL, KR_F32, 3, (int64_t[]){S, K, H});
    if (with & STATE) fill(k, KR_RNN_STATE, state, KR_FILL_UNIFORM, -0.9, 0.9);
    return true;
}

static bool forward_cases(int index, kr_case *k) {
    if (!inputs(index, k, KR_RNN_INS)) return false;
    if (table[index].with & FAR) kr_case_far(k);
    k->n_out = KR_RNN_OUTS;
    k->out_absent[KR_RNN_STATE_OUT] = !(table[index].with & STATE);
    k->out[KR_RNN_STATE_OUT] = k->in[KR_RNN_STATE];
    k->out_absent[KR_RNN_GATES] = k->out_absent[KR_RNN_MEMORY] =
        !kr_rnn_keeps(table[index].attr.cell);
    return true;
}

/* Gates behind a sigmoid, and those behind a tanh that a fresh u in (0,1) is too. */
static bool backward_cases(int index, kr_case *k) {
    static const int of[] = {KR_RNN_X, KR_RNN_W, KR_RNN_BIAS, KR_RNN_STATE};
    if (!inputs(index, k, KR_RNN_GRAD_INS)) return false;
    int64_t M = table[index].M, H = table[index].H;
    int64_t G = kr_rnn_gates(table[index].attr.cell);
    fill(k, KR_RNN_IN_Y, matrix(M, H), KR_FILL_UNIFORM, -0.9, 0.9);
    fill(k, KR_RNN_DY, matrix(M, H), KR_FILL_NORMAL, 1, 0);
    if (kr_rnn_keeps(table[index].attr.cell)) {
        fill(k, KR_RNN_IN_GATES, matrix(M, G * H), KR_FILL_UNIFORM, 0.1, 0.9);
        fill(k, KR_RNN_IN_MEMORY, matrix(M, H), KR_FILL_UNIFORM, -0.9, 0.9);
    }
    if (table[index].with & STATE)
        fill(k, KR_RNN_DSTATE, k->in[KR_RNN_STATE], KR_FILL_NORMAL, 1, 0);
    if (table[index].with & FAR) kr_case_far(k);
    k->n_out = KR_RNN_GRAD_OUTS;
    for (int i = 0; i < KR_RNN_GRAD_OUTS; i++)
        k->out_absent[i] = k->fill[of[i]].kind == KR_FILL_ABSENT;
    return true;
}

KR_DECLARE_KERNEL(kr_rnn);
KR_DECLARE_KERNEL(kr_rnn_grad);

#define HALF_IN (1u << KR_RNN_X | 1u << KR_RNN_IN_Y | 1u << KR_RNN_DY)

const kr_op kr_op_rnn = {
    .name = "rnn",
    .shape = forward_shape,
    .grad = forward_grad,
    .scratch = forward_scratch,
    .scratch_cuda = forward_scratch_cuda,
    .check_cuda = check_cuda,
    .cost = forward_cost,
    .cases = forward_cases,
    .n_in = KR_RNN_INS,
    .n_out = KR_RNN_OUTS,
    .no_accumulate = 1 << KR_RNN_STATE_OUT | 1 << KR_RNN_GATES | 1 << KR_RNN_MEMORY,
    .half_in = 1u << KR_RNN_X,
    .kernel = KR_KERNELS_GPU(kr_rnn),
};

const kr_op kr_op_rnn_grad = {
    .name = "rnn_grad",
    .shape = backward_shape,
    .scratch = backward_scratch,
    .scratch_cuda = backward_scratch_cuda,
    .check_cuda = check_cuda,
    .cost = backward_cost,
    .cases = backward_cases,
    .n_in = KR_RNN_GRAD_INS,
    .n_out = KR_RNN_GRAD_OUTS,
    .half_in = HALF_IN,
    .kernel = KR_KERNELS_GPU(kr_rnn_grad),
};
