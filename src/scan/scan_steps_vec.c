/* scan_steps_vec.c - the recurrence row by row (plan STEPS: S4, LSSL, and S4D backward where a
 * convolution does not pay): everything but x is constant in time, vectors run over channels.
 *
 *   h_t = a (*) h_{t-1} - sum_k p_k kappa Re(q_k . h_{t-1}) + b x_t
 *   y_t = kappa Re(c . h_t) + D x_t
 *
 * so a row of a decay of N numbers and low rank K costs O(N (1 + K)), not O(N^2). An item is a
 * block of channels with all its sequences. */
#include "scan/vec_steps.h"

#include <omp.h>

static void forward_block(kr_steps *p, const kr_call *call) {
    const kr_scan_view *v = p->v;
    const kr_tensor *y = &call->out[KR_SCAN_OUT_Y], *out = &call->out[KR_SCAN_OUT_STATE];
    bool keep = call->n_out > KR_SCAN_OUT_STATE && out->data;
    for (int64_t s = 0; s < v->S; s++) {
        kr_scan_seq q = kr_scan_sequence(v, s);
        kr_steps_load(p, p->h, v->state_in ? v->state_in + q.slot * v->state_slot : NULL, 1);
        for (int64_t t = 0; t < q.T; t++) {
            int64_t row = kr_scan_row(&q, t);
            kr_vf x = kr_steps_x(p, row);
            kr_steps_advance(p, p->h, x, kr_scan_starts(&q, t));
            kr_scan_put((float *)y->data + row * y->stride[0] + p->h0, p->w,
                        kr_steps_read(p, p->h, x), call->accumulate & 1);
        }
        if (keep) kr_steps_store(p, (float *)out->data + q.slot * out->stride[0], p->h, false);
    }
}

void KR_FN(kr_scan_steps)(const kr_call *call) {
    kr_scan_view v = kr_scan_unpack(call);
    int64_t blocks = (v.E + KR_W - 1) / KR_W, own = kr_scan_steps_forward(v.d);
#pragma omp parallel for num_threads(call->threads) schedule(dynamic) if (blocks > 1)
    for (int64_t i = 0; i < blocks; i++) {
        kr_steps p;
        kr_steps_cut(&p, &v, (float *)call->scratch + omp_get_thread_num() * own, false);
        kr_steps_open(&p, i * KR_W);
        forward_block(&p, call);
    }
}
