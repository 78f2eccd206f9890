/* scan_step_vec.c - one row a sequence (plan LANES_STEP): a decode step of many sequences at once.
 *
 * The states [slots,E,N] are read and written once, where they lie: vectors run over the N numbers
 * of a channel. Channels are the outer loop, so that a line of A serves every sequence, and the
 * states of sequences to come, which lie far apart, are fetched meanwhile; the sum over n is folded
 * at the end. */
#include "scan/vec_scan.h"

enum { LINE = 16 }; /* floats of a cache line */

typedef struct step {
    const kr_scan_view *v;
    float *state, *y;
    int64_t slot, y_row; /* floats from slot to slot and from row to row */
    bool add;
} step;

/* sum_n h c of one channel, whose state moves on. h NULL: zeros; out NULL: not kept. */
KR_VINLINE float channel(const kr_scan_view *v, int64_t e, const float *b, const float *c,
                         const float *h, float *out, float delta, float dx) {
    const float *A = v->A + e * v->N;
    float rate = delta * KR_LOG2_E;
    kr_vf sum = kr_vzero();
    for (int64_t n = 0; n < v->N; n += KR_W) {
        int64_t w = v->N - n;
        kr_vf now = dx * kr_vload_n(b + n, w);
        if (h) now = kr_vfma(kr_vexp2(rate * kr_vload_n(A + n, w)), kr_vload_n(h + n, w), now);
        if (out) kr_vstore_n(out + n, w, now);
        sum = kr_vfma(now, kr_vload_n(c + n, w), sum);
    }
    return kr_vsum(sum);
}

/* The states of channel e of sequence s; NULL: there are none. */
KR_VINLINE const float *states(const kr_scan_view *v, int64_t s, int64_t e) {
    if (!v->state_in || s >= v->S) return NULL;
    return v->state_in + kr_scan_sequence(v, s).slot * v->state_slot + e * v->N;
}

/* W channels from e of sequence s. */
static void block(const step *p, int64_t s, int64_t e, int64_t w) {
    const kr_scan_view *v = p->v;
    kr_scan_seq q = kr_scan_sequence(v, s);
    int64_t row = q.first, group = e / (v->E / v->G), each = kr_scan_skip_each(v->d);
    const float *b = v->b + row * v->b_row + group * v->N,
                *c = v->c + row * v->c_row + group * v->N;
    const float *now = kr_scan_starts(&q, 0) ? NULL : states(v, s, e);
    const float *next = states(v, s + KR_SCAN_AHEAD, e);
    float delta[KR_W], dx[KR_W], sums[KR_W] = {0}, D[KR_W] = {0};
    kr_vf x = kr_vload_n(v->x + row * v->x_row + e, w);
    kr_vf raw = kr_vload_n(v->dt + row * v->dt_row + e, w);
    if (v->bias) raw += kr_vload_n(v->bias + e, w);
    raw = kr_scan_delta(v->d, raw);
    kr_vstore(delta, raw);
    kr_vstore(dx, v->d->gain == KRAIT_GAIN_DT ? raw * x : x);
    for (int64_t i = 0; i < KR_W && i < w; i++) {
        for (int64_t n = 0; next && n < v->N; n += LINE) __builtin_prefetch(next + i * v->N + n, 1);
        float *out = p->state ? p->state + q.slot * p->slot + (e + i) * v->N : NULL;
        sums[i] = channel(v, e + i, b, c, now ? now + i * v->N : NULL, out, delta[i], dx[i]);
        if (v->D) D[i] = v->D[(e + i) / each];
    }
    kr_vf y = kr_vfma(kr_vload(D), x, kr_vload(sums) * (float)v->d->kappa);
    if (v->z) y *= kr_vsilu(kr_vload_n(v->z + row * v->z_row + e, w));
    kr_scan_put(p->y + row * p->y_row + e, w, y, p->add);
}

void KR_FN(kr_scan_lanes_step)(const kr_call *c) {
    kr_scan_view v = kr_scan_unpack(c);
    const kr_tensor *out = &c->out[KR_SCAN_OUT_STATE];
    step p = {.v = &v, .y = c->out[KR_SCAN_OUT_Y].data, .y_row = c->out[KR_SCAN_OUT_Y].stride[0]};
    p.add = c->accumulate & 1;
    if (c->n_out > KR_SCAN_OUT_STATE && out->data) {
        p.state = out->data;
        p.slot = out->stride[0];
    }
    int64_t width = v.E / v.G, blocks = (width + KR_W - 1) / KR_W;
#pragma omp parallel for num_threads(c->threads) schedule(static)
    for (int64_t i = 0; i < v.G * blocks; i++) {
        int64_t at = i % blocks * KR_W;
        for (int64_t s = 0; s < v.S; s++) block(&p, s, i / blocks * width + at, width - at);
    }
}
