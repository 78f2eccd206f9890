/* pack.cuh - V neighbouring numbers at once, loaded and stored by vector accesses of up to 16
 * bytes.
 *
 * Kernels are templates over V: the widest where every pointer and row stride is aligned for it, 1
 * where one is not. kr_packs says which. */
#ifndef KR_PACK_CUH
#define KR_PACK_CUH

#include "device/cuda/kernel.cuh"

/* The raw bits of V numbers: few registers, for loads far ahead of their use. */
template <int BYTES>
struct kr_bits;
template <>
struct kr_bits<2> {
    uint16_t x;
};
template <>
struct kr_bits<4> {
    uint32_t x;
};
template <>
struct kr_bits<8> {
    uint2 x;
};
template <>
struct kr_bits<16> {
    uint4 x;
};
template <>
struct kr_bits<32> {
    uint4 x, y;
};

template <typename T, int V>
struct kr_pack {
    typedef T type;
    kr_bits<(int)sizeof(T) * V> bits;
};

template <int V, typename T>
__device__ __forceinline__ kr_pack<T, V> kr_fetch(const T *p) {
    kr_pack<T, V> out;
    const decltype(out.bits.x) *from = (const decltype(out.bits.x) *)p;
    out.bits.x = from[0];
    if constexpr (sizeof(T) * V == 32) out.bits.y = from[1];
    return out;
}

template <typename T, int V>
__device__ __forceinline__ void kr_unpack(const kr_pack<T, V> &from, float (&to)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) to[i] = kr_load((const T *)&from.bits + i);
}

template <int V, typename T>
__device__ __forceinline__ void kr_load_pack(const T *p, float (&to)[V]) {
    kr_unpack(kr_fetch<V>(p), to);
}

/* to = what is there if `there`, else zeros */
template <int V, typename T>
__device__ __forceinline__ void kr_load_pack_if(bool there, const T *p, float (&to)[V]) {
    if (there) {
        kr_load_pack<V>(p, to);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) to[i] = 0;
    }
}

template <int V, typename T>
__device__ __forceinline__ void kr_store_pack(T *p, const float (&x)[V]) {
    kr_pack<T, V> out;
    if constexpr (sizeof(T) == 2 && V > 1) {
#pragma unroll
        for (int i = 0; i < V; i += 2)
            ((__nv_bfloat162 *)&out.bits)[i / 2] = __floats2bfloat162_rn(x[i], x[i + 1]);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) kr_store((T *)&out.bits + i, x[i]);
    }
    decltype(out.bits.x) *to = (decltype(out.bits.x) *)p;
    __stwb(to, out.bits.x); /* plain assignments may be taken apart */
    if constexpr (sizeof(T) * V == 32) __stwb(to + 1, out.bits.y);
}

/* *p = x, or *p + x */
template <int V, typename T>
__device__ __forceinline__ void kr_put_pack(T *p, const float (&x)[V], bool accumulate) {
    float sum[V];
    kr_load_pack_if<V>(accumulate, p, sum);
#pragma unroll
    for (int i = 0; i < V; i++) sum[i] += x[i];
    kr_store_pack<V>(p, sum);
}

/* Whether packs of v numbers of t are aligned in every row; absent tensors are. */
static inline bool kr_packs(const kr_tensor *t, int v) {
    if (!t->data) return true;
    size_t size = kr_dtype_size(t->dtype), align = size * (size_t)v < 16 ? size * (size_t)v : 16;
    if ((uintptr_t)t->data % align || t->shape[t->rank - 1] % v) return false;
    for (int i = 0; i + 1 < t->rank; i++)
        if ((size_t)t->stride[i] * size % align) return false;
    return true;
}

#endif
