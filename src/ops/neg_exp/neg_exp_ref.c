/* neg_exp_ref.c - the negative exponential, scalar. neg_exp.h has the contract. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/neg_exp/neg_exp.h"
#include "ops/rows.h"

void KR_FN(kr_neg_exp)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    kr_rows rows = kr_rows_of(x, y, y);
    for (int64_t m = 0; m < rows.count; m++) {
        const real *xm = (const real *)x->data + m * x->stride[0];
        real *ym = (real *)y->data + m * y->stride[0];
        for (int64_t i = 0; i < rows.width; i++) kr_put(&ym[i], -exp((double)xm[i]), KR_ACC(c, 0));
    }
}

void KR_FN(kr_neg_exp_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *y = &c->in[1], *dx = &c->out[0];
    kr_rows rows = kr_rows_of(dy, y, dx);
    for (int64_t m = 0; m < rows.count; m++) {
        const real *dym = (const real *)dy->data + m * dy->stride[0];
        const real *ym = (const real *)y->data + m * y->stride[0];
        real *dxm = (real *)dx->data + m * dx->stride[0];
        for (int64_t i = 0; i < rows.width; i++)
            kr_put(&dxm[i], (double)dym[i] * (double)ym[i], KR_ACC(c, 0));
    }
}
