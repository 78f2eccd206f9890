/* scan_steps_back_vec.c - the backward pass of plan STEPS (scan_steps_vec.c). With L = dL/dh_t, H
 * the state in front of row t, s_k = kappa Re(q_k . H) and g_k = dL/ds_k = -Re sum conj(p_k) L:
 *
 *   L += kappa conj(c) dy     dc += kappa conj(h) dy    db += x L    dx = Re(conj(b) L) + D dy
 *   da += L conj(H)           dp_k -= s_k L             dq_k += kappa g_k conj(H)
 *   L <- conj(a) L + kappa sum_k g_k conj(q_k)
 *
 * States are kept in front of every KR_SCAN_CHUNK-th row and computed again inside a chunk. Sums
 * of a sequence are floats, sums over sequences double. */
#include "scan/vec_steps.h"

#include <omp.h>

static const kr_tensor *wanted(const kr_call *c, int i) {
    return i < c->n_out && c->out[i].data ? &c->out[i] : NULL;
}

/* to += conj(h) u, numbers of a state with u real. */
KR_VINLINE void add_conj(const kr_steps *p, float *to, const float *h, kr_vf u) {
    int64_t real = p->N * KR_W, size = kr_steps_size(p);
    for (int64_t j = 0; j < real; j += KR_W)
        kr_vstore(to + j, kr_vfma(kr_vload(h + j), u, kr_vload(to + j)));
    for (int64_t j = real; j < size; j += KR_W)
        kr_vstore(to + j, kr_vnfma(kr_vload(h + j), u, kr_vload(to + j)));
}

/* to += h u */
KR_VINLINE void add_times(const kr_steps *p, float *to, const float *h, kr_vf u) {
    for (int64_t j = 0; j < kr_steps_size(p); j += KR_W)
        kr_vstore(to + j, kr_vfma(kr_vload(h + j), u, kr_vload(to + j)));
}

/* Re sum conj(v) w */
KR_VINLINE kr_vf conj_dot(const kr_steps *p, const float *v, const float *w) {
    return kr_steps_dot(v, w, p->numbers, p->numbers);
}

/* The decay's gradients, and L moved in front of the row. */
KR_VINLINE void decay_back(kr_steps *p, const float *prev) {
    int64_t N = p->N, size = kr_steps_size(p);
    kr_vf kappa = kr_steps_kappa(p);
    kr_steps_low(p, prev);
    for (int64_t k = 0; k < p->K; k++) {
        kr_vf g = kr_vzero() - conj_dot(p, kr_steps_p(p, k), p->L);
        add_times(p, p->dA + (1 + k) * size, p->L, kr_vzero() - kr_vload(p->s + k * KR_W));
        add_conj(p, p->dA + (1 + p->K + k) * size, prev, kappa * g);
        kr_vstore(p->g + k * KR_W, kappa * g);
    }
    for (int64_t n = 0; n < N; n++) {
        int64_t re = n * KR_W, im = (N + n) * KR_W;
        kr_vf a = kr_vload(p->A + re), L = kr_vload(p->L + re), h = kr_vload(prev + re);
        kr_vf da = kr_vfma(L, h, kr_vload(p->dA + re)), to = a * L;
        if (p->numbers > N) {
            kr_vf ai = kr_vload(p->A + im), Li = kr_vload(p->L + im), hi = kr_vload(prev + im);
            da = kr_vfma(Li, hi, da);
            kr_vf dai = kr_vnfma(L, hi, kr_vfma(Li, h, kr_vload(p->dA + im)));
            kr_vstore(p->dA + im, dai);
            to = kr_vfma(ai, Li, to);
            kr_vstore(p->L + im, kr_vnfma(ai, L, a * Li));
        }
        kr_vstore(p->dA + re, da);
        kr_vstore(p->L + re, to);
    }
    for (int64_t k = 0; k < p->K; k++)
        add_conj(p, p->L, kr_steps_q(p, k), kr_vload(p->g + k * KR_W));
}

/* Row t, whose state before is at prev and behind it at now; returns its x dy, for D. */
static kr_vf row_back(kr_steps *p, const kr_call *call, const kr_scan_seq *q, int64_t t,
                      const float *prev, const float *now) {
    const kr_scan_view *v = p->v;
    int64_t row = kr_scan_row(q, t);
    kr_vf x = kr_steps_x(p, row), dy = kr_vzero();
    if (v->dy) {
        dy = kr_vload_n(v->dy + row * v->dy_row + p->h0, p->w);
        kr_vf u = kr_steps_kappa(p) * dy;
        add_conj(p, p->L, p->c, u);
        add_conj(p, p->dc, now, u);
    }
    add_times(p, p->db, p->L, x);
    if (p->dx)
        kr_scan_put((float *)p->dx->data + row * p->dx->stride[0] + p->h0, p->w,
                    kr_vfma(kr_steps_skip(p), dy, conj_dot(p, p->b, p->L)),
                    call->accumulate >> KR_SCAN_DX & 1);
    if (p->y)
        kr_scan_put((float *)p->y->data + row * p->y->stride[0] + p->h0, p->w,
                    kr_steps_read(p, now, x), false);
    if (kr_scan_starts(q, t))
        memset(p->L, 0, (size_t)kr_steps_size(p) * sizeof *p->L);
    else
        decay_back(p, prev);
    return x * dy;
}

/* The rows of a sequence from state h on; p->L becomes the gradient of that. */
static kr_vf rows_back(kr_steps *p, const kr_call *call, const kr_scan_seq *q) {
    int64_t C = KR_SCAN_CHUNK, chunks = (q->T + C - 1) / C, size = kr_steps_size(p);
    size_t bytes = (size_t)size * sizeof *p->h;
    kr_vf dD = kr_vzero();
    for (int64_t k = 0; k < chunks; k++) {
        memcpy(p->starts + k * size, p->h, bytes);
        for (int64_t t = k * C; k + 1 < chunks && t < (k + 1) * C; t++)
            kr_steps_advance(p, p->h, kr_steps_x(p, kr_scan_row(q, t)), kr_scan_starts(q, t));
    }
    for (int64_t k = chunks - 1; k >= 0; k--) {
        int64_t t0 = k * C, rows = q->T - t0 < C ? q->T - t0 : C;
        const float *before = p->starts + k * size;
        for (int64_t i = 0; i < rows; i++) {
            float *now = p->inside + i * size;
            memcpy(now, i ? now - size : before, bytes);
            kr_steps_advance(p, now, kr_steps_x(p, kr_scan_row(q, t0 + i)),
                             kr_scan_starts(q, t0 + i));
        }
        for (int64_t i = rows - 1; i >= 0; i--) {
            const float *now = p->inside + i * size;
            dD += row_back(p, call, q, t0 + i, i ? now - size : before, now);
        }
    }
    return dD;
}

/* Sums of a sequence on to those over sequences, and to zero. dA, db and dc lie together. */
static void gather(kr_steps *p) {
    int64_t n = (3 + 2 * p->K) * kr_steps_size(p);
    for (int64_t i = 0; i < n; i++) p->sum[i] += (double)p->dA[i];
    memset(p->dA, 0, (size_t)n * sizeof *p->dA);
}

/* [count, numbers] of each channel, from the sums that begin with vector `first`. */
static void write_sums(const kr_steps *p, const kr_call *call, int i, int64_t first,
                       int64_t count) {
    const kr_tensor *out = wanted(call, i);
    int64_t all = count * p->numbers;
    const double *sum = p->sum + first * kr_steps_size(p);
    for (int64_t l = 0; out && l < p->w; l++)
        for (int64_t j = 0; j < all; j++) {
            float *to = (float *)out->data + (p->h0 + l) * all + j;
            *to = (float)(sum[j * KR_W + l] + (call->accumulate >> i & 1 ? (double)*to : 0));
        }
}

static void block_back(kr_steps *p, const kr_call *call) {
    const kr_scan_view *v = p->v;
    const kr_tensor *dstate = wanted(call, KR_SCAN_DSTATE_IN), *D = wanted(call, KR_SCAN_DD);
    int64_t grads = 3 + 2 * p->K, size = kr_steps_size(p);
    double dD[KR_W] = {0};
    memset(p->dA, 0, (size_t)(grads * size) * sizeof *p->dA);
    memset(p->sum, 0, (size_t)(grads * size) * sizeof *p->sum);
    p->dx = wanted(call, KR_SCAN_DX);
    p->y = wanted(call, KR_SCAN_Y_AGAIN);
    for (int64_t s = 0; s < v->S; s++) {
        float lanes[KR_W];
        kr_scan_seq q = kr_scan_sequence(v, s);
        kr_steps_load(p, p->h, v->state_in ? v->state_in + q.slot * v->state_slot : NULL, 1);
        kr_steps_load(p, p->L, v->dstate ? v->dstate + q.slot * v->dstate_slot : NULL, 1);
        kr_vstore(lanes, rows_back(p, call, &q));
        for (int i = 0; i < KR_W; i++) dD[i] += (double)lanes[i];
        gather(p);
        if (dstate)
            kr_steps_store(p, (float *)dstate->data + q.slot * dstate->stride[0], p->L, true);
    }
    write_sums(p, call, KR_SCAN_DA, 0, 1 + 2 * p->K);
    write_sums(p, call, KR_SCAN_DB, 1 + 2 * p->K, 1);
    write_sums(p, call, KR_SCAN_DC, 2 + 2 * p->K, 1);
    for (int64_t i = 0; D && i < p->w; i++) {
        float *to = (float *)D->data + p->h0 + i;
        *to = (float)(dD[i] + (call->accumulate >> KR_SCAN_DD & 1 ? (double)*to : 0));
    }
}

/* Slots that no sequence names have no gradient. */
static void clear_states(const kr_call *c) {
    const kr_tensor *t = wanted(c, KR_SCAN_DSTATE_IN);
    if (t && !(c->accumulate >> KR_SCAN_DSTATE_IN & 1)) memset(t->data, 0, kr_tensor_bytes(t));
}

void KR_FN(kr_scan_steps_grad)(const kr_call *call) {
    kr_scan_view v = kr_scan_unpack(call);
    int64_t blocks = (v.E + KR_W - 1) / KR_W, own = kr_scan_steps_backward(v.d, v.M);
    clear_states(call);
#pragma omp parallel for num_threads(call->threads) schedule(dynamic)
    for (int64_t i = 0; i < blocks; i++) {
        kr_steps p;
        kr_steps_cut(&p, &v, (float *)call->scratch + omp_get_thread_num() * own, true);
        kr_steps_open(&p, i * KR_W);
        block_back(&p, call);
    }
}
