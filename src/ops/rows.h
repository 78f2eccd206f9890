/* rows.h - a tensor of any rank as rows of contiguous elements, for ops that treat elements alike.
 */
#ifndef KR_ROWS_H
#define KR_ROWS_H

#include "tensor/tensor.h"

typedef struct kr_rows {
    int64_t count, width; /* rows, elements of a row */
} kr_rows;

/* One long row when every tensor is contiguous, else the rows of the first dimension. */
static inline kr_rows kr_rows_of(const kr_tensor *a, const kr_tensor *b, const kr_tensor *c) {
    int64_t n = kr_tensor_count(a);
    bool flat = kr_tensor_contiguous(a) && kr_tensor_contiguous(b) && kr_tensor_contiguous(c);
    if (flat || a->rank < 2) return (kr_rows){1, n};
    return (kr_rows){a->shape[0], a->shape[0] ? n / a->shape[0] : 0};
}

#endif
