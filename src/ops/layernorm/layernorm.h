/* layernorm.h - the norm that takes the mean away too, with the residual sum in front of it.
 *
 *   s = x + residual                          (s = x without a residual)
 *   y = weight * (s - mean) * rstd + bias,    rstd = (mean over D of (s - mean)^2 + eps)^(-1/2)
 *
 * in:  x [M,D], residual [M,D] or absent, weight [D], bias [D]
 * out: y [M,D], sum [M,D] (absent without a residual), mean [M], rstd [M]
 * On the GPU x may be bf16, and y is with attr.half; all else is f32.
 * Source: Ba, Kiros & Hinton 2016. docs/references.md has the full title. */
#ifndef KR_LAYERNORM_H
#define KR_LAYERNORM_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kr_layernorm_attr {
    double eps;
    int half; /* y is bf16: GPU only */
} kr_layernorm_attr;

extern const kr_op kr_op_layernorm;
/* n = (s - mean) * rstd, g = weight * dy;  ds = dsum + rstd * (g - mean(g) - n * mean(g n))
 * dweight = sum over M of dy * n,  dbias = sum over M of dy
 * in:  dy [M,D], dsum [M,D] or absent, s [M,D], weight [D], mean [M], rstd [M]
 * out: ds [M,D], dweight [D], dbias [D], dx [M,D]: ds again, in the type of dy */
extern const kr_op kr_op_layernorm_grad;

#ifdef __cplusplus
}
#endif

/* Into how many parts the GPU cuts the rows for the sums over them, at most. */
#define KR_LAYERNORM_PARTS 528

#endif
