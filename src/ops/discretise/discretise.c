/* discretise.c - rules of the discretisation; discretise.h has the contract. */
#include "ops/discretise/discretise.h"

#include "ops/discretise/discretise_rules.h"

enum { INS = 4, GRAD_INS = 6 };

static const char *const names[GRAD_INS] = {"log_dt", "log_rate", "frequency", "B", "da", "db"};

static int need(const kr_call *c, int i, int rank, const int64_t *shape, krait_error *e) {
    return kr_discretise_need("discretise", names[i], c, i, rank, shape, e);
}

static int check(const kr_call *c, krait_error *e) {
    const kr_tensor *dt = &c->in[KR_DISCRETISE_DT], *rate = &c->in[KR_DISCRETISE_RATE];
    KR_TRY(kr_need_rank("discretise", "log_dt", dt, 1, e));
    KR_TRY(kr_need_rank("discretise", "log_rate", rate, 2, e));
    int64_t H = dt->shape[0], S = rate->shape[0], N = rate->shape[1];
    if (S < 1 || H % S != 0)
        return kr_fail(e, KRAIT_ERR_SHAPE,
                       "discretise: log_rate has %lld rows, which do not divide the %lld channels",
                       (long long)S, (long long)H);
    KR_TRY(need(c, KR_DISCRETISE_DT, 1, &H, e));
    KR_TRY(need(c, KR_DISCRETISE_RATE, 2, (int64_t[]){S, N}, e));
    KR_TRY(need(c, KR_DISCRETISE_FREQUENCY, 2, (int64_t[]){S, N}, e));
    KR_TRY(need(c, KR_DISCRETISE_B, 3, (int64_t[]){S, 2, N}, e));
    for (int i = INS; i < c->n_in; i++)
        if (c->in[i].data) KR_TRY(need(c, i, 2, (int64_t[]){H, 2 * N}, e));
    return 0;
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check(c, e));
    const kr_tensor *dt = &c->in[KR_DISCRETISE_DT], *rate = &c->in[KR_DISCRETISE_RATE];
    out[0] = out[1] =
        kr_tensor_make(NULL, dt->dtype, 2, (int64_t[]){dt->shape[0], 2 * rate->shape[1]});
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check(c, e));
    for (int i = 0; i < INS; i++) out[i] = kr_out_like(&c->in[i]);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_discretise_pull_back(t, n, &kr_op_discretise_grad, sizeof(kr_discretise_attr), INS);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    double H = (double)c->in[KR_DISCRETISE_DT].shape[0];
    double modes = H * (double)c->in[KR_DISCRETISE_RATE].shape[1];
    *flops = 60 * modes;
    *bytes = kr_call_bytes(c);
}

static const struct {
    const char *name;
    int64_t H, S, N;
    kr_discretise_attr attr;
} table[] = {
    {"one mode", 1, 1, 1, {KR_ZERO_ORDER_HOLD, 1}},
    {"zero-order hold", 7, 7, 17, {KR_ZERO_ORDER_HOLD, 1}},
    {"zero-order hold, shared, twice as slow", 12, 3, 5, {KR_ZERO_ORDER_HOLD, 2}},
    {"bilinear", 5, 5, 32, {KR_BILINEAR, 1}},
    {"bilinear, shared, half", 6, 1, 9, {KR_BILINEAR, 0.5}},
};

static bool inputs(int index, kr_case *k, bool backward) {
    if (index >= (int)(sizeof table / sizeof *table)) return false;
    int64_t H = table[index].H, S = table[index].S, N = table[index].N;
    k->name = table[index].name;
    k->attr = &table[index].attr;
    k->attr_size = sizeof table[index].attr;
    k->half.none = true;
    k->tolerance = 1e-5;
    kr_case_in(k, KR_DISCRETISE_DT, KR_F32, 1, &H, KR_FILL_UNIFORM, -7, -1);
    kr_case_in(k, KR_DISCRETISE_RATE, KR_F32, 2, (int64_t[]){S, N}, KR_FILL_UNIFORM, -2, 1);
    kr_case_in(k, KR_DISCRETISE_FREQUENCY, KR_F32, 2, (int64_t[]){S, N}, KR_FILL_UNIFORM, -9, 30);
    kr_case_normal(k, KR_DISCRETISE_B, 3, (int64_t[]){S, 2, N});
    for (int i = INS; backward && i < GRAD_INS; i++) kr_case_normal(k, i, 2, (int64_t[]){H, 2 * N});
    k->n_out = backward ? INS : 2;
    return true;
}

static bool forward_cases(int index, kr_case *k) { return inputs(index, k, false); }
static bool backward_cases(int index, kr_case *k) { return inputs(index, k, true); }

KR_DECLARE_REF_KERNEL(kr_discretise);
KR_DECLARE_REF_KERNEL(kr_discretise_grad);

const kr_op kr_op_discretise = {
    .name = "discretise",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = cost,
    .cases = forward_cases,
    .n_in = INS,
    .n_out = 2,
    .kernel = KR_REF_KERNELS_GPU(kr_discretise),
};

const kr_op kr_op_discretise_grad = {
    .name = "discretise_grad",
    .shape = backward_shape,
    .cost = cost,
    .cases = backward_cases,
    .n_in = GRAD_INS,
    .n_out = INS,
    .kernel = KR_REF_KERNELS_GPU(kr_discretise_grad),
};
