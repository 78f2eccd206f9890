/* discretise_low_rank.h - a linear system in continuous time whose matrix is diagonal minus low
 * rank, x' = (Lambda - P P*) x + B u, as a recurrence with a step of its own for each channel, by
 * the bilinear rule:
 *
 *   x_t = (I - g A)^-1 (I + g A) x_{t-1} + delta (I - g A)^-1 B u_t     g = delta / 2
 *       = a x_{t-1} - sum_r p_r (q_r x_{t-1}) + b u_t                   delta = rate exp(log_dt)
 *
 * again a diagonal minus low rank (Woodbury): with e = 1 / (1 - g lambda), W = (I + g P* e P)^-1,
 *
 *   a = 2 e - 1    q = P* e    p = delta e P W    b = delta e B - g p (q B)
 *
 * lambda = -exp(log_rate) + i frequency; one of each conjugate pair is held, so that products of
 * rows and columns are twice a real part. Channel h uses row h mod S. Sources: Gu et al. 2022b,
 * Goel et al. 2022 (P P*); the gradient is written out in discretise_low_rank_ref.c.
 *
 * in:   log_dt [H], log_rate [S,N], frequency [S,N], B [S,2,N], P [S,R,2,N]
 * out:  A [H,(1+2R) 2N] of a, p_1 .. p_R, q_1 .. q_R (as the scan takes it), b [H,2N] */
#ifndef KR_DISCRETISE_LOW_RANK_H
#define KR_DISCRETISE_LOW_RANK_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kr_discretise_low_rank_attr {
    double rate; /* length of a step in steps of training */
} kr_discretise_low_rank_attr;

enum { KR_LOW_RANKS = 4 }; /* R at most */
enum { KR_LOW_DT, KR_LOW_RATE, KR_LOW_FREQUENCY, KR_LOW_B, KR_LOW_P, KR_LOW_INS };

extern const kr_op kr_op_discretise_low_rank;
/* in: the same, then dA, db (either may be absent: zeros)      out: gradients of the five */
extern const kr_op kr_op_discretise_low_rank_grad;

#ifdef __cplusplus
}
#endif

#endif
