/* mamba_step.h - what stands behind x_proj in a decode step of the Mamba mixer, as one op. For
 * steps of one token a sequence: row r of every tensor is sequence r of seqs, whose count is 1, or
 * 0 where the row is no one's: then its states are neither read nor written. A step of few rows is
 * one op as a whole (mamba_layer.h).
 *
 *   delta  = softplus(dt_weight dl + dt_bias)      where xp = [dl; B; C], of r, N, N columns
 *   h      = exp(delta A) h + delta B u,   y = (C . h + D u) silu(z)
 * mamba_step_out: out_proj, K cut into parts that different multiprocessors take:
 *   part p = y[k of p] weight[:, k of p]^T         k of p: kr_mamba_step_cut(K, P, p) and on
 * mamba_step_norm: what adds them up, and norms for the next layer:
 *   s      = (part 0 + .. + part P-1) + residual
 *   a      = norm * s * (mean of s^2 + eps)^(-1/2)
 *
 * Sums are f32; on the GPU weights, xp, u, z and y may be bf16. Source: Gu & Dao 2023. */
#ifndef KR_MAMBA_STEP_H
#define KR_MAMBA_STEP_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* More than KR_STEP_FEW rows are fast where they are halves, with so many states a channel. */
enum { KR_STEP_FEW = 8, KR_STEP_STATES = 16 };

enum {
    KR_STEP_XP,        /* [M,r+2N] */
    KR_STEP_DT_WEIGHT, /* [E,r] */
    KR_STEP_DT_BIAS,   /* [E] */
    KR_STEP_A,         /* [E,N] */
    KR_STEP_D,         /* [E] */
    KR_STEP_SCAN_U,    /* [M,E] */
    KR_STEP_SCAN_Z,    /* [M,E] */
    KR_STEP_SCAN_SEQS, /* I64 [M,3] */
    KR_STEP_STATE,     /* h [slots,E,N] */
    KR_STEP_SCAN_INS
};
enum {
    KR_STEP_Y,         /* [M,E] */
    KR_STEP_STATE_OUT, /* given; may be the memory of the state */
    KR_STEP_SCAN_OUTS
};
extern const kr_op kr_op_mamba_step_scan;

typedef struct kr_mamba_step_out_attr {
    int parts;
} kr_mamba_step_out_attr;

/* In how many parts a GPU that is to be filled takes a weight [D,K]. */
int kr_mamba_step_parts(int64_t D, int64_t K);
/* The first k of part p of P: parts are whole slices of 64. */
static inline int64_t kr_mamba_step_cut(int64_t K, int64_t P, int64_t p) {
    int64_t first = (K + 63) / 64 * p / P * 64;
    return first < K ? first : K;
}

/* in: y [M,K], weight [D,K].   out: parts [M, P D], f32 side by side */
extern const kr_op kr_op_mamba_step_out;

typedef struct kr_mamba_step_attr {
    double eps;
    int half; /* a is bf16 */
} kr_mamba_step_attr;

/* in: parts [M, P D], residual [M,D] f32, norm [D] (attr: kr_mamba_step_attr).
 * out: a [M,D], s [M,D] */
extern const kr_op kr_op_mamba_step_norm;

#ifdef __cplusplus
}
#endif

#endif
