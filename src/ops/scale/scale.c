/* scale.c - rules of the ops that scale rows or columns; scale.h has the contract. */
#include "ops/scale/scale.h"

#include "base/err.h"
#include "ops/case.h"
#include "ops/row_sums.h"

static int check_row_scale(const char *op, const kr_tensor *x, const kr_tensor *e,
                           krait_error *why) {
    char text[96];
    KR_TRY(kr_need_rank(op, "x", x, 2, why));
    KR_TRY(kr_need_rank(op, "e", e, 1, why));
    if (e->shape[0] > 0 && x->shape[0] % e->shape[0] == 0 && e->dtype == x->dtype &&
        kr_tensor_contiguous(e))
        return 0;
    return kr_fail(why, KRAIT_ERR_SHAPE, "%s: e must have a length that divides %lld rows, is %s",
                   op, (long long)x->shape[0], kr_tensor_describe(e, text));
}

static int row_scale_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check_row_scale("row_scale", &c->in[0], &c->in[1], e));
    out[0] = kr_out_like(&c->in[0]);
    return 0;
}

static int same(const char *op, const char *arg, const kr_tensor *a, const kr_tensor *b,
                krait_error *e) {
    char is[96], wanted[96];
    if (a->dtype == b->dtype && kr_tensor_same_shape(a, b)) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: %s must be %s, is %s", op, arg,
                   kr_tensor_describe(b, wanted), kr_tensor_describe(a, is));
}

static int row_scale_grad_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check_row_scale("row_scale_grad", &c->in[1], &c->in[2], e));
    KR_TRY(same("row_scale_grad", "dy", &c->in[0], &c->in[1], e));
    out[0] = kr_out_like(&c->in[1]);
    out[1] = kr_out_like(&c->in[2]);
    return 0;
}

static int check_skip(const char *op, const kr_tensor *x, const kr_tensor *u, const kr_tensor *w,
                      krait_error *e) {
    char text[96];
    KR_TRY(kr_need_rank(op, "x", x, 2, e));
    KR_TRY(same(op, "u", u, x, e));
    KR_TRY(kr_need_rank(op, "w", w, 1, e));
    KR_TRY(kr_need_dim(op, "w", w, 0, x->shape[1], e));
    kr_dtype wanted = x->dtype == KR_BF16 ? KR_F32 : x->dtype;
    if (w->dtype == wanted) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: w must be %s, is %s", op, kr_dtype_name(wanted),
                   kr_tensor_describe(w, text));
}

static int skip_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check_skip("skip", &c->in[0], &c->in[1], &c->in[2], e));
    out[0] = kr_out_like(&c->in[0]);
    return 0;
}

static int skip_grad_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check_skip("skip_grad", &c->in[0], &c->in[1], &c->in[2], e));
    out[0] = kr_out_like(&c->in[1]);
    out[1] = kr_out_like(&c->in[2]);
    return 0;
}

static void row_scale_rule(kr_tape *t, const kr_node *n) {
    kr_value *saved[] = {kr_rule_in(n, 0), kr_rule_in(n, 1)};
    kr_rule_pull_back(t, n, &kr_op_row_scale_grad, NULL, 0, saved, 2, 0, 2);
}

static void skip_rule(kr_tape *t, const kr_node *n) {
    kr_value *dy = kr_rule_dout(t, n, 0), *saved[] = {kr_rule_in(n, 1), kr_rule_in(n, 2)};
    if (dy) kr_rule_din_is(t, n, 0, dy);
    kr_rule_pull_back(t, n, &kr_op_skip_grad, NULL, 0, saved, 2, 1, 2);
}

static size_t skip_grad_scratch(const kr_call *c) {
    return kr_row_sums_scratch(c->in[1].shape[0], c->in[1].shape[1]);
}

static size_t skip_grad_scratch_cuda(const kr_call *c) {
    const kr_tensor *u = &c->in[1];
    return (size_t)(kr_skip_most_parts(u->shape[0]) * u->shape[1]) * sizeof(float);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 2 * (double)kr_tensor_count(&c->in[0]);
    *bytes = 3 * (double)kr_tensor_bytes(&c->in[0]);
}

static bool row_scale_inputs(int index, kr_case *k, int first) {
    static const int64_t list[][3] = {{1, 1, 1}, {6, 17, 3}, {34, 63, 17}, {5, 100, 5}, {6, 17, 2}};
    static const char *const names[] = {"one number", "twice", "odd", "each row its own", "far"};
    if (index >= 5) return false;
    const int64_t *s = list[index];
    k->name = names[index];
    k->half.none = true;
    if (first) kr_case_normal(k, 0, 2, s);
    kr_case_normal(k, first, 2, s);
    kr_case_normal(k, first + 1, 1, &s[2]);
    k->n_out = 1 + first;
    if (index == 4) kr_case_far(k);
    return true;
}

static bool row_scale_cases(int index, kr_case *k) { return row_scale_inputs(index, k, 0); }
static bool row_scale_grad_cases(int index, kr_case *k) { return row_scale_inputs(index, k, 1); }

static bool skip_inputs(int index, kr_case *k, int outs) {
    static const int64_t list[][2] = {{1, 1}, {3, 17}, {63, 100}, {300, 33}, {7, 20}};
    static const char *const names[] = {"one number", "small", "odd", "many rows", "far"};
    if (index >= 5) return false;
    k->name = names[index];
    for (int i = 0; i < 2; i++) kr_case_normal(k, i, 2, list[index]);
    kr_case_normal(k, 2, 1, &list[index][1]);
    k->n_out = outs;
    k->tolerance = 1e-5;
    if (index == 4) kr_case_far(k);
    return true;
}

static bool skip_cases(int index, kr_case *k) { return skip_inputs(index, k, 1); }
static bool skip_grad_cases(int index, kr_case *k) { return skip_inputs(index, k, 2); }

KR_DECLARE_KERNEL(kr_row_scale);
KR_DECLARE_KERNEL(kr_row_scale_grad);
KR_DECLARE_KERNEL(kr_skip);
KR_DECLARE_KERNEL(kr_skip_grad);

const kr_op kr_op_row_scale = {
    .name = "row_scale",
    .shape = row_scale_shape,
    .grad = row_scale_rule,
    .cost = cost,
    .cases = row_scale_cases,
    .n_in = 2,
    .n_out = 1,
    .kernel = KR_KERNELS_GPU(kr_row_scale),
};

const kr_op kr_op_row_scale_grad = {
    .name = "row_scale_grad",
    .shape = row_scale_grad_shape,
    .cost = cost,
    .cases = row_scale_grad_cases,
    .n_in = 3,
    .n_out = 2,
    .kernel = KR_KERNELS_GPU(kr_row_scale_grad),
};

const kr_op kr_op_skip = {
    .name = "skip",
    .shape = skip_shape,
    .grad = skip_rule,
    .cost = cost,
    .cases = skip_cases,
    .n_in = 3,
    .n_out = 1,
    .inplace = 1,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_skip),
};

const kr_op kr_op_skip_grad = {
    .name = "skip_grad",
    .shape = skip_grad_shape,
    .scratch = skip_grad_scratch,
    .scratch_cuda = skip_grad_scratch_cuda,
    .cost = cost,
    .cases = skip_grad_cases,
    .n_in = 3,
    .n_out = 2,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_skip_grad),
};
