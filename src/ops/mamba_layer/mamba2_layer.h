/* mamba2_layer.h - a decode step of a layer of Mamba-2 as one op: norm, mixer, and the sum that
 * carries on. For steps of one token a sequence: row r of x is sequence r of seqs, whose count is
 * 1, or 0 where the row is no one's: then its states are neither read nor written, and its mixer
 * adds nothing but the bias. Channel c is of head c / P; all heads share B and C.
 *
 *   [z; xBC; dt] = in_proj (norm * x * (mean of x^2 + eps)^(-1/2)) + in_bias     E, E + 2N, H
 * columns [u; B; C]    = silu(conv_bias + conv[K-1] xBC + sum over w < K-1 of conv[w] window[w])
 *   window       = the last K-1 of xBC, oldest first
 *   delta        = softplus(dt + dt_bias), not below dt_min, and not above dt_max if that is > 0
 *   h            = exp(delta A) h + delta B u,   g = (C . h + D u) silu(z)
 *   out          = x + out_proj (gate_norm * g * (mean of g^2 + eps)^(-1/2)) + out_bias
 *
 * Sums are f32, and so are x, out and the states; on the GPU the two matrices may be bf16, and then
 * so are u, z and gate_norm * g, and may be the states. Source: Dao & Gu 2024. */
#ifndef KR_MAMBA2_LAYER_H
#define KR_MAMBA2_LAYER_H

#include "ops/mamba_layer/mamba_layer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The limits are those of mamba_layer.h: of rows, taps, D and E; E is whole heads, and 2N + H, at
 * most KR_LAYER_XP_WIDTH, is even. */
typedef struct kr_mamba2_layer_attr {
    double eps, dt_min, dt_max;
} kr_mamba2_layer_attr;

enum {
    KR_LAYER2_X = KR_LAYER_X,                 /* [M,D] */
    KR_LAYER2_NORM = KR_LAYER_NORM,           /* [D] */
    KR_LAYER2_IN = KR_LAYER_IN,               /* [2E+2N+H,D] */
    KR_LAYER2_IN_BIAS = KR_LAYER_IN_BIAS,     /* [2E+2N+H], or absent */
    KR_LAYER2_CONV = KR_LAYER_CONV,           /* [E+2N,1,K] */
    KR_LAYER2_CONV_BIAS = KR_LAYER_CONV_BIAS, /* [E+2N], or absent */
    KR_LAYER2_DT_BIAS = KR_LAYER_DT_BIAS,     /* [H] */
    KR_LAYER2_A = KR_LAYER_A,                 /* [H] */
    KR_LAYER2_D = KR_LAYER_D,                 /* [H], or [E] */
    KR_LAYER2_OUT = KR_LAYER_OUT,             /* [D,E] */
    KR_LAYER2_OUT_BIAS = KR_LAYER_OUT_BIAS,   /* [D], or absent */
    KR_LAYER2_SEQS = KR_LAYER_SEQS,           /* I64 [M,3] */
    KR_LAYER2_WINDOW = KR_LAYER_WINDOW,       /* [slots,K-1,E+2N]: a state */
    KR_LAYER2_STATE = KR_LAYER_STATE,         /* h [slots,E,N]: a state */
    KR_LAYER2_GATE_NORM = KR_LAYER_BOTH,      /* [E] */
    KR_LAYER2_INS
};
enum {
    KR_LAYER2_Y = KR_LAYER_Y,                   /* [M,D]: x of the next layer */
    KR_LAYER2_WINDOW_OUT = KR_LAYER_WINDOW_OUT, /* given; may be the memory of the state */
    KR_LAYER2_STATE_OUT = KR_LAYER_STATE_OUT,   /* the same */
    KR_LAYER2_OUTS
};
extern const kr_op kr_op_mamba2_layer;

typedef struct kr_mamba2_layer_sizes {
    int64_t M, D, E, N, H, K;
} kr_mamba2_layer_sizes;
/* Whether the op takes these sizes; whether the GPU that was opened can do them, too. */
bool kr_mamba2_layer_serves(const kr_mamba2_layer_sizes *s);
bool kr_mamba2_layer_fits(const kr_mamba2_layer_sizes *s, bool half);

#ifdef __cplusplus
}
#endif

#endif
