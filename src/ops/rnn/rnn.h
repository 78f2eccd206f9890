/* rnn.h - nonlinear recurrences with a recurrent matrix: plain RNN, LSTM, GRU.
 *
 *   x_t holds W_ih u_t (+ its bias); p = W h_{t-1} + bias, cut into gates of H numbers like x_t
 *   TANH, RELU  h = f(x + p)
 *   LSTM        i f g o = x + p,   c = s(f) c_{t-1} + s(i) tanh(g),   h = s(o) tanh(c)
 *   GRU         r = s(x_r + p_r),   z = s(x_z + p_z),   n = tanh(x_n + r p_n)
 *               h = (1 - z) n + z h_{t-1}                                     s: the sigmoid
 *
 * in:  x [M,G*H] (G gates: 1, 4, 3), w [G*H,H], bias [G*H] or absent, seqs I64 [S,3], reset U8 [M]
 *      or absent, state_in [slots,K,H] or absent (K 2 for LSTM: h, c; else 1)
 * out: y [M,H]: the h_t; state_out (given) like state_in; and for the backward pass
 *      gates [M,G*H]: what is behind s and tanh (LSTM, GRU), cell [M,H]: c_t, or p_n (LSTM, GRU)
 *
 * seqs, reset and states are as in scan/scan_op.h. Source: Elman 1990; Hochreiter & Schmidhuber
 * 1997, with the forget gate of Gers et al. 2000; Cho et al. 2014, its reset gate behind the
 * product. */
#ifndef KR_RNN_H
#define KR_RNN_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kr_rnn_cell { KR_RNN_TANH, KR_RNN_RELU, KR_RNN_LSTM, KR_RNN_GRU } kr_rnn_cell;

typedef struct kr_rnn_attr {
    kr_rnn_cell cell;
} kr_rnn_attr;

enum { KR_RNN_X, KR_RNN_W, KR_RNN_BIAS, KR_RNN_SEQS, KR_RNN_RESET, KR_RNN_STATE, KR_RNN_INS };
enum { KR_RNN_Y, KR_RNN_STATE_OUT, KR_RNN_GATES, KR_RNN_MEMORY, KR_RNN_OUTS };

/* in: x w bias seqs reset state_in, then the y, gates and cell of the forward pass (those it has),
 *     dy and dstate (either may be absent)            out: dx dw dbias dstate_in */
enum {
    KR_RNN_IN_Y = KR_RNN_INS,
    KR_RNN_IN_GATES,
    KR_RNN_IN_MEMORY,
    KR_RNN_DY,
    KR_RNN_DSTATE,
    KR_RNN_GRAD_INS
};
enum { KR_RNN_DX, KR_RNN_DW, KR_RNN_DBIAS, KR_RNN_DSTATE_IN, KR_RNN_GRAD_OUTS };

extern const kr_op kr_op_rnn, kr_op_rnn_grad;

static inline int kr_rnn_gates(kr_rnn_cell c) {
    return c == KR_RNN_LSTM ? 4 : c == KR_RNN_GRU ? 3 : 1;
}
static inline int kr_rnn_states(kr_rnn_cell c) { return c == KR_RNN_LSTM ? 2 : 1; }
/* Does the forward pass keep gates and cell? */
static inline bool kr_rnn_keeps(kr_rnn_cell c) { return c == KR_RNN_LSTM || c == KR_RNN_GRU; }

/* Scratch of the vector kernels, in floats: W transposed [H,line], and of each sequence what it
 * carries and its gates; of the backward pass, the gates' gradients [M,G*H] and the states before
 * [M,H] instead of W. */
static inline int64_t kr_rnn_line(int64_t n) { return (n + 15) / 16 * 16; }
static inline int64_t kr_rnn_own(int64_t H, int64_t G) {
    return 3 * kr_rnn_line(H) + kr_rnn_line(G * H);
}

/* ---- the GPU ---- */

enum {
    KR_RNN_CUDA_ROWS = 4,    /* sequences of a block, at most */
    KR_RNN_CUDA_MOST = 1536, /* numbers of h, at most, where a block has 192 KB of shared memory */
    KR_RNN_CUDA_PARTS = 256  /* partial sums of the bias' gradient, at most */
};
/* Rows that one partial sum adds. */
static inline int64_t kr_rnn_cuda_share(int64_t M) {
    int64_t share = (M + KR_RNN_CUDA_PARTS - 1) / KR_RNN_CUDA_PARTS;
    return share < 32 ? 32 : share;
}

#ifdef __cplusplus
}
#endif

#endif
