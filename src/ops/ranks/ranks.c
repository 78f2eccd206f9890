/* ranks.c - rules of channels spread over ranks and gathered; ranks.h has the contract. */
#include "ops/ranks/ranks.h"

#include "base/err.h"
#include "ops/case.h"

static int check(const char *op, const kr_tensor *x, const kr_tensor *w, int64_t divisor,
                 krait_error *e) {
    KR_TRY(kr_need_rank(op, "x", x, 2, e));
    KR_TRY(kr_need_rank(op, "w", w, 3, e));
    if (divisor > 0 && x->shape[1] % divisor == 0 && kr_tensor_contiguous(w)) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: x must have a multiple of %lld columns, has %lld", op,
                   (long long)divisor, (long long)x->shape[1]);
}

static int64_t channels(const kr_tensor *w) { return w->shape[0] * w->shape[2]; }

static kr_tensor rows_of(const kr_tensor *x, int64_t columns) {
    kr_tensor out = kr_tensor_make(NULL, x->dtype, 2, (int64_t[]){x->shape[0], columns});
    out.dim0 = x->dim0;
    return out;
}

static int spread_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0], *w = &c->in[1];
    KR_TRY(check("spread", x, w, channels(w), e));
    out[0] = rows_of(x, x->shape[1] * w->shape[1]);
    return 0;
}

static int gather_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0], *w = &c->in[1];
    KR_TRY(check("gather", x, w, kr_tensor_count(w), e));
    KR_TRY(kr_need_dim("gather", "x", x, 1, kr_tensor_count(w), e));
    out[0] = rows_of(x, channels(w));
    return 0;
}

static int spread_grad_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[1], *w = &c->in[2];
    KR_TRY(check("spread_grad", x, w, channels(w), e));
    KR_TRY(kr_need_dim("spread_grad", "dy", &c->in[0], 1, x->shape[1] * w->shape[1], e));
    out[0] = kr_out_like(x);
    out[1] = kr_out_like(w);
    return 0;
}

static int gather_grad_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[1], *w = &c->in[2];
    KR_TRY(check("gather_grad", x, w, kr_tensor_count(w), e));
    KR_TRY(kr_need_dim("gather_grad", "dy", &c->in[0], 1, channels(w), e));
    out[0] = kr_out_like(x);
    out[1] = kr_out_like(w);
    return 0;
}

static void rule(kr_tape *t, const kr_node *n, const kr_op *op) {
    kr_value *dy = kr_rule_dout(t, n, 0), *outs[2] = {NULL};
    uint32_t accumulate = 0;
    if (!dy) return;
    for (int i = 0; i < 2; i++) kr_rule_din(t, n, i, outs, i, &accumulate);
    kr_value *ins[3] = {dy, kr_rule_saved(t, kr_rule_in(n, 0)), kr_rule_saved(t, kr_rule_in(n, 1))};
    kr_rule_emit(t, op, NULL, 0, ins, 3, outs, 2, accumulate);
}
static void spread_rule(kr_tape *t, const kr_node *n) { rule(t, n, &kr_op_spread_grad); }
static void gather_rule(kr_tape *t, const kr_node *n) { rule(t, n, &kr_op_gather_grad); }

/* Sums of dw for each chunk of rows. */
static size_t scratch_cuda(const kr_call *c) {
    int64_t chunks = kr_ranks_chunks(c->in[1].shape[0]);
    return (size_t)(chunks * kr_tensor_count(&c->in[2])) * sizeof(float);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 4 * (double)kr_tensor_count(&c->in[0]);
    *bytes = 0;
    for (int i = 0; i < c->n_in; i++) *bytes += (double)kr_tensor_bytes(&c->in[i]);
    for (int i = 0; i < c->n_out; i++)
        if (c->out[i].data) *bytes += (double)kr_tensor_bytes(&c->out[i]);
}

static const struct {
    const char *name;
    int64_t M, K, H, R, P;
} table[] = {{"one number", 1, 1, 1, 1, 1},
             {"odd", 63, 2, 3, 2, 17},
             {"rank 4", 100, 2, 4, 4, 16},
             {"wide", 5, 1, 2, 3, 100},
             {"far", 5, 1, 2, 2, 6}};

static bool inputs(int index, kr_case *k, int first, bool spreads) {
    if (index >= (int)(sizeof table / sizeof *table)) return false;
    int64_t M = table[index].M, H = table[index].H, R = table[index].R, P = table[index].P;
    int64_t few = (spreads ? table[index].K : 1) * H * P;
    k->name = table[index].name;
    k->tolerance = 1e-5;
    kr_case_normal(k, first, 2, (int64_t[]){M, spreads ? few : few * R});
    kr_case_normal(k, first + 1, 3, (int64_t[]){H, R, P});
    if (first) kr_case_normal(k, 0, 2, (int64_t[]){M, spreads ? few * R : few});
    k->n_out = 1 + first;
    if (index == 4) kr_case_far(k);
    return true;
}

static bool spread_cases(int index, kr_case *k) { return inputs(index, k, 0, true); }
static bool spread_grad_cases(int index, kr_case *k) { return inputs(index, k, 1, true); }
static bool gather_cases(int index, kr_case *k) { return inputs(index, k, 0, false); }
static bool gather_grad_cases(int index, kr_case *k) { return inputs(index, k, 1, false); }

KR_DECLARE_KERNEL(kr_spread);
KR_DECLARE_KERNEL(kr_spread_grad);
KR_DECLARE_KERNEL(kr_gather);
KR_DECLARE_KERNEL(kr_gather_grad);

const kr_op kr_op_spread = {
    .name = "spread",
    .shape = spread_shape,
    .grad = spread_rule,
    .cost = cost,
    .cases = spread_cases,
    .n_in = 2,
    .n_out = 1,
    .half_in = 1,
    .kernel = KR_KERNELS_GPU(kr_spread),
};

const kr_op kr_op_spread_grad = {
    .name = "spread_grad",
    .shape = spread_grad_shape,
    .cost = cost,
    .cases = spread_grad_cases,
    .n_in = 3,
    .n_out = 2,
    .scratch_cuda = scratch_cuda,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_spread_grad),
};

const kr_op kr_op_gather = {
    .name = "gather",
    .shape = gather_shape,
    .grad = gather_rule,
    .cost = cost,
    .cases = gather_cases,
    .n_in = 2,
    .n_out = 1,
    .half_in = 1,
    .kernel = KR_KERNELS_GPU(kr_gather),
};

const kr_op kr_op_gather_grad = {
    .name = "gather_grad",
    .shape = gather_grad_shape,
    .cost = cost,
    .cases = gather_grad_cases,
    .n_in = 3,
    .n_out = 2,
    .scratch_cuda = scratch_cuda,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_gather_grad),
};
