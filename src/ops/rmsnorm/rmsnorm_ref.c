/* rmsnorm_ref.c - the root-mean-square norm, scalar. rmsnorm.h has the equations. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/rmsnorm/rmsnorm.h"

void KR_FN(kr_rmsnorm)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *res = &c->in[1];
    const real *w = c->in[2].data;
    double eps = ((const kr_rmsnorm_attr *)c->attr)->eps;
    int64_t D = x->shape[1];
    for (int64_t m = 0; m < x->shape[0]; m++) {
        const real *xm = (const real *)x->data + m * x->stride[0];
        const real *rm = res->data ? (const real *)res->data + m * res->stride[0] : NULL;
        real *ym = (real *)c->out[0].data + m * c->out[0].stride[0];
        real *sm = c->out[1].data ? (real *)c->out[1].data + m * c->out[1].stride[0] : NULL;
        double square = 0;
        for (int64_t d = 0; d < D; d++) {
            double s = (double)xm[d] + (rm ? (double)rm[d] : 0);
            if (sm) sm[d] = (real)s;
            square += s * s;
        }
        double rstd = 1 / sqrt(square / (double)D + eps);
        for (int64_t d = 0; d < D; d++) {
            double s = sm ? (double)sm[d] : (double)xm[d] + (rm ? (double)rm[d] : 0);
            ym[d] = (real)(s * rstd * (w ? (double)w[d] : 1));
        }
        if (c->out[2].data) ((real *)c->out[2].data)[m] = (real)rstd;
    }
}

/* Row m of s, plus x where there is one. */
static double s_at(const kr_call *c, int64_t m, int64_t d) {
    const kr_tensor *s = &c->in[2], *x = &c->in[5];
    double v = (double)((const real *)s->data)[m * s->stride[0] + d];
    return x->data ? v + (double)((const real *)x->data)[m * x->stride[0] + d] : v;
}

void KR_FN(kr_rmsnorm_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *dsum = &c->in[1], *s = &c->in[2], *ds = &c->out[0],
                    *dx = &c->out[2], *y = &c->out[3];
    const real *w = c->in[3].data, *rstd = c->in[4].data;
    real *dw = c->out[1].data;
    int64_t M = s->shape[0], D = s->shape[1];
    for (int64_t m = 0; (ds->data || dx->data || y->data) && m < M; m++) {
        const real *dym = (const real *)dy->data + m * dy->stride[0];
        const real *addm = dsum->data ? (const real *)dsum->data + m * dsum->stride[0] : NULL;
        real *dsm = ds->data ? (real *)ds->data + m * ds->stride[0] : NULL;
        real *dxm = dx->data ? (real *)dx->data + m * dx->stride[0] : NULL;
        real *ym = y->data ? (real *)y->data + m * y->stride[0] : NULL;
        double r = (double)rstd[m], mean = 0;
        for (int64_t d = 0; d < D; d++)
            mean += (w ? (double)w[d] : 1) * (double)dym[d] * s_at(c, m, d) * r / (double)D;
        for (int64_t d = 0; d < D; d++) {
            double g = r * ((w ? (double)w[d] : 1) * (double)dym[d] - s_at(c, m, d) * r * mean);
            if (addm) g += (double)addm[d];
            if (dsm) kr_put(&dsm[d], g, KR_ACC(c, 0));
            if (dxm) kr_put(&dxm[d], g, KR_ACC(c, 2));
            if (ym) ym[d] = (real)(s_at(c, m, d) * r * (w ? (double)w[d] : 1));
        }
    }
    for (int64_t d = 0; dw && d < D; d++) {
        double sum = 0;
        for (int64_t m = 0; m < M; m++)
            sum += (double)((const real *)dy->data)[m * dy->stride[0] + d] * s_at(c, m, d) *
                   (double)rstd[m];
        kr_put(&dw[d], sum, KR_ACC(c, 1));
    }
}
