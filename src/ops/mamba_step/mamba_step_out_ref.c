/* mamba_step_out_ref.c - the end of a decode step of many rows, scalar. mamba_step.h has the
 * equations. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/mamba_step/mamba_step.h"

static double at(const kr_tensor *t, int64_t row, int64_t i) {
    return (double)((const real *)t->data)[row * t->stride[0] + i];
}

void KR_FN(kr_mamba_step_out)(const kr_call *c) {
    const kr_tensor *y = &c->in[0], *weight = &c->in[1], *out = &c->out[0];
    int64_t D = weight->shape[0], K = weight->shape[1];
    int64_t P = ((const kr_mamba_step_out_attr *)c->attr)->parts;
    for (int64_t m = 0; m < y->shape[0]; m++)
        for (int64_t n = 0; n < P * D; n++) {
            int64_t k = kr_mamba_step_cut(K, P, n / D), end = kr_mamba_step_cut(K, P, n / D + 1);
            double sum = 0;
            for (; k < end; k++) sum += at(y, m, k) * at(weight, n % D, k);
            ((real *)out->data)[m * out->stride[0] + n] = (real)sum;
        }
}

static double sum_at(const kr_tensor *in, int64_t m, int64_t d) {
    int64_t D = in[2].shape[0];
    double s = at(&in[1], m, d);
    for (int64_t n = d; n < in[0].shape[1]; n += D) s += at(&in[0], m, n);
    return s;
}

void KR_FN(kr_mamba_step_norm)(const kr_call *c) {
    const kr_tensor *in = c->in, *a = &c->out[0], *s = &c->out[1];
    int64_t D = in[2].shape[0];
    for (int64_t m = 0; m < s->shape[0]; m++) {
        double squares = 0;
        for (int64_t d = 0; d < D; d++) squares += sum_at(in, m, d) * sum_at(in, m, d);
        double rstd = 1 / sqrt(squares / (double)D + ((const kr_mamba_step_attr *)c->attr)->eps);
        for (int64_t d = 0; d < D; d++) {
            double norm = (double)((const real *)in[2].data)[d];
            ((real *)a->data)[m * a->stride[0] + d] = (real)(norm * sum_at(in, m, d) * rstd);
            ((real *)s->data)[m * s->stride[0] + d] = (real)sum_at(in, m, d);
        }
    }
}
