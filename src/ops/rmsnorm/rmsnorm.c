/* rmsnorm.c - shape and gradient rules of the root-mean-square norm; rmsnorm.h has the equations */
#include "ops/rmsnorm/rmsnorm.h"

#include "base/err.h"
#include "ops/case.h"

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0], *residual = &c->in[1], *weight = &c->in[2];
    KR_TRY(kr_need_rank("rmsnorm", "x", x, 2, e));
    if (residual->data) {
        KR_TRY(kr_need_rank("rmsnorm", "residual", residual, 2, e));
        KR_TRY(kr_need_dim("rmsnorm", "residual", residual, 0, x->shape[0], e));
        KR_TRY(kr_need_dim("rmsnorm", "residual", residual, 1, x->shape[1], e));
    }
    if (weight->data) {
        KR_TRY(kr_need_rank("rmsnorm", "weight", weight, 1, e));
        KR_TRY(kr_need_dim("rmsnorm", "weight", weight, 0, x->shape[1], e));
    }
    out[0] = kr_tensor_make(NULL, x->dtype, 2, x->shape);
    if (residual->data) out[1] = out[0];
    out[2] = kr_tensor_make(NULL, x->dtype, 1, x->shape);
    for (int i = 0; i < 3; i++) out[i].dim0 = x->dim0;
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *dy = kr_rule_dout(t, n, 0), *dsum = kr_rule_dout(t, n, 1);
    kr_value *sum = kr_rule_out(n, 1) ? kr_rule_out(n, 1) : kr_rule_in(n, 0);
    kr_value *outs[2] = {NULL, NULL};
    uint32_t accumulate = 0;
    if (!dy) { /* only the sum was used: the norm itself contributes nothing */
        if (dsum) {
            kr_rule_din_is(t, n, 0, dsum);
            kr_rule_din_is(t, n, 1, dsum);
        }
        return;
    }
    /* x and the residual enter as a sum: one gradient for both */
    bool shared = kr_rule_in(n, 1) != NULL;
    if (shared)
        outs[0] = kr_rule_temporary(t, sum);
    else
        kr_rule_din(t, n, 0, outs, 0, &accumulate);
    kr_rule_din(t, n, 2, outs, 1, &accumulate);
    kr_value *ins[5] = {dy, dsum, kr_rule_saved(t, sum), kr_rule_in(n, 2),
                        kr_rule_saved(t, kr_rule_out(n, 2))};
    kr_rule_emit(t, &kr_op_rmsnorm_grad, kr_rule_attr(n), sizeof(kr_rmsnorm_attr), ins, 5, outs, 2,
                 accumulate);
    for (int i = 0; shared && i < 2; i++) kr_rule_din_is(t, n, i, outs[0]);
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *dy = &c->in[0], *s = &c->in[2];
    KR_TRY(kr_need_rank("rmsnorm_grad", "s", s, 2, e));
    KR_TRY(kr_need_dim("rmsnorm_grad", "dy", dy, 1, s->shape[1], e));
    out[0] = kr_tensor_make(NULL, s->dtype, 2, s->shape);
    out[0].dim0 = s->dim0;
    out[1] = kr_tensor_make(NULL, s->dtype, 1, &s->shape[1]);
    return 0;
}

/* The chunks' sums of dweight. */
static size_t backward_scratch(const kr_call *c) {
    const kr_tensor *s = &c->in[2];
    return (size_t)kr_rmsnorm_chunks(s->shape[0]) * (size_t)s->shape[1] * sizeof(float);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 5 * (double)kr_tensor_count(&c->in[0]);
    *bytes = (double)kr_tensor_bytes(&c->in[0]) * (c->in[1].data ? 4 : 2); /* x y, residual sum */
}

static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 10 * (double)kr_tensor_count(&c->in[2]);
    *bytes = (double)kr_tensor_bytes(&c->in[2]) * (c->in[1].data ? 4 : 3); /* dy s ds, dsum */
}

static const kr_rmsnorm_attr case_attr = {1e-5};

/* Rows of shape [M,D]: odd sizes, with and without the optional arguments. */
static bool forward_cases(int index, kr_case *k) {
    static const int64_t sizes[][2] = {{1, 1}, {3, 17}, {63, 100}, {5, 768}, {2, 16}};
    if (index > 10) return false;
    const int64_t *shape = sizes[index < 10 ? index / 2 : 1];
    bool plain = index % 2;
    k->name = plain ? "alone" : "with residual and weight";
    k->n_in = 3;
    k->n_out = 3;
    for (int i = 0; i < 2; i++) {
        k->in[i] = kr_tensor_make(NULL, KR_F32, 2, shape);
        k->fill[i].a = 1;
    }
    k->in[2] = kr_tensor_make(NULL, KR_F32, 1, &shape[1]);
    k->fill[2].a = 1;
    if (plain) k->fill[1].kind = k->fill[2].kind = KR_FILL_ABSENT;
    k->out_absent[1] = plain;
    k->attr = &case_attr;
    k->attr_size = sizeof case_attr;
    if (index == 10) kr_case_far(k);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    static const int64_t sizes[][2] = {{1, 1}, {3, 17}, {63, 100}, {5, 768}, {2, 16}};
    if (index > 10) return false;
    const int64_t *shape = sizes[index < 10 ? index / 2 : 1];
    bool plain = index % 2;
    k->name = plain ? "alone" : "with residual and weight";
    k->n_in = 5;
    k->n_out = 2;
    for (int i = 0; i < 3; i++) {
        k->in[i] = kr_tensor_make(NULL, KR_F32, 2, shape);
        k->fill[i].a = 1;
    }
    k->in[3] = kr_tensor_make(NULL, KR_F32, 1, &shape[1]);
    k->fill[3].a = 1;
    k->in[4] = kr_tensor_make(NULL, KR_F32, 1, shape);
    k->fill[4].kind = KR_FILL_UNIFORM;
    k->fill[4].a = 0.5;
    k->fill[4].b = 2;
    if (plain) k->fill[1].kind = k->fill[3].kind = KR_FILL_ABSENT;
    k->out_absent[1] = plain;
    k->attr = &case_attr;
    k->attr_size = sizeof case_attr;
    if (index == 10) kr_case_far(k);
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
    .kernel = KR_KERNELS(kr_rmsnorm),
};

const kr_op kr_op_rmsnorm_grad = {
    .name = "rmsnorm_grad",
    .shape = backward_shape,
    .scratch = backward_scratch,
    .cost = backward_cost,
    .cases = backward_cases,
    .n_in = 5,
    .n_out = 2,
    .kernel = KR_KERNELS(kr_rmsnorm_grad),
};
