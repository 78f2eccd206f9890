/* gated_rmsnorm_ref.c - the gated norm, scalar. gated_rmsnorm.h has the equations. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/gated_rmsnorm/gated_rmsnorm.h"

static const real *row(const kr_tensor *t, int64_t m) {
    return (const real *)t->data + m * t->stride[0];
}

/* silu(z) and its derivative. */
static double silu(double z, double *slope) {
    double s = 1 / (1 + exp(-z));
    *slope = s * (1 + z * (1 - s));
    return z * s;
}

void KR_FN(kr_gated_rmsnorm)(const kr_call *c) {
    const kr_gated_rmsnorm_attr *attr = c->attr;
    const kr_tensor *x = &c->in[0], *y = &c->out[0], *rstds = &c->out[1];
    const real *w = c->in[2].data;
    int64_t G = attr->groups, W = x->shape[1] / G;
    for (int64_t i = 0; i < x->shape[0] * G; i++) {
        int64_t m = i / G, first = i % G * W;
        const real *xm = row(x, m), *zm = row(&c->in[1], m);
        double square = 0, slope;
        for (int64_t d = first; d < first + W; d++) {
            double n = (double)xm[d] * (attr->gate_behind ? 1 : silu((double)zm[d], &slope));
            square += n * n;
        }
        double rstd = 1 / sqrt(square / (double)W + attr->eps);
        for (int64_t d = first; d < first + W; d++)
            ((real *)y->data)[m * y->stride[0] + d] =
                (real)((double)w[d] * (double)xm[d] * rstd * silu((double)zm[d], &slope));
        if (rstds->data) ((real *)rstds->data)[m * rstds->stride[0] + i % G] = (real)rstd;
    }
}

/* What column d of row m gives: nh, o and w dy o. */
typedef struct column {
    double x, gate, slope, nh, o, g;
} column;

static column column_of(const kr_call *c, int64_t m, int64_t d, double rstd) {
    bool behind = ((const kr_gated_rmsnorm_attr *)c->attr)->gate_behind;
    column k = {.x = (double)row(&c->in[1], m)[d]};
    k.gate = silu((double)row(&c->in[2], m)[d], &k.slope);
    k.nh = k.x * rstd * (behind ? 1 : k.gate);
    k.o = behind ? k.gate : 1;
    k.g = (double)((const real *)c->in[3].data)[d] * (double)row(&c->in[0], m)[d] * k.o;
    return k;
}

static void group_grad(const kr_call *c, int64_t m, int64_t g) {
    const kr_gated_rmsnorm_attr *attr = c->attr;
    const kr_tensor *dx = &c->out[0], *dz = &c->out[1];
    int64_t W = c->in[1].shape[1] / attr->groups;
    double rstd = (double)row(&c->in[4], m)[g], mean = 0;
    for (int64_t d = g * W; d < (g + 1) * W; d++) {
        column k = column_of(c, m, d, rstd);
        mean += k.g * k.nh / (double)W;
    }
    for (int64_t d = g * W; d < (g + 1) * W; d++) {
        column k = column_of(c, m, d, rstd);
        double dn = rstd * (k.g - k.nh * mean);
        double wdy = (double)((const real *)c->in[3].data)[d] * (double)row(&c->in[0], m)[d];
        if (dx->data)
            kr_put((real *)dx->data + m * dx->stride[0] + d, attr->gate_behind ? dn : dn * k.gate,
                   KR_ACC(c, 0));
        if (dz->data)
            kr_put((real *)dz->data + m * dz->stride[0] + d,
                   k.slope * (attr->gate_behind ? wdy * k.nh : dn * k.x), KR_ACC(c, 1));
    }
}

void KR_FN(kr_gated_rmsnorm_grad)(const kr_call *c) {
    const kr_gated_rmsnorm_attr *attr = c->attr;
    int64_t M = c->in[1].shape[0], E = c->in[1].shape[1], W = E / attr->groups;
    for (int64_t m = 0; m < M; m++)
        for (int64_t g = 0; g < attr->groups; g++) group_grad(c, m, g);
    for (int64_t d = 0; c->out[2].data && d < E; d++) {
        double sum = 0;
        for (int64_t m = 0; m < M; m++) {
            column k = column_of(c, m, d, (double)row(&c->in[4], m)[d / W]);
            sum += (double)row(&c->in[0], m)[d] * k.nh * k.o;
        }
        kr_put((real *)c->out[2].data + d, sum, KR_ACC(c, 2));
    }
}
