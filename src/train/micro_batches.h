/* micro_batches.h - the windows of one step: ids, targets, document starts, and the seed of the
 * loss.
 *
 * The loss of a step is the mean over all its predicted tokens, whatever micro-batch they are in,
 * so its gradient's seed is 1 / (predicted tokens of all micro-batches): known before the first of
 * them runs because all are fetched together. */
#ifndef KR_MICRO_BATCHES_H
#define KR_MICRO_BATCHES_H

#include "data/text/loader.h"
#include "models/lm.h"

typedef struct kr_micro_batches {
    int64_t count, lanes, window, rows; /* A, B, T, M = B*T */
    int64_t valid;                      /* targets that are not -1 */
    void *block;                        /* the arrays below */
    int64_t *seqs;                      /* [B,3]: row b*T, T, slot b */
    int32_t *ids, *targets;             /* [A,M] */
    float *seed;                        /* [M]: 1/valid */
    uint8_t *reset;                     /* [A,M] */
} kr_micro_batches;

size_t kr_micro_batches_bytes(int64_t count, int64_t lanes, int64_t window);
int kr_micro_batches_create(kr_micro_batches *b, int64_t count, int64_t lanes, int64_t window,
                            krait_error *e);
void kr_micro_batches_free(kr_micro_batches *b);
/* Reads the windows of the next step. */
int kr_micro_batches_fetch(kr_micro_batches *b, kr_loader *l, krait_error *e);
/* Binds micro-batch i to the inputs of lm. */
int kr_micro_batches_bind(const kr_micro_batches *b, int64_t i, kr_lm *lm, krait_error *e);

#endif
