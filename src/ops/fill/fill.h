/* fill.h - a constant.
 *
 *   y = value
 *
 * in:  nothing
 * out: y, given by the caller: any rank */
#ifndef KR_FILL_H
#define KR_FILL_H

#include "ops/op.h"

typedef struct kr_fill_attr {
    double value;
} kr_fill_attr;

extern const kr_op kr_op_fill;

#endif
