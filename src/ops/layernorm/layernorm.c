/* layernorm.c - shape and gradient rules of the layer norm; layernorm.h has the equations. */
#include "ops/layernorm/layernorm.h"

#include "ops/norm_rules.h"
#include "ops/row_sums.h"

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0];
    const kr_layernorm_attr *attr = c->attr;
    KR_TRY(kr_norm_need_rows("layernorm", x, &c->in[1], e));
    KR_TRY(kr_norm_need_vector("layernorm", "weight", &c->in[2], x, e));
    KR_TRY(kr_norm_need_vector("layernorm", "bias", &c->in[3], x, e));
    out[0] = kr_tensor_make(NULL, attr->half ? KR_BF16 : kr_norm_wide(x), 2, x->shape);
    if (c->in[1].data) out[1] = kr_tensor_make(NULL, kr_norm_wide(x), 2, x->shape);
    out[2] = out[3] = kr_tensor_make(NULL, kr_norm_wide(x), 1, x->shape);
    for (int i = 0; i < 4; i++) out[i].dim0 = x->dim0;
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *dy = kr_rule_dout(t, n, 0), *dsum = kr_rule_dout(t, n, 1), *outs[4] = {NULL};
    kr_value *x = kr_rule_in(n, 0), *sum = kr_rule_out(n, 1) ? kr_rule_out(n, 1) : x;
    bool half = kr_rule_type(x) == KR_BF16, residual = kr_rule_in(n, 1) != NULL;
    uint32_t accumulate = 0;
    if (!dy && dsum) kr_norm_sum_grad(t, n, dsum);
    if (!dy) return;
    /* x and the residual enter as a sum: one gradient for both, but of the type of each */
    if (residual) outs[0] = kr_rule_temporary(t, sum);
    if (half || !residual) kr_rule_din(t, n, 0, outs, half ? 3 : 0, &accumulate);
    kr_rule_din(t, n, 2, outs, 1, &accumulate);
    kr_rule_din(t, n, 3, outs, 2, &accumulate);
    kr_value *ins[6] = {dy,
                        dsum,
                        kr_rule_saved(t, sum),
                        kr_rule_in(n, 2),
                        kr_rule_saved(t, kr_rule_out(n, 2)),
                        kr_rule_saved(t, kr_rule_out(n, 3))};
    kr_rule_emit(t, &kr_op_layernorm_grad, kr_rule_attr(n), sizeof(kr_layernorm_attr), ins, 6, outs,
                 4, accumulate);
    if (residual && !half) kr_rule_din_is(t, n, 0, outs[0]);
    if (residual) kr_rule_din_is(t, n, 1, outs[0]);
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *dy = &c->in[0], *s = &c->in[2];
    KR_TRY(kr_need_rank("layernorm_grad", "s", s, 2, e));
    KR_TRY(kr_need_dim("layernorm_grad", "dy", dy, 1, s->shape[1], e));
    out[0] = kr_tensor_make(NULL, kr_norm_wide(s), 2, s->shape);
    out[1] = out[2] = kr_tensor_make(NULL, kr_norm_wide(s), 1, &s->shape[1]);
    out[3] = kr_tensor_make(NULL, dy->dtype, 2, s->shape);
    out[0].dim0 = out[3].dim0 = s->dim0;
    return 0;
}

/* The chunks' sums of dweight and dbias. */
static size_t backward_scratch(const kr_call *c) {
    const kr_tensor *s = &c->in[2];
    return kr_row_sums_scratch(s->shape[0], 2 * s->shape[1]);
}

static size_t backward_scratch_cuda(const kr_call *c) {
    const kr_tensor *s = &c->in[2];
    int64_t parts = s->shape[0] < KR_LAYERNORM_PARTS ? s->shape[0] : KR_LAYERNORM_PARTS;
    return 2 * (size_t)parts * (size_t)s->shape[1] * sizeof(float);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 8 * (double)kr_tensor_count(&c->in[0]);
    *bytes = kr_call_bytes(c);
}

static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 14 * (double)kr_tensor_count(&c->in[2]);
    *bytes = kr_call_bytes(c);
}

static const kr_layernorm_attr case_attr = {.eps = 1e-5}, half_attr = {.eps = 1e-5, .half = 1};

/* Rows [M,D]: odd sizes. A row of one number is 0 / sqrt(eps): rounding alone. */
static const int64_t case_sizes[][2] = {{1, 2},  {3, 17},     {63, 100}, {5, 768},
                                        {2, 16}, {600, 1040}, {2, 9001}};

static bool forward_cases(int index, kr_case *k) {
    if (index > 14) return false;
    const int64_t *shape = case_sizes[index < 14 ? index / 2 : 1];
    bool plain = index % 2;
    k->name = plain ? "alone" : "with residual";
    k->n_out = 4;
    for (int i = 0; i < 4; i++) kr_case_normal(k, i, i < 2 ? 2 : 1, i < 2 ? shape : &shape[1]);
    if (plain) kr_case_without(k, 1);
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
    k->name = plain ? "alone" : "with residual";
    k->n_out = 4;
    for (int i = 0; i < 3; i++) kr_case_normal(k, i, 2, shape);
    kr_case_normal(k, 3, 1, &shape[1]);
    kr_case_in(k, 4, KR_F32, 1, shape, KR_FILL_NORMAL, 0.3, 0);
    kr_case_in(k, 5, KR_F32, 1, shape, KR_FILL_UNIFORM, 0.5, 2);
    if (plain) kr_case_without(k, 1);
    k->out_absent[3] = index % 3 == 1;
    k->attr = &case_attr;
    k->attr_size = sizeof case_attr;
    if (!plain) k->half.wide = 4; /* a sum with the residual is f32 */
    if (index == 14) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_layernorm);
KR_DECLARE_KERNEL(kr_layernorm_grad);

const kr_op kr_op_layernorm = {
    .name = "layernorm",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = forward_cost,
    .cases = forward_cases,
    .n_in = 4,
    .n_out = 4,
    .no_accumulate = 15,
    .half_in = 1,
    .kernel = KR_KERNELS_GPU(kr_layernorm),
};

const kr_op kr_op_layernorm_grad = {
    .name = "layernorm_grad",
    .shape = backward_shape,
    .scratch = backward_scratch,
    .scratch_cuda = backward_scratch_cuda,
    .cost = backward_cost,
    .cases = backward_cases,
    .n_in = 6,
    .n_out = 4,
    .half_in = 1 | 4,
    .kernel = KR_KERNELS_GPU(kr_layernorm_grad),
};
