/* head_divide.h - every channel of a head divided by one number of that head: the normaliser of
 * linear attention.
 *
 *   y[m,h,p] = x[m,h,p] / (s[m,h] + eps)
 *
 * in:  x [M,H*P], s [M,H]       out: y
 * Source: Katharopoulos et al. 2020. */
#ifndef KR_HEAD_DIVIDE_H
#define KR_HEAD_DIVIDE_H

#include "ops/op.h"

typedef struct kr_head_divide_attr {
    double eps;
} kr_head_divide_attr;

extern const kr_op kr_op_head_divide;
/* dx = dy / (s + eps),  ds = - sum over p of dy x / (s + eps)^2
 * in:  dy [M,H*P], x [M,H*P], s [M,H]       out: dx, ds */
extern const kr_op kr_op_head_divide_grad;

#endif
