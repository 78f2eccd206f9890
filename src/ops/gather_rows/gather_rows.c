/* gather_rows.c - rules of picking rows; gather_rows.h has the contract. */
#include "ops/gather_rows/gather_rows.h"

#include "base/err.h"
#include "ops/case.h"
#include "ops/scatter_rows.h"

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0], *rows = &c->in[1];
    KR_TRY(kr_need_rank("gather_rows", "x", x, 2, e));
    KR_TRY(kr_need_rank("gather_rows", "rows", rows, 1, e));
    KR_TRY(kr_need_type("gather_rows", "rows", rows, KR_I64, e));
    int64_t shape[2] = {rows->shape[0], x->shape[1]};
    out[0] = kr_tensor_make(NULL, x->dtype, 2, shape);
    out[0].dim0 = rows->dim0;
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *dy = &c->in[0], *dx = &c->out[0];
    (void)out;
    KR_TRY(kr_need_rank("gather_rows_grad", "dy", dy, 2, e));
    KR_TRY(kr_need_dim("gather_rows_grad", "rows", &c->in[1], 0, dy->shape[0], e));
    KR_TRY(kr_need_rank("gather_rows_grad", "dx", dx, 2, e));
    return kr_need_dim("gather_rows_grad", "dx", dx, 1, dy->shape[1], e);
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *saved[] = {kr_rule_in(n, 1)};
    kr_rule_pull_back(t, n, &kr_op_gather_rows_grad, NULL, 0, saved, 1, 0, 1);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 0;
    *bytes = 2 * (double)c->in[1].shape[0] * (double)c->in[0].shape[1] *
             (double)kr_dtype_size(c->in[0].dtype);
}

static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = (double)kr_tensor_count(&c->in[0]);
    *bytes = (double)kr_tensor_bytes(&c->in[0]) + (double)kr_tensor_bytes(&c->out[0]);
}

static const int64_t sizes[][3] = {
    {1, 1, 1}, {17, 3, 5}, {63, 100, 17}, {100, 4, 768}, {9, 5000, 20}}; /* M R D */

static bool forward_cases(int index, kr_case *k) {
    if (index > 5) return false;
    const int64_t *s = sizes[index < 5 ? index : 1], x[2] = {s[0], s[2]};
    k->name = "rows";
    k->n_out = 1;
    kr_case_normal(k, 0, 2, x);
    kr_case_in(k, 1, KR_I64, 1, &s[1], KR_FILL_INDEX, (double)s[0], 0.1);
    if (index == 5) kr_case_far(k);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    if (index > 5) return false;
    const int64_t *s = sizes[index < 5 ? index : 1], dx[2] = {s[0], s[2]};
    k->name = "rows that repeat";
    k->n_out = 1;
    kr_case_normal(k, 0, 2, &s[1]);
    kr_case_in(k, 1, KR_I64, 1, &s[1], KR_FILL_INDEX, (double)s[0], 0.1);
    k->out[0] = kr_tensor_make(NULL, KR_F32, 2, dx);
    k->half.out = 1;
    if (index == 5) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_gather_rows);
KR_DECLARE_KERNEL(kr_gather_rows_grad);

const kr_op kr_op_gather_rows = {
    .name = "gather_rows",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = forward_cost,
    .cases = forward_cases,
    .n_in = 2,
    .half_in = 1,
    .n_out = 1,
    .no_accumulate = 1,
    .kernel = KR_KERNELS_GPU(kr_gather_rows),
};

const kr_op kr_op_gather_rows_grad = {
    .name = "gather_rows_grad",
    .shape = backward_shape,
    .scratch_cuda = kr_scatter_rows_scratch,
    .cost = backward_cost,
    .cases = backward_cases,
    .n_in = 2,
    .half_in = 1,
    .n_out = 1,
    .kernel = KR_KERNELS_GPU(kr_gather_rows_grad),
};
