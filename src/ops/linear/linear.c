/* linear.c - shape and gradient rules of matrix products; linear.h has the equations. */
#include "ops/linear/linear.h"

#include "base/err.h"
#include "ops/row_sums.h"

static bool is_half(const kr_tensor *t) { return t->dtype == KR_BF16 || t->dtype == KR_F16; }

static bool is_rows(const kr_tensor *t) {
    return t->dtype == KR_F32 || t->dtype == KR_F64 || t->dtype == KR_BF16;
}

static int need_type(const char *op, const char *arg, const kr_tensor *t, bool good,
                     krait_error *e) {
    if (good) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: %s cannot be %s", op, arg, kr_dtype_name(t->dtype));
}

/* rows [M, W] of f32 or f64 beside a weight [N, K] of that type, or of a half beside f32; beside
 * rows of bf16 the weight is f32 or a half. */
static int check_operands(const char *op, const char *arg, const kr_tensor *rows,
                          const kr_tensor *weight, int side, krait_error *e) {
    KR_TRY(kr_need_rank(op, "weight", weight, 2, e));
    KR_TRY(kr_need_rank(op, arg, rows, 2, e));
    KR_TRY(kr_need_dim(op, arg, rows, 1, weight->shape[side], e));
    KR_TRY(need_type(op, arg, rows, is_rows(rows), e));
    bool wide = weight->dtype == KR_F32 && rows->dtype == KR_BF16;
    bool good = weight->dtype == rows->dtype || wide || (is_half(weight) && rows->dtype != KR_F64);
    return need_type(op, "weight", weight, good, e);
}

/* The weight's copy in bf16, where there is one (in double, for differences, it is f64). */
static int check_copy(const char *op, const kr_call *c, int i, krait_error *e) {
    if (i >= c->n_in || !c->in[i].data) return 0;
    KR_TRY(kr_need_rank(op, "w16", &c->in[i], 2, e));
    for (int d = 0; d < 2; d++) KR_TRY(kr_need_dim(op, "w16", &c->in[i], d, c->in[1].shape[d], e));
    bool good = c->in[i].dtype == KR_BF16 || c->in[0].dtype == KR_F64;
    return need_type(op, "w16", &c->in[i], good, e);
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0], *weight = &c->in[1], *bias = &c->in[2];
    KR_TRY(check_operands("linear", "x", x, weight, 1, e));
    if (bias->data) {
        KR_TRY(kr_need_rank("linear", "bias", bias, 1, e));
        KR_TRY(kr_need_dim("linear", "bias", bias, 0, weight->shape[0], e));
        kr_dtype type = x->dtype == KR_F64 ? KR_F64 : KR_F32;
        KR_TRY(need_type("linear", "bias", bias, bias->dtype == type, e));
    }
    KR_TRY(check_copy("linear", c, 3, e));
    const kr_linear_attr *attr = c->attr;
    kr_dtype type = attr && attr->f32_out && x->dtype == KR_BF16 ? KR_F32 : x->dtype;
    out[0] = kr_tensor_make(NULL, type, 2, (int64_t[]){x->shape[0], weight->shape[0]});
    out[0].dim0 = x->dim0;
    return 0;
}

static int dx_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *dy = &c->in[0], *weight = &c->in[1];
    KR_TRY(check_operands("linear_dx", "dy", dy, weight, 0, e));
    KR_TRY(check_copy("linear_dx", c, 2, e));
    out[0] = kr_tensor_make(NULL, dy->dtype, 2, (int64_t[]){dy->shape[0], weight->shape[1]});
    out[0].dim0 = dy->dim0;
    return 0;
}

static int dw_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *dy = &c->in[0], *x = &c->in[1];
    KR_TRY(kr_need_rank("linear_dw", "dy", dy, 2, e));
    KR_TRY(kr_need_rank("linear_dw", "x", x, 2, e));
    KR_TRY(kr_need_dim("linear_dw", "x", x, 0, dy->shape[0], e));
    KR_TRY(need_type("linear_dw", "dy", dy, is_rows(dy), e));
    KR_TRY(need_type("linear_dw", "x", x, x->dtype == dy->dtype, e));
    kr_dtype type = dy->dtype == KR_F64 ? KR_F64 : KR_F32;
    out[0] = kr_tensor_make(NULL, type, 2, (int64_t[]){dy->shape[1], x->shape[1]});
    out[1] = kr_tensor_make(NULL, type, 1, &dy->shape[1]);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *dy = kr_rule_dout(t, n, 0);
    if (!dy) return;
    kr_value *dx[1] = {NULL}, *dw[2] = {NULL, NULL};
    uint32_t accumulate = 0;
    kr_rule_din(t, n, 0, dx, 0, &accumulate);
    if (dx[0])
        kr_rule_emit(t, &kr_op_linear_dx, NULL, 0,
                     (kr_value *[]){dy, kr_rule_in(n, 1), kr_rule_in(n, 3)}, 3, dx, 1, accumulate);
    accumulate = 0;
    kr_rule_din(t, n, 1, dw, 0, &accumulate);
    kr_rule_din(t, n, 2, dw, 1, &accumulate);
    if (dw[0] || dw[1]) {
        kr_value *x = kr_rule_saved(t, kr_rule_in(n, 0));
        kr_rule_emit(t, &kr_op_linear_dw, NULL, 0, (kr_value *[]){dy, x}, 2, dw, 2, accumulate);
    }
}

/* Scratch of linear_tile_vec.c: up to KR_LINEAR_FEW rows of x lie there transposed, in whole
 * vectors of any level. */
static size_t tile_scratch(const kr_tensor *x, const kr_tensor *weight) {
    enum { WIDEST = 16 };
    int64_t M = x->shape[0] < KR_LINEAR_FEW ? x->shape[0] : KR_LINEAR_FEW;
    if (x->dtype != KR_F32 || weight->dtype != KR_F32) return 0;
    return (size_t)((M + WIDEST - 1) / WIDEST * WIDEST * x->shape[1]) * sizeof(float);
}

static size_t forward_scratch(const kr_call *c) {
    size_t tile = tile_scratch(&c->in[0], kr_linear_weight(c, 3)), many = kr_linear_many_scratch(c);
    return tile > many ? tile : many;
}

static size_t dw_scratch(const kr_call *c) {
    return kr_row_sums_scratch(c->in[0].shape[0], c->in[0].shape[1]);
}

int64_t kr_linear_cuda_rows(const kr_tensor *weight, kr_dtype type) {
    enum { BLOCK_ELEMENTS = 1 << 25 };
    int64_t N = weight->shape[0], K = weight->shape[1] > 0 ? weight->shape[1] : 1;
    if (weight->dtype == type) return 0;
    int64_t rows = BLOCK_ELEMENTS / K > 64 ? BLOCK_ELEMENTS / K / 64 * 64 : 64;
    return rows < N ? rows : N;
}

static size_t weight_scratch_cuda(const kr_call *c, const kr_tensor *weight) {
    kr_dtype type = c->in[0].dtype;
    return (size_t)(kr_linear_cuda_rows(weight, type) * weight->shape[1]) * kr_dtype_size(type);
}

static size_t forward_scratch_cuda(const kr_call *c) {
    if (c->in[0].shape[0] <= KR_LINEAR_FEW_CUDA) return 0;
    size_t bias = c->in[2].data ? kr_linear_cuda_bias_bytes(c->in[1].shape[0]) : 0;
    return bias + weight_scratch_cuda(c, kr_linear_weight(c, 3));
}

static size_t dx_scratch_cuda(const kr_call *c) {
    return weight_scratch_cuda(c, kr_linear_weight(c, 2));
}

static size_t dw_scratch_cuda(const kr_call *c) {
    const kr_tensor *dy = &c->in[0];
    return (size_t)(kr_linear_cuda_parts(dy->shape[0]) * dy->shape[1]) * sizeof(float);
}

static void cost(const kr_call *c, int64_t width, double *flops, double *bytes) {
    *flops = 2 * (double)kr_tensor_count(&c->in[0]) * (double)width;
    *bytes = (double)kr_tensor_bytes(&c->in[0]) + (double)kr_tensor_bytes(&c->in[1]) +
             (double)kr_tensor_bytes(&c->out[0]);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    cost(c, c->in[1].shape[0], flops, bytes);
}

static void gradient_cost(const kr_call *c, double *flops, double *bytes) {
    cost(c, c->in[1].shape[1], flops, bytes);
}

/* Rows on both sides of every change of kernel, widths that fill no vector, every type of weight.
 */
typedef struct sizes {
    const char *name;
    int64_t M, N, K;
    kr_dtype weight;
    bool bias;
} sizes;

static const sizes table[] = {
    {"M=1 N=1 K=1", 1, 1, 1, KR_F32, true},
    {"M=1 N=33 K=17", 1, 33, 17, KR_F32, false},
    {"M=1 N=80 K=1536", 1, 80, 1536, KR_F32, false},
    {"M=1 N=67 K=100 bf16", 1, 67, 100, KR_BF16, true},
    {"M=1 N=67 K=100 f16", 1, 67, 100, KR_F16, false},
    {"M=2 N=130 K=48", 2, 130, 48, KR_F32, true},
    {"M=3 N=19 K=63 bf16", 3, 19, 63, KR_BF16, false},
    {"M=5 N=40 K=257 f16", 5, 40, 257, KR_F16, true},
    {"M=7 N=31 K=15", 7, 31, 15, KR_F32, false},
    {"M=9 N=25 K=65 bf16", 9, 25, 65, KR_BF16, false},
    {"M=16 N=50 K=129", 16, 50, 129, KR_F32, true},
    {"M=28 N=83 K=17", 28, 83, 17, KR_F32, false},
    {"M=48 N=31 K=200", 48, 31, 200, KR_F32, true},
    {"M=17 N=1 K=3", 17, 1, 3, KR_F32, true},
    {"M=31 N=77 K=101 f16", 31, 77, 101, KR_F16, true},
    {"M=32 N=48 K=300 bf16", 32, 48, 300, KR_BF16, false},
    {"M=33 N=80 K=131", 33, 80, 131, KR_F32, false},
    {"M=63 N=100 K=17", 63, 100, 17, KR_F32, true},
    {"M=65 N=129 K=768", 65, 129, 768, KR_F32, true},
    {"M=100 N=63 K=1", 100, 63, 1, KR_F32, false},
    {"M=1030 N=35 K=50", 1030, 35, 50, KR_F32, true},
    {"M=3 N=5300 K=100 bf16", 3, 5300, 100, KR_BF16, true},
    {"M=70 N=61 K=33 f16", 70, 61, 33, KR_F16, false},
    {"M=20 N=96 K=1000 bf16", 20, 96, 1000, KR_BF16, true},
    {"M=64 N=644 K=520 bf16", 64, 644, 520, KR_BF16, true},
    {"M=100 N=520 K=640 bf16", 100, 520, 640, KR_BF16, false},
    {"M=128 N=160 K=4096 bf16", 128, 160, 4096, KR_BF16, false},
    {"M=3 N=5 K=7, offsets past 2^31", 3, 5, 7, KR_F32, false},
    {"M=32 N=29 K=7, offsets past 2^31", 32, 29, 7, KR_F32, true},
    {"M=67 N=40 K=7, offsets past 2^31", 67, 40, 7, KR_F32, false},
};

static bool next_case(int index, kr_case *k, const sizes **s) {
    if (index < 0 || index >= (int)(sizeof table / sizeof table[0])) return false;
    *s = &table[index];
    k->name = (*s)->name;
    k->n_in = 2;
    k->n_out = 1;
    k->fill[0].a = k->fill[1].a = k->fill[2].a = 1;
    k->tolerance = 4e-6; /* f32 sums of up to 2,000 terms */
    k->half.rounded = 2; /* weights that are no bf16 are rounded to it */
    k->large = strstr(k->name, "2^31") != NULL;
    return true;
}

/* A matrix whose rows lie so far apart, in a large case, that the last ones pass 2^31 elements. */
static kr_tensor matrix(const kr_case *k, kr_dtype type, int64_t rows, int64_t width) {
    kr_tensor t = kr_tensor_make(NULL, type, 2, (int64_t[]){rows, width});
    if (k->large && rows > 1) t.stride[0] = ((int64_t)1 << 31) / (rows - 1) + 4096;
    return t;
}

static bool forward_cases(int index, kr_case *k) {
    static const kr_linear_attr early = {.early = 1};
    const sizes *s;
    if (!next_case(index, k, &s)) return false;
    k->n_in = 3;
    k->in[0] = matrix(k, KR_F32, s->M, s->K);
    k->in[1] = matrix(k, s->weight, s->N, s->K);
    k->in[2] = kr_tensor_make(NULL, KR_F32, 1, &s->N);
    if (!s->bias) k->fill[2].kind = KR_FILL_ABSENT;
    k->half.attr = &early;
    return true;
}

static bool dx_cases(int index, kr_case *k) {
    const sizes *s;
    if (!next_case(index, k, &s)) return false;
    k->in[0] = matrix(k, KR_F32, s->M, s->N);
    k->in[1] = matrix(k, s->weight, s->N, s->K);
    if (s->weight != KR_F32 || k->large) return true;
    k->n_in = 3; /* the copy is what is read: it need not be the weight's here */
    k->in[2] = matrix(k, KR_BF16, s->N, s->K);
    if (index % 2) k->fill[2].kind = KR_FILL_ABSENT;
    return true;
}

static bool dw_cases(int index, kr_case *k) {
    const sizes *s;
    if (!next_case(index, k, &s)) return false;
    k->n_out = 2;
    k->in[0] = matrix(k, KR_F32, s->M, s->N);
    k->in[1] = matrix(k, KR_F32, s->M, s->K);
    k->out_absent[1] = !s->bias;
    k->out_absent[0] = s->bias && index % 3 == 2;
    return true;
}

KR_DECLARE_KERNEL(kr_linear);
KR_DECLARE_KERNEL(kr_linear_dx);
KR_DECLARE_KERNEL(kr_linear_dw);

const kr_op kr_op_linear = {
    .name = "linear",
    .shape = forward_shape,
    .grad = forward_grad,
    .scratch = forward_scratch,
    .scratch_cuda = forward_scratch_cuda,
    .cost = forward_cost,
    .cases = forward_cases,
    .n_in = 4,
    .n_out = 1,
    .half_in = 1,
    .kernel = KR_KERNELS_GPU(kr_linear),
};

const kr_op kr_op_linear_dx = {
    .name = "linear_dx",
    .shape = dx_shape,
    .scratch = kr_linear_dx_many_scratch,
    .scratch_cuda = dx_scratch_cuda,
    .cost = gradient_cost,
    .cases = dx_cases,
    .n_in = 3,
    .n_out = 1,
    .half_in = 1,
    .kernel = KR_KERNELS_GPU(kr_linear_dx),
};

const kr_op kr_op_linear_dw = {
    .name = "linear_dw",
    .shape = dw_shape,
    .scratch = dw_scratch,
    .scratch_cuda = dw_scratch_cuda,
    .cost = gradient_cost,
    .cases = dw_cases,
    .n_in = 2,
    .n_out = 2,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_linear_dw),
};
