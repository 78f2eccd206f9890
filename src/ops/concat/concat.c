/* concat.c - rules of tensors below each other; concat.h has the contract. */
#include "ops/concat/concat.h"

#include "base/err.h"
#include "ops/case.h"

static int check_like(const char *op, const kr_tensor *t, const kr_tensor *first, krait_error *e) {
    char is[96], wanted[96];
    bool good = t->dtype == first->dtype && t->rank == first->rank;
    for (int d = 1; good && d < t->rank; d++) good = t->shape[d] == first->shape[d];
    if (good) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: %s does not go below %s", op, kr_tensor_describe(t, is),
                   kr_tensor_describe(first, wanted));
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    out[0] = kr_out_like(&c->in[0]);
    out[0].dim0 = KR_DIM0_FIXED;
    int64_t rows = 0;
    for (int i = 0; i < c->n_in; i++) {
        KR_TRY(check_like("concat", &c->in[i], &c->in[0], e));
        rows += c->in[i].shape[0];
    }
    int64_t shape[KR_MAX_RANK];
    for (int d = 0; d < out[0].rank; d++) shape[d] = d ? out[0].shape[d] : rows;
    out[0] = kr_tensor_make(NULL, out[0].dtype, out[0].rank, shape);
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    int64_t rows = 0;
    for (int i = 1; i < c->n_in; i++) {
        KR_TRY(check_like("concat_grad", &c->in[i], &c->in[0], e));
        out[i - 1] = kr_out_like(&c->in[i]);
        rows += c->in[i].shape[0];
    }
    return kr_need_dim("concat_grad", "dy", &c->in[0], 0, rows, e);
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *dy = kr_rule_dout(t, n, 0), *outs[KR_MAX_CONCAT] = {NULL};
    kr_value *ins[KR_MAX_CONCAT + 1] = {dy};
    uint32_t accumulate = 0;
    int parts = 0;
    if (!dy) return;
    for (; parts < KR_MAX_CONCAT && kr_rule_in(n, parts); parts++) {
        ins[parts + 1] = kr_rule_saved(t, kr_rule_in(n, parts));
        kr_rule_din(t, n, parts, outs, parts, &accumulate);
    }
    kr_rule_emit(t, &kr_op_concat_grad, NULL, 0, ins, parts + 1, outs, parts, accumulate);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = *bytes = 0;
    for (int i = 0; i < c->n_out; i++) *bytes += 2 * (double)kr_tensor_bytes(&c->out[i]);
}

static bool inputs(int index, kr_case *k, int first) {
    static const struct {
        const char *name;
        int n, rank;
        int64_t shape[KR_MAX_CONCAT][2];
    } list[] = {{"two vectors", 2, 1, {{17}, {17}}},
                {"one", 1, 2, {{5, 3}}},
                {"four matrices", 4, 2, {{1, 7}, {5, 7}, {2, 7}, {9, 7}}}};
    if (index >= (int)(sizeof list / sizeof *list)) return false;
    int64_t whole[2] = {0, list[index].shape[0][1]};
    for (int i = 0; i < list[index].n; i++) {
        kr_case_normal(k, first + i, list[index].rank, list[index].shape[i]);
        whole[0] += list[index].shape[i][0];
    }
    if (first) kr_case_normal(k, 0, list[index].rank, whole);
    k->name = list[index].name;
    k->n_out = first ? list[index].n : 1;
    return true;
}

static bool forward_cases(int index, kr_case *k) { return inputs(index, k, 0); }
static bool backward_cases(int index, kr_case *k) { return inputs(index, k, 1); }

KR_DECLARE_REF_KERNEL(kr_concat);
KR_DECLARE_REF_KERNEL(kr_concat_grad);

const kr_op kr_op_concat = {
    .name = "concat",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = cost,
    .cases = forward_cases,
    .n_in = KR_MAX_CONCAT,
    .n_out = 1,
    .kernel = KR_REF_KERNELS_GPU(kr_concat),
};

const kr_op kr_op_concat_grad = {
    .name = "concat_grad",
    .shape = backward_shape,
    .cost = cost,
    .cases = backward_cases,
    .n_in = KR_MAX_CONCAT + 1,
    .n_out = KR_MAX_CONCAT,
    .kernel = KR_REF_KERNELS_GPU(kr_concat_grad),
};
