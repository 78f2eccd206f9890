/* scatter_rows.cu - rows added to the rows that an index names, on the GPU, without atomics on
 * floats: two runs give the same bytes.
 *
 * The rows are put into the order of their index, equal ones in the order of rows: a radix sort of
 * row numbers, a digit a pass, from the lowest. Then a warp takes KR_SCATTER_RUN rows of that
 * order and adds up those that go to the same place; sums that end inside of its rows are written,
 * those that its neighbours share go to scratch, where the warp that began one adds it up. So a
 * token that makes up half of a text is no slower than the others. */
#include "device/cuda/pack.cuh"
#include "ops/scatter_rows.h"

enum { THREADS = 256, WARPS = THREADS / 32, ROUNDS = KR_SCATTER_TILE / THREADS };

/* An index outside [0,N) is N: it sorts to the end and goes nowhere. */
template <typename I>
static __device__ __forceinline__ uint32_t key_of(const I *index, int64_t m, uint32_t N) {
    int64_t i = index[m];
    return i >= 0 && i < (int64_t)N ? (uint32_t)i : N;
}

/* ---- the sort -------------------------------------------------------------------------------- */

typedef struct pass {
    const void *index;   /* [M] */
    const int32_t *from; /* [M]: the order so far; NULL: that of the rows */
    int32_t *to;
    int32_t *counts; /* [bins, tiles] */
    int64_t M;
    uint32_t N;
    int shift, bits;
    int tiles;
} pass;

template <typename I>
static __device__ __forceinline__ int digit(const pass &p, int64_t i, int32_t *row) {
    *row = p.from ? p.from[i] : (int32_t)i;
    return (int)(key_of((const I *)p.index, *row, p.N) >> p.shift) & ((1 << p.bits) - 1);
}

/* How often each digit occurs in each tile. */
template <typename I>
static __global__ void count(pass p) {
    __shared__ int bins[KR_SCATTER_BINS];
    for (int b = threadIdx.x; b < KR_SCATTER_BINS; b += THREADS) bins[b] = 0;
    __syncthreads();
    for (int k = 0; k < ROUNDS; k++) {
        int64_t i = (int64_t)blockIdx.x * KR_SCATTER_TILE + k * THREADS + threadIdx.x;
        int32_t row;
        if (i < p.M) atomicAdd(&bins[digit<I>(p, i, &row)], 1); /* whole numbers: in any order */
    }
    __syncthreads();
    for (int b = threadIdx.x; b < 1 << p.bits; b += THREADS)
        p.counts[(int64_t)b * p.tiles + blockIdx.x] = bins[b];
}

/* counts[i] = sum of those before: one block. */
static __global__ void __launch_bounds__(1024) add_up(int32_t *counts, int64_t n) {
    __shared__ int sums[32];
    int64_t each = (n + 1023) / 1024, first = threadIdx.x * each;
    int64_t end = first + each < n ? first + each : n;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, mine = 0;
    for (int64_t i = first; i < end; i++) mine += counts[i];
    int before = mine;
    for (int d = 1; d < 32; d *= 2) {
        int other = __shfl_up_sync(~0u, before, d);
        if (lane >= d) before += other;
    }
    if (lane == 31) sums[warp] = before;
    __syncthreads();
    before -= mine;
    for (int w = 0; w < warp; w++) before += sums[w];
    for (int64_t i = first; i < end; i++) {
        int here = counts[i];
        counts[i] = before;
        before += here;
    }
}

/* Each row to its place: behind all of lower digits, of lower tiles, and before it in its tile. */
template <typename I>
static __global__ void move(pass p) {
    __shared__ int seen[WARPS][KR_SCATTER_BINS];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int b = threadIdx.x; b < WARPS * KR_SCATTER_BINS; b += THREADS) (&seen[0][0])[b] = 0;
    __syncthreads();
    int64_t first = (int64_t)blockIdx.x * KR_SCATTER_TILE + warp * ROUNDS * 32 + lane;
    int32_t row[ROUNDS];
    int bin[ROUNDS], rank[ROUNDS];
#pragma unroll
    for (int k = 0; k < ROUNDS; k++) {
        int64_t i = first + k * 32;
        bin[k] = i < p.M ? digit<I>(p, i, &row[k]) : -1;
        unsigned same = __match_any_sync(~0u, bin[k]);
        int leader = __ffs((int)same) - 1, before = 0;
        if (lane == leader && bin[k] >= 0) {
            before = seen[warp][bin[k]];
            seen[warp][bin[k]] = before + __popc(same);
        }
        rank[k] = __shfl_sync(~0u, before, leader) + __popc(same & ((1u << lane) - 1));
        __syncwarp();
    }
    __syncthreads();
    for (int b = threadIdx.x; b < 1 << p.bits; b += THREADS) {
        int sum = p.counts[(int64_t)b * p.tiles + blockIdx.x];
        for (int w = 0; w < WARPS; w++) {
            int here = seen[w][b];
            seen[w][b] = sum;
            sum += here;
        }
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < ROUNDS; k++)
        if (bin[k] >= 0) p.to[seen[warp][bin[k]] + rank[k]] = row[k];
}

/* Sorts; returns the order. */
template <typename I>
static const int32_t *sort(pass p, int32_t *a, int32_t *b) {
    int bits = 1, passes;
    while (bits < 32 && p.N >> bits) bits++;
    passes = (bits + 8) / 9;
    p.bits = (bits + passes - 1) / passes;
    for (int i = 0; i < passes; i++) {
        p.to = i % 2 ? b : a;
        p.shift = i * p.bits;
        count<I><<<p.tiles, THREADS, 0, kr_cuda_stream()>>>(p);
        add_up<<<1, 1024, 0, kr_cuda_stream()>>>(p.counts, (int64_t)p.tiles << p.bits);
        move<I><<<p.tiles, THREADS, 0, kr_cuda_stream()>>>(p);
        p.from = p.to;
    }
    return p.from;
}

/* ---- the sums -------------------------------------------------------------------------------- */

typedef struct scatter {
    const void *dy, *index;
    void *dx;
    const int32_t *order;
    float *heads,
        *tails; /* [runs, D]: of a sum begun before the run; of one that goes on behind it */
    int64_t dy_row, dx_row, M, N, D, runs;
    bool add;
} scatter;

template <typename I>
static __device__ __forceinline__ uint32_t key_at(const scatter &s, int64_t i) {
    return i >= 0 && i < s.M ? key_of((const I *)s.index, s.order[i], (uint32_t)s.N) : ~0u;
}

/* Where the sum of place `key` over entries of run r goes. */
template <typename T, int V>
static __device__ __forceinline__ void put_sum(const scatter &s, int64_t r, int64_t d, uint32_t key,
                                               bool from_before, bool goes_on, float (&sum)[V]) {
    if (key >= s.N) return;
    if (from_before)
        kr_store_pack<V>(s.heads + r * s.D + d, sum);
    else if (goes_on)
        kr_store_pack<V>(s.tails + r * s.D + d, sum);
    else
        kr_put_pack<V>((T *)s.dx + key * s.dx_row + d, sum, s.add);
}

/* Warp y of the block takes run r: 32 V columns of it. */
template <typename T, typename I, int V>
static __global__ void sum_runs(scatter s) {
    int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    int64_t d = ((int64_t)blockIdx.y * 32 + threadIdx.x) * V, first = r * KR_SCATTER_RUN;
    if (first >= s.M) return;
    int n = s.M - first < KR_SCATTER_RUN ? (int)(s.M - first) : KR_SCATTER_RUN;
    int32_t row = threadIdx.x < n ? s.order[first + threadIdx.x] : 0;
    uint32_t key = key_at<I>(s, first + threadIdx.x), last = key_at<I>(s, first - 1);
    uint32_t next = key_at<I>(s, first + n), now = __shfl_sync(~0u, key, 0);
    bool before = last == now;
    float sum[V] = {};
#pragma unroll 8
    for (int i = 0; i < KR_SCATTER_RUN; i++) {
        uint32_t k = __shfl_sync(~0u, key, i);
        int64_t m = __shfl_sync(~0u, row, i);
        float x[V];
        bool there = i < n && k < s.N && d < s.D;
        kr_load_pack_if<V>(there, (const T *)s.dy + m * s.dy_row + d, x);
        if (i < n && k != now) {
            if (d < s.D) put_sum<T>(s, r, d, now, before, false, sum);
            now = k;
            before = false;
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] = 0;
        }
#pragma unroll
        for (int j = 0; j < V; j++) sum[j] += x[j];
    }
    if (d < s.D) put_sum<T>(s, r, d, now, before, next == now, sum);
}

/* How many runs behind r begin with this place. All lanes of a warp must call it. */
template <typename I>
static __device__ __forceinline__ int64_t runs_behind(const scatter &s, int64_t r, uint32_t key) {
    for (int64_t n = 0;; n += 32) {
        int64_t first = (r + 1 + n + threadIdx.x) * KR_SCATTER_RUN;
        unsigned others = __ballot_sync(~0u, key_at<I>(s, first) != key);
        if (others) return n + __ffs((int)others) - 1;
    }
}

/* The sum that begins in run r and goes on behind it. */
template <typename T, typename I, int V>
static __global__ void join_runs(scatter s) {
    int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.y, end = (r + 1) * KR_SCATTER_RUN;
    int64_t d = ((int64_t)blockIdx.y * 32 + threadIdx.x) * V, first = end - KR_SCATTER_RUN;
    if (end >= s.M) return;
    uint32_t key = key_at<I>(s, end - 1);
    if (key >= s.N || key_at<I>(s, end) != key) return;
    if (key_at<I>(s, first) == key && key_at<I>(s, first - 1) == key) return; /* begun before */
    int64_t n = runs_behind<I>(s, r, key);
    if (d >= s.D) return;
    float sum[V], x[V];
    kr_load_pack<V>(s.tails + r * s.D + d, sum);
#pragma unroll 8
    for (int64_t i = 1; i <= n; i++) {
        kr_load_pack<V>(s.heads + (r + i) * s.D + d, x);
#pragma unroll
        for (int j = 0; j < V; j++) sum[j] += x[j];
    }
    kr_put_pack<V>((T *)s.dx + key * s.dx_row + d, sum, s.add);
}

template <typename T>
static __global__ void clear(scatter s) {
    int64_t d = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
    if (d < s.D) kr_store((T *)s.dx + blockIdx.x * s.dx_row + d, 0);
}

template <typename T, typename I, int V>
static void launch_sums(const scatter &s) {
    dim3 grid(kr_blocks(s.runs, WARPS), kr_blocks(s.D, 32 * V)), threads(32, WARPS);
    sum_runs<T, I, V><<<grid, threads, 0, kr_cuda_stream()>>>(s);
    join_runs<T, I, V><<<grid, threads, 0, kr_cuda_stream()>>>(s);
}

template <typename T, typename I>
static void launch(scatter s, char *scratch, bool packs) {
    if (!s.add && s.N > 0)
        clear<T><<<dim3((unsigned)s.N, kr_blocks(s.D, THREADS)), THREADS, 0, kr_cuda_stream()>>>(s);
    if (s.M == 0) return;
    int tiles = (int)kr_blocks(s.M, KR_SCATTER_TILE);
    int32_t *a = (int32_t *)scratch, *b = a + s.M, *counts = b + s.M;
    size_t head = (size_t)((char *)(counts + (int64_t)tiles * KR_SCATTER_BINS) - scratch);
    s.heads = (float *)(scratch + (head + 15) / 16 * 16);
    s.tails = s.heads + s.runs * s.D;
    pass p = {s.index, NULL, NULL, counts, s.M, (uint32_t)s.N, 0, 0, tiles};
    s.order = sort<I>(p, a, b);
    if (packs)
        launch_sums<T, I, 4>(s);
    else
        launch_sums<T, I, 1>(s);
}

extern "C" void kr_scatter_rows_cuda(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *index = &c->in[1], *dx = &c->out[0];
    scatter s = {};
    s.dy = dy->data, s.dy_row = dy->stride[0];
    s.index = index->data;
    s.dx = dx->data, s.dx_row = dx->stride[0];
    s.M = dy->shape[0], s.N = dx->shape[0], s.D = dy->shape[1];
    s.runs = (s.M + KR_SCATTER_RUN - 1) / KR_SCATTER_RUN;
    s.add = KR_ACC(c, 0);
    if (s.D == 0) return;
    char *scratch = (char *)c->scratch;
    bool packs = kr_packs(dy, 4) && kr_packs(dx, 4), wide = index->dtype == KR_I64;
    if (dy->dtype == KR_BF16) {
        if (wide)
            launch<bf16, int64_t>(s, scratch, packs);
        else
            launch<bf16, int32_t>(s, scratch, packs);
    } else {
        if (wide)
            launch<float, int64_t>(s, scratch, packs);
        else
            launch<float, int32_t>(s, scratch, packs);
    }
}
