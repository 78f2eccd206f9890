/* head_divide_vec.c - the division of heads over vectors. head_divide.h has the equations. */
#include "ops/head_divide/head_divide.h"

#include "ops/threads.h"
#include "vec/vec.h"

static float *row(const kr_tensor *t, int64_t m) { return (float *)t->data + m * t->stride[0]; }

KR_VINLINE void put(float *p, int64_t n, kr_vf v, bool add) {
    kr_vstore_n(p, n, add ? v + kr_vload_n(p, n) : v);
}

static void forward_row(const kr_call *c, int64_t m, float eps) {
    int64_t H = c->in[1].shape[1], P = c->in[0].shape[1] / H;
    for (int64_t h = 0; h < H; h++) {
        const float *x = row(&c->in[0], m) + h * P;
        float *y = row(&c->out[0], m) + h * P, by = row(&c->in[1], m)[h] + eps;
        for (int64_t p = 0; p < P; p += KR_W)
            put(y + p, P - p, kr_vload_n(x + p, P - p) / by, c->accumulate & 1);
    }
}

void KR_FN(kr_head_divide)(const kr_call *c) {
    int64_t M = c->in[0].shape[0];
    float eps = (float)((const kr_head_divide_attr *)c->attr)->eps;
    int threads = kr_threads_for(c, kr_tensor_count(&c->in[0]) * 12);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t m = 0; m < M; m++) forward_row(c, m, eps);
}

static void backward_row(const kr_call *c, int64_t m, float eps) {
    int64_t H = c->in[2].shape[1], P = c->in[1].shape[1] / H;
    for (int64_t h = 0; h < H; h++) {
        const float *dy = row(&c->in[0], m) + h * P, *x = row(&c->in[1], m) + h * P;
        float *dx = c->out[0].data ? row(&c->out[0], m) + h * P : NULL;
        float by = row(&c->in[2], m)[h] + eps;
        kr_vf sum = kr_vzero();
        for (int64_t p = 0; p < P; p += KR_W) {
            kr_vf d = kr_vload_n(dy + p, P - p);
            sum = kr_vfma(d, kr_vload_n(x + p, P - p), sum);
            if (dx) put(dx + p, P - p, d / by, c->accumulate & 1);
        }
        if (!c->out[1].data) continue;
        float *ds = row(&c->out[1], m) + h, value = -(kr_vsum(sum) / by) / by;
        *ds = c->accumulate & 2 ? *ds + value : value;
    }
}

void KR_FN(kr_head_divide_grad)(const kr_call *c) {
    int64_t M = c->in[1].shape[0];
    float eps = (float)((const kr_head_divide_attr *)c->attr)->eps;
    int threads = kr_threads_for(c, kr_tensor_count(&c->in[0]) * 16);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t m = 0; m < M; m++) backward_row(c, m, eps);
}
