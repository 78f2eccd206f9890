/* layernorm.cu - the layer norm and its gradient on the GPU. layernorm.h has the equations.
 *
 * A block takes whole rows, a thread the columns t, t + THREADS, ...: a row is read from memory
 * once, and then again from the cache. The thread of a column adds what its rows give to dweight
 * and dbias in the block's part, so that no order of blocks changes a sum. */
#include "device/cuda/kernel.cuh"
#include "ops/layernorm/layernorm.h"
#include "ops/parts.cuh"

enum { THREADS = 128 };

/* The sum over the block, in each thread. All of them must call it. */
static __device__ __forceinline__ float block_sum(float x) {
    __shared__ float sums[THREADS / 32];
    x = kr_warp_sum(x);
    __syncthreads(); /* the sums before these have been read */
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < THREADS / 32; i++) x += sums[i];
    return x;
}

/* ---- forward --------------------------------------------------------------------------------- */

typedef struct norm_call {
    const void *x; /* [M,D] of the kernel's X; row strides are named x_row and so on */
    const float *residual, *weight, *bias;
    void *y;
    float *sum, *mean, *rstd;
    int64_t x_row, residual_row, y_row, sum_row, M, D;
    float eps;
} norm_call;

template <typename X>
static __device__ __forceinline__ float sum_at(const norm_call &n, int64_t m, int64_t d) {
    float s = kr_load((const X *)n.x + m * n.x_row + d);
    return n.residual ? s + n.residual[m * n.residual_row + d] : s;
}

template <typename X, typename Y>
static __global__ void __launch_bounds__(THREADS) forward(norm_call n) {
    int64_t m = blockIdx.x;
    float mean = 0, square = 0;
    for (int64_t d = threadIdx.x; d < n.D; d += THREADS) {
        float s = sum_at<X>(n, m, d);
        if (n.sum) n.sum[m * n.sum_row + d] = s;
        mean += s;
    }
    mean = block_sum(mean) / (float)n.D;
    for (int64_t d = threadIdx.x; d < n.D; d += THREADS) {
        float s = sum_at<X>(n, m, d) - mean;
        square = fmaf(s, s, square);
    }
    float rstd = 1 / sqrtf(block_sum(square) / (float)n.D + n.eps);
    for (int64_t d = threadIdx.x; d < n.D; d += THREADS)
        kr_store((Y *)n.y + m * n.y_row + d,
                 fmaf((sum_at<X>(n, m, d) - mean) * rstd, n.weight[d], n.bias[d]));
    if (threadIdx.x) return;
    if (n.mean) n.mean[m] = mean;
    if (n.rstd) n.rstd[m] = rstd;
}

template <typename X, typename Y>
static void launch_forward(const norm_call &n) {
    forward<X, Y><<<(unsigned)n.M, THREADS, 0, kr_cuda_stream()>>>(n);
}

extern "C" void kr_layernorm_cuda(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *residual = &c->in[1], *y = &c->out[0], *sum = &c->out[1];
    norm_call n = {};
    n.x = x->data, n.x_row = x->stride[0];
    n.residual = (const float *)residual->data, n.residual_row = residual->stride[0];
    n.weight = (const float *)c->in[2].data, n.bias = (const float *)c->in[3].data;
    n.y = y->data, n.y_row = y->stride[0];
    n.sum = (float *)sum->data, n.sum_row = sum->stride[0];
    n.mean = (float *)c->out[2].data, n.rstd = (float *)c->out[3].data;
    n.M = x->shape[0], n.D = x->shape[1];
    n.eps = (float)((const kr_layernorm_attr *)c->attr)->eps;
    if (n.M == 0 || n.D == 0) return;
    bool half_x = x->dtype == KR_BF16, half_y = y->dtype == KR_BF16;
    if (half_x && half_y) launch_forward<bf16, bf16>(n);
    if (half_x && !half_y) launch_forward<bf16, float>(n);
    if (!half_x && half_y) launch_forward<float, bf16>(n);
    if (!half_x && !half_y) launch_forward<float, float>(n);
}

/* ---- gradient -------------------------------------------------------------------------------- */

typedef struct norm_back {
    const void *dy, *s; /* [M,D] of the kernel's Y and X */
    const float *dsum, *weight, *mean, *rstd;
    float *ds, *parts; /* parts [blocks,2,D] */
    void *dx;          /* of Y */
    int64_t dy_row, s_row, dsum_row, ds_row, dx_row, M, D;
    bool add_ds, add_dx;
} norm_back;

template <typename Y, typename X>
static __device__ __forceinline__ void back_row(const norm_back &n, int64_t m, bool first) {
    const Y *dy = (const Y *)n.dy + m * n.dy_row;
    const X *s = (const X *)n.s + m * n.s_row;
    float *part = n.parts + 2 * blockIdx.x * n.D;
    float mean = n.mean[m], rstd = n.rstd[m], all = 0, along = 0;
    for (int64_t d = threadIdx.x; d < n.D; d += THREADS) {
        float g = kr_load(dy + d), v = (kr_load(s + d) - mean) * rstd;
        kr_put(part + d, g * v, !first);
        kr_put(part + n.D + d, g, !first);
        all = fmaf(g, n.weight[d], all);
        along = fmaf(g * n.weight[d], v, along);
    }
    all = block_sum(all) / (float)n.D;
    along = block_sum(along) / (float)n.D;
    for (int64_t d = threadIdx.x; d < n.D; d += THREADS) {
        float v = (kr_load(s + d) - mean) * rstd;
        float g = rstd * (kr_load(dy + d) * n.weight[d] - all - v * along);
        if (n.dsum) g += n.dsum[m * n.dsum_row + d];
        if (n.ds) kr_put(n.ds + m * n.ds_row + d, g, n.add_ds);
        if (n.dx) kr_put((Y *)n.dx + m * n.dx_row + d, g, n.add_dx);
    }
}

template <typename Y, typename X>
static __global__ void __launch_bounds__(THREADS) backward(norm_back n) {
    for (int64_t m = blockIdx.x; m < n.M; m += gridDim.x)
        back_row<Y, X>(n, m, m == (int64_t)blockIdx.x);
}

/* Column i of [dweight ; dbias]. */
struct put_sums {
    float *weight, *bias;
    int64_t D;
    bool add_weight, add_bias;
    __device__ void operator()(int64_t i, float x) const {
        if (i < D && weight) kr_put(weight + i, x, add_weight);
        if (i >= D && bias) kr_put(bias + i - D, x, add_bias);
    }
};

extern "C" void kr_layernorm_grad_cuda(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *dsum = &c->in[1], *s = &c->in[2];
    const kr_tensor *ds = &c->out[0], *dx = &c->out[3];
    norm_back n = {};
    n.dy = dy->data, n.dy_row = dy->stride[0];
    n.dsum = (const float *)dsum->data, n.dsum_row = dsum->stride[0];
    n.s = s->data, n.s_row = s->stride[0];
    n.weight = (const float *)c->in[3].data;
    n.mean = (const float *)c->in[4].data, n.rstd = (const float *)c->in[5].data;
    n.ds = (float *)ds->data, n.ds_row = ds->stride[0], n.add_ds = KR_ACC(c, 0);
    n.dx = dx->data, n.dx_row = dx->stride[0], n.add_dx = KR_ACC(c, 3);
    n.parts = (float *)c->scratch;
    n.M = s->shape[0], n.D = s->shape[1];
    if (n.D == 0) return;
    unsigned blocks = n.M < KR_LAYERNORM_PARTS ? (unsigned)n.M : KR_LAYERNORM_PARTS;
    bool half_y = dy->dtype == KR_BF16, half_x = s->dtype == KR_BF16;
    cudaStream_t stream = kr_cuda_stream();
    if (blocks && half_y && half_x) backward<bf16, bf16><<<blocks, THREADS, 0, stream>>>(n);
    if (blocks && half_y && !half_x) backward<bf16, float><<<blocks, THREADS, 0, stream>>>(n);
    if (blocks && !half_y && half_x) backward<float, bf16><<<blocks, THREADS, 0, stream>>>(n);
    if (blocks && !half_y && !half_x) backward<float, float><<<blocks, THREADS, 0, stream>>>(n);
    put_sums put = {(float *)c->out[1].data, (float *)c->out[2].data, n.D, (bool)KR_ACC(c, 1),
                    (bool)KR_ACC(c, 2)};
    if (put.weight || put.bias) kr_sum_parts_launch(n.parts, blocks, 2 * n.D, put);
}
