/* mamba_layer_block.cuh - what a block of mamba_layer.cu or mamba2_layer.cu works with: the words
 * by which blocks hand each other numbers, its share of the weights' rows, the ring through which
 * those come, and products with them.
 *
 * A word of 64 bits holds a number (or two halves) and its date, the count of layers that this
 * process has run. Who needs the word reads it until its date is right: neither barriers nor fences
 * are needed. A word is written again a layer later, by when everybody has read it: no block ends a
 * layer without a share of y from all others. That moves twice the bytes, and words that are read
 * in vain are in the way of others: for several rows, numbers are plain and blocks meet instead.
 *
 * The ring: pieces of 8 rows of a weight, copied ahead by one warp. Few are under way at a time,
 * since what others wait for would queue behind them. */
#ifndef KR_MAMBA_LAYER_BLOCK_CUH
#define KR_MAMBA_LAYER_BLOCK_CUH

#include "device/cuda/kernel.cuh"
#include "ops/mamba_layer/mamba_layer.h"

enum {
    TILE = 8,
    WARPS = 8,
    THREADS = WARPS * 32, /* and the warp that copies */
    ROWS = KR_LAYER_FEW,
    TAPS = KR_LAYER_TAPS,
    PIECE = 2048,       /* bytes of a row in a slot of the ring, at most */
    PITCH = PIECE + 64, /* so that neighbouring rows lie in different banks */
    SLOT = TILE * PITCH,
    SLICE = 64,
    MOST_SLOTS = 13,
    UNDER_WAY = 36 << 10, /* bytes on their way to a block, about */
    TURNS = PIECE / SLICE / WARPS
};

typedef unsigned long long word;

/* What layers of either kind have; mamba_layer.h and mamba2_layer.h tell. */
struct layer_parts {
    const void *w_in, *w_out;
    const float *norm, *in_bias, *conv, *conv_bias, *dt_bias, *A, *D, *out_bias, *window, *state;
    float *window_out, *state_out, *y;
};

/* No bytes between its members: sizes are compared as bytes. */
struct layer_sizes {
    int64_t ld_in, ld_out, ld_y, ld_from;                       /* of rows */
    int64_t from_slot, from_tap, to_slot, to_tap, from_h, to_h; /* of the states */
    int D, E, N, M, K, x_row; /* x_row: where x begins in in_proj, 0 or E; z has the other half */
    float eps, one_of_D;
};

/* ---- the exchange ---------------------------------------------------------------------------- */

/* Words of one row, and behind them the plain numbers of several: a number must never be where a
 * date is sought. Read 16 bytes at once. */
enum { DATED = KR_LAYER_INNER };
static __device__ __align__(16) word all_u[DATED + ROWS * KR_LAYER_INNER / 2];
static __device__ __align__(16) word all_y[DATED + ROWS * KR_LAYER_INNER / 2];
static __device__ __align__(16) word all_xp[DATED + ROWS * KR_LAYER_XP_WIDTH / 2];
static __device__ __align__(16) word all_x[DATED + ROWS * KR_LAYER_WIDTH / 2];
static __device__ uint32_t layers_run;
static __device__ word arrivals, arrivals_before; /* now, and in front of this kernel */

static __device__ __forceinline__ void sync_workers(void) {
    asm volatile("bar.sync 1, %0;" ::"n"((int)THREADS) : "memory");
}

/* Number i of all; R: rows of x. */
template <int R>
static __device__ __forceinline__ void post(word *all, int i, uint32_t bits, uint32_t date) {
    if (R > 1)
        __stcg((uint32_t *)(all + DATED) + i, bits);
    else
        asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(all + i),
                     "l"((word)date << 32 | bits)
                     : "memory");
}

/* Two words, i and i + 1 (i even). */
template <int R>
static __device__ __forceinline__ ulonglong2 peek(const word *all, int i) {
    ulonglong2 v;
    if (R > 1) {
        uint2 bits = __ldcg((const uint2 *)((const uint32_t *)(all + DATED) + i));
        return make_ulonglong2(bits.x, bits.y);
    }
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(v.x), "=l"(v.y)
                 : "l"(all + i)
                 : "memory");
    return v;
}

/* Until both have this date. */
template <int R>
static __device__ __forceinline__ void wait_for(ulonglong2 &v, const word *all, int i,
                                                uint32_t date) {
    while (R == 1 && ((uint32_t)(v.x >> 32) != date || (uint32_t)(v.y >> 32) != date))
        v = peek<R>(all, i);
}

/* Before a warp reads its words, one lane waits for one of them: if all did, they would be in the
 * way of the words to come. */
template <int R>
static __device__ __forceinline__ void wait_for_first(const word *all, int i, uint32_t date,
                                                      unsigned lanes) {
    if (R > 1) return;
    if (threadIdx.x % 32 == 0) {
        ulonglong2 v = peek<R>(all, i);
        wait_for<R>(v, all, i, date);
    }
    __syncwarp(lanes);
}

/* Where there are several rows: waits until all blocks are here. goal: how many arrivals there were
 * when that was last so. */
template <int R>
static __device__ __forceinline__ void meet(word &goal) {
    if (R == 1) return;
    goal += gridDim.x;
    sync_workers();
    if (threadIdx.x == 0) {
        word now;
        asm volatile("red.release.gpu.global.add.u64 [%0], 1;" ::"l"(&arrivals) : "memory");
        do
            asm volatile("ld.acquire.gpu.global.u64 %0, [%1];"
                         : "=l"(now)
                         : "l"(&arrivals)
                         : "memory");
        while (now < goal);
    }
    sync_workers();
}

/* ---- shares of a block ----------------------------------------------------------------------- */

struct share {
    int first, count;
};

/* Of n things in units of `unit`. */
static __device__ __forceinline__ share share_of(int n, int unit, unsigned block) {
    unsigned units = n / unit, first = units * block / gridDim.x;
    unsigned end = units * (block + 1) / gridDim.x;
    return {(int)first * unit, (int)(end - first) * unit};
}

/* The rows of a weight that are this block's, in tiles of 8: consecutive ones, or (in_proj) 4 of x
 * and the same 4 of z. */
struct strip {
    share mine;
    int tiles, half; /* half: 0, or the 4 rows of x */
    int bytes;       /* of a row */
    int piece;       /* of which a slot of the ring takes so many */
    int base, other; /* mine is counted from row base; z lies so far behind x */

    /* Row j of tile t in the weight; -1: there is none. */
    __device__ int row(int t, int j) const {
        int local = half ? t * half + j % half : t * TILE + j;
        if (local >= mine.count) return -1;
        return base + mine.first + local + (half && j >= half ? other : 0);
    }
};

/* How a row of so many bytes is cut: evenly. */
static __device__ __host__ __forceinline__ int piece_of(int bytes) {
    int pieces = (bytes + PIECE - 1) / PIECE;
    return (bytes / SLICE + pieces - 1) / pieces * SLICE;
}

template <typename T>
static __device__ __forceinline__ strip cut_strip(share mine, int columns, int half) {
    int per_tile = half ? half : TILE;
    strip p = {};
    p.mine = mine;
    p.half = half;
    p.tiles = (mine.count + per_tile - 1) / per_tile;
    p.bytes = columns * (int)sizeof(T);
    p.piece = piece_of(p.bytes);
    return p;
}

/* Of what is not a channel, fewer fall to the blocks that have more channels. */
static __device__ __forceinline__ share other_share(int n) {
    return share_of(n, 1, gridDim.x - 1 - blockIdx.x);
}

/* The channels' rows of in_proj, and the block's of out_proj. */
template <typename T>
static __device__ __forceinline__ strip strip_in(const layer_sizes &s) {
    strip p = cut_strip<T>(share_of(s.E, KR_LAYER_UNIT, blockIdx.x), s.D, TILE / 2);
    p.base = s.x_row;
    p.other = s.E - 2 * s.x_row;
    return p;
}
template <typename T>
static __device__ __forceinline__ strip strip_out(const layer_sizes &s) {
    return cut_strip<T>(other_share(s.D), s.E, 0);
}

/* ---- the ring -------------------------------------------------------------------------------- */

static __device__ __forceinline__ uint32_t shared_at(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

struct signals {
    word full[MOST_SLOTS], empty[MOST_SLOTS];
};

static __device__ __forceinline__ void make_signal(word *signal, int arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_at(signal)), "r"(arrivals)
                 : "memory");
}

static __device__ __forceinline__ void arrive(word *signal) {
    asm volatile("{ .reg .b64 t; mbarrier.arrive.shared.b64 t, [%0]; }" ::"r"(shared_at(signal))
                 : "memory");
}

static __device__ __forceinline__ bool has_come(word *signal, int parity) {
    uint32_t done;
#if __CUDA_ARCH__ >= 900
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; "
                 "selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_at(signal)), "r"(parity)
                 : "memory");
#else
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; "
                 "selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_at(signal)), "r"(parity)
                 : "memory");
#endif
    return done != 0;
}

static __device__ __forceinline__ void wait_signal(word *signal, int parity) {
    while (!has_come(signal, parity)) continue;
}

/* Where a warp is in the ring. */
struct ring {
    char *slots;
    signals *of;
    int n, ahead; /* slots, of which so many are under way at a time */
    bool whole;   /* rows of weights are 16-byte vectors */
    int at, parity;

    /* Whether the engine copies. */
    __device__ bool by_engine() const {
#if __CUDA_ARCH__ >= 900
        return whole;
#else
        return false;
#endif
    }
    /* Whether every lane says that it has read a slot, or the first for its warp: that costs less,
     * but is an order that compute-sanitizer's racecheck does not see (docs/measured.md). */
    __device__ bool every_lane() const {
#ifdef KR_RACECHECK
        return true;
#else
        return !by_engine();
#endif
    }
    __device__ char *slot() const { return slots + at * SLOT; }
    __device__ void next() {
        if (++at < n) return;
        at = 0;
        parity ^= 1;
    }
};

/* A piece of each row of a tile (lane j < 8 knows the place of row j, or NULL), by V a lane. */
template <typename V>
static __device__ __forceinline__ void copy_plain(const char *row, int bytes, char *slot) {
    int lane = threadIdx.x % 32;
    for (int first = 0; first < bytes; first += 32 * sizeof(V)) {
        int at = first + lane * (int)sizeof(V);
        V v[TILE];
#pragma unroll
        for (int j = 0; j < TILE; j++) {
            const char *from = (const char *)__shfl_sync(0xffffffffu, (word)row, j);
            if (from && at < bytes) v[j] = *(const V *)(from + at);
        }
#pragma unroll
        for (int j = 0; j < TILE; j++)
            if (at < bytes) *(V *)(slot + j * PITCH + at) = v[j];
    }
}

/* The same by the engine that copies on its own; rows: how many there are. */
static __device__ __forceinline__ void copy_bulk(const char *row, int bytes, char *slot, int rows,
                                                 word *full) {
#if __CUDA_ARCH__ >= 900
    int lane = threadIdx.x % 32;
    if (lane == 0)
        asm volatile("{ .reg .b64 t; mbarrier.arrive.expect_tx.shared.b64 t, [%0], %1; }" ::"r"(
                         shared_at(full)),
                     "r"(bytes * rows)
                     : "memory");
    __syncwarp();
    if (row)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1], %2, [%3];" ::"r"(shared_at(slot + lane * PITCH)),
                     "l"(row), "r"(bytes), "r"(shared_at(full))
                     : "memory");
#endif
}

template <typename T>
static __device__ __forceinline__ void copy_piece(const char *row, int bytes, int rows,
                                                  const ring &to) {
    char *slot = to.slot();
    word *full = &to.of->full[to.at];
    wait_signal(&to.of->empty[to.at], to.parity ^ 1);
    int before = to.at - to.ahead;
    bool wraps = before < 0;
    wait_signal(&to.of->full[wraps ? before + to.n : before], to.parity ^ wraps);
    if (to.by_engine()) {
        copy_bulk(row, bytes, slot, rows, full);
        return;
    }
    if (to.whole)
        copy_plain<uint4>(row, bytes, slot);
    else
        copy_plain<T>(row, bytes, slot);
    arrive(full);
}

template <typename T>
static __device__ __forceinline__ void fill_strip(const strip &s, const void *w, int64_t ld,
                                                  ring &to) {
    int lane = threadIdx.x % 32;
    for (int t = 0; t < s.tiles; t++) {
        int row = lane < TILE ? s.row(t, lane) : -1;
        int rows = __popc(__ballot_sync(0xffffffffu, row >= 0));
        const char *from = row < 0 ? NULL : (const char *)((const T *)w + row * ld);
        for (int k = 0; k < s.bytes; k += s.piece) {
            int part = min(s.bytes - k, s.piece);
            copy_piece<T>(from ? from + k : NULL, part, rows, to);
            to.next();
        }
    }
}

/* ---- a block --------------------------------------------------------------------------------- */

/* What the threads of a block know at every layer. */
struct block {
    char *rows;          /* what is multiplied: [M], ld bytes apart */
    float *parts;        /* [tiles][WARPS][R][8] */
    float *squares;      /* [WARPS] */
    const int64_t *slot; /* [R] of each row of x; -1: it is no one's */
    int ld, M;
};

/* An output of a product: row m of x, row j of tile t. */
struct output {
    int t, m, j;
};

template <int R>
static __device__ __forceinline__ output output_at(int i) {
    return {i / (TILE * R), i / TILE % R, i % TILE};
}

/* ---- products -------------------------------------------------------------------------------- */

/* Sums of a lane: of halves, for 4 rows of x each, an accumulator of the tensor cores; of floats,
 * its part of row lane / 4 of the tile by each row of x. */
template <int R>
struct sums {
    float of[R <= 4 ? 4 : 8];
};

/* d += A B: A is 16 bytes of each lane, from row lane / 4 of the weight. Tensor cores take them for
 * two rows, g (first and third word) and g + 8; so a row of x is two columns of B, one with what
 * meets the even words, one with what meets the odd ones, and the product is d[g, 2 m] +
 * d[g + 8, 2 m + 1]: of lane 4 g + m, d[0] + d[3]. */
static __device__ __forceinline__ void multiply_16(float *d, const uint4 &w, const uint2 &x) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(w.x), "r"(w.y), "r"(w.z), "r"(w.w), "r"(x.x), "r"(x.y));
}

/* c += slices of 8 rows of the weight times those of x. */
template <int R>
static __device__ __forceinline__ void multiply(const char *slot, const char *x, int ld, int bytes,
                                                sums<R> &c, const bf16 *) {
    int lane = threadIdx.x % 32, first = threadIdx.x / 32 * SLICE + lane % 4 * 16;
    const char *w_row = slot + lane / 4 * PITCH;
    const char *x_row = x + lane / 8 * ld + lane / 4 % 2 * 8;
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        int at = first + i * WARPS * SLICE;
        if (at >= bytes) break; /* the same in a warp */
        uint4 w = *(const uint4 *)(w_row + at);
#pragma unroll
        for (int m = 0; m < R; m += 4) {
            uint2 v = make_uint2(0, 0);
            if (R >= 4 || lane / 8 < R) v = *(const uint2 *)(x_row + m * ld + at);
            multiply_16(c.of + m, w, v);
        }
    }
}

template <int R>
static __device__ __forceinline__ void multiply(const char *slot, const char *x, int ld, int bytes,
                                                sums<R> &c, const float *) {
    int lane = threadIdx.x % 32, first = threadIdx.x / 32 * SLICE + lane % 4 * 16;
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        int at = first + i * WARPS * SLICE;
        if (at >= bytes) break;
        float4 w = *(const float4 *)(slot + lane / 4 * PITCH + at);
#pragma unroll
        for (int m = 0; m < R; m++) {
            float4 v = *(const float4 *)(x + m * ld + at);
            c.of[m] += w.x * v.x + w.y * v.y + w.z * v.z + w.w * v.w;
        }
    }
}

/* This warp's sums: part[m][j]. */
template <int R>
static __device__ __forceinline__ void put_part(float *part, const sums<R> &c, const bf16 *) {
    int j = threadIdx.x % 32 / 4, m = threadIdx.x % 4;
    if (m < R) part[m * TILE + j] = c.of[0] + c.of[3];
    if (R > 4) part[(m + 4) * TILE + j] = c.of[R - 4] + c.of[R - 1];
}

template <int R>
static __device__ __forceinline__ void put_part(float *part, const sums<R> &c, const float *) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < R; m++) {
        float sum = c.of[m] + __shfl_xor_sync(0xffffffffu, c.of[m], 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane % 4 == 0) part[m * TILE + lane / 4] = sum;
    }
}

/* Multiplies the strip as it arrives by the rows in shared memory; then get_sum has the sums, from
 * tile `behind` on. */
template <typename T, int R>
static __device__ __forceinline__ void product(const block &b, const strip &s, ring &from,
                                               int behind = 0) {
    float *part = b.parts + (behind * WARPS + threadIdx.x / 32) * R * TILE;
    for (int t = 0; t < s.tiles; t++, part += WARPS * R * TILE) {
        sums<R> c = {};
        for (int k = 0; k < s.bytes; k += s.piece) {
            wait_signal(&from.of->full[from.at], from.parity);
            multiply<R>(from.slot(), b.rows + k, b.ld, min(s.bytes - k, s.piece), c,
                        (const T *)NULL);
            __syncwarp();
            if (from.every_lane() || threadIdx.x % 32 == 0) arrive(&from.of->empty[from.at]);
            from.next();
        }
        put_part<R>(part, c, (const T *)NULL);
    }
    sync_workers();
}

template <int R>
static __device__ __forceinline__ float get_sum(const block &b, const output &o) {
    const float *part = b.parts + (o.t * WARPS * R + o.m) * TILE + o.j;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += part[w * R * TILE];
    return sum;
}

/* ---- numbers of either type ------------------------------------------------------------------ */

static __device__ __forceinline__ float rounded(float x, const bf16 *) {
    return __bfloat162float(__float2bfloat16_rn(x));
}
static __device__ __forceinline__ float rounded(float x, const float *) { return x; }

/* Posts number i of row m, of n; of halves the even ones do, for two. */
template <int R>
static __device__ __forceinline__ void post_number(word *all, int m, int n, int i, float x,
                                                   float following, uint32_t date, const bf16 *) {
    __nv_bfloat162 two = __floats2bfloat162_rn(x, following);
    if (i % 2 == 0) post<R>(all, (m * n + i) / 2, *(const uint32_t *)&two, date);
}
template <int R>
static __device__ __forceinline__ void post_number(word *all, int m, int n, int i, float x, float,
                                                   uint32_t date, const float *) {
    post<R>(all, m * n + i, __float_as_uint(x), date);
}

static __device__ __forceinline__ float fast_silu(float x) { return __fdividef(x, 1 + __expf(-x)); }

/* Where the two words i, i + 1 (i even) of a row of x go: halves lie in groups of 4 words, in the
 * order 0 2 1 3, as multiply reads them. */
static __device__ __forceinline__ void put_words(char *row, int i, uint32_t x, uint32_t y,
                                                 const bf16 *) {
    uint32_t *to = (uint32_t *)row + i / 4 * 4 + i % 4 / 2;
    to[0] = x;
    to[2] = y;
}
static __device__ __forceinline__ void put_words(char *row, int i, uint32_t x, uint32_t y,
                                                 const float *) {
    *(uint2 *)(row + 4 * i) = make_uint2(x, y);
}

/* Numbers i, i + 1 (i even) of such a row. */
static __device__ __forceinline__ void put_numbers(char *row, int i, float x, float y,
                                                   const bf16 *) {
    __nv_bfloat162 two = __floats2bfloat162_rn(x, y);
    ((__nv_bfloat162 *)row)[i / 8 * 4 + i / 2 % 2 * 2 + i / 4 % 2] = two;
}
static __device__ __forceinline__ void put_numbers(char *row, int i, float x, float y,
                                                   const float *) {
    *(float2 *)(row + 4 * i) = make_float2(x, y);
}

static __device__ __forceinline__ void fetch_quad(const float *p, int n, int N, bool whole,
                                                  float (&to)[4]) {
    if (whole) {
        float4 v = *(const float4 *)(p + n);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] = n + i < N ? p[n + i] : 0;
    }
}

static __device__ __forceinline__ float softplus(float x) { return x > 20 ? x : log1pf(__expf(x)); }

static __device__ __forceinline__ float power_of_2(float x) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}

/* The rows are taken by threads in shares of WIDTH: thread i of a share has words 2 i, 2 i + 1,
 * then those 2 WIDTH on; BATCH such loads are under way. */
template <int R>
struct turn {
    enum { WIDTH = THREADS / R, STEP = 2 * WIDTH, BATCH = R == 1 ? 5 : 16 };
};

/* Gathers rows of halves or floats, each of `words` words. */
template <typename T, int R>
static __device__ __forceinline__ void take_rows(const block &b, const word *all, int words,
                                                 uint32_t date) {
    constexpr int STEP = turn<R>::STEP, BATCH = turn<R>::BATCH;
    int m = threadIdx.x / turn<R>::WIDTH, first = threadIdx.x % turn<R>::WIDTH * 2;
    char *row = b.rows + m * b.ld;
    int end = m < b.M ? words : 0, base = m * words;
    unsigned lanes = __ballot_sync(0xffffffffu, first < end);
    if (first < end) wait_for_first<R>(all, base + first, date, lanes);
    for (int i = first; i < end; i += BATCH * STEP) {
        ulonglong2 v[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            if (i + k * STEP < end) v[k] = peek<R>(all, base + i + k * STEP);
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            int at = i + k * STEP;
            if (at >= end) break;
            wait_for<R>(v[k], all, base + at, date);
            put_words(row, at, (uint32_t)v[k].x, (uint32_t)v[k].y, (const T *)NULL);
        }
    }
    sync_workers();
}

/* Gathers numbers that follow each other, an even count. */
template <int R>
static __device__ __forceinline__ void take_words(const word *all, float *to, int words,
                                                  uint32_t date) {
    constexpr int BATCH = R == 1 ? 1 : 5, STEP = THREADS * 2;
    int first = threadIdx.x * 2;
    unsigned lanes = __ballot_sync(0xffffffffu, first < words);
    if (first < words) wait_for_first<R>(all, first, date, lanes);
    for (int i = first; i < words; i += BATCH * STEP) {
        ulonglong2 v[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            if (i + k * STEP < words) v[k] = peek<R>(all, i + k * STEP);
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            int at = i + k * STEP;
            if (at >= words) break;
            wait_for<R>(v[k], all, at, date);
            *(uint2 *)(to + at) = make_uint2((uint32_t)v[k].x, (uint32_t)v[k].y);
        }
    }
    sync_workers();
}

/* The warps' sums of squares. */
static __device__ __forceinline__ void put_squares(const block &b, float sum) {
    sum = kr_warp_sum(sum);
    if (threadIdx.x % 32 == 0) b.squares[threadIdx.x / 32] = sum;
    sync_workers();
}

#endif
