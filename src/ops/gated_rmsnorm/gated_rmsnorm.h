/* gated_rmsnorm.h - root-mean-square norm over groups of columns, with a gate in front of it or
 * behind it.
 *
 *   gate in front:  n = x silu(z), o = 1          gate behind:  n = x, o = silu(z)
 *   y = weight * n * rstd * o,  rstd = (mean over the columns of a group of n^2 + eps)^(-1/2)
 *
 * in:  x [M,E], z [M,E], weight [E]
 * out: y [M,E], rstd [M,G]
 * On the GPU x, z and y may be bf16; weight and rstd are f32. Source: Dao & Gu 2024 (Mamba-2). */
#ifndef KR_GATED_RMSNORM_H
#define KR_GATED_RMSNORM_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kr_gated_rmsnorm_attr {
    double eps;
    int64_t groups; /* G, divides E */
    int gate_behind;
} kr_gated_rmsnorm_attr;

extern const kr_op kr_op_gated_rmsnorm;
/* nh = n * rstd, g = weight * dy * o, dn = rstd * (g - nh * mean over the group of g nh)
 * gate in front:  dx = dn silu(z), dz = dn x silu'(z)
 * behind:         dx = dn,         dz = dy weight nh silu'(z)
 * dweight = sum over M of dy * nh * o
 * in:  dy [M,E], x [M,E], z [M,E], weight [E], rstd [M,G]   out: dx [M,E], dz [M,E], dweight [E] */
extern const kr_op kr_op_gated_rmsnorm_grad;

/* Into how many parts the GPU cuts the rows for the sum of dweight, at most. */
#define KR_GATED_RMSNORM_PARTS 792

#ifdef __cplusplus
}
#endif

#endif
