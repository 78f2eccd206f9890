/* gated_rmsnorm.c - shape and gradient rules of the gated norm; gated_rmsnorm.h has the equations.
 */
#include "ops/gated_rmsnorm/gated_rmsnorm.h"

#include "base/err.h"
#include "ops/case.h"
#include "ops/row_sums.h"

/* x, z and the weight from input i on. */
static int check_inputs(const char *op, const kr_call *c, int i, krait_error *e) {
    const kr_tensor *x = &c->in[i], *z = &c->in[i + 1], *weight = &c->in[i + 2];
    const kr_gated_rmsnorm_attr *attr = c->attr;
    KR_TRY(kr_need_rank(op, "x", x, 2, e));
    KR_TRY(kr_need_rank(op, "z", z, 2, e));
    KR_TRY(kr_need_rank(op, "weight", weight, 1, e));
    for (int d = 0; d < 2; d++) KR_TRY(kr_need_dim(op, "z", z, d, x->shape[d], e));
    KR_TRY(kr_need_dim(op, "weight", weight, 0, x->shape[1], e));
    if (z->dtype != x->dtype)
        return kr_fail(e, KRAIT_ERR_SHAPE, "%s: z must be %s as x is, is %s", op,
                       kr_dtype_name(x->dtype), kr_dtype_name(z->dtype));
    if (attr->groups >= 1 && x->shape[1] % attr->groups == 0) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: %lld groups do not divide %lld columns", op,
                   (long long)attr->groups, (long long)x->shape[1]);
}

static kr_dtype wide(const kr_tensor *x) { return x->dtype == KR_F64 ? KR_F64 : KR_F32; }

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_gated_rmsnorm_attr *attr = c->attr;
    const kr_tensor *x = &c->in[0];
    KR_TRY(check_inputs("gated_rmsnorm", c, 0, e));
    out[0] = kr_out_like(x);
    out[1] = kr_tensor_make(NULL, wide(x), 2, (int64_t[]){x->shape[0], attr->groups});
    out[1].dim0 = x->dim0;
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_gated_rmsnorm_attr *attr = c->attr;
    const kr_tensor *x = &c->in[1], *rstd = &c->in[4];
    KR_TRY(check_inputs("gated_rmsnorm_grad", c, 1, e));
    for (int d = 0; d < 2; d++)
        KR_TRY(kr_need_dim("gated_rmsnorm_grad", "dy", &c->in[0], d, x->shape[d], e));
    KR_TRY(kr_need_rank("gated_rmsnorm_grad", "rstd", rstd, 2, e));
    KR_TRY(kr_need_dim("gated_rmsnorm_grad", "rstd", rstd, 1, attr->groups, e));
    out[0] = kr_out_like(x);
    out[1] = kr_out_like(x);
    out[2] = kr_tensor_make(NULL, wide(x), 1, &x->shape[1]);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *saved[] = {kr_rule_in(n, 0), kr_rule_in(n, 1), kr_rule_in(n, 2), kr_rule_out(n, 1)};
    kr_rule_pull_back(t, n, &kr_op_gated_rmsnorm_grad, kr_rule_attr(n),
                      sizeof(kr_gated_rmsnorm_attr), saved, 4, 0, 3);
}

/* The chunks' sums of dweight. */
static size_t backward_scratch(const kr_call *c) {
    const kr_tensor *x = &c->in[1];
    return kr_row_sums_scratch(x->shape[0], x->shape[1]);
}

static size_t backward_scratch_cuda(const kr_call *c) {
    const kr_tensor *x = &c->in[1];
    int64_t parts = x->shape[0] < KR_GATED_RMSNORM_PARTS ? x->shape[0] : KR_GATED_RMSNORM_PARTS;
    return c->out[2].data ? (size_t)(parts * x->shape[1]) * sizeof(float) : 0;
}

static void cost(const kr_call *c, double each, double *flops, double *bytes) {
    *flops = each * (double)kr_tensor_count(&c->in[1]);
    *bytes = 0;
    for (int i = 0; i < c->n_in; i++) *bytes += (double)kr_tensor_bytes(&c->in[i]);
    for (int i = 0; i < c->n_out; i++)
        if (c->out[i].data) *bytes += (double)kr_tensor_bytes(&c->out[i]);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    cost(c, 10, flops, bytes);
}
static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    cost(c, 25, flops, bytes);
}

static const struct {
    int64_t M, E;
    kr_gated_rmsnorm_attr attr;
} table[] = {{1, 1, {1e-5, 1, 0}},    {3, 17, {1e-5, 1, 1}},       {63, 100, {1e-5, 4, 0}},
             {5, 768, {1e-5, 8, 1}},  {600, 1040, {1e-6, 1, 0}},   {40, 66, {1e-5, 2, 1}},
             {2, 9002, {1e-5, 1, 0}}, {2, 9002, {1e-5, 2, 1}},     {33, 51, {1e-5, 3, 0}},
             {7, 20, {1e-5, 2, 0}},   {2, 65540, {1e-5, 65540, 0}}};

/* x, z and the weight, from input i on. */
static bool next_case(int index, kr_case *k, int i) {
    if (index >= (int)(sizeof table / sizeof *table)) return false;
    const int64_t shape[2] = {table[index].M, table[index].E};
    k->name = table[index].attr.gate_behind ? "gate behind" : "gate in front";
    kr_case_normal(k, i, 2, shape);
    kr_case_normal(k, i + 1, 2, shape);
    kr_case_normal(k, i + 2, 1, &shape[1]);
    k->fill[i + 1].a = 2;
    k->attr = &table[index].attr;
    k->attr_size = sizeof table[index].attr;
    return true;
}

static bool forward_cases(int index, kr_case *k) {
    if (!next_case(index, k, 0)) return false;
    k->n_out = 2;
    if (index == 9) kr_case_far(k);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    if (!next_case(index, k, 1)) return false;
    kr_case_normal(k, 0, 2, k->in[1].shape);
    kr_case_in(k, 4, KR_F32, 2, (int64_t[]){table[index].M, table[index].attr.groups},
               KR_FILL_UNIFORM, 0.5, 2);
    k->n_out = 3;
    k->tolerance = 4e-6;
    if (index == 9) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_gated_rmsnorm);
KR_DECLARE_KERNEL(kr_gated_rmsnorm_grad);

const kr_op kr_op_gated_rmsnorm = {
    .name = "gated_rmsnorm",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = forward_cost,
    .cases = forward_cases,
    .n_in = 3,
    .n_out = 2,
    .no_accumulate = 3,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_gated_rmsnorm),
};

const kr_op kr_op_gated_rmsnorm_grad = {
    .name = "gated_rmsnorm_grad",
    .shape = backward_shape,
    .scratch = backward_scratch,
    .scratch_cuda = backward_scratch_cuda,
    .cost = backward_cost,
    .cases = backward_cases,
    .n_in = 5,
    .n_out = 3,
    .half_in = 7,
    .kernel = KR_KERNELS_GPU(kr_gated_rmsnorm_grad),
};
