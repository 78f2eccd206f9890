/* retention.c - rules of retention's decays; retention.h has the contract. */
#include "ops/retention/retention.h"

#include "base/err.h"
#include "ops/case.h"

static int shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_retention_attr *a = c->attr;
    if (a->heads < 1)
        return kr_fail(e, KRAIT_ERR_SHAPE, "retention: heads must be above 0, is %lld",
                       (long long)a->heads);
    kr_dtype x = c->in[0].dtype;
    out[0] = kr_tensor_make(NULL, x == KR_BF16 ? KR_F32 : x, 1, &a->heads);
    return 0;
}

static const kr_retention_attr attrs[] = {{1}, {8}, {37}};

static bool cases(int index, kr_case *k) {
    if (index >= 3) return false;
    k->name = "heads";
    k->n_out = 1;
    kr_case_normal(k, 0, 2, (int64_t[]){2, 3});
    k->attr = &attrs[index];
    k->attr_size = sizeof attrs[0];
    return true;
}

KR_DECLARE_REF_KERNEL(kr_retention);

const kr_op kr_op_retention = {
    .name = "retention",
    .shape = shape,
    .cases = cases,
    .n_in = 1,
    .n_out = 1,
    .half_in = 1,
    .kernel = KR_REF_KERNELS_GPU(kr_retention),
};
