/* dropout.cu - leaving out at random, on the GPU. dropout.h has the contract.
 *
 * A thread makes one Philox block and does its four columns, a quarter of a row apart, of one row;
 * blockIdx.y is a row, or with seqs a sequence whose rows go round the blocks of z. */
#include "device/cuda/kernel.cuh"
#include "device/cuda/philox.cuh"
#include "ops/dropout/dropout.h"

enum { THREADS = 128 };

typedef struct arguments {
    const void *x;
    void *y;
    const int64_t *draw, *seqs;
    int64_t x_row, y_row, M, D, sequences;
    uint32_t limit, site;
    float scale;
    bool add;
} arguments;

/* Columns q, Q + q, 2 Q + q and 3 Q + q of a row. */
template <typename X>
static __device__ __forceinline__ void drop(const arguments &a, int64_t m, int64_t q, int64_t Q,
                                            const uint32_t (&words)[4]) {
    const X *x = (const X *)a.x + m * a.x_row;
    X *y = (X *)a.y + m * a.y_row;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        int64_t d = j * Q + q;
        if (d < a.D) kr_put(y + d, words[j] >= a.limit ? kr_load(x + d) * a.scale : 0, a.add);
    }
}

template <typename X>
static __global__ void __launch_bounds__(THREADS) drop_kernel(arguments a) {
    int64_t Q = (a.D + 3) / 4, q = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t groups = a.seqs ? a.sequences : a.M;
    if (q >= Q) return;
    for (int64_t of = blockIdx.y; of < groups; of += gridDim.y) {
        uint32_t words[4] = {(uint32_t)q, (uint32_t)of, (uint32_t)a.draw[1], a.site};
        int64_t first = a.seqs ? a.seqs[3 * of] : of, n = a.seqs ? a.seqs[3 * of + 1] : 1;
        kr_philox_block((uint64_t)a.draw[0], words);
        for (int64_t i = blockIdx.z; i < n; i += gridDim.z) drop<X>(a, first + i, q, Q, words);
    }
}

extern "C" void kr_dropout_cuda(const kr_call *c) {
    const kr_dropout_attr *attr = (const kr_dropout_attr *)c->attr;
    const kr_tensor *x = &c->in[0], *y = &c->out[0], *seqs = &c->in[2];
    arguments a = {};
    a.x = x->data, a.x_row = x->stride[0];
    a.y = y->data, a.y_row = y->stride[0];
    a.draw = (const int64_t *)c->in[1].data;
    a.seqs = (const int64_t *)seqs->data;
    a.M = x->shape[0], a.D = x->shape[1];
    a.sequences = a.seqs ? seqs->shape[0] : 0;
    a.limit = kr_dropout_limit(attr), a.site = (uint32_t)attr->site;
    a.scale = (float)(1 / (1 - attr->share));
    a.add = KR_ACC(c, 0);
    int64_t groups = a.seqs ? a.sequences : a.M;
    if (a.M == 0 || a.D == 0 || groups == 0) return;
    dim3 grid(kr_blocks((a.D + 3) / 4, THREADS), (unsigned)(groups < 32768 ? groups : 32768),
              a.seqs ? 64 : 1);
    if (x->dtype == KR_BF16)
        drop_kernel<bf16><<<grid, THREADS, 0, kr_cuda_stream()>>>(a);
    else
        drop_kernel<float><<<grid, THREADS, 0, kr_cuda_stream()>>>(a);
}
