/* gated_rmsnorm.cu - the gated norm and its gradient on the GPU. gated_rmsnorm.h has the equations.
 *
 * Bound by memory. A block takes a group of some rows; what a thread has read waits in registers
 * (HELD packs, 16 bytes each where rows are aligned; what a very wide group has beyond them is read
 * again). Backward a block has the next row on its way while it sums over this one. */
#include "device/cuda/pack.cuh"
#include "ops/gated_rmsnorm/gated_rmsnorm.h"
#include "ops/parts.cuh"

enum { HELD_MOST = 2, MOST = 512, HIGH = 65535 /* a grid, at most */ };

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

template <typename T, int V, int HELD>
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

/* A pack of a row, as it lies. */
template <typename T, int V>
struct column {
    kr_pack<T, V> x, z, dy;
    __device__ __forceinline__ void load(const norm_call &c, int64_t m, int64_t d, bool there) {
        if (!there) return;
        x = kr_fetch<V>((const T *)c.x + m * c.x_row + d);
        z = kr_fetch<V>((const T *)c.z + m * c.z_row + d);
        dy = kr_fetch<V>((const T *)c.dy + m * c.dy_row + d);
    }
};

/* What it is made of, and dy nh o of it; all 0 where it is not `there`. */
template <int V>
struct numbers {
    float x[V], z[V], wdy[V];
    template <typename T>
    __device__ __forceinline__ float take(const column<T, V> &from, bool there, const float (&w)[V],
                                          float rstd, float (&dw)[V]) {
        float dot = 0;
        kr_unpack(from.x, x);
        kr_unpack(from.z, z);
        kr_unpack(from.dy, wdy);
#pragma unroll
        for (int i = 0; i < V; i++) {
            float a = wdy[i] * x[i] * rstd * (z[i] * sigmoid(z[i])); /* dy nh o either way */
            if (!there) a = 0;
            dw[i] += a;
            wdy[i] *= w[i];
            dot = fmaf(w[i], a, dot);
        }
        return dot;
    }
};

template <typename T, int V, int HELD>
static __global__ void __launch_bounds__(MOST) backward(norm_call c) {
    int64_t first = (int64_t)blockIdx.y * c.W, step = (int64_t)blockDim.x * V;
    int64_t mine = threadIdx.x * V, rest = mine + HELD * step;
    float dw[HELD][V] = {}, w[HELD][V], rstd = 0, ahead = 0;
    column<T, V> in[HELD] = {}, next[HELD] = {};
    numbers<V> n[HELD];
    float *part = c.parts ? c.parts + blockIdx.x * c.E + first : NULL;
    auto load = [&](int64_t m) {
        if (m >= c.M) return;
        ahead = c.rstd[m * c.rstd_row + blockIdx.y];
#pragma unroll
        for (int h = 0; h < HELD; h++)
            next[h].load(c, m, first + mine + h * step, mine + h * step < c.W);
    };
#pragma unroll
    for (int h = 0; h < HELD; h++)
        kr_load_pack_if<V>(mine + h * step < c.W, c.weight + first + mine + h * step, w[h]);
    load(blockIdx.x);
    for (int64_t m = blockIdx.x; m < c.M; m += gridDim.x) {
        float dot = 0;
        rstd = ahead;
#pragma unroll
        for (int h = 0; h < HELD; h++) in[h] = next[h];
        load(m + gridDim.x);
#pragma unroll
        for (int h = 0; h < HELD; h++)
            dot += n[h].take(in[h], mine + h * step < c.W, w[h], rstd, dw[h]);
        for (int64_t d = rest; d < c.W; d += step) {
            column<T, V> more;
            numbers<V> of;
            float sums[V] = {}, ws[V];
            kr_load_pack<V>(c.weight + first + d, ws);
            more.load(c, m, first + d, true);
            dot += of.take(more, true, ws, rstd, sums);
            if (part) kr_put_pack<V>(part + d, sums, m != blockIdx.x);
        }
        float mean = block_sum(dot) / (float)c.W;
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            int64_t d = mine + h * step;
            if (d < c.W) put_grad<T, V>(c, m, first + d, n[h].x, n[h].z, n[h].wdy, rstd, mean);
        }
        for (int64_t d = rest; d < c.W; d += step) {
            column<T, V> more;
            numbers<V> of;
            float sums[V] = {}, ws[V];
            kr_load_pack<V>(c.weight + first + d, ws);
            more.load(c, m, first + d, true);
            of.take(more, true, ws, rstd, sums);
            put_grad<T, V>(c, m, first + d, of.x, of.z, of.wdy, rstd, mean);
        }
    }
#pragma unroll
    for (int h = 0; h < HELD; h++) {
        int64_t d = mine + h * step;
        if (part && d < c.W) kr_store_pack<V>(part + d, dw[h]);
    }
}

/* Packs a thread holds: 1 where a block has threads for all of a group, which is quickest. */
static int held_for(int64_t W, int v) { return W <= (int64_t)MOST * v ? 1 : HELD_MOST; }

static unsigned threads_for(int64_t W, int v) {
    int64_t warps = (W + 32 * v - 1) / (32 * v);
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

/* The widest packs that all rows of all tensors, and all groups, are aligned for: 16 bytes of x, or
 * one number. */
static int packs_of(const kr_call *c, int outs, const norm_call &n) {
    int v = c->in[0].dtype == KR_BF16 ? 8 : 4;
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i].data != n.rstd && !kr_packs(&c->in[i], v)) return 1;
    for (int i = 0; i < outs; i++)
        if (!kr_packs(&c->out[i], v)) return 1;
    return n.W % v == 0 ? v : 1;
}

/* The call without its first `groups` groups. */
template <typename T>
static norm_call behind_groups(norm_call n, int64_t groups) {
    int64_t d = groups * n.W;
    n.x = (const T *)n.x + d, n.z = (const T *)n.z + d, n.weight += d;
    if (n.dy) n.dy = (const T *)n.dy + d;
    if (n.rstd) n.rstd += groups;
    if (n.y) n.y = (T *)n.y + d;
    if (n.dx) n.dx = (T *)n.dx + d;
    if (n.dz) n.dz = (T *)n.dz + d;
    if (n.parts) n.parts += d;
    return n;
}

/* launch(call, grid) for as many groups at a time as a grid is high; `wide` blocks to a group. */
template <typename T, typename F>
static void each_grid(const norm_call &n, int64_t wide, F launch) {
    int64_t groups = n.E / n.W;
    for (int64_t done = 0; done < groups; done += HIGH) {
        int64_t high = groups - done < HIGH ? groups - done : HIGH;
        launch(behind_groups<T>(n, done), dim3((unsigned)wide, (unsigned)high));
    }
}

template <typename T, int V>
static void launch_forward(const norm_call &n) {
    void (*kernel)(norm_call) = held_for(n.W, V) == 1 ? forward<T, V, 1> : forward<T, V, HELD_MOST>;
    each_grid<T>(n, n.M, [&](norm_call part, dim3 grid) {
        kr_launch_early(kernel, true, grid, threads_for(n.W, V), 0, part);
    });
}

template <typename T, int V>
static void launch_backward(const norm_call &n, int64_t parts) {
    void (*kernel)(norm_call) =
        held_for(n.W, V) == 1 ? backward<T, V, 1> : backward<T, V, HELD_MOST>;
    each_grid<T>(n, parts, [&](norm_call part, dim3 grid) {
        kr_launch_early(kernel, false, grid, threads_for(n.W, V), 0, part);
    });
}

extern "C" void kr_gated_rmsnorm_cuda(const kr_call *c) {
    norm_call n = make_call(c, 0);
    n.y = c->out[0].data, n.y_row = c->out[0].stride[0];
    n.rstd = (float *)c->out[1].data, n.rstd_row = c->out[1].stride[0];
    if (n.M == 0 || n.E == 0) return;
    bool half = c->in[0].dtype == KR_BF16, packs = packs_of(c, 1, n) > 1;
    if (half && packs) launch_forward<bf16, 8>(n);
    if (half && !packs) launch_forward<bf16, 1>(n);
    if (!half && packs) launch_forward<float, 4>(n);
    if (!half && !packs) launch_forward<float, 1>(n);
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
    bool half = c->in[0].dtype == KR_BF16, packs = packs_of(c, 2, n) > 1;
    int64_t parts = n.M < KR_GATED_RMSNORM_PARTS ? n.M : KR_GATED_RMSNORM_PARTS;
    if (parts > 0) {
        if (half && packs) launch_backward<bf16, 8>(n, parts);
        if (half && !packs) launch_backward<bf16, 1>(n, parts);
        if (!half && packs) launch_backward<float, 4>(n, parts);
        if (!half && !packs) launch_backward<float, 1>(n, parts);
    }
    if (dweight) kr_sum_parts_launch(n.parts, parts, n.E, put_dweight{dweight, KR_ACC(c, 2) != 0});
}
