/* vec_steps.h - what both directions of plan STEPS share: a block of channels whose decay, b and c
 * are constant in time, as vectors over channels. Included by scan_steps*_vec.c only.
 *
 * A block is KR_W channels, one in each lane. A vector over the state is [numbers][W]: N numbers,
 * or N real and then N imaginary parts. */
#ifndef KR_VEC_STEPS_H
#define KR_VEC_STEPS_H

#include "scan/vec_scan.h"

typedef struct kr_steps {
    const kr_scan_view *v;
    int64_t h0, w;           /* channels h0 .. h0 + w */
    int64_t N, K, numbers;   /* numbers: N, doubled where complex */
    float *A, *b, *c, *h;    /* A: [1+2K] of a, p and q; h: the state */
    float *s, *g;            /* [K][W] kappa Re(q_k . h), and gradients of it */
    float *L, *dA, *db, *dc; /* backward only: as h, A, b, c */
    double *sum;             /* [3+2K] of dA, db and dc over sequences */
    float *starts, *inside;  /* states in front of chunks; behind the rows of one */
    const kr_tensor *dx, *y; /* of the backward pass; y: the outputs once more */
} kr_steps;

KR_VINLINE int64_t kr_steps_size(const kr_steps *p) { return p->numbers * KR_W; }
KR_VINLINE const float *kr_steps_p(const kr_steps *p, int64_t k) {
    return p->A + (1 + k) * kr_steps_size(p);
}
KR_VINLINE const float *kr_steps_q(const kr_steps *p, int64_t k) {
    return p->A + (1 + p->K + k) * kr_steps_size(p);
}

static inline __attribute__((unused)) void kr_steps_cut(kr_steps *p, const kr_scan_view *v,
                                                        float *at, bool backward) {
    int64_t C = KR_SCAN_CHUNK;
    *p = (kr_steps){.v = v, .N = v->N, .K = v->d->low_rank, .numbers = kr_scan_n(v->d)};
    int64_t size = kr_steps_size(p), grads = 3 + 2 * p->K;
    float **arrays[] = {&p->A,  &p->b,  &p->c,  &p->h, &p->s,      &p->g,
                        &p->dA, &p->db, &p->dc, &p->L, &p->inside, &p->starts};
    const int64_t sizes[] = {(1 + 2 * p->K) * size, size, size, size, p->K * KR_W, p->K * KR_W,
                             (1 + 2 * p->K) * size, size, size, size, C * size,    0};
    if (backward) {
        p->sum = (double *)(void *)at;
        at += 2 * grads * size;
    }
    for (int i = 0; i < (backward ? 12 : 6); i++) {
        *arrays[i] = at;
        at += sizes[i];
    }
}

/* Vectors over the state [count, numbers] of each channel, to [count, numbers, W], zeros in lanes
 * without a channel; NULL: zeros. */
static inline __attribute__((unused)) void kr_steps_load(const kr_steps *p, float *to,
                                                         const float *from, int64_t count) {
    int64_t all = count * p->numbers;
    memset(to, 0, (size_t)(all * KR_W) * sizeof *to);
    for (int64_t i = 0; from && i < p->w; i++)
        for (int64_t j = 0; j < all; j++) to[j * KR_W + i] = from[(p->h0 + i) * all + j];
}

static inline __attribute__((unused)) void kr_steps_store(const kr_steps *p, float *to,
                                                          const float *from, bool add) {
    for (int64_t i = 0; i < p->w; i++)
        for (int64_t j = 0; j < p->numbers; j++) {
            float *at = &to[(p->h0 + i) * p->numbers + j];
            *at = from[j * KR_W + i] + (add ? *at : 0);
        }
}

static inline __attribute__((unused)) void kr_steps_open(kr_steps *p, int64_t h0) {
    const kr_scan_view *v = p->v;
    p->h0 = h0;
    p->w = v->E - h0 < KR_W ? v->E - h0 : KR_W;
    kr_steps_load(p, p->A, v->A, 1 + 2 * p->K);
    kr_steps_load(p, p->b, v->b, 1);
    kr_steps_load(p, p->c, v->c, 1);
}

/* Re(q . h). Four sums at once, so that each does not wait for itself. */
KR_VINLINE kr_vf kr_steps_dot(const float *q, const float *h, int64_t numbers, int64_t real) {
    kr_vf plus[2] = {kr_vzero(), kr_vzero()}, minus[2] = {kr_vzero(), kr_vzero()};
    for (int64_t j = 0; j < real; j++)
        plus[j & 1] = kr_vfma(kr_vload(q + j * KR_W), kr_vload(h + j * KR_W), plus[j & 1]);
    for (int64_t j = real; j < numbers; j++)
        minus[j & 1] = kr_vfma(kr_vload(q + j * KR_W), kr_vload(h + j * KR_W), minus[j & 1]);
    return (plus[0] + plus[1]) - (minus[0] + minus[1]);
}

KR_VINLINE kr_vf kr_steps_kappa(const kr_steps *p) { return kr_vset((float)p->v->d->kappa); }

/* p->s = kappa Re(q_k . h) */
KR_VINLINE void kr_steps_low(kr_steps *p, const float *h) {
    for (int64_t k = 0; k < p->K; k++)
        kr_vstore(p->s + k * KR_W,
                  kr_steps_kappa(p) * kr_steps_dot(kr_steps_q(p, k), h, p->numbers, p->N));
}

/* h <- a h - sum_k p_k s_k + b x of one row; fresh: h counts as zero. */
KR_VINLINE void kr_steps_advance(kr_steps *p, float *h, kr_vf x, bool fresh) {
    int64_t N = p->N, size = kr_steps_size(p);
    bool complex = p->numbers > N;
    if (fresh) memset(h, 0, (size_t)size * sizeof *h);
    if (!fresh) kr_steps_low(p, h);
    for (int64_t n = 0; n < N; n++) {
        int64_t re = n * KR_W, im = (N + n) * KR_W;
        kr_vf a = kr_vload(p->A + re), v = kr_vload(h + re);
        kr_vf to = kr_vfma(a, v, kr_vload(p->b + re) * x);
        if (complex) {
            kr_vf ai = kr_vload(p->A + im), vi = kr_vload(h + im);
            to = kr_vnfma(ai, vi, to);
            kr_vstore(h + im, kr_vfma(a, vi, kr_vfma(ai, v, kr_vload(p->b + im) * x)));
        }
        kr_vstore(h + re, to);
    }
    for (int64_t k = 0; !fresh && k < p->K; k++) {
        const float *low = kr_steps_p(p, k);
        kr_vf s = kr_vload(p->s + k * KR_W);
        for (int64_t j = 0; j < size; j += KR_W)
            kr_vstore(h + j, kr_vnfma(kr_vload(low + j), s, kr_vload(h + j)));
    }
}

KR_VINLINE kr_vf kr_steps_x(const kr_steps *p, int64_t row) {
    return kr_vload_n(p->v->x + row * p->v->x_row + p->h0, p->w);
}

KR_VINLINE kr_vf kr_steps_skip(const kr_steps *p) {
    return p->v->D ? kr_vload_n(p->v->D + p->h0, p->w) : kr_vzero();
}

/* kappa Re(c . h) + D x */
KR_VINLINE kr_vf kr_steps_read(const kr_steps *p, const float *h, kr_vf x) {
    return kr_vfma(kr_steps_skip(p), x,
                   kr_steps_kappa(p) * kr_steps_dot(p->c, h, p->numbers, p->N));
}

#endif
