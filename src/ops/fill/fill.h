/* fill.h - a constant.
 *
 *   y = value
 *
 * in:  nothing; or x [M,W], of which only M and the type count
 * out: y, given by the caller, any rank; or [M,columns] where there is an x */
#ifndef KR_FILL_H
#define KR_FILL_H

#include "ops/op.h"

typedef struct kr_fill_attr {
    double value;
    int64_t columns; /* of y where there is an x */
} kr_fill_attr;

extern const kr_op kr_op_fill;

#endif
