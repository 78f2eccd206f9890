/* discretise_low_rank.cu - the discretisation of a diagonal minus low rank on the GPU;
 * discretise_low_rank.h has the contract, discretise_low_rank_ref.c the gradient and its names.
 * Parameters alone go in, so that it is small beside any pass over tokens: in double.
 *
 * A warp has a channel, its lanes the modes. Backward leaves each channel's gradients in scratch;
 * a thread a number adds those of the channels that share a system, in order. */
#include "device/cuda/cplx.cuh"
#include "ops/discretise/discretise_rows.cuh"
#include "ops/discretise_low_rank/discretise_low_rank.h"

namespace {

enum { THREADS = 128, WARPS = THREADS / 32 };

typedef kr_cplx cplx;

struct system_of {
    const float *dt, *rate, *frequency, *B, *P, *dA, *db; /* dA, db: NULL where absent */
    int64_t rate_row, frequency_row, B_row, P_row, dA_row, db_row;
    int64_t H, S, N;
    double length;
};

__device__ cplx number(const float *v, int64_t N, int64_t n) {
    return {(double)v[n], (double)v[N + n]};
}

/* What a channel's modes share. */
template <int R>
struct whole {
    double delta, t[R], S[R][R], W[R][R];
};

/* One mode of a channel. */
template <int R>
struct mode {
    cplx lambda, B, e, P[R], q[R];

    __device__ mode(const system_of &g, double delta, int64_t h, int64_t n) {
        int64_t s = h % g.S;
        lambda = {-exp((double)g.rate[s * g.rate_row + n]),
                  (double)g.frequency[s * g.frequency_row + n]};
        B = number(g.B + s * g.B_row, g.N, n);
        e = kr_over(cplx{1, 0}, cplx{1, 0} - delta / 2 * lambda);
#pragma unroll
        for (int r = 0; r < R; r++) {
            P[r] = number(g.P + s * g.P_row + r * 2 * g.N, g.N, n);
            q[r] = kr_conjugate(P[r]) * e;
        }
    }
    /* p_r */
    __device__ cplx p(const whole<R> &c, int r) const {
        cplx sum = {0, 0};
#pragma unroll
        for (int k = 0; k < R; k++) sum = sum + c.W[k][r] * P[k];
        return c.delta * (e * sum);
    }
};

/* W = (I + g S)^-1, by elimination: I + g S has a positive symmetric part. */
template <int R>
__device__ void invert(whole<R> &c) {
    double m[R][R];
    for (int i = 0; i < R; i++)
        for (int j = 0; j < R; j++) {
            m[i][j] = (i == j) + c.delta / 2 * c.S[i][j];
            c.W[i][j] = i == j;
        }
    for (int k = 0; k < R; k++) {
        double pivot = 1 / m[k][k];
        for (int j = 0; j < R; j++) m[k][j] *= pivot, c.W[k][j] *= pivot;
        for (int i = 0; i < R; i++) {
            double f = i == k ? 0 : m[i][k];
            for (int j = 0; j < R; j++) m[i][j] -= f * m[k][j], c.W[i][j] -= f * c.W[k][j];
        }
    }
}

/* By a whole warp. */
template <int R>
__device__ whole<R> whole_of(const system_of &g, int64_t h) {
    whole<R> c = {};
    c.delta = g.length * exp((double)g.dt[h]);
    for (int64_t n = threadIdx.x % 32; n < g.N; n += 32) {
        mode<R> v(g, c.delta, h, n);
        for (int r = 0; r < R; r++) {
            c.t[r] += 2 * kr_real(v.q[r], v.B);
            for (int k = 0; k < R; k++) c.S[r][k] += 2 * kr_real(v.q[r], v.P[k]);
        }
    }
    for (int r = 0; r < R; r++) {
        c.t[r] = kr_warp_sum(c.t[r]);
        for (int k = 0; k < R; k++) c.S[r][k] = kr_warp_sum(c.S[r][k]);
    }
    invert(c);
    return c;
}

typedef kr_discretise_rows rows;

/* Vector `which` of row h, [N real, N imaginary]. */
__device__ void put(const rows &to, int64_t h, int64_t which, int64_t N, int64_t n, cplx v) {
    if (!to.p) return;
    float *at = to.p + h * to.row + which * 2 * N;
    kr_put(at + n, (float)v.re, to.add);
    kr_put(at + N + n, (float)v.im, to.add);
}

template <int R>
__global__ void __launch_bounds__(THREADS) forward(const system_of g, const rows A, const rows b) {
    int64_t h = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (h >= g.H) return;
    whole<R> c = whole_of<R>(g, h);
    for (int64_t n = threadIdx.x % 32; n < g.N; n += 32) {
        mode<R> v(g, c.delta, h, n);
        cplx to = c.delta * (v.e * v.B);
        put(A, h, 0, g.N, n, 2 * v.e - cplx{1, 0});
        for (int r = 0; r < R; r++) {
            cplx p = v.p(c, r);
            to = to - c.delta / 2 * c.t[r] * p;
            put(A, h, 1 + r, g.N, n, p);
            put(A, h, 1 + R + r, g.N, n, v.q[r]);
        }
        put(b, h, 0, g.N, n, to);
    }
}

/* ---- backward ---- */

/* Vector `which` of a gradient that is given; absent: 0. */
__device__ cplx given(const float *p, int64_t row, int64_t h, int64_t which, int64_t N, int64_t n) {
    return p ? number(p + h * row + which * 2 * N, N, n) : cplx{0, 0};
}

/* Gradient of p_r, as far as it comes from outside and from b. */
template <int R>
__device__ cplx p_back(const system_of &g, const whole<R> &c, cplx Gb, int64_t h, int64_t n,
                       int r) {
    return given(g.dA, g.dA_row, h, 1 + r, g.N, n) - c.delta / 2 * c.t[r] * Gb;
}

/* Sums over the modes of a channel: gradients of t and S, and what b and p give to delta's. */
template <int R>
struct sums {
    double delta, dt[R], dS[R][R];
};

/* dS from dW: g dM, dM = -W^T dW W^T. */
template <int R>
__device__ void inverse_back(const whole<R> &c, const double (&dW)[R][R], sums<R> &s) {
    for (int i = 0; i < R; i++)
        for (int j = 0; j < R; j++) {
            double dM = 0;
            for (int k = 0; k < R; k++)
                for (int l = 0; l < R; l++) dM -= c.W[k][i] * dW[k][l] * c.W[j][l];
            s.dS[i][j] = c.delta / 2 * dM;
            s.delta += dM * c.S[i][j] / 2;
        }
}

template <int R>
__device__ sums<R> sums_of(const system_of &g, const whole<R> &c, int64_t h) {
    sums<R> s = {};
    double dW[R][R] = {};
    for (int64_t n = threadIdx.x % 32; n < g.N; n += 32) {
        mode<R> v(g, c.delta, h, n);
        cplx Gb = given(g.db, g.db_row, h, 0, g.N, n), b = v.e * v.B;
        for (int r = 0; r < R; r++) {
            cplx p = v.p(c, r), G = kr_conjugate(p_back(g, c, Gb, h, n, r));
            s.dt[r] -= c.delta / 2 * kr_real(kr_conjugate(Gb), p);
            b = b - c.t[r] / 2 * p;
            s.delta += kr_real(G, p) / c.delta;
            for (int k = 0; k < R; k++) dW[k][r] += c.delta * kr_real(G, v.e * v.P[k]);
        }
        s.delta += kr_real(kr_conjugate(Gb), b);
    }
    s.delta = kr_warp_sum(s.delta);
    for (int r = 0; r < R; r++) {
        s.dt[r] = kr_warp_sum(s.dt[r]);
        for (int k = 0; k < R; k++) dW[k][r] = kr_warp_sum(dW[k][r]);
    }
    inverse_back(c, dW, s);
    return s;
}

/* Gradients of one mode; lambda's is that of z = delta lambda until the end. */
template <int R>
struct gradients {
    cplx z, B, P[R];
};

template <int R>
__device__ gradients<R> mode_back(const system_of &g, const whole<R> &c, const sums<R> &s,
                                  const mode<R> &v, int64_t h, int64_t n) {
    cplx Gb = given(g.db, g.db_row, h, 0, g.N, n), Gp[R];
    cplx Ge = c.delta * (kr_conjugate(v.B) * Gb) + 2 * given(g.dA, g.dA_row, h, 0, g.N, n);
    gradients<R> to;
    to.B = c.delta * (kr_conjugate(v.e) * Gb);
    for (int r = 0; r < R; r++) Gp[r] = p_back(g, c, Gb, h, n, r);
    for (int k = 0; k < R; k++) {
        cplx Gu = {0, 0}, GP = {0, 0};
        cplx Gq = given(g.dA, g.dA_row, h, 1 + R + k, g.N, n) + 2 * s.dt[k] * kr_conjugate(v.B);
        to.B = to.B + 2 * s.dt[k] * kr_conjugate(v.q[k]);
        for (int r = 0; r < R; r++) {
            Gu = Gu + c.delta * c.W[k][r] * Gp[r];
            GP = GP + 2 * s.dS[r][k] * kr_conjugate(v.q[r]);
            Gq = Gq + 2 * s.dS[k][r] * kr_conjugate(v.P[r]);
        }
        Ge = Ge + kr_conjugate(v.P[k]) * Gu + v.P[k] * Gq;
        to.P[k] = GP + kr_conjugate(v.e) * Gu + kr_conjugate(Gq) * v.e;
    }
    to.z = 0.5 * (kr_conjugate(v.e * v.e) * Ge);
    return to;
}

/* Each channel's gradients of lambda, B and P to `parts` [H][2+R][2][N]; its step's to dt. */
template <int R>
__global__ void __launch_bounds__(THREADS)
    backward(const system_of g, const rows dt, double *parts) {
    int64_t h = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (h >= g.H) return;
    whole<R> c = whole_of<R>(g, h);
    sums<R> s = sums_of<R>(g, c, h);
    double delta = 0, *to = parts + h * (2 + R) * 2 * g.N;
    for (int64_t n = threadIdx.x % 32; n < g.N; n += 32) {
        mode<R> v(g, c.delta, h, n);
        gradients<R> of = mode_back(g, c, s, v, h, n);
        delta += kr_real(kr_conjugate(of.z), v.lambda);
        to[n] = c.delta * of.z.re, to[g.N + n] = c.delta * of.z.im;
        to[2 * g.N + n] = of.B.re, to[3 * g.N + n] = of.B.im;
        for (int r = 0; r < R; r++)
            to[(4 + 2 * r) * g.N + n] = of.P[r].re, to[(5 + 2 * r) * g.N + n] = of.P[r].im;
    }
    delta = kr_warp_sum(delta);
    if (dt.p && threadIdx.x % 32 == 0)
        kr_put(dt.p + h, (float)(c.delta * (s.delta + delta)), dt.add);
}

/* Number `col` of row s of what the channels left. */
__global__ void gather(const system_of g, int64_t cols, const double *parts, const rows rate,
                       const rows frequency, const rows B, const rows P) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, s = i / cols, col = i % cols, N = g.N;
    double sum = 0;
    if (s >= g.S) return;
    for (int64_t h = s; h < g.H; h += g.S) sum += parts[h * cols + col];
    if (col < N) {
        sum *= -exp((double)g.rate[s * g.rate_row + col]);
        if (rate.p) kr_put(rate.p + s * rate.row + col, (float)sum, rate.add);
    } else if (col < 2 * N) {
        if (frequency.p)
            kr_put(frequency.p + s * frequency.row + col - N, (float)sum, frequency.add);
    } else if (col < 4 * N) {
        if (B.p) kr_put(B.p + s * B.row + col - 2 * N, (float)sum, B.add);
    } else if (P.p) {
        kr_put(P.p + s * P.row + col - 4 * N, (float)sum, P.add);
    }
}

/* ---- calls ---- */

system_of read(const kr_call *c) {
    const kr_tensor *P = &c->in[KR_LOW_P];
    int64_t one;
    system_of g = {};
    g.dt = kr_discretise_in(c, KR_LOW_DT, &one);
    g.rate = kr_discretise_in(c, KR_LOW_RATE, &g.rate_row);
    g.frequency = kr_discretise_in(c, KR_LOW_FREQUENCY, &g.frequency_row);
    g.B = kr_discretise_in(c, KR_LOW_B, &g.B_row);
    g.P = kr_discretise_in(c, KR_LOW_P, &g.P_row);
    g.dA = kr_discretise_in(c, KR_LOW_INS, &g.dA_row);
    g.db = kr_discretise_in(c, KR_LOW_INS + 1, &g.db_row);
    g.H = c->in[KR_LOW_DT].shape[0];
    g.S = P->shape[0];
    g.N = P->shape[3];
    g.length = ((const kr_discretise_low_rank_attr *)c->attr)->rate;
    return g;
}

template <int R>
void run(const kr_call *c) {
    system_of g = read(c);
    if (g.H * g.N == 0) return;
    forward<R><<<kr_blocks(g.H, WARPS), THREADS, 0, kr_cuda_stream()>>>(g, kr_discretise_out(c, 0),
                                                                        kr_discretise_out(c, 1));
}

template <int R>
void run_back(const kr_call *c) {
    system_of g = read(c);
    int64_t cols = (2 + R) * 2 * g.N;
    double *parts = (double *)c->scratch;
    if (g.H * g.N == 0) return;
    backward<R>
        <<<kr_blocks(g.H, WARPS), THREADS, 0, kr_cuda_stream()>>>(g,
                                                                  kr_discretise_out(c, KR_LOW_DT),
                                                                  parts);
    gather<<<kr_blocks(g.S * cols, THREADS), THREADS, 0, kr_cuda_stream()>>>(
        g, cols, parts, kr_discretise_out(c, KR_LOW_RATE), kr_discretise_out(c, KR_LOW_FREQUENCY),
        kr_discretise_out(c, KR_LOW_B), kr_discretise_out(c, KR_LOW_P));
}

} // namespace

static_assert(KR_LOW_RANKS == 4, "an instance for each rank");

extern "C" void kr_discretise_low_rank_cuda(const kr_call *c) {
    static kr_kernel *const of_rank[] = {run<1>, run<2>, run<3>, run<4>};
    of_rank[c->in[KR_LOW_P].shape[1] - 1](c);
}

extern "C" void kr_discretise_low_rank_grad_cuda(const kr_call *c) {
    static kr_kernel *const of_rank[] = {run_back<1>, run_back<2>, run_back<3>, run_back<4>};
    of_rank[c->in[KR_LOW_P].shape[1] - 1](c);
}
