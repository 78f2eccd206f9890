/* take_rows.cuh - rows picked by an index, on the GPU: what embedding and gather_rows share. */
#ifndef KR_TAKE_ROWS_CUH
#define KR_TAKE_ROWS_CUH

#include "device/cuda/pack.cuh"

enum { KR_TAKE_ROWS = 8 };

/* y[r] = x[index[r]], zeros where the index is outside [0,N). A warp a row. */
template <typename X, typename Y, typename I, int V>
static __global__ void kr_take_rows(const X *x, int64_t x_row, int64_t N, const I *index, Y *y,
                                    int64_t y_row, int64_t R, int64_t D) {
    int64_t r = (int64_t)blockIdx.x * KR_TAKE_ROWS + threadIdx.y;
    if (r >= R) return;
    int64_t i = index[r];
    bool inside = i >= 0 && i < N;
#pragma unroll 4
    for (int64_t d = threadIdx.x * V; d < D; d += 32 * V) {
        float v[V];
        kr_load_pack_if<V>(inside, x + i * x_row + d, v);
        kr_store_pack<V>(y + r * y_row + d, v);
    }
}

template <typename X, typename Y, typename I>
static void kr_take_rows_launch(const kr_tensor *x, const kr_tensor *index, const kr_tensor *y) {
    int64_t R = y->shape[0], D = y->shape[1];
    if (R == 0 || D == 0) return;
    unsigned blocks = kr_blocks(R, KR_TAKE_ROWS);
    dim3 threads(32, KR_TAKE_ROWS);
    if (kr_packs(x, 4) && kr_packs(y, 4))
        kr_take_rows<X, Y, I, 4>
            <<<blocks, threads, 0, kr_cuda_stream()>>>((const X *)x->data, x->stride[0],
                                                       x->shape[0], (const I *)index->data,
                                                       (Y *)y->data, y->stride[0], R, D);
    else
        kr_take_rows<X, Y, I, 1>
            <<<blocks, threads, 0, kr_cuda_stream()>>>((const X *)x->data, x->stride[0],
                                                       x->shape[0], (const I *)index->data,
                                                       (Y *)y->data, y->stride[0], R, D);
}

#endif
