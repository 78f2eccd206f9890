/* rmsnorm.cu - the root-mean-square norm and its gradient on the GPU. rmsnorm.h has the equations.
 *
 * Bound by memory: a row is read once and waits in the registers of the warps that share it (HELD
 * packs a lane; what a very wide row has beyond them is read again). A block takes several rows.
 * All loads of a row are on their way before the first store. */
#include "device/cuda/pack.cuh"
#include "ops/parts.cuh"
#include "ops/rmsnorm/rmsnorm.h"

enum { HELD = 4, WARPS = 4, MOST_WARPS = 16 };

/* Threads (32 w, rows): how many warps share a row of D. */
static dim3 threads_for(int64_t M, int64_t D, int v) {
    int64_t w = (D + 32 * v * HELD - 1) / (32 * v * HELD), all = (D + 32 * v - 1) / (32 * v);
    if (M < 512) w = all < 16 ? all : 16; /* few rows: each as fast as can be */
    if (w > MOST_WARPS) w = MOST_WARPS;
    return dim3((unsigned)(32 * w), (unsigned)(w < WARPS ? WARPS / w : 1));
}

/* The sum over the threads of a row, in each of them. All threads of the block must call it. */
static __device__ __forceinline__ float row_sum(float x) {
    __shared__ float sums[MOST_WARPS];
    x = kr_warp_sum(x);
    if (blockDim.x == 32) return x;
    int warps = blockDim.x / 32, first = threadIdx.y * warps;
    __syncthreads(); /* the sums before these have been read */
    if (threadIdx.x % 32 == 0) sums[first + threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < warps; i++) x += sums[first + i];
    return x;
}

/* ---- forward --------------------------------------------------------------------------------- */

typedef struct norm_call {
    const void *x; /* [M,D] of the kernel's X; row strides are named x_row and so on */
    const float *residual, *weight;
    void *y;
    float *sum, *rstd;
    int64_t x_row, residual_row, y_row, sum_row, M, D;
    float eps;
} norm_call;

/* What a row is read as, from column d of row m on. */
template <typename X, int V>
struct addends {
    kr_pack<X, V> x;
    kr_pack<float, V> residual;
    __device__ __forceinline__ void load(const norm_call &n, int64_t m, int64_t d) {
        x = kr_fetch<V>((const X *)n.x + m * n.x_row + d);
        residual = kr_pack<float, V>();
        if (n.residual) residual = kr_fetch<V>(n.residual + m * n.residual_row + d);
    }
    /* s = x + residual */
    __device__ __forceinline__ void add(float (&s)[V]) const {
        float r[V];
        kr_unpack(x, s);
        kr_unpack(residual, r);
#pragma unroll
        for (int i = 0; i < V; i++) s[i] += r[i];
    }
};

template <int V>
static __device__ __forceinline__ float square_of(const float (&s)[V]) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < V; i++) sum = fmaf(s[i], s[i], sum);
    return sum;
}

/* sum and y of V columns */
template <typename Y, int V>
static __device__ __forceinline__ void put(const norm_call &n, int64_t m, int64_t d,
                                           const float (&s)[V], float (&w)[V], float rstd) {
    if (n.sum) kr_store_pack<V>(n.sum + m * n.sum_row + d, s);
#pragma unroll
    for (int i = 0; i < V; i++) w[i] = s[i] * (n.weight ? rstd * w[i] : rstd);
    kr_store_pack<V>((Y *)n.y + m * n.y_row + d, w);
}

template <typename X, typename Y, int V>
static __global__ void __launch_bounds__(32 * MOST_WARPS) forward(norm_call n) {
    int64_t m = (int64_t)blockIdx.x * blockDim.y + threadIdx.y, step = (int64_t)blockDim.x * V;
    int64_t first = threadIdx.x * V, rest = first + HELD * step, D = m < n.M ? n.D : 0;
    addends<X, V> in[HELD];
    float s[HELD][V], w[HELD][V], t[V], square = 0;
    kr_go_on();
#pragma unroll
    for (int h = 0; h < HELD; h++)
        kr_load_pack_if<V>(n.weight && first + h * step < D, n.weight + first + h * step, w[h]);
    kr_after();
#pragma unroll
    for (int h = 0; h < HELD; h++)
        if (first + h * step < D) in[h].load(n, m, first + h * step);
#pragma unroll
    for (int h = 0; h < HELD; h++)
        if (first + h * step < D) {
            in[h].add(s[h]);
            square += square_of<V>(s[h]);
        }
    for (int64_t d = rest; d < D; d += step) {
        addends<X, V> more;
        more.load(n, m, d);
        more.add(t);
        square += square_of<V>(t);
    }
    float rstd = 1 / sqrtf(row_sum(square) / (float)n.D + n.eps);
#pragma unroll
    for (int h = 0; h < HELD; h++)
        if (first + h * step < D) put<Y, V>(n, m, first + h * step, s[h], w[h], rstd);
    for (int64_t d = rest; d < D; d += step) {
        addends<X, V> more;
        more.load(n, m, d);
        more.add(t);
        kr_load_pack_if<V>(n.weight != NULL, n.weight + d, w[0]);
        put<Y, V>(n, m, d, t, w[0], rstd);
    }
    if (threadIdx.x == 0 && D > 0 && n.rstd) n.rstd[m] = rstd;
}

template <typename X, typename Y>
static void launch_forward(const norm_call &n, bool packs, bool early) {
    dim3 threads = threads_for(n.M, n.D, packs ? 4 : 1);
    unsigned blocks = kr_blocks(n.M, threads.y);
    if (packs)
        kr_launch_early(forward<X, Y, 4>, early, blocks, threads, 0, n);
    else
        kr_launch_early(forward<X, Y, 1>, early, blocks, threads, 0, n);
}

extern "C" void kr_rmsnorm_cuda(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *residual = &c->in[1], *weight = &c->in[2];
    const kr_tensor *y = &c->out[0], *sum = &c->out[1];
    const kr_rmsnorm_attr *attr = (const kr_rmsnorm_attr *)c->attr;
    norm_call n = {x->data,
                   (const float *)residual->data,
                   (const float *)weight->data,
                   y->data,
                   (float *)sum->data,
                   (float *)c->out[2].data,
                   x->stride[0],
                   residual->stride[0],
                   y->stride[0],
                   sum->stride[0],
                   x->shape[0],
                   x->shape[1],
                   (float)attr->eps};
    if (n.M == 0 || n.D == 0) return;
    bool packs = kr_packs(x, 4) && kr_packs(residual, 4) && kr_packs(weight, 4) && kr_packs(y, 4) &&
                 kr_packs(sum, 4);
    if (x->dtype == KR_BF16 && y->dtype == KR_BF16)
        launch_forward<bf16, bf16>(n, packs, attr->early != 0);
    if (x->dtype == KR_BF16 && y->dtype == KR_F32)
        launch_forward<bf16, float>(n, packs, attr->early != 0);
    if (x->dtype == KR_F32 && y->dtype == KR_BF16)
        launch_forward<float, bf16>(n, packs, attr->early != 0);
    if (x->dtype == KR_F32 && y->dtype == KR_F32)
        launch_forward<float, float>(n, packs, attr->early != 0);
}

/* ---- gradient -------------------------------------------------------------------------------- */

typedef struct norm_back {
    const void *dy, *s, *x; /* [M,D] of the kernel's Y and X; x of Y, or NULL */
    const float *dsum, *weight, *rstd;
    float *ds, *parts; /* parts [blocks,D], or NULL */
    void *dx, *y;      /* of Y */
    int64_t dy_row, s_row, x_row, dsum_row, ds_row, dx_row, y_row, M, D;
    bool add_ds, add_dx;
} norm_back;

/* What the gradient of a row is made of, from column d of row m on. */
template <typename Y, typename X, int V>
struct slopes {
    kr_pack<Y, V> dy, x;
    kr_pack<X, V> s;
    kr_pack<float, V> dsum;
    __device__ __forceinline__ void load(const norm_back &n, int64_t m, int64_t d) {
        dy = kr_fetch<V>((const Y *)n.dy + m * n.dy_row + d);
        s = kr_fetch<V>((const X *)n.s + m * n.s_row + d);
        x = kr_pack<Y, V>();
        if (n.x) x = kr_fetch<V>((const Y *)n.x + m * n.x_row + d);
        dsum = kr_pack<float, V>();
        if (n.dsum) dsum = kr_fetch<V>(n.dsum + m * n.dsum_row + d);
    }
    /* s, with x */
    __device__ __forceinline__ void sum(float (&to)[V]) const {
        float add[V];
        kr_unpack(s, to);
        kr_unpack(x, add);
#pragma unroll
        for (int i = 0; i < V; i++) to[i] += add[i];
    }
    /* Sum of weight * dy * s; dy * s * rstd joins dw. */
    __device__ __forceinline__ float dot(const float (&w)[V], float rstd, float (&dw)[V]) const {
        float a[V], b[V], all = 0;
        kr_unpack(dy, a);
        sum(b);
#pragma unroll
        for (int i = 0; i < V; i++) {
            float both = a[i] * b[i];
            dw[i] = fmaf(both, rstd, dw[i]);
            all = fmaf(both, w[i], all);
        }
        return all;
    }
    /* ds = dsum + rstd * (w * dy - s * pull), and y as the norm makes it */
    __device__ __forceinline__ void put(const norm_back &n, int64_t m, int64_t d,
                                        const float (&w)[V], float rstd, float pull) const {
        float a[V], b[V], c[V];
        kr_unpack(dy, a);
        sum(b);
        kr_unpack(dsum, c);
#pragma unroll
        for (int i = 0; i < V; i++) c[i] = fmaf(rstd, a[i] * w[i] - b[i] * pull, c[i]);
#pragma unroll
        for (int i = 0; i < V; i++) b[i] *= rstd * w[i];
        if (n.y) kr_store_pack<V>((Y *)n.y + m * n.y_row + d, b);
        if (n.ds) kr_put_pack<V>(n.ds + m * n.ds_row + d, c, n.add_ds);
        if (n.dx) kr_put_pack<V>((Y *)n.dx + m * n.dx_row + d, c, n.add_dx);
    }
};

/* The weight from column d on; 1 where there is none. */
template <int V>
static __device__ __forceinline__ void load_weight(const norm_back &n, int64_t d, float (&w)[V]) {
    if (n.weight && d < n.D) {
        kr_load_pack<V>(n.weight + d, w);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) w[i] = 1;
    }
}

/* Each row group's sums of dweight, one group after the other, into the block's part. */
template <int V>
static __device__ __forceinline__ void put_part(const norm_back &n, int64_t first, int64_t step,
                                                const float (&dw)[HELD][V]) {
    float *part = n.parts + blockIdx.x * n.D;
    for (int group = 0; group < blockDim.y; group++) {
        if (group == threadIdx.y)
#pragma unroll
            for (int h = 0; h < HELD; h++)
                if (first + h * step < n.D)
                    kr_put_pack<V>(part + first + h * step, dw[h], group > 0);
        __syncthreads();
    }
}

/* Columns d, d + step, .. beyond the held ones of row m: their sums of dweight live in the block's
 * part itself, which the first row begins. */
template <typename Y, typename X, int V>
static __device__ __forceinline__ float wide_dot(const norm_back &n, int64_t m, int64_t d,
                                                 int64_t step, float rstd, bool first) {
    float sum = 0, w[V];
    for (; m < n.M && d < n.D; d += step) {
        slopes<Y, X, V> in;
        float dw[V] = {};
        in.load(n, m, d);
        load_weight<V>(n, d, w);
        sum += in.dot(w, rstd, dw);
        if (n.parts) kr_put_pack<V>(n.parts + blockIdx.x * n.D + d, dw, !first);
    }
    return sum;
}

template <typename Y, typename X, int V>
static __device__ __forceinline__ void wide_put(const norm_back &n, int64_t m, int64_t d,
                                                int64_t step, float rstd, float pull) {
    float w[V];
    for (; m < n.M && d < n.D; d += step) {
        slopes<Y, X, V> in;
        in.load(n, m, d);
        load_weight<V>(n, d, w);
        in.put(n, m, d, w, rstd, pull);
    }
}

template <typename Y, typename X, int V>
static __global__ void __launch_bounds__(32 * MOST_WARPS) backward(norm_back n) {
    int64_t step = (int64_t)blockDim.x * V, first = threadIdx.x * V, rest = first + HELD * step;
    int64_t top = (int64_t)blockIdx.x * blockDim.y, rows = (int64_t)gridDim.x * blockDim.y;
    float dw[HELD][V] = {}, w[HELD][V];
#pragma unroll
    for (int h = 0; h < HELD; h++) load_weight<V>(n, first + h * step, w[h]);
    for (int64_t m = top + threadIdx.y; m - threadIdx.y < n.M; m += rows) {
        int64_t D = m < n.M ? n.D : 0;
        slopes<Y, X, V> in[HELD];
        float rstd = D ? n.rstd[m] : 0, sum = 0;
#pragma unroll
        for (int h = 0; h < HELD; h++)
            if (first + h * step < D) in[h].load(n, m, first + h * step);
#pragma unroll
        for (int h = 0; h < HELD; h++)
            if (first + h * step < D) sum += in[h].dot(w[h], rstd, dw[h]);
        if (rest < D) sum += wide_dot<Y, X, V>(n, m, rest, step, rstd, m - threadIdx.y == top);
        float pull = row_sum(sum) * rstd * rstd / (float)n.D;
#pragma unroll
        for (int h = 0; h < HELD; h++)
            if (first + h * step < D) in[h].put(n, m, first + h * step, w[h], rstd, pull);
        if (rest < D) wide_put<Y, X, V>(n, m, rest, step, rstd, pull);
    }
    if (n.parts) put_part<V>(n, first, step, dw);
}

struct put_dweight {
    float *to;
    bool add;
    __device__ void operator()(int64_t d, float x) const { kr_put(to + d, x, add); }
};

template <typename Y, typename X>
static void launch_backward(const norm_back &n, float *dweight, bool add, bool packs) {
    dim3 threads = threads_for(n.M, n.D, packs ? 4 : 1);
    unsigned blocks = kr_blocks(n.M, threads.y);
    if (blocks > KR_RMSNORM_PARTS) blocks = KR_RMSNORM_PARTS;
    if (packs)
        backward<Y, X, 4><<<blocks, threads, 0, kr_cuda_stream()>>>(n);
    else
        backward<Y, X, 1><<<blocks, threads, 0, kr_cuda_stream()>>>(n);
    if (dweight) kr_sum_parts_launch(n.parts, blocks, n.D, put_dweight{dweight, add});
}

extern "C" void kr_rmsnorm_grad_cuda(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *dsum = &c->in[1], *s = &c->in[2], *weight = &c->in[3];
    const kr_tensor *x = &c->in[5], *ds = &c->out[0], *dx = &c->out[2], *y = &c->out[3];
    float *dweight = (float *)c->out[1].data;
    norm_back n = {};
    n.dy = dy->data, n.dy_row = dy->stride[0];
    n.s = s->data, n.s_row = s->stride[0];
    n.x = x->data, n.x_row = x->stride[0];
    n.dsum = (const float *)dsum->data, n.dsum_row = dsum->stride[0];
    n.weight = (const float *)weight->data, n.rstd = (const float *)c->in[4].data;
    n.ds = (float *)ds->data, n.ds_row = ds->stride[0], n.add_ds = KR_ACC(c, 0);
    n.dx = dx->data, n.dx_row = dx->stride[0], n.add_dx = KR_ACC(c, 2);
    n.y = y->data, n.y_row = y->stride[0];
    n.parts = dweight ? (float *)c->scratch : NULL;
    n.M = s->shape[0], n.D = s->shape[1];
    if (n.D == 0) return;
    bool packs = kr_packs(dy, 4) && kr_packs(dsum, 4) && kr_packs(s, 4) && kr_packs(weight, 4) &&
                 kr_packs(ds, 4) && kr_packs(dx, 4) && kr_packs(x, 4) && kr_packs(y, 4),
         add = KR_ACC(c, 1);
    bool half_y = dy->dtype == KR_BF16, half_x = s->dtype == KR_BF16;
    if (half_y && half_x) launch_backward<bf16, bf16>(n, dweight, add, packs);
    if (half_y && !half_x) launch_backward<bf16, float>(n, dweight, add, packs);
    if (!half_y && half_x) launch_backward<float, bf16>(n, dweight, add, packs);
    if (!half_y && !half_x) launch_backward<float, float>(n, dweight, add, packs);
}
