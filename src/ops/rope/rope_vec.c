/* rope_vec.c - rotary positions over vectors. rope.h has the equations.
 *
 * Cosines and sines of a row are computed once, in double, and serve all of its heads. Threads take
 * rows. */
#include "ops/rope/rope.h"

#include "ops/rope/rope_rows.h"
#include "ops/seqs.h"
#include "ops/threads.h"
#include "vec/vec.h"

static float *row(const kr_tensor *t, int64_t m) { return (float *)t->data + m * t->stride[0]; }

/* phi[n], `place` rows behind the state's (NULL: 0). */
static double phase(const float *start, int64_t place, double theta, int64_t n) {
    return kr_rope_wrap((start ? (double)start[n] : 0) + (double)place * theta);
}

/* The state that a row of a sequence counts from, and how far behind it is. */
static const float *origin(const kr_call *c, int reset, kr_seq q, int64_t t, int64_t *place) {
    bool fresh;
    int64_t at = kr_rope_segment(c->in[reset].data, q.first, t, &fresh);
    *place = t - at;
    return fresh || !c->in[reset + 1].data ? NULL : row(&c->in[reset + 1], q.slot);
}

KR_VINLINE void put(float *p, int64_t n, kr_vf v, bool add) {
    kr_vstore_n(p, n, add ? v + kr_vload_n(p, n) : v);
}

/* All heads of a row, turned by the angles whose cosines and sines [half] are given. */
static void turn_row(const float *x, float *y, int64_t C, int64_t half, const float *cosines,
                     const float *sines, bool add) {
    for (int64_t h = 0; h < C; h += 2 * half)
        for (int64_t n = 0; n < half; n += KR_W) {
            int64_t left = half - n, at = h + n;
            kr_vf a = kr_vload_n(x + at, left), b = kr_vload_n(x + at + half, left);
            kr_vf co = kr_vload_n(cosines + n, left), si = kr_vload_n(sines + n, left);
            put(y + at, left, kr_vnfma(b, si, a * co), add);
            put(y + at + half, left, kr_vfma(b, co, a * si), add);
        }
}

static void turn(const kr_call *c, const kr_tensor *x, int seqs, double sign, kr_part rows,
                 double *thetas) {
    int64_t half = ((const kr_rope_attr *)c->attr)->width / 2;
    float *angles = (float *)(thetas + half);
    for (int64_t n = 0; n < half; n++) thetas[n] = kr_rope_theta(c->attr, n);
    for (int64_t s = 0; s < c->in[seqs].shape[0]; s++) {
        kr_seq q = kr_seq_of(&c->in[seqs], s);
        int64_t t = q.first > rows.begin ? q.first : rows.begin;
        for (; t < q.first + q.count && t < rows.end; t++) {
            int64_t place;
            const float *start = origin(c, seqs + 1, q, t, &place);
            for (int64_t n = 0; n < half; n++) {
                double phi = phase(start, place, thetas[n], n);
                angles[n] = (float)cos(phi);
                angles[half + n] = (float)(sign * sin(phi));
            }
            turn_row(row(x, t), row(&c->out[0], t), x->shape[1], half, angles, angles + half,
                     c->accumulate & 1);
        }
    }
}

static void turn_all(const kr_call *c, const kr_tensor *x, int seqs, double sign) {
    int64_t width = ((const kr_rope_attr *)c->attr)->width;
    if (!c->out[0].data) return;
    int threads = kr_threads_for(c, kr_tensor_count(x) * 32);
#pragma omp parallel num_threads(threads) if (threads > 1)
    turn(c, x, seqs, sign, kr_my_part(x->shape[0], 1),
         (double *)c->scratch + omp_get_thread_num() * width);
}

void KR_FN(kr_rope)(const kr_call *c) {
    const kr_tensor *out = &c->out[1];
    turn_all(c, &c->in[0], 1, 1);
    for (int64_t s = 0; out->data && s < c->in[1].shape[0]; s++) {
        kr_seq q = kr_seq_of(&c->in[1], s);
        int64_t place = -1;
        const float *start = c->in[3].data ? row(&c->in[3], q.slot) : NULL;
        if (q.count) start = origin(c, 2, q, q.first + q.count - 1, &place);
        for (int64_t n = 0; n < out->shape[1]; n++)
            row(out, q.slot)[n] = (float)phase(start, place + 1, kr_rope_theta(c->attr, n), n);
    }
}

/* What the rows of a sequence in front of its first segment start give to its state. Few want
 * it. */
static double state_gradient(const kr_call *c, kr_seq q, int64_t n) {
    const uint8_t *reset = c->in[3].data;
    const kr_tensor *dy = &c->in[0], *dstate = &c->in[5];
    int64_t N = ((const kr_rope_attr *)c->attr)->width, half = N / 2;
    const float *start = row(&c->in[4], q.slot);
    double sum = 0, theta = kr_rope_theta(c->attr, n);
    for (int64_t t = q.first; t < q.first + q.count; t++) {
        if (reset && reset[t]) return sum;
        double phi = phase(start, t - q.first, theta, n), co = cos(phi), si = sin(phi);
        const float *d = row(dy, t) + n, *x = row(&c->in[1], t) + n;
        for (int64_t at = 0; at < dy->shape[1]; at += N) {
            double d1 = (double)d[at], d2 = (double)d[at + half];
            sum += (double)x[at] * (d2 * co - d1 * si) - (double)x[at + half] * (d1 * co + d2 * si);
        }
    }
    return sum + (dstate->data ? (double)row(dstate, q.slot)[n] : 0);
}

void KR_FN(kr_rope_grad)(const kr_call *c) {
    const kr_tensor *dstate = &c->out[1];
    bool add = c->accumulate & 2;
    turn_all(c, &c->in[0], 2, -1);
    if (!dstate->data) return;
    for (int64_t i = 0; !add && i < dstate->shape[0]; i++)
        memset(row(dstate, i), 0, (size_t)dstate->shape[1] * sizeof(float));
    for (int64_t s = 0; s < c->in[2].shape[0]; s++) {
        kr_seq q = kr_seq_of(&c->in[2], s);
        for (int64_t n = 0; n < dstate->shape[1]; n++) {
            float g = (float)state_gradient(c, q, n), *to = row(dstate, q.slot) + n;
            *to = add ? *to + g : g;
        }
    }
}
