/* rope_ref.c - rotary positions, scalar. rope.h has the equations. */
#include "ops/op_ref.h"

#include "ops/rope/rope.h"
#include "ops/rope/rope_rows.h"
#include "ops/seqs.h"

static real *row(const kr_tensor *t, int64_t m) { return (real *)t->data + m * t->stride[0]; }

/* phi[n] of row t of a sequence; t = first + count: behind the last. */
static double phase(const kr_call *c, int i, kr_seq q, int64_t t, int64_t n) {
    const kr_tensor *state = &c->in[i + 1];
    bool fresh;
    int64_t last = t < q.first + q.count ? t : t - 1;
    int64_t at = kr_rope_segment(c->in[i].data, q.first, last, &fresh);
    double start = fresh || !state->data ? 0 : (double)row(state, q.slot)[n];
    return kr_rope_wrap(start + (double)(t - at) * kr_rope_theta(c->attr, n));
}

static void turn(const kr_call *c, const kr_tensor *x, int seqs, double sign) {
    int64_t N = ((const kr_rope_attr *)c->attr)->width, half = N / 2;
    for (int64_t s = 0; c->out[0].data && s < c->in[seqs].shape[0]; s++) {
        kr_seq q = kr_seq_of(&c->in[seqs], s);
        for (int64_t t = q.first; t < q.first + q.count; t++)
            for (int64_t i = 0; i < x->shape[1]; i++) {
                int64_t n = i % N % half, at = i / N * N + n;
                double phi = sign * phase(c, seqs + 1, q, t, n);
                double a = (double)row(x, t)[at], b = (double)row(x, t)[at + half];
                bool second = i % N >= half;
                kr_put(row(&c->out[0], t) + i,
                       second ? a * sin(phi) + b * cos(phi) : a * cos(phi) - b * sin(phi),
                       KR_ACC(c, 0));
            }
    }
}

void KR_FN(kr_rope)(const kr_call *c) {
    const kr_tensor *out = &c->out[1];
    turn(c, &c->in[0], 1, 1);
    for (int64_t s = 0; out->data && s < c->in[1].shape[0]; s++) {
        kr_seq q = kr_seq_of(&c->in[1], s);
        for (int64_t n = 0; n < out->shape[1]; n++)
            row(out, q.slot)[n] = (real)phase(c, 2, q, q.first + q.count, n);
    }
}

/* What the rows of a sequence in front of its first segment start give to its state. */
static double state_gradient(const kr_call *c, kr_seq q, int64_t n) {
    const uint8_t *reset = c->in[3].data;
    const kr_tensor *dy = &c->in[0], *x = &c->in[1], *dstate = &c->in[5];
    int64_t N = ((const kr_rope_attr *)c->attr)->width, half = N / 2, end = q.first + q.count;
    double sum = 0;
    for (int64_t t = q.first; t < end; t++) {
        if (reset && reset[t]) return sum;
        double phi = phase(c, 3, q, t, n);
        for (int64_t at = n; at < dy->shape[1]; at += N) {
            double d1 = (double)row(dy, t)[at], d2 = (double)row(dy, t)[at + half];
            double a = (double)row(x, t)[at], b = (double)row(x, t)[at + half];
            sum += a * (d2 * cos(phi) - d1 * sin(phi)) - b * (d1 * cos(phi) + d2 * sin(phi));
        }
    }
    return sum + (dstate->data ? (double)row(dstate, q.slot)[n] : 0);
}

void KR_FN(kr_rope_grad)(const kr_call *c) {
    const kr_tensor *dstate = &c->out[1];
    turn(c, &c->in[0], 2, -1);
    if (!dstate->data) return;
    for (int64_t i = 0; !KR_ACC(c, 1) && i < dstate->shape[0]; i++)
        for (int64_t n = 0; n < dstate->shape[1]; n++) row(dstate, i)[n] = 0;
    for (int64_t s = 0; s < c->in[2].shape[0]; s++) {
        kr_seq q = kr_seq_of(&c->in[2], s);
        for (int64_t n = 0; n < dstate->shape[1]; n++)
            kr_put(row(dstate, q.slot) + n, state_gradient(c, q, n), KR_ACC(c, 1));
    }
}
