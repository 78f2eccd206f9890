/* squared_error.c - rules of the loss of telling numbers; squared_error.h has the contract. */
#include "ops/squared_error/squared_error.h"

#include "base/err.h"
#include "ops/case.h"

static int need_inputs(const char *op, const kr_call *c, krait_error *e) {
    const kr_tensor *y = &c->in[0], *wanted = &c->in[1];
    KR_TRY(kr_need_rank(op, "y", y, 2, e));
    KR_TRY(kr_need_rank(op, "wanted", wanted, 2, e));
    KR_TRY(kr_need_dim(op, "wanted", wanted, 0, y->shape[0], e));
    return kr_need_dim(op, "wanted", wanted, 1, y->shape[1], e);
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *y = &c->in[0];
    KR_TRY(need_inputs("squared_error", c, e));
    out[0] = kr_tensor_make(NULL, y->dtype, 1, y->shape);
    out[0].dim0 = y->dim0;
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(need_inputs("squared_error_grad", c, e));
    KR_TRY(kr_need_dim("squared_error_grad", "dloss", &c->in[2], 0, c->in[0].shape[0], e));
    out[0] = out[1] = kr_out_like(&c->in[0]);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *dloss = kr_rule_dout(t, n, 0), *outs[2] = {NULL};
    uint32_t accumulate = 0;
    if (!dloss) return;
    for (int i = 0; i < 2; i++) kr_rule_din(t, n, i, outs, i, &accumulate);
    kr_value *ins[3] = {kr_rule_saved(t, kr_rule_in(n, 0)), kr_rule_saved(t, kr_rule_in(n, 1)),
                        dloss};
    kr_rule_emit(t, &kr_op_squared_error_grad, NULL, 0, ins, 3, outs, 2, accumulate);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 3 * (double)kr_tensor_count(&c->in[0]);
    *bytes = kr_call_bytes(c);
}

static bool cases_of(int index, kr_case *k) {
    static const int64_t shapes[][2] = {{1, 1}, {63, 17}, {5, 300}, {700, 1}, {63, 17}};
    if (index > 4) return false;
    k->name = "numbers";
    k->n_out = 1;
    k->half.none = true;
    for (int i = 0; i < 2; i++) kr_case_normal(k, i, 2, shapes[index]);
    if (index == 4) kr_case_far(k);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    if (!cases_of(index, k)) return false;
    k->n_out = 2;
    k->out_absent[1] = index % 2;
    kr_case_normal(k, 2, 1, k->in[0].shape);
    return true;
}

KR_DECLARE_KERNEL(kr_squared_error);
KR_DECLARE_KERNEL(kr_squared_error_grad);

const kr_op kr_op_squared_error = {
    .name = "squared_error",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = cost,
    .cases = cases_of,
    .n_in = 2,
    .n_out = 1,
    .no_accumulate = 1,
    .kernel = KR_KERNELS_GPU(kr_squared_error),
};

const kr_op kr_op_squared_error_grad = {
    .name = "squared_error_grad",
    .shape = backward_shape,
    .cost = cost,
    .cases = backward_cases,
    .n_in = 3,
    .n_out = 2,
    .kernel = KR_KERNELS_GPU(kr_squared_error_grad),
};
