/* vec_scan.h - what the vector plans of the recurrence share. Included by scan_*_vec.c only. */
#ifndef KR_VEC_SCAN_H
#define KR_VEC_SCAN_H

#include "scan/scan_plan.h"
#include "vec/vec_math.h"

enum { KR_SCAN_AHEAD = 2 }; /* rows to fetch before they are needed */

/* A call unpacked. Pointers are NULL where the array is absent; strides count floats from row to
 * row. */
typedef struct kr_scan_view {
    const krait_scan_desc *d;
    const float *x, *dt, *A, *b, *c, *D, *z, *bias, *gain, *dy;
    int64_t x_row, dt_row, A_row, b_row, c_row, z_row, gain_row, dy_row;
    const float *state_in, *dstate;
    int64_t state_slot, dstate_slot; /* floats from slot to slot */
    const int64_t *seqs;
    int64_t seqs_row;
    const uint8_t *reset;
    int64_t M, S, E, N, P, G;
} kr_scan_view;

KR_VINLINE const float *kr_scan_floats_(const kr_call *c, int i, bool constant, int64_t *row) {
    if (i >= c->n_in || !c->in[i].data) return NULL;
    if (row) *row = constant ? 0 : c->in[i].stride[0];
    return c->in[i].data;
}

static inline __attribute__((unused)) kr_scan_view kr_scan_unpack(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    kr_scan_view v = {.d = d,
                      .M = c->in[KR_SCAN_X].shape[0],
                      .S = c->in[KR_SCAN_SEQS].shape[0],
                      .E = kr_scan_lanes(d),
                      .N = d->state,
                      .P = d->width,
                      .G = d->groups};
    v.x = kr_scan_floats_(c, KR_SCAN_X, false, &v.x_row);
    v.dt = kr_scan_floats_(c, KR_SCAN_DT, d->dt_constant, &v.dt_row);
    v.A = kr_scan_floats_(c, KR_SCAN_A, d->a_constant, &v.A_row);
    v.b = kr_scan_floats_(c, KR_SCAN_B, d->b_constant, &v.b_row);
    v.c = kr_scan_floats_(c, KR_SCAN_C, d->c_constant, &v.c_row);
    v.D = kr_scan_floats_(c, KR_SCAN_D, true, NULL);
    v.z = kr_scan_floats_(c, KR_SCAN_Z, false, &v.z_row);
    v.bias = kr_scan_floats_(c, KR_SCAN_BIAS, true, NULL);
    v.gain = kr_scan_floats_(c, KR_SCAN_GAIN, false, &v.gain_row);
    v.dy = kr_scan_floats_(c, KR_SCAN_DY, false, &v.dy_row);
    v.state_in = kr_scan_floats_(c, KR_SCAN_STATE, false, &v.state_slot);
    v.dstate = kr_scan_floats_(c, KR_SCAN_DSTATE, false, &v.dstate_slot);
    v.seqs = c->in[KR_SCAN_SEQS].data;
    v.seqs_row = c->in[KR_SCAN_SEQS].stride[0];
    if (KR_SCAN_RESET < c->n_in) v.reset = c->in[KR_SCAN_RESET].data;
    return v;
}

/* A sequence, and its rows in visiting order. */
typedef struct kr_scan_seq {
    int64_t first, T, slot;
    bool reverse;
    const uint8_t *reset;
} kr_scan_seq;

KR_VINLINE kr_scan_seq kr_scan_sequence(const kr_scan_view *v, int64_t s) {
    const int64_t *q = v->seqs + s * v->seqs_row;
    return (kr_scan_seq){q[0], q[1], q[2], v->d->order == KRAIT_ORDER_REVERSE, v->reset};
}

KR_VINLINE int64_t kr_scan_row(const kr_scan_seq *q, int64_t t) {
    return q->reverse ? q->first + q->T - 1 - t : q->first + t;
}

/* Whether a segment starts at step t: no state comes from the step before. */
KR_VINLINE bool kr_scan_starts(const kr_scan_seq *q, int64_t t) {
    if (!q->reset) return false;
    return q->reverse ? t > 0 && q->reset[q->first + q->T - t] : q->reset[q->first + t];
}

/* delta of a vector of raw values; NaN stays NaN. */
KR_VINLINE kr_vf kr_scan_delta(const krait_scan_desc *d, kr_vf raw) {
    kr_vf delta = d->dt_softplus ? kr_vsoftplus(raw) : raw;
    if (d->dt_min > 0 || !d->dt_softplus) delta = kr_vmax(kr_vset((float)d->dt_min), delta);
    if (d->dt_max > 0) delta = kr_vmin(kr_vset((float)d->dt_max), delta);
    return delta;
}

/* d delta / d raw: nothing where the clamp holds. */
KR_VINLINE kr_vf kr_scan_delta_slope(const krait_scan_desc *d, kr_vf raw) {
    kr_vf one = kr_vset(1.0f), zero = kr_vzero(), slope = one;
    if (d->dt_softplus) slope = kr_vselect(kr_vle(raw, kr_vset(20.0f)), kr_vsigmoid(raw), one);
    if (d->dt_softplus && d->dt_min <= 0 && d->dt_max <= 0) return slope;
    kr_vf delta = d->dt_softplus ? kr_vsoftplus(raw) : raw;
    slope = kr_vselect(kr_vlt(delta, kr_vset((float)d->dt_min)), zero, slope);
    if (d->dt_max > 0) slope = kr_vselect(kr_vlt(kr_vset((float)d->dt_max), delta), zero, slope);
    return slope;
}

/* Stores n lanes at p, or adds them to what is there. */
KR_VINLINE void kr_scan_put(float *p, int64_t n, kr_vf v, bool add) {
    kr_vstore_n(p, n, add ? kr_vload_n(p, n) + v : v);
}

/* A number of output i of a gradient's call, NULL: it is not wanted; and one number put there, or
 * added where the call says so. */
KR_VINLINE float *kr_scan_out_at(const kr_call *c, int i, int64_t row, int64_t col) {
    const kr_tensor *t = &c->out[i];
    return t->data ? (float *)t->data + row * t->stride[0] + col : NULL;
}

KR_VINLINE bool kr_scan_adds(const kr_call *c, int i) { return c->accumulate >> i & 1; }

KR_VINLINE void kr_scan_put_at(const kr_call *c, int i, int64_t row, int64_t col, float value) {
    float *to = kr_scan_out_at(c, i, row, col);
    if (to) *to = kr_scan_adds(c, i) ? *to + value : value;
}

/* Lanes as vectors: from [lanes,N] (numbers of a channel together) to [ceil(lanes / W),N,W], zeros
 * beyond; NULL gives zeros. */
static inline __attribute__((unused)) void kr_scan_to_blocks(float *to, const float *from,
                                                             int64_t lanes, int64_t N,
                                                             float scale) {
    int64_t blocks = (lanes + KR_W - 1) / KR_W;
    memset(to, 0, (size_t)(blocks * N * KR_W) * sizeof *to);
    for (int64_t e = 0; from && e < lanes; e++)
        for (int64_t n = 0; n < N; n++)
            to[(e / KR_W * N + n) * KR_W + e % KR_W] = from[e * N + n] * scale;
}

static inline __attribute__((unused)) void kr_scan_from_blocks(float *to, const float *from,
                                                               int64_t lanes, int64_t N, bool add) {
    for (int64_t e = 0; e < lanes; e++)
        for (int64_t n = 0; n < N; n++) {
            float v = from[(e / KR_W * N + n) * KR_W + e % KR_W];
            to[e * N + n] = add ? to[e * N + n] + v : v;
        }
}

/* A number for each channel [E], from one for each channel or each head; NULL gives zeros. */
static inline __attribute__((unused)) void kr_scan_spread(float *to, const float *from, int64_t e0,
                                                          int64_t lanes, int64_t each) {
    for (int64_t e = 0; e < lanes; e++) to[e] = from ? from[(e0 + e) / each] : 0;
    for (int64_t e = lanes; e % KR_W; e++) to[e] = 0;
}

/* Channels that share one D. */
KR_VINLINE int64_t kr_scan_skip_each(const krait_scan_desc *d) {
    return d->skip_per_channel ? 1 : d->width;
}

kr_kernel kr_scan_ref, kr_scan_grad_ref;
kr_kernel KR_FN(kr_scan_lanes_step), KR_FN(kr_scan_lanes), KR_FN(kr_scan_lanes_grad),
    KR_FN(kr_scan_rows), KR_FN(kr_scan_rows_grad), KR_FN(kr_scan_chunk), KR_FN(kr_scan_chunk_grad),
    KR_FN(kr_scan_complex), KR_FN(kr_scan_complex_grad), KR_FN(kr_scan_conv),
    KR_FN(kr_scan_conv_grad), KR_FN(kr_scan_modes), KR_FN(kr_scan_steps), KR_FN(kr_scan_steps_grad);

#endif
