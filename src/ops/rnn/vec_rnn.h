/* vec_rnn.h - what both directions of the nonlinear recurrences share: a call unpacked, and the
 * product of a step. Included by rnn*_vec.c only. */
#ifndef KR_VEC_RNN_H
#define KR_VEC_RNN_H

#include "ops/rnn/rnn.h"
#include "ops/threads.h"
#include "vec/vec_math.h"

typedef struct kr_rnn_view {
    const kr_call *c;
    kr_rnn_cell cell;
    int64_t H, G, GH, line; /* line: of GH */
    const int64_t *seqs;
    int64_t seqs_row, S, M;
    const uint8_t *reset;
    float *scratch;
} kr_rnn_view;

static inline __attribute__((unused)) kr_rnn_view kr_rnn_unpack(const kr_call *c) {
    kr_rnn_view v = {.c = c,
                     .cell = ((const kr_rnn_attr *)c->attr)->cell,
                     .H = c->in[KR_RNN_W].shape[1],
                     .seqs = c->in[KR_RNN_SEQS].data,
                     .seqs_row = c->in[KR_RNN_SEQS].stride[0],
                     .S = c->in[KR_RNN_SEQS].shape[0],
                     .M = c->in[KR_RNN_X].shape[0],
                     .reset = c->in[KR_RNN_RESET].data,
                     .scratch = c->scratch};
    v.G = kr_rnn_gates(v.cell);
    v.GH = v.G * v.H;
    v.line = kr_rnn_line(v.GH);
    return v;
}

KR_VINLINE const float *kr_rnn_row(const kr_rnn_view *v, int i, int64_t m) {
    return (const float *)v->c->in[i].data + m * v->c->in[i].stride[0];
}

/* NULL where the output is absent. */
KR_VINLINE float *kr_rnn_out(const kr_rnn_view *v, int i, int64_t m) {
    const kr_tensor *t = &v->c->out[i];
    return i < v->c->n_out && t->data ? (float *)t->data + m * t->stride[0] : NULL;
}

KR_VINLINE bool kr_rnn_starts(const kr_rnn_view *v, int64_t m) { return v->reset && v->reset[m]; }

/* State k of a slot of input i; NULL: zeros. */
KR_VINLINE const float *kr_rnn_state(const kr_rnn_view *v, int i, int64_t slot, int64_t k) {
    return v->c->in[i].data ? kr_rnn_row(v, i, slot) + k * v->H : NULL;
}

/* A sequence while its rows are walked: h and c (or their gradients), what comes next, gates. */
typedef struct kr_rnn_run {
    int64_t first, T, slot;
    float *h, *memory, *next, *p;
} kr_rnn_run;

KR_VINLINE kr_rnn_run kr_rnn_sequence(const kr_rnn_view *v, int64_t s, float *own) {
    const int64_t *q = v->seqs + s * v->seqs_row;
    int64_t line = kr_rnn_line(v->H);
    own += s * kr_rnn_own(v->H, v->G);
    return (kr_rnn_run){q[0], q[1], q[2], own, own + line, own + 2 * line, own + 3 * line};
}

/* Copies n numbers, or zeros where there are none; a whole line is written. */
KR_VINLINE void kr_rnn_take(float *to, const float *from, int64_t n) {
    for (int64_t j = 0; j < n; j += KR_W)
        kr_vstore(to + j, from ? kr_vload_n(from + j, n - j) : kr_vzero());
}

/* ---- to[j] += sum over k of from[k] w[k,j] ----
 *
 * A tile is `rows` sequences and `blocks` vectors of columns, in registers: each vector of w is
 * loaded once for all rows. w streams by once for every KR_RNN_ROWS sequences. */
#if defined(KR_VEC_v4)
enum { KR_RNN_BLOCKS = 4 };
#else
enum { KR_RNN_BLOCKS = 2 };
#endif
enum { KR_RNN_ROWS = 4 };

KR_VINLINE void kr_rnn_tile(const float *w, int64_t w_row, int64_t K, const float *const *from,
                            float *const *to, int64_t left, int rows, int blocks) {
    kr_vf sum[KR_RNN_ROWS][KR_RNN_BLOCKS];
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++) sum[r][b] = kr_vload_n(to[r] + b * KR_W, left - b * KR_W);
    for (int64_t k = 0; k < K; k++)
        for (int b = 0; b < blocks; b++) {
            kr_vf wk = kr_vload_n(w + k * w_row + b * KR_W, left - b * KR_W);
            for (int r = 0; r < rows; r++) sum[r][b] = kr_vfma(kr_vset(from[r][k]), wk, sum[r][b]);
        }
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks; b++) kr_vstore_n(to[r] + b * KR_W, left - b * KR_W, sum[r][b]);
}

/* Columns [j, j + blocks W) of n sequences. */
KR_VINLINE void kr_rnn_columns(const float *w, int64_t w_row, int64_t K, const float *const *from,
                               float *const *to, int64_t n, int64_t j, int64_t left, int blocks) {
    for (int64_t i = 0; i < n;) {
        float *at[KR_RNN_ROWS];
        int rows = n - i >= KR_RNN_ROWS ? KR_RNN_ROWS : 1;
        for (int r = 0; r < rows; r++) at[r] = to[i + r] + j;
        if (rows == KR_RNN_ROWS)
            kr_rnn_tile(w + j, w_row, K, from + i, at, left, KR_RNN_ROWS, blocks);
        else
            kr_rnn_tile(w + j, w_row, K, from + i, at, left, 1, blocks);
        i += rows;
    }
}

static inline __attribute__((unused)) void kr_rnn_product(const float *w, int64_t w_row, int64_t K,
                                                          int64_t J, const float *const *from,
                                                          float *const *to, int64_t n) {
    int64_t j = 0, wide = KR_RNN_BLOCKS * KR_W;
    for (; j + wide <= J; j += wide)
        kr_rnn_columns(w, w_row, K, from, to, n, j, wide, KR_RNN_BLOCKS);
    for (; j < J; j += KR_W) kr_rnn_columns(w, w_row, K, from, to, n, j, J - j, 1);
}

/* Sequences of a thread that are walked together, at most. */
enum { KR_RNN_TOGETHER = 64 };

#endif
