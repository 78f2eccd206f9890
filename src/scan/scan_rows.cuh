/* scan_rows.cuh - every real or complex member that no other kernel does, on the GPU (plan ROWS:
 * linear attention with a decay of its own for each state, Mamba-3, reverse order, ...): what both
 * directions share.
 *
 * A thread holds a tile of one head's state in registers, KP channels x KN numbers, and takes it
 * through time; so a row costs it the loads of KP + 2 or 3 KN numbers for KP KN updates. The
 * threads side by side, `lanes` of them, have all N numbers of these channels: a unit. A block is
 * one sequence, and whole heads of a group, or a part of one head. Rows go by BATCH, so that the
 * loads of several are on their way at once.
 *
 * Sums over n are sums over a unit's lanes, by shuffles that hand each lane its own share of them.
 * Sums over channels go through shared memory. */
#ifndef KR_SCAN_ROWS_CUH
#define KR_SCAN_ROWS_CUH

#include "device/cuda/pack.cuh"
#include "scan/scan_gpu.cuh"

enum { KR_ROWS_THREADS = KR_SCAN_ROWS_THREADS };

/* W numbers are a real one, or a complex one; LOW: the decay has a part of low rank, and a thread
 * one channel. */
template <bool COMPLEX, int CHANNELS, int BATCH_, bool LOW_ = false>
struct kr_rows_tile {
    static const int W = COMPLEX ? 2 : 1, KP = CHANNELS, KN = 16 / W / KP, BATCH = BATCH_;
    static const bool LOW = LOW_;
    typedef float state[KP][KN][W];
    typedef float numbers[KN][W];
};

/* An array of the call; row 0: constant in time. wide: f32 whatever the activations are. */
struct kr_rows_array {
    const void *p; /* NULL: absent */
    int64_t row;
    bool wide, fast; /* fast: whole packs are aligned */
};

struct kr_rows_view : kr_scan_time {
    kr_rows_array x, dt, A, b, c, z, gain, dy;
    const float *D, *bias, *state, *dstate;
    int64_t state_slot, dstate_slot, H, P, G, N, R, Q;
    int64_t rank; /* of what is of low rank */
    krait_scan_decay decay;
    krait_scan_form form;
    krait_scan_gain gains;
    kr_scan_gpu_tiles cut;
    float kappa, dt_min, dt_max; /* dt_max: infinity for none */
    bool softplus, skip_per_channel;
};

/* Where a thread works: channels e .. e + p_left of head h, numbers n .. n + n_left. */
struct kr_rows_lane {
    int64_t h, g, e, n, unit; /* unit: of the head */
    int j, local;             /* which lane of its unit; the unit's place in the block */
    int p_left, n_left;       /* 0: there is nothing for it */
};

template <class K>
__device__ __forceinline__ kr_rows_lane kr_rows_lane_of(const kr_rows_view &g, int64_t part) {
    const kr_scan_gpu_tiles &cut = g.cut;
    kr_rows_lane l;
    l.local = (int)threadIdx.x / cut.lanes;
    l.j = (int)threadIdx.x % cut.lanes;
    int64_t first = part / cut.parts * cut.heads;
    l.h = first + l.local / cut.units;
    l.unit = part % cut.parts * cut.units + l.local % cut.units;
    int64_t p = l.unit * K::KP;
    bool alive = l.local < cut.heads * cut.units && l.h < g.H && p < g.P;
    if (!alive) l.h = p = 0;
    l.g = l.h / (g.H / g.G);
    l.e = l.h * g.P + p;
    l.n = (int64_t)l.j * K::KN;
    l.p_left = alive ? (int)min(g.P - p, (int64_t)K::KP) : 0;
    l.n_left = alive ? (int)max(min(g.N - l.n, (int64_t)K::KN), (int64_t)0) : 0;
    return l;
}

/* ---- numbers ---- */

template <int W>
__device__ __forceinline__ void kr_mul_add(const float (&a)[W], const float (&b)[W],
                                           float (&sum)[W]) {
    if constexpr (W == 1) {
        sum[0] = fmaf(a[0], b[0], sum[0]);
    } else {
        sum[0] = fmaf(a[0], b[0], fmaf(-a[1], b[1], sum[0]));
        sum[1] = fmaf(a[0], b[1], fmaf(a[1], b[0], sum[1]));
    }
}
/* sum += conj(a) b */
template <int W>
__device__ __forceinline__ void kr_mul_conj(const float (&a)[W], const float (&b)[W],
                                            float (&sum)[W]) {
    if constexpr (W == 1) {
        sum[0] = fmaf(a[0], b[0], sum[0]);
    } else {
        sum[0] = fmaf(a[0], b[0], fmaf(a[1], b[1], sum[0]));
        sum[1] = fmaf(a[0], b[1], fmaf(-a[1], b[0], sum[1]));
    }
}
/* Re(a b), and Re(a conj(b)), added to sum. */
template <int W>
__device__ __forceinline__ float kr_re_add(const float (&a)[W], const float (&b)[W], float sum) {
    sum = fmaf(a[0], b[0], sum);
    if constexpr (W == 2) sum = fmaf(-a[1], b[1], sum);
    return sum;
}
template <int W>
__device__ __forceinline__ float kr_re_conj(const float (&a)[W], const float (&b)[W], float sum) {
    sum = fmaf(a[0], b[0], sum);
    if constexpr (W == 2) sum = fmaf(a[1], b[1], sum);
    return sum;
}

/* ---- loads ---- */

template <int V, typename T>
__device__ __forceinline__ void kr_rows_get(const T *p, bool fast, int left, float (&v)[V]) {
    constexpr int PACK = V < 4 ? V : 4;
    if (fast && left == V) {
#pragma unroll
        for (int i = 0; i < V; i += PACK) kr_load_pack<PACK>(p + i, *(float(*)[PACK])(v + i));
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = i < left ? kr_load(p + i) : 0;
    }
}

/* V neighbours of a row, from column `at` on; zeros behind `left`. */
template <typename T, int V>
__device__ __forceinline__ void kr_rows_load(const kr_rows_array &a, int64_t row, int64_t at,
                                             int left, float (&v)[V]) {
    at += row * a.row;
    if (kr_accurate<T>::value || a.wide)
        kr_rows_get((const float *)a.p + at, a.fast, left, v);
    else
        kr_rows_get((const T *)a.p + at, a.fast, left, v);
}

template <typename T>
__device__ __forceinline__ float kr_rows_one(const kr_rows_array &a, int64_t row, int64_t at) {
    float v[1];
    kr_rows_load<T>(a, row, at, 1, v);
    return v[0];
}

/* The lane's numbers of a vector of N that begins at column `at`. */
template <typename T, class K>
__device__ __forceinline__ void kr_rows_numbers(const kr_rows_view &g, const kr_rows_lane &l,
                                                const kr_rows_array &a, int64_t row, int64_t at,
                                                typename K::numbers &v) {
#pragma unroll
    for (int w = 0; w < K::W; w++) {
        float part[K::KN];
        kr_rows_load<T>(a, row, at + w * g.N + l.n, l.n_left, part);
#pragma unroll
        for (int i = 0; i < K::KN; i++) v[i][w] = part[i];
    }
}

template <typename T, class K>
__device__ __forceinline__ void kr_rows_b(const kr_rows_view &g, const kr_rows_lane &l, int64_t row,
                                          int64_t r, typename K::numbers &v) {
    kr_rows_numbers<T, K>(g, l, g.b, row, (r * g.G + l.g) * g.N * K::W, v);
}
template <typename T, class K>
__device__ __forceinline__ void kr_rows_c(const kr_rows_view &g, const kr_rows_lane &l, int64_t row,
                                          int64_t q, typename K::numbers &v) {
    kr_rows_numbers<T, K>(g, l, g.c, row, (q * g.G + l.g) * g.N * K::W, v);
}

/* A of channel k of the lane. */
template <typename T, class K>
__device__ __forceinline__ void kr_rows_A(const kr_rows_view &g, const kr_rows_lane &l, int64_t row,
                                          int k, typename K::numbers &v) {
    if (g.decay != KRAIT_DECAY_SCALAR) {
        int64_t at = g.decay == KRAIT_DECAY_MATRIX ? l.e + k : l.h;
        kr_rows_numbers<T, K>(g, l, g.A, row, (1 + 2 * g.rank) * at * g.N * K::W, v);
        return;
    }
    float one[K::W];
    kr_rows_load<T>(g.A, row, l.h * K::W, K::W, one);
#pragma unroll
    for (int i = 0; i < K::KN; i++)
#pragma unroll
        for (int w = 0; w < K::W; w++) v[i][w] = one[w];
}

/* ---- a row's decays and gains ---- */

/* What a lane keeps of A where it is constant in time: the decays themselves unless they depend on
 * delta. */
template <typename T, class K>
struct kr_rows_decay {
    typename K::state A;

    static __device__ __forceinline__ void raise(typename K::numbers &v) {
#pragma unroll
        for (int i = 0; i < K::KN; i++) {
            float size = kr_exp<T>(v[i][0]);
            if constexpr (K::W == 2) {
                float sine, cosine;
                sincosf(v[i][1], &sine, &cosine);
                v[i][1] = size * sine;
                v[i][0] = size * cosine;
            } else {
                v[i][0] = size;
            }
        }
    }
    __device__ __forceinline__ void open(const kr_rows_view &g, const kr_rows_lane &l) {
        if (g.decay == KRAIT_DECAY_NONE || g.A.row || !l.p_left) return;
#pragma unroll
        for (int k = 0; k < K::KP; k++) {
            if (k >= l.p_left) break;
            kr_rows_A<T, K>(g, l, 0, k, A[k]);
            if (g.form == KRAIT_FORM_LOG) raise(A[k]);
        }
    }
    /* A itself, where the form is DT. */
    __device__ __forceinline__ void raw(const kr_rows_view &g, const kr_rows_lane &l, int64_t row,
                                        int k, typename K::numbers &v) const {
        if (g.A.row) {
            kr_rows_A<T, K>(g, l, row, k, v);
            return;
        }
#pragma unroll
        for (int i = 0; i < K::KN; i++)
#pragma unroll
            for (int w = 0; w < K::W; w++) v[i][w] = A[k][i][w];
    }
    /* The decays of channel k in a row. */
    __device__ __forceinline__ void of(const kr_rows_view &g, const kr_rows_lane &l, int64_t row,
                                       int k, float delta, typename K::numbers &v) const {
        if (g.decay == KRAIT_DECAY_NONE || !l.p_left) { /* without channels: zeros stay zeros */
#pragma unroll
            for (int i = 0; i < K::KN; i++) {
                v[i][0] = 1;
                if constexpr (K::W == 2) v[i][1] = 0;
            }
            return;
        }
        raw(g, l, row, k, v);
        if (g.form == KRAIT_FORM_DT)
#pragma unroll
            for (int i = 0; i < K::KN; i++)
#pragma unroll
                for (int w = 0; w < K::W; w++) v[i][w] *= delta;
        if (g.form == KRAIT_FORM_DT || (g.form == KRAIT_FORM_LOG && g.A.row)) raise(v);
    }
};

/* delta of each channel in a row, and its slope; all alike where a head has one. */
template <typename T, class K>
__device__ __forceinline__ void kr_rows_delta(const kr_rows_view &g, const kr_rows_lane &l,
                                              int64_t row, float (&delta)[K::KP],
                                              float (&slope)[K::KP]) {
#pragma unroll
    for (int k = 0; k < K::KP; k++) delta[k] = slope[k] = 0;
    if (!g.dt.p) return;
#pragma unroll
    for (int k = 0; k < K::KP; k++) {
        bool own = g.decay == KRAIT_DECAY_MATRIX;
        int64_t at = own ? l.e + k : l.h;
        if (k >= l.p_left) break;
        if (k > 0 && !own) {
            delta[k] = delta[0], slope[k] = slope[0];
            continue;
        }
        float v = kr_rows_one<T>(g.dt, row, at) + (g.bias ? g.bias[at] : 0);
        delta[k] = kr_delta<T>(g, v, &slope[k]);
    }
}

__device__ __forceinline__ int64_t kr_rows_at(const kr_scan_span &p, int64_t t) {
    return p.row + p.dir * t;
}

/* gain x of input r, each channel. */
template <typename T, class K>
__device__ __forceinline__ void kr_rows_x(const kr_rows_view &g, const kr_rows_lane &l, int64_t row,
                                          int64_t r, float (&x)[K::KP]) {
    kr_rows_load<T>(g.x, row, r * g.H * g.P + l.e, l.p_left, x);
}
template <typename T>
__device__ __forceinline__ float kr_rows_gain(const kr_rows_view &g, const kr_rows_lane &l,
                                              int64_t row, int64_t r, float delta) {
    if (g.gains == KRAIT_GAIN_ONE) return 1;
    if (g.gains == KRAIT_GAIN_DT) return delta;
    return l.p_left ? kr_rows_one<T>(g.gain, row, r * g.H + l.h) : 0;
}

/* ---- a decay's part of low rank: - sum_k p_k kappa Re(q_k . h) ---- */

template <typename T, class K>
__device__ __forceinline__ void kr_rows_p(const kr_rows_view &g, const kr_rows_lane &l, int64_t k,
                                          typename K::numbers &v) {
    kr_rows_numbers<T, K>(g, l, g.A, 0, ((1 + 2 * g.rank) * l.h + 1 + k) * g.N * K::W, v);
}
template <typename T, class K>
__device__ __forceinline__ void kr_rows_q(const kr_rows_view &g, const kr_rows_lane &l, int64_t k,
                                          typename K::numbers &v) {
    kr_rows_p<T, K>(g, l, g.rank + k, v);
}

/* Over the lanes of a unit, in all of them. */
__device__ __forceinline__ float kr_rows_unit_sum(const kr_rows_view &g, float v) {
    for (int d = 1; d < g.cut.lanes; d *= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

/* kappa Re(q . h) */
template <class K>
__device__ __forceinline__ float kr_rows_low(const kr_rows_view &g, const typename K::numbers &q,
                                             const typename K::numbers &h) {
    float sum[2] = {};
#pragma unroll
    for (int i = 0; i < K::KN; i++) sum[i % 2] = kr_re_add(q[i], h[i], sum[i % 2]);
    return g.kappa * kr_rows_unit_sum(g, sum[0] + sum[1]);
}

/* Of state h, from what becomes the next. */
template <typename T, class K>
__device__ __forceinline__ void kr_rows_lower(const kr_rows_view &g, const kr_rows_lane &l,
                                              const typename K::numbers &h,
                                              typename K::numbers &next) {
#pragma unroll 2
    for (int64_t k = 0; k < g.rank; k++) {
        typename K::numbers p, q;
        kr_rows_p<T, K>(g, l, k, p);
        kr_rows_q<T, K>(g, l, k, q);
        float s = kr_rows_low<K>(g, q, h);
#pragma unroll
        for (int i = 0; i < K::KN; i++)
#pragma unroll
            for (int w = 0; w < K::W; w++) next[i][w] = fmaf(-s, p[i][w], next[i][w]);
    }
}

/* ---- rows forward ---- */

/* What a batch of rows has of its own. */
template <class K>
struct kr_rows_batch {
    typename K::state h[K::BATCH]; /* behind each row */
    float delta[K::BATCH][K::KP], slope[K::BATCH][K::KP];
    int count;      /* rows that are there */
    uint32_t fresh; /* bit f: a segment starts at row f */
};

/* h = sum over r of gain x b. */
template <typename T, class K>
__device__ __forceinline__ void kr_rows_inputs(const kr_rows_view &g, const kr_rows_lane &l,
                                               const kr_scan_span &p, int64_t t0,
                                               kr_rows_batch<K> &v) {
    memset(v.h, 0, sizeof v.h);
    for (int64_t r = 0; r < g.R; r++) {
        float x[K::BATCH][K::KP];
        typename K::numbers b[K::BATCH];
#pragma unroll
        for (int f = 0; f < K::BATCH; f++) {
            if (f >= v.count) break;
            int64_t row = kr_rows_at(p, t0 + f);
            kr_rows_x<T, K>(g, l, row, r, x[f]);
            kr_rows_b<T, K>(g, l, row, r, b[f]);
#pragma unroll
            for (int k = 0; k < K::KP; k++) x[f][k] *= kr_rows_gain<T>(g, l, row, r, v.delta[f][k]);
        }
#pragma unroll
        for (int f = 0; f < K::BATCH; f++) {
            if (f >= v.count) break;
#pragma unroll
            for (int k = 0; k < K::KP; k++)
#pragma unroll
                for (int i = 0; i < K::KN; i++)
#pragma unroll
                    for (int w = 0; w < K::W; w++)
                        v.h[f][k][i][w] = fmaf(x[f][k], b[f][i][w], v.h[f][k][i][w]);
        }
    }
}

/* Rows t0 .. t0 + BATCH of a piece: the states behind each, from h, which moves behind them all. */
template <typename T, class K>
__device__ __forceinline__ void kr_rows_advance(const kr_rows_view &g, const kr_rows_lane &l,
                                                const kr_scan_span &p, int64_t t0,
                                                const kr_rows_decay<T, K> &decay,
                                                typename K::state &h, kr_rows_batch<K> &v) {
    v.count = (int)min(p.steps - t0, (int64_t)K::BATCH);
    v.fresh = 0;
#pragma unroll
    for (int f = 0; f < K::BATCH; f++) {
        if (f >= v.count) break;
        if (kr_starts(g, p, t0 + f)) v.fresh |= 1u << f;
        kr_rows_delta<T, K>(g, l, kr_rows_at(p, t0 + f), v.delta[f], v.slope[f]);
    }
    kr_rows_inputs<T, K>(g, l, p, t0, v);
#pragma unroll
    for (int f = 0; f < K::BATCH; f++) {
        if (f >= v.count) break;
        typename K::numbers a;
        bool fresh = v.fresh >> f & 1;
        if constexpr (K::LOW)
            if (!fresh) kr_rows_lower<T, K>(g, l, h[0], v.h[f][0]);
#pragma unroll
        for (int k = 0; k < K::KP; k++) {
            if (k == 0 || (g.decay == KRAIT_DECAY_MATRIX && k < l.p_left))
                decay.of(g, l, kr_rows_at(p, t0 + f), k, v.delta[f][k], a);
#pragma unroll
            for (int i = 0; i < K::KN; i++) {
                if (!fresh) kr_mul_add(a[i], h[k][i], v.h[f][k][i]);
#pragma unroll
                for (int w = 0; w < K::W; w++) h[k][i][w] = v.h[f][k][i][w];
            }
        }
    }
}

/* The lane's tile of a slot; from NULL zeros. */
template <class K>
__device__ __forceinline__ void kr_rows_state(const kr_rows_view &g, const kr_rows_lane &l,
                                              const float *states, typename K::state &h) {
#pragma unroll
    for (int k = 0; k < K::KP; k++)
#pragma unroll
        for (int i = 0; i < K::KN; i++)
#pragma unroll
            for (int w = 0; w < K::W; w++) {
                bool in = states && k < l.p_left && i < l.n_left;
                h[k][i][w] = in ? states[((l.e + k) * K::W + w) * g.N + l.n + i] : 0;
            }
}

/* f(k, i, w, index of that number in a slot) for each number of the lane. */
template <class K, typename F>
__device__ __forceinline__ void kr_rows_each(const kr_rows_view &g, const kr_rows_lane &l, F f) {
#pragma unroll
    for (int k = 0; k < K::KP; k++)
#pragma unroll
        for (int i = 0; i < K::KN; i++)
#pragma unroll
            for (int w = 0; w < K::W; w++)
                if (k < l.p_left && i < l.n_left)
                    f(k, i, w, ((l.e + k) * K::W + w) * g.N + l.n + i);
}

/* ---- sums over n ---- */

/* Which of COUNT sums a lane of a unit gets: `owned` of them, from number `first` on. */
template <int COUNT>
struct kr_rows_share {
    int first, owned;
};

/* The sums of v over the lanes of a unit: at each step a lane keeps half of its numbers and hands
 * the others over, until one is left. */
template <int COUNT>
__device__ __forceinline__ kr_rows_share<COUNT> kr_rows_sum(float (&v)[COUNT], int lanes, int j) {
    kr_rows_share<COUNT> mine = {0, COUNT};
    int d = 1;
#pragma unroll
    for (int half = COUNT / 2; half > 0; half /= 2, d *= 2) {
        if (d >= lanes) break;
        bool high = j & d;
#pragma unroll
        for (int i = 0; i < half; i++) {
            float keep = high ? v[half + i] : v[i], give = high ? v[i] : v[half + i];
            v[i] = keep + __shfl_xor_sync(0xffffffffu, give, d);
        }
        if (high) mine.first += half;
        mine.owned = half;
    }
    for (; d < lanes; d *= 2) {
        v[0] += __shfl_xor_sync(0xffffffffu, v[0], d);
        if (j & d) mine.owned = 0;
    }
    return mine;
}

/* ---- calls ---- */

static inline kr_rows_array kr_rows_array_of(const kr_call *c, int i, bool constant,
                                             int64_t width) {
    if (i >= c->n_in || !c->in[i].data) return {NULL, 0, false, false};
    const kr_tensor *t = &c->in[i];
    kr_rows_array a = {t->data, constant ? 0 : t->stride[0], t->dtype == KR_F32, false};
    a.fast =
        (uintptr_t)a.p % (4 * kr_dtype_size(t->dtype)) == 0 && a.row % 4 == 0 && width % 4 == 0;
    return a;
}

static inline kr_rows_view kr_rows_view_of(const kr_call *c) {
    const krait_scan_desc *d = (const krait_scan_desc *)c->attr;
    kr_rows_view g = {};
    (kr_scan_time &)g = kr_scan_time_of(c, INT64_MAX / 2);
    kr_scan_gpu_tiles_of(d, &g.cut);
    g.x = kr_rows_array_of(c, KR_SCAN_X, false, d->width);
    g.z = kr_rows_array_of(c, KR_SCAN_Z, false, d->width);
    g.dy = kr_rows_array_of(c, KR_SCAN_DY, false, d->width);
    g.dt = kr_rows_array_of(c, KR_SCAN_DT, d->dt_constant, 1);
    g.A = kr_rows_array_of(c, KR_SCAN_A, d->a_constant,
                           d->decay == KRAIT_DECAY_SCALAR ? 1 : d->state);
    g.b = kr_rows_array_of(c, KR_SCAN_B, d->b_constant, d->state);
    g.c = kr_rows_array_of(c, KR_SCAN_C, d->c_constant, d->state);
    g.gain = kr_rows_array_of(c, KR_SCAN_GAIN, false, 1);
    g.D = (const float *)kr_data_in(c, KR_SCAN_D);
    g.bias = (const float *)kr_data_in(c, KR_SCAN_BIAS);
    g.state = (const float *)kr_data_in(c, KR_SCAN_STATE);
    g.dstate = c->n_in > KR_SCAN_DSTATE ? (const float *)kr_data_in(c, KR_SCAN_DSTATE) : NULL;
    g.state_slot = g.state ? c->in[KR_SCAN_STATE].stride[0] : 0;
    g.dstate_slot = g.dstate ? c->in[KR_SCAN_DSTATE].stride[0] : 0;
    g.H = d->heads;
    g.P = d->width;
    g.G = d->groups;
    g.N = d->state;
    g.R = d->inputs;
    g.Q = d->reads;
    g.rank = d->low_rank;
    g.decay = d->decay;
    g.form = d->form;
    g.gains = d->gain;
    g.kappa = (float)d->kappa;
    g.dt_min = (float)d->dt_min;
    g.dt_max = d->dt_max > 0 ? (float)d->dt_max : INFINITY;
    g.softplus = d->dt_softplus;
    g.skip_per_channel = d->skip_per_channel;
    return g;
}

/* D of channel k of the lane; 0 without. */
__device__ __forceinline__ float kr_rows_skip(const kr_rows_view &g, const kr_rows_lane &l, int k) {
    if (!g.D) return 0;
    return g.D[g.skip_per_channel ? l.e + k : l.h];
}

#endif
