/* discretise.h - a diagonal linear system in continuous time, x' = lambda x + B u, as a recurrence
 * x_t = a x_{t-1} + b u_t with a step of its own for each channel.
 *
 *   lambda = -exp(log_rate) + i frequency       delta = rate exp(log_dt)       z = delta lambda
 *   zero-order hold   a = e^z                   b = B delta (e^z - 1) / z
 *   bilinear          a = (1 + z/2) / (1 - z/2) b = B delta / (1 - z/2)
 *
 * Channel h uses row h mod S of lambda and B. `rate` is the length of a step in steps of training:
 * 2 for data sampled half as often. Sources: Gu et al. 2022 (S4D); the gradient is written out in
 * discretise_ref.c.
 *
 * in:   log_dt [H], log_rate [S,N], frequency [S,N], B [S,2,N]   (N real, then N imaginary parts)
 * out:  a [H,2N], b [H,2N] */
#ifndef KR_DISCRETISE_H
#define KR_DISCRETISE_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kr_discretisation { KR_ZERO_ORDER_HOLD, KR_BILINEAR } kr_discretisation;

typedef struct kr_discretise_attr {
    kr_discretisation how;
    double rate;
} kr_discretise_attr;

enum { KR_DISCRETISE_DT, KR_DISCRETISE_RATE, KR_DISCRETISE_FREQUENCY, KR_DISCRETISE_B };

extern const kr_op kr_op_discretise;
/* in: the same, then da, db (either may be absent: zeros)      out: dlog_dt dlog_rate dfrequency dB
 */
extern const kr_op kr_op_discretise_grad;

#ifdef __cplusplus
}
#endif

#endif
