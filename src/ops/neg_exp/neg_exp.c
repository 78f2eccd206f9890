/* neg_exp.c - rules of the negative exponential; neg_exp.h has the contract. */
#include "ops/neg_exp/neg_exp.h"

#include "base/err.h"
#include "ops/case.h"

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    (void)e;
    out[0] = kr_out_like(&c->in[0]);
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *dy = &c->in[0], *y = &c->in[1];
    KR_TRY(kr_need_rank("neg_exp_grad", "dy", dy, y->rank, e));
    for (int i = 0; i < y->rank; i++)
        KR_TRY(kr_need_dim("neg_exp_grad", "dy", dy, i, y->shape[i], e));
    out[0] = kr_out_like(y);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *saved[] = {kr_rule_out(n, 0)};
    kr_rule_pull_back(t, n, &kr_op_neg_exp_grad, NULL, 0, saved, 1, 0, 1);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 15 * (double)kr_tensor_count(&c->in[0]);
    *bytes = 2 * (double)kr_tensor_bytes(&c->in[0]);
}

static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = (double)kr_tensor_count(&c->in[0]);
    *bytes = 3 * (double)kr_tensor_bytes(&c->in[0]);
}

static bool cases_of(int index, kr_case *k, int inputs) {
    static const int64_t shapes[][3] = {{1, 1, 1}, {17, 1, 1}, {3, 17, 1}, {63, 16, 1}, {3, 5, 7}};
    static const int ranks[] = {1, 1, 2, 2, 3};
    if (index >= 5) return false;
    k->name = "elements";
    k->n_out = 1;
    for (int i = 0; i < inputs; i++) kr_case_normal(k, i, ranks[index], shapes[index]);
    return true;
}

static bool forward_cases(int index, kr_case *k) { return cases_of(index, k, 1); }
static bool backward_cases(int index, kr_case *k) { return cases_of(index, k, 2); }

KR_DECLARE_KERNEL(kr_neg_exp);
KR_DECLARE_KERNEL(kr_neg_exp_grad);

const kr_op kr_op_neg_exp = {
    .name = "neg_exp",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = forward_cost,
    .cases = forward_cases,
    .n_in = 1,
    .n_out = 1,
    .kernel = KR_KERNELS_GPU(kr_neg_exp),
};

const kr_op kr_op_neg_exp_grad = {
    .name = "neg_exp_grad",
    .shape = backward_shape,
    .cost = backward_cost,
    .cases = backward_cases,
    .n_in = 2,
    .n_out = 1,
    .kernel = KR_KERNELS_GPU(kr_neg_exp_grad),
};
