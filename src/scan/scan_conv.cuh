/* scan_conv.cuh - the recurrence as a convolution on the GPU (plan CONV: S4D): transforms, and sums
 * over modes. scan_conv_vec.c has the equations; what is convolved with what is said there.
 *
 * A block takes one channel through all sequences, with the transform of a whole span in its shared
 * memory: lengths are known on the device alone, so that no library could plan for them, and x is
 * read and y written once. Longer spans than fit are cut, the state passing from piece to piece.
 *
 * The transform: n complex numbers, n a power of two. Of x and k, each times r^j with r^n = i, the
 * cyclic convolution is, times r^-j, low + i high: nothing is padded. Forward by decimation in
 * frequency, 16 points a thread at a time, back in time; the order between never matters. Every
 * 16th place is left free, so that neither near nor far points meet in a bank.
 *
 * Sums over modes, sum_n t_n a_n^l for every l, are a product of t a^(64 i) and a^j, l = 64 i + j:
 * powers are made in double, as products of a^(2^k), and multiplied in f32. */
#ifndef KR_SCAN_CONV_CUH
#define KR_SCAN_CONV_CUH

#include "scan/scan_span.cuh"

enum {
    KR_CONV_THREADS = 512,
    KR_CONV_SPAN = 64,  /* powers near each other: 64 i + j */
    KR_CONV_MODES = 16, /* that are done at a time */
    KR_CONV_BITS = 15   /* of the exponents of powers */
};

/* ---- numbers ---- */

template <typename C>
__device__ __forceinline__ C kr_c(decltype(C::x) re, decltype(C::x) im) {
    C v;
    v.x = re, v.y = im;
    return v;
}
template <typename C>
__device__ __forceinline__ C kr_cmul(C a, C b) {
    return kr_c<C>(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}
template <typename C>
__device__ __forceinline__ C kr_conj(C a) {
    return kr_c<C>(a.x, -a.y);
}
template <typename C>
__device__ __forceinline__ C kr_cadd(C a, C b) {
    return kr_c<C>(a.x + b.x, a.y + b.y);
}
template <typename C>
__device__ __forceinline__ C kr_csub(C a, C b) {
    return kr_c<C>(a.x - b.x, a.y - b.y);
}
__device__ __forceinline__ double2 kr_scaled(double s, double2 a) {
    return kr_c<double2>(s * a.x, s * a.y);
}
__device__ __forceinline__ float2 kr_narrow(double2 a) {
    return kr_c<float2>((float)a.x, (float)a.y);
}

/* ---- transforms ---- */

/* e^(-2 pi i k / R), or its conjugate. */
template <int R, bool BACK>
__device__ __forceinline__ float2 kr_constant_root(int k) {
    const float cosines[9] = {1, 0.92387953f,  0.70710678f,  0.38268343f,
                              0, -0.38268343f, -0.70710678f, -0.92387953f,
                              -1};
    const int i = k * (16 / R), j = i < 4 ? 4 - i : i - 4; /* of 16; i <= 8: sin = cos(i - 4) */
    return kr_c<float2>(cosines[i], BACK ? cosines[j] : -cosines[j]);
}

template <int R, bool BACK>
__device__ __forceinline__ void kr_dft(float2 (&v)[R]) {
    if constexpr (R > 1) {
        float2 even[R / 2], odd[R / 2];
#pragma unroll
        for (int k = 0; k < R / 2; k++) even[k] = v[2 * k], odd[k] = v[2 * k + 1];
        kr_dft<R / 2, BACK>(even);
        kr_dft<R / 2, BACK>(odd);
#pragma unroll
        for (int k = 0; k < R / 2; k++) {
            float2 o = odd[k];
            if (4 * k == R)
                o = BACK ? kr_c<float2>(-o.y, o.x) : kr_c<float2>(o.y, -o.x);
            else if (k > 0)
                o = kr_cmul(o, kr_constant_root<R, BACK>(k));
            v[k] = kr_cadd(even[k], o);
            v[k + R / 2] = kr_csub(even[k], o);
        }
    }
}

__device__ __forceinline__ int kr_conv_place(int i) { return i + (i >> 4); }

/* One level: pieces of m numbers become R of m / R; or, BACK, the other way. */
template <int R, bool BACK>
__device__ __forceinline__ void kr_conv_level(float2 *buf, int n, int m) {
    const int step = m / R;
    for (int i = threadIdx.x; i < n / R; i += KR_CONV_THREADS) {
        const int k = i % step, base = i / step * m + k;
        float2 v[R], w[R];
#pragma unroll
        for (int j = 0; j < R; j++) v[j] = buf[kr_conv_place(base + j * step)];
        w[0] = kr_c<float2>(1, 0);
        if (step > 1) {
            sincospif((BACK ? 2.0f : -2.0f) * (float)k / (float)m, &w[R > 1].y, &w[R > 1].x);
#pragma unroll
            for (int j = 2; j < R; j++) w[j] = kr_cmul(w[j / 2], w[j - j / 2]);
        }
        if (BACK && step > 1)
#pragma unroll
            for (int j = 1; j < R; j++) v[j] = kr_cmul(v[j], w[j]);
        kr_dft<R, BACK>(v);
        if (!BACK && step > 1)
#pragma unroll
            for (int j = 1; j < R; j++) v[j] = kr_cmul(v[j], w[j]);
#pragma unroll
        for (int j = 0; j < R; j++) buf[kr_conv_place(base + j * step)] = v[j];
    }
    __syncthreads();
}

template <bool BACK>
__device__ __forceinline__ void kr_conv_last(float2 *buf, int n, int m) {
    if (m == 8) kr_conv_level<8, BACK>(buf, n, 8);
    if (m == 4) kr_conv_level<4, BACK>(buf, n, 4);
    if (m == 2) kr_conv_level<2, BACK>(buf, n, 2);
}

/* In place; what threads wrote before is waited for. */
static __device__ __noinline__ void kr_conv_forward(float2 *buf, int n) {
    int m = n;
    __syncthreads();
    for (; m >= 16; m /= 16) kr_conv_level<16, false>(buf, n, m);
    kr_conv_last<false>(buf, n, m);
}
/* n times the inverse. */
static __device__ __noinline__ void kr_conv_inverse(float2 *buf, int n) {
    int m = n;
    __syncthreads();
    while (m >= 16) m /= 16;
    kr_conv_last<true>(buf, n, m);
    for (m *= 16; m <= n; m *= 16) kr_conv_level<16, true>(buf, n, m);
}

/* r^j, r = e^(i pi / 2n) */
__device__ __forceinline__ float2 kr_conv_twist(int j, int n) {
    float2 v;
    sincospif((float)j / (float)(2 * n), &v.y, &v.x);
    return v;
}
__device__ __forceinline__ void kr_conv_put(float2 *buf, int j, int n, float x) {
    float2 r = kr_conv_twist(j, n);
    buf[kr_conv_place(j)] = kr_c<float2>(x * r.x, x * r.y);
}
/* Number j of a convolution that kr_conv_inverse made. */
__device__ __forceinline__ float kr_conv_get(const float2 *buf, int j, int n) {
    float2 r = kr_conv_twist(j, n), v = buf[kr_conv_place(j)];
    return (v.x * r.x + v.y * r.y) / (float)n;
}

__device__ __forceinline__ int kr_conv_size(int64_t L) {
    int n = 1;
    while (n < L) n *= 2;
    return n;
}

/* ---- what a block has ---- */

/* Arrays over the modes of its channel, in shared memory. */
struct kr_conv_modes {
    double2 *a, *b, *c, *h, *term, *s0, *s1, *gh, *dh, *ga, *gb, *gc;
};
enum { KR_CONV_ARRAYS = 12 };

struct kr_conv_view : kr_scan_time, kr_scan_constants {
    bool log; /* A holds logarithms */
    double kappa;
    int most;                                       /* of a transform */
    int64_t room;                                   /* floats of a block's scratch */
    int64_t kernel, gradient, spectrum, more, held; /* places in it */
    float *scratch;
};

/* Bytes of the buffer: a transform of size n, or what kr_conv_moments has of as many numbers. */
__host__ __device__ static inline size_t kr_conv_buffer(int n) {
    size_t numbers = sizeof(float2) * (size_t)(n + n / 16 + 1);
    size_t sums = 24576 + sizeof(float) * (size_t)(n / KR_CONV_SPAN + 1) * (KR_CONV_SPAN + 1);
    return ((numbers > sums ? numbers : sums) + 15) / 16 * 16;
}
static inline size_t kr_conv_shared(int n, int64_t N) {
    return kr_conv_buffer(n) + sizeof(double2) * KR_CONV_ARRAYS * (size_t)N;
}

struct kr_conv_block {
    float2 *buf;
    double2 (*squares)[KR_CONV_MODES]; /* a^(2^k) of the modes that are done */
    kr_conv_modes m;
    float *own;   /* scratch */
    uint32_t has; /* bit k: the kernel's transform of size 2^k is there */
    int64_t longest;
    int64_t h; /* channel */
};

/* Where the transform of size n lies: kernels of all sizes beside each other. */
__device__ __forceinline__ float2 *kr_conv_kernel_at(const kr_conv_view &g, const kr_conv_block &c,
                                                     int n) {
    return (float2 *)(c.own + g.spectrum) + n;
}
__device__ __forceinline__ float2 *kr_conv_gradient_at(const kr_conv_view &g,
                                                       const kr_conv_block &c, int n) {
    return (float2 *)(c.own + g.more) + n;
}

/* [2,N] of a channel as complex numbers; NULL: zeros. */
__device__ __forceinline__ void kr_conv_load(const kr_conv_view &g, const float *from,
                                             double2 *to) {
    for (int64_t n = threadIdx.x; n < g.N; n += KR_CONV_THREADS)
        to[n] = from ? kr_c<double2>((double)from[n], (double)from[g.N + n]) : kr_c<double2>(0, 0);
}

/* f(n) for each mode, between barriers. */
template <typename F>
__device__ __forceinline__ void kr_conv_each(const kr_conv_view &g, F f) {
    __syncthreads();
    for (int64_t n = threadIdx.x; n < g.N; n += KR_CONV_THREADS) f(n);
    __syncthreads();
}

/* ---- sums over modes ---- */

/* a^(2^k) of modes n0 on, zeros behind the last; between barriers. */
__device__ __forceinline__ void kr_conv_squares(const kr_conv_view &g, const kr_conv_block &c,
                                                int64_t n0) {
    __syncthreads();
    if (threadIdx.x < KR_CONV_MODES) {
        int i = threadIdx.x;
        double2 v = n0 + i < g.N ? c.m.a[n0 + i] : kr_c<double2>(0, 0);
        for (int k = 0; k < KR_CONV_BITS; k++) {
            c.squares[k][i] = v;
            v = kr_cmul(v, v);
        }
    }
    __syncthreads();
}

/* a^e */
__device__ __forceinline__ double2 kr_conv_power(const kr_conv_block &c, int i, int e) {
    double2 v = kr_c<double2>(1, 0);
    for (int k = 0; e >> k; k++)
        if (e >> k & 1) v = kr_cmul(v, c.squares[k][i]);
    return v;
}

/* put(l, Re sum_n term_n a_n^l) for l in [0, L); uses the buffer. */
template <typename Put>
__device__ void kr_conv_expand(const kr_conv_view &g, const kr_conv_block &c, int L, Put put) {
    enum { ROWS = 4, COLUMNS = 8 };
    const int rows = (L + KR_CONV_SPAN - 1) / KR_CONV_SPAN, pitch = (rows + ROWS - 1) / ROWS * ROWS;
    const int i0 = (int)threadIdx.x / 8 * ROWS, j0 = (int)threadIdx.x % 8;
    float2 *near = c.buf, *far = c.buf + KR_CONV_MODES * KR_CONV_SPAN;
    float sum[ROWS][COLUMNS] = {};
    for (int64_t n0 = 0; n0 < g.N; n0 += KR_CONV_MODES) {
        kr_conv_squares(g, c, n0);
        for (int k = threadIdx.x; k < KR_CONV_MODES * KR_CONV_SPAN; k += KR_CONV_THREADS)
            near[k] = kr_narrow(kr_conv_power(c, k / KR_CONV_SPAN, k % KR_CONV_SPAN));
        for (int k = threadIdx.x; k < KR_CONV_MODES * pitch; k += KR_CONV_THREADS) {
            int m = k / pitch, i = k % pitch;
            double2 term = n0 + m < g.N && i < rows ? c.m.term[n0 + m] : kr_c<double2>(0, 0);
            far[k] = kr_narrow(kr_cmul(term, kr_conv_power(c, m, i * KR_CONV_SPAN)));
        }
        __syncthreads();
        for (int m = 0; m < KR_CONV_MODES && i0 < pitch; m++) {
            float2 u[ROWS], v[COLUMNS];
#pragma unroll
            for (int i = 0; i < ROWS; i++) u[i] = far[m * pitch + i0 + i];
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) v[j] = near[m * KR_CONV_SPAN + j0 + 8 * j];
#pragma unroll
            for (int i = 0; i < ROWS; i++)
#pragma unroll
                for (int j = 0; j < COLUMNS; j++)
                    sum[i][j] = fmaf(u[i].x, v[j].x, fmaf(-u[i].y, v[j].y, sum[i][j]));
        }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            int l = (i0 + i) * KR_CONV_SPAN + j0 + 8 * j;
            if (l < L) put(l, sum[i][j]);
        }
    __syncthreads();
}

__device__ __forceinline__ double kr_conv_add_lanes(double x) {
    for (int d = 4; d < 32; d *= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

/* What a thread of kr_conv_moments has of modes 4 k to 4 k + 3: over rows i, of v_{64 i + j}: sums
 * times a^j, and times j a^(j-1). */
struct kr_conv_part {
    float2 w[4], w1[4];
};

__device__ __forceinline__ kr_conv_part kr_conv_row(const float *v, const float2 *near,
                                                    const float2 *slope, int modes) {
    kr_conv_part p = {};
    for (int j = 0; j < KR_CONV_SPAN; j++) {
        const float x = v[j];
#pragma unroll
        for (int m = 0; m < 4; m++) {
            float2 a = near[j * KR_CONV_MODES + modes + m],
                   b = slope[j * KR_CONV_MODES + modes + m];
            p.w[m].x = fmaf(x, a.x, p.w[m].x), p.w[m].y = fmaf(x, a.y, p.w[m].y);
            p.w1[m].x = fmaf(x, b.x, p.w1[m].x), p.w1[m].y = fmaf(x, b.y, p.w1[m].y);
        }
    }
    return p;
}

/* s0 = sum_l v_l a^l, s1 = sum_l l v_l a^(l-1), of each mode; v(l) for l in [0, L); uses the
 * buffer. */
template <typename V>
__device__ void kr_conv_moments(const kr_conv_view &g, const kr_conv_block &c, int L, V v) {
    const int rows = (L + KR_CONV_SPAN - 1) / KR_CONV_SPAN, modes = (int)threadIdx.x % 4 * 4;
    const int warp = threadIdx.x / 32, WARPS = KR_CONV_THREADS / 32;
    float2 *near = c.buf, *slope = near + KR_CONV_MODES * KR_CONV_SPAN;
    double2 *sums = (double2 *)(slope + KR_CONV_MODES * KR_CONV_SPAN); /* [2][WARPS][MODES] */
    float *x = (float *)(sums + 2 * WARPS * KR_CONV_MODES);            /* rows of 65 */
    __syncthreads();
    for (int l = threadIdx.x; l < rows * KR_CONV_SPAN; l += KR_CONV_THREADS)
        x[l + l / KR_CONV_SPAN] = l < L ? v(l) : 0;
    for (int64_t n0 = 0; n0 < g.N; n0 += KR_CONV_MODES) {
        kr_conv_squares(g, c, n0);
        for (int k = threadIdx.x; k < KR_CONV_MODES * KR_CONV_SPAN; k += KR_CONV_THREADS) {
            int m = k % KR_CONV_MODES, j = k / KR_CONV_MODES;
            near[k] = kr_narrow(kr_conv_power(c, m, j));
            slope[k] = kr_narrow(kr_scaled(j, kr_conv_power(c, m, j > 0 ? j - 1 : 0)));
        }
        __syncthreads();
        double2 s0[4] = {}, s1[4] = {};
        for (int i = threadIdx.x / 4; i < rows; i += KR_CONV_THREADS / 4) {
            kr_conv_part p = kr_conv_row(x + i * (KR_CONV_SPAN + 1), near, slope, modes);
            const int e = i * KR_CONV_SPAN;
#pragma unroll
            for (int m = 0; m < 4; m++) {
                double2 w = kr_c<double2>(p.w[m].x, p.w[m].y);
                double2 w1 = kr_c<double2>(p.w1[m].x, p.w1[m].y);
                double2 u = kr_conv_power(c, modes + m, e);
                double2 u1 = kr_scaled(e, kr_conv_power(c, modes + m, e > 0 ? e - 1 : 0));
                s0[m] = kr_cadd(s0[m], kr_cmul(u, w));
                s1[m] = kr_cadd(s1[m], kr_cadd(kr_cmul(u1, w), kr_cmul(u, w1)));
            }
        }
#pragma unroll
        for (int m = 0; m < 4; m++) {
            double2 one = kr_c<double2>(kr_conv_add_lanes(s0[m].x), kr_conv_add_lanes(s0[m].y));
            double2 two = kr_c<double2>(kr_conv_add_lanes(s1[m].x), kr_conv_add_lanes(s1[m].y));
            if (threadIdx.x % 32 < 4) sums[warp * KR_CONV_MODES + modes + m] = one;
            if (threadIdx.x % 32 < 4) sums[(WARPS + warp) * KR_CONV_MODES + modes + m] = two;
        }
        __syncthreads();
        if (threadIdx.x < 2 * KR_CONV_MODES) {
            int m = threadIdx.x % KR_CONV_MODES, which = threadIdx.x / KR_CONV_MODES;
            double2 all = kr_c<double2>(0, 0);
            for (int i = 0; i < WARPS; i++)
                all = kr_cadd(all, sums[(which * WARPS + i) * KR_CONV_MODES + m]);
            if (n0 + m < g.N) (which ? c.m.s1 : c.m.s0)[n0 + m] = all;
        }
    }
    __syncthreads();
}

/* a^e of every mode, into term. */
__device__ __forceinline__ void kr_conv_powers(const kr_conv_view &g, const kr_conv_block &c,
                                               int e) {
    for (int64_t n0 = 0; n0 < g.N; n0 += KR_CONV_MODES) {
        kr_conv_squares(g, c, n0);
        if (threadIdx.x < KR_CONV_MODES && n0 + threadIdx.x < g.N)
            c.m.term[n0 + threadIdx.x] = kr_conv_power(c, threadIdx.x, e);
    }
    __syncthreads();
}

/* ---- spans ---- */

/* The least of the block's numbers. */
__device__ __forceinline__ int64_t kr_conv_least(int64_t x) {
    __shared__ int64_t of[KR_CONV_THREADS / 32];
    for (int d = 16; d > 0; d /= 2) x = min(x, __shfl_xor_sync(0xffffffffu, x, d));
    __syncthreads();
    if (threadIdx.x % 32 == 0) of[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 0; i < KR_CONV_THREADS / 32; i++) x = min(x, of[i]);
    return x;
}

/* The longest sequence, or the largest transform. */
__device__ __forceinline__ int64_t kr_conv_longest(const kr_conv_view &g) {
    int64_t least = -1;
    for (int64_t s = threadIdx.x; s < g.S; s += KR_CONV_THREADS)
        least = min(least, -g.seqs[s * g.seqs_row + 1]);
    return min(-kr_conv_least(least), (int64_t)g.most);
}

/* The first step behind t at which a segment starts, or the end. */
__device__ __forceinline__ int64_t kr_conv_segment_end(const kr_conv_view &g, const kr_scan_span &p,
                                                       int64_t t) {
    if (!g.reset) return p.steps;
    for (int64_t from = t + 1; from < p.steps; from += KR_CONV_THREADS) {
        int64_t at = from + threadIdx.x;
        bool starts = at < p.steps && kr_starts(g, p, at);
        int64_t first = kr_conv_least(starts ? at : p.steps);
        if (first < p.steps) return first;
    }
    return p.steps;
}

/* ---- a block begins ---- */

__device__ __forceinline__ void kr_conv_open(const kr_conv_view &g, float4 *memory,
                                             double2 (*squares)[KR_CONV_MODES], kr_conv_block &c) {
    double2 *at = (double2 *)((char *)memory + kr_conv_buffer(g.most));
    double2 **all[KR_CONV_ARRAYS] = {&c.m.a,  &c.m.b,  &c.m.c,  &c.m.h,  &c.m.term, &c.m.s0,
                                     &c.m.s1, &c.m.gh, &c.m.dh, &c.m.ga, &c.m.gb,   &c.m.gc};
#pragma unroll
    for (int i = 0; i < KR_CONV_ARRAYS; i++) *all[i] = at + i * g.N;
    c.buf = (float2 *)memory;
    c.squares = squares;
    c.own = g.scratch + blockIdx.x * g.room;
    c.longest = kr_conv_longest(g);
}

/* Channel h: its modes, and K_l = kappa Re sum_n c_n b_n a_n^l. */
__device__ __forceinline__ void kr_conv_channel(const kr_conv_view &g, kr_conv_block &c,
                                                int64_t h) {
    c.h = h;
    c.has = 0;
    __syncthreads();
    kr_conv_load(g, g.A + h * 2 * g.N, c.m.a);
    kr_conv_load(g, g.b + h * 2 * g.N, c.m.b);
    kr_conv_load(g, g.c + h * 2 * g.N, c.m.c);
    kr_conv_each(g, [&](int64_t n) {
        double2 a = c.m.a[n];
        double sine, cosine, size = exp(a.x);
        sincos(a.y, &sine, &cosine);
        if (g.log) c.m.a[n] = kr_c<double2>(size * cosine, size * sine);
        c.m.term[n] = kr_scaled(g.kappa, kr_cmul(c.m.b[n], c.m.c[n]));
    });
    float *kernel = c.own + g.kernel;
    kr_conv_expand(g, c, (int)c.longest, [&](int l, float v) { kernel[l] = v; });
}

/* The kernel's transform of size n; uses the buffer. */
__device__ __forceinline__ const float2 *kr_conv_spectrum(const kr_conv_view &g, kr_conv_block &c,
                                                          int n) {
    float2 *to = kr_conv_kernel_at(g, c, n);
    if (c.has & (uint32_t)n) return to;
    c.has |= (uint32_t)n;
    __syncthreads();
    for (int j = threadIdx.x; j < n; j += KR_CONV_THREADS)
        kr_conv_put(c.buf, j, n, j < c.longest ? c.own[g.kernel + j] : 0);
    kr_conv_forward(c.buf, n);
    for (int j = threadIdx.x; j < n; j += KR_CONV_THREADS) to[j] = c.buf[kr_conv_place(j)];
    __syncthreads();
    return to;
}

/* The state behind a piece of L rows, x(l): h = a^L h + b sum_l a^(L-1-l) x_l; h counts if
 * `passes`. */
template <typename X>
__device__ __forceinline__ void kr_conv_state(const kr_conv_view &g, const kr_conv_block &c, int L,
                                              bool passes, X x) {
    kr_conv_moments(g, c, L, [&](int l) { return x(L - 1 - l); });
    kr_conv_powers(g, c, L);
    kr_conv_each(g, [&](int64_t n) {
        double2 old = passes ? kr_cmul(c.m.term[n], c.m.h[n]) : kr_c<double2>(0, 0);
        c.m.h[n] = kr_cadd(old, kr_cmul(c.m.b[n], c.m.s0[n]));
    });
}

/* ---- rows as lines: [M,H] to [H,M] ---- */

enum { KR_CONV_SQUARE = 32, KR_CONV_HIGH = 8 };

/* to[j][i] = or += from[i][j]; from [rows, columns]. */
template <typename T>
static __global__ void kr_conv_turn(const T *from, int64_t from_row, T *to, int64_t to_row,
                                    int64_t rows, int64_t columns, bool add) {
    __shared__ float tile[KR_CONV_SQUARE][KR_CONV_SQUARE + 1];
    const int64_t across = (columns + KR_CONV_SQUARE - 1) / KR_CONV_SQUARE;
    const int64_t i0 = blockIdx.x / across * KR_CONV_SQUARE;
    const int64_t j0 = blockIdx.x % across * KR_CONV_SQUARE;
    for (int y = threadIdx.y; y < KR_CONV_SQUARE; y += KR_CONV_HIGH)
        if (i0 + y < rows && j0 + threadIdx.x < columns)
            tile[y][threadIdx.x] = kr_load(from + (i0 + y) * from_row + j0 + threadIdx.x);
    __syncthreads();
    for (int y = threadIdx.y; y < KR_CONV_SQUARE; y += KR_CONV_HIGH)
        if (j0 + y < columns && i0 + threadIdx.x < rows)
            kr_put(to + (j0 + y) * to_row + i0 + threadIdx.x, tile[threadIdx.x][y], add);
}

template <typename T>
static void kr_conv_turn_launch(const T *from, int64_t from_row, T *to, int64_t to_row,
                                int64_t rows, int64_t columns, bool add) {
    int64_t blocks = (int64_t)kr_blocks(rows, KR_CONV_SQUARE) * kr_blocks(columns, KR_CONV_SQUARE);
    if (blocks > 0)
        kr_conv_turn<T>
            <<<(unsigned)blocks, dim3(KR_CONV_SQUARE, KR_CONV_HIGH), 0, kr_cuda_stream()>>>(
                from, from_row, to, to_row, rows, columns, add);
}

/* ---- calls ---- */

/* The largest transform, of at most `rows`, that a block's shared memory has room for. */
static inline int kr_conv_most(int64_t rows, int64_t N) {
    enum { STATIC = 6144 }; /* what kernels have of their own */
    int n = KR_SCAN_CONV_ROWS;
    while (n > 1 && (n / 2 >= rows || kr_conv_shared(n, N) + STATIC > (size_t)kr_cuda_shared()))
        n /= 2;
    return n;
}

static inline kr_conv_view kr_conv_view_of(const kr_call *c, const kr_scan_gpu_conv &cut) {
    const krait_scan_desc *d = (const krait_scan_desc *)c->attr;
    kr_conv_view g = {};
    (kr_scan_time &)g = kr_scan_time_of(c, INT64_MAX / 2);
    (kr_scan_constants &)g = kr_scan_constants_of(c);
    g.log = d->form == KRAIT_FORM_LOG;
    g.kappa = d->kappa;
    g.most = kr_conv_most(g.M, g.N);
    g.room = cut.room;
    g.kernel = cut.kernel;
    g.spectrum = cut.spectrum;
    g.more = cut.more;
    g.gradient = cut.gradient;
    g.held = cut.held;
    g.scratch = (float *)c->scratch + cut.blocks;
    return g;
}

#endif
