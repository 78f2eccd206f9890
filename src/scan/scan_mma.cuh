/* scan_mma.cuh - the recurrence on the tensor units, for bf16 activations and up to 16 states: all
 * that is a sum of products over states or channels of a warp, or an outer product of a row.
 *
 * Work of a warp: 8 rows of 8 channels x 16 states. Lane 4 q + r holds states 2r, 2r+1, 8+2r, 9+2r
 * of channel q, which is how the units want a factor [channel, state]; and the pairs (row, channel)
 * (2r, q) and (2r+1, q) are its own, which is how a product [channel, row] comes out of them.
 *
 *   outer   g_t b_t           [8 channels,1] [1,16 states] of two rows in one product
 *   dot     h_t . c_t         [8 channels,16 states] [16 states,8 rows] of two rows in one product,
 *                             of which the columns of the two rows are used
 *   gather  sum w_t h_t       [16 states,8 channels] [8 channels,8 rows] of two rows, the columns
 * of other rows 0; over channels
 *
 * b and c are bf16, so exact. g goes in as two halves, 16 bits of it; a state into a dot as tf32
 * forward, and as bf16 in the backward pass, where sums are gradients in bf16. */
#ifndef KR_SCAN_MMA_CUH
#define KR_SCAN_MMA_CUH

#include "scan/scan_gpu.cuh"

/* ---- instructions ---- */

/* d = a [16,8] b [8,8] + d. Rows q and q + 8 of d and a, columns 2r, 2r+1 of d. */
__device__ __forceinline__ void kr_mma8(float (&d)[4], unsigned a0, unsigned a1, unsigned b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(b));
}
/* The same, a [16,16]. */
__device__ __forceinline__ void kr_mma16(float (&d)[4], unsigned a0, unsigned a1, unsigned a2,
                                         unsigned a3, unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
/* The same, a [16,8] and [16,4] in tf32. */
__device__ __forceinline__ void kr_mma8_tf32(float (&d)[4], float a0, float a1, float a2, float a3,
                                             float b0, float b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)),
          "r"(__float_as_uint(a3)), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}
__device__ __forceinline__ void kr_mma4_tf32(float (&d)[4], float a0, float a1, float b) {
    asm("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(b)));
}

/* Two numbers as bf16, the first one in the low half. */
__device__ __forceinline__ unsigned kr_pair(float low, float high) {
    unsigned v;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
}
/* x as the sum of two, the larger one in the low half. */
__device__ __forceinline__ unsigned kr_split(float x) {
    float high = __uint_as_float((__float_as_uint(x) + 0x8000u) & 0xffff0000u);
    return kr_pair(high, x - high);
}
/* A matrix [8,8], row q and columns 2r, 2r+1 in a lane, transposed. */
__device__ __forceinline__ unsigned kr_turn(unsigned m) {
    unsigned v;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(v) : "r"(m));
    return v;
}

/* ---- b and c of 8 rows ---- */

/* As `dot` wants them: row q, states 2r, 2r+1 [0] and 8+2r, 9+2r [1]; or, TURNED, as `outer` wants
 * them: rows 2r, 2r+1 of state q [0] and of state 8+q [1]. */
struct kr_rows8 {
    unsigned b[2], c[2];
};
template <bool TURNED, class K>
__device__ __forceinline__ kr_rows8 kr_rows_of(const K &k, const kr_scan_lane &l, int stage,
                                               int t0) {
    const void *row = k.bc_at(stage, l.lane >> 4, t0 + (l.lane & 7)) + (l.lane & 8);
    unsigned at = (unsigned)__cvta_generic_to_shared(row);
    kr_rows8 m;
    if (TURNED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(m.b[0]), "=r"(m.b[1]), "=r"(m.c[0]), "=r"(m.c[1])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(m.b[0]), "=r"(m.b[1]), "=r"(m.c[0]), "=r"(m.c[1])
                     : "r"(at)
                     : "memory");
    return m;
}

/* ---- products ---- */

/* out[j][i] = g b of rows 4 p + j: g[e] is split, of the own row 2r + e; b turned. */
__device__ __forceinline__ void kr_outer4(int p, int r, const unsigned (&g)[2],
                                          const unsigned (&b)[2], float (&out)[4][4]) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
        unsigned a0 = r == 2 * p ? g[e] : 0, a1 = r == 2 * p + 1 ? g[e] : 0;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float d[4] = {0, 0, 0, 0};
            kr_mma8(d, a0, a1, __byte_perm(b[half], 0, e ? 0x3232 : 0x1010));
            out[e][2 * half] = d[0], out[e][2 * half + 1] = d[1];
            out[2 + e][2 * half] = d[2], out[2 + e][2 * half + 1] = d[3];
        }
    }
}

/* The sums over states of h c of rows 2p and 2p + 1, to the lane whose own they are. */
__device__ __forceinline__ void kr_dot2(int p, int r, const float (&h0)[4], const float (&h1)[4],
                                        const unsigned (&c)[2], float (&own)[2]) {
    float d[4] = {0, 0, 0, 0};
#pragma unroll
    for (int half = 0; half < 2; half++)
        kr_mma8_tf32(d, h0[2 * half], h1[2 * half], h0[2 * half + 1], h1[2 * half + 1],
                     __uint_as_float(c[half] << 16), __uint_as_float(c[half] & 0xffff0000u));
    if (r == p) own[0] = d[0], own[1] = d[3];
}
/* The same of states in bf16. */
__device__ __forceinline__ void kr_dot2(int p, int r, const unsigned (&h0)[2],
                                        const unsigned (&h1)[2], const unsigned (&c)[2],
                                        float (&own)[2]) {
    float d[4] = {0, 0, 0, 0};
    kr_mma16(d, h0[0], h1[0], h0[1], h1[1], c[0], c[1]);
    if (r == p) own[0] = d[0], own[1] = d[3];
}

/* sum += the sums over channels of w h of rows 2p and 2p + 1: states q and q + 8, rows 2r and
 * 2r + 1 of 8. w: row q, channels 2r, 2r + 1. */
__device__ __forceinline__ void kr_gather2(int p, int q, const unsigned (&h0)[2],
                                           const unsigned (&h1)[2], unsigned w, float (&sum)[4]) {
    kr_mma16(sum, kr_turn(h0[0]), kr_turn(h0[1]), kr_turn(h1[0]), kr_turn(h1[1]),
             q == 2 * p ? w : 0, q == 2 * p + 1 ? w : 0);
}

/* ---- copies ---- */

/* Steps of a piece are counted in an int here: registers are dear.
 *
 * kr_tile_load for aligned rows: a thread has one piece of each array, at the same place in every
 * tile. It stores the same pieces, so that between a store and the next copy to that place no
 * barrier is needed. */
struct kr_piece {
    int t, c; /* row and channel in a tile */
    __device__ __forceinline__ kr_piece() : t(threadIdx.x / 4), c(threadIdx.x % 4 * 8) {}
};
template <typename T>
__device__ __forceinline__ bool kr_moves_fast(const kr_scan_in<T> &g) {
    return g.align >= 8 && g.align_bc >= 8 && g.N == 16;
}

/* Copies the tile of which the first step is `from`; and where segments start. */
template <class K, typename T>
__device__ __forceinline__ void kr_move(const kr_scan_in<T> &g, const K &k, const kr_scan_span &p,
                                        int from, int stage, int64_t first) {
    static_assert(K::ROWS == 32 && K::CHANNELS == 32, "one piece a thread");
    if (threadIdx.x < K::ROWS) {
        int t = from + (int)threadIdx.x;
        bool starts = g.reset && t < p.steps && kr_starts(g, p, t);
        k.cut[stage * K::ROWS + threadIdx.x] = starts ? KR_STOP : 0;
    }
    if (!kr_moves_fast(g)) {
        kr_tile_load(g, k, p, from, stage, first);
        return;
    }
    kr_piece m;
    int left = min((int)p.steps - from, K::ROWS), i = threadIdx.x % 64;
    int64_t row = p.row + p.dir * (from + m.t), row_bc = p.row + p.dir * (from + i / 2);
    bool in = first + m.c < g.E && m.t < left;
#pragma unroll
    for (int a = 0; a < K::ARRAYS; a++)
        if (g.tile[a].p)
            kr_copy_async(k.at(stage, a, m.t) + m.c,
                          g.tile[a].p + row * g.tile[a].row + first + m.c, in);
    const T *bc = threadIdx.x < 64 ? g.b.p + row_bc * g.b.row : g.c.p + row_bc * g.c.row;
    kr_copy_async(k.bc_at(stage, 0, 0) + threadIdx.x * 8, bc + i % 2 * 8, i / 2 < left);
    kr_copy_commit();
}

/* ---- tiles ---- */

/* What a warp's lanes hand over, [8 channels][PITCH rows] each: delta; delta x, split; and in
 * the backward pass du, the slope of delta and gate_z. */
enum { KR_OWN_DELTA, KR_OWN_GX, KR_OWN_DU, KR_OWN_SLOPE, KR_OWN_GATE_Z };

/* Channel l.other of them, from row t on. */
template <class K>
__device__ __forceinline__ float *kr_own(const K &k, const kr_scan_lane &l, int what, int t) {
    return k.own + l.warp * K::OWN + (what * 8 + l.other) * K::PITCH + t;
}
template <class K>
__device__ __forceinline__ void kr_own_put(const K &k, const kr_scan_lane &l, int what, int t,
                                           const float (&v)[2]) {
    *(float2 *)kr_own(k, l, what, t + 2 * l.group) = make_float2(v[0], v[1]);
}
template <class K>
__device__ __forceinline__ void kr_own_get(const K &k, const kr_scan_lane &l, int what, int t,
                                           float (&v)[2]) {
    float2 f = *(const float2 *)kr_own(k, l, what, t + 2 * l.group);
    v[0] = f.x, v[1] = f.y;
}

/* dt_bias and D, once; a barrier follows. */
template <typename T, class K>
__device__ __forceinline__ void kr_keep_channels(const kr_scan_in<T> &g, const K &k,
                                                 int64_t first) {
    int c = threadIdx.x;
    if (c >= K::CHANNELS) return;
    k.bias[c] = g.bias && first + c < g.E ? g.bias[first + c] : 0;
    k.skip[c] = first + c < g.E ? kr_load_D(g, first + c) : 0;
}

/* The pairs of a whole tile: softplus and gate are long chains, so all at a time, and all loads
 * come first. */
template <typename T, class K>
__device__ __forceinline__ void kr_prepare_tile(const kr_scan_in<T> &g, const K &k,
                                                const kr_scan_lane &l, int stage, int left) {
    const float bias = k.bias[l.c];
    const int PAIRS = K::ROWS / 4, ARRAYS = K::ARRAYS == 3 ? 2 : K::ARRAYS;
    float v[ARRAYS][PAIRS]; /* in the forward pass the gate comes last */
#pragma unroll
    for (int i = 0; i < PAIRS; i++)
#pragma unroll
        for (int a = 0; a < ARRAYS; a++)
            v[a][i] = kr_load(k.at(stage, a, i / 2 * 8 + i % 2 + 2 * l.group) + l.c);
    kr_pairs own[PAIRS / 2];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        int t = i / 2 * 8 + i % 2 + 2 * l.group;
        kr_pairs &to = own[i / 2];
        kr_pair_delta(g, v[0][i], v[1][i] + bias, t < left && l.alive, i % 2, to);
        to.gx[i % 2] = __uint_as_float(kr_split(to.gx[i % 2]));
        if (ARRAYS == 4) kr_pair_gate(g, v[2][i], g.tile[3].p ? v[3][i] : 0, i % 2, to);
    }
#pragma unroll
    for (int s = 0; s < PAIRS / 2; s++) {
        kr_own_put(k, l, KR_OWN_DELTA, 8 * s, own[s].delta);
        kr_own_put(k, l, KR_OWN_GX, 8 * s, own[s].gx);
        if (ARRAYS < 4) continue;
        kr_own_put(k, l, KR_OWN_DU, 8 * s, own[s].du);
        kr_own_put(k, l, KR_OWN_SLOPE, 8 * s, own[s].slope);
        kr_own_put(k, l, KR_OWN_GATE_Z, 8 * s, own[s].gate_z);
    }
    __syncwarp();
}

template <class K>
__device__ __forceinline__ void kr_deltas(const K &k, const kr_scan_lane &l, int t0,
                                          float (&delta)[8]) {
    const float *at = kr_own(k, l, KR_OWN_DELTA, t0);
    *(float4 *)delta = *(const float4 *)at;
    *(float4 *)(delta + 4) = *(const float4 *)(at + 4);
}

/* Decays of 8 rows; 0 where a segment starts. */
template <class K>
__device__ __forceinline__ void kr_decays(const K &k, int stage, int t0, const float (&delta)[8],
                                          const float (&A)[4], float (&a)[8][4]) {
    float cut[8];
    *(float4 *)cut = *(const float4 *)(k.cut + stage * K::ROWS + t0);
    *(float4 *)(cut + 4) = *(const float4 *)(k.cut + stage * K::ROWS + t0 + 4);
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) a[j][i] = kr_exp2(delta[j] * A[i] + cut[j]);
}

#endif
