/* trapezoid.c - rules of the trapezoidal rule; trapezoid.h has the contract. */
#include "ops/trapezoid/trapezoid.h"

#include "base/err.h"
#include "ops/case.h"

/* dt, rate, mix and bias from input i on. */
static int check(const char *op, const kr_call *c, int i, krait_error *e) {
    static const char *const names[] = {"dt", "rate", "mix"};
    const kr_trapezoid_attr *a = c->attr;
    const kr_tensor *dt = &c->in[i];
    for (int k = 0; k < 3; k++) {
        KR_TRY(kr_need_rank(op, names[k], &c->in[i + k], 2, e));
        for (int d = 0; d < 2; d++)
            KR_TRY(kr_need_dim(op, names[k], &c->in[i + k], d, dt->shape[d], e));
    }
    KR_TRY(kr_need_rank(op, "bias", &c->in[i + 3], 1, e));
    KR_TRY(kr_need_dim(op, "bias", &c->in[i + 3], 0, dt->shape[1], e));
    if (a->ranks >= 1) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: ranks must be 1 or more, is %lld", op,
                   (long long)a->ranks);
}

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *dt = &c->in[0];
    KR_TRY(check("trapezoid", c, 0, e));
    int64_t gains = 2 * ((const kr_trapezoid_attr *)c->attr)->ranks * dt->shape[1];
    out[0] = out[1] = kr_out_like(dt);
    out[2] = kr_tensor_make(NULL, dt->dtype, 2, (int64_t[]){dt->shape[0], gains});
    out[2].dim0 = dt->dim0;
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check("trapezoid_grad", c, 3, e));
    int64_t H = c->in[3].shape[1], ranks = ((const kr_trapezoid_attr *)c->attr)->ranks;
    const int64_t columns[3] = {H, H, 2 * ranks * H};
    for (int i = 0; i < 3; i++)
        if (c->in[i].data)
            KR_TRY(kr_need_dim("trapezoid_grad", "a gradient", &c->in[i], 1, columns[i], e));
    for (int i = 0; i < 4; i++) out[i] = kr_out_like(&c->in[3 + i]);
    return 0;
}

static void forward_grad(kr_tape *t, const kr_node *n) {
    kr_value *ins[7], *outs[4] = {NULL};
    uint32_t accumulate = 0;
    for (int i = 0; i < 3; i++) ins[i] = kr_rule_dout(t, n, i);
    if (!ins[0] && !ins[1] && !ins[2]) return;
    for (int i = 0; i < 4; i++) {
        ins[3 + i] = kr_rule_saved(t, kr_rule_in(n, i));
        kr_rule_din(t, n, i, outs, i, &accumulate);
    }
    kr_rule_emit(t, &kr_op_trapezoid_grad, kr_rule_attr(n), sizeof(kr_trapezoid_attr), ins, 7, outs,
                 4, accumulate);
}

/* The gradient of each raw step. */
static size_t scratch_cuda(const kr_call *c) {
    return (size_t)kr_tensor_count(&c->in[3]) * sizeof(float);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    const kr_tensor *dt = &c->in[c->n_in > 4 ? 3 : 0];
    *flops = 60 * (double)kr_tensor_count(dt);
    *bytes =
        (double)(8 + 2 * ((const kr_trapezoid_attr *)c->attr)->ranks) * (double)kr_tensor_bytes(dt);
}

static const struct {
    const char *name;
    int64_t M, H;
    kr_trapezoid_attr attr;
} table[] = {{"one number", 1, 1, {KR_RATE_HEAVY_TAIL, 1e-4, 1}},
             {"T=63, a floor in reach", 63, 24, {KR_RATE_HEAVY_TAIL, 0.3, 1}},
             {"rank 4", 17, 33, {KR_RATE_HEAVY_TAIL, 1e-4, 4}},
             {"softplus", 100, 17, {KR_RATE_SOFTPLUS, 1e-4, 2}},
             {"far", 5, 9, {KR_RATE_HEAVY_TAIL, 1e-4, 1}}};

static bool inputs(int index, kr_case *k, int first) {
    if (index >= (int)(sizeof table / sizeof *table)) return false;
    int64_t shape[2] = {table[index].M, table[index].H};
    k->name = table[index].name;
    k->attr = &table[index].attr;
    k->attr_size = sizeof table[index].attr;
    for (int i = 0; i < 3; i++) kr_case_in(k, first + i, KR_F32, 2, shape, KR_FILL_NORMAL, 2, 0);
    kr_case_normal(k, first + 3, 1, &shape[1]);
    return true;
}

static bool forward_cases(int index, kr_case *k) {
    if (!inputs(index, k, 0)) return false;
    k->n_out = 3;
    if (index == 4) kr_case_far(k);
    return true;
}

static bool backward_cases(int index, kr_case *k) {
    if (!inputs(index, k, 3)) return false;
    int64_t shape[2] = {table[index].M, table[index].H};
    for (int i = 0; i < 3; i++) {
        if (i == 2) shape[1] *= 2 * table[index].attr.ranks;
        kr_case_normal(k, i, 2, shape);
    }
    if (index == 2) kr_case_without(k, 0);
    k->n_out = 4;
    k->tolerance = 1e-5;
    if (index == 4) kr_case_far(k);
    return true;
}

KR_DECLARE_KERNEL(kr_trapezoid);
KR_DECLARE_KERNEL(kr_trapezoid_grad);

const kr_op kr_op_trapezoid = {
    .name = "trapezoid",
    .shape = forward_shape,
    .grad = forward_grad,
    .cost = cost,
    .cases = forward_cases,
    .n_in = 4,
    .n_out = 3,
    .no_accumulate = 7,
    .half_in = 7,
    .kernel = KR_KERNELS_GPU(kr_trapezoid),
};

const kr_op kr_op_trapezoid_grad = {
    .name = "trapezoid_grad",
    .shape = backward_shape,
    .cost = cost,
    .cases = backward_cases,
    .n_in = 7,
    .n_out = 4,
    .scratch_cuda = scratch_cuda,
    .half_in = 63,
    .kernel = KR_KERNELS_GPU(kr_trapezoid_grad),
};
