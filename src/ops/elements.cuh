/* elements.cuh - ops that treat every element alike, on the GPU: y = f(a, b) over rows of any
 * stride. */
#ifndef KR_ELEMENTS_CUH
#define KR_ELEMENTS_CUH

#include "device/cuda/pack.cuh"
#include "ops/rows.h"

enum { KR_ELEMENTS_THREADS = 256 };

/* Rows of at most three tensors; a and b may be absent: zeros. */
typedef struct kr_elements {
    const void *a, *b;
    void *y;
    int64_t a_row, b_row, y_row, count, width;
    bool add;
} kr_elements;

template <typename A, typename Y, int V, typename F>
static __global__ void kr_elements_kernel(kr_elements r, F f) {
    int64_t i = ((int64_t)blockIdx.x * KR_ELEMENTS_THREADS + threadIdx.x) * V;
    if (i >= r.width) return;
    for (int64_t m = blockIdx.y; m < r.count; m += gridDim.y) {
        float a[V], b[V];
        kr_load_pack_if<V>(r.a != NULL, (const A *)r.a + m * r.a_row + i, a);
        kr_load_pack_if<V>(r.b != NULL, (const A *)r.b + m * r.b_row + i, b);
#pragma unroll
        for (int j = 0; j < V; j++) a[j] = f(a[j], b[j]);
        kr_put_pack<V>((Y *)r.y + m * r.y_row + i, a, r.add);
    }
}

/* y = or += f(a, b), of numbers A (a, b) and Y (y). */
template <typename A, typename Y, typename F>
static void kr_elements_launch(const kr_tensor *a, const kr_tensor *b, const kr_tensor *y, bool add,
                               F f) {
    static const int WIDE = 4;
    const kr_tensor *ta = a && a->data ? a : y, *tb = b && b->data ? b : y;
    kr_rows rows = kr_rows_of(y, ta, tb);
    kr_elements r = {a ? a->data : NULL, b ? b->data : NULL, y->data,
                     ta->stride[0],      tb->stride[0],      y->stride[0],
                     rows.count,         rows.width,         add};
    if (rows.count == 0 || rows.width == 0) return;
    bool packs = kr_packs(ta, WIDE) && kr_packs(tb, WIDE) && kr_packs(y, WIDE);
    if (rows.count == 1) packs = packs && rows.width % WIDE == 0;
    unsigned high = rows.count < 32768 ? (unsigned)rows.count : 32768;
    dim3 grid(kr_blocks(rows.width, KR_ELEMENTS_THREADS * (packs ? WIDE : 1)), high);
    if (packs)
        kr_elements_kernel<A, Y, WIDE><<<grid, KR_ELEMENTS_THREADS, 0, kr_cuda_stream()>>>(r, f);
    else
        kr_elements_kernel<A, Y, 1><<<grid, KR_ELEMENTS_THREADS, 0, kr_cuda_stream()>>>(r, f);
}

#endif
