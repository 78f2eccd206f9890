/* mamba_layer_ref.c - a decode step of a layer, scalar. mamba_layer.h has the equations. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/mamba_layer/mamba_layer.h"

/* What is made of a row on the way. */
typedef struct row_memory {
    double *x, *u, *z, *xp, *y; /* [D] normed, [E], [E], [r+2N], [E] */
} row_memory;

static double at(const kr_tensor *t, int64_t row, int64_t i) {
    return (double)((const real *)t->data)[row * t->stride[0] + i];
}

static double element(const kr_tensor *t, int64_t i) { return (double)((const real *)t->data)[i]; }
static double bias(const kr_tensor *t, int64_t i) { return t->data ? element(t, i) : 0; }

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* Row n of a weight times x. */
static double product(const kr_tensor *w, int64_t n, const double *x) {
    double sum = 0;
    for (int64_t k = 0; k < w->shape[1]; k++) sum += at(w, n, k) * x[k];
    return sum;
}

/* 1 over the root of the mean square of n numbers. */
static double inverse_rms(const double *x, int64_t n, double eps) {
    double squares = 0;
    for (int64_t i = 0; i < n; i++) squares += x[i] * x[i];
    return 1 / sqrt(squares / (double)n + eps);
}

static void norm_row(const kr_call *c, int64_t m, double *x) {
    int64_t D = c->in[KR_LAYER_X].shape[1];
    for (int64_t d = 0; d < D; d++) x[d] = at(&c->in[KR_LAYER_X], m, d);
    double scale = inverse_rms(x, D, ((const kr_mamba_layer_attr *)c->attr)->eps);
    for (int64_t d = 0; d < D; d++) x[d] *= scale * element(&c->in[KR_LAYER_NORM], d);
}

/* u of a channel; moves its window on. */
static double convolved(const kr_call *c, int64_t slot, int64_t channel, double x) {
    const kr_tensor *in = c->in, *from = &in[KR_LAYER_WINDOW];
    const kr_tensor *to = &c->out[KR_LAYER_WINDOW_OUT];
    int64_t K = in[KR_LAYER_CONV].shape[2];
    double u = bias(&in[KR_LAYER_CONV_BIAS], channel);
    for (int64_t w = 0; w < K; w++) {
        int64_t place = slot * from->stride[0] + w * from->stride[1] + channel;
        double v = w < K - 1 ? element(from, place) : x;
        u += element(&in[KR_LAYER_CONV], channel * K + w) * v;
        if (w > 0)
            ((real *)to->data)[slot * to->stride[0] + (w - 1) * to->stride[1] + channel] = (real)v;
    }
    return u * sigmoid(u);
}

/* Over the rms of each of the three parts. */
static void norm_parts(double *xp, int64_t r, int64_t N, double eps) {
    double *part = xp;
    for (int p = 0; p < 3 && eps > 0; p++) {
        int64_t n = p == 0 ? r : N;
        double scale = inverse_rms(part, n, eps);
        for (int64_t i = 0; i < n; i++) part[i] *= scale;
        part += n;
    }
}

static double scanned(const kr_call *c, int64_t slot, int64_t channel, const row_memory *row) {
    const kr_tensor *in = c->in, *A = &in[KR_LAYER_A], *from = &in[KR_LAYER_STATE];
    const kr_tensor *to = &c->out[KR_LAYER_STATE_OUT];
    int64_t N = A->shape[1], r = in[KR_LAYER_DT].shape[1];
    double raw =
        product(&in[KR_LAYER_DT], channel, row->xp) + element(&in[KR_LAYER_DT_BIAS], channel);
    double delta = raw > 30 ? raw : log1p(exp(raw)), u = row->u[channel], z = row->z[channel];
    double y = element(&in[KR_LAYER_D], channel) * u;
    for (int64_t n = 0; n < N; n++) {
        int64_t place = channel * N + n;
        double h = exp(delta * at(A, channel, n)) * element(from, slot * from->stride[0] + place);
        h += delta * row->xp[r + n] * u;
        ((real *)to->data)[slot * to->stride[0] + place] = (real)h;
        y += h * row->xp[r + N + n];
    }
    return y * z * sigmoid(z);
}

static void step_row(const kr_call *c, int64_t m, int64_t slot, const row_memory *row) {
    const kr_tensor *in = c->in;
    int64_t E = in[KR_LAYER_A].shape[0], N = in[KR_LAYER_A].shape[1], r = in[KR_LAYER_DT].shape[1];
    norm_row(c, m, row->x);
    for (int64_t i = 0; i < E; i++) {
        double x = product(&in[KR_LAYER_IN], i, row->x) + bias(&in[KR_LAYER_IN_BIAS], i);
        row->u[i] = convolved(c, slot, i, x);
        row->z[i] = product(&in[KR_LAYER_IN], E + i, row->x) + bias(&in[KR_LAYER_IN_BIAS], E + i);
    }
    for (int64_t i = 0; i < r + 2 * N; i++) row->xp[i] = product(&in[KR_LAYER_X_PROJ], i, row->u);
    norm_parts(row->xp, r, N, ((const kr_mamba_layer_attr *)c->attr)->mixer_eps);
    for (int64_t i = 0; i < E; i++) row->y[i] = scanned(c, slot, i, row);
}

void KR_FN(kr_mamba_layer)(const kr_call *c) {
    const kr_tensor *in = c->in, *x = &in[KR_LAYER_X], *out = &c->out[KR_LAYER_Y];
    int64_t D = x->shape[1], E = in[KR_LAYER_A].shape[0], width = in[KR_LAYER_X_PROJ].shape[0];
    double *memory = c->scratch;
    row_memory row = {memory, memory + D, memory + D + E, memory + D + 2 * E,
                      memory + D + 2 * E + width};
    for (int64_t m = 0; m < x->shape[0]; m++) {
        const int64_t *seq = (const int64_t *)in[KR_LAYER_SEQS].data + 3 * m;
        for (int64_t i = 0; i < E; i++) row.y[i] = 0;
        if (seq[1] > 0) step_row(c, m, seq[2], &row);
        for (int64_t d = 0; d < D; d++) {
            double y = product(&in[KR_LAYER_OUT], d, row.y) + bias(&in[KR_LAYER_OUT_BIAS], d);
            ((real *)out->data)[m * out->stride[0] + d] = (real)(at(x, m, d) + y);
        }
    }
}
