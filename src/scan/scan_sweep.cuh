/* scan_sweep.cuh - where time is cut: what each piece of a sequence does to what comes into it, and
 * the chain through the pieces. Also the states that the backward pass starts from.
 *
 * The state behind a piece is linear in the state in front of it, h_end = P h + e, with P the
 * product of its decays: all pieces find e and P from a zero state at the same time (sweep), one
 * short loop chains them (fold), and then all pieces know the state in front of them. The gradient
 * goes the same way from behind: L in front of a piece is P L + f. */
#ifndef KR_SCAN_SWEEP_CUH
#define KR_SCAN_SWEEP_CUH

#include "scan/scan_mma.cuh"

/* What a sweep keeps. */
enum kr_sweep {
    KR_SWEEP_STARTS, /* sequences are whole: the state in front of every step of 8 rows */
    KR_SWEEP_ENDS,   /* e and P of each piece */
    KR_SWEEP_BOTH    /* e, P, f; and the states in front of the steps, from a zero state */
};

/* In scratch: kr_scan_gpu_cut says what and how much. */
struct kr_scan_pieces {
    float *starts, *sums, *ends, *backs, *decays;
    bool cut; /* in time */
};

/* What a lane carries: its state; the product of decays; the gradient in front of the piece; the
 * sum of delta, and of what joins it in the exponent. */
struct kr_sweep_state {
    float h[4], p[4], back[4], sum, stop;
};

template <kr_sweep KEEP, class K>
__device__ __forceinline__ void kr_sweep_step(const K &k, const kr_scan_lane &l, int t0,
                                              const float (&A)[4], kr_sweep_state &w) {
    const bool BOTH = KEEP == KR_SWEEP_BOTH;
    const float *bs = k.b + t0 * k.padded() + l.n, *cs = k.c + t0 * k.padded() + l.n;
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float delta[4], gx[4], cut[4], du[4] = {};
        kr_hand(k, l, KR_DELTA, e, delta);
        kr_hand(k, l, KR_GAIN_X, e, gx);
        kr_hand(k, l, KR_CUT, e, cut);
        if (BOTH) kr_hand(k, l, KR_DU, e, du);
#pragma unroll
        for (int q = 0; q < 4; q++) {
            int j = e * 4 + q;
            float b[4], c[4];
            kr_get4(bs + j * k.padded(), b);
            if (BOTH) kr_get4(cs + j * k.padded(), c);
            if (KEEP != KR_SWEEP_STARTS) w.sum += delta[q];
            if (KEEP != KR_SWEEP_STARTS) w.stop += cut[q];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float a = kr_exp2(delta[q] * A[i] + cut[q]);
                w.h[i] = a * w.h[i] + gx[q] * b[i];
                if (BOTH) w.p[i] *= a;
                if (BOTH) w.back[i] += w.p[i] * (du[q] * c[i]);
            }
        }
    }
}

template <kr_sweep KEEP, class K>
__device__ __forceinline__ void kr_keep_start(const K &k, const kr_scan_lane &l, int64_t E,
                                              const kr_scan_pieces &out, int64_t step,
                                              const kr_sweep_state &w) {
    if (!l.alive || KEEP == KR_SWEEP_ENDS) return;
    kr_put4(out.starts + (step * E + l.channel) * k.padded() + l.n, w.h);
    if (KEEP == KR_SWEEP_BOTH && l.n == 0) out.sums[step * E + l.channel] = w.stop < 0 ? -1 : w.sum;
}

/* ---- on the tensor units ---- */

/* One step from its decays. */
template <kr_sweep KEEP, class K>
__device__ __forceinline__ void kr_sweep_step_mma(const K &k, const kr_scan_lane &l, int stage,
                                                  int t0, const float (&a)[8][4],
                                                  kr_sweep_state &w) {
    const bool BOTH = KEEP == KR_SWEEP_BOTH;
    float own[2];
    kr_rows8 rows = kr_rows_of<true>(k, l, stage, t0);
    kr_own_get(k, l, KR_OWN_GX, t0, own);
    const unsigned gx[2] = {__float_as_uint(own[0]), __float_as_uint(own[1])};
    if (BOTH) kr_own_get(k, l, KR_OWN_DU, t0, own);
    const unsigned du[2] = {kr_split(own[0]), kr_split(own[1])};
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float in[4][4], read[4][4];
        kr_outer4(e, l.group, gx, rows.b, in);
        if (BOTH) kr_outer4(e, l.group, du, rows.c, read);
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                w.h[i] = a[e * 4 + j][i] * w.h[i] + in[j][i];
                if (BOTH) w.p[i] *= a[e * 4 + j][i];
                if (BOTH) w.back[i] += w.p[i] * read[j][i];
            }
    }
}

/* A tile, as tile_mma in scan_seq.cu. step: number of its first one. */
template <kr_sweep KEEP, typename T, class K>
__device__ __forceinline__ void kr_sweep_tile_mma(const kr_scan_in<T> &g, const K &k,
                                                  const kr_scan_lane &l, int stage, int left,
                                                  const float (&A)[4], const kr_scan_pieces &out,
                                                  int64_t step, kr_sweep_state &w) {
    const int STEPS = K::ROWS / 8;
    float a[2][8][4], delta[8];
    kr_prepare_tile(g, k, l, stage, left);
    kr_deltas(k, l, 0, delta);
    kr_decays(k, stage, 0, delta, A, a[0]);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        if (8 * s < left) kr_keep_start<KEEP>(k, l, g.E, out, step + s, w);
        if (KEEP != KR_SWEEP_STARTS)
#pragma unroll
            for (int j = 0; j < 8; j++)
                w.sum += delta[j], w.stop += k.cut[stage * K::ROWS + 8 * s + j];
        if (s + 1 < STEPS) kr_deltas(k, l, 8 * s + 8, delta);
        if (s + 1 < STEPS) kr_decays(k, stage, 8 * s + 8, delta, A, a[(s + 1) % 2]);
        kr_sweep_step_mma<KEEP>(k, l, stage, 8 * s, a[s % 2], w);
    }
}

/* The rows of a piece. */
template <kr_sweep KEEP, typename T, class K>
__device__ __forceinline__ void kr_sweep_tiles_mma(const kr_scan_in<T> &g, const K &k,
                                                   const kr_scan_span &p, const kr_scan_lane &l,
                                                   const kr_scan_pieces &out, int64_t first,
                                                   const float (&A)[4], kr_sweep_state &w) {
    kr_keep_channels(g, k, first);
    if (p.steps > 0) kr_move(g, k, p, 0, 0, first);
    int stage = 0;
    for (int from = 0; from < p.steps; from += K::ROWS, stage ^= 1) {
        kr_copy_wait();
        __syncthreads();
        if (from + K::ROWS < p.steps) kr_move(g, k, p, from + K::ROWS, stage ^ 1, first);
        int left = min((int)p.steps - from, K::ROWS);
        kr_sweep_tile_mma<KEEP>(g, k, l, stage, left, A, out, p.start + from / 8, w);
    }
}
template <kr_sweep KEEP, typename T, class K>
__device__ __forceinline__ void kr_sweep_tiles(const kr_scan_in<T> &g, const K &k,
                                               const kr_scan_span &p, const kr_scan_lane &l,
                                               const kr_scan_pieces &out, int64_t first,
                                               const float (&A)[4], float bias, kr_sweep_state &w) {
    if (p.steps > 0) kr_tile_load(g, k, p, 0, 0, first);
    int stage = 0;
    for (int64_t from = 0; from < p.steps; from += K::ROWS, stage ^= 1) {
        kr_copy_wait();
        __syncthreads();
        kr_tile_convert(g, k, p, from, stage);
        __syncthreads();
        if (from + K::ROWS < p.steps) kr_tile_load(g, k, p, from + K::ROWS, stage ^ 1, first);
        int left = (int)min(p.steps - from, (int64_t)K::ROWS);
#pragma unroll 1
        for (int t0 = 0; t0 < left; t0 += 8) {
            kr_pairs own;
            kr_prepare_step(g, k, l, stage, t0, left, bias, own);
            kr_keep_start<KEEP>(k, l, g.E, out, p.start + (from + t0) / 8, w);
            kr_sweep_step<KEEP>(k, l, t0, A, w);
        }
    }
}

template <kr_sweep KEEP, typename T, class K>
static __global__ void __launch_bounds__(K::WIDE ? 512 : K::CHANNELS * 4, K::WIDE ? 1 : 3)
    kr_scan_sweep(const kr_scan_in<T> g, const kr_scan_pieces out, int parts) {
    extern __shared__ float4 memory[];
    K k;
    k.carve((char *)memory, g.octets, g.blocks, 0);
    int64_t first = (int64_t)(blockIdx.x % parts) * k.channels();
    __shared__ kr_scan_span p;
    kr_span_share(g, blockIdx.x / parts, p);
    kr_scan_lane l = kr_lane<K>(g, first);
    kr_sweep_state w = {{0, 0, 0, 0}, {1, 1, 1, 1}, {0, 0, 0, 0}, 0, 0};
    float A[4], bias = l.alive && g.bias ? g.bias[l.channel] : 0;
    kr_load_A(g, l, A);
    if (KEEP == KR_SWEEP_STARTS)
        kr_load_state(g, l, g.state ? g.state + p.slot * g.state_slot : NULL, w.h);
    if constexpr (K::MMA)
        kr_sweep_tiles_mma<KEEP>(g, k, p, l, out, first, A, w);
    else
        kr_sweep_tiles<KEEP>(g, k, p, l, out, first, A, bias, w);
    if (KEEP == KR_SWEEP_STARTS || !l.alive || p.steps == 0) return;
    int64_t at = (p.piece * g.E + l.channel) * k.padded() + l.n;
    if (KEEP == KR_SWEEP_ENDS)
        for (int i = 0; i < 4; i++) w.p[i] = kr_exp2(A[i] * w.sum + w.stop);
    kr_put4(out.ends + at, w.h);
    kr_put4(out.decays + at, w.p);
    if (KEEP == KR_SWEEP_BOTH) kr_put4(out.backs + at, w.back);
}

/* What a piece adds to the state, e, on its way from the last rows to the first: a state passes
 * through `q` to the end of the piece. */
struct kr_ends_state {
    float e[4], q[4], sum, stop;
};

template <typename T, class K>
__device__ __forceinline__ void kr_ends_tile(const kr_scan_in<T> &g, const K &k,
                                             const kr_scan_lane &l, int stage, int left,
                                             const float (&A)[4], kr_ends_state &w) {
    const int STEPS = K::ROWS / 8;
    float a[2][8][4], delta[2][8];
    kr_prepare_tile(g, k, l, stage, left);
    kr_deltas(k, l, K::ROWS - 8, delta[0]);
    kr_decays(k, stage, K::ROWS - 8, delta[0], A, a[0]);
#pragma unroll
    for (int s = STEPS - 1, now = 0; s >= 0; s--, now ^= 1) {
        kr_sweep_state in = {};
        if (s > 0) kr_deltas(k, l, 8 * s - 8, delta[now ^ 1]);
        if (s > 0) kr_decays(k, stage, 8 * s - 8, delta[now ^ 1], A, a[now ^ 1]);
        kr_sweep_step_mma<KR_SWEEP_ENDS>(k, l, stage, 8 * s, a[now], in);
#pragma unroll
        for (int j = 0; j < 8; j++)
            w.sum += delta[now][j], w.stop += k.cut[stage * K::ROWS + 8 * s + j];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w.e[i] += w.q[i] * in.h[i];
            w.q[i] = kr_exp2(A[i] * w.sum + w.stop);
        }
    }
}

/* KR_SWEEP_ENDS on the tensor units. Rows from which nothing reaches the end of the piece, since
 * every product of decays is 0 in f32, are not looked at: long pieces end early. */
template <typename T, class K>
static __global__ void __launch_bounds__(K::CHANNELS * 4, 3)
    kr_scan_ends(const kr_scan_in<T> g, const kr_scan_pieces out, int parts) {
    extern __shared__ float4 memory[];
    K k;
    k.carve((char *)memory, g.octets, g.blocks, 0);
    int64_t first = (int64_t)(blockIdx.x % parts) * k.channels();
    __shared__ kr_scan_span p;
    kr_span_share(g, blockIdx.x / parts, p);
    kr_scan_lane l = kr_lane<K>(g, first);
    kr_ends_state w = {{0, 0, 0, 0}, {1, 1, 1, 1}, 0, 0};
    float A[4];
    kr_keep_channels(g, k, first);
    kr_load_A(g, l, A);
    int from = (int)(p.steps - 1) / K::ROWS * K::ROWS;
    if (p.steps > 0) kr_move(g, k, p, from, 0, first);
    bool on = true;
    for (int stage = 0; p.steps > 0 && from >= 0; from -= K::ROWS, stage ^= 1) {
        kr_copy_wait();
        if (!__syncthreads_or(on)) break;
        if (from > 0) kr_move(g, k, p, from - K::ROWS, stage ^ 1, first);
        if (!__any_sync(0xffffffffu, on)) continue;
        kr_ends_tile(g, k, l, stage, min((int)p.steps - from, K::ROWS), A, w);
        on = false;
        for (int i = 0; i < 4; i++) on |= l.alive && kr_state_of(l, i) < g.N && w.q[i] != 0;
    }
    if (!l.alive || p.steps == 0) return;
    int64_t at = (p.piece * g.E + l.channel) * k.padded() + l.n;
    kr_put4(out.ends + at, w.e);
    kr_put4(out.decays + at, w.q);
}

/* Replaces what each piece adds by what comes into it; v0: into the first one, from the last one on
 * when `back`. */
static __device__ __forceinline__ void kr_chain(float *adds, const float *decays, int64_t size,
                                                int64_t pieces, bool back, float (&v0)[4]) {
    for (int64_t first = 0; first < pieces; first += 8) {
        float v[8][4], p[8][4]; /* loads in flight together */
#pragma unroll
        for (int k = 0; k < 8; k++) {
            int64_t piece = min(first + k, pieces - 1), at = back ? pieces - 1 - piece : piece;
            kr_get4(adds + at * size, v[k]);
            kr_get4(decays + at * size, p[k]);
        }
#pragma unroll
        for (int k = 0; k < 8; k++) {
            int64_t piece = first + k, at = back ? pieces - 1 - piece : piece;
            if (piece >= pieces) break;
            kr_put4(adds + at * size, v0);
            for (int n = 0; n < 4; n++) v0[n] = p[k][n] * v0[n] + v[k][n];
        }
    }
}

/* One thread: 4 states of a channel of a sequence through its pieces, forward and (BACK) back. */
template <bool BACK, class K, typename T>
static __device__ void kr_fold_one(const kr_scan_in<T> &g, const kr_scan_pieces &out, int64_t i,
                                   int64_t s) {
    int quads = g.blocks * 4;
    kr_scan_lane l;
    l.channel = i / quads;
    kr_lane_states<K::MMA>(l, (int)(i % quads));
    l.alive = true;
    const int64_t *seq = g.seqs + s * g.seqs_row;
    int64_t pieces = (seq[1] + g.chunk - 1) / g.chunk, size = g.E * quads * 4;
    int64_t at = (seq[0] / g.chunk + s) * size + i * 4;
    float v[4];
    kr_load_state(g, l, g.state ? g.state + seq[2] * g.state_slot : NULL, v);
    kr_chain(out.ends + at, out.decays + at, size, pieces, false, v);
    if (!BACK) return;
    kr_load_state(g, l, g.dstate ? g.dstate + seq[2] * g.dstate_slot : NULL, v);
    kr_chain(out.backs + at, out.decays + at, size, pieces, true, v);
}

/* Sequences go round the blocks of y. */
template <bool BACK, class K, typename T>
static __global__ void kr_scan_fold(const kr_scan_in<T> g, const kr_scan_pieces out) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (int64_t s = blockIdx.y; i < g.E * g.blocks * 4 && s < g.S; s += gridDim.y)
        kr_fold_one<BACK, K, T>(g, out, i, s);
}

/* Whether the card has the shared memory of a block whose kernel takes `sums` more floats. */
template <class K>
static bool kr_scan_has_room(int octets, int blocks, int sums) {
    K k;
    size_t bytes = k.carve((char *)NULL, octets, blocks, sums) + sizeof(kr_scan_span);
    return bytes <= (size_t)kr_cuda_shared();
}

/* A kernel over pieces x parts blocks of threads, with `sums` more floats of shared memory each. */
template <class K, typename F, typename T, typename O>
static void kr_scan_launch(F kernel, const kr_scan_in<T> &g, const O &out, int64_t parts,
                           int64_t pieces, int sums) {
    K k;
    size_t bytes = k.carve((char *)NULL, g.octets, g.blocks, sums);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    kernel<<<kr_blocks(pieces * parts, 1), k.threads(), bytes, kr_cuda_stream()>>>(g, out,
                                                                                   (int)parts);
}

template <bool BACK, class K, typename T>
static void kr_scan_fold_launch(const kr_scan_in<T> &g, const kr_scan_pieces &out) {
    dim3 grid(kr_blocks(g.E * g.blocks * 4, 64), (unsigned)(g.S < 32768 ? g.S : 32768));
    kr_scan_fold<BACK, K, T><<<grid, 64, 0, kr_cuda_stream()>>>(g, out);
}

#endif
