/* squared_error_vec.c - the loss of telling numbers, over vectors. squared_error.h has the
 * contract. Threads take rows. */
#include "ops/squared_error/squared_error.h"

#include "ops/threads.h"
#include "vec/vec.h"

KR_VINLINE kr_vf off(const float *y, const float *w, int64_t n) {
    return kr_vload_n(y, n) - kr_vload_n(w, n);
}

static const float *row(const kr_tensor *t, int64_t m) {
    return (const float *)t->data + m * t->stride[0];
}

void KR_FN(kr_squared_error)(const kr_call *c) {
    int64_t M = c->in[0].shape[0], K = c->in[0].shape[1];
    float *loss = c->out[0].data;
    int threads = kr_threads_for(c, M * K * 8);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t m = 0; m < M; m++) {
        const float *y = row(&c->in[0], m), *w = row(&c->in[1], m);
        kr_vf sum = kr_vzero();
        for (int64_t k = 0; k < K; k += KR_W) {
            kr_vf d = off(y + k, w + k, K - k);
            sum = kr_vfma(d, d, sum);
        }
        loss[m] = kr_vsum(sum) / (float)K;
    }
}

/* dy of a row, scale = 2 dloss / K; -dy with the other sign. */
static void put_row(const float *y, const float *w, float scale, float *to, int64_t K, bool add) {
    for (int64_t k = 0; k < K; k += KR_W) {
        kr_vf d = off(y + k, w + k, K - k) * scale;
        if (add) d += kr_vload_n(to + k, K - k);
        kr_vstore_n(to + k, K - k, d);
    }
}

void KR_FN(kr_squared_error_grad)(const kr_call *c) {
    int64_t M = c->in[0].shape[0], K = c->in[0].shape[1];
    const float *dloss = c->in[2].data;
    int threads = kr_threads_for(c, M * K * 12);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t m = 0; m < M; m++) {
        float scale = 2 * dloss[m] / (float)K;
        for (int i = 0; i < 2; i++)
            if (c->out[i].data)
                put_row(row(&c->in[0], m), row(&c->in[1], m), i ? -scale : scale,
                        (float *)c->out[i].data + m * c->out[i].stride[0], K,
                        c->accumulate >> i & 1);
    }
}
