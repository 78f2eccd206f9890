/* cast.c - rules of rounding to bf16; cast.h has the contract. */
#include "ops/cast/cast.h"

#include "base/err.h"
#include "ops/case.h"

static int shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    (void)e;
    out[0] = kr_out_like(&c->in[0]);
    out[0].dtype = KR_BF16;
    return 0;
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = (double)kr_tensor_count(&c->in[0]);
    *bytes = 6 * (double)kr_tensor_count(&c->in[0]);
}

static bool cases(int index, kr_case *k) {
    static const struct {
        const char *name;
        int rank;
        int64_t shape[3];
    } list[] = {{"one element", 1, {1}},
                {"a row of 63", 1, {63}},
                {"matrix", 2, {5, 17}},
                {"three dimensions", 3, {3, 5, 100}},
                {"far", 2, {5, 17}}};
    if (index >= (int)(sizeof list / sizeof *list)) return false;
    k->name = list[index].name;
    k->n_out = 1;
    kr_case_normal(k, 0, list[index].rank, list[index].shape);
    k->half.none = true;
    if (index == 4) kr_case_far(k);
    return true;
}

KR_DECLARE_REF_KERNEL(kr_cast);

const kr_op kr_op_cast = {
    .name = "cast",
    .shape = shape,
    .cost = cost,
    .cases = cases,
    .n_in = 1,
    .n_out = 1,
    .kernel = KR_REF_KERNELS_GPU(kr_cast),
};
