/* ranks_vec.c - channels spread over ranks and gathered, over vectors of channels. ranks.h has the
 * contract.
 *
 * Threads take rows; for the weights' gradient they take heads, and go down all rows of theirs. */
#include "ops/ranks/ranks.h"

#include "ops/threads.h"
#include "vec/vec.h"

static float *row(const kr_tensor *t, int64_t m) { return (float *)t->data + m * t->stride[0]; }

KR_VINLINE void put(float *p, int64_t n, kr_vf v, bool add) {
    kr_vstore_n(p, n, add ? v + kr_vload_n(p, n) : v);
}

/* few [K,H,P] and many [K,R,H,P] columns of M rows, w [H,R,P] */
typedef struct ranks {
    const kr_tensor *few, *many;
    const float *w;
    int64_t K, H, R, P;
} ranks;

static ranks ranks_of(const kr_tensor *few, const kr_tensor *many, const kr_tensor *w) {
    int64_t H = w->shape[0], P = w->shape[2];
    return (ranks){few, many, w->data, few->shape[1] / (H * P), H, w->shape[1], P};
}

/* many = few w, of a row, side and head. */
static void spread_head(const ranks *v, int64_t m, int64_t k, int64_t h, bool add) {
    const float *x = row(v->few, m) + (k * v->H + h) * v->P;
    for (int64_t r = 0; r < v->R; r++) {
        const float *w = v->w + (h * v->R + r) * v->P;
        float *y = row(v->many, m) + ((k * v->R + r) * v->H + h) * v->P;
        for (int64_t p = 0; p < v->P; p += KR_W)
            put(y + p, v->P - p, kr_vload_n(x + p, v->P - p) * kr_vload_n(w + p, v->P - p), add);
    }
}

/* few = sum over r of many w. */
static void gather_head(const ranks *v, int64_t m, int64_t k, int64_t h, bool add) {
    float *y = row(v->few, m) + (k * v->H + h) * v->P;
    const float *w = v->w + h * v->R * v->P;
    const float *x = row(v->many, m) + (k * v->R * v->H + h) * v->P;
    for (int64_t p = 0; p < v->P; p += KR_W) {
        kr_vf sum = kr_vzero();
        for (int64_t r = 0; r < v->R; r++)
            sum = kr_vfma(kr_vload_n(x + r * v->H * v->P + p, v->P - p),
                          kr_vload_n(w + r * v->P + p, v->P - p), sum);
        put(y + p, v->P - p, sum, add);
    }
}

static void each_head(const kr_call *c, const ranks *v, bool add,
                      void (*head)(const ranks *v, int64_t m, int64_t k, int64_t h, bool add)) {
    int64_t M = v->few->shape[0];
    int threads = kr_threads_for(c, kr_tensor_count(v->many) * 12);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t m = 0; m < M; m++)
        for (int64_t i = 0; i < v->K * v->H; i++) head(v, m, i / v->H, i % v->H, add);
}

/* dw of a head and rank: down all rows. */
static void weight_back(const ranks *v, int64_t h, int64_t r, float *dw, bool add) {
    for (int64_t p = 0; p < v->P; p += KR_W) {
        int64_t left = v->P - p;
        kr_vf sum = kr_vzero();
        for (int64_t m = 0; m < v->few->shape[0]; m++)
            for (int64_t k = 0; k < v->K; k++)
                sum = kr_vfma(kr_vload_n(row(v->few, m) + (k * v->H + h) * v->P + p, left),
                              kr_vload_n(row(v->many, m) + ((k * v->R + r) * v->H + h) * v->P + p,
                                         left),
                              sum);
        put(dw + p, left, sum, add);
    }
}

static void weights_back(const kr_call *c, const ranks *v) {
    float *dw = c->out[1].data;
    int threads = kr_threads_for(c, kr_tensor_count(v->many) * 8);
    if (!dw) return;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < v->H * v->R; i++)
        weight_back(v, i / v->R, i % v->R, dw + i * v->P, c->accumulate & 2);
}

void KR_FN(kr_spread)(const kr_call *c) {
    ranks v = ranks_of(&c->in[0], &c->out[0], &c->in[1]);
    each_head(c, &v, c->accumulate & 1, spread_head);
}

void KR_FN(kr_gather)(const kr_call *c) {
    ranks v = ranks_of(&c->out[0], &c->in[0], &c->in[1]);
    each_head(c, &v, c->accumulate & 1, gather_head);
}

void KR_FN(kr_spread_grad)(const kr_call *c) {
    ranks dx = ranks_of(&c->in[1], &c->in[0], &c->in[2]), dw = dx;
    dx.few = &c->out[0];
    if (c->out[0].data) each_head(c, &dx, c->accumulate & 1, gather_head);
    weights_back(c, &dw);
}

void KR_FN(kr_gather_grad)(const kr_call *c) {
    ranks dx = ranks_of(&c->in[0], &c->in[1], &c->in[2]), dw = dx;
    dx.many = &c->out[0];
    if (c->out[0].data) each_head(c, &dx, c->accumulate & 1, spread_head);
    weights_back(c, &dw);
}
