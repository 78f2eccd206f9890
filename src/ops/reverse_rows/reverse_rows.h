/* reverse_rows.h - the rows of each sequence from the last to the first.
 *
 *   y[first + i] = x[first + n - 1 - i]      for i < n of each sequence
 *
 * in:  x [M,D], seqs I64 [S,3]: first row, rows n, slot; together they cover the rows once
 * out: y [M,D], of the type of x. The gradient is the same op on dy. */
#ifndef KR_REVERSE_ROWS_H
#define KR_REVERSE_ROWS_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const kr_op kr_op_reverse_rows;

#ifdef __cplusplus
}
#endif

#endif
