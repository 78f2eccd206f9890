/* scale.h - a vector that scales a matrix: a number for each row, or for each column.
 *
 *   row_scale   y[i,j] = x[i,j] e[i mod n]       dx = dy e,   de[k] = sum over i = k mod n and j of
 *                                                dy x
 *   skip        y[m,j] = x[m,j] + w[j] u[m,j]    dx = dy,     du = dy w,   dw[j] = sum over m of dy
 * u
 *
 * row_scale is for weights (the gain of a recurrence folded into the matrix in front of it), skip
 * for activations (the direct path around one).
 *
 * row_scale   in: x [R,C], e [n], n divides R       out: y
 * skip        in: x [M,W], u [M,W], w [W]           out: y */
#ifndef KR_SCALE_H
#define KR_SCALE_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const kr_op kr_op_row_scale, kr_op_skip;
extern const kr_op kr_op_row_scale_grad; /* in: dy, x, e   out: dx, de */
extern const kr_op kr_op_skip_grad;      /* in: dy, u, w   out: du, dw */

/* Rows that a block of the GPU's skip_grad sums, so that there are at most KR_SKIP_PARTS partial
 * sums. */
enum { KR_SKIP_PARTS = 256 };
static inline int64_t kr_skip_rows(int64_t M) {
    int64_t rows = (M + KR_SKIP_PARTS - 1) / KR_SKIP_PARTS;
    return rows < 32 ? 32 : rows;
}
/* Partial sums of M or fewer rows, at most: 8449 rows have fewer than 8448. */
static inline int64_t kr_skip_most_parts(int64_t M) {
    int64_t parts = (M + 31) / 32;
    return parts < KR_SKIP_PARTS ? parts : KR_SKIP_PARTS;
}

#ifdef __cplusplus
}
#endif

#endif
