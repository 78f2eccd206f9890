/* segment_mean.cu - means over sequences on the GPU. segment_mean.h has the contract.
 *
 * Forward: a block takes 32 columns of one sequence; its 32 rows of threads add every 32nd row, and
 * their sums are added in order. Backward: rows are cleared, then each sequence writes its own. */
#include "device/cuda/pack.cuh"
#include "ops/segment_mean/segment_mean.h"

enum { LANES = 32 };

template <typename X>
static __global__ void mean_kernel(const X *x, int64_t x_row, const int64_t *seqs, float *y,
                                   int64_t y_row, int64_t D) {
    __shared__ float sums[LANES][33];
    int64_t s = blockIdx.x, d = (int64_t)blockIdx.y * 32 + threadIdx.x;
    int64_t first = seqs[3 * s], n = seqs[3 * s + 1];
    float sum = 0, v[1];
    for (int64_t i = threadIdx.y; d < D && i < n; i += LANES) {
        kr_load_pack<1>(x + (first + i) * x_row + d, v);
        sum += v[0];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || d >= D) return;
    for (int k = 1; k < LANES; k++) sum += sums[k][threadIdx.x];
    y[s * y_row + d] = n > 0 ? sum / (float)n : 0;
}

template <typename X>
static void mean_launch(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    int64_t S = y->shape[0], D = y->shape[1];
    if (S == 0 || D == 0) return;
    dim3 threads(32, LANES), blocks((unsigned)S, kr_blocks(D, 32));
    mean_kernel<X><<<blocks, threads, 0, kr_cuda_stream()>>>((const X *)x->data, x->stride[0],
                                                             (const int64_t *)c->in[1].data,
                                                             (float *)y->data, y->stride[0], D);
}

extern "C" void kr_segment_mean_cuda(const kr_call *c) {
    if (c->in[0].dtype == KR_BF16)
        mean_launch<bf16>(c);
    else
        mean_launch<float>(c);
}

template <typename X>
static __global__ void clear_kernel(X *dx, int64_t row, int64_t M, int64_t D) {
    int64_t m = (int64_t)blockIdx.x * 8 + threadIdx.y;
    float zero[1] = {0};
    if (m >= M) return;
    for (int64_t d = threadIdx.x; d < D; d += 32) kr_store_pack<1>(dx + m * row + d, zero);
}

/* blockIdx.y: the sequence; its rows go round the blocks. */
template <typename X>
static __global__ void spread_kernel(const float *dy, int64_t dy_row, const int64_t *seqs, X *dx,
                                     int64_t dx_row, int64_t D, int64_t sequences, bool add) {
    for (int64_t s = blockIdx.y; s < sequences; s += gridDim.y) {
        int64_t first = seqs[3 * s], n = seqs[3 * s + 1];
        for (int64_t i = (int64_t)blockIdx.x * 8 + threadIdx.y; i < n; i += (int64_t)gridDim.x * 8)
            for (int64_t d = threadIdx.x; d < D; d += 32) {
                float v[1] = {dy[s * dy_row + d] / (float)n};
                kr_put_pack<1>(dx + (first + i) * dx_row + d, v, add);
            }
    }
}

template <typename X>
static void spread_launch(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *dx = &c->out[0];
    int64_t S = dy->shape[0], D = dy->shape[1], M = dx->shape[0];
    bool add = c->accumulate & 1;
    dim3 threads(32, 8);
    if (M == 0 || D == 0) return;
    if (!add)
        clear_kernel<X>
            <<<kr_blocks(M, 8), threads, 0, kr_cuda_stream()>>>((X *)dx->data, dx->stride[0], M, D);
    if (S == 0) return;
    int64_t each = (M + S - 1) / S;
    dim3 blocks(kr_blocks(each, 8), (unsigned)(S < 32768 ? S : 32768));
    spread_kernel<X>
        <<<blocks, threads, 0, kr_cuda_stream()>>>((const float *)dy->data, dy->stride[0],
                                                   (const int64_t *)c->in[1].data, (X *)dx->data,
                                                   dx->stride[0], D, S, add);
}

extern "C" void kr_segment_mean_grad_cuda(const kr_call *c) {
    if (c->out[0].dtype == KR_BF16)
        spread_launch<bf16>(c);
    else
        spread_launch<float>(c);
}
