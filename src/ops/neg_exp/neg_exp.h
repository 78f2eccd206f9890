/* neg_exp.h - the negative exponential: A = -exp(A_log).
 *
 *   y = -exp(x),   dx = dy * y
 *
 * in:  x, any rank          out: y
 * Source: Gu & Dao 2023 (Mamba keeps log(-A)). */
#ifndef KR_NEG_EXP_H
#define KR_NEG_EXP_H

#include "ops/op.h"

extern const kr_op kr_op_neg_exp;
/* in: dy, y   out: dx */
extern const kr_op kr_op_neg_exp_grad;

#endif
