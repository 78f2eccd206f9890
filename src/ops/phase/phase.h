/* phase.h - angles that tokens choose, summed through time.
 *
 *   phi_t[h,i] = phi_{t-1}[h,i] + pi tanh(angle_t[i]) delta_t[h]        in [-pi, pi)
 *
 * phi before the first row is the state's, or 0; 0 too before a row where a segment starts.
 *
 * in:  angle [M,S], delta [M,H], seqs I64 [n,3], reset U8 [M] or absent, state [slots,H,S] or
 *      absent (zeros)
 * out: phi [M,H,S], state (given, or absent)
 * Source: Lahoti et al. 2026 (Mamba-3). */
#ifndef KR_PHASE_H
#define KR_PHASE_H

#include "ops/op.h"

extern const kr_op kr_op_phase;
/* With G_t = dphi_t + G_{t+1}, cut where segments start:
 *   dangle[i] = sum over h of G pi delta (1 - tanh^2)     ddelta[h] = sum over i of G pi tanh
 * in: dphi (or absent: zeros), angle, delta, seqs, reset, state (for its shape), dstate_out
 * out: dangle, ddelta, dstate */
extern const kr_op kr_op_phase_grad;

#endif
