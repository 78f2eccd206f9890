/* concat.h - tensors below each other: along the first dimension.
 *
 *   y = [x_0; x_1; ...]        dx_i = the rows of dy that x_i has in y
 *
 * in:  x_i [n_i, ...], at most KR_MAX_CONCAT, alike but for n_i       out: y [sum n_i,
 * ...] For parameters that are kept apart and computed with together. */
#ifndef KR_CONCAT_H
#define KR_CONCAT_H

#include "ops/op.h"
#include "ops/rows.h"

enum { KR_MAX_CONCAT = 4 };

#ifdef __cplusplus
extern "C" {
#endif

extern const kr_op kr_op_concat;
extern const kr_op kr_op_concat_grad; /* in: dy, x_0, x_1, ... (for their shapes)   out: dx_i */

#ifdef __cplusplus
}
#endif

/* The rows of x_i: a vector is one. */
static inline kr_rows kr_concat_rows(const kr_tensor *x) {
    int64_t n = kr_tensor_count(x);
    return x->rank < 2 ? (kr_rows){1, n} : (kr_rows){x->shape[0], n ? n / x->shape[0] : 0};
}
/* Elements from the start of y to its row `first`. */
static inline int64_t kr_concat_at(const kr_tensor *y, int64_t first) {
    return first * (y->rank < 2 ? 1 : y->stride[0]);
}

#endif
