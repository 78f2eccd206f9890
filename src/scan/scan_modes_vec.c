/* scan_modes_vec.c - what plan CONV computes, row by row (plan MODES: S4D's decode step, and rows
 * too few for transforms):
 *
 *   h_t = a h_{t-1} + b x_t        y_t = kappa Re sum_n c_n h_t[n] + D x_t         times silu(z_t)
 *
 * Vectors run over the modes n of a channel: its a, b, c and state lie together, real parts in
 * front of imaginary ones. Channels are the outer loop, so that a, b and c of a channel serve every
 * sequence; all arithmetic is in f32. */
#include "scan/vec_scan.h"

#include <math.h>
#include <omp.h>

typedef struct modes {
    const kr_scan_view *v;
    float *state, *y;
    int64_t slot, y_row; /* floats from slot to slot and from row to row */
    bool add;
} modes;

/* a of channels [e, e + count), [count,2,N]; own: room for it, where the logarithm is given. */
static const float *decays(const kr_scan_view *v, int64_t e, int64_t count, float *own) {
    const float *A = v->A + e * 2 * v->N;
    if (v->d->form == KRAIT_FORM_GIVEN) return A;
    for (int64_t i = 0; i < count * 2 * v->N; i++) {
        int64_t n = i / (2 * v->N) * 2 * v->N + i % v->N;
        double size = exp((double)A[n]), phase = (double)A[n + v->N];
        own[i] = (float)(size * (i == n ? cos(phase) : sin(phase)));
    }
    return own;
}

/* to = a h + b x, [2,N], which may be h; h NULL: zeros. Returns sum_n Re(c to). */
KR_VINLINE float move(int64_t N, const float *a, const float *b, const float *c, const float *h,
                      float *to, float x) {
    kr_vf sum = kr_vzero();
    for (int64_t n = 0; n < N; n += KR_W) {
        int64_t w = N - n;
        kr_vf new_re = x * kr_vload_n(b + n, w), new_im = x * kr_vload_n(b + N + n, w);
        if (h) {
            kr_vf re = kr_vload_n(h + n, w), im = kr_vload_n(h + N + n, w);
            kr_vf a_re = kr_vload_n(a + n, w), a_im = kr_vload_n(a + N + n, w);
            new_re = kr_vnfma(a_im, im, kr_vfma(a_re, re, new_re));
            new_im = kr_vfma(a_im, re, kr_vfma(a_re, im, new_im));
        }
        kr_vstore_n(to + n, w, new_re);
        kr_vstore_n(to + N + n, w, new_im);
        sum = kr_vfma(new_re, kr_vload_n(c + n, w), sum);
        sum = kr_vnfma(new_im, kr_vload_n(c + N + n, w), sum);
    }
    return kr_vsum(sum);
}

/* Channel e of a sequence; h: room for a state that nobody keeps. */
static void channel(const modes *p, const kr_scan_seq *q, int64_t e, const float *a, float *h) {
    const kr_scan_view *v = p->v;
    int64_t N = v->N, at = e * 2 * N;
    const float *now = v->state_in ? v->state_in + q->slot * v->state_slot + at : NULL;
    float *to = p->state ? p->state + q->slot * p->slot + at : h, D = v->D ? v->D[e] : 0;
    for (int64_t t = 0; t < q->T; t++, now = to) {
        int64_t row = kr_scan_row(q, t);
        float x = v->x[row * v->x_row + e], *y = p->y + row * p->y_row + e;
        if (kr_scan_starts(q, t)) now = NULL;
        float sum = (float)v->d->kappa * move(N, a, v->b + at, v->c + at, now, to, x) + D * x;
        if (v->z) {
            float z = v->z[row * v->z_row + e];
            sum *= z / (1 + expf(-z));
        }
        *y = p->add ? *y + sum : sum;
    }
    if (q->T > 0 || !p->state || now == to) return;
    for (int64_t n = 0; n < 2 * N; n++) to[n] = now ? now[n] : 0;
}

void KR_FN(kr_scan_modes)(const kr_call *c) {
    kr_scan_view v = kr_scan_unpack(c);
    const kr_tensor *out = &c->out[KR_SCAN_OUT_STATE];
    modes p = {.v = &v, .y = c->out[KR_SCAN_OUT_Y].data, .y_row = c->out[KR_SCAN_OUT_Y].stride[0]};
    int64_t line = kr_scan_line(2 * v.N), blocks = (v.E + KR_SCAN_LINE - 1) / KR_SCAN_LINE;
    p.add = c->accumulate & 1;
    if (c->n_out > KR_SCAN_OUT_STATE && out->data) {
        p.state = out->data;
        p.slot = out->stride[0];
    }
#pragma omp parallel for num_threads(c->threads) schedule(static)
    for (int64_t i = 0; i < blocks; i++) {
        int64_t e = i * KR_SCAN_LINE, w = v.E - e < KR_SCAN_LINE ? v.E - e : KR_SCAN_LINE;
        float *h = (float *)c->scratch + omp_get_thread_num() * (KR_SCAN_LINE + 1) * line;
        const float *a = decays(&v, e, w, h + line);
        for (int64_t s = 0; s < v.S; s++) {
            kr_scan_seq q = kr_scan_sequence(&v, s);
            for (int64_t k = 0; k < w; k++) channel(&p, &q, e + k, a + k * 2 * v.N, h);
        }
    }
}
