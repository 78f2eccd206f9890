/* linear_cross_entropy.c - rules of head and loss in one; linear_cross_entropy.h has the contract.
 */
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include "base/err.h"
#include "ops/case.h"
#include "ops/linear/linear.h"

/* ---- shapes ---------------------------------------------------------------------------------- */

static int need_inputs(const char *op, const kr_call *c, krait_error *e) {
    const kr_tensor *x = &c->in[0], *w = &c->in[1], *targets = &c->in[2];
    kr_call product = {.in = {*x, *w, [3] = c->in[3]}, .n_in = 4};
    kr_tensor logits[KR_MAX_OUT];
    if (kr_op_linear.shape(&product, logits, e) < 0) return kr_fail_prefix(e, "%s", op);
    KR_TRY(kr_need_rank(op, "targets", targets, 1, e));
    KR_TRY(kr_need_dim(op, "targets", targets, 0, x->shape[0], e));
    if (targets->dtype == KR_I32) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: targets must be i32, is %s", op,
                   kr_dtype_name(targets->dtype));
}

static kr_dtype loss_type(const kr_tensor *x) { return x->dtype == KR_F64 ? KR_F64 : KR_F32; }

static int forward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *x = &c->in[0];
    KR_TRY(need_inputs("linear_cross_entropy", c, e));
    out[0] = kr_tensor_make(NULL, loss_type(x), 1, x->shape);
    out[0].dim0 = x->dim0;
    out[1] = out[0];
    return 0;
}

static int backward_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    static const char op[] = "linear_cross_entropy_grad";
    const kr_tensor *x = &c->in[0], *w = &c->in[1], *lse = &c->in[4], *dnll = &c->in[5];
    KR_TRY(need_inputs(op, c, e));
    KR_TRY(kr_need_rank(op, "dnll", dnll, 1, e));
    KR_TRY(kr_need_dim(op, "dnll", dnll, 0, x->shape[0], e));
    if (lse->data) {
        KR_TRY(kr_need_rank(op, "lse", lse, 1, e));
        KR_TRY(kr_need_dim(op, "lse", lse, 0, x->shape[0], e));
        if (c->out[2].data)
            return kr_fail(e, KRAIT_ERR_SHAPE, "%s: nll is given only without lse", op);
    }
    out[0] = kr_out_like(x);
    out[1] = kr_tensor_make(NULL, loss_type(x), 2, w->shape);
    out[2] = kr_tensor_make(NULL, loss_type(x), 1, x->shape);
    out[2].dim0 = x->dim0;
    return 0;
}

/* ---- gradient -------------------------------------------------------------------------------- */

static void forward_grad(kr_tape *t, const kr_node *n) {
    const kr_linear_cross_entropy_attr *attr = kr_rule_attr(n);
    bool alone = attr && attr->with_gradient;
    kr_value *dnll = kr_rule_dout(t, n, 0), *outs[3] = {NULL};
    uint32_t accumulate = 0;
    if (!dnll) return;
    kr_rule_din(t, n, 0, outs, 0, &accumulate);
    kr_rule_din(t, n, 1, outs, 1, &accumulate);
    if (alone) outs[2] = kr_rule_out(n, 0);
    kr_value *ins[6] = {kr_rule_saved(t, kr_rule_in(n, 0)),
                        kr_rule_in(n, 1),
                        kr_rule_in(n, 2),
                        kr_rule_in(n, 3),
                        alone ? NULL : kr_rule_saved(t, kr_rule_out(n, 1)),
                        dnll};
    kr_rule_emit(t, &kr_op_linear_cross_entropy_grad, NULL, 0, ins, 6, outs, 3, accumulate);
}

/* ---- scratch --------------------------------------------------------------------------------- */

static size_t forward_scratch(const kr_call *c) {
    return (size_t)c->in[1].shape[0] * sizeof(double);
}

static size_t backward_scratch(const kr_call *c) {
    return (size_t)(c->in[0].shape[0] * c->in[1].shape[0]) * sizeof(double);
}

enum { CHUNK_BYTES = 288 << 20, UNIT = 128 };

static int64_t most_rows(int64_t V, kr_dtype type) {
    int64_t row = kr_linear_cross_entropy_stride(V) * (int64_t)kr_dtype_size(type);
    int64_t most = CHUNK_BYTES / row;
    return most >= UNIT ? most / UNIT * UNIT : most > 1 ? most : 1;
}

int64_t kr_linear_cross_entropy_rows(int64_t R, int64_t V, kr_dtype type) {
    int64_t most = most_rows(V, type), chunks = (R + most - 1) / most;
    if (R <= most) return R > 1 ? R : 1;
    int64_t rows = (R + chunks - 1) / chunks;
    return most >= UNIT ? (rows + UNIT - 1) / UNIT * UNIT : rows;
}

/* Logits of as many rows as a run of R or fewer holds at once, then what the products want. */
static size_t scratch_of(const kr_call *c, kr_dtype type) {
    const kr_tensor *x = &c->in[0], *w = &c->in[1];
    int64_t R = x->shape[0], V = w->shape[0], most = most_rows(V, type), rows = R < most ? R : most;
    size_t logits = (size_t)(rows * kr_linear_cross_entropy_stride(V)) * kr_dtype_size(type);
    kr_call product = {.in = {*x, *w, [3] = c->in[3]}, .n_in = 4};
    size_t one = kr_op_linear.scratch_cuda(&product);
    product.in[2] = c->in[3];
    size_t other = kr_op_linear_dx.scratch_cuda(&product);
    return (logits + 255) / 256 * 256 + (one > other ? one : other);
}

static size_t forward_scratch_cuda(const kr_call *c) {
    const kr_linear_cross_entropy_attr *attr = c->attr;
    return attr && attr->with_gradient ? 0 : scratch_of(c, KR_F32);
}

static size_t backward_scratch_cuda(const kr_call *c) { return scratch_of(c, c->in[0].dtype); }

static void cost(const kr_call *c, double products, double *flops, double *bytes) {
    double R = (double)c->in[0].shape[0], V = (double)c->in[1].shape[0];
    *flops = products * 2 * R * V * (double)c->in[1].shape[1] + 17 * R * V;
    *bytes = (double)kr_tensor_bytes(&c->in[0]) + (double)kr_tensor_bytes(&c->in[1]);
}

static void forward_cost(const kr_call *c, double *flops, double *bytes) {
    cost(c, 1, flops, bytes);
}

static void backward_cost(const kr_call *c, double *flops, double *bytes) {
    cost(c, 3, flops, bytes);
}

/* ---- cases ----------------------------------------------------------------------------------- */

static const struct sizes {
    const char *name;
    int64_t R, V, D;
    kr_dtype weight;
} table[] = {
    {"R=1 V=1 D=1", 1, 1, 1, KR_F32},
    {"R=7 V=257 D=16", 7, 257, 16, KR_F32},
    {"R=63 V=17 D=33", 63, 17, 33, KR_F32},
    {"R=20 V=300 D=64 bf16", 20, 300, 64, KR_BF16},
    {"R=3 V=5003 D=8", 3, 5003, 8, KR_F32},
    {"R=33 V=257 D=40 f16", 33, 257, 40, KR_F16},
    {"R=130 V=1030 D=24", 130, 1030, 24, KR_F32},
    {"R=3 V=60001 D=8", 3, 60001, 8, KR_F32},
};
enum { SIZES = sizeof table / sizeof *table };

static bool cases_of(int index, kr_case *k) {
    if (index >= SIZES) return false;
    const struct sizes *s = &table[index];
    k->name = s->name;
    kr_case_normal(k, 0, 2, (int64_t[]){s->R, s->D});
    kr_case_in(k, 1, s->weight, 2, (int64_t[]){s->V, s->D}, KR_FILL_NORMAL, 0.3, 0);
    kr_case_in(k, 2, KR_I32, 1, &s->R, KR_FILL_INDEX, (double)s->V, s->R > 1 ? 0.2 : 0);
    kr_case_in(k, 3, KR_BF16, 2, (int64_t[]){s->V, s->D}, KR_FILL_ABSENT, 0, 0);
    k->tolerance = 4e-6;
    k->half.tolerance = 2.5e-2; /* the weight, logits and dlogits are rounded too */
    return true;
}

static bool forward_cases(int index, kr_case *k) {
    k->n_out = 2;
    return cases_of(index, k);
}

/* Even ones with lse given, no smaller than what the logits can give, so that no softmax is far
 * above one; odd ones find it and give nll. */
static bool backward_cases(int index, kr_case *k) {
    bool given = index % 2 == 0;
    k->n_out = 3;
    if (!cases_of(index / 2, k)) return false;
    kr_case_in(k, 4, KR_F32, 1, k->in[0].shape, KR_FILL_UNIFORM, 8, 10);
    kr_case_normal(k, 5, 1, k->in[0].shape);
    if (!given) kr_case_without(k, 4);
    k->out_absent[2] = given;
    k->out_absent[index % 4 / 2] = index % 3 == 2;
    if (index % 5 < 3 && k->in[1].dtype == KR_F32) /* read instead of the weight */
        kr_case_in(k, 3, KR_BF16, 2, k->in[1].shape, KR_FILL_NORMAL, 0.3, 0);
    return true;
}

KR_DECLARE_REF_KERNEL(kr_linear_cross_entropy);
KR_DECLARE_REF_KERNEL(kr_linear_cross_entropy_grad);

const kr_op kr_op_linear_cross_entropy = {
    .name = "linear_cross_entropy",
    .shape = forward_shape,
    .grad = forward_grad,
    .scratch = forward_scratch,
    .scratch_cuda = forward_scratch_cuda,
    .cost = forward_cost,
    .cases = forward_cases,
    .n_in = 4,
    .n_out = 2,
    .no_accumulate = 3,
    .half_in = 1,
    .kernel = KR_REF_KERNELS_GPU(kr_linear_cross_entropy),
};

const kr_op kr_op_linear_cross_entropy_grad = {
    .name = "linear_cross_entropy_grad",
    .shape = backward_shape,
    .scratch = backward_scratch,
    .scratch_cuda = backward_scratch_cuda,
    .cost = backward_cost,
    .cases = backward_cases,
    .n_in = 6,
    .n_out = 3,
    .no_accumulate = 4,
    .half_in = 1,
    .kernel = KR_REF_KERNELS_GPU(kr_linear_cross_entropy_grad),
};
