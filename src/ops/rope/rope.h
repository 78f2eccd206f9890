/* rope.h - rotary positions: pairs of columns turned by an angle that grows with the row.
 *
 *   phi_0 = state of the sequence, or 0 where a segment starts;   phi_i = phi_0 + i theta
 *   theta_n = base^(-2n/N),   n < N/2
 *   y[n]       = x[n] cos phi[n] - x[n + N/2] sin phi[n]              in each head of N columns
 *   y[n + N/2] = x[n] sin phi[n] + x[n + N/2] cos phi[n]
 *   state_out  = phi of the row behind the last, in [-pi, pi)
 *
 * The product of a turned query and a turned key tells their distance alone. Keeping angles, not
 * positions, a state never grows too large for f32.
 *
 * in:  x [M,C], seqs I64 [S,3], reset U8 [M] or absent, state [slots,N/2] or absent (zeros)
 * out: y, state (given, or absent)
 * Source: Su et al. 2021. */
#ifndef KR_ROPE_H
#define KR_ROPE_H

#include "ops/op.h"

typedef struct kr_rope_attr {
    int64_t width; /* N, even, divides C */
    double base;
} kr_rope_attr;

extern const kr_op kr_op_rope;
/* dx is dy turned back; dstate = sum over the rows that the state reaches, and heads, of
 * x[n] dx[n + N/2] - x[n + N/2] dx[n], and dstate_out where no segment starts.
 * in:  dy, x (only for dstate), seqs, reset, state, dstate_out       out: dx, dstate */
extern const kr_op kr_op_rope_grad;

#endif
