/* scan_seq.cu - the recurrence on the GPU, forward. scan_gpu.cuh says how the work lies in a warp;
 * README.md why.
 *
 *   h_t = exp(delta_t A) h_{t-1} + delta_t x_t b_t      y_t = (h_t . c_t + D x_t) silu(z_t)
 *
 * A block of threads takes some channels of one sequence through time, or, where channels are few,
 * of a piece of one: scan_sweep.cuh finds the states in front of the pieces. */
#include "scan/scan_sweep.cuh"

namespace {

template <typename T>
struct forward_out {
    T *y;
    int64_t y_row;
    float *state;
    int64_t state_slot;
    int align;
    bool accumulate;
    kr_scan_pieces pieces;
};

/* Sums over the blocks of states, which are in different warps; in the warps of block 0. */
template <class K>
__device__ __forceinline__ void add_blocks(const K &k, const kr_scan_lane &l, int parity, int e,
                                           float &y) {
    float *at = k.sums + ((parity * 2 + e) * (k.threads() / 32) + l.warp) * 32 + l.lane;
    at[0] = y;
    __syncthreads();
    for (int i = 1; i < k.blocks && l.block == 0; i++) y += at[i * 32];
}

/* One step of 8 rows. Results replace z in the tile. */
template <typename T, class K>
__device__ __forceinline__ void step(const kr_scan_in<T> &g, const K &k, const kr_scan_lane &l,
                                     int stage, int t0, int left, const float (&A)[4], float D,
                                     float bias, float (&h)[4]) {
    kr_pairs own;
    kr_prepare_step(g, k, l, stage, t0, left, bias, own);
    const float *bs = k.b + t0 * k.padded() + l.n, *cs = k.c + t0 * k.padded() + l.n;
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float delta[4], gx[4], cut[4], y[4];
        kr_hand(k, l, KR_DELTA, e, delta);
        kr_hand(k, l, KR_GAIN_X, e, gx);
        kr_hand(k, l, KR_CUT, e, cut);
#pragma unroll
        for (int q = 0; q < 4; q++) {
            float b[4], c[4];
            kr_get4(bs + (e * 4 + q) * k.padded(), b);
            kr_get4(cs + (e * 4 + q) * k.padded(), c);
#pragma unroll
            for (int i = 0; i < 4; i++)
                h[i] = kr_exp2(delta[q] * A[i] + cut[q]) * h[i] + gx[q] * b[i];
            y[q] = h[0] * c[0] + h[1] * c[1] + h[2] * c[2] + h[3] * c[3];
        }
        float mine = kr_scatter4(y[0], y[1], y[2], y[3], l.group);
        if (K::WIDE) add_blocks(k, l, t0 / 8 & 1, e, mine);
        if (!K::WIDE || l.block == 0)
            kr_store(k.at(stage, 2, t0 + e * 4 + l.group) + l.c,
                     (mine + D * own.x[e]) * own.gate[e]);
    }
}

/* ---- on the tensor units ---- */

/* One step from its decays: the state, and h . c of the lane's own pairs. */
template <class K>
__device__ __forceinline__ void step_mma(const K &k, const kr_scan_lane &l, int stage, int t0,
                                         const float (&a)[8][4], float (&h)[4], float (&y)[2]) {
    float own[2];
    kr_rows8 rows = kr_rows_of<false>(k, l, stage, t0), turned = kr_rows_of<true>(k, l, stage, t0);
    kr_own_get(k, l, KR_OWN_GX, t0, own);
    const unsigned gx[2] = {__float_as_uint(own[0]), __float_as_uint(own[1])};
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float in[4][4];
        kr_outer4(e, l.group, gx, turned.b, in);
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) in[j][i] += a[e * 4 + j][i] * (j ? in[j - 1][i] : h[i]);
        kr_dot2(2 * e, l.group, in[0], in[1], rows.c, y);
        kr_dot2(2 * e + 1, l.group, in[2], in[3], rows.c, y);
#pragma unroll
        for (int i = 0; i < 4; i++) h[i] = in[3][i];
    }
}

/* A tile. Decays of the next step are on their way while one is done. */
template <typename T, class K>
__device__ __forceinline__ void tile_mma(const kr_scan_in<T> &g, const K &k, const kr_scan_lane &l,
                                         int stage, int left, const float (&A)[4], float (&h)[4]) {
    const int STEPS = K::ROWS / 8;
    float a[2][8][4], y[STEPS][2], delta[8];
    kr_prepare_tile(g, k, l, stage, left);
    kr_deltas(k, l, 0, delta);
    kr_decays(k, stage, 0, delta, A, a[0]);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        if (s + 1 < STEPS) kr_deltas(k, l, 8 * s + 8, delta);
        if (s + 1 < STEPS) kr_decays(k, stage, 8 * s + 8, delta, A, a[(s + 1) % 2]);
        step_mma(k, l, stage, 8 * s, a[s % 2], h, y[s]);
    }
    float x[STEPS][2], z[STEPS][2];
#pragma unroll
    for (int i = 0; i < STEPS * 2; i++) {
        int t = i / 2 * 8 + 2 * l.group + i % 2;
        x[i / 2][i % 2] = kr_load(k.at(stage, 0, t) + l.c);
        z[i / 2][i % 2] = kr_load(k.at(stage, 2, t) + l.c);
    }
#pragma unroll
    for (int i = 0; i < STEPS * 2; i++) {
        kr_pairs own;
        kr_pair_gate(g, z[i / 2][i % 2], 0, 0, own);
        z[i / 2][i % 2] = (y[i / 2][i % 2] + k.skip[l.c] * x[i / 2][i % 2]) * own.gate[0];
    }
#pragma unroll
    for (int i = 0; i < STEPS * 2; i++)
        kr_store(k.at(stage, 2, i / 2 * 8 + 2 * l.group + i % 2) + l.c, z[i / 2][i % 2]);
}

/* The state in front of the piece. */
template <typename T, class K>
__device__ __forceinline__ void first_state(const kr_scan_in<T> &g, const K &k,
                                            const kr_scan_span &p, const kr_scan_lane &l,
                                            const forward_out<T> &out, float (&h)[4]) {
    kr_load_state(g, l, g.state && p.exists ? g.state + p.slot * g.state_slot : NULL, h);
    if (out.pieces.cut && p.steps > 0 && l.alive)
        kr_get4(out.pieces.ends + (p.piece * g.E + l.channel) * k.padded() + l.n, h);
}

/* The rows of the piece. */
template <typename T, class K>
__device__ __forceinline__ void tiles(const kr_scan_in<T> &g, const K &k, const kr_scan_span &p,
                                      const kr_scan_lane &l, const forward_out<T> &out,
                                      int64_t first, const float (&A)[4], float D, float bias,
                                      float (&h)[4]) {
    if (p.steps > 0) kr_tile_load(g, k, p, 0, 0, first);
    int stage = 0;
    for (int64_t from = 0;; from += K::ROWS, stage ^= 1) {
        kr_copy_wait();
        __syncthreads();
        if (from > 0)
            kr_tile_store(g, k, p, from - K::ROWS, stage ^ 1, 2, out.y, out.y_row, first, out.align,
                          out.accumulate);
        if (from >= p.steps) break;
        kr_tile_convert(g, k, p, from, stage);
        __syncthreads();
        if (from + K::ROWS < p.steps) kr_tile_load(g, k, p, from + K::ROWS, stage ^ 1, first);
        int left = (int)min(p.steps - from, (int64_t)K::ROWS);
#pragma unroll 1
        for (int t0 = 0; t0 < left; t0 += 8) step(g, k, l, stage, t0, left, A, D, bias, h);
    }
}

/* The same on the tensor units. */
template <typename T, class K>
__device__ __forceinline__ void tiles_mma(const kr_scan_in<T> &g, const K &k, const kr_scan_span &p,
                                          const kr_scan_lane &l, const forward_out<T> &out,
                                          int64_t first, const float (&A)[4], float (&h)[4]) {
    kr_keep_channels(g, k, first);
    const bool fast = kr_moves_fast(g) && out.align >= 8 && !out.accumulate;
    kr_piece m;
    if (p.steps > 0) kr_move(g, k, p, 0, 0, first);
    int stage = 0;
    for (int from = 0;; from += K::ROWS, stage ^= 1) {
        kr_copy_wait();
        __syncthreads();
        const int last = from - K::ROWS;
        if (from > 0 && !fast)
            kr_tile_store(g, k, p, last, stage ^ 1, 2, out.y, out.y_row, first, out.align,
                          out.accumulate);
        else if (from > 0 && first + m.c < g.E && last + m.t < p.steps)
            *(uint4 *)(out.y + (p.row + p.dir * (last + m.t)) * out.y_row + first + m.c) =
                *(const uint4 *)(k.at(stage ^ 1, 2, m.t) + m.c);
        if (from >= p.steps) break;
        if (!fast) __syncthreads();
        if (from + K::ROWS < p.steps) kr_move(g, k, p, from + K::ROWS, stage ^ 1, first);
        int left = min((int)p.steps - from, K::ROWS);
        tile_mma(g, k, l, stage, left, A, h);
    }
}

template <typename T, class K>
__global__ void __launch_bounds__(K::WIDE ? 512 : K::CHANNELS * 4, K::WIDE  ? 1
                                                                   : K::MMA ? 3
                                                                            : 4)
    forward(const kr_scan_in<T> g, const forward_out<T> out, int parts) {
    extern __shared__ float4 memory[];
    K k;
    k.carve((char *)memory, g.octets, g.blocks, 0);
    int64_t first = (int64_t)(blockIdx.x % parts) * k.channels();
    __shared__ kr_scan_span p;
    kr_span_share(g, blockIdx.x / parts, p);
    kr_scan_lane l = kr_lane<K>(g, first);
    float A[4], h[4], D = 0, bias = 0;
    kr_load_A(g, l, A);
    first_state(g, k, p, l, out, h);
    if (l.alive) D = kr_load_D(g, l.channel);
    if (l.alive && g.bias) bias = g.bias[l.channel];
    if constexpr (K::MMA)
        tiles_mma(g, k, p, l, out, first, A, h);
    else
        tiles(g, k, p, l, out, first, A, D, bias, h);
    if (!out.state || !l.alive || !p.exists || !p.last) return;
    for (int i = 0; i < 4; i++) {
        int n = kr_state_of(l, i);
        if (n < g.N) out.state[p.slot * out.state_slot + l.channel * g.N + n] = h[i];
    }
}

/* Floats of shared memory beside the tile's, of warps that have what `octets` and `blocks` say. */
template <int CHANNELS>
int sums_of(int octets, int blocks) {
    return CHANNELS ? 0 : 4 * octets * blocks * 32;
}

template <int ROWS, int CHANNELS, typename T>
void passes(const kr_scan_in<T> &g, const forward_out<T> &out, const kr_scan_gpu_cut &cut) {
    typedef kr_tile<T, ROWS, CHANNELS, 2> two;
    typedef kr_tile<T, ROWS, CHANNELS, 3> three;
    int64_t parts = (g.E + g.octets * 8 - 1) / (g.octets * 8);
    if (out.pieces.cut) {
        if constexpr (two::MMA)
            kr_scan_launch<two>(kr_scan_ends<T, two>, g, out.pieces, parts, cut.pieces, 0);
        else
            kr_scan_launch<two>(kr_scan_sweep<KR_SWEEP_ENDS, T, two>, g, out.pieces, parts,
                                cut.pieces, 0);
        kr_scan_fold_launch<false, two>(g, out.pieces);
    }
    kr_scan_launch<three>(forward<T, three>, g, out, parts, cut.pieces,
                          sums_of<CHANNELS>(g.octets, g.blocks));
}

template <typename T>
void run(const kr_call *c) {
    const kr_tensor *y = &c->out[KR_SCAN_OUT_Y], *state = &c->out[KR_SCAN_OUT_STATE];
    kr_scan_gpu_cut cut;
    kr_scan_gpu_plan(c, false, &cut);
    kr_scan_in<T> g = kr_scan_in_of<T>(c);
    g.chunk = cut.chunk;
    g.octets = cut.octets;
    float *scratch = (float *)c->scratch;
    bool keeps = c->n_out > KR_SCAN_OUT_STATE && state->data;
    forward_out<T> out = {(T *)y->data,
                          y->stride[0],
                          keeps ? (float *)state->data : NULL,
                          keeps ? state->stride[0] : 0,
                          kr_align_of<T>(y->data, y->stride[0], g.E),
                          KR_ACC(c, KR_SCAN_OUT_Y) != 0,
                          {NULL, NULL, scratch + cut.ends, NULL, scratch + cut.decays,
                           cut.chunk <= cut.M}};
    if (g.S == 0 || g.E == 0) return;
    if (keeps && g.S >= g.M && kr_scan_step(c)) return;
    if (g.blocks > 1)
        passes<16, 0>(g, out, cut);
    else
        passes<32, 32>(g, out, cut);
}

/* In its largest kernel. */
template <typename T>
bool has_room(int octets, int blocks) {
    if (blocks > 1)
        return kr_scan_has_room<kr_tile<T, 16, 0, 3>>(octets, blocks, sums_of<0>(octets, blocks));
    return kr_scan_has_room<kr_tile<T, 32, 32, 3>>(octets, blocks, sums_of<32>(octets, blocks));
}

} // namespace

extern "C" bool kr_scan_lanes_has_room(int octets, int blocks, kr_dtype type) {
    return type == KR_BF16 ? has_room<bf16>(octets, blocks) : has_room<float>(octets, blocks);
}

extern "C" void kr_scan_cuda(const kr_call *c) {
    int64_t M = c->in[KR_SCAN_X].shape[0], S = c->in[KR_SCAN_SEQS].shape[0];
    kr_scan_gpu_way way = kr_scan_gpu_pick(c);
    if (way == KR_SCAN_GPU_COMPLEX) return kr_scan_complex_cuda(c);
    if (way == KR_SCAN_GPU_ROWS) return kr_scan_rows_cuda(c);
    if (way == KR_SCAN_GPU_CONV) return kr_scan_conv_cuda(c);
    if (way == KR_SCAN_GPU_LOW) return kr_scan_low_cuda(c);
    if (way == KR_SCAN_GPU_DENSE) return kr_scan_dense_cuda(c);
    if (way == KR_SCAN_GPU_MATRIX)
        return M < KR_MATRIX_STEP * S ? kr_scan_matrix_step_cuda(c) : kr_scan_matrix_cuda(c);
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
