/* sum_squares.h - the squared norm of a vector, in double.
 *
 *   y = sum over n of x^2
 *
 * in: x [n]     out: y [1], f64
 * Blocks of KR_SUM_BLOCK elements are summed in double, then the blocks in order: the same bytes
 * for any number of threads. */
#ifndef KR_SUM_SQUARES_H
#define KR_SUM_SQUARES_H

#include "ops/op.h"

#define KR_SUM_BLOCK 16384

extern const kr_op kr_op_sum_squares;

/* Into how many parts the GPU cuts n elements: blocks of a launch that fill any card. */
static inline int kr_sum_squares_parts(int64_t n) {
    int64_t blocks = (n + 4095) / 4096;
    return blocks < 1 ? 1 : blocks < 1024 ? (int)blocks : 1024;
}

#endif
