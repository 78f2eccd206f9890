/* embedding_vec.c - the vector of each token, over vectors. embedding.h has the contract. */
#include "ops/embedding/embedding.h"

#include "ops/scatter_vec.h"

static void convert_bf16(const uint16_t *from, float *to, int64_t D) {
    for (int64_t d = 0; d < D; d += KR_W)
        kr_vstore_n(to + d, D - d, kr_vload_bf16_n(from + d, D - d));
}

static void convert_f16(const uint16_t *from, float *to, int64_t D) {
    for (int64_t d = 0; d < D; d += KR_W)
        kr_vstore_n(to + d, D - d, kr_vload_f16_n(from + d, D - d));
}

static void put_row(const kr_tensor *weight, int32_t id, float *to, int64_t D) {
    int64_t at = id * weight->stride[0];
    if (id < 0 || id >= weight->shape[0])
        memset(to, 0, (size_t)D * sizeof *to);
    else if (weight->dtype == KR_BF16)
        convert_bf16((const uint16_t *)weight->data + at, to, D);
    else if (weight->dtype == KR_F16)
        convert_f16((const uint16_t *)weight->data + at, to, D);
    else
        memcpy(to, (const float *)weight->data + at, (size_t)D * sizeof *to);
}

void KR_FN(kr_embedding)(const kr_call *c) {
    const kr_tensor *y = &c->out[0];
    const int32_t *ids = c->in[0].data;
    int64_t M = y->shape[0], D = y->shape[1];
    int threads = kr_threads_for(c, M * D * 8);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t m = 0; m < M; m++)
        put_row(&c->in[1], ids[m], (float *)y->data + m * y->stride[0], D);
}

KR_VINLINE int64_t id_at(const void *ids, int64_t m) { return ((const int32_t *)ids)[m]; }

void KR_FN(kr_embedding_grad)(const kr_call *c) {
    int threads = kr_scatter_threads(c);
#pragma omp parallel num_threads(threads) if (threads > 1)
    kr_scatter_part(c, id_at);
}
