/* linear_ref.c - matrix products, scalar. linear.h has the equations. */
#include "ops/op_ref.h"

#include "ops/linear/linear.h"

static double weight_at(const kr_tensor *w, int64_t n, int64_t k) {
    int64_t i = n * w->stride[0] + k;
    switch (w->dtype) {
    case KR_F64: return ((const double *)w->data)[i];
    case KR_BF16: return (double)kr_bf16_to_f32(((const uint16_t *)w->data)[i]);
    case KR_F16: return (double)kr_f16_to_f32(((const uint16_t *)w->data)[i]);
    default: return (double)((const float *)w->data)[i];
    }
}

void KR_FN(kr_linear)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *w = kr_linear_weight(c, 3), *y = &c->out[0];
    const real *bias = c->in[2].data;
    for (int64_t m = 0; m < x->shape[0]; m++) {
        const real *xm = (const real *)x->data + m * x->stride[0];
        real *ym = (real *)y->data + m * y->stride[0];
        for (int64_t n = 0; n < w->shape[0]; n++) {
            double sum = bias ? (double)bias[n] : 0;
            for (int64_t k = 0; k < w->shape[1]; k++) sum += (double)xm[k] * weight_at(w, n, k);
            kr_put(&ym[n], sum, KR_ACC(c, 0));
        }
    }
}

void KR_FN(kr_linear_dx)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *w = kr_linear_weight(c, 2), *dx = &c->out[0];
    for (int64_t m = 0; m < dy->shape[0]; m++) {
        const real *dym = (const real *)dy->data + m * dy->stride[0];
        real *dxm = (real *)dx->data + m * dx->stride[0];
        for (int64_t k = 0; k < w->shape[1]; k++) {
            double sum = 0;
            for (int64_t n = 0; n < w->shape[0]; n++) sum += (double)dym[n] * weight_at(w, n, k);
            kr_put(&dxm[k], sum, KR_ACC(c, 0));
        }
    }
}

void KR_FN(kr_linear_dw)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *x = &c->in[1], *dw = &c->out[0];
    const real *dys = dy->data, *xs = x->data;
    real *dbias = c->out[1].data;
    int64_t M = x->shape[0];
    for (int64_t n = 0; n < dy->shape[1]; n++) {
        for (int64_t k = 0; dw->data && k < x->shape[1]; k++) {
            double sum = 0;
            for (int64_t m = 0; m < M; m++)
                sum += (double)dys[m * dy->stride[0] + n] * (double)xs[m * x->stride[0] + k];
            kr_put((real *)dw->data + n * dw->stride[0] + k, sum, KR_ACC(c, 0));
        }
        double sum = 0;
        for (int64_t m = 0; dbias && m < M; m++) sum += (double)dys[m * dy->stride[0] + n];
        if (dbias) kr_put(&dbias[n], sum, KR_ACC(c, 1));
    }
}
