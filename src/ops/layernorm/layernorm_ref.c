/* layernorm_ref.c - the layer norm, scalar. layernorm.h has the equations. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/layernorm/layernorm.h"

static real *row(const kr_tensor *t, int64_t m) {
    return t->data ? (real *)t->data + m * t->stride[0] : NULL;
}

void KR_FN(kr_layernorm)(const kr_call *c) {
    const kr_tensor *x = &c->in[0];
    const real *w = c->in[2].data, *b = c->in[3].data;
    double eps = ((const kr_layernorm_attr *)c->attr)->eps;
    int64_t D = x->shape[1];
    for (int64_t m = 0; m < x->shape[0]; m++) {
        const real *xm = row(x, m), *rm = row(&c->in[1], m);
        real *ym = row(&c->out[0], m), *sm = row(&c->out[1], m);
        double mean = 0, square = 0;
        for (int64_t d = 0; d < D; d++)
            mean += ((double)xm[d] + (rm ? (double)rm[d] : 0)) / (double)D;
        for (int64_t d = 0; d < D; d++) {
            double s = (double)xm[d] + (rm ? (double)rm[d] : 0);
            square += (s - mean) * (s - mean);
            if (sm) sm[d] = (real)s;
        }
        double rstd = 1 / sqrt(square / (double)D + eps);
        for (int64_t d = 0; d < D; d++) {
            double s = sm ? (double)sm[d] : (double)xm[d] + (rm ? (double)rm[d] : 0);
            ym[d] = (real)((s - mean) * rstd * (double)w[d] + (double)b[d]);
        }
        if (c->out[2].data) ((real *)c->out[2].data)[m] = (real)mean;
        if (c->out[3].data) ((real *)c->out[3].data)[m] = (real)rstd;
    }
}

static double normed(const kr_call *c, int64_t m, int64_t d) {
    double mean = (double)((const real *)c->in[4].data)[m];
    double rstd = (double)((const real *)c->in[5].data)[m];
    return ((double)row(&c->in[2], m)[d] - mean) * rstd;
}

static void row_grad(const kr_call *c, int64_t m) {
    const real *dy = row(&c->in[0], m), *add = row(&c->in[1], m), *w = c->in[3].data;
    real *ds = row(&c->out[0], m), *dx = row(&c->out[3], m);
    int64_t D = c->in[2].shape[1];
    double rstd = (double)((const real *)c->in[5].data)[m], all = 0, along = 0;
    for (int64_t d = 0; d < D; d++) {
        double g = (double)w[d] * (double)dy[d] / (double)D;
        all += g;
        along += g * normed(c, m, d);
    }
    for (int64_t d = 0; d < D; d++) {
        double g = rstd * ((double)w[d] * (double)dy[d] - all - normed(c, m, d) * along);
        if (add) g += (double)add[d];
        if (ds) kr_put(&ds[d], g, KR_ACC(c, 0));
        if (dx) kr_put(&dx[d], g, KR_ACC(c, 3));
    }
}

void KR_FN(kr_layernorm_grad)(const kr_call *c) {
    real *dw = c->out[1].data, *db = c->out[2].data;
    int64_t M = c->in[2].shape[0], D = c->in[2].shape[1];
    for (int64_t m = 0; (c->out[0].data || c->out[3].data) && m < M; m++) row_grad(c, m);
    for (int64_t d = 0; d < D; d++) {
        double weight = 0, bias = 0;
        for (int64_t m = 0; m < M; m++) {
            weight += (double)row(&c->in[0], m)[d] * normed(c, m, d);
            bias += (double)row(&c->in[0], m)[d];
        }
        if (dw) kr_put(&dw[d], weight, KR_ACC(c, 1));
        if (db) kr_put(&db[d], bias, KR_ACC(c, 2));
    }
}
