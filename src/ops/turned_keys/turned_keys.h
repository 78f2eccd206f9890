/* turned_keys.h - keys (or queries) of every head: normed, shifted by a bias of the head's own, and
 * turned by its angles.
 *
 *   u[r,h] = weight x[r,g] / rms(x[r,g]) + bias[h,r]           g = h / (H/G): heads share x by
 * groups y[r,h] = u turned: pair i < S of u by phi[h,i],  (p, q) -> (p cos - q sin, p sin + q cos)
 *
 * Pair i is the columns (2i, 2i+1), or with `halves` (i, i + N/2); what is in no pair stays.
 *
 * in:  x [M,R,G,N], weight [N], bias [H,R,N], phi [M,H,S]
 * out: y [M,R,H,N]
 * Source: Lahoti et al. 2026 (Mamba-3). */
#ifndef KR_TURNED_KEYS_H
#define KR_TURNED_KEYS_H

#include "ops/op.h"

typedef struct kr_turned_keys_attr {
    double eps;
    int64_t groups; /* G, divides H */
    bool halves;
} kr_turned_keys_attr;

extern const kr_op kr_op_turned_keys;
/* With du the gradient turned back: dphi[i] = sum over r of du_q u_p - du_p u_q of pair i, dbias =
 * du over M, dn = du over the heads of a group; then the norm's.
 * in: dy, x, weight, bias, phi      out: dx, dweight, dbias, dphi */
extern const kr_op kr_op_turned_keys_grad;

/* Into how many chunks the gradient cuts M rows for the sums of dweight and dbias. */
static inline int kr_turned_keys_chunks(int64_t M) {
    return M < 64 ? 1 : M < 2048 ? (int)(M / 64) : 32;
}
/* The same on the GPU, where a chunk is a block's. */
static inline int kr_turned_keys_chunks_cuda(int64_t M) {
    return M < 32 ? 1 : M < 264 * 16 ? (int)(M / 16) : 264;
}

#endif
