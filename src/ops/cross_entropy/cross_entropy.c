/* cross_entropy.c - rules of the loss; cross_entropy.h has the contract. */
#include "ops/cross_entropy/cross_entropy.h"

#include "base/err.h"
#include "ops/case.h"

static int need_inputs(const char *op, const kr_call *c, krait_error *e) {
    const kr_tensor *logits = &c->in[0], *targets = &c->in[1];
    KR_TRY(kr_need_rank(op, "logits", logits, 2, e));
    KR_TRY(kr_need_rank(op, "targets", targets, 1, e));
    KR_TRY(kr_need_dim(op, "targets", targets, 0, logits->shape[0], e));
    if (targets->dtype == KR_I32) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: targets must be i32, is %s", op,
                   kr_dtype_name(targets->dtype));
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *logits = &c->in[0];
    KR_TRY(need_inputs("cross_entropy", c, e));
    out[0] = kr_tensor_make(NULL, logits->dtype, 1, logits->shape);
    out[0].dim0 = logits->dim0;
    out[1] = out[0];
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *logits = &c->in[0];
    KR_TRY(need_inputs("cross_entropy_grad", c, e));
    KR_TRY(kr_need_dim("cross_entropy_grad", "lse", &c->in[2], 0, logits->shape[0], e));
    KR_TRY(kr_need_dim("cross_entropy_grad", "dnll", &c->in[3], 0, logits->shape[0], e));
    out[0] = kr_out_like(logits);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *dnll = kr_rule_dout(t, n, 0), *outs[1] = {NULL};
    uint32_t accumulate = 0;
    if (!dnll) return;
    kr_rule_din(t, n, 0, outs, 0, &accumulate);
    kr_value *ins[4] = {kr_rule_saved(t, kr_rule_in(n, 0)), kr_rule_saved(t, kr_rule_in(n, 1)),
                        kr_rule_saved(t, kr_rule_out(n, 1)), dnll};
    kr_rule_emit(t, &kr_op_cross_entropy_grad, NULL, 0, ins, 4, outs, 1, accumulate);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 17 * (double)kr_tensor_count(&c->in[0]);
    *bytes = (double)kr_tensor_bytes(&c->in[0]);
}

static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 17 * (double)kr_tensor_count(&c->in[0]);
    *bytes = 2 * (double)kr_tensor_bytes(&c->in[0]);
}

/* Logits of spread 1 and, in wide cases, of spread 30 (one term rules the sum). */
static bool wide(int index) { return index < 8 && index % 2; }

static bool cases_of(int index, kr_case *k) {
    static const int64_t shapes[][2] = {{1, 1}, {63, 17}, {5, 300}, {3, 5003}, {1, (1 << 24) + 1}};
    if (index > 9) return false;
    const int64_t *s = shapes[index == 8 ? 1 : index / 2];
    k->name = wide(index) ? "wide logits" : "logits";
    kr_case_in(k, 0, KR_F32, 2, s, KR_FILL_NORMAL, wide(index) ? 30 : 1, 0);
    kr_case_in(k, 1, KR_I32, 1, s, KR_FILL_INDEX, (double)s[1], s[0] > 1 ? 0.2 : 0);
    return true;
}

static bool forward_cases(int index, kr_case *k) {
    k->n_out = 2;
    if (index > 8 || !cases_of(index, k)) return false;
    if (index == 8) kr_case_far(k);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    k->n_out = 1;
    if (!cases_of(index, k)) return false;
    /* lse no smaller than what the logits can give, so that no softmax is far above one */
    double low = wide(index) ? 90 : 4;
    kr_case_in(k, 2, KR_F32, 1, k->in[0].shape, KR_FILL_UNIFORM, low, low + 5);
    kr_case_normal(k, 3, 1, k->in[0].shape);
    /* x - lse is rounded to 2^-24 of up to 180 before the exponential */
    if (wide(index)) k->tolerance = 1e-5;
    if (index == 8) kr_case_far(k);
    if (index == 9) { /* a grid of the GPU is lower */
        k->name = "many logits";
        k->large = true;
    }
    return true;
}

KR_DECLARE_KERNEL(kr_cross_entropy);
KR_DECLARE_KERNEL(kr_cross_entropy_grad);

const kr_op kr_op_cross_entropy = {
    .name = "cross_entropy",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = forward_cost,
    .cases = forward_cases,
    .n_in = 2,
    .n_out = 2,
    .no_accumulate = 3,
    .kernel = KR_KERNELS_GPU(kr_cross_entropy),
};

const kr_op kr_op_cross_entropy_grad = {
    .name = "cross_entropy_grad",
    .shape = backward_shape,
    .cost = backward_cost,
    .cases = backward_cases,
    .n_in = 4,
    .n_out = 1,
    .inplace = 1,
    .kernel = KR_KERNELS_GPU(kr_cross_entropy_grad),
};
