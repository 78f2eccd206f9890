/* segment_mean.h - the mean row of each sequence, or of any spans of rows: before the head of a
 * model that classifies. A span of one row picks it.
 *
 *   y[s] = 1/n_s  sum of x[m] over the n_s rows m of sequence s;   0 where it has none
 *
 * in:  x [M,D], seqs I64 [S,3]: first row, count, slot (not read)
 * out: y [S,D] f32, though x may be bf16 on the GPU: few rows, whose head is worth every digit */
#ifndef KR_SEGMENT_MEAN_H
#define KR_SEGMENT_MEAN_H

#include "ops/op.h"

extern const kr_op kr_op_segment_mean;
/* in: dy [S,D], seqs I64 [S,3], which do not overlap   out: dx [M,D], given, may be bf16
 *   dx[m] = dy[s] / n_s for the rows of sequence s, 0 for rows of none */
extern const kr_op kr_op_segment_mean_grad;

/* The same as an op of its own: every row of a sequence its share of one row.
 *   y[m] = v[s] / n_s for the rows of sequence s, 0 for rows of none
 * in:  v [S,D] f32, seqs I64 [S,3], which do not overlap, x [M,any], of which only M and the type
 *      count
 * out: y [M,D] of the type of x */
extern const kr_op kr_op_segment_share;

#endif
