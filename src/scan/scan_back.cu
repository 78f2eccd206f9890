/* scan_back.cu - the gradient of the recurrence on the GPU. README.md derives it, scan_gpu.cuh says
 * how the work lies in a warp. With L_t = dL/dh_t, du the gradient of the read:
 *
 *   L_t = c_t du_t + a_{t+1} L_{t+1}      q_t = L_t a_t h_{t-1}
 *   dx = delta (L . b) + D du             ddelta = x (L . b) + A . q        dA += delta q
 *   db = delta x L,  dc = du h, summed over channels
 *
 * 1. sweep:   forward through each piece, keeping the state in front of every 8th row. Where time
 * is cut it starts from zero, and also gathers what the piece adds to L in front of it.
 * 2. fold:    carries the states, and L from behind, through the pieces of each sequence.
 * 3. reverse: from the last 8 rows to the first: forward again through them, keeping decays and
 *             states in registers, and back.
 * 4. add:     the partial sums, in a fixed order.
 *
 * Sums over the channels of a warp are matrix products: a one in row t of the left matrix adds
 * column sums of step t to row t. The right matrix is du h and delta x L, rounded to tf32 (or, in
 * f32, in two parts). */
#include "scan/scan_gpu.cuh"

namespace {

enum { SUM_ROW = 80, SUM_HALF = 36 }; /* floats: see keep_sums */

template <typename T>
struct back_out {
    T *dx, *ddt, *dz;
    int64_t dx_row, ddt_row, dz_row;
    float *dstate;
    int64_t dstate_slot;
    bool vector;
    uint32_t accumulate;
    float *starts, *sums, *ends, *backs, *decays, *bc, *a;
    bool cut; /* in time */
};

/* The lane's own pairs of a step: rows group and 4 + group of its 8. gz: dy times the slope of the
 * gate. */
struct own_pair {
    float x[2], delta[2], slope[2], du[2], gz[2];
};

template <typename T>
__device__ __forceinline__ void prepare(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                                        const kr_scan_lane &l, int stage, int t0, int left,
                                        float bias, own_pair &own) {
    float *mine = s.own + l.warp * 192;
    __syncwarp();
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int t = t0 + e * 4 + l.group, at = e * 32 + l.other * 4 + l.group;
        bool in = t < left && l.alive;
        float slope, delta = kr_delta(g, kr_load(kr_raw(s, stage, 1, t) + l.c) + bias, &slope);
        float dy = g.tile[3].p && s.arrays > 3 ? kr_load(kr_raw(s, stage, 3, t) + l.c) : 0;
        own.x[e] = in ? kr_load(kr_raw(s, stage, 0, t) + l.c) : 0;
        own.delta[e] = in ? delta : 0;
        own.slope[e] = in ? slope : 0;
        own.du[e] = in ? dy : 0;
        own.gz[e] = 0;
        if (g.tile[2].p && s.arrays > 3) {
            float z = kr_load(kr_raw(s, stage, 2, t) + l.c), v = kr_sigmoid<T>(z);
            own.gz[e] = own.du[e] * v * (1 + z * (1 - v));
            own.du[e] = in ? dy * z * v : 0;
        }
        mine[at] = own.delta[e];
        mine[64 + at] = own.delta[e] * own.x[e];
        mine[128 + at] = own.du[e];
    }
    __syncwarp();
}

__device__ __forceinline__ const float *hand(const float *own, const kr_scan_lane &l, int what,
                                             int j) {
    return own + l.warp * 192 + what * 64 + j / 4 * 32 + l.other * 4 + j % 4;
}

__device__ __forceinline__ void put4(float *to, const float (&v)[4]) {
    *(float4 *)to = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void get4(const float *from, float (&v)[4]) {
    float4 f = *(const float4 *)from;
    v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
}

/* ---- 1. sweep ---- */

/* What a lane of the sweep carries: its state; where time is cut also the product of decays, the
 * gradient in front of the piece, and the sum of delta (-1 behind a segment start). */
struct sweep_state {
    float h[4], p[4], back[4], sum;
};

template <typename T, bool CUT>
__device__ __forceinline__ void sweep_step(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                                           const kr_scan_lane &l, int t0, const float (&A)[4],
                                           sweep_state &w) {
    bool any = kr_any_start(g, s, t0);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float delta = *hand(s.own, l, 0, j), gx = *hand(s.own, l, 1, j), b[4], c[4];
        float du = CUT ? *hand(s.own, l, 2, j) : 0;
        bool start = any && s.reset[t0 + j];
        get4(s.b + kr_bc_at(s, t0) + j * s.padded + l.n, b);
        if (CUT) get4(s.c + kr_bc_at(s, t0) + j * s.padded + l.n, c);
        if (CUT) w.sum = start || w.sum < 0 ? -1 : w.sum + delta;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float a = start ? 0 : kr_exp2(delta * A[i]);
            w.h[i] = a * w.h[i] + gx * b[i];
            if (CUT) w.p[i] *= a;
            if (CUT) w.back[i] += w.p[i] * (du * c[i]);
        }
    }
}

template <typename T, bool CUT>
__device__ __forceinline__ void keep_start(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                                           const kr_scan_lane &l, const back_out<T> &out,
                                           int64_t step, const sweep_state &w) {
    if (!l.alive) return;
    put4(out.starts + (step * g.E + l.channel) * s.padded + l.n, w.h);
    if (CUT && l.n == 0) out.sums[step * g.E + l.channel] = w.sum;
}

template <typename T, bool CUT>
__global__ void __launch_bounds__(512)
    sweep(const kr_scan_in<T> g, const back_out<T> out, int rows, int channels, int parts) {
    extern __shared__ float4 memory[];
    kr_scan_shared<T> s;
    kr_scan_carve(&s, (char *)memory, CUT ? 4 : 2, rows, channels, g.blocks, blockDim.x / 32, 0);
    int64_t first = (int64_t)(blockIdx.x % parts) * channels;
    kr_scan_span p = kr_span(g, blockIdx.x / parts);
    kr_scan_lane l = kr_lane<1>(g, first);
    sweep_state w = {{0, 0, 0, 0}, {1, 1, 1, 1}, {0, 0, 0, 0}, 0};
    float A[4], bias = l.alive && g.bias ? g.bias[l.channel] : 0;
    kr_load_A(g, l, A);
    if (!CUT) kr_load_state(g, l, g.state ? g.state + p.slot * g.state_slot : NULL, w.h);
    if (p.steps > 0) kr_tile_load(g, s, p, 0, 0, first);
    int stage = 0;
    for (int64_t from = 0; from < p.steps; from += rows, stage ^= 1) {
        kr_copy_wait();
        __syncthreads();
        kr_tile_convert(g, s, p, from, stage);
        __syncthreads();
        if (from + rows < p.steps) kr_tile_load(g, s, p, from + rows, stage ^ 1, first);
        int left = (int)min(p.steps - from, (int64_t)rows);
        for (int t0 = 0; t0 < left; t0 += 8) {
            own_pair own;
            prepare(g, s, l, stage, t0, left, bias, own);
            keep_start<T, CUT>(g, s, l, out, p.start + (from + t0) / 8, w);
            sweep_step<T, CUT>(g, s, l, t0, A, w);
        }
    }
    if (!CUT || !l.alive || p.steps == 0) return;
    int64_t at = (p.piece * g.E + l.channel) * s.padded + l.n;
    put4(out.ends + at, w.h);
    put4(out.decays + at, w.p);
    put4(out.backs + at, w.back);
}

/* ---- 2. fold ---- */

/* One thread: 4 states of a channel of a sequence through its pieces, forward and back. */
template <typename T>
__global__ void fold(const kr_scan_in<T> g, const back_out<T> out) {
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
    float h[4], v[4], p[4];
    kr_load_state(g, l, g.state ? g.state + seq[2] * g.state_slot : NULL, h);
#pragma unroll 4
    for (int64_t k = 0; k < pieces; k++) {
        get4(out.ends + at + k * size, v);
        get4(out.decays + at + k * size, p);
        put4(out.ends + at + k * size, h);
        for (int n = 0; n < 4; n++) h[n] = p[n] * h[n] + v[n];
    }
    kr_load_state(g, l, g.dstate ? g.dstate + seq[2] * g.dstate_slot : NULL, h);
#pragma unroll 4
    for (int64_t k = pieces - 1; k >= 0; k--) {
        get4(out.backs + at + k * size, v);
        get4(out.decays + at + k * size, p);
        put4(out.backs + at + k * size, h);
        for (int n = 0; n < 4; n++) h[n] = p[n] * h[n] + v[n];
    }
}

/* ---- 3. reverse ---- */

__device__ __forceinline__ void mma(float (&d)[4], float one, float b0, float b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%5,%4}, "
        "{%6,%7}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(__float_as_uint(one)), "r"(0), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

__device__ __forceinline__ float tf32(float x) {
    return __uint_as_float(__float_as_uint(x) & 0xffffe000u);
}

/* Adds dc and db of one row over the warp's channels. d: rows 0 to 7 dc, 8 to 15 db of the step's
 * rows; columns are groups, twice (channels 0 to 3 and 4 to 7). */
template <typename T>
__device__ __forceinline__ void add_channels(float (&d)[4], float one, float dc, float db) {
    mma(d, one, dc, db);
    if (kr_accurate<T>::value) mma(d, one, dc - tf32(dc), db - tf32(db));
}

/* What a lane carries from the last row to the first. back: a_{t+1} L_{t+1}. */
struct back_state {
    float back[4], dA[4], dD, dbias;
};

/* Writes a step's sums over channels to shared memory: [warp][row][half of the channels][dc
 * db][16], padded so that the lanes meet no bank twice. */
template <typename T>
__device__ __forceinline__ void keep_sums(const kr_scan_shared<T> &s, const kr_scan_lane &l, int t0,
                                          const float (&d)[4][4]) {
    float *row = s.sums + (l.warp * s.rows + t0 + (l.lane >> 2)) * SUM_ROW;
    int column = 2 * (l.lane & 3);
    row += (column >> 2) * SUM_HALF + (column & 3) * 4;
    *(float4 *)row = make_float4(d[0][0], d[1][0], d[2][0], d[3][0]);
    *(float4 *)(row + 4) = make_float4(d[0][1], d[1][1], d[2][1], d[3][1]);
    *(float4 *)(row + 16) = make_float4(d[0][2], d[1][2], d[2][2], d[3][2]);
    *(float4 *)(row + 20) = make_float4(d[0][3], d[1][3], d[2][3], d[3][3]);
}

/* Sums over the blocks of states, which are in different warps; in the warps of block 0. */
template <typename T>
__device__ __forceinline__ void add_blocks(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                                           const kr_scan_lane &l, int parity, float (&v)[3]) {
    int warps = blockDim.x / 32;
    float *at = s.sums + warps * s.rows * SUM_ROW + (parity * warps + l.warp) * 96 + l.lane;
    for (int i = 0; i < 3; i++) at[i * 32] = v[i];
    __syncthreads();
    if (l.block) return;
    for (int k = 1; k < g.blocks; k++)
        for (int i = 0; i < 3; i++) v[i] += at[k * 96 + i * 32];
}

/* Gradients of an own pair, from its sums u = h . c, lb = L . b, aq = A log2 e . q; they replace
 * the pair's inputs in the tile. */
template <typename T>
__device__ __forceinline__ void finish(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                                       const kr_scan_lane &l, int stage, int t0, int e, float D,
                                       const own_pair &own, const float (&v)[3], back_state &w) {
    int t = t0 + e * 4 + l.group;
    float x = own.x[e], du = own.du[e];
    float ddt = (x * v[1] + KR_LN2 * v[2]) * own.slope[e];
    w.dbias += ddt;
    w.dD += du * x;
    kr_store(kr_raw(s, stage, 0, t) + l.c, own.delta[e] * v[1] + D * du);
    kr_store(kr_raw(s, stage, 1, t) + l.c, ddt);
    kr_store(kr_raw(s, stage, 2, t) + l.c, own.gz[e] * (v[0] + D * x));
}

/* 8 rows, back. h0: the state in front of them. */
template <typename T, bool WIDE>
__device__ __forceinline__ void back_step(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                                          const kr_scan_lane &l, int stage, int t0, int left,
                                          const float (&A)[4], float D, float bias,
                                          const float (&h0)[4], back_state &w) {
    own_pair own;
    float a[8][4], h[8][4], d[4][4] = {};
    prepare(g, s, l, stage, t0, left, bias, own);
    bool any = kr_any_start(g, s, t0);
    const float *bs = s.b + kr_bc_at(s, t0) + l.n, *cs = s.c + kr_bc_at(s, t0) + l.n;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float delta = *hand(s.own, l, 0, j), gx = *hand(s.own, l, 1, j), b[4];
        get4(bs + j * s.padded, b);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[j][i] = any && s.reset[t0 + j] ? 0 : kr_exp2(delta * A[i]);
            h[j][i] = a[j][i] * (j ? h[j - 1][i] : h0[i]) + gx * b[i];
        }
    }
#pragma unroll
    for (int e = 1; e >= 0; e--) {
        float u[4] = {}, lb[4] = {}, aq[4] = {};
#pragma unroll
        for (int k = 3; k >= 0; k--) {
            int j = e * 4 + k;
            float delta = *hand(s.own, l, 0, j), gx = *hand(s.own, l, 1, j);
            float du = *hand(s.own, l, 2, j), one = l.lane >> 2 == j ? 1 : 0, b[4], c[4];
            get4(bs + j * s.padded, b);
            get4(cs + j * s.padded, c);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float L = du * c[i] + w.back[i];
                w.back[i] = a[j][i] * L;
                float q = w.back[i] * (j ? h[j - 1][i] : h0[i]);
                u[k] += h[j][i] * c[i];
                lb[k] += L * b[i];
                aq[k] += A[i] * q;
                w.dA[i] += delta * q;
                add_channels<T>(d[i], one, du * h[j][i], gx * L);
            }
        }
        float v[3] = {kr_scatter4(u[0], u[1], u[2], u[3], l.group),
                      kr_scatter4(lb[0], lb[1], lb[2], lb[3], l.group),
                      kr_scatter4(aq[0], aq[1], aq[2], aq[3], l.group)};
        if (WIDE) add_blocks(g, s, l, e, v);
        if (!WIDE || l.block == 0) finish(g, s, l, stage, t0, e, D, own, v, w);
    }
    keep_sums(s, l, t0, d);
}

/* The state in front of a step: as the sweep left it, plus what came into the piece. */
template <typename T>
__device__ __forceinline__ void start_of(const kr_scan_in<T> &g, const kr_scan_lane &l, int padded,
                                         const back_out<T> &out, int64_t step, const float (&A)[4],
                                         const float (&came)[4], float (&h)[4]) {
    h[0] = h[1] = h[2] = h[3] = 0;
    if (!l.alive) return;
    get4(out.starts + (step * g.E + l.channel) * padded + l.n, h);
    if (!out.cut) return;
    float sum = out.sums[step * g.E + l.channel];
    for (int i = 0; i < 4; i++)
        if (sum >= 0) h[i] += kr_exp2(A[i] * sum) * came[i];
}

/* Sums of db and dc over the block's channels, to this part's rows; `more`: to what is there. */
template <typename T>
__device__ void store_sums(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                           const kr_scan_span &p, int64_t from, float *part, bool more) {
    int quads = s.padded / 4, left = (int)min(p.steps - from, (int64_t)s.rows);
    for (int i = threadIdx.x; i < left * 2 * quads; i += blockDim.x) {
        int t = i / (2 * quads), dc = i / quads % 2, n = i % quads * 4;
        float4 sum = {0, 0, 0, 0};
        float4 *to =
            (float4 *)(part + (p.row + p.dir * (from + t)) * 2 * s.padded) + i % (2 * quads);
        if (more) sum = *to;
        for (int k = 0; k < 2 * g.octets; k++) {
            int warp = k / 2 * g.blocks + n / 16;
            const float4 v = *(const float4 *)(s.sums + (warp * s.rows + t) * SUM_ROW +
                                               k % 2 * SUM_HALF + (dc ? 0 : 16) + n % 16);
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        *to = sum;
    }
}

template <typename T>
__device__ void store_tile(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                           const kr_scan_span &p, int64_t from, int stage, int64_t first,
                           const back_out<T> &out) {
    if (out.dx)
        kr_tile_store(g, s, p, from, stage, 0, out.dx, out.dx_row, first, out.vector,
                      out.accumulate >> KR_SCAN_DX & 1);
    if (out.ddt)
        kr_tile_store(g, s, p, from, stage, 1, out.ddt, out.ddt_row, first, out.vector,
                      out.accumulate >> KR_SCAN_DDT & 1);
    if (out.dz)
        kr_tile_store(g, s, p, from, stage, 2, out.dz, out.dz_row, first, out.vector,
                      out.accumulate >> KR_SCAN_DZ & 1);
}

/* Where the lane's channel ends: its sums over the piece, and the gradient of the first state. */
template <typename T>
__device__ __forceinline__ void close(const kr_scan_in<T> &g, const kr_scan_span &p,
                                      const kr_scan_lane &l, int padded, const back_out<T> &out,
                                      back_state &w) {
    for (int d = 4; d <= 8; d *= 2) {
        w.dD += __shfl_xor_sync(0xffffffffu, w.dD, d);
        w.dbias += __shfl_xor_sync(0xffffffffu, w.dbias, d);
    }
    if (!l.alive) return;
    float *a = out.a + (p.piece * g.E + l.channel) * (padded + 2);
    for (int i = 0; i < 4; i++) a[l.n + i] = w.dA[i];
    if (l.n == 0) a[padded] = w.dD;
    if (l.n == 0) a[padded + 1] = w.dbias;
    if (!out.dstate || !p.exists || !p.first) return;
    float *to = out.dstate + p.slot * out.dstate_slot + l.channel * g.N + l.n;
    for (int i = 0; i < 4; i++)
        if (l.n + i < g.N) kr_put(to + i, w.back[i], out.accumulate >> KR_SCAN_DSTATE_IN & 1);
}

/* What comes into a piece: the state (where time is cut) and the gradient from behind. */
template <typename T>
__device__ __forceinline__ void open(const kr_scan_in<T> &g, const kr_scan_span &p,
                                     const kr_scan_lane &l, int padded, const back_out<T> &out,
                                     float (&came)[4], back_state &w) {
    w = {};
    came[0] = came[1] = came[2] = came[3] = 0;
    if (!l.alive || !p.exists) return;
    if (!out.cut || p.steps == 0) {
        kr_load_state(g, l, g.dstate ? g.dstate + p.slot * g.dstate_slot : NULL, w.back);
        return;
    }
    int64_t at = (p.piece * g.E + l.channel) * padded + l.n;
    get4(out.ends + at, came);
    get4(out.backs + at, w.back);
}

/* One channel block of a piece, from its last tile to its first. */
template <typename T, bool WIDE>
__device__ __forceinline__ void reverse_piece(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                                              const kr_scan_span &p, const back_out<T> &out,
                                              int64_t first, float *part, bool more) {
    kr_scan_lane l = kr_lane<1>(g, first);
    float A[4], came[4], next[4], D = 0, bias = 0;
    back_state w;
    kr_load_A(g, l, A);
    if (l.alive && g.D) D = g.D[l.channel / g.D_width];
    if (l.alive && g.bias) bias = g.bias[l.channel];
    open(g, p, l, s.padded, out, came, w);
    int64_t top = (p.steps + s.rows - 1) / s.rows * s.rows, from = top - s.rows;
    int stage = 0;
    if (p.steps > 0) {
        kr_tile_load(g, s, p, from, 0, first);
        start_of(g, l, s.padded, out, p.start + (p.steps - 1) / 8, A, came, next);
    }
    for (; from >= 0; from -= s.rows, stage ^= 1) {
        kr_copy_wait();
        __syncthreads();
        if (from + s.rows < top) {
            store_tile(g, s, p, from + s.rows, stage ^ 1, first, out);
            store_sums(g, s, p, from + s.rows, part, more);
        }
        kr_tile_convert(g, s, p, from, stage);
        __syncthreads();
        if (from > 0) kr_tile_load(g, s, p, from - s.rows, stage ^ 1, first);
        int left = (int)min(p.steps - from, (int64_t)s.rows);
        for (int t0 = (left - 1) / 8 * 8; t0 >= 0; t0 -= 8) {
            float h0[4] = {next[0], next[1], next[2], next[3]};
            int64_t before = (from + t0) / 8 - 1;
            if (before >= 0) start_of(g, l, s.padded, out, p.start + before, A, came, next);
            back_step<T, WIDE>(g, s, l, stage, t0, left, A, D, bias, h0, w);
        }
    }
    __syncthreads();
    if (p.steps > 0) {
        store_tile(g, s, p, 0, stage ^ 1, first, out);
        store_sums(g, s, p, 0, part, more);
    }
    close(g, p, l, s.padded, out, w);
    __syncthreads();
}

template <typename T, bool WIDE>
__global__ void __launch_bounds__(WIDE ? 512 : 128, WIDE ? 1 : 3)
    reverse(const kr_scan_in<T> g, const back_out<T> out, int rows, int channels, int parts) {
    extern __shared__ float4 memory[];
    kr_scan_shared<T> s;
    kr_scan_carve(&s, (char *)memory, 4, rows, channels, g.blocks, blockDim.x / 32, 0);
    int64_t i = blockIdx.x % parts;
    kr_scan_span p = kr_span(g, blockIdx.x / parts);
    float *part = out.bc + i * g.M * 2 * s.padded;
    for (int64_t first = i * channels; first < g.E; first += (int64_t)parts * channels)
        reverse_piece<T, WIDE>(g, s, p, out, first, part, first != i * channels);
}

/* ---- 4. add ---- */

template <typename T>
__global__ void add_bc(const float *bc, int64_t parts, int64_t M, int padded, int N, T *db,
                       int64_t db_row, T *dc, int64_t dc_row, bool add_b, bool add_c) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, quads = padded / 2;
    if (i >= M * quads) return;
    int64_t row = i / quads, k = i % quads * 4;
    float sum[4] = {}, v[4];
#pragma unroll 8
    for (int64_t p = 0; p < parts; p++) {
        get4(bc + (p * M * quads + i) * 4, v);
        for (int j = 0; j < 4; j++) sum[j] += v[j];
    }
    bool is_c = k >= padded;
    int n = (int)(is_c ? k - padded : k);
    T *to = is_c ? dc + row * dc_row : db + row * db_row;
    if (!(is_c ? dc : db)) return;
    for (int j = 0; j < 4 && n + j < N; j++) kr_put(to + n + j, sum[j], is_c ? add_c : add_b);
}

__device__ float add_pieces(const float *a, int64_t pieces, int64_t size) {
    float sum = 0;
#pragma unroll 8
    for (int64_t q = 0; q < pieces; q++) sum += a[q * size];
    return sum;
}

/* dA, and per channel dbias; dD over the channels that share it. */
__global__ void add_a(const float *a, int64_t pieces, int64_t E, int padded, int N, int D_width,
                      float *dA, float *dD, float *dbias, uint32_t accumulate) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, size = E * (padded + 2);
    if (i >= size) return;
    int64_t e = i / (padded + 2);
    int n = (int)(i % (padded + 2));
    if (n < N && dA)
        kr_put(dA + e * N + n, add_pieces(a + i, pieces, size), accumulate >> KR_SCAN_DA & 1);
    if (n == padded + 1 && dbias)
        kr_put(dbias + e, add_pieces(a + i, pieces, size), accumulate >> KR_SCAN_DBIAS & 1);
    if (n != padded || !dD || e % D_width) return;
    float sum = 0;
    for (int k = 0; k < D_width; k++)
        sum += add_pieces(a + i + (int64_t)k * (padded + 2), pieces, size);
    kr_put(dD + e / D_width, sum, accumulate >> KR_SCAN_DD & 1);
}

/* ---- the call ---- */

void *data_out(const kr_call *c, int i) { return i < c->n_out ? c->out[i].data : NULL; }

template <typename T>
bool rows_out(const kr_call *c, int i, T **p, int64_t *row) {
    *p = (T *)data_out(c, i);
    *row = *p ? c->out[i].stride[0] : 0;
    return kr_quads_fit<T>(*p, *row);
}

template <typename T>
back_out<T> out_of(const kr_call *c, const kr_scan_gpu_cut &cut) {
    back_out<T> o = {};
    bool x = rows_out(c, KR_SCAN_DX, &o.dx, &o.dx_row);
    bool dt = rows_out(c, KR_SCAN_DDT, &o.ddt, &o.ddt_row);
    bool z = rows_out(c, KR_SCAN_DZ, &o.dz, &o.dz_row);
    o.vector = x && dt && z && cut.E % 4 == 0;
    o.dstate = (float *)data_out(c, KR_SCAN_DSTATE_IN);
    if (o.dstate) o.dstate_slot = c->out[KR_SCAN_DSTATE_IN].stride[0];
    o.accumulate = c->accumulate;
    float *scratch = (float *)c->scratch;
    o.starts = scratch + cut.starts;
    o.sums = scratch + cut.sums;
    o.ends = scratch + cut.ends;
    o.backs = scratch + cut.backs;
    o.decays = scratch + cut.decays;
    o.bc = scratch + cut.bc;
    o.a = scratch + cut.a;
    o.cut = cut.chunk <= cut.M;
    return o;
}

template <typename T, typename K>
void launch(K kernel, const kr_scan_in<T> &g, const back_out<T> &out, int64_t parts, int64_t pieces,
            int arrays, int rows, int sums) {
    int channels = g.octets * 8, warps = g.octets * g.blocks;
    kr_scan_shared<T> s;
    size_t bytes = kr_scan_carve(&s, (char *)NULL, arrays, rows, channels, g.blocks, warps, sums);
    /* the launch reports what this could not allow */
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    kernel<<<kr_blocks(pieces * parts, 1), 32 * warps, bytes, kr_cuda_stream()>>>(g, out, rows,
                                                                                  channels,
                                                                                  (int)parts);
}

template <typename T>
void add(const kr_call *c, const kr_scan_gpu_cut &cut, const kr_scan_in<T> &g,
         const back_out<T> &out) {
    T *db, *dc;
    int64_t db_row, dc_row, padded = KR_SCAN_GPU_STATES * (int64_t)cut.blocks;
    rows_out(c, KR_SCAN_DB, &db, &db_row);
    rows_out(c, KR_SCAN_DC, &dc, &dc_row);
    if (g.M && (db || dc))
        add_bc<T><<<kr_blocks(g.M * padded / 2, 256), 256, 0, kr_cuda_stream()>>>(
            out.bc, cut.parts, g.M, (int)padded, g.N, db, db_row, dc, dc_row,
            KR_ACC(c, KR_SCAN_DB) != 0, KR_ACC(c, KR_SCAN_DC) != 0);
    add_a<<<kr_blocks(g.E * (padded + 2), 128), 128, 0, kr_cuda_stream()>>>(
        out.a, cut.pieces, g.E, (int)padded, g.N, g.D_width, (float *)data_out(c, KR_SCAN_DA),
        (float *)data_out(c, KR_SCAN_DD), (float *)data_out(c, KR_SCAN_DBIAS), c->accumulate);
}

template <typename T>
void run(const kr_call *c) {
    kr_scan_gpu_cut cut;
    kr_scan_gpu_plan(c, &cut);
    kr_scan_in<T> g = kr_scan_in_of<T>(c);
    g.chunk = cut.chunk;
    g.octets = cut.octets;
    back_out<T> out = out_of<T>(c, cut);
    int rows = g.blocks > 1 ? 16 : 32, warps = g.octets * g.blocks;
    int64_t blocks = (g.E + g.octets * 8 - 1) / (g.octets * 8);
    if (out.dstate && !KR_ACC(c, KR_SCAN_DSTATE_IN)) /* slots that no sequence names */
        cudaMemsetAsync(out.dstate, 0, kr_tensor_bytes(&c->out[KR_SCAN_DSTATE_IN]),
                        kr_cuda_stream());
    if (g.S == 0 || g.E == 0) return;
    if (out.cut) {
        launch<T>(sweep<T, true>, g, out, blocks, cut.pieces, 4, rows, 0);
        dim3 grid(kr_blocks(g.E * g.blocks * 4, 128), (unsigned)g.S);
        fold<T><<<grid, 128, 0, kr_cuda_stream()>>>(g, out);
    } else {
        launch<T>(sweep<T, false>, g, out, blocks, cut.pieces, 2, rows, 0);
    }
    if (g.blocks > 1)
        launch<T>(reverse<T, true>, g, out, cut.parts, cut.pieces, 4, rows,
                  warps * (rows * SUM_ROW + 192));
    else
        launch<T>(reverse<T, false>, g, out, cut.parts, cut.pieces, 4, rows,
                  warps * rows * SUM_ROW);
    add(c, cut, g, out);
}

} // namespace

extern "C" void kr_scan_grad_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
