/* mamba2_layer_ref.c - a decode step of a layer of Mamba-2, scalar. mamba2_layer.h has the
 * equations. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/mamba_layer/mamba2_layer.h"

static double at(const kr_tensor *t, int64_t row, int64_t i) {
    return (double)((const real *)t->data)[row * t->stride[0] + i];
}

static double element(const kr_tensor *t, int64_t i) { return (double)((const real *)t->data)[i]; }
static double bias(const kr_tensor *t, int64_t i) { return t->data ? element(t, i) : 0; }

static double silu(double x) { return x / (1 + exp(-x)); }

/* Row n of a weight times x. */
static double product(const kr_tensor *w, int64_t n, const double *x) {
    double sum = 0;
    for (int64_t k = 0; k < w->shape[1]; k++) sum += at(w, n, k) * x[k];
    return sum;
}

/* x = weight * x over its rms. */
static void norm(double *x, const kr_tensor *weight, double eps) {
    int64_t n = weight->shape[0];
    double squares = 0;
    for (int64_t i = 0; i < n; i++) squares += x[i] * x[i];
    for (int64_t i = 0; i < n; i++) x[i] *= element(weight, i) / sqrt(squares / (double)n + eps);
}

/* A channel of the convolution; moves its window on. */
static double convolved(const kr_call *c, int64_t slot, int64_t channel, double x) {
    const kr_tensor *in = c->in, *from = &in[KR_LAYER2_WINDOW];
    const kr_tensor *to = &c->out[KR_LAYER2_WINDOW_OUT];
    int64_t K = in[KR_LAYER2_CONV].shape[2];
    double u = bias(&in[KR_LAYER2_CONV_BIAS], channel);
    for (int64_t w = 0; w < K; w++) {
        int64_t place = slot * from->stride[0] + w * from->stride[1] + channel;
        double v = w < K - 1 ? element(from, place) : x;
        u += element(&in[KR_LAYER2_CONV], channel * K + w) * v;
        if (w > 0)
            ((real *)to->data)[slot * to->stride[0] + (w - 1) * to->stride[1] + channel] = (real)v;
    }
    return silu(u);
}

static double step_size(const kr_call *c, int64_t head, double raw) {
    const kr_mamba2_layer_attr *a = c->attr;
    raw += element(&c->in[KR_LAYER2_DT_BIAS], head);
    double delta = raw > 30 ? raw : log1p(exp(raw));
    if (delta < a->dt_min) delta = a->dt_min;
    return a->dt_max > 0 && delta > a->dt_max ? a->dt_max : delta;
}

/* C . h + D u of a channel; mixed: u, B, C. */
static double scanned(const kr_call *c, int64_t slot, int64_t channel, const double *mixed,
                      double delta) {
    const kr_tensor *in = c->in, *from = &in[KR_LAYER2_STATE];
    const kr_tensor *to = &c->out[KR_LAYER2_STATE_OUT], *D = &in[KR_LAYER2_D];
    int64_t E = from->shape[1], N = from->shape[2], P = E / in[KR_LAYER2_A].shape[0];
    const double *B = mixed + E, *C = B + N;
    double u = mixed[channel], y = element(D, D->shape[0] == E ? channel : channel / P) * u;
    double decay = exp(delta * element(&in[KR_LAYER2_A], channel / P));
    for (int64_t n = 0; n < N; n++) {
        int64_t place = channel * N + n;
        double h = decay * element(from, slot * from->stride[0] + place) + delta * B[n] * u;
        ((real *)to->data)[slot * to->stride[0] + place] = (real)h;
        y += h * C[n];
    }
    return y;
}

/* What out_proj takes; made: room for what in_proj makes. */
static void mix_row(const kr_call *c, int64_t m, int64_t slot, double *x, double *made, double *g) {
    const kr_tensor *in = c->in;
    int64_t D = in[KR_LAYER2_X].shape[1], all = in[KR_LAYER2_IN].shape[0];
    int64_t E = in[KR_LAYER2_OUT].shape[1], H = in[KR_LAYER2_A].shape[0], mixed = all - E - H;
    double eps = ((const kr_mamba2_layer_attr *)c->attr)->eps;
    for (int64_t d = 0; d < D; d++) x[d] = at(&in[KR_LAYER2_X], m, d);
    norm(x, &in[KR_LAYER2_NORM], eps);
    for (int64_t i = 0; i < all; i++)
        made[i] = product(&in[KR_LAYER2_IN], i, x) + bias(&in[KR_LAYER2_IN_BIAS], i);
    for (int64_t i = 0; i < mixed; i++) made[E + i] = convolved(c, slot, i, made[E + i]);
    for (int64_t i = 0; i < E; i++) {
        double delta = step_size(c, i / (E / H), made[E + mixed + i / (E / H)]);
        g[i] = scanned(c, slot, i, made + E, delta) * silu(made[i]);
    }
    norm(g, &in[KR_LAYER2_GATE_NORM], eps);
}

void KR_FN(kr_mamba2_layer)(const kr_call *c) {
    const kr_tensor *in = c->in, *x = &in[KR_LAYER2_X], *out = &c->out[KR_LAYER2_Y];
    int64_t D = x->shape[1], E = in[KR_LAYER2_OUT].shape[1];
    double *row = c->scratch, *g = row + D, *made = g + E;
    for (int64_t m = 0; m < x->shape[0]; m++) {
        const int64_t *seq = (const int64_t *)in[KR_LAYER2_SEQS].data + 3 * m;
        for (int64_t i = 0; i < E; i++) g[i] = 0;
        if (seq[1] > 0) mix_row(c, m, seq[2], row, made, g);
        for (int64_t d = 0; d < D; d++) {
            double y = product(&in[KR_LAYER2_OUT], d, g) + bias(&in[KR_LAYER2_OUT_BIAS], d);
            ((real *)out->data)[m * out->stride[0] + d] = (real)(at(x, m, d) + y);
        }
    }
}
