/* vec_rows.h - what the plans ROWS and CHUNK share: delta and decay of a row and head; the partial
 * sums of their gradients. Included by scan_rows*_vec.c and scan_chunk*_vec.c only. */
#ifndef KR_VEC_ROWS_H
#define KR_VEC_ROWS_H

#include "scan/vec_scan.h"

/* delta of a row and head before the softplus; 0 where the member has none. */
KR_VINLINE float kr_rows_raw(const kr_scan_view *v, int64_t row, int64_t head) {
    if (!v->dt) return 0;
    return v->dt[row * v->dt_row + head] + (v->bias ? v->bias[head] : 0);
}

KR_VINLINE float kr_rows_delta(const kr_scan_view *v, int64_t row, int64_t head) {
    return v->dt ? kr_scan_delta(v->d, kr_vset(kr_rows_raw(v, row, head)))[0] : 0;
}

KR_VINLINE float kr_rows_gain(const kr_scan_view *v, int64_t row, int64_t head, int64_t r,
                              float delta) {
    if (v->d->gain == KRAIT_GAIN_DT) return delta;
    return v->gain ? v->gain[row * v->gain_row + r * v->d->heads + head] : 1;
}

/* A of a row and head: one number (SCALAR) or N; NULL without a decay. */
KR_VINLINE const float *kr_rows_A(const kr_scan_view *v, int64_t row, int64_t head) {
    if (!v->A) return NULL;
    return v->A + row * v->A_row + head * (v->d->decay == KRAIT_DECAY_SCALAR ? 1 : v->N);
}

/* The decay of a row and head, for every n: a [N]. */
KR_VINLINE void kr_rows_decay(const kr_scan_view *v, int64_t row, int64_t head, float delta,
                              float *a) {
    const float *A = kr_rows_A(v, row, head);
    bool scalar = v->d->decay == KRAIT_DECAY_SCALAR;
    for (int64_t n = 0; n < v->N; n += KR_W) {
        kr_vf z = kr_vset(1.0f);
        if (A) z = scalar ? kr_vset(A[0]) : kr_vload_n(A + n, v->N - n);
        if (A && v->d->form == KRAIT_FORM_DT) z *= delta;
        if (A && v->d->form != KRAIT_FORM_GIVEN) z = kr_vexp(z);
        kr_vstore_n(a + n, v->N - n, z);
    }
}

/* or += the sum over `count` partial sums, `step` apart. */
static inline __attribute__((unused)) void kr_rows_sum_(const kr_call *c, int i, int64_t at,
                                                        const float *from, int64_t n, int64_t count,
                                                        int64_t step, bool more) {
    float *to = c->out[i].data;
    bool add = more || c->accumulate >> i & 1;
    for (int64_t k = 0; to && k < n; k += KR_W) {
        kr_vf sum = add ? kr_vload_n(to + at + k, n - k) : kr_vzero();
        for (int64_t j = 0; j < count; j++) sum += kr_vload_n(from + j * step + k, n - k);
        kr_vstore_n(to + at + k, n - k, sum);
    }
}

/* Gradients of what heads and sequences share, from the partial sums of scan_plan.h. */
static inline __attribute__((unused)) void kr_rows_reduce(const kr_call *c, const kr_scan_view *v,
                                                          const kr_scan_rows_cut *s,
                                                          const float *bc, const float *sums) {
    int64_t R = v->d->inputs, Q = v->d->reads, GN = v->G * v->N, step = v->M * (R + Q) * GN;
#pragma omp parallel for num_threads(c->threads) schedule(static)
    for (int64_t m = 0; m < v->M; m++) {
        const float *from = bc + m * (R + Q) * GN;
        kr_rows_sum_(c, KR_SCAN_DB, m * c->out[KR_SCAN_DB].stride[0], from, R * GN, s->parts, step,
                     false);
        kr_rows_sum_(c, KR_SCAN_DC, m * c->out[KR_SCAN_DC].stride[0], from + R * GN, Q * GN,
                     s->parts, step, false);
    }
    int64_t H = v->d->heads, P = v->P, width = P + v->N + 1, count = s->slabs;
    int64_t Na = v->d->decay == KRAIT_DECAY_SCALAR ? 1 : v->N;
    for (int64_t h = 0; h < H; h++) {
        const float *from = sums + h * width;
        if (v->d->a_constant && v->A)
            kr_rows_sum_(c, KR_SCAN_DA, h * Na, from + P, Na, count, H * width, false);
        if (v->dt) kr_rows_sum_(c, KR_SCAN_DBIAS, h, from + P + v->N, 1, count, H * width, false);
        for (int64_t i = 0; i < P; i++)
            kr_rows_sum_(c, KR_SCAN_DD, v->d->skip_per_channel ? h * P + i : h, from + i, 1, count,
                         H * width, !v->d->skip_per_channel && i > 0);
    }
}

#endif
