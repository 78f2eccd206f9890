/* parts.cuh - sums that blocks left in scratch, added in order: the second half of every sum over
 * tokens on the GPU. */
#ifndef KR_PARTS_CUH
#define KR_PARTS_CUH

#include "device/cuda/kernel.cuh"

enum { KR_PARTS_COLUMNS = 32, KR_PARTS_LANES = 32 };

/* put(i, sum over p < n of parts[p * width + i]) for all i < width. A block takes 32 columns; its
 * lane y adds the parts y, y + 32, ... */
template <typename Put>
static __global__ void kr_sum_parts(const float *parts, int64_t n, int64_t width, Put put) {
    __shared__ float lanes[KR_PARTS_LANES][KR_PARTS_COLUMNS + 1];
    int64_t i = (int64_t)blockIdx.x * KR_PARTS_COLUMNS + threadIdx.x;
    float sum = 0;
    if (i < width)
#pragma unroll 4
        for (int64_t p = threadIdx.y; p < n; p += KR_PARTS_LANES) sum += parts[p * width + i];
    lanes[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || i >= width) return;
    for (int y = 1; y < KR_PARTS_LANES; y++) sum += lanes[y][threadIdx.x];
    put(i, sum);
}

template <typename Put>
static void kr_sum_parts_launch(const float *parts, int64_t n, int64_t width, Put put) {
    kr_sum_parts<<<kr_blocks(width, KR_PARTS_COLUMNS), dim3(KR_PARTS_COLUMNS, KR_PARTS_LANES), 0,
                   kr_cuda_stream()>>>(parts, n, width, put);
}

#endif
