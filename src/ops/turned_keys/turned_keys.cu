/* turned_keys.cu - turned keys on the GPU. turned_keys.h has the equations.
 *
 * Forward: a warp a row, rank and group, for all heads of the group. Backward: the same for dx, and
 * keeps 1 / rms; then a thread an angle, and a thread a number of the bias for each chunk of rows.
 * Whoever wants a number of du turns its pair back. */
#include "ops/parts.cuh"
#include "ops/turned_keys/turned_keys.h"

namespace {

enum { THREADS = 128, WARPS = THREADS / 32 };

template <typename T>
struct keys {
    const T *x, *phi, *dy;
    int64_t x_row, phi_row, dy_row, M, H, R, G, N, S;
    const float *weight, *bias;
    float *rstd; /* [M,R,G] */
    float eps;
    bool halves;
};

/* Column n: its pair, or -1, and the other column. */
template <typename T>
__device__ __forceinline__ int64_t pair_of(const keys<T> &g, int64_t n, int64_t *other,
                                           bool *second) {
    int64_t half = g.N / 2, i = g.halves ? n : n / 2;
    *second = g.halves ? n >= half : n % 2;
    if (g.halves && *second) i -= half;
    *other = *second ? n - (g.halves ? half : 1) : n + (g.halves ? half : 1);
    return i < g.S ? i : -1;
}

template <typename T>
__device__ __forceinline__ float rstd_of(const keys<T> &g, const T *x) {
    float square = 0;
    for (int64_t n = threadIdx.x % 32; n < g.N; n += 32) square += kr_load(x + n) * kr_load(x + n);
    return rsqrtf(kr_warp_sum(square) / (float)g.N + g.eps);
}

/* u[n] in front of the turn. */
template <typename T>
__device__ __forceinline__ float key(const keys<T> &g, const T *x, float rstd, int64_t r, int64_t h,
                                     int64_t n) {
    return g.weight[n] * kr_load(x + n) * rstd + g.bias[(h * g.R + r) * g.N + n];
}

template <typename T>
__global__ void forward(const keys<T> g, T *y, int64_t y_row) {
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, m = i / (g.R * g.G);
    int64_t r = i / g.G % g.R, group = i % g.G, each = g.H / g.G;
    if (m >= g.M) return;
    const T *x = g.x + m * g.x_row + (r * g.G + group) * g.N;
    float rstd = rstd_of(g, x);
    for (int64_t h = group * each; h < (group + 1) * each; h++)
        for (int64_t n = threadIdx.x % 32; n < g.N; n += 32) {
            int64_t other;
            bool second;
            int64_t pair = pair_of(g, n, &other, &second);
            float u = key(g, x, rstd, r, h, n);
            if (pair >= 0) {
                float sine, cosine, v = key(g, x, rstd, r, h, other);
                sincosf(kr_load(g.phi + m * g.phi_row + h * g.S + pair), &sine, &cosine);
                u = second ? v * sine + u * cosine : u * cosine - v * sine;
            }
            kr_store(y + m * y_row + (r * g.H + h) * g.N + n, u);
        }
}

/* dy[n] turned back. */
template <typename T>
__device__ __forceinline__ float turned_back(const keys<T> &g, int64_t m, int64_t r, int64_t h,
                                             int64_t n) {
    const T *dy = g.dy + m * g.dy_row + (r * g.H + h) * g.N;
    int64_t other;
    bool second;
    int64_t pair = pair_of(g, n, &other, &second);
    float d = kr_load(dy + n), sine, cosine;
    if (pair < 0) return d;
    sincosf(kr_load(g.phi + m * g.phi_row + h * g.S + pair), &sine, &cosine);
    float o = kr_load(dy + other);
    return second ? d * cosine - o * sine : d * cosine + o * sine;
}

template <typename T>
__device__ __forceinline__ float group_sum(const keys<T> &g, int64_t m, int64_t r, int64_t group,
                                           int64_t n) {
    int64_t each = g.H / g.G;
    float sum = 0;
    for (int64_t h = group * each; h < (group + 1) * each; h++) sum += turned_back(g, m, r, h, n);
    return sum;
}

/* dx [M,R,G,N], NULL: not wanted; and rstd. */
template <typename T>
__global__ void norm_back(const keys<T> g, T *dx, int64_t dx_row, bool add) {
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, m = i / (g.R * g.G);
    int64_t r = i / g.G % g.R, group = i % g.G;
    if (m >= g.M) return;
    const T *x = g.x + m * g.x_row + (r * g.G + group) * g.N;
    float rstd = rstd_of(g, x), mean = 0;
    if (threadIdx.x % 32 == 0) g.rstd[i] = rstd;
    if (!dx) return;
    for (int64_t n = threadIdx.x % 32; n < g.N; n += 32)
        mean += g.weight[n] * group_sum(g, m, r, group, n) * kr_load(x + n) * rstd;
    mean = kr_warp_sum(mean) / (float)g.N;
    for (int64_t n = threadIdx.x % 32; n < g.N; n += 32) {
        float dn = group_sum(g, m, r, group, n);
        float v = rstd * (g.weight[n] * dn - kr_load(x + n) * rstd * mean);
        kr_put(dx + m * dx_row + (r * g.G + group) * g.N + n, v, add);
    }
}

template <typename T>
__global__ void phi_back(const keys<T> g, T *dphi, int64_t row, bool add) {
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x, m = j / (g.H * g.S);
    int64_t h = j / g.S % g.H, i = j % g.S, group = h / (g.H / g.G);
    if (m >= g.M) return;
    int64_t p = g.halves ? i : 2 * i, q = g.halves ? i + g.N / 2 : 2 * i + 1;
    float sum = 0;
    for (int64_t r = 0; r < g.R; r++) {
        const T *x = g.x + m * g.x_row + (r * g.G + group) * g.N;
        float rstd = g.rstd[(m * g.R + r) * g.G + group];
        sum += turned_back(g, m, r, h, q) * key(g, x, rstd, r, h, p) -
               turned_back(g, m, r, h, p) * key(g, x, rstd, r, h, q);
    }
    kr_put(dphi + m * row + h * g.S + i, sum, add);
}

/* Of a chunk of rows: du, and du times the normed x, [chunks,H,R,N] each. */
template <typename T>
__global__ void weights_back(const keys<T> g, int64_t chunk, float *bias, float *weight) {
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x, C = g.H * g.R * g.N;
    int64_t n = j % g.N, r = j / g.N % g.R, h = j / g.N / g.R, group = h / (g.H / g.G);
    float sum = 0, with_x = 0;
    if (j >= C) return;
    int64_t from = blockIdx.y * chunk, end = min(from + chunk, g.M);
    for (int64_t m = from; m < end; m++) {
        float du = turned_back(g, m, r, h, n);
        sum += du;
        with_x += du * kr_load(g.x + m * g.x_row + (r * g.G + group) * g.N + n) *
                  g.rstd[(m * g.R + r) * g.G + group];
    }
    bias[blockIdx.y * C + j] = sum;
    weight[blockIdx.y * C + j] = with_x;
}

struct put_sum {
    float *to;
    bool add;
    __device__ void operator()(int64_t i, float v) const { kr_put(to + i, v, add); }
};

/* x, weight, bias and phi from input i on. */
template <typename T>
keys<T> keys_of(const kr_call *c, int i) {
    const kr_turned_keys_attr *a = (const kr_turned_keys_attr *)c->attr;
    const kr_tensor *x = &c->in[i], *bias = &c->in[i + 2], *phi = &c->in[i + 3];
    keys<T> g = {};
    g.x = (const T *)x->data;
    g.phi = (const T *)phi->data;
    g.x_row = x->stride[0];
    g.phi_row = phi->stride[0];
    g.M = x->shape[0];
    g.H = bias->shape[0];
    g.R = bias->shape[1];
    g.N = bias->shape[2];
    g.G = a->groups;
    g.S = phi->shape[1] / g.H;
    g.weight = (const float *)c->in[i + 1].data;
    g.bias = (const float *)bias->data;
    g.eps = (float)a->eps;
    g.halves = a->halves;
    return g;
}

template <typename T>
void run_forward(const kr_call *c) {
    keys<T> g = keys_of<T>(c, 0);
    if (g.M > 0)
        forward<T><<<kr_blocks(g.M * g.R * g.G, WARPS), THREADS, 0, kr_cuda_stream()>>>(
            g, (T *)c->out[0].data, c->out[0].stride[0]);
}

template <typename T>
void run_backward(const kr_call *c) {
    const kr_tensor *dx = &c->out[0], *dphi = &c->out[3];
    keys<T> g = keys_of<T>(c, 1);
    int64_t C = g.H * g.R * g.N, chunks = kr_turned_keys_chunks(g.M);
    int64_t chunk = (g.M + chunks - 1) / chunks;
    put_sum weight = {(float *)c->out[1].data, KR_ACC(c, 1) != 0};
    put_sum bias = {(float *)c->out[2].data, KR_ACC(c, 2) != 0};
    float *biases = (float *)c->scratch, *weights = biases + chunks * C;
    g.dy = (const T *)c->in[0].data;
    g.dy_row = c->in[0].stride[0];
    g.rstd = weights + chunks * C;
    if (g.M > 0)
        norm_back<T><<<kr_blocks(g.M * g.R * g.G, WARPS), THREADS, 0, kr_cuda_stream()>>>(
            g, (T *)dx->data, dx->data ? dx->stride[0] : 0, KR_ACC(c, 0) != 0);
    if (dphi->data && g.M * g.H * g.S > 0)
        phi_back<T><<<kr_blocks(g.M * g.H * g.S, THREADS), THREADS, 0, kr_cuda_stream()>>>(
            g, (T *)dphi->data, dphi->stride[0], KR_ACC(c, 3) != 0);
    dim3 grid(kr_blocks(C, THREADS), (unsigned)chunks);
    weights_back<T><<<grid, THREADS, 0, kr_cuda_stream()>>>(g, chunk, biases, weights);
    if (bias.to) kr_sum_parts_launch(biases, chunks, C, bias);
    if (weight.to) kr_sum_parts_launch(weights, chunks * g.H * g.R, g.N, weight);
}

} // namespace

extern "C" void kr_turned_keys_cuda(const kr_call *c) {
    c->in[0].dtype == KR_BF16 ? run_forward<bf16>(c) : run_forward<float>(c);
}
extern "C" void kr_turned_keys_grad_cuda(const kr_call *c) {
    c->in[1].dtype == KR_BF16 ? run_backward<bf16>(c) : run_backward<float>(c);
}
