/* discretise.cu - the discretisation on the GPU; discretise.h has the contract, discretise_ref.c
 * the gradient. Parameters alone go in, so that it is small beside any pass over tokens: in double.
 *
 * Forward: a thread a mode of a channel. Backward: a warp a sum. */
#include "device/cuda/cplx.cuh"
#include "ops/discretise/discretise.h"
#include "ops/discretise/discretise_rows.cuh"

namespace {

enum { THREADS = 128, WARPS = THREADS / 32 };

typedef kr_cplx cplx;

struct system_of {
    const float *dt, *rate, *frequency, *B, *da, *db; /* da, db: NULL where absent */
    int64_t rate_row, frequency_row, B_row, da_row, db_row;
    int64_t H, S, N;
    double length;
    bool bilinear;
};

/* One mode of one channel, as in discretise_ref.c. */
struct mode {
    double delta;
    cplx lambda, z, B, a, slope, phi, phi_slope;
};

/* phi and its slope by their series where e^z - 1 and e^z - phi cancel. */
__device__ void hold(mode &v) {
    double sine, cosine, size = exp(v.z.re);
    sincos(v.z.im, &sine, &cosine);
    v.a = v.slope = {size * cosine, size * sine};
    if (v.z.re * v.z.re + v.z.im * v.z.im > 0.25) {
        v.phi = kr_over(v.a - cplx{1, 0}, v.z);
        v.phi_slope = kr_over(v.a - v.phi, v.z);
        return;
    }
    cplx term = {1, 0}; /* z^(k-1) / k! */
    v.phi = v.phi_slope = {0, 0};
    for (int k = 1; k < 18; k++) {
        v.phi = v.phi + term;
        v.phi_slope = v.phi_slope + (double)k / (k + 1) * term;
        term = 1.0 / (k + 1) * (term * v.z);
    }
}

__device__ void bilinear(mode &v) {
    cplx half = 0.5 * v.z, one = {1, 0};
    v.phi = kr_over(one, one - half);
    v.phi_slope = 0.5 * (v.phi * v.phi);
    v.a = (one + half) * v.phi;
    v.slope = v.phi * v.phi;
}

__device__ mode mode_of(const system_of &g, int64_t h, int64_t n) {
    int64_t s = h % g.S;
    const float *B = g.B + s * g.B_row;
    mode v;
    v.delta = g.length * exp((double)g.dt[h]);
    v.lambda = {-exp((double)g.rate[s * g.rate_row + n]),
                (double)g.frequency[s * g.frequency_row + n]};
    v.z = v.delta * v.lambda;
    v.B = {(double)B[n], (double)B[g.N + n]};
    if (g.bilinear)
        bilinear(v);
    else
        hold(v);
    return v;
}

typedef kr_discretise_rows rows;

/* Rows are N real parts, then N imaginary ones. */
__device__ void put(const rows &to, int64_t row, int64_t n, int64_t N, cplx v) {
    if (!to.p) return;
    kr_put(to.p + row * to.row + n, (float)v.re, to.add);
    kr_put(to.p + row * to.row + N + n, (float)v.im, to.add);
}

__global__ void forward(const system_of g, const rows a, const rows b) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= g.H * g.N) return;
    mode v = mode_of(g, i / g.N, i % g.N);
    put(a, i / g.N, i % g.N, g.N, v.a);
    put(b, i / g.N, i % g.N, g.N, v.delta * (v.B * v.phi));
}

__device__ cplx given(const float *p, int64_t row, int64_t N, int64_t h, int64_t n) {
    return p ? cplx{(double)p[h * row + n], (double)p[h * row + N + n]} : cplx{0, 0};
}

/* Gradients of one mode of one channel: lambda, B; returns that of log_dt. */
__device__ double back(const system_of &g, const mode &v, int64_t h, int64_t n, cplx *lambda,
                       cplx *B) {
    cplx Ga = given(g.da, g.da_row, g.N, h, n), Gb = given(g.db, g.db_row, g.N, h, n);
    cplx Gm = kr_conjugate(v.B) * Gb;
    cplx Gz = kr_conjugate(v.slope) * Ga + v.delta * (kr_conjugate(v.phi_slope) * Gm);
    *lambda = v.delta * Gz;
    *B = v.delta * (kr_conjugate(v.phi) * Gb);
    return v.delta * ((kr_conjugate(Gm) * v.phi).re + (kr_conjugate(Gz) * v.lambda).re);
}

__global__ void steps_back(const system_of g, float *to, bool add) {
    int64_t h = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    double sum = 0;
    cplx lambda, B;
    if (h >= g.H) return;
    for (int64_t n = threadIdx.x % 32; n < g.N; n += 32)
        sum += back(g, mode_of(g, h, n), h, n, &lambda, &B);
    sum = kr_warp_sum(sum);
    if (threadIdx.x % 32 == 0) kr_put(to + h, (float)sum, add);
}

/* Of a number of lambda and B: over the channels that use it. */
__global__ void modes_back(const system_of g, const rows rate, const rows frequency, const rows B) {
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, s = i / g.N, n = i % g.N;
    cplx lambda = {0, 0}, sum = {0, 0};
    if (s >= g.S) return;
    for (int64_t h = s + threadIdx.x % 32 * g.S; h < g.H; h += 32 * g.S) {
        cplx one, other;
        back(g, mode_of(g, h, n), h, n, &one, &other);
        lambda = lambda + one;
        sum = sum + other;
    }
    lambda = {kr_warp_sum(lambda.re), kr_warp_sum(lambda.im)};
    sum = {kr_warp_sum(sum.re), kr_warp_sum(sum.im)};
    if (threadIdx.x % 32) return;
    double decay = -exp((double)g.rate[s * g.rate_row + n]);
    if (rate.p) kr_put(rate.p + s * rate.row + n, (float)(decay * lambda.re), rate.add);
    if (frequency.p) kr_put(frequency.p + s * frequency.row + n, (float)lambda.im, frequency.add);
    put(B, s, n, g.N, sum);
}

system_of read(const kr_call *c) {
    const kr_discretise_attr *attr = (const kr_discretise_attr *)c->attr;
    int64_t one;
    system_of g = {};
    g.dt = kr_discretise_in(c, KR_DISCRETISE_DT, &one);
    g.rate = kr_discretise_in(c, KR_DISCRETISE_RATE, &g.rate_row);
    g.frequency = kr_discretise_in(c, KR_DISCRETISE_FREQUENCY, &g.frequency_row);
    g.B = kr_discretise_in(c, KR_DISCRETISE_B, &g.B_row);
    g.da = kr_discretise_in(c, 4, &g.da_row);
    g.db = kr_discretise_in(c, 5, &g.db_row);
    g.H = c->in[KR_DISCRETISE_DT].shape[0];
    g.S = c->in[KR_DISCRETISE_RATE].shape[0];
    g.N = c->in[KR_DISCRETISE_RATE].shape[1];
    g.length = attr->rate;
    g.bilinear = attr->how == KR_BILINEAR;
    return g;
}

} // namespace

extern "C" void kr_discretise_cuda(const kr_call *c) {
    system_of g = read(c);
    if (g.H * g.N == 0) return;
    forward<<<kr_blocks(g.H * g.N, THREADS), THREADS, 0, kr_cuda_stream()>>>(
        g, kr_discretise_out(c, 0), kr_discretise_out(c, 1));
}

extern "C" void kr_discretise_grad_cuda(const kr_call *c) {
    system_of g = read(c);
    rows dt = kr_discretise_out(c, KR_DISCRETISE_DT),
         rate = kr_discretise_out(c, KR_DISCRETISE_RATE);
    rows frequency = kr_discretise_out(c, KR_DISCRETISE_FREQUENCY);
    rows B = kr_discretise_out(c, KR_DISCRETISE_B);
    if (g.H * g.N == 0) return;
    if (dt.p) steps_back<<<kr_blocks(g.H, WARPS), THREADS, 0, kr_cuda_stream()>>>(g, dt.p, dt.add);
    if (rate.p || frequency.p || B.p)
        modes_back<<<kr_blocks(g.S * g.N, WARPS), THREADS, 0, kr_cuda_stream()>>>(g, rate,
                                                                                  frequency, B);
}
