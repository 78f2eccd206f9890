/* ranks_ref.c - channels spread over ranks and gathered, scalar. ranks.h has the contract. */
#include "ops/op_ref.h"

#include "ops/ranks/ranks.h"

static real *row(const kr_tensor *t, int64_t m) { return (real *)t->data + m * t->stride[0]; }

/* Sizes by the weight w, and how many times the channels lie side by side in `few`. */
typedef struct sizes {
    int64_t M, K, H, R, P;
} sizes;

static sizes sizes_of(const kr_tensor *few, const kr_tensor *w) {
    int64_t H = w->shape[0], P = w->shape[2];
    return (sizes){few->shape[0], few->shape[1] / (H * P), H, w->shape[1], P};
}

/* Column of [K,H,P] and of [K,R,H,P]; place in w. */
static int64_t few_at(const sizes *s, int64_t k, int64_t h, int64_t p) {
    return (k * s->H + h) * s->P + p;
}
static int64_t many_at(const sizes *s, int64_t k, int64_t r, int64_t h, int64_t p) {
    return ((k * s->R + r) * s->H + h) * s->P + p;
}
static double weight(const sizes *s, const kr_tensor *w, int64_t r, int64_t h, int64_t p) {
    return (double)((const real *)w->data)[(h * s->R + r) * s->P + p];
}

/* out[i] [K,R,H,P] = few w. */
static void spread(const kr_call *c, int i, const kr_tensor *few, const kr_tensor *w) {
    sizes s = sizes_of(few, w);
    for (int64_t m = 0; c->out[i].data && m < s.M; m++)
        for (int64_t j = 0; j < s.K * s.R * s.H * s.P; j++) {
            int64_t p = j % s.P, h = j / s.P % s.H, r = j / s.P / s.H % s.R;
            int64_t k = j / s.P / s.H / s.R;
            kr_put(row(&c->out[i], m) + j,
                   (double)row(few, m)[few_at(&s, k, h, p)] * weight(&s, w, r, h, p), KR_ACC(c, i));
        }
}

/* out[i], of `few`'s shape, = sum over r of many w. */
static void gather(const kr_call *c, int i, const kr_tensor *many, const kr_tensor *w) {
    if (!c->out[i].data) return;
    sizes s = sizes_of(&c->out[i], w);
    for (int64_t m = 0; m < s.M; m++)
        for (int64_t j = 0; j < s.K * s.H * s.P; j++) {
            int64_t p = j % s.P, h = j / s.P % s.H, k = j / s.P / s.H;
            double sum = 0;
            for (int64_t r = 0; r < s.R; r++)
                sum += (double)row(many, m)[many_at(&s, k, r, h, p)] * weight(&s, w, r, h, p);
            kr_put(row(&c->out[i], m) + j, sum, KR_ACC(c, i));
        }
}

/* out[1] = sum over rows and k of few many. */
static void weights(const kr_call *c, const kr_tensor *few, const kr_tensor *many) {
    if (!c->out[1].data) return;
    sizes s = sizes_of(few, &c->out[1]);
    for (int64_t j = 0; j < s.H * s.R * s.P; j++) {
        int64_t p = j % s.P, r = j / s.P % s.R, h = j / s.P / s.R;
        double sum = 0;
        for (int64_t m = 0; m < s.M; m++)
            for (int64_t k = 0; k < s.K; k++)
                sum += (double)row(few, m)[few_at(&s, k, h, p)] *
                       (double)row(many, m)[many_at(&s, k, r, h, p)];
        kr_put((real *)c->out[1].data + j, sum, KR_ACC(c, 1));
    }
}

void KR_FN(kr_spread)(const kr_call *c) { spread(c, 0, &c->in[0], &c->in[1]); }
void KR_FN(kr_gather)(const kr_call *c) { gather(c, 0, &c->in[0], &c->in[1]); }

void KR_FN(kr_spread_grad)(const kr_call *c) {
    gather(c, 0, &c->in[0], &c->in[2]);
    weights(c, &c->in[1], &c->in[0]);
}

void KR_FN(kr_gather_grad)(const kr_call *c) {
    spread(c, 0, &c->in[0], &c->in[2]);
    weights(c, &c->in[0], &c->in[1]);
}
