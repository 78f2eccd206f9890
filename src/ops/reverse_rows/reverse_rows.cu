/* reverse_rows.cu - sequences turned round on the GPU. reverse_rows.h has the contract.
 *
 * blockIdx.y: the sequence; its rows go round the blocks of x, a warp a row. */
#include "device/cuda/kernel.cuh"
#include "ops/reverse_rows/reverse_rows.h"

enum { WARPS = 8 };

template <typename X>
static __global__ void __launch_bounds__(32 * WARPS)
    reverse_kernel(const X *x, int64_t x_row, const int64_t *seqs, X *y, int64_t y_row, int64_t D,
                   int64_t sequences, bool add) {
    for (int64_t s = blockIdx.y; s < sequences; s += gridDim.y) {
        int64_t first = seqs[3 * s], n = seqs[3 * s + 1];
        for (int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.y; i < n;
             i += (int64_t)gridDim.x * WARPS) {
            const X *from = x + (first + n - 1 - i) * x_row;
            X *to = y + (first + i) * y_row;
            for (int64_t d = threadIdx.x; d < D; d += 32) kr_put(to + d, kr_load(from + d), add);
        }
    }
}

template <typename X>
static void reverse_launch(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0], *seqs = &c->in[1];
    int64_t M = x->shape[0], S = seqs->shape[0];
    if (M == 0 || S == 0 || x->shape[1] == 0) return;
    unsigned wide = kr_blocks(M, WARPS);
    dim3 grid(wide < 1024 ? wide : 1024, (unsigned)(S < 32768 ? S : 32768)), block(32, WARPS);
    reverse_kernel<X><<<grid, block, 0, kr_cuda_stream()>>>((const X *)x->data, x->stride[0],
                                                            (const int64_t *)seqs->data,
                                                            (X *)y->data, y->stride[0], x->shape[1],
                                                            S, (bool)KR_ACC(c, 0));
}

extern "C" void kr_reverse_rows_cuda(const kr_call *c) {
    if (c->in[0].dtype == KR_BF16)
        reverse_launch<bf16>(c);
    else
        reverse_launch<float>(c);
}
