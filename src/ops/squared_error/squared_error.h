/* squared_error.h - the loss of telling numbers.
 *
 *   loss[m] = mean over K of (y[m,k] - wanted[m,k])^2,      dy[m,k] = 2/K (y - wanted) dloss[m]
 *
 * in:  y [M,K], wanted [M,K]       out: loss [M] */
#ifndef KR_SQUARED_ERROR_H
#define KR_SQUARED_ERROR_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const kr_op kr_op_squared_error;
/* in: y, wanted, dloss [M]    out: dy [M,K], dwanted = -dy [M,K] */
extern const kr_op kr_op_squared_error_grad;

#ifdef __cplusplus
}
#endif

#endif
