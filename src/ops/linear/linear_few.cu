/* linear_few.cu - y = x W^T + bias for few rows of x, where reading the weight is the cost.
 *
 * Aligned bf16 beside bf16: a block takes 8 rows of the weight (few_tile.cuh). All else:
 * A group of threads takes one row of the weight, 16 bytes a thread and load, as many loads in
 * flight as the row has; it multiplies by all rows of x and sums over its lanes, then over its
 * warps, in a fixed order. The group is as wide as leaves a thread about 4 loads. */
#include <type_traits>

#include "device/cuda/few_tile.cuh"
#include "ops/linear/linear_gpu.cuh"

enum { THREADS = 256, LOADS = 4 };

template <typename X, typename W, typename Y>
struct few {
    const X *x; /* [M,K] */
    const W *w; /* [N,K] */
    const float *bias;
    Y *y; /* [M,N] */
    int64_t N, K, ldx, ldw, ldy;
    int M, group; /* threads of a row: a power of two, 1 to THREADS */
    bool accumulate;
};

template <typename T>
struct vector { /* 16 bytes */
    enum { SIZE = 16 / sizeof(T) };
    uint4 bits;
};

template <typename T>
static __device__ __forceinline__ float element(const vector<T> &v, int i) {
    return kr_load((const T *)&v.bits + i);
}

/* SIZE elements of a row of x. */
template <int SIZE, typename X>
static __device__ __forceinline__ void load_x(float *to, const X *from) {
    constexpr int UNIT = vector<X>::SIZE;
    if constexpr (SIZE < UNIT) { /* bf16 beside f32 */
        uint2 bits = *(const uint2 *)from;
#pragma unroll
        for (int i = 0; i < SIZE; i++) to[i] = kr_load((const X *)&bits + i);
    } else {
#pragma unroll
        for (int u = 0; u < SIZE; u += UNIT) {
            vector<X> v = {*(const uint4 *)(from + u)};
#pragma unroll
            for (int i = 0; i < UNIT; i++) to[u + i] = element(v, i);
        }
    }
}

/* The next loads of this thread's share of the row at w, from element k on. */
template <typename X, typename W, typename Y>
static __device__ __forceinline__ void fetch(const few<X, W, Y> &f, const W *w, int64_t k,
                                             vector<W> *v) {
    int64_t step = (int64_t)f.group * vector<W>::SIZE;
#pragma unroll
    for (int i = 0; i < LOADS; i++)
        if (k + i * step < f.K) v[i].bits = *(const uint4 *)(w + k + i * step);
}

/* This thread's share of the row at w, 16 bytes at a time; its first loads are in v. */
template <int ROWS, typename X, typename W, typename Y>
static __device__ __forceinline__ void multiply_vectors(const few<X, W, Y> &f, const W *w, int t,
                                                        vector<W> *v, float *sum) {
    constexpr int SIZE = vector<W>::SIZE;
    int64_t step = (int64_t)f.group * SIZE;
    for (int64_t k = (int64_t)t * SIZE; k < f.K; k += step * LOADS) {
        if (k >= step * LOADS) fetch(f, w, k, v);
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            if (k + i * step >= f.K) break;
#pragma unroll
            for (int m = 0; m < ROWS; m++) {
                float x[SIZE];
                load_x<SIZE>(x, f.x + (m < f.M ? m : 0) * f.ldx + k + i * step);
#pragma unroll
                for (int j = 0; j < SIZE; j++) sum[m] += x[j] * element(v[i], j);
            }
        }
    }
}

template <int ROWS, typename X, typename W, typename Y>
static __device__ __forceinline__ void multiply_elements(const few<X, W, Y> &f, const W *w, int t,
                                                         float *sum) {
    for (int64_t k = t; k < f.K; k += f.group) {
        float v = kr_load(w + k);
        for (int m = 0; m < ROWS; m++)
            if (m < f.M) sum[m] += v * kr_load(f.x + m * f.ldx + k);
    }
}

/* Over the threads of a group; valid in its first. */
template <int ROWS>
static __device__ __forceinline__ void add_up(float *sum, int group, int t) {
    __shared__ float parts[THREADS / 32][ROWS];
    int warp = threadIdx.x / 32, width = group < 32 ? group : 32;
    for (int d = width / 2; d > 0; d /= 2)
#pragma unroll
        for (int m = 0; m < ROWS; m++) sum[m] += __shfl_xor_sync(0xffffffffu, sum[m], d);
    if (group <= 32) return;
    if (threadIdx.x % 32 == 0)
#pragma unroll
        for (int m = 0; m < ROWS; m++) parts[warp][m] = sum[m];
    __syncthreads();
    for (int i = 1; t == 0 && i < group / 32; i++)
#pragma unroll
        for (int m = 0; m < ROWS; m++) sum[m] += parts[warp + i][m];
}

template <bool VECTORS, int ROWS, typename X, typename W, typename Y>
static __global__ void __launch_bounds__(THREADS) few_rows(few<X, W, Y> f) {
    int t = threadIdx.x % f.group;
    int64_t n = (int64_t)blockIdx.x * (THREADS / f.group) + threadIdx.x / f.group;
    float sum[ROWS] = {};
    const W *w = f.w + n * f.ldw;
    vector<W> v[LOADS];
    kr_go_on();
    if (VECTORS && n < f.N) fetch(f, w, (int64_t)t * vector<W>::SIZE, v);
    kr_after();
    if (n < f.N) {
        if constexpr (VECTORS)
            multiply_vectors<ROWS>(f, w, t, v, sum);
        else
            multiply_elements<ROWS>(f, w, t, sum);
    }
    add_up<ROWS>(sum, f.group, t);
    if (t || n >= f.N) return;
    float add = f.bias ? f.bias[n] : 0;
#pragma unroll
    for (int m = 0; m < ROWS; m++)
        if (m < f.M) kr_put(f.y + m * f.ldy + n, sum[m] + add, f.accumulate);
}

/* ---- bf16 by tiles --------------------------------------------------------------------------- */

template <int WARPS, int LOADS, typename Y>
static __global__ void __launch_bounds__(WARPS * 32) few_tiles(few<bf16, bf16, Y> f) {
    int64_t n = (int64_t)blockIdx.x * KR_TILE;
    float c[4] = {};
    kr_tile<LOADS> tile;
    kr_go_on();
    kr_tile_fetch<WARPS>(tile, f.w, f.ldw, n, f.N, f.K, 0);
    kr_after();
    kr_tile_multiply<WARPS, LOADS>(tile, f.x, f.ldx, f.M, f.K, 0, c);
    for (int64_t first = WARPS * LOADS; first * KR_TILE_SLICE < f.K; first += WARPS * LOADS) {
        kr_tile_fetch<WARPS>(tile, f.w, f.ldw, n, f.N, f.K, first);
        kr_tile_multiply<WARPS, LOADS>(tile, f.x, f.ldx, f.M, f.K, first, c);
    }
    float sum = kr_tile_sum<WARPS>(c, 0);
    int m = threadIdx.x / KR_TILE;
    n += threadIdx.x % KR_TILE;
    if (m >= f.M || n >= f.N) return;
    if (f.bias) sum += f.bias[n];
    kr_put(f.y + m * f.ldy + n, sum, f.accumulate);
}

template <typename Y>
static void launch_tiles(const few<bf16, bf16, Y> &f, bool early) {
#define LAUNCH(warps, loads)                                                                       \
    kr_launch_early(few_tiles<warps, loads, Y>, early, kr_blocks(f.N, KR_TILE), (warps)*32, 0, f)
    KR_TILE_SHAPE(f.K, LAUNCH);
#undef LAUNCH
}

/* ---- launches -------------------------------------------------------------------------------- */

template <typename T>
static bool aligned(const T *p, int64_t ld) {
    return (((uintptr_t)p | (uintptr_t)ld * sizeof(T)) & 15) == 0;
}

template <typename X, typename W, typename Y>
static void launch(const kr_call *c, const kr_tensor *w) {
    const kr_linear_attr *attr = (const kr_linear_attr *)c->attr;
    bool early = attr && attr->early;
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    few<X, W, Y> f = {(const X *)x->data,
                      (const W *)w->data,
                      (const float *)c->in[2].data,
                      (Y *)y->data,
                      w->shape[0],
                      w->shape[1],
                      kr_leading(x),
                      kr_leading(w),
                      kr_leading(y),
                      (int)x->shape[0],
                      1,
                      (bool)KR_ACC(c, 0)};
    constexpr int SIZE = vector<W>::SIZE;
    bool vectors = aligned(f.x, f.ldx) && aligned(f.w, f.ldw) && f.K % SIZE == 0;
    if constexpr (sizeof(X) == 2 && std::is_same<X, W>::value)
        if (vectors) {
            launch_tiles(f, early);
            return;
        }
    int64_t shares = f.K / (vectors ? SIZE : 1);
    while (f.group < THREADS && f.group * LOADS < shares) f.group *= 2;
    unsigned blocks = kr_blocks(f.N, THREADS / f.group);
    if (!vectors)
        kr_launch_early(few_rows<false, 8, X, W, Y>, early, blocks, THREADS, 0, f);
    else if (f.M <= 1)
        kr_launch_early(few_rows<true, 1, X, W, Y>, early, blocks, THREADS, 0, f);
    else if (f.M <= 2)
        kr_launch_early(few_rows<true, 2, X, W, Y>, early, blocks, THREADS, 0, f);
    else if (f.M <= 4)
        kr_launch_early(few_rows<true, 4, X, W, Y>, early, blocks, THREADS, 0, f);
    else
        kr_launch_early(few_rows<true, 8, X, W, Y>, early, blocks, THREADS, 0, f);
}

template <typename X, typename Y>
static void launch_weight(const kr_call *c) {
    const kr_tensor *w = kr_linear_weight(c, 3);
    if (w->dtype == KR_F32)
        launch<X, float, Y>(c, w);
    else if (w->dtype == KR_BF16)
        launch<X, bf16, Y>(c, w);
    else
        launch<X, __half, Y>(c, w);
}

void kr_linear_few_cuda(const kr_call *c) {
    if (c->out[0].shape[0] == 0 || c->out[0].shape[1] == 0) return;
    if (c->in[0].dtype == KR_F32)
        launch_weight<float, float>(c);
    else if (c->out[0].dtype == KR_F32)
        launch_weight<bf16, float>(c);
    else
        launch_weight<bf16, bf16>(c);
}
