/* discretise_low_rank.c - rules of the discretisation of a diagonal minus low rank;
 * discretise_low_rank.h has the contract. */
#include "ops/discretise_low_rank/discretise_low_rank.h"

#include "ops/discretise/discretise_rules.h"

enum { INS = KR_LOW_INS, GRAD_INS = KR_LOW_INS + 2 };

static const char *const names[GRAD_INS] = {"log_dt", "log_rate", "frequency", "B",
                                            "P",      "dA",       "db"};

static int need(const kr_call *c, int i, int rank, const int64_t *shape, krait_error *e) {
    return kr_discretise_need("discretise_low_rank", names[i], c, i, rank, shape, e);
}

static int check(const kr_call *c, krait_error *e) {
    const kr_tensor *dt = &c->in[KR_LOW_DT], *P = &c->in[KR_LOW_P];
    KR_TRY(kr_need_rank("discretise_low_rank", "log_dt", dt, 1, e));
    KR_TRY(kr_need_rank("discretise_low_rank", "P", P, 4, e));
    int64_t H = dt->shape[0], S = P->shape[0], R = P->shape[1], N = P->shape[3];
    if (S < 1 || H % S != 0)
        return kr_fail(e, KRAIT_ERR_SHAPE,
                       "discretise_low_rank: P has %lld systems, which do not divide the %lld "
                       "channels",
                       (long long)S, (long long)H);
    if (R < 1 || R > KR_LOW_RANKS)
        return kr_fail(e, KRAIT_ERR_SHAPE, "discretise_low_rank: P has rank %lld, not 1 to %d",
                       (long long)R, KR_LOW_RANKS);
    KR_TRY(need(c, KR_LOW_RATE, 2, (int64_t[]){S, N}, e));
    KR_TRY(need(c, KR_LOW_FREQUENCY, 2, (int64_t[]){S, N}, e));
    KR_TRY(need(c, KR_LOW_B, 3, (int64_t[]){S, 2, N}, e));
    KR_TRY(need(c, KR_LOW_P, 4, (int64_t[]){S, R, 2, N}, e));
    for (int i = INS; i < c->n_in; i++)
        if (c->in[i].data)
            KR_TRY(need(c, i, 2, (int64_t[]){H, (i == INS ? 1 + 2 * R : 1) * 2 * N}, e));
    return 0;
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check(c, e));
    const kr_tensor *dt = &c->in[KR_LOW_DT], *P = &c->in[KR_LOW_P];
    int64_t H = dt->shape[0], R = P->shape[1], N = P->shape[3];
    out[0] = kr_tensor_make(NULL, dt->dtype, 2, (int64_t[]){H, (1 + 2 * R) * 2 * N});
    out[1] = kr_tensor_make(NULL, dt->dtype, 2, (int64_t[]){H, 2 * N});
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check(c, e));
    for (int i = 0; i < INS; i++) out[i] = kr_out_like(&c->in[i]);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_discretise_pull_back(t, n, &kr_op_discretise_low_rank_grad,
                            sizeof(kr_discretise_low_rank_attr), INS);
}

/* Vectors of modes that one channel needs (discretise_low_rank_ref.c). */
static size_t scratch(const kr_call *c) {
    int64_t R = c->in[KR_LOW_P].shape[1], N = c->in[KR_LOW_P].shape[3];
    return (size_t)((7 + 6 * R) * N) * 2 * sizeof(double);
}

/* On the GPU: each channel's gradients of lambda, B and P. */
static size_t scratch_back_cuda(const kr_call *c) {
    int64_t H = c->in[KR_LOW_DT].shape[0], R = c->in[KR_LOW_P].shape[1];
    return (size_t)(H * (2 + R) * 2 * c->in[KR_LOW_P].shape[3]) * sizeof(double);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    double H = (double)c->in[KR_LOW_DT].shape[0], R = (double)c->in[KR_LOW_P].shape[1];
    *flops = 60 * (1 + R) * H * (double)c->in[KR_LOW_P].shape[3];
    *bytes = kr_call_bytes(c);
}

static const struct {
    const char *name;
    int64_t H, S, R, N;
    kr_discretise_low_rank_attr attr;
} table[] = {
    {"one mode", 1, 1, 1, 1, {1}},
    {"rank 1", 7, 7, 1, 17, {1}},
    {"rank 1, shared, twice as slow", 12, 3, 1, 5, {2}},
    {"rank 2", 5, 5, 2, 32, {1}},
    {"rank 4, shared, half", 6, 1, 4, 9, {0.5}},
};

static bool inputs(int index, kr_case *k, bool backward) {
    if (index >= (int)(sizeof table / sizeof *table)) return false;
    int64_t H = table[index].H, S = table[index].S, R = table[index].R, N = table[index].N;
    k->name = table[index].name;
    k->attr = &table[index].attr;
    k->attr_size = sizeof table[index].attr;
    k->half.none = true;
    k->tolerance = 1e-5;
    kr_case_in(k, KR_LOW_DT, KR_F32, 1, &H, KR_FILL_UNIFORM, -7, -1);
    kr_case_in(k, KR_LOW_RATE, KR_F32, 2, (int64_t[]){S, N}, KR_FILL_UNIFORM, -2, 1);
    kr_case_in(k, KR_LOW_FREQUENCY, KR_F32, 2, (int64_t[]){S, N}, KR_FILL_UNIFORM, -9, 30);
    kr_case_normal(k, KR_LOW_B, 3, (int64_t[]){S, 2, N});
    kr_case_normal(k, KR_LOW_P, 4, (int64_t[]){S, R, 2, N});
    if (backward) kr_case_normal(k, INS, 2, (int64_t[]){H, (1 + 2 * R) * 2 * N});
    if (backward) kr_case_normal(k, INS + 1, 2, (int64_t[]){H, 2 * N});
    k->n_out = backward ? INS : 2;
    return true;
}

static bool forward_cases(int index, kr_case *k) { return inputs(index, k, false); }
static bool backward_cases(int index, kr_case *k) { return inputs(index, k, true); }

KR_DECLARE_REF_KERNEL(kr_discretise_low_rank);
KR_DECLARE_REF_KERNEL(kr_discretise_low_rank_grad);

const kr_op kr_op_discretise_low_rank = {
    .name = "discretise_low_rank",
    .shape = forward_shape,
    .grad = forward_grad,
    .scratch = scratch,
    .cost = cost,
    .cases = forward_cases,
    .n_in = INS,
    .n_out = 2,
    .kernel = KR_REF_KERNELS_GPU(kr_discretise_low_rank),
};

const kr_op kr_op_discretise_low_rank_grad = {
    .name = "discretise_low_rank_grad",
    .shape = backward_shape,
    .scratch = scratch,
    .scratch_cuda = scratch_back_cuda,
    .cost = cost,
    .cases = backward_cases,
    .n_in = GRAD_INS,
    .n_out = INS,
    .kernel = KR_REF_KERNELS_GPU(kr_discretise_low_rank_grad),
};
