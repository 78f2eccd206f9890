/* causal_conv.h - depthwise causal convolution along the tokens of each sequence, with an optional
 * SiLU.
 *
 *   p[t] = bias + sum over w < K of weight[w] * x[t - (K-1-w)],   y = silu(p) or p
 *
 * for each channel.
 *
 * The last tap multiplies the current token. Taps before the start of the sequence read state_in
 * (oldest first: its row K-2 is the token before), zeros without one. Taps never cross a reset row:
 * what lies before it counts as zero. state_out holds the last K-1 inputs of each sequence in the
 * same sense (zeros before the last reset).
 *
 * in:  x [M,E], weight [E,1,K], bias [E] or absent, seqs I64 [S,3] (first row, count, slot),
 *      reset U8 [M] or absent, state_in [slots,K-1,E] or absent
 * out: y [M,E], state_out [slots,K-1,E] given or absent: it may be the memory of state_in; rows of
 *      slots that seqs does not name stay as they are
 *
 * Rows of y outside every sequence are not written. On the GPU x, y and their gradients may be
 * bf16, and K is at most 8. Source: Gu & Dao 2023. */
#ifndef KR_CAUSAL_CONV_H
#define KR_CAUSAL_CONV_H

#include "ops/op.h"

enum { KR_CAUSAL_CONV_GPU_TAPS = 8 }; /* the largest K there */

typedef struct kr_causal_conv_attr {
    int silu;
    int early; /* nothing of the same run writes parameters or states: the GPU may read them ahead
                */
} kr_causal_conv_attr;

extern const kr_op kr_op_causal_conv;
/* in:  dy [M,E] or absent (0), x, weight, bias, seqs, reset, state_in,
 *      dstate_out [slots,K-1,E] or absent (0)
 * out: dx [M,E], dweight [E,1,K], dbias [E],
 *      dstate_in [slots,K-1,E] (0 for slots that seqs does not name)
 *
 *   g[t] = dy[t] * silu'(p[t]), with p computed again from x
 *   dx[q] = sum over w of weight[w] * g[q + (K-1-w)] + what dstate_out says of x[q]
 *   dweight[w] = sum over t of g[t] * x[t - (K-1-w)],   dbias = sum over t of g[t] */
extern const kr_op kr_op_causal_conv_grad;

/* On the GPU a warp of 128 channels takes a run of so many rows, a block four runs. The first suits
 * the number of warps that a large card holds at once; runs are neither so short that the K rows
 * around each weigh much, nor so long that the last ones are waited for. */
static inline int kr_causal_conv_run(int64_t M, int64_t E, int64_t warps) {
    int64_t rows = (M * ((E + 127) / 128) / warps + 4) / 4 * 4;
    return rows < 8 ? 8 : rows < 128 ? (int)rows : 128;
}
#define KR_CAUSAL_CONV_WARPS (132 * 28)
#define KR_CAUSAL_CONV_GRAD_WARPS (132 * 16)
/* Into how many parts the gradient cuts the sums over M rows there. */
static inline int64_t kr_causal_conv_parts(int64_t M, int64_t E) {
    int64_t rows = 4 * kr_causal_conv_run(M, E, KR_CAUSAL_CONV_GRAD_WARPS);
    return (M + rows - 1) / rows;
}
/* And at most, M or fewer rows: longer runs make fewer parts, so that the most rows need not have
 * the most of them. A run is longer than its share of the warps, but for the shortest and the
 * longest. */
static inline int64_t kr_causal_conv_most_parts(int64_t M, int64_t E) {
    int64_t shortest = (M + 4 * 8 - 1) / (4 * 8), longest = (M + 4 * 128 - 1) / (4 * 128);
    int64_t share = KR_CAUSAL_CONV_GRAD_WARPS / 4 / ((E + 127) / 128) + 1;
    int64_t parts = shortest < share ? shortest : share;
    return parts > longest ? parts : longest;
}

#endif
