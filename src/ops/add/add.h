/* add.h - the elementwise sum.
 *
 *   c = a + b
 *
 * in:  a, b of one shape, any rank; b absent: a copy of a. On the GPU both may be bf16.
 * out: c; may share a's memory. The gradient of both is dc itself: no kernel. */
#ifndef KR_ADD_H
#define KR_ADD_H

#include "ops/op.h"

extern const kr_op kr_op_add;

#endif
