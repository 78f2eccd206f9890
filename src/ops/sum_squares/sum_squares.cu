/* sum_squares.cu - the squared norm on the GPU. sum_squares.h has the equation.
 *
 * A fixed number of blocks walks the vector side by side and leaves its sums, in double; one block
 * adds those in order. */
#include "device/cuda/pack.cuh"
#include "ops/sum_squares/sum_squares.h"

enum { THREADS = 256 };

/* The sum over a block's threads, in its first; 0 in the others. */
static __device__ __forceinline__ double block_sum(double x) {
    __shared__ double sums[THREADS];
    sums[threadIdx.x] = x;
    for (int n = THREADS / 2; n > 0; n /= 2) {
        __syncthreads();
        if (threadIdx.x < n) sums[threadIdx.x] += sums[threadIdx.x + n];
    }
    return threadIdx.x == 0 ? sums[0] : 0;
}

template <int V>
static __global__ void parts(const float *x, int64_t n, double *to) {
    int64_t step = (int64_t)gridDim.x * THREADS * V;
    double sum = 0;
#pragma unroll 4
    for (int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V; i < n; i += step) {
        float v[V];
        kr_load_pack<V>(x + i, v);
#pragma unroll
        for (int j = 0; j < V; j++) sum = fma((double)v[j], (double)v[j], sum);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) to[blockIdx.x] = sum;
}

static __global__ void whole(const double *from, int n, double *to) {
    double sum = 0;
    for (int i = threadIdx.x; i < n; i += THREADS) sum += from[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *to = sum;
}

extern "C" void kr_sum_squares_cuda(const kr_call *c) {
    const kr_tensor *x = &c->in[0];
    int64_t n = x->shape[0];
    int blocks = kr_sum_squares_parts(n);
    double *scratch = (double *)c->scratch;
    if (kr_packs(x, 4))
        parts<4><<<blocks, THREADS, 0, kr_cuda_stream()>>>((const float *)x->data, n, scratch);
    else
        parts<1><<<blocks, THREADS, 0, kr_cuda_stream()>>>((const float *)x->data, n, scratch);
    whole<<<1, THREADS, 0, kr_cuda_stream()>>>(scratch, blocks, (double *)c->out[0].data);
}
