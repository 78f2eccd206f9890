/* mamba_step_out.c - shape rules and checker cases of the end of a decode step of many rows;
 * mamba_step.h has the equations. */
#include "base/err.h"
#include "ops/case.h"
#include "ops/mamba_step/mamba_step.h"

int kr_mamba_step_parts(int64_t D, int64_t K) {
    enum { BLOCKS = 128, ROWS = 128, SHARED_BY = 2, LEAST = 4 /* slices */ };
    int64_t tiles = (D + ROWS - 1) / ROWS * SHARED_BY, most = K / 64 / LEAST;
    int64_t parts = BLOCKS / (tiles > 0 ? tiles : 1);
    if (parts > most) parts = most;
    return parts < 1 ? 1 : (int)parts;
}

static int out_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *y = &c->in[0], *weight = &c->in[1];
    const kr_mamba_step_out_attr *attr = c->attr;
    KR_TRY(kr_need_rank("mamba_step_out", "y", y, 2, e));
    KR_TRY(kr_need_rank("mamba_step_out", "weight", weight, 2, e));
    KR_TRY(kr_need_dim("mamba_step_out", "weight", weight, 1, y->shape[1], e));
    if (weight->dtype != y->dtype || attr->parts < 1)
        return kr_fail(e, KRAIT_ERR_SHAPE, "mamba_step_out: y is %s, the weight %s, in %d parts",
                       kr_dtype_name(y->dtype), kr_dtype_name(weight->dtype), attr->parts);
    kr_dtype type = y->dtype == KR_BF16 ? KR_F32 : y->dtype;
    out[0] =
        kr_tensor_make(NULL, type, 2, (int64_t[]){y->shape[0], attr->parts * weight->shape[0]});
    out[0].dim0 = y->dim0;
    return 0;
}

static int norm_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *parts = &c->in[0], *residual = &c->in[1], *norm = &c->in[2];
    const kr_mamba_step_attr *attr = c->attr;
    KR_TRY(kr_need_rank("mamba_step_norm", "parts", parts, 2, e));
    KR_TRY(kr_need_rank("mamba_step_norm", "residual", residual, 2, e));
    KR_TRY(kr_need_rank("mamba_step_norm", "norm", norm, 1, e));
    int64_t M = parts->shape[0], D = norm->shape[0];
    KR_TRY(kr_need_dim("mamba_step_norm", "residual", residual, 0, M, e));
    KR_TRY(kr_need_dim("mamba_step_norm", "residual", residual, 1, D, e));
    if (D == 0 || parts->shape[1] == 0 || parts->shape[1] % D)
        return kr_fail(e, KRAIT_ERR_SHAPE, "mamba_step_norm: parts of %lld in rows of %lld",
                       (long long)D, (long long)parts->shape[1]);
    for (int i = 0; i < 2; i++) {
        kr_dtype type = i == 0 && attr->half ? KR_BF16 : residual->dtype;
        out[i] = kr_tensor_make(NULL, type, 2, residual->shape);
        out[i].dim0 = residual->dim0;
    }
    return 0;
}

static void out_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 2 * (double)c->in[0].shape[0] * (double)kr_tensor_count(&c->in[1]);
    *bytes = (double)kr_tensor_bytes(&c->in[1]) + (double)kr_tensor_bytes(&c->in[0]) +
             (double)kr_tensor_bytes(&c->out[0]);
}

static void norm_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 4 * (double)kr_tensor_count(&c->in[1]);
    *bytes = (double)kr_tensor_bytes(&c->in[0]) + 2 * (double)kr_tensor_bytes(&c->in[1]) +
             (double)kr_tensor_bytes(&c->out[0]);
}

static bool out_cases(int index, kr_case *k) {
    static const struct {
        const char *name;
        int64_t M, D, K;
        kr_mamba_step_out_attr attr;
    } rows[] = {{"M=1 D=1 K=1", 1, 1, 1, {1}},    {"M=9, more parts than slices", 9, 12, 70, {4}},
                {"M=40", 40, 132, 520, {3}},      {"M=64 D=40 K=512", 64, 40, 512, {8}},
                {"M=65", 65, 260, 1024, {5}},     {"M=128, one part", 128, 128, 640, {1}},
                {"M=130 odd", 130, 67, 201, {2}}, {"M=300", 300, 96, 256, {2}}};
    if (index >= (int)(sizeof rows / sizeof *rows)) return false;
    k->name = rows[index].name;
    k->n_out = 1;
    k->attr = &rows[index].attr;
    k->attr_size = sizeof rows[index].attr;
    k->tolerance = 4e-6;
    kr_case_normal(k, 0, 2, (int64_t[]){rows[index].M, rows[index].K});
    kr_case_normal(k, 1, 2, (int64_t[]){rows[index].D, rows[index].K});
    return true;
}

static const kr_mamba_step_attr plain = {1e-5, 0}, halves = {1e-5, 1};

static bool norm_cases(int index, kr_case *k) {
    static const struct {
        const char *name;
        int64_t M, D, parts;
    } rows[] = {{"M=1 D=1", 1, 1, 1},
                {"M=3 D=17, 2 parts", 3, 17, 2},
                {"M=37 D=768, 6 parts", 37, 768, 6},
                {"M=128 D=2048, 4 parts", 128, 2048, 4},
                {"M=2 wide", 2, 9000, 3}};
    if (index >= (int)(sizeof rows / sizeof *rows)) return false;
    int64_t M = rows[index].M, D = rows[index].D;
    k->name = rows[index].name;
    k->n_out = 2;
    k->attr = &plain;
    k->attr_size = sizeof plain;
    k->half.attr = &halves;
    kr_case_normal(k, 0, 2, (int64_t[]){M, D * rows[index].parts});
    kr_case_normal(k, 1, 2, (int64_t[]){M, D});
    kr_case_normal(k, 2, 1, &D);
    return true;
}

KR_DECLARE_REF_KERNEL(kr_mamba_step_out);
KR_DECLARE_REF_KERNEL(kr_mamba_step_norm);

const kr_op kr_op_mamba_step_out = {
    .name = "mamba_step_out",
    .shape = out_shape,
    .cost = out_cost,
    .cases = out_cases,
    .n_in = 2,
    .n_out = 1,
    .no_accumulate = 1,
    .half_in = 3,
    .kernel = KR_REF_KERNELS_GPU(kr_mamba_step_out),
};

const kr_op kr_op_mamba_step_norm = {
    .name = "mamba_step_norm",
    .shape = norm_shape,
    .cost = norm_cost,
    .cases = norm_cases,
    .n_in = 3,
    .n_out = 2,
    .no_accumulate = 3,
    .kernel = KR_REF_KERNELS_GPU(kr_mamba_step_norm),
};
