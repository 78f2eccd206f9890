/* reverse_rows.c - rules of turning sequences round; reverse_rows.h has the contract. */
#include "ops/reverse_rows/reverse_rows.h"

#include "base/err.h"
#include "ops/case.h"

static int shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0], *seqs = &c->in[1];
    KR_TRY(kr_need_rank("reverse_rows", "x", x, 2, e));
    KR_TRY(kr_need_rank("reverse_rows", "seqs", seqs, 2, e));
    KR_TRY(kr_need_dim("reverse_rows", "seqs", seqs, 1, 3, e));
    KR_TRY(kr_need_type("reverse_rows", "seqs", seqs, KR_I64, e));
    out[0] = kr_out_like(x);
    return 0;
}

static void grad(kr_tape *t, const kr_node *n) {
    kr_value *saved[] = {kr_rule_in(n, 1)};
    kr_rule_pull_back(t, n, &kr_op_reverse_rows, NULL, 0, saved, 1, 0, 1);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 0;
    *bytes = 2 * (double)kr_tensor_bytes(&c->in[0]);
}

static bool cases(int index, kr_case *k) {
    static const int64_t sizes[][3] = {{1, 1, 1},     {17, 3, 5},    {63, 9, 17},
                                       {100, 1, 768}, {2000, 3, 64}, {5, 8, 20}}; /* M S D */
    enum { SIZES = sizeof sizes / sizeof *sizes };
    if (index > SIZES) return false;
    const int64_t *s = sizes[index < SIZES ? index : 1], x[2] = {s[0], s[2]}, seqs[2] = {s[1], 3};
    k->name = s[0] < s[1] ? "more sequences than rows" : "ragged sequences";
    k->n_out = 1;
    k->tokens = s[0];
    kr_case_normal(k, 0, 2, x);
    kr_case_in(k, 1, KR_I64, 2, seqs, KR_FILL_SEQS, 0, 0);
    if (index == SIZES) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_reverse_rows);

const kr_op kr_op_reverse_rows = {
    .name = "reverse_rows",
    .shape = shape,
    .grad = grad,
    .cost = cost,
    .cases = cases,
    .n_in = 2,
    .n_out = 1,
    .half_in = 1,
    .kernel = KR_KERNELS_GPU(kr_reverse_rows),
};
