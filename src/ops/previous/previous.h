/* previous.h - each row beside the row before it.
 *
 *   y_t = [x_t ; x_{t-1}]
 *
 * In front of the first row of a sequence is the state, or zeros; zeros too in front of a row where
 * a segment starts. The state behind is the last row.
 *
 * in:  x [M,W], seqs I64 [S,3], reset U8 [M] or absent, state [slots, ... W] or absent
 * out: y [M,2W], state (given, or absent) */
#ifndef KR_PREVIOUS_H
#define KR_PREVIOUS_H

#include "ops/op.h"

extern const kr_op kr_op_previous;
/* in: dy (or absent: zeros), x (for its shape), seqs, reset, state (for its shape), dstate_out
 * out: dx, dstate */
extern const kr_op kr_op_previous_grad;

#endif
