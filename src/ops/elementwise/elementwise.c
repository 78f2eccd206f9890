/* elementwise.c - rules of the functions over every element; elementwise.h has the contract. */
#include "ops/elementwise/elementwise.h"

#include "base/err.h"
#include "ops/case.h"

/* Every input like the first. */
static int check_inputs(const char *op, const kr_call *c, int n, krait_error *e) {
    const kr_elementwise_attr *attr = c->attr;
    char is[96], wanted[96];
    if (!attr || (unsigned)attr->f >= KR_FUNCTIONS)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: no such function", op);
    for (int i = 1; i < n; i++) {
        if (c->in[i].dtype == c->in[0].dtype && kr_tensor_same_shape(&c->in[i], &c->in[0]))
            continue;
        return kr_fail(e, KRAIT_ERR_SHAPE, "%s: input %d must be %s, is %s", op, i,
                       kr_tensor_describe(&c->in[0], wanted), kr_tensor_describe(&c->in[i], is));
    }
    return 0;
}

static int map_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check_inputs("map", c, 1, e));
    out[0] = kr_out_like(&c->in[0]);
    return 0;
}

static int map_grad_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check_inputs("map_grad", c, 2, e));
    out[0] = kr_out_like(&c->in[0]);
    return 0;
}

static int gate_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check_inputs("gate", c, 2, e));
    out[0] = kr_out_like(&c->in[0]);
    return 0;
}

static int gate_grad_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    KR_TRY(check_inputs("gate_grad", c, 3, e));
    out[0] = out[1] = kr_out_like(&c->in[0]);
    return 0;
}

static void map_rule(kr_tape *t, const kr_node *n) {
    kr_value *saved[] = {kr_rule_in(n, 0)};
    kr_rule_pull_back(t, n, &kr_op_map_grad, kr_rule_attr(n), sizeof(kr_elementwise_attr), saved, 1,
                      0, 1);
}

static void gate_rule(kr_tape *t, const kr_node *n) {
    kr_value *saved[] = {kr_rule_in(n, 0), kr_rule_in(n, 1)};
    kr_rule_pull_back(t, n, &kr_op_gate_grad, kr_rule_attr(n), sizeof(kr_elementwise_attr), saved,
                      2, 0, 2);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 20 * (double)kr_tensor_count(&c->in[0]);
    *bytes = 0;
    for (int i = 0; i < c->n_in; i++) *bytes += (double)kr_tensor_bytes(&c->in[i]);
    for (int i = 0; i < c->n_out; i++)
        if (c->out[i].data) *bytes += (double)kr_tensor_bytes(&c->out[i]);
}

/* Every function on a row of 63 with values on both sides; then shapes, with one of them. */
static bool cases_of(int index, kr_case *k, int inputs, int outputs) {
    static const kr_elementwise_attr attrs[] = {
#define KR_FUNCTION(NAME, name) {KR_FUNCTION_##NAME},
#include "ops/elementwise/functions.def"
#undef KR_FUNCTION
    };
    static const char *const names[] = {
#define KR_FUNCTION(NAME, name) #name,
#include "ops/elementwise/functions.def"
#undef KR_FUNCTION
    };
    static const struct {
        const char *name;
        int rank;
        int64_t shape[3];
    } list[] = {{"one element", 1, {1}},
                {"matrix", 2, {5, 17}},
                {"three dimensions", 3, {3, 5, 100}},
                {"far", 2, {5, 17}}};
    int shape = index - KR_FUNCTIONS;
    if (shape >= (int)(sizeof list / sizeof *list)) return false;
    k->name = shape < 0 ? names[index] : list[shape].name;
    k->attr = &attrs[shape < 0 ? index : KR_FUNCTION_GELU];
    k->attr_size = sizeof attrs[0];
    k->n_out = outputs;
    for (int i = 0; i < inputs; i++) {
        int rank = shape < 0 ? 1 : list[shape].rank;
        const int64_t *sizes = shape < 0 ? (const int64_t[]){63} : list[shape].shape;
        kr_case_in(k, i, KR_F32, rank, sizes, KR_FILL_NORMAL, 2, 0);
    }
    if (shape == 3) kr_case_far(k);
    return true;
}

static bool map_cases(int index, kr_case *k) { return cases_of(index, k, 1, 1); }
static bool map_grad_cases(int index, kr_case *k) { return cases_of(index, k, 2, 1); }
static bool gate_cases(int index, kr_case *k) { return cases_of(index, k, 2, 1); }
static bool gate_grad_cases(int index, kr_case *k) { return cases_of(index, k, 3, 2); }

KR_DECLARE_KERNEL(kr_map);
KR_DECLARE_KERNEL(kr_map_grad);
KR_DECLARE_KERNEL(kr_gate);
KR_DECLARE_KERNEL(kr_gate_grad);

const kr_op kr_op_map = {
    .name = "map",
    .shape = map_shape,
    .grad = map_rule,
    .cost = cost,
    .cases = map_cases,
    .n_in = 1,
    .n_out = 1,
    .inplace = 1,
    .half_in = 1,
    .kernel = KR_KERNELS_GPU(kr_map),
};

const kr_op kr_op_map_grad = {
    .name = "map_grad",
    .shape = map_grad_shape,
    .cost = cost,
    .cases = map_grad_cases,
    .n_in = 2,
    .n_out = 1,
    .inplace = 1,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_map_grad),
};

const kr_op kr_op_gate = {
    .name = "gate",
    .shape = gate_shape,
    .grad = gate_rule,
    .cost = cost,
    .cases = gate_cases,
    .n_in = 2,
    .n_out = 1,
    .inplace = 1,
    .half_in = 3,
    .kernel = KR_KERNELS_GPU(kr_gate),
};

const kr_op kr_op_gate_grad = {
    .name = "gate_grad",
    .shape = gate_grad_shape,
    .cost = cost,
    .cases = gate_grad_cases,
    .n_in = 3,
    .n_out = 2,
    .half_in = 7,
    .kernel = KR_KERNELS_GPU(kr_gate_grad),
};
