/* mamba_step_ref.c - a decode step, scalar. mamba_step.h has the equations. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/mamba_step/mamba_step.h"

static double at(const kr_tensor *t, int64_t row, int64_t i) {
    return (double)((const real *)t->data)[row * t->stride[0] + i];
}

static double element(const kr_tensor *t, int64_t i) { return (double)((const real *)t->data)[i]; }

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* Slot of row m; -1: the row is no one's. */
static int64_t slot_of(const kr_tensor *seqs, int64_t m) {
    const int64_t *seq = (const int64_t *)seqs->data + 3 * m;
    return seq[1] > 0 ? seq[2] : -1;
}

static double step_of(const kr_tensor *in, int64_t m, int64_t channel) {
    const kr_tensor *w = &in[KR_STEP_DT_WEIGHT];
    double raw = element(&in[KR_STEP_DT_BIAS], channel);
    for (int64_t i = 0; i < w->shape[1]; i++) raw += at(w, channel, i) * at(&in[KR_STEP_XP], m, i);
    return raw > 30 ? raw : log1p(exp(raw));
}

static double scanned(const kr_call *c, int64_t m, int64_t slot, int64_t channel) {
    const kr_tensor *in = c->in, *A = &in[KR_STEP_A], *from = &in[KR_STEP_STATE];
    const kr_tensor *to = &c->out[KR_STEP_STATE_OUT];
    int64_t N = A->shape[1], r = in[KR_STEP_DT_WEIGHT].shape[1];
    double delta = step_of(in, m, channel), u = at(&in[KR_STEP_SCAN_U], m, channel);
    double y = element(&in[KR_STEP_D], channel) * u, z = at(&in[KR_STEP_SCAN_Z], m, channel);
    for (int64_t n = 0; n < N; n++) {
        int64_t place = channel * N + n;
        double h = exp(delta * at(A, channel, n)) * element(from, slot * from->stride[0] + place);
        h += delta * at(&in[KR_STEP_XP], m, r + n) * u;
        ((real *)to->data)[slot * to->stride[0] + place] = (real)h;
        y += h * at(&in[KR_STEP_XP], m, r + N + n);
    }
    return y * z * sigmoid(z);
}

void KR_FN(kr_mamba_step_scan)(const kr_call *c) {
    const kr_tensor *y = &c->out[KR_STEP_Y];
    for (int64_t m = 0; m < y->shape[0]; m++) {
        int64_t slot = slot_of(&c->in[KR_STEP_SCAN_SEQS], m);
        for (int64_t e = 0; e < y->shape[1]; e++)
            ((real *)y->data)[m * y->stride[0] + e] = slot < 0 ? 0 : (real)scanned(c, m, slot, e);
    }
}
