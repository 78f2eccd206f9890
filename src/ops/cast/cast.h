/* cast.h - numbers rounded to bf16: the copies of weights that matrix products read on the GPU.
 *
 *   y = bf16(x), to the nearest, ties to even
 *
 * in:  x, any rank     out: y, bf16
 * Not differentiable: what stands behind it knows the numbers that were rounded. */
#ifndef KR_CAST_H
#define KR_CAST_H

#include "ops/op.h"

extern const kr_op kr_op_cast;

#endif
