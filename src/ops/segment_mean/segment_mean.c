/* segment_mean.c - rules of the mean over each sequence; segment_mean.h has the contract. */
#include "ops/segment_mean/segment_mean.h"

#include "base/err.h"
#include "ops/case.h"

static int check_seqs(const char *op, const kr_tensor *seqs, krait_error *e) {
    KR_TRY(kr_need_rank(op, "seqs", seqs, 2, e));
    KR_TRY(kr_need_dim(op, "seqs", seqs, 1, 3, e));
    return kr_need_type(op, "seqs", seqs, KR_I64, e);
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0], *seqs = &c->in[1];
    KR_TRY(kr_need_rank("segment_mean", "x", x, 2, e));
    KR_TRY(check_seqs("segment_mean", seqs, e));
    int64_t shape[2] = {seqs->shape[0], x->shape[1]};
    out[0] = kr_tensor_make(NULL, x->dtype == KR_F64 ? KR_F64 : KR_F32, 2, shape);
    out[0].dim0 = seqs->dim0;
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *dy = &c->in[0], *dx = &c->out[0];
    (void)out;
    KR_TRY(kr_need_rank("segment_mean_grad", "dy", dy, 2, e));
    KR_TRY(check_seqs("segment_mean_grad", &c->in[1], e));
    KR_TRY(kr_need_rank("segment_mean_grad", "dx", dx, 2, e));
    return kr_need_dim("segment_mean_grad", "dx", dx, 1, dy->shape[1], e);
}

static int share_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *v = &c->in[0], *x = &c->in[2];
    KR_TRY(kr_need_rank("segment_share", "v", v, 2, e));
    KR_TRY(check_seqs("segment_share", &c->in[1], e));
    KR_TRY(kr_need_dim("segment_share", "seqs", &c->in[1], 0, v->shape[0], e));
    KR_TRY(kr_need_rank("segment_share", "x", x, 2, e));
    out[0] = kr_tensor_make(NULL, x->dtype, 2, (int64_t[]){x->shape[0], v->shape[1]});
    out[0].dim0 = x->dim0;
    return 0;
}

/* Each is the transpose of the other. A mean cannot be added to what is there. */
static void share_grad(kr_tape *t, const kr_node *n) {
    kr_value *v = kr_rule_in(n, 0), *dy = kr_rule_dout(t, n, 0), *dv = kr_rule_temporary(t, v);
    if (!dy || !dv) return;
    kr_value *ins[] = {dy, kr_rule_in(n, 1)};
    kr_rule_emit(t, &kr_op_segment_mean, NULL, 0, ins, 2, &dv, 1, 0);
    kr_rule_din_is(t, n, 0, dv);
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *saved[] = {kr_rule_in(n, 1)};
    kr_rule_pull_back(t, n, &kr_op_segment_mean_grad, NULL, 0, saved, 1, 0, 1);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = (double)kr_tensor_count(&c->in[0]);
    *bytes = (double)kr_tensor_bytes(&c->in[0]) + (double)kr_tensor_bytes(&c->out[0]);
}

static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = (double)kr_tensor_count(&c->out[0]);
    *bytes = (double)kr_tensor_bytes(&c->in[0]) + (double)kr_tensor_bytes(&c->out[0]);
}

static const int64_t sizes[][3] = {{1, 1, 1},     {17, 3, 5},    {63, 9, 17},
                                   {100, 1, 768}, {2000, 3, 64}, {5, 8, 20}}; /* M S D */
enum { SIZES = sizeof sizes / sizeof *sizes };

static bool forward_cases(int index, kr_case *k) {
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

static bool backward_cases(int index, kr_case *k) {
    if (index > SIZES) return false;
    const int64_t *s = sizes[index < SIZES ? index : 1];
    const int64_t dy[2] = {s[1], s[2]}, seqs[2] = {s[1], 3};
    const int64_t dx[2] = {s[0] + (index == 2 ? 3 : 0), s[2]}; /* rows of no sequence too */
    k->name = index == 2 ? "rows of no sequence" : "ragged sequences";
    k->n_out = 1;
    k->tokens = s[0];
    kr_case_normal(k, 0, 2, dy);
    kr_case_in(k, 1, KR_I64, 2, seqs, KR_FILL_SEQS, 0, 0);
    k->out[0] = kr_tensor_make(NULL, KR_F32, 2, dx);
    k->half.out = k->half.wide = 1;
    if (index == SIZES) kr_case_far(k);
    return true;
}

static bool share_cases(int index, kr_case *k) {
    if (index > SIZES) return false;
    const int64_t *s = sizes[index < SIZES ? index : 1];
    const int64_t v[2] = {s[1], s[2]}, seqs[2] = {s[1], 3}, x[2] = {s[0], 2};
    k->name = "ragged sequences";
    k->n_out = 1;
    k->tokens = s[0];
    kr_case_normal(k, 0, 2, v);
    kr_case_in(k, 1, KR_I64, 2, seqs, KR_FILL_SEQS, 0, 0);
    kr_case_normal(k, 2, 2, x);
    if (index == SIZES) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_segment_mean);
KR_DECLARE_KERNEL(kr_segment_mean_grad);

const kr_op kr_op_segment_mean = {
    .name = "segment_mean",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = forward_cost,
    .cases = forward_cases,
    .n_in = 2,
    .half_in = 1,
    .n_out = 1,
    .no_accumulate = 1,
    .kernel = KR_KERNELS_GPU(kr_segment_mean),
};

const kr_op kr_op_segment_mean_grad = {
    .name = "segment_mean_grad",
    .shape = backward_shape,
    .cost = backward_cost,
    .cases = backward_cases,
    .n_in = 2,
    .half_in = 1,
    .n_out = 1,
    .kernel = KR_KERNELS_GPU(kr_segment_mean_grad),
};

const kr_op kr_op_segment_share = {
    .name = "segment_share",
    .shape = share_shape,
    .grad = share_grad,
    .cost = backward_cost,
    .cases = share_cases,
    .n_in = 3,
    .half_in = 1 << 2,
    .n_out = 1,
    .kernel = KR_KERNELS_GPU(kr_segment_mean_grad),
};
