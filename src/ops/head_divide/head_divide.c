/* head_divide.c - rules of the division of heads; head_divide.h has the contract. */
#include "ops/head_divide/head_divide.h"

#include "base/err.h"
#include "ops/case.h"

static int check(const char *op, const kr_tensor *x, const kr_tensor *s, krait_error *e) {
    char text[96];
    KR_TRY(kr_need_rank(op, "x", x, 2, e));
    KR_TRY(kr_need_rank(op, "s", s, 2, e));
    KR_TRY(kr_need_dim(op, "s", s, 0, x->shape[0], e));
    if (s->dtype == x->dtype && s->shape[1] > 0 && x->shape[1] % s->shape[1] == 0) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: s must have a width that divides %lld, is %s", op,
                   (long long)x->shape[1], kr_tensor_describe(s, text));
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check("head_divide", &c->in[0], &c->in[1], e));
    out[0] = kr_out_like(&c->in[0]);
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[1];
    KR_TRY(check("head_divide_grad", x, &c->in[2], e));
    KR_TRY(kr_need_rank("head_divide_grad", "dy", &c->in[0], 2, e));
    for (int d = 0; d < 2; d++)
        KR_TRY(kr_need_dim("head_divide_grad", "dy", &c->in[0], d, x->shape[d], e));
    out[0] = kr_out_like(x);
    out[1] = kr_out_like(&c->in[2]);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *saved[] = {kr_rule_in(n, 0), kr_rule_in(n, 1)};
    kr_rule_pull_back(t, n, &kr_op_head_divide_grad, kr_rule_attr(n), sizeof(kr_head_divide_attr),
                      saved, 2, 0, 2);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = (c->n_in == 3 ? 3 : 1) * (double)kr_tensor_count(&c->in[0]);
    *bytes = (c->n_in == 3 ? 3 : 2) * (double)kr_tensor_bytes(&c->in[0]);
}

static const kr_head_divide_attr attr = {0.25};

/* x and s, from input i on; s is positive. */
static bool cases_of(int index, kr_case *k, int i) {
    static const int64_t list[][3] = {{1, 1, 1}, {3, 17, 1}, {5, 4, 16}, {63, 3, 33}, {7, 5, 4}};
    static const char *const names[] = {"one number", "heads of one", "whole vectors", "odd",
                                        "far"};
    if (index >= 5) return false;
    const int64_t *s = list[index], shape[2] = {s[0], s[1] * s[2]};
    k->name = names[index];
    for (int j = 0; j <= i; j++) kr_case_normal(k, j, 2, shape);
    kr_case_in(k, i + 1, KR_F32, 2, s, KR_FILL_UNIFORM, 0.5, 2);
    k->attr = &attr;
    k->attr_size = sizeof attr;
    k->n_out = 1 + i;
    if (index == 4) kr_case_far(k);
    return true;
}

static bool forward_cases(int index, kr_case *k) { return cases_of(index, k, 0); }
static bool backward_cases(int index, kr_case *k) { return cases_of(index, k, 1); }

KR_DECLARE_KERNEL(kr_head_divide);
KR_DECLARE_KERNEL(kr_head_divide_grad);

const kr_op kr_op_head_divide = {
    .name = "head_divide",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = cost,
    .cases = forward_cases,
    .n_in = 2,
    .n_out = 1,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_head_divide),
};

const kr_op kr_op_head_divide_grad = {
    .name = "head_divide_grad",
    .shape = backward_shape,
    .cost = cost,
    .cases = backward_cases,
    .n_in = 3,
    .n_out = 2,
    .half_in = 7,
    .kernel = KR_KERNELS_GPU(kr_head_divide_grad),
};
