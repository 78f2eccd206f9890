/* dropout.h - in training, numbers are left out at random and the others grow by as much.
 *
 *   y[m,d] = x[m,d] / (1 - share)  where word(m,d) >= share 2^32,  else 0
 *
 * word(m,d) is word j of a Philox block (base/rng.h) whose key is draw[0] and whose counter is (q,
 * m, draw[1], site), where d = j Q + q, Q = ceil(D/4): it depends on place and draw alone, so that
 * the gradient, which is the same op on dy, and a run that is resumed leave out the same numbers.
 * Tied: with seqs, m is the sequence instead of the row: the same columns in all of its rows.
 *
 * in:  x [M,D], draw I64 [2], seqs I64 [S,3] or absent      out: y [M,D], of the type of x
 * Source: Srivastava et al. 2014. docs/references.md has the full title. */
#ifndef KR_DROPOUT_H
#define KR_DROPOUT_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kr_dropout_attr {
    double share; /* in [0, 1) */
    int64_t site; /* which of a graph's */
} kr_dropout_attr;

extern const kr_op kr_op_dropout;

#ifdef __cplusplus
}
#endif

/* A word below is left out. */
static inline uint32_t kr_dropout_limit(const kr_dropout_attr *a) {
    return (uint32_t)(a->share * 4294967296.0);
}

#endif
