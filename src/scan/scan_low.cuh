/* scan_low.cuh - the recurrence whose decay is a complex diagonal minus a low rank, constant in
 * time, on the GPU (S4): what both directions share. What scan_gpu.c does not let pass here (LSSL,
 * a gate, higher ranks) goes to scan_rows.cuh.
 *
 *   h_t = a h_{t-1} - sum_k p_k kappa Re(q_k . h_{t-1}) + b x_t        y_t = kappa Re(c . h_t) + D
 * x_t
 *
 * A row waits for its sums over modes, so that what a row costs is how long one takes, not how many
 * operations it has, as long as warps are few. Hence few modes a thread and a short chain: a unit,
 * LOW_MODES modes a thread and as many threads side by side as have all N, takes a channel through
 * a sequence with everything in registers; only x comes from memory, a batch of rows ahead. Reads
 * are summed a batch at a time, beside the chain. kappa is multiplied into q and c. */
#ifndef KR_SCAN_LOW_CUH
#define KR_SCAN_LOW_CUH

#include "scan/scan_constant.cuh"

enum {
    KR_LOW_THREADS = KR_SCAN_LOW_THREADS,
    KR_LOW_MODES = KR_SCAN_LOW_MODES, /* of a thread */
    KR_LOW_BATCH = 8 /* rows whose x are loaded, and whose reads are summed, at once */
};

typedef float2 kr_low_modes[KR_LOW_MODES];

struct kr_low_view : kr_constant_view {
    int lanes;      /* of a unit */
    int64_t blocks; /* of a sequence */
};

/* Where a thread works: modes n .. n + left of channel h. */
struct kr_low_lane {
    int64_t h, n;
    int j, left; /* which lane of the unit; 0 modes: there is nothing for it */
};

__device__ __forceinline__ kr_low_lane kr_low_lane_of(const kr_low_view &g, int64_t block) {
    const int units = KR_LOW_THREADS / g.lanes;
    kr_low_lane l;
    l.j = (int)threadIdx.x % g.lanes;
    l.h = block * units + threadIdx.x / g.lanes;
    l.n = (int64_t)l.j * KR_LOW_MODES;
    l.left = l.h < g.H ? (int)max(min(g.N - l.n, (int64_t)KR_LOW_MODES), (int64_t)0) : 0;
    return l;
}

/* The lane's modes of a vector [2,N], times `scale`; of NULL zeros. */
__device__ __forceinline__ void kr_low_load(const kr_low_view &g, const kr_low_lane &l,
                                            const float *from, float scale, kr_low_modes &v) {
#pragma unroll
    for (int i = 0; i < KR_LOW_MODES; i++) {
        bool in = from && i < l.left;
        v[i].x = in ? scale * from[l.n + i] : 0;
        v[i].y = in ? scale * from[g.N + l.n + i] : 0;
    }
}

template <int K>
struct kr_low_system {
    kr_low_modes a, b, c, p[K], q[K];
};

template <int K>
__device__ __forceinline__ void kr_low_open(const kr_low_view &g, const kr_low_lane &l,
                                            kr_low_system<K> &s) {
    const float *A = g.A + l.h * (1 + 2 * K) * 2 * g.N; /* not read where nothing is left */
    kr_low_load(g, l, A, 1, s.a);
    kr_low_load(g, l, g.b + l.h * 2 * g.N, 1, s.b);
    kr_low_load(g, l, g.c + l.h * 2 * g.N, g.kappa, s.c);
#pragma unroll
    for (int k = 0; k < K; k++) {
        kr_low_load(g, l, A + (1 + k) * 2 * g.N, 1, s.p[k]);
        kr_low_load(g, l, A + (1 + K + k) * 2 * g.N, g.kappa, s.q[k]);
    }
}

/* ---- numbers ---- */

/* Re(a . b) of the lane; two sums, so that each does not wait for itself. */
__device__ __forceinline__ float kr_low_dot(const kr_low_modes &a, const kr_low_modes &b) {
    float plus = 0, minus = 0;
#pragma unroll
    for (int i = 0; i < KR_LOW_MODES; i++) {
        plus = fmaf(a[i].x, b[i].x, plus);
        minus = fmaf(a[i].y, b[i].y, minus);
    }
    return plus - minus;
}
/* Re(conj(a) . b) */
__device__ __forceinline__ float kr_low_dot_conj(const kr_low_modes &a, const kr_low_modes &b) {
    float one = 0, other = 0;
#pragma unroll
    for (int i = 0; i < KR_LOW_MODES; i++) {
        one = fmaf(a[i].x, b[i].x, one);
        other = fmaf(a[i].y, b[i].y, other);
    }
    return one + other;
}
/* to += s v, and s conj(v) */
__device__ __forceinline__ void kr_low_add(float s, const kr_low_modes &v, kr_low_modes &to) {
#pragma unroll
    for (int i = 0; i < KR_LOW_MODES; i++) {
        to[i].x = fmaf(s, v[i].x, to[i].x);
        to[i].y = fmaf(s, v[i].y, to[i].y);
    }
}
__device__ __forceinline__ void kr_low_add_conj(float s, const kr_low_modes &v, kr_low_modes &to) {
#pragma unroll
    for (int i = 0; i < KR_LOW_MODES; i++) {
        to[i].x = fmaf(s, v[i].x, to[i].x);
        to[i].y = fmaf(-s, v[i].y, to[i].y);
    }
}

/* Sums over the lanes of a unit, in all of them. */
template <int K>
__device__ __forceinline__ void kr_low_sums(const kr_low_view &g, float (&s)[K]) {
    for (int d = 1; d < g.lanes; d *= 2)
#pragma unroll
        for (int k = 0; k < K; k++) s[k] += __shfl_xor_sync(0xffffffffu, s[k], d);
}

/* ---- a row ---- */

/* h moves behind a row of x; s becomes the K sums kappa Re(q_k . h) of the state in front of it. */
template <int K>
__device__ __forceinline__ void kr_low_advance(const kr_low_view &g, const kr_low_system<K> &m,
                                               float x, bool fresh, kr_low_modes &h,
                                               float (&s)[K]) {
    if (fresh) {
        memset(h, 0, sizeof h);
        memset(s, 0, sizeof s);
    } else {
#pragma unroll
        for (int k = 0; k < K; k++) s[k] = kr_low_dot(m.q[k], h);
        kr_low_sums<K>(g, s);
    }
#pragma unroll
    for (int i = 0; i < KR_LOW_MODES; i++) {
        float re = fmaf(m.a[i].x, h[i].x, fmaf(-m.a[i].y, h[i].y, m.b[i].x * x));
        float im = fmaf(m.a[i].x, h[i].y, fmaf(m.a[i].y, h[i].x, m.b[i].y * x));
#pragma unroll
        for (int k = 0; k < K; k++) {
            re = fmaf(-s[k], m.p[k][i].x, re);
            im = fmaf(-s[k], m.p[k][i].y, im);
        }
        h[i].x = re, h[i].y = im;
    }
}

/* ---- batches of rows ---- */

/* Numbers of the unit's channel in rows t0 .. t0 + KR_LOW_BATCH, and where segments start there. */
struct kr_low_batch {
    float x[KR_LOW_BATCH];
    uint32_t fresh; /* bit f: at row f */
};

template <typename T>
__device__ __forceinline__ void kr_low_column(const kr_scan_span &p, int64_t t0, const T *from,
                                              int64_t row, bool alive, float (&x)[KR_LOW_BATCH]) {
#pragma unroll
    for (int f = 0; f < KR_LOW_BATCH; f++)
        x[f] = alive && t0 + f < p.steps ? kr_load(from + kr_rows_at(p, t0 + f) * row) : 0;
}

/* By a whole warp. */
template <typename T>
__device__ __forceinline__ void kr_low_fetch(const kr_low_view &g, const kr_low_lane &l,
                                             const kr_scan_span &p, int64_t t0, const T *x,
                                             int64_t row, kr_low_batch &v) {
    const int f = (int)threadIdx.x % 32;
    kr_low_column(p, t0, x + l.h, row, l.h < g.H, v.x);
    v.fresh = 0;
    if (g.reset)
        v.fresh = __ballot_sync(0xffffffffu,
                                f < KR_LOW_BATCH && t0 + f < p.steps && kr_starts(g, p, t0 + f));
}

/* The batch's sums u over the unit: put(f, sum) for each row f that the lane owns. */
template <typename F>
__device__ __forceinline__ void kr_low_reads(const kr_low_view &g, const kr_low_lane &l, int count,
                                             float (&u)[KR_LOW_BATCH], F put) {
    auto mine = kr_rows_sum(u, g.lanes, l.j);
#pragma unroll
    for (int i = 0; i < KR_LOW_BATCH; i++)
        if (i < mine.owned && mine.first + i < count && l.h < g.H) put(mine.first + i, u[i]);
}

/* ---- calls ---- */

static inline kr_low_view kr_low_view_of(const kr_call *c) {
    const krait_scan_desc *d = (const krait_scan_desc *)c->attr;
    kr_low_view g = {};
    (kr_constant_view &)g = kr_constant_view_of(c);
    g.lanes = kr_scan_low_lanes(d);
    g.blocks = kr_scan_low_blocks(d);
    return g;
}

#endif
