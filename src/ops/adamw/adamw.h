/* adamw.h - one step of AdamW on one parameter, in place.
 *
 *   g' = scale * g
 *   m' = beta1 * m + (1 - beta1) * g'
 *   v' = beta2 * v + (1 - beta2) * g'^2
 *   w' = w * (1 - rate * decay) - rate * (m' / (1 - beta1^t)) / (sqrt(v' / (1 - beta2^t)) + eps)
 *
 * in:  w [n], m [n], v [n], g [n]
 * out: w [n], m [n], v [n], which may be the memory of the inputs; w16 [n] bf16 or absent: w'
 *      rounded, for products that take halves
 *
 * `scale` carries the clipping of the gradient's norm. Not differentiable: it stands behind
 * the backward pass. Source: Loshchilov & Hutter 2019, "Decoupled weight decay regularization". */
#ifndef KR_ADAMW_H
#define KR_ADAMW_H

#include "ops/op.h"

typedef struct kr_adamw_attr {
    double rate, beta1, beta2, eps, decay, scale;
    int64_t step; /* t, the first is 1 */
} kr_adamw_attr;

/* The same step with everything that does not depend on the element worked out. */
typedef struct kr_adamw_factors {
    double keep;    /* 1 - rate * decay */
    double rate;    /* rate / (1 - beta1^t) */
    double unbias2; /* 1 / (1 - beta2^t) */
} kr_adamw_factors;
#ifdef __cplusplus /* the GPU's kernel needs them too */
extern "C"
#endif
    kr_adamw_factors
    kr_adamw_factors_of(const kr_adamw_attr *a);

extern const kr_op kr_op_adamw;

#endif
