/* turned_keys.cu - turned keys on the GPU. turned_keys.h has the equations.
 *
 * A warp a row, rank and group, for all heads of the group; a lane takes pairs of columns that turn
 * together. Backward: what comes of a row is done there; sums over rows are each warp's own, in
 * shared memory where that has room, added over the warps of a block and then over blocks, in
 * order. Bound by bytes: y, or dy, and phi. */
#include "ops/parts.cuh"
#include "ops/turned_keys/turned_keys.h"

namespace {

enum {
    THREADS = 128,
    WARPS = THREADS / 32,
    HEADS = 4,           /* whose numbers are on their way at once */
    BACK_WARPS = 8,      /* at most */
    SHARED = 100 * 1024, /* bytes of a block of the backward pass: two to a multiprocessor */
};

template <typename T>
struct keys {
    const T *x, *phi, *dy;
    int64_t x_row, phi_row, dy_row, M, H, R, G, N, S;
    const float *weight, *bias;
    float eps;
    bool halves;
};

/* Columns of a pair; where N is odd the last one is alone, with b -1. */
struct pair {
    int64_t a, b;
};
template <typename T>
__device__ __forceinline__ pair pair_of(const keys<T> &g, int64_t i) {
    int64_t half = g.N / 2;
    if (i >= half) return {g.N - 1, -1};
    return {g.halves ? i : 2 * i, g.halves ? i + half : 2 * i + 1};
}

template <typename T>
__device__ __forceinline__ float rstd_of(const keys<T> &g, const T *x) {
    float square = 0;
    for (int64_t n = threadIdx.x % 32; n < g.N; n += 32) square += kr_load(x + n) * kr_load(x + n);
    return rsqrtf(kr_warp_sum(square) / (float)g.N + g.eps);
}

/* weight x / rms(x) + bias, in front of the turn. */
template <typename T>
__device__ __forceinline__ float key(const keys<T> &g, const T *x, float rstd, int64_t r, int64_t h,
                                     int64_t n) {
    return g.weight[n] * kr_load(x + n) * rstd + g.bias[(h * g.R + r) * g.N + n];
}

template <typename T>
__global__ void forward(const keys<T> g, T *__restrict__ y, int64_t y_row) {
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, m = i / (g.R * g.G);
    int64_t r = i / g.G % g.R, group = i % g.G, each = g.H / g.G;
    if (m >= g.M) return;
    const T *x = g.x + m * g.x_row + (r * g.G + group) * g.N;
    float rstd = rstd_of(g, x);
    for (int64_t k = threadIdx.x % 32; k < (g.N + 1) / 2; k += 32) {
        pair at = pair_of(g, k);
        float first = g.weight[at.a] * kr_load(x + at.a) * rstd, second = 0;
        if (at.b >= 0) second = g.weight[at.b] * kr_load(x + at.b) * rstd;
#pragma unroll 4
        for (int64_t h = group * each; h < (group + 1) * each; h++) {
            const float *bias = g.bias + (h * g.R + r) * g.N;
            T *to = y + m * y_row + (r * g.H + h) * g.N;
            float sine = 0, cosine = 1, p = first + bias[at.a];
            float q = at.b >= 0 ? second + bias[at.b] : 0;
            if (k < g.S) sincosf(kr_load(g.phi + m * g.phi_row + h * g.S + k), &sine, &cosine);
            kr_store(to + at.a, p * cosine - q * sine);
            if (at.b >= 0) kr_store(to + at.b, p * sine + q * cosine);
        }
    }
}

/* ---- the gradient ---- */

template <typename T>
struct results {
    T *dx, *dphi; /* NULL: not wanted */
    int64_t dx_row, dphi_row, chunk;
    float *biases, *weights; /* of each chunk of rows: [chunks,H,R,N], [chunks,G,N] */
    bool add_dx, add_dphi, in_shared;
};

/* What a warp sums: du over the heads of a row [N]; that times the normed x over rows [N]; du over
 * rows [heads of the group,R,N]. A lane has columns of its own. */
struct row_sums {
    float *dn, *dweight, *dbias;
};

/* Heads h .. h + count of a row: dphi out, du summed. */
template <typename T>
__device__ __forceinline__ void heads_back(const keys<T> &g, const results<T> &o, const T *x,
                                           float rstd, int64_t m, int64_t r, int64_t h, int count,
                                           int64_t k, pair at, float *dbias, float (&dn)[2]) {
    float p[HEADS], q[HEADS], phi[HEADS];
#pragma unroll
    for (int j = 0; j < HEADS; j++) {
        const T *dy = g.dy + m * g.dy_row + (r * g.H + h + j) * g.N;
        p[j] = q[j] = phi[j] = 0;
        if (j >= count) continue;
        p[j] = kr_load(dy + at.a);
        if (at.b >= 0) q[j] = kr_load(dy + at.b);
        if (k < g.S) phi[j] = kr_load(g.phi + m * g.phi_row + (h + j) * g.S + k);
    }
#pragma unroll
    for (int j = 0; j < HEADS; j++) {
        float sine = 0, cosine = 1, *sums = dbias + j * g.R * g.N;
        if (j >= count) continue;
        if (k < g.S) sincosf(phi[j], &sine, &cosine);
        float first = p[j] * cosine + q[j] * sine, second = q[j] * cosine - p[j] * sine;
        dn[0] += first, dn[1] += second;
        sums[at.a] += first;
        if (at.b >= 0) sums[at.b] += second;
        if (k >= g.S || !o.dphi) continue;
        float v =
            second * key(g, x, rstd, r, h + j, at.a) - first * key(g, x, rstd, r, h + j, at.b);
        kr_put(o.dphi + m * o.dphi_row + (h + j) * g.S + k, v, o.add_dphi || r > 0);
    }
}

/* Rank r of a row: as above, and dx, and the sums of dweight. */
template <typename T>
__device__ __forceinline__ void row_back(const keys<T> &g, const results<T> &o, const row_sums &s,
                                         int64_t m, int64_t r, int64_t group) {
    const T *x = g.x + m * g.x_row + (r * g.G + group) * g.N;
    int64_t each = g.H / g.G;
    int lane = threadIdx.x % 32;
    float rstd = rstd_of(g, x), mean = 0;
    for (int64_t k = lane; k < (g.N + 1) / 2; k += 32) {
        pair at = pair_of(g, k);
        float dn[2] = {0, 0};
        for (int64_t j = 0; j < each; j += HEADS)
            heads_back(g, o, x, rstd, m, r, group * each + j,
                       (int)(each - j < HEADS ? each - j : HEADS), k, at,
                       s.dbias + (j * g.R + r) * g.N, dn);
        for (int j = 0; j < 2; j++) {
            int64_t n = j ? at.b : at.a;
            if (n < 0) continue;
            float normed = kr_load(x + n) * rstd;
            s.dn[n] = dn[j];
            s.dweight[n] += dn[j] * normed;
            mean = fmaf(g.weight[n] * dn[j], normed, mean);
        }
    }
    mean = kr_warp_sum(mean) / (float)g.N;
    for (int64_t k = lane; o.dx && k < (g.N + 1) / 2; k += 32) {
        pair at = pair_of(g, k);
        for (int j = 0; j < 2; j++) {
            int64_t n = j ? at.b : at.a;
            if (n < 0) continue;
            float v = rstd * (g.weight[n] * s.dn[n] - kr_load(x + n) * rstd * mean);
            kr_put(o.dx + m * o.dx_row + (r * g.G + group) * g.N + n, v, o.add_dx);
        }
    }
}

/* A block a chunk of rows of a group. */
template <typename T>
__global__ void __launch_bounds__(32 * BACK_WARPS) backward(const keys<T> g, const results<T> o) {
    extern __shared__ float shared[];
    int warps = blockDim.x / 32, warp = threadIdx.x / 32;
    int64_t group = blockIdx.y, size = g.H / g.G * g.R * g.N;
    int64_t from = blockIdx.x * o.chunk, end = min(from + o.chunk, g.M);
    float *out = o.biases + (blockIdx.x * g.G + group) * size;
    float *all = o.in_shared ? shared + warps * 2 * g.N : out;
    row_sums s = {shared + warp * 2 * g.N, shared + warp * 2 * g.N + g.N, all + warp * size};
    for (int64_t i = threadIdx.x % 32; i < size; i += 32) s.dbias[i] = 0;
    for (int64_t i = threadIdx.x % 32; i < g.N; i += 32) s.dweight[i] = 0;
    __syncwarp();
    for (int64_t m = from + warp; m < end; m += warps)
        for (int64_t r = 0; r < g.R; r++) row_back(g, o, s, m, r, group);
    __syncthreads();
    for (int64_t i = threadIdx.x; o.in_shared && i < size; i += blockDim.x) {
        float sum = 0;
        for (int w = 0; w < warps; w++) sum += all[w * size + i];
        out[i] = sum;
    }
    for (int64_t n = threadIdx.x; n < g.N; n += blockDim.x) {
        float sum = 0;
        for (int w = 0; w < warps; w++) sum += shared[w * 2 * g.N + g.N + n];
        o.weights[(blockIdx.x * g.G + group) * g.N + n] = sum;
    }
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
    int64_t C = g.H * g.R * g.N, chunks = kr_turned_keys_chunks_cuda(g.M);
    put_sum weight = {(float *)c->out[1].data, KR_ACC(c, 1) != 0};
    put_sum bias = {(float *)c->out[2].data, KR_ACC(c, 2) != 0};
    float *biases = (float *)c->scratch;
    results<T> o = {(T *)dx->data,
                    (T *)dphi->data,
                    dx->data ? dx->stride[0] : 0,
                    dphi->data ? dphi->stride[0] : 0,
                    (g.M + chunks - 1) / chunks,
                    biases,
                    biases + chunks * C,
                    KR_ACC(c, 0) != 0,
                    KR_ACC(c, 3) != 0,
                    true};
    g.dy = (const T *)c->in[0].data;
    g.dy_row = c->in[0].stride[0];
    int64_t room = kr_cuda_shared() < SHARED ? kr_cuda_shared() : SHARED;
    int64_t each = (C / g.G + 2 * g.N) * (int64_t)sizeof(float), warps = room / each;
    o.in_shared = warps > 0;
    if (!o.in_shared) warps = 1, each = 2 * g.N * (int64_t)sizeof(float);
    if (warps > BACK_WARPS) warps = BACK_WARPS;
    cudaFuncSetAttribute(backward<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)(warps * each));
    backward<T><<<dim3((unsigned)chunks, (unsigned)g.G), (unsigned)(32 * warps),
                  (size_t)(warps * each), kr_cuda_stream()>>>(g, o);
    if (bias.to) kr_sum_parts_launch(biases, chunks, C, bias);
    if (weight.to) kr_sum_parts_launch(o.weights, chunks * g.G, g.N, weight);
}

} // namespace

extern "C" void kr_turned_keys_cuda(const kr_call *c) {
    c->in[0].dtype == KR_BF16 ? run_forward<bf16>(c) : run_forward<float>(c);
}
extern "C" void kr_turned_keys_grad_cuda(const kr_call *c) {
    c->in[1].dtype == KR_BF16 ? run_backward<bf16>(c) : run_backward<float>(c);
}
