/* gather_rows.h - rows picked out of a matrix: the last token of each sequence, before the head.
 *
 *   y[r] = x[rows[r]]
 *
 * in:  x [M,D], rows I64 [R] (a row outside [0,M) gives zeros)
 * out: y [R,D] of the type of x, which may be bf16 on the GPU */
#ifndef KR_GATHER_ROWS_H
#define KR_GATHER_ROWS_H

#include "ops/op.h"

extern const kr_op kr_op_gather_rows;
/* in: dy [R,D], rows I64 [R]   out: dx [M,D], given
 *   dx[m] = sum of dy[r] over the r with rows[r] = m, in the order of r */
extern const kr_op kr_op_gather_rows_grad;

#endif
