/* trapezoid.h - the trapezoidal rule of a state that decays at a rate of its own in every step.
 *
 *   delta = softplus(dt + bias)      A = -max(f(rate), floor)      lambda = sigmoid(mix)
 *   log   = A delta                                                  the decay's logarithm
 *   gain  = lambda delta, for this step's inputs [0,R);  (1 - lambda) delta exp(log), for those of
 *           the step before, [R,2R)
 *
 *   f(v)  = 1 + v from 0 on, 1 / (1 - v) below (heavy tail);  or softplus(v)
 *
 * lambda = 1 is Euler's rule, 1/2 the classical trapezoid.
 *
 * in:  dt [M,H], rate [M,H], mix [M,H], bias [H]
 * out: delta [M,H], log [M,H], gain [M,2R,H]
 * Source: Lahoti et al. 2026 (Mamba-3). */
#ifndef KR_TRAPEZOID_H
#define KR_TRAPEZOID_H

#include "ops/op.h"

typedef enum kr_rate { KR_RATE_HEAVY_TAIL, KR_RATE_SOFTPLUS } kr_rate;

typedef struct kr_trapezoid_attr {
    kr_rate f;
    double floor;
    int64_t ranks; /* R */
} kr_trapezoid_attr;

extern const kr_op kr_op_trapezoid;
/* in: ddelta, dlog, dgain (each may be absent: zeros), dt, rate, mix, bias
 * out: ddt, drate, dmix, dbias */
extern const kr_op kr_op_trapezoid_grad;

#endif
