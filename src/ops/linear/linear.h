/* linear.h - the matrix product of a linear layer, and its two gradients.
 *
 *   y = x W^T + bias        dx = dy W        dW = dy^T x,  dbias = sum over M of dy
 *
 * in:  x [M,K] (f32, or f64), weight [N,K] (f32, bf16 or f16; f64 with an f64 x),
 *      bias [N] or absent
 * out: y [M,N]
 *
 * Sums of f32 tensors are f32 whatever the weight's type: a half is widened,
 * never rounded to. */
#ifndef KR_LINEAR_H
#define KR_LINEAR_H

#include "ops/op.h"

extern const kr_op kr_op_linear;
/* in: dy [M,N], weight [N,K].   out: dx [M,K] */
extern const kr_op kr_op_linear_dx;
/* in: dy [M,N], x [M,K].   out: dweight [N,K], dbias [N] (either may be absent) */
extern const kr_op kr_op_linear_dw;

/* Widens n elements of a bf16 or f16 row to f32: each level has its own. */
typedef void kr_widen(float *to, const uint16_t *from, kr_dtype type, int64_t n);

/* The same ops for any number of rows, through the matrix-product library (linear_many.c); `widen`
 * unpacks blocks of half weights into the call's scratch. */
void kr_linear_many(const kr_call *c, kr_widen *widen);
void kr_linear_dx_many(const kr_call *c, kr_widen *widen);
void kr_linear_dw_many(const kr_call *c);

/* Bytes of scratch of the above; 0 for f32 weights. */
size_t kr_linear_many_scratch(const kr_tensor *weight);

/* Up to this many rows of x, `linear` has kernels of its own (linear_vec.c). */
enum { KR_LINEAR_FEW = 64 };

#endif
