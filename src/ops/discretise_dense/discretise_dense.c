/* discretise_dense.c - rules of the discretisation of a whole matrix; discretise_dense.h has the
 * contract. */
#include "ops/discretise_dense/discretise_dense.h"

#include "ops/discretise/discretise_rules.h"

enum { INS = KR_DENSE_INS, GRAD_INS = KR_DENSE_INS + 2 };

static const char *const names[GRAD_INS] = {"log_dt", "A", "B", "ddecay", "db"};

static int need(const kr_call *c, int i, int rank, const int64_t *shape, krait_error *e) {
    return kr_discretise_need("discretise_dense", names[i], c, i, rank, shape, e);
}

static int check(const kr_call *c, krait_error *e) {
    const kr_tensor *dt = &c->in[KR_DENSE_DT], *A = &c->in[KR_DENSE_A];
    KR_TRY(kr_need_rank("discretise_dense", "log_dt", dt, 1, e));
    KR_TRY(kr_need_rank("discretise_dense", "A", A, 2, e));
    int64_t H = dt->shape[0], N = A->shape[1];
    KR_TRY(need(c, KR_DENSE_A, 2, (int64_t[]){N, N}, e));
    KR_TRY(need(c, KR_DENSE_B, 1, &N, e));
    for (int i = INS; i < c->n_in; i++)
        if (c->in[i].data) KR_TRY(need(c, i, 2, (int64_t[]){H, (i == INS ? 1 + 2 * N : 1) * N}, e));
    return 0;
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check(c, e));
    const kr_tensor *dt = &c->in[KR_DENSE_DT];
    int64_t H = dt->shape[0], N = c->in[KR_DENSE_A].shape[1];
    out[0] = kr_tensor_make(NULL, dt->dtype, 2, (int64_t[]){H, (1 + 2 * N) * N});
    out[1] = kr_tensor_make(NULL, dt->dtype, 2, (int64_t[]){H, N});
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check(c, e));
    for (int i = 0; i < INS; i++) out[i] = kr_out_like(&c->in[i]);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_discretise_pull_back(t, n, &kr_op_discretise_dense_grad, sizeof(kr_discretise_dense_attr),
                            INS);
}

/* Four matrices and three vectors (discretise_dense_ref.c). */
static size_t scratch(const kr_call *c) {
    int64_t N = c->in[KR_DENSE_A].shape[1];
    return (size_t)(4 * N * N + 3 * N) * sizeof(double);
}

static size_t scratch_cuda(const kr_call *c, bool backward) {
    int64_t N = c->in[KR_DENSE_A].shape[1];
    int64_t blocks = kr_dense_blocks(c->in[KR_DENSE_DT].shape[0], N);
    int64_t sums = backward ? N * N + N : 0;
    int64_t work = N > KR_DENSE_SHARED ? kr_dense_work(N, backward) : 0;
    return (size_t)(blocks * (sums + work)) * sizeof(double);
}

static size_t scratch_cuda_forward(const kr_call *c) { return scratch_cuda(c, false); }
static size_t scratch_cuda_backward(const kr_call *c) { return scratch_cuda(c, true); }

static void cost(const kr_call *c, double *flops, double *bytes) {
    double H = (double)c->in[KR_DENSE_DT].shape[0], N = (double)c->in[KR_DENSE_A].shape[1];
    *flops = H * N * N * N * (c->n_in > INS ? 6 : 2);
    *bytes = kr_call_bytes(c);
}

static const struct {
    const char *name;
    int64_t H, N;
    kr_discretise_dense_attr attr;
} table[] = {
    {"one number", 1, 1, {1}},
    {"N 17", 7, 17, {1}},
    {"N 5, twice as slow", 12, 5, {2}},
    {"N 80, beyond the GPU's shared memory", 3, 80, {1}},
};

static bool inputs(int index, kr_case *k, bool backward) {
    if (index >= (int)(sizeof table / sizeof *table)) return false;
    int64_t H = table[index].H, N = table[index].N;
    k->name = table[index].name;
    k->attr = &table[index].attr;
    k->attr_size = sizeof table[index].attr;
    k->half.none = true;
    k->tolerance = 1e-5;
    kr_case_in(k, KR_DENSE_DT, KR_F32, 1, &H, KR_FILL_UNIFORM, -5, -2);
    kr_case_normal(k, KR_DENSE_A, 2, (int64_t[]){N, N});
    kr_case_normal(k, KR_DENSE_B, 1, &N);
    if (backward) kr_case_normal(k, INS, 2, (int64_t[]){H, (1 + 2 * N) * N});
    if (backward) kr_case_normal(k, INS + 1, 2, (int64_t[]){H, N});
    k->n_out = backward ? INS : 2;
    return true;
}

static bool forward_cases(int index, kr_case *k) { return inputs(index, k, false); }
static bool backward_cases(int index, kr_case *k) { return inputs(index, k, true); }

KR_DECLARE_REF_KERNEL(kr_discretise_dense);
KR_DECLARE_REF_KERNEL(kr_discretise_dense_grad);

const kr_op kr_op_discretise_dense = {
    .name = "discretise_dense",
    .shape = forward_shape,
    .grad = forward_grad,
    .scratch = scratch,
    .scratch_cuda = scratch_cuda_forward,
    .cost = cost,
    .cases = forward_cases,
    .n_in = INS,
    .n_out = 2,
    .kernel = KR_REF_KERNELS_GPU(kr_discretise_dense),
};

const kr_op kr_op_discretise_dense_grad = {
    .name = "discretise_dense_grad",
    .shape = backward_shape,
    .scratch = scratch,
    .scratch_cuda = scratch_cuda_backward,
    .cost = cost,
    .cases = backward_cases,
    .n_in = GRAD_INS,
    .n_out = INS,
    .kernel = KR_REF_KERNELS_GPU(kr_discretise_dense_grad),
};
