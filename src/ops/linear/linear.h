/* linear.h - the matrix product of a linear layer, and its two gradients.
 *
 *   y = x W^T + bias        dx = dy W        dW = dy^T x,  dbias = sum over M of dy
 *
 * in:  x [M,K] (f32, or f64), weight [N,K] (f32, bf16 or f16; f64 with an f64 x),
 *      bias [N] or absent,
 *      w16 [N,K] or absent: the weight rounded to bf16, read instead of it (not differentiable)
 * out: y [M,N]
 *
 * Sums of f32 tensors are f32 whatever the weight's type: a half is widened, never rounded to. On
 * the GPU x, y and their gradients may be bf16 (y stays f32 by the attribute); weight, bias and
 * their gradients are then f32 still, and sums are f32. */
#ifndef KR_LINEAR_H
#define KR_LINEAR_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* NULL: all zero. */
typedef struct kr_linear_attr {
    int f32_out; /* y is f32 though x is bf16 */
    int early;   /* nothing of the same run writes the weight: the GPU may read it ahead of x */
} kr_linear_attr;

extern const kr_op kr_op_linear;
/* in: dy [M,N], weight [N,K], w16 [N,K] or absent.   out: dx [M,K] */
extern const kr_op kr_op_linear_dx;
/* in: dy [M,N], x [M,K].   out: dweight [N,K], dbias [N] (either may be absent) */
extern const kr_op kr_op_linear_dw;

/* What is multiplied by: w16, input i of the call, when it is there. */
static inline const kr_tensor *kr_linear_weight(const kr_call *c, int i) {
    return i < c->n_in && c->in[i].data ? &c->in[i] : &c->in[1];
}

/* Widens n elements of a bf16 or f16 row to f32: each level has its own. */
typedef void kr_widen(float *to, const uint16_t *from, kr_dtype type, int64_t n);

/* The same ops for any number of rows, through the matrix-product library (linear_many.c); `widen`
 * unpacks blocks of half weights into the call's scratch. */
void kr_linear_many(const kr_call *c, kr_widen *widen);
void kr_linear_dx_many(const kr_call *c, kr_widen *widen);
void kr_linear_dw_many(const kr_call *c);

/* Bytes of scratch of the first two. */
size_t kr_linear_many_scratch(const kr_call *c);
size_t kr_linear_dx_many_scratch(const kr_call *c);

/* Up to this many rows of x, `linear` has kernels of its own (linear_vec.c; on the GPU,
 * linear_few.cu). */
enum { KR_LINEAR_FEW = 64, KR_LINEAR_FEW_CUDA = 8 };
/* Up to this many a decode step on the GPU has one too (linear_mid_hopper.cu). */
enum { KR_LINEAR_MID_CUDA = 128 };

/* ---- the GPU's scratch ---- */

/* Rows of the weight that are brought into the type of x at once; 0: it has that type. */
int64_t kr_linear_cuda_rows(const kr_tensor *weight, kr_dtype type);
/* Bytes of the bias in front of them. */
static inline size_t kr_linear_cuda_bias_bytes(int64_t N) {
    return ((size_t)N * sizeof(float) + 255) / 256 * 256;
}
/* Parts in which dbias sums M rows. */
static inline int64_t kr_linear_cuda_parts(int64_t M) {
    return M < 256 ? 1 : M < 128 * 256 ? M / 256 : 128;
}

#ifdef __cplusplus
}
#endif

#endif
