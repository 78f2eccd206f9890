/* scan_ssd.cu - Mamba-2's recurrence on the GPU with all chunks at once: times, states, outputs.
 * scan_ssd.cuh says how the work is cut, scan/README.md has the formulas.
 *
 * Bound by bytes: of 16,384 rows of 24 heads with 128 states x, y and the states written and read,
 * 350 MB. */
#include "scan/scan_ssd.cuh"

/* ---- times ---- */

enum { TIMES_WARPS = 8, THREADS = 256 };

static __global__ void __launch_bounds__(TIMES_WARPS * 32) times(kr_ssd c) {
    __shared__ kr_chunk_times shared[TIMES_WARPS];
    int64_t i = (int64_t)blockIdx.x * TIMES_WARPS + threadIdx.x / 32;
    int64_t piece = i / c.g.H, head = i % c.g.H;
    if (piece >= c.pieces) return;
    kr_ssd_piece p = kr_ssd_piece_of(c.g, piece);
    kr_chunk_times *k = &shared[threadIdx.x / 32];
    kr_lane_times<KR_SSD_ROWS> mine;
    if (!p.there) return;
    kr_fill_times<bf16, KR_SSD_ROWS>(c.g, p.q, head, p.t0, k, mine);
    __syncwarp();
    float *to = c.times + i * KR_SSD_TIMES * KR_SSD_LINE;
#pragma unroll
    for (int h = 0; h < KR_SSD_ROWS / 32; h++) {
        int r = threadIdx.x % 32 + 32 * h;
        const float v[KR_SSD_TIMES] = {k->gain[r],   k->high[r] * 1.4426950408889634f,
                                       k->carry[r],  k->keep[r],
                                       k->left[r],   mine.delta[h],
                                       mine.slope[h]};
#pragma unroll
        for (int l = 0; l < KR_SSD_TIMES; l++) to[l * KR_SSD_LINE + r] = v[l];
    }
    if (threadIdx.x % 32 < KR_SSD_TIMES)
        to[threadIdx.x % 32 * KR_SSD_LINE + KR_SSD_ROWS] = k->decay;
}

void kr_ssd_times_launch(const kr_ssd &c) {
    if (c.pieces * c.g.H > 0)
        times<<<kr_blocks(c.pieces * c.g.H, TIMES_WARPS), TIMES_WARPS * 32, 0, kr_cuda_stream()>>>(
            c);
}

/* ---- states ---- */

enum { STATES_THREADS = 128, STAGES = 3 };

struct states_stage {
    bf16 a[KR_SSD_TILE], b[KR_SSD_TILE]; /* x and b, or dy and c */
    float scale[KR_SSD_LINE];
};

/* h += (diag(scale) a)^T b of a chunk; the warp's 32 channels from m on, 32 states from n on. */
static __device__ __forceinline__ void add_chunk(const states_stage &t, int m, int n,
                                                 float (&h)[2][4][4]) {
    float decay = t.scale[KR_SSD_ROWS];
#pragma unroll
    for (int e = 0; e < 32; e++)
        h[e / 16][e / 4 % 4][e % 4] = kr_ssd_scaled(h[e / 16][e / 4 % 4][e % 4], decay);
#pragma unroll
    for (int k = 0; k < KR_SSD_ROWS; k += 16) {
        const float *scale = t.scale + k + (threadIdx.x & 3) * 2;
        float2 f[2] = {*(const float2 *)scale, *(const float2 *)(scale + 8)};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t a[4];
            kr_ssd_left<KR_ACROSS>(a, t.a, KR_SSD_LD, m + 16 * i, k);
#pragma unroll
            for (int e = 0; e < 4; e++)
                a[e] = kr_ssd_pair(kr_ssd_low(a[e]) * f[e / 2].x, kr_ssd_high(a[e]) * f[e / 2].y);
            kr_ssd_add<KR_ACROSS, 4>(h[i], a, t.b, KR_SSD_LD, n, k);
        }
    }
}

/* A block has 64 states of a head of a sequence. BACK: from the last chunk to the first. */
template <int N, bool BACK>
static __global__ void __launch_bounds__(STATES_THREADS, 3)
    states(kr_ssd c, void *to, int64_t to_slot, bool add) {
    extern __shared__ __align__(16) unsigned char shared[];
    states_stage *stages = (states_stage *)shared;
    const int parts = N / 64;
    const kr_matrix_in<bf16> &g = c.g;
    int64_t part = blockIdx.x % parts, head = blockIdx.x / parts % g.H;
    int64_t s = blockIdx.x / parts / g.H, group = head / (g.H / g.G);
    kr_sequence q = kr_sequence_of(g, s);
    int64_t n = (q.count + KR_SSD_ROWS - 1) / KR_SSD_ROWS, first = q.first / KR_SSD_ROWS + s;
    int m0 = (threadIdx.x >> 5 & 1) * 32, n0 = (threadIdx.x >> 6) * 32, quad = threadIdx.x & 3;
    const void *from = BACK ? g.dstate : g.state;
    bool half = !BACK && g.half_states;
    int64_t from_slot = q.slot * (BACK ? g.dstate_slot : g.state_slot);
    int64_t place = (head * KR_SSD_P + m0 + (threadIdx.x & 31) / 4) * N + part * 64 + n0;
    float h[2][4][4];
#pragma unroll
    for (int e = 0; e < 32; e++)
        h[e / 16][e / 4 % 4][e % 4] =
            from ? kr_state_at(from, half,
                               from_slot + place + (e / 16 * 16 + e / 2 % 2 * 8) * N +
                                   e / 4 % 4 * 8 + quad * 2 + e % 2)
                 : 0;
    auto load = [&](int64_t i) {
        states_stage &t = stages[i % STAGES];
        int64_t k = BACK ? n - 1 - i : i;
        if (i < n) {
            kr_ssd_rows<64, STATES_THREADS>(g, q, BACK ? g.dy : g.x, k * KR_SSD_ROWS,
                                            head * KR_SSD_P, t.a, KR_SSD_LD);
            kr_ssd_rows<64, STATES_THREADS>(g, q, BACK ? g.c : g.b, k * KR_SSD_ROWS,
                                            group * N + part * 64, t.b, KR_SSD_LD);
            const float *line = c.times + ((first + k) * g.H + head) * KR_SSD_TIMES * KR_SSD_LINE;
            kr_ssd_floats<STATES_THREADS>(line + (BACK ? KR_SSD_CARRY : KR_SSD_LEFT) * KR_SSD_LINE,
                                          t.scale, KR_SSD_LINE);
        }
        kr_ssd_commit();
    };
    for (int i = 0; i < STAGES - 1; i++) load(i);
    for (int64_t i = 0; i < n; i++) {
        int64_t k = BACK ? n - 1 - i : i;
        bf16 *keep = (BACK ? c.behind : c.before) + (first + k) * g.H * KR_SSD_P * N + place;
#pragma unroll
        for (int e = 0; e < 8; e++) { /* 16 columns of a row each */
            float(&a)[4] = h[e / 4][e % 2 * 2], (&b)[4] = h[e / 4][e % 2 * 2 + 1];
            int r = e / 2 % 2 * 2;
            kr_ssd_store(keep + (e / 4 * 16 + r * 4) * N + e % 2 * 16, kr_ssd_pair(a[r], a[r + 1]),
                         kr_ssd_pair(b[r], b[r + 1]), true, false);
        }
        if (i + 1 == n && !to) break;
        kr_ssd_wait<STAGES - 2>();
        __syncthreads();
        load(i + STAGES - 1);
        add_chunk(stages[i % STAGES], m0, n0, h);
    }
    if (!to) return;
    place += q.slot * to_slot;
#pragma unroll
    for (int e = 0; e < 32; e++) {
        int64_t i = place + (e / 16 * 16 + e / 2 % 2 * 8) * N + e / 4 % 4 * 8 + quad * 2 + e % 2;
        float v = h[e / 16][e / 4 % 4][e % 4];
        kr_state_set(to, half, i, add ? kr_state_at(to, half, i) + v : v);
    }
}

template <int N>
static void states_launch(const kr_ssd &c, bool back, void *to, int64_t to_slot, bool add) {
    unsigned blocks = (unsigned)(c.g.S * c.g.H * (N / 64));
    size_t bytes = STAGES * sizeof(states_stage);
    auto kernel = back ? states<N, true> : states<N, false>;
    if (blocks == 0) return;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    kernel<<<blocks, STATES_THREADS, bytes, kr_cuda_stream()>>>(c, to, to_slot, add);
}

void kr_ssd_states_launch(const kr_ssd &c, bool back, void *to, int64_t to_slot, bool add) {
    (c.g.N == 128 ? states_launch<128> : states_launch<64>)(c, back, to, to_slot, add);
}

/* ---- outputs ---- */

template <int N>
struct outputs_tiles {
    static const int LD = N + 8;
    struct stage {
        bf16 x[KR_SSD_TILE], h[KR_SSD_P * LD];
        float times[3 * KR_SSD_LINE]; /* GAIN, SUM, CARRY */
    } stages[2];
    bf16 b[KR_SSD_ROWS * LD], c[KR_SSD_ROWS * LD];
    int lowest[KR_SSD_ROWS], highest[KR_SSD_ROWS];
};

/* What a warp knows of its 16 reads, whatever the head: rows m ... */
template <int N>
struct outputs_reads {
    uint32_t c[N / 16][4];
    float products[8][4]; /* C B^T, [16 reads, 64 inputs] */
    int m, lowest[2];
};

template <int N>
static __device__ __forceinline__ void prepare_reads(const outputs_tiles<N> &f, int m,
                                                     outputs_reads<N> &r) {
    const int LD = outputs_tiles<N>::LD;
    r.m = m;
    kr_ssd_clear<8>(r.products);
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        kr_ssd_left<KR_ALONG>(r.c[k], f.c, LD, m, 16 * k);
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (16 * j <= m)
                kr_ssd_add<KR_ALONG, 2>(r.products + 2 * j, r.c[k], f.b, LD, 16 * j, 16 * k);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) r.lowest[i] = f.lowest[m + (threadIdx.x & 31) / 4 + 8 * i];
}

/* Products of 16 inputs, s0 ..., weighed by time and kappa (its logarithm to base 2), as a factor.
 */
template <int N>
static __device__ __forceinline__ void weigh(const outputs_reads<N> &r, float kappa,
                                             const float *times, int s0, const float (&p)[2][4],
                                             uint32_t (&a)[4]) {
    int row = r.m + (threadIdx.x & 31) / 4, column = s0 + (threadIdx.x & 3) * 2;
    const float *gain = times + KR_SSD_GAIN * KR_SSD_LINE, *sum = times + KR_SSD_SUM * KR_SSD_LINE;
#pragma unroll
    for (int e = 0; e < 4; e++) {
        int l = row + e % 2 * 8, s = column + e / 2 * 8, i = e % 2;
        float2 g = *(const float2 *)(gain + s), at = *(const float2 *)(sum + s);
        float seen = sum[l] + kappa;
        float v[2] = {g.x * kr_ssd_exp2(seen - at.x), g.y * kr_ssd_exp2(seen - at.y)};
#pragma unroll
        for (int j = 0; j < 2; j++)
            v[j] = s + j <= l && s + j >= r.lowest[i] ? v[j] * p[e / 2][2 * i + j] : 0;
        a[e] = kr_ssd_pair(v[0], v[1]);
    }
}

/* y of 16 reads and 32 channels of a head, from n on. */
template <int N>
static __device__ __forceinline__ void one_head(const kr_ssd &c, const kr_ssd_piece &p,
                                                const typename outputs_tiles<N>::stage &f,
                                                const outputs_reads<N> &r, int64_t head, int n,
                                                bf16 *y, int64_t y_row, bool add) {
    float sum[4][4], D = c.g.D ? c.g.D[head] : 0;
    int row = r.m + (threadIdx.x & 31) / 4, quad = threadIdx.x & 3;
    kr_ssd_clear<4>(sum);
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        kr_ssd_add<KR_ALONG, 4>(sum, r.c[k], f.h, outputs_tiles<N>::LD, n, 16 * k);
#pragma unroll
    for (int e = 0; e < 16; e++) {
        float carry = f.times[KR_SSD_CARRY * KR_SSD_LINE + row + e / 2 % 2 * 8];
        sum[e / 4][e % 4] = kr_ssd_scaled(sum[e / 4][e % 4], carry);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (16 * j > r.m) continue;
        uint32_t a[4];
        weigh<N>(r, c.kappa, f.times, 16 * j, *(const float(*)[2][4])(r.products + 2 * j), a);
        kr_ssd_add<KR_ACROSS, 4>(sum, a, f.x, KR_SSD_LD, n, 16 * j);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int l = row + 8 * i;
        bool there = p.t0 + l < p.q.count;
        bf16 *to = y + kr_row_at(c.g, p.q, there ? p.t0 + l : p.t0) * y_row + head * KR_SSD_P + n;
        uint32_t v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t x = kr_ssd_pair_at(f.x + l * KR_SSD_LD + n + 8 * j + quad * 2);
            v[j] = kr_ssd_pair(fmaf(D, kr_ssd_low(x), sum[j][2 * i]),
                               fmaf(D, kr_ssd_high(x), sum[j][2 * i + 1]));
        }
        kr_ssd_store(to, v[0], v[1], there, add);
        kr_ssd_store(to + 16, v[2], v[3], there, add);
    }
}

template <int N>
static __global__ void __launch_bounds__(THREADS, 2)
    outputs(kr_ssd c, bf16 *y, int64_t y_row, bool add) {
    extern __shared__ __align__(16) unsigned char shared[];
    outputs_tiles<N> &f = *(outputs_tiles<N> *)shared;
    const int LD = outputs_tiles<N>::LD;
    const kr_matrix_in<bf16> &g = c.g;
    int64_t each = g.H / g.G, group = blockIdx.x / c.slices % g.G;
    int64_t piece = blockIdx.x / c.slices / g.G, from = blockIdx.x % c.slices * c.heads;
    int64_t heads = each - from < c.heads ? each - from : c.heads;
    kr_ssd_piece p = kr_ssd_piece_of(g, piece);
    if (!p.there) return;
    from += group * each;
    auto load = [&](int64_t i) {
        typename outputs_tiles<N>::stage &t = f.stages[i % 2];
        int64_t at = piece * g.H + from + i;
        if (i < heads) {
            kr_ssd_rows<64, THREADS>(g, p.q, g.x, p.t0, (from + i) * KR_SSD_P, t.x, KR_SSD_LD);
            kr_ssd_state<N, THREADS>(c.before + at * KR_SSD_P * N, t.h, LD);
            kr_ssd_floats<THREADS>(c.times + at * KR_SSD_TIMES * KR_SSD_LINE, t.times,
                                   3 * KR_SSD_LINE);
        }
        kr_ssd_commit();
    };
    kr_ssd_rows<N, THREADS>(g, p.q, g.b, p.t0, group * N, f.b, LD);
    kr_ssd_rows<N, THREADS>(g, p.q, g.c, p.t0, group * N, f.c, LD);
    kr_ssd_commit();
    load(0);
    if (threadIdx.x < KR_SSD_ROWS) kr_ssd_segments(g, p, f.lowest, f.highest);
    kr_ssd_wait<1>();
    __syncthreads();
    /* later reads see more inputs: a scheduler gets one warp with few and one with many */
    int warp = threadIdx.x / 32, high = warp / 4, m = (high ? 3 - warp % 4 : warp % 4) * 16;
    outputs_reads<N> reads;
    prepare_reads(f, m, reads);
    for (int64_t i = 0; i < heads; i++) {
        kr_ssd_wait<0>();
        __syncthreads();
        load(i + 1);
        one_head<N>(c, p, f.stages[i % 2], reads, from + i, high * 32, y, y_row, add);
    }
}

template <int N>
static void outputs_launch(const kr_ssd &c, const kr_tensor *y, bool add) {
    unsigned blocks = (unsigned)(c.pieces * c.g.G * c.slices);
    size_t bytes = sizeof(outputs_tiles<N>);
    if (blocks == 0) return;
    cudaFuncSetAttribute(outputs<N>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    outputs<N><<<blocks, THREADS, bytes, kr_cuda_stream()>>>(c, (bf16 *)y->data, y->stride[0], add);
}

void kr_ssd_outputs_launch(const kr_ssd &c, const kr_tensor *y, bool add) {
    (c.g.N == 128 ? outputs_launch<128> : outputs_launch<64>)(c, y, add);
}

/* ---- the call ---- */

kr_ssd kr_ssd_unpack(const kr_call *c) {
    kr_scan_ssd_cut s;
    kr_ssd k = {};
    kr_scan_ssd_plan(c, &s);
    k.g = kr_matrix_unpack<bf16>(c);
    k.g.chunk = KR_SSD_ROWS;
    char *scratch = (char *)c->scratch;
    k.times = (float *)(scratch + s.times);
    k.before = (bf16 *)(scratch + s.before), k.behind = (bf16 *)(scratch + s.behind);
    k.kappa = log2f(k.g.kappa);
    k.pieces = s.pieces, k.slices = s.slices, k.heads = s.heads;
    return k;
}

/* Whether every row begins on 16 bytes; so do heads and groups in it. */
static bool wide(const kr_tensor *t) {
    return (uintptr_t)t->data % 16 == 0 && t->stride[0] % 8 == 0;
}

extern "C" bool kr_scan_ssd_has_room(void) { return kr_cuda_shared() >= KR_SCAN_SSD_SHARED; }

extern "C" bool kr_scan_ssd_takes(const kr_call *c) {
    static const int ins[] = {KR_SCAN_X, KR_SCAN_B, KR_SCAN_C, KR_SCAN_DY};
    static const int outs[] = {KR_SCAN_DX, KR_SCAN_DB, KR_SCAN_DC, KR_SCAN_Y_AGAIN};
    bool back = c->n_in > KR_SCAN_INS;
    if (!kr_scan_ssd_fits(c)) return false;
    for (int i : ins)
        if (i < c->n_in && c->in[i].data && !wide(&c->in[i])) return false;
    if (!back) return wide(&c->out[KR_SCAN_OUT_Y]);
    for (int i : outs)
        if (i < c->n_out && c->out[i].data && !wide(&c->out[i])) return false;
    return true;
}

extern "C" void kr_scan_ssd_cuda(const kr_call *c) {
    kr_ssd k = kr_ssd_unpack(c);
    const kr_tensor *out = &c->out[KR_SCAN_OUT_STATE];
    bool keep = c->n_out > KR_SCAN_OUT_STATE && out->data;
    kr_ssd_times_launch(k);
    kr_ssd_states_launch(k, false, keep ? out->data : NULL, keep ? out->stride[0] : 0, false);
    kr_ssd_outputs_launch(k, &c->out[KR_SCAN_OUT_Y], KR_ACC(c, KR_SCAN_OUT_Y) != 0);
}
