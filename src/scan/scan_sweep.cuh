/* scan_sweep.cuh - where time is cut: what each piece of a sequence does to what comes into it, and
 * the chain through the pieces. Also the states that the backward pass starts from.
 *
 * The state behind a piece is linear in the state in front of it, h_end = P h + e, with P the
 * product of its decays: all pieces find e and P from a zero state at the same time (sweep), one
 * short loop chains them (fold), and then all pieces know the state in front of them. The gradient
 * goes the same way from behind: L in front of a piece is P L + f. */
#ifndef KR_SCAN_SWEEP_CUH
#define KR_SCAN_SWEEP_CUH

#include "scan/scan_gpu.cuh"

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

/* Of what a sweep hands over besides: du; and for the lane itself x, the slope of delta, dy times
 * the slope of the gate. */
enum { KR_DU = KR_HANDED, KR_X, KR_SLOPE, KR_GATE_Z };

/* Hands over the pairs that are the lane's own: rows group and 4 + group of a step. */
template <typename T, class K>
__device__ __forceinline__ void kr_prepare(const kr_scan_in<T> &g, const K &k,
                                           const kr_scan_lane &l, int stage, int t0, int left,
                                           float bias) {
    float *mine = k.own + l.warp * K::OWN + l.other * 4 + l.group;
    __syncwarp();
#pragma unroll
    for (int e = 0; e < 2; e++, mine += 32) {
        int t = t0 + e * 4 + l.group;
        bool in = t < left && l.alive;
        float slope, delta = kr_delta(g, kr_load(k.at(stage, 1, t) + l.c) + bias, &slope);
        float x = kr_load(k.at(stage, 0, t) + l.c);
        mine[KR_DELTA * 64] = in ? delta : 0;
        mine[KR_CUT * 64] = k.reset[t] ? KR_STOP : 0;
        mine[KR_GAIN_X * 64] = in ? delta * x : 0;
        if (K::ARRAYS < 4) continue;
        float z = kr_load(k.at(stage, 2, t) + l.c), v = kr_sigmoid<T>(z);
        float dy = kr_load(k.at(stage, 3, t) + l.c);
        bool none = !in || !g.tile[3].p;
        mine[KR_DU * 64] = none ? 0 : g.tile[2].p ? dy * z * v : dy;
        mine[KR_GATE_Z * 64] = none ? 0 : dy * v * (1 + z * (1 - v));
        mine[KR_X * 64] = in ? x : 0;
        mine[KR_SLOPE * 64] = in ? slope : 0;
    }
    __syncwarp();
}

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

template <kr_sweep KEEP, typename T, class K>
static __global__ void __launch_bounds__(K::WIDE ? 512 : K::CHANNELS * 4)
    kr_scan_sweep(const kr_scan_in<T> g, const kr_scan_pieces out, int parts) {
    extern __shared__ float4 memory[];
    K k;
    k.carve((char *)memory, g.octets, g.blocks, 0);
    int64_t first = (int64_t)(blockIdx.x % parts) * k.channels();
    kr_scan_span p = kr_span(g, blockIdx.x / parts);
    kr_scan_lane l = kr_lane<K>(g, first);
    kr_sweep_state w = {{0, 0, 0, 0}, {1, 1, 1, 1}, {0, 0, 0, 0}, 0, 0};
    float A[4], bias = l.alive && g.bias ? g.bias[l.channel] : 0;
    kr_load_A(g, l, A);
    if (KEEP == KR_SWEEP_STARTS)
        kr_load_state(g, l, g.state ? g.state + p.slot * g.state_slot : NULL, w.h);
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
            kr_prepare(g, k, l, stage, t0, left, bias);
            kr_keep_start<KEEP>(k, l, g.E, out, p.start + (from + t0) / 8, w);
            kr_sweep_step<KEEP>(k, l, t0, A, w);
        }
    }
    if (KEEP == KR_SWEEP_STARTS || !l.alive || p.steps == 0) return;
    int64_t at = (p.piece * g.E + l.channel) * k.padded() + l.n;
    if (KEEP == KR_SWEEP_ENDS)
        for (int i = 0; i < 4; i++) w.p[i] = kr_exp2(A[i] * w.sum + w.stop);
    kr_put4(out.ends + at, w.h);
    kr_put4(out.decays + at, w.p);
    if (KEEP == KR_SWEEP_BOTH) kr_put4(out.backs + at, w.back);
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
template <bool BACK, typename T>
static __global__ void kr_scan_fold(const kr_scan_in<T> g, const kr_scan_pieces out) {
    int quads = g.blocks * 4;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, s = blockIdx.y;
    if (i >= g.E * quads) return;
    kr_scan_lane l;
    l.channel = i / quads;
    l.n = (int)(i % quads) * 4;
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

/* A kernel over pieces x parts blocks of threads, with `sums` more floats of shared memory each. */
template <class K, typename F, typename T, typename O>
static void kr_scan_launch(F kernel, const kr_scan_in<T> &g, const O &out, int64_t parts,
                           int64_t pieces, int sums) {
    K k;
    size_t bytes = k.carve((char *)NULL, g.octets, g.blocks, sums);
    /* the launch reports what this could not allow */
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    kernel<<<kr_blocks(pieces * parts, 1), k.threads(), bytes, kr_cuda_stream()>>>(g, out,
                                                                                   (int)parts);
}

template <bool BACK, typename T>
static void kr_scan_fold_launch(const kr_scan_in<T> &g, const kr_scan_pieces &out) {
    dim3 grid(kr_blocks(g.E * g.blocks * 4, 64), (unsigned)g.S);
    kr_scan_fold<BACK, T><<<grid, 64, 0, kr_cuda_stream()>>>(g, out);
}

#endif
