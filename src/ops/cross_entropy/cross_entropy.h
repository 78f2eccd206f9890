/* cross_entropy.h - the loss of predicting a token.
 *
 *   lse[m] = ln(sum over V of exp(logits[m,v])),   nll[m] = lse[m] - logits[m, targets[m]]
 *
 * in:  logits [M,V], targets I32 [M] (-1, or anything outside [0,V): no loss there)
 * out: nll [M], lse [M] in nats; both 0 where there is no loss. lse is kept for the gradient and
 * has none itself. */
#ifndef KR_CROSS_ENTROPY_H
#define KR_CROSS_ENTROPY_H

#include "ops/op.h"

extern const kr_op kr_op_cross_entropy;
/* in: logits [M,V], targets I32 [M], lse [M], dnll [M]   out: dlogits [M,V], which may be the
 * memory of logits dlogits[m,v] = (exp(logits[m,v] - lse[m]) - [v = targets[m]]) * dnll[m];   0
 * where there is no loss */
extern const kr_op kr_op_cross_entropy_grad;

#endif
