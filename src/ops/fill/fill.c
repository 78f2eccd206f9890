/* fill.c - rules of the constant; fill.h has the contract. */
#include "ops/fill/fill.h"

#include "base/err.h"
#include "ops/case.h"

static int shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    int64_t columns = ((const kr_fill_attr *)c->attr)->columns;
    const kr_tensor *x = &c->in[0];
    if (c->n_in > 0 && x->data) {
        KR_TRY(kr_need_rank("fill", "x", x, 2, e));
        if (columns < 1)
            return kr_fail(e, KRAIT_ERR_SHAPE, "fill: columns must be above 0, is %lld",
                           (long long)columns);
        out[0] = kr_tensor_make(NULL, x->dtype, 2, (int64_t[]){x->shape[0], columns});
        out[0].dim0 = x->dim0;
        return 0;
    }
    if (c->out[0].rank == 0)
        return kr_fail(e, KRAIT_ERR_SHAPE,
                       "fill: without x the output must be given: it has no shape of its own");
    return 0;
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = 0;
    *bytes = (double)kr_tensor_bytes(&c->out[0]);
}

static const kr_fill_attr values[] = {{0, 0}, {-2.5, 0}, {1, 0}, {1, 19}};

static bool cases(int index, kr_case *k) {
    static const int64_t shapes[][2] = {{1, 1}, {3, 17}, {63, 100}, {5, 2}};
    if (index >= 4) return false;
    k->name = index == 3 ? "rows of x" : "constant";
    k->n_out = 1;
    kr_case_normal(k, 0, 2, shapes[index]);
    if (index < 3) {
        kr_case_without(k, 0);
        k->out[0] = kr_tensor_make(NULL, KR_F32, 2, shapes[index]);
    }
    k->attr = &values[index];
    k->attr_size = sizeof values[index];
    return true;
}

KR_DECLARE_KERNEL(kr_fill);

const kr_op kr_op_fill = {
    .name = "fill",
    .shape = shape,
    .cost = cost,
    .cases = cases,
    .n_in = 1,
    .n_out = 1,
    .kernel = KR_KERNELS_GPU(kr_fill),
};
