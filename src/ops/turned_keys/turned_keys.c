/* turned_keys.c - rules of turned keys; turned_keys.h has the contract. */
#include "ops/turned_keys/turned_keys.h"

#include "base/err.h"
#include "ops/case.h"

/* x, weight, bias and phi from input i on. */
static int check(const char *op, const kr_call *c, int i, krait_error *e) {
    const kr_turned_keys_attr *a = c->attr;
    const kr_tensor *x = &c->in[i], *weight = &c->in[i + 1], *bias = &c->in[i + 2];
    const kr_tensor *phi = &c->in[i + 3];
    KR_TRY(kr_need_rank(op, "x", x, 2, e));
    KR_TRY(kr_need_rank(op, "weight", weight, 1, e));
    KR_TRY(kr_need_rank(op, "bias", bias, 3, e));
    KR_TRY(kr_need_rank(op, "phi", phi, 2, e));
    int64_t H = bias->shape[0], R = bias->shape[1], N = bias->shape[2];
    KR_TRY(kr_need_dim(op, "weight", weight, 0, N, e));
    KR_TRY(kr_need_dim(op, "x", x, 1, R * a->groups * N, e));
    KR_TRY(kr_need_dim(op, "phi", phi, 0, x->shape[0], e));
    if (a->groups < 1 || H % a->groups)
        return kr_fail(e, KRAIT_ERR_SHAPE, "%s: %lld groups do not divide %lld heads", op,
                       (long long)a->groups, (long long)H);
    if (phi->shape[1] % H == 0 && phi->shape[1] / H <= N / 2) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE,
                   "%s: phi must have at most %lld angles for each of %lld heads, has %lld columns",
                   op, (long long)(N / 2), (long long)H, (long long)phi->shape[1]);
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0], *bias = &c->in[2];
    KR_TRY(check("turned_keys", c, 0, e));
    out[0] = kr_tensor_make(NULL, x->dtype, 2, (int64_t[]){x->shape[0], kr_tensor_count(bias)});
    out[0].dim0 = x->dim0;
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check("turned_keys_grad", c, 1, e));
    KR_TRY(kr_need_rank("turned_keys_grad", "dy", &c->in[0], 2, e));
    KR_TRY(kr_need_dim("turned_keys_grad", "dy", &c->in[0], 1, kr_tensor_count(&c->in[3]), e));
    for (int i = 0; i < 4; i++) out[i] = kr_out_like(&c->in[1 + i]);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *ins[5] = {kr_rule_dout(t, n, 0)}, *outs[4] = {NULL};
    uint32_t accumulate = 0;
    if (!ins[0]) return;
    for (int i = 0; i < 4; i++) {
        ins[1 + i] = kr_rule_saved(t, kr_rule_in(n, i));
        kr_rule_din(t, n, i, outs, i, &accumulate);
    }
    kr_rule_emit(t, &kr_op_turned_keys_grad, kr_rule_attr(n), sizeof(kr_turned_keys_attr), ins, 5,
                 outs, 4, accumulate);
}

/* A thread: keys of a row twice, and five vectors of N; a chunk of the gradient: sums of dweight
 * and dbias. */
static int64_t own(const kr_tensor *x, const kr_tensor *bias) {
    return 2 * x->shape[1] + 5 * bias->shape[2] + 64;
}
static size_t forward_scratch(const kr_call *c) {
    return (size_t)(c->threads * own(&c->in[0], &c->in[2])) * sizeof(float);
}
static size_t backward_scratch(const kr_call *c) {
    const kr_tensor *x = &c->in[1], *bias = &c->in[3];
    int64_t each = own(x, bias) + kr_tensor_count(bias) + bias->shape[2];
    return (size_t)(kr_turned_keys_chunks(x->shape[0]) * each) * sizeof(double);
}

/* Sums of dbias, and for each group of dweight, for each chunk. */
static size_t scratch_cuda(const kr_call *c) {
    const kr_tensor *x = &c->in[1], *bias = &c->in[3];
    int64_t groups = ((const kr_turned_keys_attr *)c->attr)->groups;
    int64_t each = kr_tensor_count(bias) + groups * bias->shape[2];
    return (size_t)(kr_turned_keys_chunks_cuda(x->shape[0]) * each) * sizeof(float);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    const kr_tensor *bias = &c->in[c->n_in > 4 ? 3 : 2], *x = &c->in[c->n_in > 4 ? 1 : 0];
    double numbers = (double)x->shape[0] * (double)kr_tensor_count(bias);
    *flops = (c->n_in > 4 ? 16 : 8) * numbers;
    *bytes = 4 * numbers + (double)kr_tensor_bytes(x);
}

static const struct {
    const char *name;
    int64_t M, H, R, N, S;
    kr_turned_keys_attr attr;
} table[] = {{"one pair", 1, 1, 1, 2, 1, {1e-5, 1, false}},
             {"neighbours", 63, 4, 1, 34, 9, {1e-5, 2, false}},
             {"neighbours, odd N, rank 2", 17, 3, 2, 17, 8, {1e-5, 1, false}},
             {"halves", 100, 4, 4, 32, 8, {1e-5, 2, true}},
             {"halves, all", 20, 2, 3, 18, 9, {1e-5, 1, true}},
             {"halves, odd N", 5, 6, 1, 21, 7, {1e-3, 3, true}},
             {"P=64 N=128", 130, 2, 1, 128, 32, {1e-5, 1, false}},
             {"far", 5, 2, 1, 8, 2, {1e-5, 1, false}},
             {"sums past shared memory", 33, 50, 4, 130, 32, {1e-5, 1, true}}};

static bool inputs(int index, kr_case *k, int first) {
    if (index >= (int)(sizeof table / sizeof *table)) return false;
    int64_t M = table[index].M, H = table[index].H, R = table[index].R, N = table[index].N;
    k->name = table[index].name;
    k->attr = &table[index].attr;
    k->attr_size = sizeof table[index].attr;
    k->tolerance = 1e-5;
    kr_case_normal(k, first, 2, (int64_t[]){M, R * table[index].attr.groups * N});
    kr_case_normal(k, first + 1, 1, &N);
    kr_case_normal(k, first + 2, 3, (int64_t[]){H, R, N});
    kr_case_in(k, first + 3, KR_F32, 2, (int64_t[]){M, H * table[index].S}, KR_FILL_UNIFORM, -3.2,
               3.2);
    return true;
}

static bool forward_cases(int index, kr_case *k) {
    if (!inputs(index, k, 0)) return false;
    k->n_out = 1;
    if (index == 7) kr_case_far(k);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    if (!inputs(index, k, 1)) return false;
    int64_t N = table[index].H * table[index].R * table[index].N;
    kr_case_normal(k, 0, 2, (int64_t[]){table[index].M, N});
    k->n_out = 4;
    if (index == 7) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_turned_keys);
KR_DECLARE_KERNEL(kr_turned_keys_grad);

const kr_op kr_op_turned_keys = {
    .name = "turned_keys",
    .shape = forward_shape,
    .grad = forward_grad,
    .scratch = forward_scratch,
    .cost = cost,
    .cases = forward_cases,
    .n_in = 4,
    .n_out = 1,
    .no_accumulate = 1,
    .half_in = 9,
    .kernel = KR_KERNELS_GPU(kr_turned_keys),
};

const kr_op kr_op_turned_keys_grad = {
    .name = "turned_keys_grad",
    .shape = backward_shape,
    .scratch = backward_scratch,
    .cost = cost,
    .cases = backward_cases,
    .n_in = 5,
    .n_out = 4,
    .scratch_cuda = scratch_cuda,
    .half_in = 19,
    .kernel = KR_KERNELS_GPU(kr_turned_keys_grad),
};
