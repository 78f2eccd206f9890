/* take_rows.cuh - rows picked by an index, on the GPU: what embedding and gather_rows share. */
#ifndef KR_TAKE_ROWS_CUH
#define KR_TAKE_ROWS_CUH

#include "device/cuda/pack.cuh"

enum { KR_TAKE_ROWS = 8 };

/* y[r] = x[index[r]], zeros where the index is outside [0,N). A thread one pack, a warp a piece of
 * a row: few rows are as fast as can be, too. */
template <typename X, typename Y, typename I, int V>
static __global__ void kr_take_rows(const X *x, int64_t x_row, int64_t N, const I *index, Y *y,
                                    int64_t y_row, int64_t R, int64_t D) {
    int64_t r = (int64_t)blockIdx.x * KR_TAKE_ROWS + threadIdx.y;
    int64_t d = ((int64_t)blockIdx.y * 32 + threadIdx.x) * V;
    kr_go_on();
    if (r >= R || d >= D) return;
    int64_t i = index[r];
    float v[V];
    kr_load_pack_if<V>(i >= 0 && i < N, x + i * x_row + d, v);
    kr_store_pack<V>(y + r * y_row + d, v);
}

template <typename X, typename Y, typename I>
static void kr_take_rows_launch(const kr_tensor *x, const kr_tensor *index, const kr_tensor *y) {
    int64_t R = y->shape[0], D = y->shape[1];
    if (R == 0 || D == 0) return;
    bool packs = kr_packs(x, 4) && kr_packs(y, 4);
    dim3 threads(32, KR_TAKE_ROWS),
        blocks(kr_blocks(R, KR_TAKE_ROWS), kr_blocks(D, packs ? 128 : 32));
    if (packs)
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
