/* rmsnorm.h - root-mean-square norm, with the residual sum in front of it.
 *
 *   s = x + residual                          (s = x without a residual)
 *   y = weight * s * rstd,  rstd = (mean over D of s^2 + eps)^(-1/2)
 *
 * in:  x [M,D], residual [M,D] or absent, weight [D] or absent (1)
 * out: y [M,D], sum [M,D] (absent without a residual), rstd [M]
 * On the GPU x may be bf16, and y is with attr.half; all else is f32.
 * Source: Zhang & Sennrich 2019. */
#ifndef KR_RMSNORM_H
#define KR_RMSNORM_H

#include "ops/op.h"

typedef struct kr_rmsnorm_attr {
    double eps;
    int half;  /* y is bf16: GPU only */
    int early; /* nothing of the same run writes the weight: the GPU may read it ahead of x */
} kr_rmsnorm_attr;

extern const kr_op kr_op_rmsnorm;
/* xh = s * rstd;  ds = dsum + rstd * (w * dy - xh * mean(w * dy * xh))
 * dweight = sum over M of dy * xh
 * in:  dy [M,D], dsum [M,D] or absent, s [M,D], weight [D] or absent, rstd [M],
 *      x [M,D] of the type of dy or absent: s is s + x then (the residual and what joined it)
 * out: ds [M,D], dweight [D], dx [M,D]: ds again, in the type of dy (for the addend that was bf16),
 *      y [M,D]: the norm's output once more, of that type too */
extern const kr_op kr_op_rmsnorm_grad;

/* Into how many parts the GPU cuts the rows for the sum of dweight, at most. */
#define KR_RMSNORM_PARTS 528

#endif
