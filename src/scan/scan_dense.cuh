/* scan_dense.cuh - the recurrence whose decay is a whole real matrix a channel, constant in time,
 * on the GPU (LSSL): what both directions share.
 *
 *   h_t = A h_{t-1} + b x_t     A = diag(a) - kappa sum_k p_k q_k^T     y_t = kappa c . h_t + D x_t
 *
 * A block has a channel and a sequence, each thread a row of A in registers and a number of the
 * state, which all threads read from shared memory; one barrier a row. Rows go by CHUNK, whose
 * states stay in shared memory, so that what is summed over the state (reads) is summed for all of
 * them at once. NP: the state's numbers, padded; beyond `N` they are zeros. */
#ifndef KR_SCAN_DENSE_CUH
#define KR_SCAN_DENSE_CUH

#include "scan/scan_constant.cuh"

enum { KR_DENSE_CHUNK = KR_SCAN_DENSE_CHUNK };

/* Rows of the state in front of those of a chunk, and behind the last; padded so that neighbouring
 * rows begin in different banks. */
template <int NP>
struct kr_dense_states {
    static const int ROW = NP + 4;
    float v[(KR_DENSE_CHUNK + 1) * ROW];
};

template <int NP>
struct kr_dense_shared {
    kr_dense_states<NP> h;
    float A[NP * (NP + 1)]; /* rows of NP + 1 */
    float vector[NP];       /* p_k or q_k */
    float b[NP], c[NP];
    float x[KR_DENSE_CHUNK];
    bool fresh[KR_DENSE_CHUNK];
};

/* sum_j a[j] v[j]; v in shared memory, the same for all threads. */
template <int NP>
__device__ __forceinline__ float kr_dense_dot(const float (&a)[NP], const float *v) {
    float sum[4] = {};
#pragma unroll
    for (int j = 0; j < NP; j += 4) {
        float4 u = *(const float4 *)(v + j);
        sum[0] = fmaf(a[j], u.x, sum[0]);
        sum[1] = fmaf(a[j + 1], u.y, sum[1]);
        sum[2] = fmaf(a[j + 2], u.z, sum[2]);
        sum[3] = fmaf(a[j + 3], u.w, sum[3]);
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
/* to[j] += s v[j] */
template <int NP>
__device__ __forceinline__ void kr_dense_add(float s, const float *v, float (&to)[NP]) {
#pragma unroll
    for (int j = 0; j < NP; j += 4) {
        float4 u = *(const float4 *)(v + j);
        to[j] = fmaf(s, u.x, to[j]);
        to[j + 1] = fmaf(s, u.y, to[j + 1]);
        to[j + 2] = fmaf(s, u.z, to[j + 2]);
        to[j + 3] = fmaf(s, u.w, to[j + 3]);
    }
}

/* The thread's number of vector `which` of the decay of channel h: a, p_1 .., q_1 .. */
__device__ __forceinline__ float kr_dense_number(const kr_constant_view &g, int64_t h,
                                                 int64_t which) {
    const int64_t n = threadIdx.x;
    return n < g.N ? g.A[((1 + 2 * g.K) * h + which) * g.N + n] : 0;
}

/* All threads' numbers v in shared memory, to be read by all. */
template <int NP>
__device__ __forceinline__ const float *kr_dense_share(kr_dense_shared<NP> &s, float v) {
    __syncthreads();
    s.vector[threadIdx.x] = v;
    __syncthreads();
    return s.vector;
}

/* The thread's row of A, also left in shared memory; b and c; the state. */
template <int NP>
__device__ __forceinline__ void kr_dense_open(const kr_constant_view &g, int64_t h, int64_t slot,
                                              kr_dense_shared<NP> &s, float (&row)[NP]) {
    const int n = threadIdx.x;
    const int64_t at = h * g.N + n;
    memset(row, 0, sizeof row);
    for (int64_t k = 0; k < g.K; k++) {
        const float *q = kr_dense_share(s, kr_dense_number(g, h, 1 + g.K + k));
        kr_dense_add(-g.kappa * kr_dense_number(g, h, 1 + k), q, row);
    }
    const float a = kr_dense_number(g, h, 0);
#pragma unroll
    for (int j = 0; j < NP; j++) {
        if (j == n) row[j] += a;
        s.A[n * (NP + 1) + j] = row[j];
    }
    s.b[n] = n < g.N ? g.b[at] : 0;
    s.c[n] = n < g.N ? g.kappa * g.c[at] : 0;
    s.h.v[n] = g.state && n < g.N ? g.state[slot * g.state_slot + at] : 0;
}

/* What a thread loads of the chunk from step t0 on: row threadIdx.x of it. */
struct kr_dense_fetched {
    float x;
    bool fresh, there;
};

template <typename T>
__device__ __forceinline__ kr_dense_fetched kr_dense_fetch(const kr_constant_view &g,
                                                           const kr_scan_span &p, int64_t t0,
                                                           const T *x, int64_t row) {
    kr_dense_fetched v = {0, false, false};
    int64_t t = t0 + threadIdx.x;
    if (threadIdx.x >= KR_DENSE_CHUNK || t >= p.steps) return v;
    v.there = true;
    v.x = kr_load(x + kr_rows_at(p, t) * row);
    v.fresh = kr_starts(g, p, t);
    return v;
}

/* Between barriers. */
template <int NP>
__device__ __forceinline__ void kr_dense_put(kr_dense_shared<NP> &s, const kr_dense_fetched &v) {
    __syncthreads();
    if (v.there) s.x[threadIdx.x] = v.x, s.fresh[threadIdx.x] = v.fresh;
    __syncthreads();
}

/* The states behind `count` rows, from that in front of them. */
template <int NP>
__device__ __forceinline__ void kr_dense_advance(kr_dense_shared<NP> &s, const float (&row)[NP],
                                                 int count) {
    const int n = threadIdx.x, ROW = kr_dense_states<NP>::ROW;
    const float b = s.b[n];
    for (int r = 0; r < count; r++) {
        float v = s.fresh[r] ? 0 : kr_dense_dot<NP>(row, s.h.v + r * ROW);
        s.h.v[(r + 1) * ROW + n] = fmaf(b, s.x[r], v);
        __syncthreads();
    }
}

/* put(r, sum_n v_n of[r][n]) for each of `count` rows, by one thread. */
template <int NP, typename F>
__device__ __forceinline__ void kr_dense_sums(const float *v, const float *of, int count, F put) {
    enum { PARTS = NP / KR_DENSE_CHUNK }; /* threads of a row */
    const int r = threadIdx.x / PARTS, part = threadIdx.x % PARTS, ROW = kr_dense_states<NP>::ROW;
    float sum = 0;
    if (r < count)
#pragma unroll
        for (int n = 0; n < NP; n += PARTS) sum = fmaf(v[n + part], of[r * ROW + n + part], sum);
#pragma unroll
    for (int d = 1; d < PARTS; d *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (r < count && part == 0) put(r, sum);
}

#endif
