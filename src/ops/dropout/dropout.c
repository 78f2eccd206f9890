/* dropout.c - rules of leaving out at random; dropout.h has the contract. */
#include "ops/dropout/dropout.h"

#include "base/err.h"
#include "ops/case.h"

static int shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0], *draw = &c->in[1], *seqs = &c->in[2];
    KR_TRY(kr_need_rank("dropout", "x", x, 2, e));
    KR_TRY(kr_need_rank("dropout", "draw", draw, 1, e));
    KR_TRY(kr_need_dim("dropout", "draw", draw, 0, 2, e));
    if (seqs->data) KR_TRY(kr_need_rank("dropout", "seqs", seqs, 2, e));
    if (seqs->data) KR_TRY(kr_need_dim("dropout", "seqs", seqs, 1, 3, e));
    KR_TRY(kr_need_type("dropout", "draw", draw, KR_I64, e));
    if (seqs->data) KR_TRY(kr_need_type("dropout", "seqs", seqs, KR_I64, e));
    out[0] = kr_out_like(x);
    return 0;
}

static void grad(kr_tape *t, const kr_node *n) {
    kr_value *saved[] = {kr_rule_in(n, 1), kr_rule_in(n, 2)};
    kr_rule_pull_back(t, n, &kr_op_dropout, kr_rule_attr(n), sizeof(kr_dropout_attr), saved, 2, 0,
                      1);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 25 * (double)kr_tensor_count(&c->in[0]);
    *bytes = 2 * (double)kr_tensor_bytes(&c->in[0]);
}

static bool cases(int index, kr_case *k) {
    static const kr_dropout_attr attrs[] = {{0.5, 0}, {0.1, 7}, {0, 1}};
    static const int64_t sizes[][2] = {{1, 1}, {3, 17}, {63, 100}, {5, 768}, {700, 66}, {2, 3}};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    if (index > 2 * SIZES) return false;
    const int64_t *shape = sizes[index < 2 * SIZES ? index / 2 : 1], two = 2, seqs[2] = {3, 3};
    bool tied = index % 2;
    k->name = tied ? "tied" : "of each row";
    k->n_out = 1;
    k->tokens = shape[0];
    kr_case_normal(k, 0, 2, shape);
    kr_case_in(k, 1, KR_I64, 1, &two, KR_FILL_INDEX, 1 << 30, 0);
    kr_case_in(k, 2, KR_I64, 2, seqs, KR_FILL_SEQS, 0, 0);
    if (!tied) kr_case_without(k, 2);
    k->attr = &attrs[index % 3];
    k->attr_size = sizeof *attrs;
    if (index == 2 * SIZES) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_dropout);

const kr_op kr_op_dropout = {
    .name = "dropout",
    .shape = shape,
    .grad = grad,
    .cost = cost,
    .cases = cases,
    .n_in = 3,
    .n_out = 1,
    .inplace = 1,
    .half_in = 1,
    .kernel = KR_KERNELS_GPU(kr_dropout),
};
