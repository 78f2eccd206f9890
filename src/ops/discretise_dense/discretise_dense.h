/* discretise_dense.h - a linear system in continuous time with a whole matrix, x' = A x + B u, as a
 * recurrence with a step of its own for each channel, by the bilinear rule:
 *
 *   x_t = Ab x_{t-1} + b u_t      W = (I - g A)^-1      g = delta / 2      delta = rate exp(log_dt)
 *   Ab = W (I + g A) = 2 W - I    b = delta W B
 *
 * Ab goes to the scan as a decay of low rank N: a diagonal of zeros, p_k = -e_k, q_k row k of Ab.
 * Source: Gu et al. 2021 (LSSL); the gradient is written out in discretise_dense_ref.c.
 *
 * in:   log_dt [H], A [N,N], B [N]
 * out:  the decay [H,(1+2N) N], b [H,N] */
#ifndef KR_DISCRETISE_DENSE_H
#define KR_DISCRETISE_DENSE_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kr_discretise_dense_attr {
    double rate; /* length of a step in steps of training */
} kr_discretise_dense_attr;

enum { KR_DENSE_DT, KR_DENSE_A, KR_DENSE_B, KR_DENSE_INS };

extern const kr_op kr_op_discretise_dense;
/* in: the same, then gradients of the decay (its diagonal and p_k are constants) and b (either may
 * be absent: zeros)      out: gradients of the three */
extern const kr_op kr_op_discretise_dense_grad;

/* ---- on the GPU: what discretise_dense.c plans and discretise_dense.cu uses ---- */

enum {
    KR_DENSE_SHARED = 72, /* N up to which two matrices lie in the shared memory of any card */
    KR_DENSE_BLOCKS = 128 /* that take channels in turn, at most */
};

static inline int64_t kr_dense_row(int64_t N) { return N | 1; }
/* Doubles of a block: W, backward another matrix, and four vectors. */
static inline int64_t kr_dense_work(int64_t N, bool backward) {
    return (backward ? 2 : 1) * N * kr_dense_row(N) + 4 * N;
}
/* Fewer where matrices are so large that scratch would be above 256 MB. */
static inline int64_t kr_dense_blocks(int64_t H, int64_t N) {
    int64_t room = ((int64_t)1 << 25) / (kr_dense_work(N, true) + N * N + N);
    int64_t most = room < 8 ? 8 : room < KR_DENSE_BLOCKS ? room : KR_DENSE_BLOCKS;
    return H < most ? H : most;
}

#ifdef __cplusplus
}
#endif

#endif
