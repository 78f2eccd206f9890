/* mamba_step.h - a decode step of the Mamba mixer in few kernels: what stands in front of x_proj as
 * one op, what stands behind it as another. For steps of one token a sequence: row r of every
 * tensor is sequence r of seqs, whose count is 1, or 0 where the row is no one's: then its states
 * are neither read nor written, and u is 0.
 *
 * mamba_step_in:
 *   s      = hidden + residual                     (s = hidden without a residual)
 *   [x; z] = weight (norm * s * (mean of s^2 + eps)^(-1/2)) + bias
 *   u      = silu(conv_bias + conv[K-1] x + sum over w < K-1 of conv[w] state[w])
 *   state  = the last K-1 of x, oldest first
 * mamba_step_scan:
 *   delta  = softplus(dt_weight dl + dt_bias)      where xp = [dl; B; C], of r, N, N columns
 *   h      = exp(delta A) h + delta B u,   y = (C . h + D u) silu(z)
 * mamba_step_out: out_proj, K cut into parts that different multiprocessors take:
 *   part p = y[k of p] weight[:, k of p]^T         k of p: kr_mamba_step_cut(K, P, p) and on
 * mamba_step_norm: what adds them up, and norms for the next layer:
 *   s      = (part 0 + .. + part P-1) + residual
 *   a      = norm * s * (mean of s^2 + eps)^(-1/2)
 *
 * Sums are f32; on the GPU hidden, weights, xp, u, z and y may be bf16. Source: Gu & Dao 2023. */
#ifndef KR_MAMBA_STEP_H
#define KR_MAMBA_STEP_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* mamba_step_in serves few rows, short convolutions, and widths D that its rows of shared memory
 * hold. */
enum { KR_STEP_FEW = 8, KR_STEP_TAPS = 4, KR_STEP_WIDTH = 5120 };
/* mamba_step_scan of more rows is fast where they are halves, with so many states a channel. */
enum { KR_STEP_STATES = 16 };

typedef struct kr_mamba_step_attr {
    double eps;
    int half; /* u and z are bf16; the weight must be */
} kr_mamba_step_attr;

enum {
    KR_STEP_HIDDEN,    /* [M,D], M <= KR_STEP_FEW */
    KR_STEP_RESIDUAL,  /* [M,D] f32, or absent */
    KR_STEP_NORM,      /* [D] */
    KR_STEP_WEIGHT,    /* [2E,D] */
    KR_STEP_BIAS,      /* [2E], or absent */
    KR_STEP_CONV,      /* [E,1,K], 2 <= K <= KR_STEP_TAPS */
    KR_STEP_CONV_BIAS, /* [E], or absent */
    KR_STEP_SEQS,      /* I64 [M,3] */
    KR_STEP_WINDOW,    /* [slots,K-1,E]: the state */
    KR_STEP_IN_INS
};
enum {
    KR_STEP_SUM,        /* s [M,D] f32; absent without a residual */
    KR_STEP_U,          /* [M,E] */
    KR_STEP_Z,          /* [M,E] */
    KR_STEP_WINDOW_OUT, /* given; may be the memory of the state */
    KR_STEP_IN_OUTS
};
extern const kr_op kr_op_mamba_step_in;

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
/* in: parts [M, P D], residual [M,D] f32, norm [D] (attr: kr_mamba_step_attr; half: a is bf16).
 * out: a [M,D], s [M,D] */
extern const kr_op kr_op_mamba_step_norm;

#ifdef __cplusplus
}
#endif

#endif
