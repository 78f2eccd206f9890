/* add.c - rules of the elementwise sum; add.h has the contract. */
#include "ops/add/add.h"

#include "base/err.h"
#include "ops/case.h"

static int shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *a = &c->in[0], *b = &c->in[1];
    if (b->data) KR_TRY(kr_need_rank("add", "b", b, a->rank, e));
    for (int i = 0; b->data && i < a->rank; i++)
        KR_TRY(kr_need_dim("add", "b", b, i, a->shape[i], e));
    out[0] = kr_out_like(a);
    return 0;
}

static void grad(kr_tape *t, const kr_node *n) {
    kr_value *dc = kr_rule_dout(t, n, 0);
    for (int i = 0; dc && i < 2; i++) kr_rule_din_is(t, n, i, dc);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = (double)kr_tensor_count(&c->in[0]);
    *bytes = 3 * (double)kr_tensor_bytes(&c->in[0]);
}

static bool cases(int index, kr_case *k) {
    static const struct {
        const char *name;
        int rank;
        int64_t shape[3];
    } list[] = {{"one element", 1, {1}}, {"a row of 63", 1, {63}},
                {"matrix", 2, {5, 17}},  {"three dimensions", 3, {3, 5, 100}},
                {"a copy", 2, {5, 17}},  {"far", 2, {5, 17}}};
    if (index >= (int)(sizeof list / sizeof *list)) return false;
    k->name = list[index].name;
    k->n_out = 1;
    for (int i = 0; i < 2; i++) kr_case_normal(k, i, list[index].rank, list[index].shape);
    if (index == 4) kr_case_without(k, 1);
    if (index == 5) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_add);

const kr_op kr_op_add = {
    .name = "add",
    .shape = shape,
    .grad = grad,
    .cost = cost,
    .cases = cases,
    .n_in = 2,
    .n_out = 1,
    .inplace = 1,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_add),
};
