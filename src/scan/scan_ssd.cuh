/* scan_ssd.cuh - what the kernels share that do Mamba-2's sizes on the GPU: bf16, heads of 64
 * channels with 64 or 128 states, one decay a head (state space duality: Dao & Gu 2024).
 *
 * Unlike scan_matrix*.cu, which takes a head through time in one block, all chunks are done at
 * once:
 *
 *   times     what time does to each head within each chunk          a warp each
 *   states    H in front of each chunk, L behind it (backward)       a block through time for 64
 * states outputs   y of a chunk, head by head                             scan_ssd.cu gradients of
 * a chunk, head by head                               scan_ssd_back.cu
 *
 * So what heads share (b, c, their products, db, dc) stays in a block, and the states between
 * chunks pass through memory once, in bf16. Chunks of all sequences are numbered without a table,
 * with gaps: from first row / 64 + sequence on (scan_span.cuh). */
#ifndef KR_SCAN_SSD_CUH
#define KR_SCAN_SSD_CUH

#include "scan/scan_matrix.cuh"

enum {
    KR_SSD_ROWS = KR_MATRIX_ROWS_HALF, /* of a chunk */
    KR_SSD_P = KR_MATRIX_P,            /* channels of a head */
    KR_SSD_LD = KR_SSD_P + 8,          /* of a tile of 64 columns: neighbours lie in other banks */
    KR_SSD_LINE = KR_SSD_ROWS + 4,     /* 64 rows, the decay of the chunk, and what aligns */
    KR_SSD_TILE = KR_SSD_ROWS * KR_SSD_LD
};

/* Lines of a chunk and head in `times` (kr_chunk_times; the sums of logarithms to base 2). */
enum {
    KR_SSD_GAIN,
    KR_SSD_SUM,
    KR_SSD_CARRY,
    KR_SSD_KEEP,
    KR_SSD_LEFT,
    KR_SSD_DELTA,
    KR_SSD_SLOPE,
    KR_SSD_TIMES
};
static_assert(KR_SSD_TIMES * KR_SSD_LINE == KR_SCAN_SSD_TIMES, "the plan's room");

/* The call. A block does `heads` heads of a group (the last block of a group: what is left), and a
 * group has `slices` blocks. */
struct kr_ssd {
    kr_matrix_in<bf16> g;
    float *times;          /* [pieces,H,TIMES,LINE] */
    bf16 *before, *behind; /* [pieces,H,P,N]: H, L */
    int64_t pieces;
    int slices, heads;
    float kappa; /* its logarithm to base 2 */
};

/* ---- rows ---- */

struct kr_ssd_piece {
    kr_sequence q;
    int64_t t0; /* its first row, in the sequence */
    bool there;
};

static __device__ kr_ssd_piece kr_ssd_piece_of(const kr_matrix_in<bf16> &g, int64_t piece) {
    kr_ssd_piece p;
    int64_t s = kr_sequence_with(g, piece);
    p.q = kr_sequence_of(g, s);
    p.t0 = (piece - p.q.first / KR_SSD_ROWS - s) * KR_SSD_ROWS;
    p.there = p.t0 >= 0 && p.t0 < p.q.count;
    return p;
}

__device__ __forceinline__ void kr_ssd_copy(void *to, const void *from, bool there) {
    unsigned at = (unsigned)__cvta_generic_to_shared(to), bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void kr_ssd_commit(void) { asm volatile("cp.async.commit_group;"); }
template <int LEFT>
__device__ __forceinline__ void kr_ssd_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* Starts copying COLUMNS columns of the 64 rows from t0 on; rows that are not there become 0. */
template <int COLUMNS, int THREADS>
__device__ __forceinline__ void kr_ssd_rows(const kr_matrix_in<bf16> &g, const kr_sequence &q,
                                            const kr_matrix_rows<bf16> &from, int64_t t0,
                                            int64_t first, bf16 *to, int ld) {
    const int packs = COLUMNS / 8, step = THREADS / packs;
    int r = threadIdx.x / packs, d = threadIdx.x % packs * 8;
    int64_t stride = g.reverse ? -from.row : from.row;
    const bf16 *at = from.p + kr_row_at(g, q, t0 + r) * from.row + first + d;
#pragma unroll
    for (int i = 0; i < KR_SSD_ROWS / step; i++)
        kr_ssd_copy(to + (r + i * step) * ld + d, at + i * step * stride,
                    from.p && t0 + r + i * step < q.count);
}

/* The same of `count` floats, and of a state [P,N]. */
template <int THREADS>
__device__ __forceinline__ void kr_ssd_floats(const float *from, float *to, int count) {
    for (int i = threadIdx.x * 4; i < count; i += THREADS * 4) kr_ssd_copy(to + i, from + i, true);
}
template <int N, int THREADS>
__device__ __forceinline__ void kr_ssd_state(const bf16 *from, bf16 *to, int ld) {
#pragma unroll
    for (int i = 0; i < KR_SSD_P * N / 8 / THREADS; i++) {
        int at = (threadIdx.x + i * THREADS) * 8;
        kr_ssd_copy(to + at / N * ld + at % N, from + at, true);
    }
}

/* Where the segment of each row begins, and ends, in the chunk: 64 threads. */
static __device__ void kr_ssd_segments(const kr_matrix_in<bf16> &g, const kr_ssd_piece &p,
                                       int *lowest, int *highest) {
    unsigned long long resets = 0;
    for (int i = 0; i < KR_SSD_ROWS; i += 32) {
        int64_t t = p.t0 + i + threadIdx.x % 32;
        resets |= (unsigned long long)__ballot_sync(0xffffffffu, kr_starts(g, p.q, t)) << i;
    }
    int r = threadIdx.x;
    unsigned long long before = resets & (2ull << r) - 1, behind = resets >> r >> 1;
    lowest[r] = before ? 63 - __clzll((long long)before) : 0;
    highest[r] = behind ? r + __ffsll((long long)behind) - 1 : KR_SSD_ROWS - 1;
}

/* ---- numbers ---- */

__device__ __forceinline__ float kr_ssd_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float kr_ssd_low(uint32_t v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float kr_ssd_high(uint32_t v) {
    return __uint_as_float(v & 0xffff0000u);
}
__device__ __forceinline__ uint32_t kr_ssd_pair(float low, float high) {
    uint32_t v;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
}
__device__ __forceinline__ uint32_t kr_ssd_pair_at(const bf16 *p) { return *(const uint32_t *)p; }
/* x scale, where a scale of 0 leaves 0 of any x */
__device__ __forceinline__ float kr_ssd_scaled(float x, float scale) {
    return scale != 0 ? x * scale : 0;
}

/* ---- products ----
 *
 * A warp sums tiles of 16 x 8: element e of a lane is row lane / 4 + 8 (e / 2), column
 * 2 (lane % 4) + e % 2. */

/* A factor [16 of m, 16 of k], from rows of m or (ACROSS) rows of k. */
template <kr_lie A>
__device__ __forceinline__ void kr_ssd_left(uint32_t (&r)[4], const bf16 *a, int ld, int m, int k) {
    int lane = threadIdx.x & 31, low = lane & 7, mid = lane & 8, high = lane >> 4 << 3;
    if (A == KR_ALONG)
        kr_ldmatrix(r, a + (m + low + mid) * ld + k + high, false);
    else
        kr_ldmatrix(r, a + (k + low + high) * ld + m + mid, true);
}
/* sum[0..TILES) += left times the factor [16 of k, 8 TILES of n], from rows of n or of k. */
template <kr_lie B, int TILES>
__device__ __forceinline__ void kr_ssd_add(float (*sum)[4], const uint32_t (&left)[4],
                                           const bf16 *b, int ld, int n, int k) {
    int lane = threadIdx.x & 31, low = lane & 7, mid = lane & 8, high = lane >> 4 << 3;
#pragma unroll
    for (int j = 0; j < TILES; j += 2) {
        uint32_t r[4];
        if (B == KR_ALONG)
            kr_ldmatrix(r, b + (n + 8 * j + low + high) * ld + k + mid, false);
        else
            kr_ldmatrix(r, b + (k + low + mid) * ld + n + 8 * j + high, true);
        kr_mma(sum[j], left, r[0], r[1]);
        kr_mma(sum[j + 1], left, r[2], r[3]);
    }
}

template <int TILES>
__device__ __forceinline__ void kr_ssd_clear(float (*sum)[4]) {
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) sum[j][e] = 0;
}

/* to = or += 16 columns of a row, of which the lanes of a quad have pairs: `a` of the first 8, `b`
 * of the others. All lanes call it; `there`: the row is. */
__device__ __forceinline__ void kr_ssd_store(bf16 *to, uint32_t a, uint32_t b, bool there,
                                             bool add) {
    bool odd = threadIdx.x & 1;
    uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? a : b, 1);
    uint2 v = odd ? make_uint2(other, b) : make_uint2(a, other);
    uint2 *at = (uint2 *)(to + (odd ? 8 : 0) + (threadIdx.x & 2) * 2);
    if (!there) return;
    if (add) {
        uint2 old = *at;
        v.x =
            kr_ssd_pair(kr_ssd_low(old.x) + kr_ssd_low(v.x), kr_ssd_high(old.x) + kr_ssd_high(v.x));
        v.y =
            kr_ssd_pair(kr_ssd_low(old.y) + kr_ssd_low(v.y), kr_ssd_high(old.y) + kr_ssd_high(v.y));
    }
    *at = v;
}

/* ---- calls ---- */

/* In scan_ssd.cu. The plan of a call and its scratch; times; H in front of all chunks, and to
 * state_out, if that is not NULL; in `back` L behind them from dstate to dstate_in. */
kr_ssd kr_ssd_unpack(const kr_call *c);
void kr_ssd_times_launch(const kr_ssd &c);
void kr_ssd_states_launch(const kr_ssd &c, bool back, void *to, int64_t to_slot, bool add);
void kr_ssd_outputs_launch(const kr_ssd &c, const kr_tensor *y, bool add);

#endif
