/* mamba_layer.h - a decode step of a layer of Mamba as one op: norm, mixer, and the sum that
 * carries on. For steps of one token a sequence: row r of x is sequence r of seqs, whose count is
 * 1, or 0 where the row is no one's: then its states are neither read nor written, and u and y are
 * 0.
 *
 *   [x'; z]      = in_proj (norm * x * (mean of x^2 + eps)^(-1/2)) + in_bias
 *   u            = silu(conv_bias + conv[K-1] x' + sum over w < K-1 of conv[w] window[w])
 *   window       = the last K-1 of x', oldest first
 *   [dl; B; C]   = x_proj u                     r, N, N columns; each over its rms if mixer_eps > 0
 *   delta        = softplus(dt_proj dl + dt_bias)
 *   h            = exp(delta A) h + delta B u,   y = (C . h + D u) silu(z)
 *   out          = x + out_proj y + out_bias
 *
 * Sums are f32, and so are x, out and the states; on the GPU the four matrices may be bf16, and
 * then so are u, z and y. Source: Gu & Dao 2023; the norms: Zuo et al. 2024. */
#ifndef KR_MAMBA_LAYER_H
#define KR_MAMBA_LAYER_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the GPU's kernel serves: rows, taps, widths D, E and r + 2N; D and E are multiples of
 * KR_LAYER_MULTIPLE, r is even. KR_LAYER_UNIT channels stay together; KR_LAYER_LAYERS layers share
 * a launch. */
enum {
    KR_LAYER_FEW = 8,
    KR_LAYER_TAPS = 4,
    KR_LAYER_WIDTH = 5120,
    KR_LAYER_INNER = 10240,
    KR_LAYER_XP_WIDTH = 1024,
    KR_LAYER_MULTIPLE = 32,
    KR_LAYER_UNIT = 2,
    KR_LAYER_LAYERS = 64
};

typedef struct kr_mamba_layer_attr {
    double eps, mixer_eps;
} kr_mamba_layer_attr;

/* Those in front of KR_LAYER_BOTH a layer of Mamba-2 has, too (mamba2_layer.h). */
enum {
    KR_LAYER_X,         /* [M,D], M <= KR_LAYER_FEW */
    KR_LAYER_NORM,      /* [D] */
    KR_LAYER_IN,        /* [2E,D] */
    KR_LAYER_IN_BIAS,   /* [2E], or absent */
    KR_LAYER_CONV,      /* [E,1,K], 2 <= K <= KR_LAYER_TAPS */
    KR_LAYER_CONV_BIAS, /* [E], or absent */
    KR_LAYER_DT_BIAS,   /* [E] */
    KR_LAYER_A,         /* [E,N] */
    KR_LAYER_D,         /* [E] */
    KR_LAYER_OUT,       /* [D,E] */
    KR_LAYER_OUT_BIAS,  /* [D], or absent */
    KR_LAYER_SEQS,      /* I64 [M,3] */
    KR_LAYER_WINDOW,    /* [slots,K-1,E]: a state */
    KR_LAYER_STATE,     /* h [slots,E,N]: a state */
    KR_LAYER_BOTH,
    KR_LAYER_X_PROJ = KR_LAYER_BOTH, /* [r+2N,E] */
    KR_LAYER_DT,                     /* [E,r] */
    KR_LAYER_INS
};
enum {
    KR_LAYER_Y,          /* [M,D]: x of the next layer */
    KR_LAYER_WINDOW_OUT, /* given; may be the memory of the state */
    KR_LAYER_STATE_OUT,  /* the same */
    KR_LAYER_OUTS
};
extern const kr_op kr_op_mamba_layer;

typedef struct kr_mamba_layer_sizes {
    int64_t M, D, E, N, r, K;
} kr_mamba_layer_sizes;
/* Whether the op takes these sizes; whether the GPU that was opened can do them, too. */
bool kr_mamba_layer_serves(const kr_mamba_layer_sizes *s);
bool kr_mamba_layer_fits(const kr_mamba_layer_sizes *s, bool half);

#ifdef __cplusplus
}
#endif

#endif
