/* linear_cross_entropy_ref.c - head and loss in one, and their gradient, scalar.
 * linear_cross_entropy.h has the equations. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/linear/linear.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

static double weight_at(const kr_tensor *w, int64_t v, int64_t d) {
    int64_t i = v * w->stride[0] + d;
    switch (w->dtype) {
    case KR_F64: return ((const double *)w->data)[i];
    case KR_BF16: return (double)kr_bf16_to_f32(((const uint16_t *)w->data)[i]);
    case KR_F16: return (double)kr_f16_to_f32(((const uint16_t *)w->data)[i]);
    default: return (double)((const float *)w->data)[i];
    }
}

static void logits_of(const kr_call *c, int64_t r, double *logits) {
    const kr_tensor *x = &c->in[0], *w = kr_linear_weight(c, 3);
    const real *xr = (const real *)x->data + r * x->stride[0];
    for (int64_t v = 0; v < w->shape[0]; v++) {
        logits[v] = 0;
        for (int64_t d = 0; d < w->shape[1]; d++) logits[v] += (double)xr[d] * weight_at(w, v, d);
    }
}

static double log_sum_exp(const double *logits, int64_t V) {
    double largest = -HUGE_VAL, sum = 0;
    for (int64_t v = 0; v < V; v++) largest = fmax(largest, logits[v]);
    for (int64_t v = 0; v < V; v++) sum += exp(logits[v] - largest);
    return largest + log(sum);
}

static bool has_loss(const kr_call *c, int64_t r) {
    int32_t target = ((const int32_t *)c->in[2].data)[r];
    return target >= 0 && target < c->in[1].shape[0];
}

/* scratch: logits [V] */
void KR_FN(kr_linear_cross_entropy)(const kr_call *c) {
    const kr_linear_cross_entropy_attr *attr = c->attr;
    const int32_t *targets = c->in[2].data;
    double *logits = c->scratch;
    if (attr && attr->with_gradient) return;
    for (int64_t r = 0; r < c->in[0].shape[0]; r++) {
        logits_of(c, r, logits);
        double lse = has_loss(c, r) ? log_sum_exp(logits, c->in[1].shape[0]) : 0;
        ((real *)c->out[0].data)[r] = (real)(has_loss(c, r) ? lse - logits[targets[r]] : 0);
        if (c->out[1].data) ((real *)c->out[1].data)[r] = (real)lse;
    }
}

/* logits [V] become dlogits */
static void differentiate(const kr_call *c, int64_t r, double *logits) {
    int64_t V = c->in[1].shape[0];
    const int32_t *targets = c->in[2].data;
    const real *given = c->in[4].data, *dnll = c->in[5].data;
    real *nll = c->out[2].data;
    double lse = given ? (double)given[r] : log_sum_exp(logits, V);
    if (nll) nll[r] = (real)(has_loss(c, r) ? lse - logits[targets[r]] : 0);
    for (int64_t v = 0; v < V; v++) {
        double p = exp(logits[v] - lse) - (v == targets[r] ? 1 : 0);
        logits[v] = has_loss(c, r) ? p * (double)dnll[r] : 0;
    }
}

/* scratch: dlogits [R,V] */
void KR_FN(kr_linear_cross_entropy_grad)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *w = kr_linear_weight(c, 3);
    const kr_tensor *dx = &c->out[0], *dw = &c->out[1];
    int64_t R = x->shape[0], V = w->shape[0], D = w->shape[1];
    double *g = c->scratch;
    for (int64_t r = 0; r < R; r++) {
        logits_of(c, r, g + r * V);
        differentiate(c, r, g + r * V);
    }
    for (int64_t r = 0; dx->data && r < R; r++)
        for (int64_t d = 0; d < D; d++) {
            double sum = 0;
            for (int64_t v = 0; v < V; v++) sum += g[r * V + v] * weight_at(w, v, d);
            kr_put((real *)dx->data + r * dx->stride[0] + d, sum, KR_ACC(c, 0));
        }
    for (int64_t v = 0; dw->data && v < V; v++)
        for (int64_t d = 0; d < D; d++) {
            double sum = 0;
            for (int64_t r = 0; r < R; r++)
                sum += g[r * V + v] * (double)((const real *)x->data)[r * x->stride[0] + d];
            kr_put((real *)dw->data + v * dw->stride[0] + d, sum, KR_ACC(c, 1));
        }
}
