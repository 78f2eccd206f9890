/* vec_rows.h - what the plan ROWS shares between its two directions: delta and decay of a row and
 * head. Included by scan_rows*_vec.c only. */
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

#endif
