/* scan_gpu.cuh - what the kernels of the recurrence share on the GPU.
 *
 * Work of a warp: 8 "others" (channels, or slots of time of fewer channels) x 4 groups of 4 states;
 * a lane holds 4 states of one channel in registers. More than 16 states take more warps. Bits 2
 * and 3 of the lane number the group, so that neighbouring lanes read the same b and c.
 *
 * Rows come in tiles through shared memory, two deep: while one is worked on the next one is copied
 * in. Steps of 8 rows: each lane prepares the (row, channel) pairs that are its own (softplus,
 * gate), hands delta and delta x to the lanes of its channel through the warp's shared memory, and
 * gets the sums over states of its own pairs back by shuffles.
 *
 *   exp(delta A) = 2^(delta A log2 e), one instruction of the special function unit a state */
#ifndef KR_SCAN_GPU_CUH
#define KR_SCAN_GPU_CUH

#include "device/cuda/kernel.cuh"
#include "scan/scan_gpu.h"

#define KR_LOG2E 1.4426950408889634f
#define KR_LN2 0.6931471805599453f

enum { KR_ARRAYS = 4, KR_STEPS = KR_SCAN_GPU_STEPS };

template <typename T>
struct kr_scan_rows {
    const T *p; /* NULL: absent */
    int64_t row;
};

template <typename T>
struct kr_scan_in {
    kr_scan_rows<T> tile[KR_ARRAYS]; /* x, dt, z, dy: [M,E] */
    kr_scan_rows<T> b, c;            /* [M,N] */
    const float *A, *D, *bias, *state, *dstate;
    int64_t state_slot, dstate_slot;
    const int64_t *seqs;
    int64_t seqs_row;
    const uint8_t *reset;
    int64_t E, S, M, chunk;
    int N, blocks, octets, D_width;
    float dt_min, dt_max;
    bool softplus, reverse;
    bool vector, vector_bc; /* rows may be copied by 4 elements */
};

/* ---- numbers ---- */

__device__ __forceinline__ float kr_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <typename T>
struct kr_accurate {
    static const bool value = true;
};
template <>
struct kr_accurate<bf16> {
    static const bool value = false;
};

template <typename T>
__device__ __forceinline__ float kr_exp(float x) {
    return kr_accurate<T>::value ? expf(x) : kr_exp2(x * KR_LOG2E);
}
template <typename T>
__device__ __forceinline__ float kr_recip(float x) {
    return kr_accurate<T>::value ? 1.0f / x : __fdividef(1.0f, x);
}
/* log(1 + w): the series where the logarithm would lose w's digits. */
template <typename T>
__device__ __forceinline__ float kr_log1p(float w) {
    if (kr_accurate<T>::value) return log1pf(w);
    float small = w * (1 - w * (0.5f - w * (0.33333333f - w * (0.25f - w * 0.2f))));
    return w < 0.0625f ? small : __log2f(1 + w) * KR_LN2;
}

/* delta of a raw step, and its derivative. */
template <typename T>
__device__ __forceinline__ float kr_delta(const kr_scan_in<T> &g, float v, float *slope) {
    bool soft = g.softplus && v <= 20;
    float w = kr_exp<T>(soft ? v : 0), delta = soft ? kr_log1p<T>(w) : v;
    *slope = soft ? w * kr_recip<T>(1 + w) : 1;
    bool low = delta<g.dt_min, high = g.dt_max> 0 && delta > g.dt_max;
    if (low || high) *slope = 0;
    return low ? g.dt_min : high ? g.dt_max : delta;
}

template <typename T>
__device__ __forceinline__ float kr_sigmoid(float z) {
    return kr_recip<T>(1 + kr_exp<T>(-z));
}

/* ---- lanes ---- */

__device__ __forceinline__ int kr_lane_at(int other, int group) {
    return (other & 3) | group << 2 | (other >> 2) << 4;
}

/* The sums of v0..v3 over the 4 groups: group i gets that of v_i. */
__device__ __forceinline__ float kr_scatter4(float v0, float v1, float v2, float v3, int group) {
    bool high = group & 2, odd = group & 1;
    float p = high ? v2 : v0, q = high ? v3 : v1;
    p += __shfl_xor_sync(0xffffffffu, high ? v0 : v2, 8);
    q += __shfl_xor_sync(0xffffffffu, high ? v1 : v3, 8);
    return (odd ? q : p) + __shfl_xor_sync(0xffffffffu, odd ? p : q, 4);
}

/* Where a lane works. */
struct kr_scan_lane {
    int lane, warp, group, other, slot;
    int block;       /* of 16 states */
    int n;           /* its first state */
    int c;           /* channel in the tile */
    int64_t channel; /* in [0, E) when alive */
    bool alive;
};

template <int SLOTS, typename T>
__device__ __forceinline__ kr_scan_lane kr_lane(const kr_scan_in<T> &g, int64_t first_channel) {
    kr_scan_lane l;
    l.lane = threadIdx.x & 31;
    l.warp = threadIdx.x >> 5;
    l.group = l.lane >> 2 & 3;
    l.other = (l.lane & 3) | (l.lane >> 4) << 2;
    l.slot = l.other % SLOTS;
    l.block = l.warp % g.blocks;
    l.n = l.block * KR_SCAN_GPU_STATES + l.group * 4;
    l.c = l.warp / g.blocks * (8 / SLOTS) + l.other / SLOTS;
    l.channel = first_channel + l.c;
    l.alive = l.channel < g.E;
    return l;
}

/* A log2 e of the lane's states; 0 where there are none. */
template <typename T>
__device__ __forceinline__ void kr_load_A(const kr_scan_in<T> &g, const kr_scan_lane &l,
                                          float (&A)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        A[i] = l.alive && l.n + i < g.N ? g.A[l.channel * g.N + l.n + i] * KR_LOG2E : 0;
}

/* 4 states of a slot; zeros from NULL. */
template <typename T>
__device__ __forceinline__ void kr_load_state(const kr_scan_in<T> &g, const kr_scan_lane &l,
                                              const float *state, float (&h)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        h[i] = state && l.alive && l.n + i < g.N ? state[l.channel * g.N + l.n + i] : 0;
}

/* ---- pieces of sequences ---- */

struct kr_scan_span {
    int64_t row;   /* of step 0 */
    int64_t dir;   /* from step to step: 1 or -1 */
    int64_t steps; /* 0: there is no such piece */
    int64_t slot, piece;
    int64_t start;    /* number of its first step of KR_STEPS rows */
    bool first, last; /* of its sequence */
    bool exists;
};

/* The sequence that piece number q belongs to: the last one whose pieces begin at or before q. */
template <typename T>
__device__ int64_t kr_sequence_of(const kr_scan_in<T> &g, int64_t q) {
    int64_t low = 0, high = g.S;
    while (high - low > 1) {
        int64_t s = (low + high) / 2;
        if (g.seqs[s * g.seqs_row] / g.chunk + s <= q)
            low = s;
        else
            high = s;
    }
    return low;
}

template <typename T>
__device__ kr_scan_span kr_span(const kr_scan_in<T> &g, int64_t q) {
    kr_scan_span p;
    int64_t s = g.M < g.chunk ? q : kr_sequence_of(g, q);
    const int64_t *seq = g.seqs + s * g.seqs_row;
    int64_t k = q - (seq[0] / g.chunk + s), from = k * g.chunk, left = seq[1] - from;
    p.exists = k == 0 || left > 0;
    p.first = k == 0;
    p.last = left <= g.chunk;
    p.steps = !p.exists ? 0 : p.last ? left : g.chunk;
    p.dir = g.reverse ? -1 : 1;
    p.row = g.reverse ? seq[0] + seq[1] - 1 - from : seq[0] + from;
    p.slot = seq[2];
    p.piece = q;
    p.start = seq[0] / KR_STEPS + s + from / KR_STEPS;
    return p;
}

/* Whether no state passes into step t of a piece. */
template <typename T>
__device__ __forceinline__ bool kr_starts(const kr_scan_in<T> &g, const kr_scan_span &p,
                                          int64_t t) {
    if (!g.reverse) return g.reset[p.row + t];
    return !(p.first && t == 0) && g.reset[p.row - t + 1];
}

/* ---- tiles ---- */

/* Shared memory of a block of threads. Rows of 16 states are shifted by 32 bytes every 8 rows, for
 * lanes that read the same row of several slots. */
template <typename T>
struct kr_scan_shared {
    T *raw;         /* [2 stages][arrays][rows][pitch] */
    T *raw_bc;      /* [2 stages][rows][2][padded N] */
    float *b, *c;   /* [rows][padded N] */
    float *own;     /* [warps][3][64]: what the lanes of a warp hand each other */
    float *sums;    /* wide: [2][warps][3][64]; backward: partial sums of db and dc */
    uint8_t *reset; /* [rows] */
    int pitch, rows, channels, padded, arrays;
};

static __host__ __device__ inline int kr_scan_bc_floats(int rows, int padded) {
    return rows * padded + rows / KR_STEPS * 8;
}

/* Fills s from the start of the block's shared memory; returns the bytes that it takes. */
template <typename T>
static __host__ __device__ inline size_t kr_scan_carve(kr_scan_shared<T> *s, char *base, int arrays,
                                                       int rows, int channels, int blocks,
                                                       int warps, int sums) {
    size_t at = 0;
    s->rows = rows;
    s->channels = channels;
    s->padded = blocks * KR_SCAN_GPU_STATES;
    s->pitch = channels + 16 / (int)sizeof(T);
    s->arrays = arrays;
    s->raw = (T *)base;
    at += sizeof(T) * (size_t)(2 * arrays * rows * s->pitch);
    s->raw_bc = (T *)(base + at);
    at += sizeof(T) * (size_t)(2 * rows * 2 * s->padded);
    s->b = (float *)(base + at);
    s->c = s->b + kr_scan_bc_floats(rows, s->padded);
    s->own = s->c + kr_scan_bc_floats(rows, s->padded);
    s->reset = (uint8_t *)(s->own + warps * 192);
    s->sums = (float *)(s->reset + rows);
    return (size_t)((char *)(s->sums + sums) - base);
}

/* Row t of an array of a stage. */
template <typename T>
__device__ __forceinline__ T *kr_raw(const kr_scan_shared<T> &s, int stage, int array, int t) {
    return s.raw + ((stage * s.arrays + array) * s.rows + t) * s.pitch;
}
template <typename T>
__device__ __forceinline__ int kr_bc_at(const kr_scan_shared<T> &s, int t) {
    return t * s.padded + t / KR_STEPS * 8;
}

template <int BYTES>
__device__ __forceinline__ void kr_copy_async(void *to, const void *from, bool valid) {
    unsigned at = (unsigned)__cvta_generic_to_shared(to), bytes = valid ? BYTES : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(at), "l"(from), "n"(BYTES),
                 "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void kr_copy_commit() { asm volatile("cp.async.commit_group;"); }
__device__ __forceinline__ void kr_copy_wait() {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

/* 4 elements from a row, of which `valid` exist; the others become 0. */
template <typename T>
__device__ __forceinline__ void kr_copy4(T *to, const T *from, const T *somewhere, int valid,
                                         bool vector) {
    if (vector && (valid <= 0 || valid >= 4)) {
        kr_copy_async<4 * sizeof(T)>(to, valid > 0 ? from : somewhere, valid > 0);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (i < valid)
            to[i] = from[i];
        else
            kr_store(to + i, 0.0f);
    }
}

/* Starts copying the rows of steps [from, from + rows) of a piece: s.arrays of g.tile, and b, c. */
template <typename T>
__device__ void kr_tile_load(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                             const kr_scan_span &p, int64_t from, int stage,
                             int64_t first_channel) {
    int quads = s.channels / 4, per = s.rows * quads,
        left = (int)min(p.steps - from, (int64_t)s.rows);
    int channels = (int)min(g.E - first_channel, (int64_t)s.channels);
    for (int a = 0; a < s.arrays; a++) {
        if (!g.tile[a].p) continue;
        for (int i = threadIdx.x; i < per; i += blockDim.x) {
            int t = i / quads, c = i % quads * 4;
            const T *row = g.tile[a].p + (p.row + p.dir * (from + t)) * g.tile[a].row;
            kr_copy4(kr_raw(s, stage, a, t) + c, row + first_channel + c, g.tile[a].p,
                     t < left ? channels - c : 0, g.vector);
        }
    }
    quads = s.padded / 4;
    for (int i = threadIdx.x; i < s.rows * 2 * quads; i += blockDim.x) {
        int t = i / (2 * quads), which = i / quads % 2, n = i % quads * 4;
        const kr_scan_rows<T> &m = which ? g.c : g.b;
        kr_copy4(s.raw_bc + ((stage * s.rows + t) * 2 + which) * s.padded + n,
                 m.p + (p.row + p.dir * (from + t)) * m.row + n, m.p, t < left ? g.N - n : 0,
                 g.vector_bc);
    }
    kr_copy_commit();
}

/* b and c of the tile as floats, and its segment starts. */
template <typename T>
__device__ void kr_tile_convert(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                                const kr_scan_span &p, int64_t from, int stage) {
    int quads = s.padded / 4;
    for (int i = threadIdx.x; i < s.rows * 2 * quads; i += blockDim.x) {
        int t = i / (2 * quads), which = i / quads % 2, n = i % quads * 4;
        const T *v = s.raw_bc + ((stage * s.rows + t) * 2 + which) * s.padded + n;
        float4 f = {kr_load(v), kr_load(v + 1), kr_load(v + 2), kr_load(v + 3)};
        *(float4 *)((which ? s.c : s.b) + kr_bc_at(s, t) + n) = f;
    }
    if (!g.reset) return;
    for (int t = threadIdx.x; t < s.rows; t += blockDim.x)
        s.reset[t] = from + t < p.steps && kr_starts(g, p, from + t);
}

/* Writes array `a` of a tile, which now holds results, to its rows. */
template <typename T>
__device__ void kr_tile_store(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                              const kr_scan_span &p, int64_t from, int stage, int a, T *out,
                              int64_t out_row, int64_t first_channel, bool vector,
                              bool accumulate) {
    int quads = s.channels / 4, left = (int)min(p.steps - from, (int64_t)s.rows);
    int channels = (int)min(g.E - first_channel, (int64_t)s.channels);
    for (int i = threadIdx.x; i < left * quads; i += blockDim.x) {
        int t = i / quads, c = i % quads * 4;
        const T *v = kr_raw(s, stage, a, t) + c;
        T *to = out + (p.row + p.dir * (from + t)) * out_row + first_channel + c;
        if (vector && !accumulate && c + 4 <= channels) {
            if (sizeof(T) == 2)
                *(uint2 *)to = *(const uint2 *)v;
            else
                *(float4 *)to = *(const float4 *)v;
            continue;
        }
        for (int k = 0; k < 4 && c + k < channels; k++) kr_put(to + k, kr_load(v + k), accumulate);
    }
}

/* The 8 bytes of segment starts of a step: 0 where there are none. */
template <typename T>
__device__ __forceinline__ bool kr_any_start(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                                             int t0) {
    if (!g.reset) return false;
    uint2 r = *(const uint2 *)(s.reset + t0);
    return (r.x | r.y) != 0;
}

/* ---- calls ---- */

/* The plan for sequences of one row (scan_step.cu); state_out is there. false: too many of them. */
bool kr_scan_step(const kr_call *c);

template <typename T>
static kr_scan_rows<T> kr_rows_in(const kr_call *c, int i) {
    if (i >= c->n_in || !c->in[i].data) return {NULL, 0};
    return {(const T *)c->in[i].data, c->in[i].stride[0]};
}

template <typename T>
static bool kr_quads_fit(const void *p, int64_t row) {
    return (uintptr_t)p % (4 * sizeof(T)) == 0 && row % 4 == 0;
}

static const void *kr_data_in(const kr_call *c, int i) {
    return i < c->n_in ? c->in[i].data : NULL;
}

template <typename T>
static kr_scan_in<T> kr_scan_in_of(const kr_call *c) {
    const krait_scan_desc *d = (const krait_scan_desc *)c->attr;
    kr_scan_in<T> g = {};
    const int arrays[KR_ARRAYS] = {KR_SCAN_X, KR_SCAN_DT, KR_SCAN_Z, KR_SCAN_DY};
    g.E = kr_scan_lanes(d);
    g.vector = g.E % 4 == 0;
    for (int a = 0; a < KR_ARRAYS; a++) {
        if (arrays[a] == KR_SCAN_DY && c->n_in <= KR_SCAN_DY) continue;
        g.tile[a] = kr_rows_in<T>(c, arrays[a]);
        g.vector = g.vector && kr_quads_fit<T>(g.tile[a].p, g.tile[a].row);
    }
    g.b = kr_rows_in<T>(c, KR_SCAN_B);
    g.c = kr_rows_in<T>(c, KR_SCAN_C);
    g.N = (int)d->state;
    g.vector_bc =
        g.N % 4 == 0 && kr_quads_fit<T>(g.b.p, g.b.row) && kr_quads_fit<T>(g.c.p, g.c.row);
    g.A = (const float *)kr_data_in(c, KR_SCAN_A);
    g.D = (const float *)kr_data_in(c, KR_SCAN_D);
    g.bias = (const float *)kr_data_in(c, KR_SCAN_BIAS);
    g.state = (const float *)kr_data_in(c, KR_SCAN_STATE);
    g.dstate = c->n_in > KR_SCAN_DSTATE ? (const float *)kr_data_in(c, KR_SCAN_DSTATE) : NULL;
    g.state_slot = g.state ? c->in[KR_SCAN_STATE].stride[0] : 0;
    g.dstate_slot = g.dstate ? c->in[KR_SCAN_DSTATE].stride[0] : 0;
    g.seqs = (const int64_t *)kr_data_in(c, KR_SCAN_SEQS);
    g.seqs_row = c->in[KR_SCAN_SEQS].stride[0];
    g.reset = (const uint8_t *)kr_data_in(c, KR_SCAN_RESET);
    g.S = c->in[KR_SCAN_SEQS].shape[0];
    g.M = c->in[KR_SCAN_X].shape[0];
    g.chunk = INT64_MAX / 2;
    g.blocks = (g.N + KR_SCAN_GPU_STATES - 1) / KR_SCAN_GPU_STATES;
    g.D_width = (int)(d->skip_per_channel ? 1 : d->width);
    g.dt_min = (float)d->dt_min;
    g.dt_max = (float)d->dt_max;
    g.softplus = d->dt_softplus;
    g.reverse = d->order == KRAIT_ORDER_REVERSE;
    return g;
}

#endif
