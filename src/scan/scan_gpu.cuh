/* scan_gpu.cuh - what the kernels of the recurrence share on the GPU.
 *
 * Work of a warp: 8 channels x 4 groups of 4 states; a lane holds 4 states of one channel in
 * registers. More than 16 states take more warps. Bits 2 and 3 of the lane number the group, so
 * that neighbouring lanes read the same b and c. (On the tensor units bits 0 and 1: scan_mma.cuh.)
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
#include "scan/scan_span.cuh"

#define KR_LOG2E 1.4426950408889634f
#define KR_LN2 0.6931471805599453f

enum { KR_ARRAYS = 4 };

template <typename T>
struct kr_scan_rows {
    const T *p; /* NULL: absent */
    int64_t row;
};

template <typename T>
struct kr_scan_in : kr_scan_time {
    kr_scan_rows<T> tile[KR_ARRAYS]; /* x, dt, z, dy: [M,E] */
    kr_scan_rows<T> b, c;            /* [M,N] */
    const float *A, *D, *bias, *state, *dstate;
    int64_t state_slot, dstate_slot;
    int64_t E;
    int N, blocks, octets, D_width;
    float dt_min, dt_max; /* dt_max: infinity for none */
    bool softplus;
    int align, align_bc; /* rows may be copied by so many elements */
};

/* ---- numbers ---- */

/* What the lanes of a warp hand each other of the pairs (row, channel) that are their own: delta,
 * delta x, and what joins the exponent of the decay: KR_STOP where a segment starts, so that no
 * state passes into it; in the backward pass du. */
enum { KR_DELTA, KR_GAIN_X, KR_CUT, KR_DU, KR_HANDED };
#define KR_STOP (-1e30f)

__device__ __forceinline__ float kr_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float kr_log2(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float kr_rcp(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
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
    return kr_accurate<T>::value ? 1.0f / x : kr_rcp(x);
}
/* log(1 + w): the series where the logarithm would lose w's digits. */
template <typename T>
__device__ __forceinline__ float kr_log1p(float w) {
    if (kr_accurate<T>::value) return log1pf(w);
    float small = w * (1 - w * (0.5f - w * (0.33333333f - w * 0.25f)));
    float large = kr_log2(1 + w) * KR_LN2;
    return w < 0.03125f ? small : large;
}

/* delta of a raw step, and its derivative. G has softplus, dt_min and dt_max. */
template <typename T, class G>
__device__ __forceinline__ float kr_delta(const G &g, float v, float *slope) {
    bool soft = g.softplus && v <= 20;
    float w = kr_exp<T>(v), l = kr_log1p<T>(w), p = w * kr_recip<T>(1 + w);
    float delta = soft ? l : v, clamped = fminf(fmaxf(delta, g.dt_min), g.dt_max);
    *slope = clamped != delta ? 0 : soft ? p : 1;
    return clamped;
}

template <typename T>
__device__ __forceinline__ float kr_sigmoid(float z) {
    return kr_recip<T>(1 + kr_exp<T>(-z));
}

/* ---- lanes ---- */

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
    int lane, warp, group, other; /* other: channel in the warp */
    int block;                    /* of 16 states */
    int n;                        /* its quad of states in arrays of the kernels' own */
    int low, jump;                /* its states: low, low + 1, low + jump, low + jump + 1 */
    int c;                        /* channel in the tile */
    int64_t channel;              /* in [0, E) when alive */
    bool alive;
};

/* Quad number `quad` of a channel's states. */
template <bool MMA>
__device__ __forceinline__ void kr_lane_states(kr_scan_lane &l, int quad) {
    l.n = quad * 4;
    l.low = MMA ? quad * 2 : l.n;
    l.jump = MMA ? 8 : 2;
}
__device__ __forceinline__ int kr_state_of(const kr_scan_lane &l, int i) {
    return l.low + (i & 1) + (i >> 1) * l.jump;
}

template <class K, typename T>
__device__ __forceinline__ kr_scan_lane kr_lane(const kr_scan_in<T> &g, int64_t first_channel) {
    const int blocks = K::WIDE ? g.blocks : 1;
    kr_scan_lane l;
    l.lane = threadIdx.x & 31;
    l.warp = threadIdx.x >> 5;
    l.group = K::MMA ? l.lane & 3 : l.lane >> 2 & 3;
    l.other = K::MMA ? l.lane >> 2 : (l.lane & 3) | (l.lane >> 4) << 2;
    l.block = l.warp % blocks;
    kr_lane_states<K::MMA>(l, l.block * 4 + l.group);
    l.c = l.warp / blocks * 8 + l.other;
    l.channel = first_channel + l.c;
    l.alive = l.channel < g.E;
    return l;
}

/* A log2 e of the lane's states; 0 where there are none. */
template <typename T>
__device__ __forceinline__ void kr_load_A(const kr_scan_in<T> &g, const kr_scan_lane &l,
                                          float (&A)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int n = kr_state_of(l, i);
        A[i] = l.alive && n < g.N ? g.A[l.channel * g.N + n] * KR_LOG2E : 0;
    }
}

/* D of a channel; 0 without. */
template <typename T>
__device__ __forceinline__ float kr_load_D(const kr_scan_in<T> &g, int64_t channel) {
    if (!g.D) return 0;
    return g.D[g.D_width == 1 ? channel : channel / g.D_width];
}

/* 4 states of a slot; zeros from NULL. */
template <typename T>
__device__ __forceinline__ void kr_load_state(const kr_scan_in<T> &g, const kr_scan_lane &l,
                                              const float *state, float (&h)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int n = kr_state_of(l, i);
        h[i] = state && l.alive && n < g.N ? state[l.channel * g.N + n] : 0;
    }
}

/* ---- tiles ---- */

/* A tile: ROWS rows of CHANNELS channels of ARRAYS arrays (2 stages), and b and c. CHANNELS 0 is
 * the wide form, more than 16 states: its sizes are known at run time. */
template <typename TYPE, int ROWS_, int CHANNELS_, int ARRAYS_>
struct kr_tile {
    typedef TYPE T;
    static const int ROWS = ROWS_, CHANNELS = CHANNELS_, ARRAYS = ARRAYS_;
    static const bool WIDE = CHANNELS == 0;
    static const bool MMA = !WIDE && !kr_accurate<TYPE>::value; /* scan_mma.cuh */
    static const int PIECE = 16 / (int)sizeof(T);               /* elements in a copy */
    /* floats that the lanes of a warp hand over: rows of a step, or of a tile for MMA */
    static const int PITCH = ROWS + 8, OWN_MMA = 8 * PITCH * (ARRAYS == 4 ? 5 : 2);
    static const int OWN = MMA ? OWN_MMA : 64 * (ARRAYS == 4 ? 4 : 3);

    T *raw;         /* [2 stages][ARRAYS][ROWS][pitch] */
    T *raw_bc;      /* [2 stages][2][ROWS][padded N] */
    float *b, *c;   /* [ROWS][padded N]; not for MMA */
    float *own;     /* [warps][OWN / 64][64]; for MMA [warps][][8 channels][PITCH] */
    uint8_t *reset; /* [ROWS] */
    float *cut;     /* [2 stages][ROWS]: for MMA, instead of reset: joins the exponents of decays */
    float *sums;    /* more, as the kernel needs */
    float *bias, *skip; /* [CHANNELS]: for MMA, dt_bias and D */
    float4 *kept;       /* [2][threads]: for MMA in the backward pass, dA; dD and dbias */
    int wide_channels, blocks;

    __host__ __device__ int channels() const { return WIDE ? wide_channels : CHANNELS; }
    __host__ __device__ int padded() const { return WIDE ? 16 * blocks : 16; }
    __host__ __device__ int pitch() const { return channels() + 16 / (int)sizeof(T); }
    __host__ __device__ int threads() const {
        return WIDE ? wide_channels / 8 * blocks * 32 : CHANNELS * 4;
    }
    /* `count` pieces of work shared out over the threads: rounds, and whether there is no piece i
     */
    __device__ __forceinline__ int rounds(int count) const {
        return (count + threads() - 1) / threads();
    }
    __device__ __forceinline__ bool beyond(int i, int count) const {
        return (WIDE || count % threads()) && i >= count;
    }
    __device__ __forceinline__ T *at(int stage, int array, int t) const {
        return raw + ((stage * ARRAYS + array) * ROWS + t) * pitch();
    }
    __device__ __forceinline__ T *bc_at(int stage, int which, int t) const {
        return raw_bc + ((stage * 2 + which) * ROWS + t) * padded();
    }

    /* Takes its parts from base on; returns the bytes that they need, with `more` floats. */
    __host__ __device__ size_t carve(char *base, int octets, int state_blocks, int more) {
        wide_channels = 8 * octets;
        blocks = state_blocks;
        raw = (T *)base;
        raw_bc = raw + 2 * ARRAYS * ROWS * pitch();
        b = (float *)(raw_bc + 2 * ROWS * 2 * padded());
        c = b + (MMA ? 0 : ROWS * padded());
        cut = c + (MMA ? 0 : ROWS * padded());
        bias = cut + (MMA ? 2 * ROWS : 0);
        skip = bias + (MMA ? CHANNELS : 0);
        kept = (float4 *)(skip + (MMA ? CHANNELS : 0));
        own = (float *)(kept + (MMA && ARRAYS == 4 ? 2 * threads() : 0));
        reset = (uint8_t *)(own + threads() / 32 * OWN);
        sums = (float *)(reset + ROWS);
        return (size_t)((char *)(sums + more) - base);
    }
};

/* 16 bytes, or zeros: then nothing is read. */
__device__ __forceinline__ void kr_copy_async(void *to, const void *from, bool there) {
    unsigned at = (unsigned)__cvta_generic_to_shared(to), bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void kr_copy_commit() { asm volatile("cp.async.commit_group;"); }
__device__ __forceinline__ void kr_copy_wait() {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

/* Rows of any width and alignment, element by element; what is not there becomes 0. */
template <typename T>
__device__ __noinline__ void kr_copy_slow(T *to, int pitch, int rows, int width, const T *from,
                                          int64_t stride, int rows_there, int width_there) {
    for (int i = threadIdx.x; i < rows * width; i += blockDim.x) {
        int t = i / width, c = i % width;
        if (t < rows_there && c < width_there)
            to[t * pitch + c] = from[t * stride + c];
        else
            kr_store(to + t * pitch + c, 0.0f);
    }
}

/* The same by pieces. */
template <class K>
__device__ __forceinline__ void kr_copy_fast(const K &k, typename K::T *to, int pitch, int width,
                                             const typename K::T *from, int64_t stride,
                                             int rows_there, int width_there) {
    const int per = width / K::PIECE, count = K::ROWS * per;
#pragma unroll(K::WIDE ? 1 : 16)
    for (int r = 0; r < k.rounds(count); r++) {
        int i = threadIdx.x + r * k.threads(), t = i / per, c = i % per * K::PIECE;
        if (k.beyond(i, count)) break;
        kr_copy_async(to + t * pitch + c, from + t * stride + c, t < rows_there && c < width_there);
    }
}

/* Starts copying the rows of steps [from, from + ROWS) of a piece: arrays of g.tile, b and c. */
template <typename T, class K>
__device__ __forceinline__ void kr_tile_load(const kr_scan_in<T> &g, const K &k,
                                             const kr_scan_span &p, int64_t from, int stage,
                                             int64_t first) {
    int left = (int)min(p.steps - from, (int64_t)K::ROWS);
    int channels = (int)min(g.E - first, (int64_t)k.channels());
    int64_t row = p.row + p.dir * from;
    bool fast = g.align >= K::PIECE, fast_bc = g.align_bc >= K::PIECE && (K::WIDE || g.N == 16);
#pragma unroll
    for (int a = 0; a < K::ARRAYS; a++) {
        const T *src = g.tile[a].p + row * g.tile[a].row + first;
        int64_t stride = p.dir * g.tile[a].row;
        if (!g.tile[a].p) continue;
        if (fast)
            kr_copy_fast(k, k.at(stage, a, 0), k.pitch(), k.channels(), src, stride, left,
                         channels);
        else
            kr_copy_slow(k.at(stage, a, 0), k.pitch(), K::ROWS, k.channels(), src, stride, left,
                         channels);
    }
#pragma unroll
    for (int a = 0; a < 2; a++) {
        const kr_scan_rows<T> &m = a ? g.c : g.b;
        const T *src = m.p + row * m.row;
        if (fast_bc)
            kr_copy_fast(k, k.bc_at(stage, a, 0), k.padded(), k.padded(), src, p.dir * m.row, left,
                         g.N);
        else
            kr_copy_slow(k.bc_at(stage, a, 0), k.padded(), K::ROWS, k.padded(), src, p.dir * m.row,
                         left, g.N);
    }
    kr_copy_commit();
}

__device__ __forceinline__ void kr_widen8(const bf16 *from, float (&f)[8]) {
    uint4 v = *(const uint4 *)from;
    const unsigned w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        f[2 * i] = __uint_as_float(w[i] << 16);
        f[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
}
__device__ __forceinline__ void kr_widen8(const float *from, float (&f)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) f[i] = from[i];
}

/* b and c of the tile as floats, and its segment starts. */
template <typename T, class K>
__device__ __forceinline__ void kr_tile_convert(const kr_scan_in<T> &g, const K &k,
                                                const kr_scan_span &p, int64_t from, int stage) {
    const int count = K::ROWS * 2 * k.padded() / 8;
    const T *raw = k.bc_at(stage, 0, 0); /* b and then c, as the floats lie */
#pragma unroll(K::WIDE ? 1 : 4)
    for (int r = 0; r < k.rounds(count); r++) {
        int i = threadIdx.x + r * k.threads();
        if (k.beyond(i, count)) break;
        float f[8], *to = k.b + i * 8;
        kr_widen8(raw + i * 8, f);
        *(float4 *)to = make_float4(f[0], f[1], f[2], f[3]);
        *(float4 *)(to + 4) = make_float4(f[4], f[5], f[6], f[7]);
    }
    for (int t = threadIdx.x; t < K::ROWS; t += k.threads())
        k.reset[t] = g.reset && from + t < p.steps && kr_starts(g, p, from + t);
}

/* Rows of results that begin anywhere, or are added to what is there. */
template <typename T>
__device__ __noinline__ void kr_store_slow(const T *from, int pitch, int rows, int width, T *to,
                                           int64_t stride, bool accumulate) {
    for (int i = threadIdx.x; i < rows * width; i += blockDim.x) {
        int t = i / width, c = i % width;
        kr_put(to + t * stride + c, kr_load(from + t * pitch + c), accumulate);
    }
}

/* Writes array `a` of a tile, which now holds results, to its rows. align: of the rows. */
template <typename T, class K>
__device__ __forceinline__ void kr_tile_store(const kr_scan_in<T> &g, const K &k,
                                              const kr_scan_span &p, int64_t from, int stage, int a,
                                              T *out, int64_t out_row, int64_t first, int align,
                                              bool accumulate) {
    int left = (int)min(p.steps - from, (int64_t)K::ROWS);
    int channels = (int)min(g.E - first, (int64_t)k.channels()), per = k.channels() / K::PIECE;
    T *to = out + (p.row + p.dir * from) * out_row + first;
    int64_t stride = p.dir * out_row;
    if (accumulate || align < K::PIECE) {
        kr_store_slow(k.at(stage, a, 0), k.pitch(), left, channels, to, stride, accumulate);
        return;
    }
    const int count = K::ROWS * per;
#pragma unroll(K::WIDE ? 1 : 16)
    for (int r = 0; r < k.rounds(count); r++) {
        int i = threadIdx.x + r * k.threads(), t = i / per, c = i % per * K::PIECE;
        if (t < left && c < channels)
            *(uint4 *)(to + t * stride + c) = *(const uint4 *)(k.at(stage, a, t) + c);
    }
}

__device__ __forceinline__ void kr_get4(const float *from, float (&v)[4]) {
    float4 f = *(const float4 *)from;
    v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
}
__device__ __forceinline__ void kr_put4(float *to, const float (&v)[4]) {
    *(float4 *)to = make_float4(v[0], v[1], v[2], v[3]);
}

/* What the lanes of this channel handed over for rows 4 side to 4 side + 3. */
template <class K>
__device__ __forceinline__ void kr_hand(const K &k, const kr_scan_lane &l, int what, int side,
                                        float (&v)[4]) {
    kr_get4(k.own + l.warp * K::OWN + what * 64 + side * 32 + l.other * 4, v);
}

/* ---- pairs ---- */

/* Pairs (row, channel) that are the lane's own: e 0 and 1. dy: of the output, du: of the read;
 * slope of delta; gate, and gate_z dy times its slope. delta is 0 in rows that are not there. */
struct kr_pairs {
    float delta[2], gx[2], x[2], slope[2], gate[2], du[2], gate_z[2];
};

/* raw: dt with its bias. in: the row is there. */
template <typename T>
__device__ __forceinline__ void kr_pair_delta(const kr_scan_in<T> &g, float x, float raw, bool in,
                                              int e, kr_pairs &own) {
    float delta = kr_delta<T>(g, raw, &own.slope[e]);
    own.slope[e] = in ? own.slope[e] : 0;
    own.x[e] = x;
    own.delta[e] = in ? delta : 0;
    own.gx[e] = own.delta[e] * x;
}
template <typename T>
__device__ __forceinline__ void kr_pair_gate(const kr_scan_in<T> &g, float z, float dy, int e,
                                             kr_pairs &own) {
    float v = kr_sigmoid<T>(z);
    own.gate[e] = g.tile[2].p ? z * v : 1;
    own.du[e] = dy * own.gate[e];
    own.gate_z[e] = dy * v * (1 + z * (1 - v));
}

/* Rows group and 4 + group of a step; and hands them over, and where segments start. */
template <typename T, class K>
__device__ __forceinline__ void kr_prepare_step(const kr_scan_in<T> &g, const K &k,
                                                const kr_scan_lane &l, int stage, int t0, int left,
                                                float bias, kr_pairs &own) {
    float *mine = k.own + l.warp * K::OWN + l.other * 4 + l.group;
    __syncwarp();
#pragma unroll
    for (int e = 0; e < 2; e++, mine += 32) {
        int t = t0 + e * 4 + l.group;
        float x = kr_load(k.at(stage, 0, t) + l.c), raw = kr_load(k.at(stage, 1, t) + l.c) + bias;
        kr_pair_delta(g, x, raw, t < left && l.alive, e, own);
        if (K::ARRAYS > 2) {
            float dy = K::ARRAYS == 4 && g.tile[3].p ? kr_load(k.at(stage, 3, t) + l.c) : 0;
            kr_pair_gate(g, kr_load(k.at(stage, 2, t) + l.c), dy, e, own);
        }
        mine[KR_DELTA * 64] = own.delta[e];
        mine[KR_GAIN_X * 64] = own.gx[e];
        mine[KR_CUT * 64] = k.reset[t] ? KR_STOP : 0;
        if (K::ARRAYS == 4) mine[KR_DU * 64] = own.du[e];
    }
    __syncwarp();
}

/* ---- calls ---- */

/* The plan for sequences of one row (scan_step.cu); state_out is there. false: too many of them. */
bool kr_scan_step(const kr_call *c);

template <typename T>
static kr_scan_rows<T> kr_rows_in(const kr_call *c, int i) {
    if (i >= c->n_in || !c->in[i].data) return {NULL, 0};
    return {(const T *)c->in[i].data, c->in[i].stride[0]};
}

/* By how many elements rows may be copied: 16 bytes' worth, or 1. */
template <typename T>
static int kr_align_of(const void *p, int64_t row, int64_t width) {
    int a = 16 / (int)sizeof(T);
    return (uintptr_t)p % 16 == 0 && row % a == 0 && width % a == 0 ? a : 1;
}

template <typename T>
static kr_scan_in<T> kr_scan_in_of(const kr_call *c) {
    const krait_scan_desc *d = (const krait_scan_desc *)c->attr;
    kr_scan_in<T> g = {};
    const int arrays[KR_ARRAYS] = {KR_SCAN_X, KR_SCAN_DT, KR_SCAN_Z, KR_SCAN_DY};
    g.E = kr_scan_lanes(d);
    g.align = 8;
    for (int a = 0; a < KR_ARRAYS; a++) {
        if (arrays[a] == KR_SCAN_DY && c->n_in <= KR_SCAN_DY) continue;
        g.tile[a] = kr_rows_in<T>(c, arrays[a]);
        int align = kr_align_of<T>(g.tile[a].p, g.tile[a].row, g.E);
        if (align < g.align) g.align = align;
    }
    g.b = kr_rows_in<T>(c, KR_SCAN_B);
    g.c = kr_rows_in<T>(c, KR_SCAN_C);
    g.N = (int)d->state;
    g.align_bc = kr_align_of<T>(g.b.p, g.b.row, g.N);
    if (kr_align_of<T>(g.c.p, g.c.row, g.N) < g.align_bc)
        g.align_bc = kr_align_of<T>(g.c.p, g.c.row, g.N);
    g.A = (const float *)kr_data_in(c, KR_SCAN_A);
    g.D = (const float *)kr_data_in(c, KR_SCAN_D);
    g.bias = (const float *)kr_data_in(c, KR_SCAN_BIAS);
    g.state = (const float *)kr_data_in(c, KR_SCAN_STATE);
    g.dstate = c->n_in > KR_SCAN_DSTATE ? (const float *)kr_data_in(c, KR_SCAN_DSTATE) : NULL;
    g.state_slot = g.state ? c->in[KR_SCAN_STATE].stride[0] : 0;
    g.dstate_slot = g.dstate ? c->in[KR_SCAN_DSTATE].stride[0] : 0;
    (kr_scan_time &)g = kr_scan_time_of(c, INT64_MAX / 2);
    g.blocks = (g.N + KR_SCAN_GPU_STATES - 1) / KR_SCAN_GPU_STATES;
    g.octets = g.blocks == 1 ? 4 : g.blocks == 2 ? 2 : 1;
    g.D_width = (int)(d->skip_per_channel ? 1 : d->width);
    g.dt_min = (float)d->dt_min;
    g.dt_max = d->dt_max > 0 ? (float)d->dt_max : INFINITY;
    g.softplus = d->dt_softplus;
    return g;
}

#endif
