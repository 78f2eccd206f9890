/* kernel.cuh - what every *.cu begins with: numbers of both activation types as floats, vectors of
 * them, reductions over a warp, and sizes of launches.
 *
 * A kernel is a template over the type it loads and stores (float or bf16) and computes in float.
 * Its C function, kr_<op>_cuda(const kr_call *), picks the instance and launches it on
 * kr_cuda_stream(). Rules: offsets are int64_t; no atomics on floats, sums in a fixed order, so
 * that two runs give the same bytes; row strides are arbitrary, so vector accesses need a check of
 * alignment. */
#ifndef KR_KERNEL_CUH
#define KR_KERNEL_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "device/cuda/cuda.h"
#include "ops/op.h"

typedef __nv_bfloat16 bf16;

__device__ __forceinline__ float kr_load(const float *p) { return *p; }
__device__ __forceinline__ float kr_load(const bf16 *p) { return __bfloat162float(*p); }
__device__ __forceinline__ float kr_load(const __half *p) { return __half2float(*p); }
__device__ __forceinline__ void kr_store(float *p, float x) { *p = x; }
__device__ __forceinline__ void kr_store(bf16 *p, float x) { *p = __float2bfloat16_rn(x); }
/* *p = x, or *p + x */
template <typename T>
__device__ __forceinline__ void kr_put(T *p, float x, bool accumulate) {
    kr_store(p, accumulate ? kr_load(p) + x : x);
}

/* The sum over the 32 lanes, in every lane; the same order always. */
__device__ __forceinline__ float kr_warp_sum(float x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
__device__ __forceinline__ float kr_warp_max(float x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}

/* ---- kernels that begin early ----
 *
 * In a row of small kernels each would wait for the one before it to end and for its own launch.
 * One launched by kr_launch_early may begin when every block of the one before it has said
 * kr_go_on() or ended: it can load what no kernel of the same step writes (parameters; states that
 * it alone moves), says kr_go_on() itself, and calls kr_after() before it touches anything else.
 * Without `early` it is an ordinary launch. */
__device__ __forceinline__ void kr_after(void) {
#if __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}
__device__ __forceinline__ void kr_go_on(void) {
#if __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}
template <typename... P>
static void kr_launch_early(void (*kernel)(P...), bool early, dim3 grid, dim3 block, size_t shared,
                            P... arguments) {
    cudaLaunchAttribute how = {};
    how.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    how.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = kr_cuda_stream();
    config.attrs = &how;
    config.numAttrs = early && kr_cuda_begins_early() ? 1 : 0;
    cudaLaunchKernelEx(&config, kernel, arguments...);
}

/* The same in clusters of blocks, which only a Hopper GPU and later ones know. */
template <typename... P>
static void kr_launch_cluster(void (*kernel)(P...), bool early, dim3 grid, unsigned block,
                              size_t shared, dim3 cluster, P... arguments) {
    cudaLaunchAttribute how[2] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = kr_cuda_stream();
    config.attrs = how;
    if (cluster.x * cluster.y * cluster.z > 1) {
        how[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        how[config.numAttrs].val.clusterDim.x = cluster.x;
        how[config.numAttrs].val.clusterDim.y = cluster.y;
        how[config.numAttrs++].val.clusterDim.z = cluster.z;
    }
    if (early) {
        how[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        how[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    cudaLaunchKernelEx(&config, kernel, arguments...);
}

/* Blocks of `size` that cover n. */
static inline unsigned kr_blocks(int64_t n, int64_t size) {
    return (unsigned)((n + size - 1) / size);
}

#define KR_ACC(c, i) (((c)->accumulate >> (i)) & 1u)

#endif
