/* ranks.h - one number a channel becomes R, each with a weight of its own, and back.
 *
 *   spread   y[k,r,h,p] = x[k,h,p] w[h,r,p]              dx = sum over r of dy w,  dw = sum over M
 *                                                        and k of dy x
 *   gather   y[h,p] = sum over r of x[r,h,p] w[h,r,p]    dx = dy w,  dw = sum over M of dy x
 *
 * spread   in: x [M,K,H,P], w [H,R,P]     out: y [M,K,R,H,P]      K: what is left of the columns
 * gather   in: x [M,R,H,P], w [H,R,P]     out: y [M,H,P]
 * Source: Lahoti et al. 2026 (the MIMO form of Mamba-3). */
#ifndef KR_RANKS_H
#define KR_RANKS_H

#include "ops/op.h"

extern const kr_op kr_op_spread, kr_op_gather;
extern const kr_op kr_op_spread_grad; /* in: dy, x, w   out: dx, dw */
extern const kr_op kr_op_gather_grad; /* in: dy, x, w   out: dx, dw */

/* Into how many chunks the GPU's gradient cuts M rows for the sums of dw. */
static inline int64_t kr_ranks_chunks(int64_t M) { return M < 64 ? 1 : M < 4096 ? M / 64 : 64; }

#endif
