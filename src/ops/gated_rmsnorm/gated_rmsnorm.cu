/* gated_rmsnorm.cu - the gated norm and its gradient on the GPU. gated_rmsnorm.h has the equations.
 *
 * Bound by memory. A block takes a group of some rows; what a thread has read waits in registers
 * (HELD packs; what a very wide group has beyond them is read again). */
#include "device/cuda/pack.cuh"
#include "ops/gated_rmsnorm/gated_rmsnorm.h"
#include "ops/parts.cuh"

enum { HELD = 4, MOST = 512 };

typedef struct norm_call {
    const void *x, *z, *dy; /* [M,E] of the kernel's T; dy: gradient only */
    const float *weight;
    float *rstd; /* [M,G]: written forward, read back */
    void *y, *dx, *dz;
    float *parts; /* [blocks,E] */
    int64_t x_row, z_row, dy_row, y_row, dx_row, dz_row, rstd_row, M, W, E;
    float eps;
    bool behind, add_dx, add_dz;
} norm_call;

/* The sum over the threads of a block, in each of them. */
static __device__ __forceinline__ float block_sum(float x) {
    __shared__ float sums[MOST / 32];
    x = kr_warp_sum(x);
    __syncthreads(); /* the sums before these have been read */
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < blockDim.x / 32; i++) x += sums[i];
    return x;
}

static __device__ __forceinline__ float sigmoid(float z) { return 1 / (1 + __expf(-z)); }

/* n of a pack, and silu(z). */
template <int V>
static __device__ __forceinline__ void gated(bool behind, const float (&x)[V], const float (&z)[V],
                                             float (&n)[V], float (&gate)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) {
        gate[i] = z[i] * sigmoid(z[i]);
        n[i] = behind ? x[i] : x[i] * gate[i];
    }
}

/* y of a pack */
template <typename T, int V>
static __device__ __forceinline__ void put(const norm_call &c, int64_t m, int64_t d,
                                           const float (&n)[V], const float (&gate)[V],
                                           float rstd) {
    float w[V], y[V];
    kr_load_pack<V>(c.weight + d, w);
#pragma unroll
    for (int i = 0; i < V; i++) y[i] = n[i] * (rstd * w[i]) * (c.behind ? gate[i] : 1);
    kr_store_pack<V>((T *)c.y + m * c.y_row + d, y);
}

template <typename T, int V>
static __global__ void __launch_bounds__(MOST) forward(norm_call c) {
    int64_t m = blockIdx.x, first = (int64_t)blockIdx.y * c.W, step = (int64_t)blockDim.x * V;
    const T *x = (const T *)c.x + m * c.x_row + first, *z = (const T *)c.z + m * c.z_row + first;
    float n[HELD][V], gate[HELD][V], square = 0, a[V], b[V];
    kr_go_on();
    kr_after();
#pragma unroll
    for (int h = 0; h < HELD; h++) {
        int64_t d = threadIdx.x * V + h * step;
        kr_load_pack_if<V>(d < c.W, x + d, a);
        kr_load_pack_if<V>(d < c.W, z + d, b);
        gated<V>(c.behind, a, b, n[h], gate[h]);
#pragma unroll
        for (int i = 0; i < V; i++) square = fmaf(n[h][i], n[h][i], square);
    }
    for (int64_t d = threadIdx.x * V + HELD * step; d < c.W; d += step) {
        float more[V], unused[V];
        kr_load_pack<V>(x + d, a);
        kr_load_pack<V>(z + d, b);
        gated<V>(c.behind, a, b, more, unused);
#pragma unroll
        for (int i = 0; i < V; i++) square = fmaf(more[i], more[i], square);
    }
    float rstd = 1 / sqrtf(block_sum(square) / (float)c.W + c.eps);
#pragma unroll
    for (int h = 0; h < HELD; h++) {
        int64_t d = threadIdx.x * V + h * step;
        if (d < c.W) put<T, V>(c, m, first + d, n[h], gate[h], rstd);
    }
    for (int64_t d = threadIdx.x * V + HELD * step; d < c.W; d += step) {
        float more[V], o[V];
        kr_load_pack<V>(x + d, a);
        kr_load_pack<V>(z + d, b);
        gated<V>(c.behind, a, b, more, o);
        put<T, V>(c, m, first + d, more, o, rstd);
    }
    if (threadIdx.x == 0 && c.rstd) c.rstd[m * c.rstd_row + blockIdx.y] = rstd;
}

/* dx and dz of a pack. */
template <typename T, int V>
static __device__ __forceinline__ void put_grad(const norm_call &c, int64_t m, int64_t d,
                                                const float (&x)[V], const float (&z)[V],
                                                const float (&wdy)[V], float rstd, float mean) {
    float dx[V], dz[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        float s = sigmoid(z[i]), silu = z[i] * s, slope = s * fmaf(z[i], 1 - s, 1);
        float nh = (c.behind ? x[i] : x[i] * silu) * rstd;
        float dn = rstd * ((c.behind ? wdy[i] * silu : wdy[i]) - nh * mean);
        dx[i] = c.behind ? dn : dn * silu;
        dz[i] = slope * (c.behind ? wdy[i] * nh : dn * x[i]);
    }
    if (c.dx) kr_put_pack<V>((T *)c.dx + m * c.dx_row + d, dx, c.add_dx);
    if (c.dz) kr_put_pack<V>((T *)c.dz + m * c.dz_row + d, dz, c.add_dz);
}

/* What a pack of a row is made of, and dy nh o of it. */
template <typename T, int V>
struct column {
    float x[V], z[V], wdy[V];
    __device__ __forceinline__ float load(const norm_call &c, int64_t m, int64_t d, bool there,
                                          const float (&w)[V], float rstd, float (&dw)[V]) {
        float dot = 0;
        kr_load_pack_if<V>(there, (const T *)c.x + m * c.x_row + d, x);
        kr_load_pack_if<V>(there, (const T *)c.z + m * c.z_row + d, z);
        kr_load_pack_if<V>(there, (const T *)c.dy + m * c.dy_row + d, wdy);
#pragma unroll
        for (int i = 0; i < V; i++) {
            float a = wdy[i] * x[i] * rstd * (z[i] * sigmoid(z[i])); /* dy nh o either way */
            dw[i] += a;
            wdy[i] *= w[i];
            dot = fmaf(w[i], a, dot);
        }
        return dot;
    }
};

template <typename T, int V>
static __global__ void __launch_bounds__(MOST) backward(norm_call c) {
    int64_t first = (int64_t)blockIdx.y * c.W, step = (int64_t)blockDim.x * V;
    int64_t rest = threadIdx.x * V + HELD * step;
    float dw[HELD][V] = {}, w[HELD][V];
#pragma unroll
    for (int h = 0; h < HELD; h++) {
        int64_t d = threadIdx.x * V + h * step;
        kr_load_pack_if<V>(d < c.W, c.weight + first + d, w[h]);
    }
    float *part = c.parts ? c.parts + blockIdx.x * c.E + first : NULL;
    for (int64_t m = blockIdx.x; m < c.M; m += gridDim.x) {
        column<T, V> in[HELD];
        float rstd = c.rstd[m * c.rstd_row + blockIdx.y], dot = 0;
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            int64_t d = threadIdx.x * V + h * step;
            dot += in[h].load(c, m, first + d, d < c.W, w[h], rstd, dw[h]);
        }
        for (int64_t d = rest; d < c.W; d += step) {
            column<T, V> more;
            float mine[V] = {}, ws[V];
            kr_load_pack<V>(c.weight + first + d, ws);
            dot += more.load(c, m, first + d, true, ws, rstd, mine);
            if (part) kr_put_pack<V>(part + d, mine, m != blockIdx.x);
        }
        float mean = block_sum(dot) / (float)c.W;
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            int64_t d = threadIdx.x * V + h * step;
            if (d < c.W) put_grad<T, V>(c, m, first + d, in[h].x, in[h].z, in[h].wdy, rstd, mean);
        }
        for (int64_t d = rest; d < c.W; d += step) {
            column<T, V> more;
            float mine[V] = {}, ws[V];
            kr_load_pack<V>(c.weight + first + d, ws);
            more.load(c, m, first + d, true, ws, rstd, mine);
            put_grad<T, V>(c, m, first + d, more.x, more.z, more.wdy, rstd, mean);
        }
    }
#pragma unroll
    for (int h = 0; h < HELD; h++) {
        int64_t d = threadIdx.x * V + h * step;
        if (part && d < c.W) kr_store_pack<V>(part + d, dw[h]);
    }
}

/* Threads of a block: half of its registers filled by a group of W columns, where that is enough.
 */
static unsigned threads_for(int64_t W, int v) {
    int64_t warps = (W + 32 * v * 2 - 1) / (32 * v * 2);
    return (unsigned)(32 * (warps < 1 ? 1 : warps < MOST / 32 ? warps : MOST / 32));
}

static norm_call make_call(const kr_call *c, int i) {
    const kr_gated_rmsnorm_attr *attr = (const kr_gated_rmsnorm_attr *)c->attr;
    norm_call n = {};
    n.x = c->in[i].data, n.x_row = c->in[i].stride[0];
    n.z = c->in[i + 1].data, n.z_row = c->in[i + 1].stride[0];
    n.weight = (const float *)c->in[i + 2].data;
    n.M = c->in[i].shape[0], n.E = c->in[i].shape[1], n.W = n.E / attr->groups;
    n.eps = (float)attr->eps, n.behind = attr->gate_behind;
    return n;
}

static bool all_pack(const kr_tensor *t, int n, int64_t W) {
    for (int i = 0; i < n; i++)
        if (!kr_packs(&t[i], 4)) return false;
    return W % 4 == 0;
}

extern "C" void kr_gated_rmsnorm_cuda(const kr_call *c) {
    norm_call n = make_call(c, 0);
    n.y = c->out[0].data, n.y_row = c->out[0].stride[0];
    n.rstd = (float *)c->out[1].data, n.rstd_row = c->out[1].stride[0];
    if (n.M == 0 || n.E == 0) return;
    bool packs = all_pack(c->in, 3, n.W) && all_pack(c->out, 1, n.W);
    dim3 grid((unsigned)n.M, (unsigned)(n.E / n.W));
    unsigned threads = threads_for(n.W, packs ? 4 : 1);
    bool half = c->in[0].dtype == KR_BF16;
    void (*kernel)(norm_call) = half    ? packs ? forward<bf16, 4> : forward<bf16, 1>
                                   : packs ? forward<float, 4>
                                        : forward<float, 1>;
    kr_launch_early(kernel, true, grid, threads, 0, n);
}

struct put_dweight {
    float *to;
    bool add;
    __device__ void operator()(int64_t d, float x) const { kr_put(to + d, x, add); }
};

extern "C" void kr_gated_rmsnorm_grad_cuda(const kr_call *c) {
    norm_call n = make_call(c, 1);
    float *dweight = (float *)c->out[2].data;
    n.dy = c->in[0].data, n.dy_row = c->in[0].stride[0];
    n.rstd = (float *)c->in[4].data, n.rstd_row = c->in[4].stride[0];
    n.dx = c->out[0].data, n.dx_row = c->out[0].stride[0], n.add_dx = KR_ACC(c, 0);
    n.dz = c->out[1].data, n.dz_row = c->out[1].stride[0], n.add_dz = KR_ACC(c, 1);
    n.parts = dweight ? (float *)c->scratch : NULL;
    if (n.E == 0) return;
    bool packs = all_pack(c->in, 4, n.W) && all_pack(c->out, 2, n.W);
    int64_t parts = n.M < KR_GATED_RMSNORM_PARTS ? n.M : KR_GATED_RMSNORM_PARTS;
    dim3 grid((unsigned)parts, (unsigned)(n.E / n.W));
    unsigned threads = threads_for(n.W, packs ? 4 : 1);
    cudaStream_t stream = kr_cuda_stream();
    if (parts > 0) {
        bool half = c->in[0].dtype == KR_BF16;
        if (half && packs) backward<bf16, 4><<<grid, threads, 0, stream>>>(n);
        if (half && !packs) backward<bf16, 1><<<grid, threads, 0, stream>>>(n);
        if (!half && packs) backward<float, 4><<<grid, threads, 0, stream>>>(n);
        if (!half && !packs) backward<float, 1><<<grid, threads, 0, stream>>>(n);
    }
    if (dweight) kr_sum_parts_launch(n.parts, parts, n.E, put_dweight{dweight, KR_ACC(c, 2) != 0});
}
