/* embedding.c - rules of the embedding; embedding.h has the contract. */
#include "ops/embedding/embedding.h"

#include "base/err.h"
#include "ops/case.h"
#include "ops/scatter_rows.h"

static int need_ids(const char *op, const kr_tensor *ids, krait_error *e) {
    KR_TRY(kr_need_rank(op, "ids", ids, 1, e));
    if (ids->dtype == KR_I32) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: ids must be i32, is %s", op, kr_dtype_name(ids->dtype));
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *ids = &c->in[0], *weight = &c->in[1];
    KR_TRY(need_ids("embedding", ids, e));
    KR_TRY(kr_need_rank("embedding", "weight", weight, 2, e));
    int64_t shape[2] = {ids->shape[0], weight->shape[1]};
    out[0] = kr_tensor_make(NULL, weight->dtype == KR_F64 ? KR_F64 : KR_F32, 2, shape);
    out[0].dim0 = ids->dim0;
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *dy = &c->in[0], *dweight = &c->out[0];
    (void)out;
    KR_TRY(kr_need_rank("embedding_grad", "dy", dy, 2, e));
    KR_TRY(need_ids("embedding_grad", &c->in[1], e));
    KR_TRY(kr_need_dim("embedding_grad", "ids", &c->in[1], 0, dy->shape[0], e));
    KR_TRY(kr_need_rank("embedding_grad", "dweight", dweight, 2, e));
    return kr_need_dim("embedding_grad", "dweight", dweight, 1, dy->shape[1], e);
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *saved[] = {kr_rule_in(n, 0)};
    kr_rule_pull_back(t, n, &kr_op_embedding_grad, NULL, 0, saved, 1, 1, 1);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    double elements = (double)c->in[0].shape[0] * (double)c->in[1].shape[1];
    *flops = 0;
    *bytes = elements * (4 + (double)kr_dtype_size(c->in[1].dtype));
}

/* Each dy is read and added to a row of dweight. */
static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    *flops = (double)kr_tensor_count(&c->in[0]);
    *bytes = 3 * (double)kr_tensor_bytes(&c->in[0]);
}

static const int64_t sizes[][3] = {
    {1, 1, 1}, {63, 7, 17}, {5, 300, 100}, {100, 40, 768}, {5000, 70000, 20}}; /* M V D */

static bool forward_cases(int index, kr_case *k) {
    static const kr_dtype types[] = {KR_F32, KR_BF16, KR_F16};
    static const char *const names[] = {"f32", "bf16", "f16"};
    if (index > 15) return false;
    const int64_t *s = sizes[index < 15 ? index / 3 : 1];
    k->name = names[index % 3];
    k->n_out = 1;
    kr_case_in(k, 0, KR_I32, 1, s, KR_FILL_INDEX, (double)s[1], 0.05);
    kr_case_in(k, 1, types[index % 3], 2, &s[1], KR_FILL_NORMAL, 1, 0);
    if (index == 15) kr_case_far(k);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    if (index > 5) return false;
    const int64_t *s = sizes[index < 5 ? index : 1], dy[2] = {s[0], s[2]};
    k->name = "ids that repeat";
    k->n_out = 1;
    kr_case_normal(k, 0, 2, dy);
    kr_case_in(k, 1, KR_I32, 1, s, KR_FILL_INDEX, (double)s[1], 0.05);
    k->out[0] = kr_tensor_make(NULL, KR_F32, 2, &s[1]);
    if (index == 5) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_embedding);
KR_DECLARE_KERNEL(kr_embedding_grad);

const kr_op kr_op_embedding = {
    .name = "embedding",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = forward_cost,
    .cases = forward_cases,
    .n_in = 2,
    .n_out = 1,
    .no_accumulate = 1,
    .kernel = KR_KERNELS_GPU(kr_embedding),
};

const kr_op kr_op_embedding_grad = {
    .name = "embedding_grad",
    .shape = backward_shape,
    .scratch_cuda = kr_scatter_rows_scratch,
    .cost = backward_cost,
    .cases = backward_cases,
    .n_in = 2,
    .n_out = 1,
    .kernel = KR_KERNELS_GPU(kr_embedding_grad),
};
