/* seqs.h - a row of the input `seqs` that ops over time have: I64 [S,3], first row, count, slot. */
#ifndef KR_SEQS_H
#define KR_SEQS_H

#include "ops/op.h"

typedef struct kr_seq {
    int64_t first, count, slot;
} kr_seq;

static inline kr_seq kr_seq_of(const kr_tensor *seqs, int64_t s) {
    const int64_t *p = (const int64_t *)seqs->data + s * seqs->stride[0];
    return (kr_seq){p[0], p[1], p[2]};
}

/* seqs and, where it is there, reset U8 [M] of an op over M rows: inputs i and i + 1. */
static inline int kr_need_seqs(const char *op, const kr_call *c, int i, int64_t M, krait_error *e) {
    const kr_tensor *reset = &c->in[i + 1];
    int rc = kr_need_rank(op, "seqs", &c->in[i], 2, e);
    if (rc == 0) rc = kr_need_dim(op, "seqs", &c->in[i], 1, 3, e);
    if (rc == 0) rc = kr_need_type(op, "seqs", &c->in[i], KR_I64, e);
    if (rc == 0 && reset->data) rc = kr_need_rank(op, "reset", reset, 1, e);
    if (rc == 0 && reset->data) rc = kr_need_dim(op, "reset", reset, 0, M, e);
    return rc;
}

/* The first place of the sequence that place t sees when it looks back as far as `start`: that, or
 * the last segment's begin behind it. reset NULL: there are no segments. */
static inline int64_t kr_seq_window(kr_seq s, const uint8_t *reset, int64_t start, int64_t t) {
    for (int64_t i = t; reset && i >= 0 && i > start; i--)
        if (reset[s.first + i]) return i;
    return start;
}

/* Elements of one slot of a state. */
static inline int64_t kr_slot_width(const kr_tensor *state) {
    int64_t n = 1;
    for (int d = 1; d < state->rank; d++) n *= state->shape[d];
    return n;
}

#endif
