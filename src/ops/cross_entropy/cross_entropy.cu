/* cross_entropy.cu - the loss and its gradient on the GPU, where logits are at hand.
 * cross_entropy.h has the equations.
 *
 * Forward, a block a row: every thread keeps the largest of its logits and the sum of exp(x -
 * largest), scaled whenever the largest grows; at the end the threads' sums are brought to one
 * largest. Backward every element is by itself. */
#include "device/cuda/pack.cuh"
#include "ops/cross_entropy/cross_entropy.h"

enum {
    THREADS = 512,
    WARPS = THREADS / 32,
    BACK_THREADS = 256,
    HIGH = 65535 /* a grid, at most */
};

typedef struct loss_of {
    const float *logits; /* [M,V] */
    const int32_t *targets;
    float *nll, *lse;
    int64_t row, M, V;
} loss_of;

/* Takes the sum of exp(x - largest) of others in. */
static __device__ __forceinline__ void join(float &largest, float &sum, float l, float s) {
    float top = fmaxf(largest, l);
    if (top == -INFINITY) { /* masked logits add nothing, or a NaN */
        sum += s;
        return;
    }
    sum = sum * __expf(largest - top) + s * __expf(l - top);
    largest = top;
}

/* Joins the block's threads; all of them get the result. */
static __device__ __forceinline__ void join_block(float &largest, float &sum) {
    __shared__ float tops[WARPS], sums[WARPS];
    for (int d = 16; d > 0; d /= 2)
        join(largest, sum, __shfl_xor_sync(~0u, largest, d), __shfl_xor_sync(~0u, sum, d));
    if (threadIdx.x % 32 == 0) {
        tops[threadIdx.x / 32] = largest;
        sums[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    largest = tops[0], sum = sums[0];
    for (int w = 1; w < WARPS; w++) join(largest, sum, tops[w], sums[w]);
}

template <int V>
static __global__ void forward(loss_of p) {
    int64_t m = blockIdx.x;
    int32_t target = p.targets[m];
    bool loss = target >= 0 && target < p.V;
    const float *x = p.logits + m * p.row;
    float largest = -INFINITY, sum = 0;
#pragma unroll 4
    for (int64_t v = threadIdx.x * V; loss && v < p.V; v += THREADS * V) {
        float l[V], top, s = 0;
        kr_load_pack<V>(x + v, l);
        top = l[0];
#pragma unroll
        for (int j = 1; j < V; j++) top = fmaxf(top, l[j]);
        top = fmaxf(top, largest);
        if (top > largest) {
            sum *= __expf(largest - top);
            largest = top;
        }
#pragma unroll
        for (int j = 0; j < V; j++) s += __expf(l[j] - largest);
        if (largest > -INFINITY) {
            sum += s;
        } else { /* fmaxf passes over a NaN */
#pragma unroll
            for (int j = 0; j < V; j++)
                if (isnan(l[j])) sum = l[j];
        }
    }
    join_block(largest, sum);
    if (threadIdx.x) return;
    double rest = loss ? log((double)sum) : 0;
    p.nll[m] = loss ? (float)(rest + ((double)largest - (double)x[target])) : 0;
    if (p.lse) p.lse[m] = loss ? (float)(rest + (double)largest) : 0;
}

extern "C" void kr_cross_entropy_cuda(const kr_call *c) {
    const kr_tensor *logits = &c->in[0];
    loss_of p = {(const float *)logits->data,
                 (const int32_t *)c->in[1].data,
                 (float *)c->out[0].data,
                 (float *)c->out[1].data,
                 logits->stride[0],
                 logits->shape[0],
                 logits->shape[1]};
    if (p.M == 0) return;
    if (kr_packs(logits, 4))
        forward<4><<<(unsigned)p.M, THREADS, 0, kr_cuda_stream()>>>(p);
    else
        forward<1><<<(unsigned)p.M, THREADS, 0, kr_cuda_stream()>>>(p);
}

typedef struct slope_of {
    const float *logits, *lse, *dnll;
    const int32_t *targets;
    float *d; /* [M,V]; may be the logits' memory */
    int64_t row, d_row, V;
    bool add;
} slope_of;

template <int V>
static __global__ void backward(slope_of p) {
    int64_t m = blockIdx.x, v = ((int64_t)blockIdx.y * BACK_THREADS + threadIdx.x) * V;
    int64_t target = p.targets[m];
    bool loss = target >= 0 && target < p.V;
    float lse = p.lse[m], scale = p.dnll[m];
    for (; v < p.V; v += (int64_t)gridDim.y * BACK_THREADS * V) {
        float x[V];
        kr_load_pack<V>(p.logits + m * p.row + v, x);
#pragma unroll
        for (int j = 0; j < V; j++)
            x[j] = loss ? (expf(x[j] - lse) - (v + j == target ? 1 : 0)) * scale : 0;
        kr_put_pack<V>(p.d + m * p.d_row + v, x, p.add);
    }
}

extern "C" void kr_cross_entropy_grad_cuda(const kr_call *c) {
    const kr_tensor *logits = &c->in[0], *d = &c->out[0];
    slope_of p = {(const float *)logits->data,
                  (const float *)c->in[2].data,
                  (const float *)c->in[3].data,
                  (const int32_t *)c->in[1].data,
                  (float *)d->data,
                  logits->stride[0],
                  d->stride[0],
                  logits->shape[1],
                  KR_ACC(c, 0) != 0};
    if (logits->shape[0] == 0 || p.V == 0) return;
    bool packs = kr_packs(logits, 4) && kr_packs(d, 4);
    unsigned high = kr_blocks(p.V, BACK_THREADS * (packs ? 4 : 1));
    dim3 grid((unsigned)logits->shape[0], high < HIGH ? high : HIGH);
    if (packs)
        backward<4><<<grid, BACK_THREADS, 0, kr_cuda_stream()>>>(p);
    else
        backward<1><<<grid, BACK_THREADS, 0, kr_cuda_stream()>>>(p);
}
