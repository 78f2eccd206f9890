/* async.cuh - copies of 16 bytes from global to shared memory that a thread need not wait for. */
#ifndef KR_ASYNC_CUH
#define KR_ASYNC_CUH

#include "device/cuda/kernel.cuh"

static __device__ __forceinline__ uint32_t kr_shared(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}
/* 16 bytes; zeros where there are none (`from` is then not read). */
static __device__ __forceinline__ void kr_async_copy(uint32_t to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}
static __device__ __forceinline__ void kr_async_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Until no more than LEFT groups of this thread are under way. */
template <int LEFT>
static __device__ __forceinline__ void kr_async_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

#endif
