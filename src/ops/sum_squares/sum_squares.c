/* sum_squares.c - shape rule and checker cases of the squared norm; sum_squares.h has the equation.
 */
#include "ops/sum_squares/sum_squares.h"

#include "base/err.h"

static int shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(kr_need_rank("sum_squares", "x", &c->in[0], 1, e));
    out[0] = kr_tensor_make(NULL, KR_F64, 1, (const int64_t[]){1});
    return 0;
}

static size_t scratch(const kr_call *c) {
    return (size_t)((c->in[0].shape[0] + KR_SUM_BLOCK - 1) / KR_SUM_BLOCK) * sizeof(double);
}

static size_t scratch_cuda(const kr_call *c) {
    return (size_t)kr_sum_squares_parts(c->in[0].shape[0]) * sizeof(double);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 2 * (double)c->in[0].shape[0];
    *bytes = 4 * (double)c->in[0].shape[0];
}

static bool cases(int index, kr_case *k) {
    static const int64_t sizes[] = {1, 17, 63, KR_SUM_BLOCK, 3 * KR_SUM_BLOCK + 101, 2000003};
    if (index >= 6) return false;
    k->name = "normal";
    k->n_in = 1;
    k->n_out = 1;
    k->in[0] = kr_tensor_make(NULL, KR_F32, 1, &sizes[index]);
    k->fill[0].a = 1;
    return true;
}

KR_DECLARE_KERNEL(kr_sum_squares);

const kr_op kr_op_sum_squares = {
    .name = "sum_squares",
    .shape = shape,
    .scratch = scratch,
    .scratch_cuda = scratch_cuda,
    .cost = cost,
    .cases = cases,
    .n_in = 1,
    .n_out = 1,
    .no_accumulate = 1,
    .kernel = KR_KERNELS_GPU(kr_sum_squares),
};
