/* rmsnorm.c - shape and gradient rules of the root-mean-square norm; rmsnorm.h has the equations */
#include "ops/rmsnorm/rmsnorm.h"

#include "ops/norm_rules.h"
#include "ops/row_sums.h"

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0], *residual = &c->in[1], *weight = &c->in[2];
    const kr_rmsnorm_attr *attr = c->attr;
    kr_dtype real = kr_norm_wide(x);
    KR_TRY(kr_norm_need_rows("rmsnorm", x, residual, e));
    if (weight->data) KR_TRY(kr_norm_need_vector("rmsnorm", "weight", weight, x, e));
    out[0] = kr_tensor_make(NULL, attr->half ? KR_BF16 : real, 2, x->shape);
    if (residual->data) out[1] = kr_tensor_make(NULL, real, 2, x->shape);
    out[2] = kr_tensor_make(NULL, real, 1, x->shape);
    for (int i = 0; i < 3; i++) out[i].dim0 = x->dim0;
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *dy = kr_rule_dout(t, n, 0), *dsum = kr_rule_dout(t, n, 1);
    kr_value *x = kr_rule_in(n, 0), *sum = kr_rule_out(n, 1) ? kr_rule_out(n, 1) : x;
    kr_value *outs[4] = {NULL};
    uint32_t accumulate = 0;
    bool half = kr_rule_type(x) == KR_BF16;
    if (!dy && !dsum) return;
    if (!dy) {
        kr_norm_sum_grad(t, n, dsum);
        return;
    }
    /* x and the residual enter as a sum: one gradient for both, but of the type of each */
    bool residual = kr_rule_in(n, 1) != NULL, shared = residual && !half;
    if (residual) outs[0] = kr_rule_temporary(t, sum);
    if (half || !residual) kr_rule_din(t, n, 0, outs, half ? 2 : 0, &accumulate);
    kr_rule_din(t, n, 2, outs, 1, &accumulate);
    /* a sum that is not kept is made from its addends, of which one has half as many bytes */
    bool apart = residual && half && !kr_rule_kept(t, sum);
    kr_value *ins[6] = {dy,
                        dsum,
                        kr_rule_saved(t, apart ? kr_rule_in(n, 1) : sum),
                        kr_rule_in(n, 2),
                        kr_rule_saved(t, kr_rule_out(n, 2)),
                        apart ? kr_rule_saved(t, x) : NULL};
    outs[3] = kr_rule_remade(t, n, 0);
    kr_rule_emit(t, &kr_op_rmsnorm_grad, kr_rule_attr(n), sizeof(kr_rmsnorm_attr), ins, 6, outs, 4,
                 accumulate);
    if (shared) kr_rule_din_is(t, n, 0, outs[0]);
    if (residual) kr_rule_din_is(t, n, 1, outs[0]);
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *dy = &c->in[0], *s = &c->in[2];
    KR_TRY(kr_need_rank("rmsnorm_grad", "s", s, 2, e));
    KR_TRY(kr_need_dim("rmsnorm_grad", "dy", dy, 1, s->shape[1], e));
    if (c->in[5].data) KR_TRY(kr_need_dim("rmsnorm_grad", "x", &c->in[5], 1, s->shape[1], e));
    kr_dtype real = kr_norm_wide(s);
    out[0] = kr_tensor_make(NULL, real, 2, s->shape);
    out[1] = kr_tensor_make(NULL, real, 1, &s->shape[1]);
    out[2] = out[3] = kr_tensor_make(NULL, dy->dtype, 2, s->shape);
    out[0].dim0 = out[2].dim0 = out[3].dim0 = s->dim0;
    return 0;
}

/* The chunks' sums of dweight. */
static size_t backward_scratch(const kr_call *c) {
    const kr_tensor *s = &c->in[2];
    return kr_row_sums_scratch(s->shape[0], s->shape[1]);
}

static size_t backward_scratch_cuda(const kr_call *c) {
    const kr_tensor *s = &c->in[2];
    int64_t parts = s->shape[0] < KR_RMSNORM_PARTS ? s->shape[0] : KR_RMSNORM_PARTS;
    return c->out[1].data ? (size_t)parts * (size_t)s->shape[1] * sizeof(float) : 0;
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 5 * (double)kr_tensor_count(&c->in[0]);
    *bytes = kr_call_bytes(c);
}

static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 10 * (double)kr_tensor_count(&c->in[2]);
    *bytes = kr_call_bytes(c);
}

static const kr_rmsnorm_attr case_attr = {.eps = 1e-5};
static const kr_rmsnorm_attr half_attr = {.eps = 1e-5, .half = 1, .early = 1};

static const int64_t case_sizes[][2] = {{1, 1},  {3, 17},     {63, 100}, {5, 768},
                                        {2, 16}, {600, 1040}, {2, 9001}};

/* Rows of shape [M,D]: odd sizes, with and without the optional arguments. */
static bool forward_cases(int index, kr_case *k) {
    if (index > 14) return false;
    const int64_t *shape = case_sizes[index < 14 ? index / 2 : 1];
    bool plain = index % 2;
    k->name = plain ? "alone" : "with residual and weight";
    k->n_out = 3;
    for (int i = 0; i < 3; i++) kr_case_normal(k, i, i < 2 ? 2 : 1, i < 2 ? shape : &shape[1]);
    if (plain) k->fill[1].kind = k->fill[2].kind = KR_FILL_ABSENT;
    k->out_absent[1] = plain;
    k->attr = &case_attr;
    k->attr_size = sizeof case_attr;
    k->half.attr = &half_attr;
    if (index % 4 == 3) k->half.wide = 1; /* f32 in, bf16 out: behind the embedding */
    if (index == 14) kr_case_far(k);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    if (index > 14) return false;
    const int64_t *shape = case_sizes[index < 14 ? index / 2 : 1];
    bool plain = index % 2;
    k->name = plain ? "alone" : "with residual and weight";
    k->n_out = 4;
    for (int i = 0; i < 3; i++) kr_case_normal(k, i, 2, shape);
    kr_case_normal(k, 3, 1, &shape[1]);
    kr_case_in(k, 4, KR_F32, 1, shape, KR_FILL_UNIFORM, 0.5, 2);
    kr_case_normal(k, 5, 2, shape);
    if (index % 4 != 2) k->fill[5].kind = KR_FILL_ABSENT;
    if (plain) k->fill[1].kind = k->fill[3].kind = KR_FILL_ABSENT;
    k->out_absent[1] = plain;
    k->out_absent[3] = index % 3 == 1;
    k->attr = &case_attr;
    k->attr_size = sizeof case_attr;
    if (!plain) k->half.wide = 4; /* a sum with the residual is f32 */
    if (index == 14) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_rmsnorm);
KR_DECLARE_KERNEL(kr_rmsnorm_grad);

const kr_op kr_op_rmsnorm = {
    .name = "rmsnorm",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = forward_cost,
    .cases = forward_cases,
    .n_in = 3,
    .n_out = 3,
    .no_accumulate = 7,
    .half_in = 1,
    .kernel = KR_KERNELS_GPU(kr_rmsnorm),
};

const kr_op kr_op_rmsnorm_grad = {
    .name = "rmsnorm_grad",
    .shape = backward_shape,
    .scratch = backward_scratch,
    .scratch_cuda = backward_scratch_cuda,
    .cost = backward_cost,
    .cases = backward_cases,
    .n_in = 6,
    .n_out = 4,
    .no_accumulate = 8,
    .half_in = 1 | 4 | 32,
    .kernel = KR_KERNELS_GPU(kr_rmsnorm_grad),
};
