/* linear_gpu.cuh - what the GPU's files of matrix products share. */
#ifndef KR_LINEAR_GPU_CUH
#define KR_LINEAR_GPU_CUH

#include "device/cuda/kernel.cuh"
#include "ops/linear/linear.h"

/* y (+)= x W^T + bias for at most KR_LINEAR_FEW_CUDA rows of x (linear_few.cu). */
void kr_linear_few_cuda(const kr_call *c);

/* y = x W^T (+ y) (+ bias) of bf16 by a Hopper GPU, for some dozens of rows. With several parts,
 * part p of K alone makes columns p N and on of y. */
struct kr_linear_mid {
    const bf16 *x, *w; /* [M,K], [N,K] */
    const float *bias; /* [N], or NULL */
    void *y;           /* [M, parts N] */
    int64_t M, N, K, ldx, ldw, ldy;
    int parts;
    bool half, accumulate, early; /* y is bf16; ..; the weight may be read ahead of x */
};
/* False, and nothing is queued, on other GPUs and for rows that are not aligned. */
bool kr_linear_mid_run(const kr_linear_mid *l);

/* Rows [first, first + count) of a matrix of f32, bf16 or f16 to contiguous rows of f32 or bf16. */
void kr_linear_convert_cuda(void *to, kr_dtype type, const kr_tensor *from, int64_t first,
                            int64_t count);

/* Elements from row to row. A single row may come with any stride; the library wants at least the
 * width. */
static inline int64_t kr_leading(const kr_tensor *t) {
    return t->stride[0] > t->shape[1] ? t->stride[0] : t->shape[1] > 1 ? t->shape[1] : 1;
}

/* The element in column i of the first row. */
static inline char *kr_column(const kr_tensor *t, int64_t i) {
    return (char *)t->data + (size_t)i * kr_dtype_size(t->dtype);
}

#endif
