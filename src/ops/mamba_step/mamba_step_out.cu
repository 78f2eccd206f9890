/* mamba_step_out.cu - the end of a decode step of many rows: out_proj in parts, and the norm that
 * adds them up. mamba_step.h has the equations.
 *
 * In parts, since the blocks that share a row of the weight would otherwise have to wait for each
 * other; the norm has to read something of each row anyway. */
#include "device/cuda/pack.cuh"
#include "ops/linear/linear_gpu.cuh"
#include "ops/mamba_step/mamba_step.h"

/* ---- out_proj -------------------------------------------------------------------------------- */

/* Part after part by the library. */
static void by_library(const kr_call *c, int parts) {
    const kr_tensor *y = &c->in[0], *weight = &c->in[1], *out = &c->out[0];
    kr_cuda_gemm g = {};
    g.b_transposed = true;
    g.m = y->shape[0];
    g.n = weight->shape[0];
    g.lda = kr_leading(y);
    g.ldb = kr_leading(weight);
    g.ldc = kr_leading(out);
    g.in = y->dtype;
    g.out = out->dtype;
    for (int p = 0; p < parts; p++) {
        int64_t first = kr_mamba_step_cut(weight->shape[1], parts, p);
        g.k = kr_mamba_step_cut(weight->shape[1], parts, p + 1) - first;
        g.a = kr_column(y, first);
        g.b = kr_column(weight, first);
        g.c = kr_column(out, p * g.n);
        kr_cuda_gemm_run(&g);
    }
}

extern "C" void kr_mamba_step_out_cuda(const kr_call *c) {
    const kr_tensor *y = &c->in[0], *weight = &c->in[1], *out = &c->out[0];
    kr_linear_mid l = {};
    l.x = (const bf16 *)y->data;
    l.w = (const bf16 *)weight->data;
    l.y = out->data;
    l.M = y->shape[0], l.N = weight->shape[0], l.K = weight->shape[1];
    l.ldx = kr_leading(y), l.ldw = kr_leading(weight), l.ldy = kr_leading(out);
    l.parts = ((const kr_mamba_step_out_attr *)c->attr)->parts;
    l.early = true;
    if (y->dtype != KR_BF16 || !kr_linear_mid_run(&l)) by_library(c, l.parts);
}

/* ---- the norm -------------------------------------------------------------------------------- */

enum { THREADS = 512, HELD = 2 };

struct norm_parts {
    const float *parts, *residual, *norm;
    float *s;
    void *a; /* of the kernel's A */
    int64_t ld_parts, ld_residual, ld_a, ld_s, D;
    int count;
    float eps;
};

/* V sums of row m from column d on. */
template <int V>
static __device__ __forceinline__ void sums_at(const norm_parts &n, int64_t m, int64_t d,
                                               float (&s)[V]) {
    float part[V];
    const float *p = n.parts + m * n.ld_parts + d;
    kr_load_pack<V>(n.residual + m * n.ld_residual + d, s);
#pragma unroll 4
    for (int i = 0; i < n.count; i++) {
        kr_load_pack<V>(p + i * n.D, part);
#pragma unroll
        for (int j = 0; j < V; j++) s[j] += part[j];
    }
}

/* The sum over the block, in every thread. */
static __device__ __forceinline__ float block_sum(float x) {
    __shared__ float sums[THREADS / 32];
    x = kr_warp_sum(x);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < THREADS / 32 ? sums[threadIdx.x % 32] : 0;
    return kr_warp_sum(x);
}

/* Puts V columns of a. */
template <typename A, int V>
static __device__ __forceinline__ void put_a(const norm_parts &n, int64_t m, int64_t d,
                                             const float (&s)[V], const float (&w)[V], float rstd) {
    float a[V];
#pragma unroll
    for (int j = 0; j < V; j++) a[j] = s[j] * (rstd * w[j]);
    kr_store_pack<V>((A *)n.a + m * n.ld_a + d, a);
}

/* A block takes a row; what it does not hold in registers it reads again from s. */
template <typename A, int V>
static __global__ void __launch_bounds__(THREADS) add_and_norm(const norm_parts n) {
    int64_t m = blockIdx.x, first = threadIdx.x * V, step = THREADS * V;
    float s[HELD][V], w[HELD][V], t[V], square = 0;
    kr_go_on();
#pragma unroll
    for (int h = 0; h < HELD; h++)
        kr_load_pack_if<V>(first + h * step < n.D, n.norm + first + h * step, w[h]);
    kr_after();
#pragma unroll
    for (int h = 0; h < HELD; h++)
        if (first + h * step < n.D) sums_at<V>(n, m, first + h * step, s[h]);
#pragma unroll
    for (int h = 0; h < HELD; h++) {
        if (first + h * step >= n.D) continue;
        kr_store_pack<V>(n.s + m * n.ld_s + first + h * step, s[h]);
#pragma unroll
        for (int j = 0; j < V; j++) square = fmaf(s[h][j], s[h][j], square);
    }
    for (int64_t d = first + HELD * step; d < n.D; d += step) {
        sums_at<V>(n, m, d, t);
        kr_store_pack<V>(n.s + m * n.ld_s + d, t);
#pragma unroll
        for (int j = 0; j < V; j++) square = fmaf(t[j], t[j], square);
    }
    float rstd = 1 / sqrtf(block_sum(square) / (float)n.D + n.eps);
#pragma unroll
    for (int h = 0; h < HELD; h++)
        if (first + h * step < n.D) put_a<A, V>(n, m, first + h * step, s[h], w[h], rstd);
    for (int64_t d = first + HELD * step; d < n.D; d += step) {
        kr_load_pack<V>(n.s + m * n.ld_s + d, t);
        kr_load_pack<V>(n.norm + d, w[0]);
        put_a<A, V>(n, m, d, t, w[0], rstd);
    }
}

template <typename A>
static void launch(const norm_parts &n, int64_t M, bool packs) {
    if (packs)
        kr_launch_early(add_and_norm<A, 4>, true, (unsigned)M, THREADS, 0, n);
    else
        kr_launch_early(add_and_norm<A, 1>, true, (unsigned)M, THREADS, 0, n);
}

extern "C" void kr_mamba_step_norm_cuda(const kr_call *c) {
    const kr_tensor *parts = &c->in[0], *residual = &c->in[1], *norm = &c->in[2];
    const kr_tensor *a = &c->out[0], *s = &c->out[1];
    norm_parts n = {(const float *)parts->data,
                    (const float *)residual->data,
                    (const float *)norm->data,
                    (float *)s->data,
                    a->data,
                    parts->stride[0],
                    residual->stride[0],
                    a->stride[0],
                    s->stride[0],
                    norm->shape[0],
                    (int)(parts->shape[1] / norm->shape[0]),
                    (float)((const kr_mamba_step_attr *)c->attr)->eps};
    bool packs = kr_packs(parts, 4) && kr_packs(residual, 4) && kr_packs(norm, 4) &&
                 kr_packs(a, 4) && kr_packs(s, 4);
    if (residual->shape[0] == 0) return;
    if (a->dtype == KR_BF16)
        launch<bf16>(n, residual->shape[0], packs);
    else
        launch<float>(n, residual->shape[0], packs);
}
