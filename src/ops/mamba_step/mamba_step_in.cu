/* mamba_step_in.cu - norm, in_proj and convolution of a decode step of few rows in one kernel.
 * mamba_step.h has the equations.
 *
 * Reading the weight is the cost: a warp takes row after row of it, in pieces of LOADS vectors a
 * lane, and always has asked for AHEAD pieces, the first before the kernel in front has ended. Then
 * every block makes the norm for itself (a few KB); its scale joins behind the products. The lane
 * of each row of x finishes an output: a channel of x passes through its convolution, one of z is
 * stored. In bf16 a block takes 8 rows of the weight instead (few_tile.cuh). */
#include "device/cuda/few_tile.cuh"
#include "ops/mamba_step/mamba_step.h"

enum { THREADS = 256, WARPS = THREADS / 32, LOADS = 4, AHEAD = 3, TAPS = KR_STEP_TAPS };

template <typename X, typename W, typename Y>
struct arguments {
    const X *hidden; /* [M,D] */
    const float *residual, *norm;
    const W *weight; /* [2E,D] */
    const float *bias, *conv, *conv_bias, *window;
    const int64_t *seqs;
    float *sum, *window_out;
    Y *u, *z;
    int64_t D, E, ld_hidden, ld_residual, ld_weight, ld_sum, ld_u, ld_z;
    int64_t from_slot, from_tap, to_slot, to_tap;
    int M, K;
    float eps;
};

/* What the lane of row `lane` needs of output n besides the product. */
struct finish {
    float bias, conv_bias, tap[TAPS], past[TAPS - 1];
    int64_t slot; /* -1: no one's */
};

template <typename A>
static __device__ __forceinline__ finish fetch_finish(const A &a, int64_t n, int lane) {
    finish f = {};
    f.slot = -1;
    if (lane >= a.M) return f;
    if (a.bias) f.bias = a.bias[n];
    if (a.seqs[3 * lane + 1] > 0) f.slot = a.seqs[3 * lane + 2];
    if (n >= a.E) return f;
    if (a.conv_bias) f.conv_bias = a.conv_bias[n];
#pragma unroll
    for (int w = 0; w < TAPS; w++) {
        if (w < a.K) f.tap[w] = a.conv[n * a.K + w];
        if (w < a.K - 1 && f.slot >= 0)
            f.past[w] = a.window[f.slot * a.from_slot + w * a.from_tap + n];
    }
    return f;
}

template <typename A>
static __device__ __forceinline__ void finish_output(const A &a, const finish &f, int64_t n,
                                                     int lane, float x) {
    if (lane >= a.M) return;
    x += f.bias;
    if (n >= a.E) {
        kr_store(a.z + lane * a.ld_z + n - a.E, x);
        return;
    }
    float u = f.conv_bias;
#pragma unroll
    for (int w = 0; w < TAPS; w++) {
        if (w >= a.K || f.slot < 0) break;
        float v = x;
        if (w < TAPS - 1 && w < a.K - 1) v = f.past[w];
        u += f.tap[w] * v;
        if (w > 0) a.window_out[f.slot * a.to_slot + (w - 1) * a.to_tap + n] = v;
    }
    kr_store(a.u + lane * a.ld_u + n, f.slot < 0 ? 0 : u / (1 + __expf(-u)));
}

static __device__ __forceinline__ void load_quad(const float *p, float (&x)[4]) {
    float4 v = *(const float4 *)p;
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}
static __device__ __forceinline__ void load_quad(const bf16 *p, float (&x)[4]) {
    uint2 bits = *(const uint2 *)p;
    float2 a = __bfloat1622float2(*(const __nv_bfloat162 *)&bits.x);
    float2 b = __bfloat1622float2(*(const __nv_bfloat162 *)&bits.y);
    x[0] = a.x, x[1] = a.y, x[2] = b.x, x[3] = b.y;
}

/* ---- the norm -------------------------------------------------------------------------------- */

/* Where element k of a row lies in shared memory: the quads that one vector of weights meets are
 * apart, so that neighbouring lanes read neighbouring quads. */
template <int SIZE>
static __device__ __forceinline__ int64_t place(int64_t k, int64_t D) {
    if (SIZE <= 4) return k;
    return k % SIZE / 4 * (D / SIZE * 4) + k / SIZE * 4 + k % 4;
}

/* xs[m] = norm * s, unscaled; returns 1 / rms of each row. */
template <int ROWS, int SIZE, typename A>
static __device__ __forceinline__ void make_norm(const A &a, const float *norm, float *xs,
                                                 float *rstd) {
    __shared__ float parts[ROWS][WARPS];
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        float squares = 0;
        for (int64_t k = threadIdx.x; k < a.D && m < a.M; k += THREADS) {
            float s = kr_load(a.hidden + m * a.ld_hidden + k);
            if (a.residual) s += a.residual[m * a.ld_residual + k];
            if (a.sum && blockIdx.x == 0) a.sum[m * a.ld_sum + k] = s;
            xs[m * a.D + place<SIZE>(k, a.D)] = s * norm[k];
            squares += s * s;
        }
        squares = kr_warp_sum(squares);
        if (threadIdx.x % 32 == 0) parts[m][threadIdx.x / 32] = squares;
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        float all = 0;
        for (int i = 0; i < WARPS; i++) all += parts[m][i];
        rstd[m] = rsqrtf(all / (float)a.D + a.eps);
    }
}

/* ---- the product ----------------------------------------------------------------------------- */

/* Where a warp is in its rows of the weight. */
struct place_in {
    int64_t n, k;
};

template <typename W>
static __device__ __forceinline__ void advance(place_in &p, int64_t D, int64_t step) {
    p.k += LOADS * 32 * (16 / sizeof(W));
    if (p.k < D) return;
    p.k = 0;
    p.n += step;
}

template <typename A, typename W>
static __device__ __forceinline__ void fetch(const A &a, const W *weight, place_in p, int lane,
                                             uint4 (&v)[LOADS]) {
    constexpr int SIZE = 16 / sizeof(W);
    const W *w = weight + p.n * a.ld_weight;
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        int64_t k = p.k + (i * 32 + lane) * SIZE;
        if (p.n < 2 * a.E && k < a.D) v[i] = *(const uint4 *)(w + k);
    }
}

template <int ROWS, typename W>
static __device__ __forceinline__ void multiply(const uint4 (&v)[LOADS], const float *xs, int64_t D,
                                                int64_t first, int lane, float (&sum)[ROWS]) {
    constexpr int SIZE = 16 / sizeof(W);
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        int64_t k = first + (i * 32 + lane) * SIZE;
        if (k >= D) break;
#pragma unroll
        for (int m = 0; m < ROWS; m++) {
#pragma unroll
            for (int q = 0; q < SIZE / 4; q++) {
                float4 x = *(const float4 *)(xs + m * D + place<SIZE>(k + 4 * q, D));
                const W *w = (const W *)&v[i] + 4 * q;
                sum[m] += kr_load(w) * x.x + kr_load(w + 1) * x.y + kr_load(w + 2) * x.z +
                          kr_load(w + 3) * x.w;
            }
        }
    }
}

/* The sums of output n are whole over the lanes; sets them back to 0. */
template <int ROWS, typename A>
static __device__ __forceinline__ void end_output(const A &a, const finish &f, int64_t n, int lane,
                                                  const float (&rstd)[ROWS], float (&sum)[ROWS]) {
    float x = 0;
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        float all = kr_warp_sum(sum[m]) * rstd[m];
        x = lane == m ? all : x;
        sum[m] = 0;
    }
    finish_output(a, f, n, lane, x);
}

template <int ROWS, bool VECTORS, typename X, typename W, typename Y>
static __global__ void __launch_bounds__(THREADS, 2) step_in(arguments<X, W, Y> a) {
    constexpr int SIZE = VECTORS ? 16 / sizeof(W) : 1;
    extern __shared__ float4 memory[];
    float *xs = (float *)memory, *norm = xs + ROWS * a.D; /* [ROWS,D], [D] */
    int lane = threadIdx.x % 32;
    int64_t N = 2 * a.E, step = (int64_t)gridDim.x * WARPS;
    place_in at = {(int64_t)blockIdx.x * WARPS + threadIdx.x / 32, 0}, asked = at;
    uint4 v[AHEAD][LOADS];
    kr_go_on();
    for (int i = 0; VECTORS && i < AHEAD; i++) {
        fetch(a, a.weight, asked, lane, v[i]);
        advance<W>(asked, a.D, step);
    }
    finish f = fetch_finish(a, at.n < N ? at.n : 0, lane), next = f;
    for (int64_t k = threadIdx.x; k < a.D; k += THREADS) norm[k] = a.norm[k];
    kr_after();
    float rstd[ROWS], sum[ROWS] = {};
    make_norm<ROWS, SIZE>(a, norm, xs, rstd);
    while (VECTORS && at.n < N) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            place_in now = at;
            if (now.n >= N) break;
            if (now.k == 0) next = fetch_finish(a, now.n + step < N ? now.n + step : 0, lane);
            multiply<ROWS, W>(v[i], xs, a.D, now.k, lane, sum);
            fetch(a, a.weight, asked, lane, v[i]);
            advance<W>(asked, a.D, step);
            advance<W>(at, a.D, step);
            if (at.n == now.n) continue;
            end_output(a, f, now.n, lane, rstd, sum);
            f = next;
        }
    }
    for (; !VECTORS && at.n < N; at.n += step) {
        f = fetch_finish(a, at.n, lane);
        for (int64_t k = lane; k < a.D; k += 32)
            for (int m = 0; m < ROWS; m++)
                sum[m] += kr_load(a.weight + at.n * a.ld_weight + k) * xs[m * a.D + k];
        end_output(a, f, at.n, lane, rstd, sum);
    }
}

/* ---- bf16 by tiles --------------------------------------------------------------------------- */

enum { QUADS = 3, MOST_ROWS = 8 };

/* 4 of norm * (hidden + residual), unscaled. */
template <typename A>
static __device__ __forceinline__ float4 fetch_sum(const A &a, int m, int64_t k) {
    float x[4];
    load_quad(a.hidden + m * a.ld_hidden + k, x);
    float4 r = make_float4(0, 0, 0, 0);
    if (a.residual) r = *(const float4 *)(a.residual + m * a.ld_residual + k);
    return make_float4(x[0] + r.x, x[1] + r.y, x[2] + r.z, x[3] + r.w);
}

static __device__ __forceinline__ void put_quad(bf16 *to, float4 s, float4 w) {
    __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(s.x * w.x, s.y * w.y),
                               __floats2bfloat162_rn(s.z * w.z, s.w * w.w)};
    *(uint2 *)to = *(const uint2 *)pairs;
}

/* Warps that share a row of x. */
template <int WARPS>
static __device__ __forceinline__ int warps_of_row(int M) {
    return M <= 1 ? WARPS : M <= 2 ? WARPS / 2 : M <= 4 ? WARPS / 4 : WARPS / 8;
}

/* xs[m] = norm * s, unscaled, in rows of ld; squares: the warps' sums of s^2. Block 0 keeps s. */
template <int WARPS, typename A>
static __device__ __forceinline__ void make_tile_norm(const A &a, bf16 *xs, int64_t ld,
                                                      float (&squares)[WARPS]) {
    int share = warps_of_row<WARPS>(a.M) * 32, m = threadIdx.x / share;
    int64_t step = share * 4, D = m < a.M ? a.D : 0;
    float sum = 0;
    for (int64_t first = threadIdx.x % share * 4; first < D; first += QUADS * step) {
        float4 s[QUADS];
#pragma unroll
        for (int i = 0; i < QUADS; i++)
            if (first + i * step < D) s[i] = fetch_sum(a, m, first + i * step);
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            int64_t k = first + i * step;
            if (k >= D) break;
            sum += s[i].x * s[i].x + s[i].y * s[i].y + s[i].z * s[i].z + s[i].w * s[i].w;
            if (a.sum && blockIdx.x == 0) *(float4 *)(a.sum + m * a.ld_sum + k) = s[i];
            put_quad(xs + m * ld + k, s[i], *(const float4 *)(a.norm + k));
        }
    }
    sum = kr_warp_sum(sum);
    if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = sum;
    __syncthreads();
}

template <int WARPS, typename A>
static __device__ __forceinline__ float tile_scale(const A &a, int m,
                                                   const float (&squares)[WARPS]) {
    int share = warps_of_row<WARPS>(a.M);
    float sum = 0;
    for (int i = 0; m < a.M && i < share; i++) sum += squares[m * share + i];
    return rsqrtf(sum / (float)a.D + a.eps);
}

/* Blocks of a multiprocessor: few enough that the kernel behind has room to begin early. */
static constexpr int blocks_of(int warps, int loads) { return warps > 8 ? 1 : loads <= 3 ? 3 : 2; }

/* Thread i < 64 finishes row i / 8 of x and output i % 8 of each tile; the next tile of the block
 * is fetched meanwhile. */
template <int WARPS, int LOADS, typename X>
static __global__ void __launch_bounds__(WARPS * 32, blocks_of(WARPS, LOADS))
    step_tiles(arguments<X, bf16, bf16> a) {
    extern __shared__ uint4 rows[];
    __shared__ float squares[WARPS];
    bf16 *xs = (bf16 *)rows; /* [M, ld]: padded, so that the rows lie in different banks */
    int64_t n = (int64_t)blockIdx.x * KR_TILE, step = (int64_t)gridDim.x * KR_TILE, N = 2 * a.E;
    int64_t mine = n + threadIdx.x % KR_TILE, ld = a.D + 8;
    int m = threadIdx.x / KR_TILE;
    finish f;
    kr_tile<LOADS> tile, next;
    kr_go_on();
    kr_tile_fetch<WARPS>(tile, a.weight, a.ld_weight, n, N, a.D, 0);
    kr_tile_fetch<WARPS>(next, a.weight, a.ld_weight, n + step, N, a.D, 0);
    if (m < a.M && mine < N) f = fetch_finish(a, mine, m);
    kr_after();
    make_tile_norm<WARPS>(a, xs, ld, squares);
    float scale = tile_scale<WARPS>(a, m, squares);
    for (int turn = 0; n < N; turn ^= 1) {
        float c[4] = {};
        kr_tile_multiply<WARPS, 2>(tile, xs, ld, a.M, a.D, 0, c);
        tile = next;
        n += step;
        kr_tile_fetch<WARPS>(next, a.weight, a.ld_weight, n + step, N, a.D, 0);
        float x = kr_tile_sum<WARPS>(c, turn);
        if (m < a.M && mine < N) finish_output(a, f, mine, m, x * scale);
        mine += step;
        if (m < a.M && mine < N) f = fetch_finish(a, mine, m);
    }
}

template <typename X>
static void launch_tiles(const arguments<X, bf16, bf16> &a) {
    size_t shared = (size_t)(a.M * (a.D + 8)) * sizeof(bf16);
    unsigned tiles = kr_blocks(2 * a.E, KR_TILE);
#define LAUNCH(warps, loads)                                                                       \
    do {                                                                                           \
        void (*kernel)(arguments<X, bf16, bf16>) = step_tiles<warps, loads, X>;                    \
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 160 << 10);      \
        unsigned most = (unsigned)(kr_cuda_processors() * blocks_of(warps, loads));                \
        kr_launch_early(kernel, true, dim3(tiles < most ? tiles : most), (warps)*32, shared, a);   \
    } while (0)
    KR_TILE_SHAPE(a.D, LAUNCH);
#undef LAUNCH
}

/* ---- launching ------------------------------------------------------------------------------- */

template <int ROWS, bool VECTORS, typename X, typename W, typename Y>
static void launch_rows(const arguments<X, W, Y> &a) {
    size_t shared = (size_t)(ROWS + 1) * (size_t)a.D * sizeof(float);
    void (*kernel)(arguments<X, W, Y>) = step_in<ROWS, VECTORS, X, W, Y>;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 << 10);
    unsigned blocks = kr_blocks(2 * a.E, WARPS), most = (unsigned)kr_cuda_processors() * 2;
    unsigned rounds = kr_blocks(blocks, most);
    kr_launch_early(kernel, true, dim3(kr_blocks(blocks, rounds)), THREADS, shared, a);
}

static bool aligned(const void *p, int64_t bytes) {
    return (((uintptr_t)p | (uintptr_t)bytes) & 15) == 0;
}

/* Whether tiles serve: every row in whole, aligned quads. */
template <typename X, typename W, typename Y>
static bool fits_tiles(const arguments<X, W, Y> &a) {
    return sizeof(W) == 2 && aligned(a.hidden, a.ld_hidden * (int64_t)sizeof(X)) &&
           aligned(a.residual, a.ld_residual * 4) && aligned(a.sum, a.ld_sum * 4) &&
           aligned(a.norm, 0);
}

template <bool VECTORS, typename X, typename W, typename Y>
static void launch_vectors(const arguments<X, W, Y> &a) {
    if (a.M <= 1)
        launch_rows<1, VECTORS>(a);
    else if (a.M <= 2)
        launch_rows<2, VECTORS>(a);
    else if (a.M <= 4)
        launch_rows<4, VECTORS>(a);
    else
        launch_rows<8, VECTORS>(a);
}

template <typename X, typename W, typename Y>
static void launch(const kr_call *c) {
    const kr_tensor *in = c->in, *out = c->out, *hidden = &in[KR_STEP_HIDDEN];
    const kr_tensor *from = &in[KR_STEP_WINDOW], *to = &out[KR_STEP_WINDOW_OUT];
    const kr_tensor *weight = &in[KR_STEP_WEIGHT], *conv = &in[KR_STEP_CONV];
    arguments<X, W, Y> a = {(const X *)hidden->data,
                            (const float *)in[KR_STEP_RESIDUAL].data,
                            (const float *)in[KR_STEP_NORM].data,
                            (const W *)weight->data,
                            (const float *)in[KR_STEP_BIAS].data,
                            (const float *)conv->data,
                            (const float *)in[KR_STEP_CONV_BIAS].data,
                            (const float *)from->data,
                            (const int64_t *)in[KR_STEP_SEQS].data,
                            (float *)out[KR_STEP_SUM].data,
                            (float *)to->data,
                            (Y *)out[KR_STEP_U].data,
                            (Y *)out[KR_STEP_Z].data};
    a.D = hidden->shape[1];
    a.E = conv->shape[0];
    a.ld_hidden = hidden->stride[0];
    a.ld_residual = in[KR_STEP_RESIDUAL].stride[0];
    a.ld_weight = weight->stride[0];
    a.ld_sum = out[KR_STEP_SUM].stride[0];
    a.ld_u = out[KR_STEP_U].stride[0];
    a.ld_z = out[KR_STEP_Z].stride[0];
    a.from_slot = from->stride[0];
    a.from_tap = from->stride[1];
    a.to_slot = to->stride[0];
    a.to_tap = to->stride[1];
    a.M = (int)hidden->shape[0];
    a.K = (int)conv->shape[2];
    a.eps = (float)((const kr_mamba_step_attr *)c->attr)->eps;
    if (a.M == 0 || a.E == 0) return;
    bool vectors = (((uintptr_t)a.weight | (uintptr_t)a.ld_weight * sizeof(W)) & 15) == 0 &&
                   a.D % (int64_t)(16 / sizeof(W)) == 0;
    if constexpr (sizeof(W) == 2)
        if (vectors && fits_tiles(a)) {
            launch_tiles(a);
            return;
        }
    if (vectors)
        launch_vectors<true>(a);
    else
        launch_vectors<false>(a);
}

extern "C" void kr_mamba_step_in_cuda(const kr_call *c) {
    bool half = ((const kr_mamba_step_attr *)c->attr)->half != 0;
    if (!half)
        launch<float, float, float>(c);
    else if (c->in[KR_STEP_HIDDEN].dtype == KR_BF16)
        launch<bf16, bf16, bf16>(c);
    else
        launch<float, bf16, bf16>(c);
}
