/* few_tile.cuh - the product of a few rows x [M,K] with 8 rows of a weight, bf16, by one block.
 *
 * The warps share K in slices of 32: a lane holds 16 bytes of one of the 8 rows for each slice, all
 * asked for at once. Tensor cores multiply, since their cost does not depend on M; mma.m16n8k16
 * takes x as its 16 rows (8 of them zeros) and the weight's rows as its 8 columns. Within a slice
 * the places of k are exchanged alike on both sides, so that what a lane holds is 16 bytes in a
 * row: of lane l, row l / 4 and the bytes from 16 (l % 4) on. Sums are f32, over the warps in
 * order. */
#ifndef KR_FEW_TILE_CUH
#define KR_FEW_TILE_CUH

#include "device/cuda/kernel.cuh"

enum { KR_TILE = 8, KR_TILE_PACK = 8, KR_TILE_SLICE = 32 };

template <int LOADS>
struct kr_tile {
    uint4 w[LOADS];
};

/* The pack of 8 elements that load i of this thread is, counted from the row's start. */
template <int WARPS>
static __device__ __forceinline__ int64_t kr_tile_pack(int64_t first, int i) {
    return ((first + threadIdx.x / 32 + i * WARPS) * KR_TILE_SLICE) / KR_TILE_PACK +
           threadIdx.x % 4;
}

/* Slices `first` and on of rows n .. n + 7 of w [N,K]. */
template <int WARPS, int LOADS>
static __device__ __forceinline__ void kr_tile_fetch(kr_tile<LOADS> &tile, const bf16 *w,
                                                     int64_t ld, int64_t n, int64_t N, int64_t K,
                                                     int64_t first) {
    n += threadIdx.x % 32 / 4;
    const uint4 *row = (const uint4 *)(w + n * ld);
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        int64_t p = kr_tile_pack<WARPS>(first, i);
        tile.w[i] = make_uint4(0, 0, 0, 0);
        if (n < N && p * KR_TILE_PACK < K) tile.w[i] = __ldcs(row + p);
    }
}

static __device__ __forceinline__ void kr_tile_mma(float (&c)[4], uint32_t a0, uint32_t a2,
                                                   uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(0), "r"(a2), "r"(0), "r"(b0), "r"(b1));
}

/* c += the tile times the same slices of x [M,K], M <= 8, BATCH of them asked for at once: all
 * where x is in global memory, few where it is in shared memory. */
template <int WARPS, int BATCH, int LOADS>
static __device__ __forceinline__ void kr_tile_multiply(const kr_tile<LOADS> &tile, const bf16 *x,
                                                        int64_t ld, int M, int64_t K, int64_t first,
                                                        float (&c)[4]) {
    int m = threadIdx.x % 32 / 4;
    const uint4 *row = (const uint4 *)(x + (m < M ? m : 0) * ld);
#pragma unroll
    for (int b = 0; b < LOADS; b += BATCH) {
        uint4 v[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH && b + i < LOADS; i++) {
            int64_t p = kr_tile_pack<WARPS>(first, b + i);
            v[i] = make_uint4(0, 0, 0, 0);
            if (m < M && p * KR_TILE_PACK < K) v[i] = row[p];
        }
#pragma unroll
        for (int i = 0; i < BATCH && b + i < LOADS; i++) {
            const uint4 &w = tile.w[b + i];
            kr_tile_mma(c, v[i].x, v[i].y, w.x, w.y);
            kr_tile_mma(c, v[i].z, v[i].w, w.z, w.w);
        }
    }
}

/* The sums over all warps: thread i < 64 returns that of row i / 8 of x and row i % 8 of the
 * tile. `turn` is 0 and 1 in turn where a block makes several tiles. */
template <int WARPS>
static __device__ __forceinline__ float kr_tile_sum(const float (&c)[4], int turn) {
    __shared__ float2 both[2][WARPS][KR_TILE * KR_TILE / 2];
    float2(*parts)[KR_TILE * KR_TILE / 2] = both[turn];
    parts[threadIdx.x / 32][threadIdx.x % 32] = make_float2(c[0], c[1]);
    __syncthreads();
    float sum = 0;
    if (threadIdx.x < KR_TILE * KR_TILE)
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += ((const float *)parts[w])[threadIdx.x];
    return sum;
}

/* Warps of a block and loads of a lane for rows of K: KR_TILE_SHAPE(K, USE) is
 * USE(warps, loads), of which longer rows take several rounds. */
#define KR_TILE_SHAPE(K, USE)                                                                      \
    do {                                                                                           \
        int64_t slices = ((K) + KR_TILE_SLICE - 1) / KR_TILE_SLICE;                                \
        if (slices <= 24)                                                                          \
            USE(8, 3);                                                                             \
        else if (slices <= 48)                                                                     \
            USE(8, 6);                                                                             \
        else if (slices <= 64)                                                                     \
            USE(8, 8);                                                                             \
        else if (slices <= 80)                                                                     \
            USE(8, 10);                                                                            \
        else if (slices <= 128)                                                                    \
            USE(16, 8);                                                                            \
        else                                                                                       \
            USE(16, 10);                                                                           \
    } while (0)

#endif
