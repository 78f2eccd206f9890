/* cplx.cuh - complex numbers in double, for what is made of parameters alone. */
#ifndef KR_CPLX_CUH
#define KR_CPLX_CUH

#include "device/cuda/kernel.cuh"

struct kr_cplx {
    double re, im;
};

static __device__ __forceinline__ kr_cplx operator+(kr_cplx a, kr_cplx b) {
    return {a.re + b.re, a.im + b.im};
}
static __device__ __forceinline__ kr_cplx operator-(kr_cplx a, kr_cplx b) {
    return {a.re - b.re, a.im - b.im};
}
static __device__ __forceinline__ kr_cplx operator*(kr_cplx a, kr_cplx b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
static __device__ __forceinline__ kr_cplx operator*(double s, kr_cplx a) {
    return {s * a.re, s * a.im};
}
static __device__ __forceinline__ kr_cplx kr_conjugate(kr_cplx a) { return {a.re, -a.im}; }
static __device__ __forceinline__ kr_cplx kr_over(kr_cplx a, kr_cplx b) {
    return (1 / (b.re * b.re + b.im * b.im)) * (a * kr_conjugate(b));
}
/* Re(a b) */
static __device__ __forceinline__ double kr_real(kr_cplx a, kr_cplx b) {
    return a.re * b.re - a.im * b.im;
}

/* The sum over the 32 lanes, in every lane. */
static __device__ __forceinline__ double kr_warp_sum(double x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

#endif
