/* micro_batches.h - what the micro-batches of one step feed into the graph, and the seed of the
 * loss.
 *
 * A micro-batch is m rows cut into sequences; its targets belong to every row, or to r picked rows
 * or spans. The loss of a step is the mean over all its targets, whatever micro-batch they are in,
 * so its gradient's seed is 1 / (targets of all micro-batches): known before the first of them runs
 * because all are fetched together. */
#ifndef KR_MICRO_BATCHES_H
#define KR_MICRO_BATCHES_H

#include "data/text/loader.h"
#include "models/lm.h"

typedef struct kr_batch_shape {
    int64_t count, lanes; /* A, B: the most sequences of a micro-batch */
    int64_t rows;         /* M: the most rows of one */
    int64_t picks;        /* R: the most targets of one; 0: one for each row */
    int64_t channels;     /* C > 0: input is numbers, else ids */
    int64_t numbers;      /* K > 0: targets are so many numbers, else an id or a class */
    bool spans;           /* targets are for spans of rows, not for rows */
} kr_batch_shape;

typedef struct kr_micro_batches {
    kr_batch_shape shape;
    int64_t valid;          /* targets that are not -1 */
    void *block;            /* the arrays below */
    int64_t *m, *r, *s;     /* [A]: rows, picked rows and sequences that a micro-batch has */
    int64_t *seqs;          /* [A,B,3]: first row, rows, slot */
    int64_t *draws;         /* [A,2]: dropout's seed, and the number of the run */
    int64_t *picks;         /* [A,R] rows, or with spans [A,R,3] as seqs; with R > 0 */
    int32_t *ids, *targets; /* [A,M]; [A,R] or [A,M] */
    float *wanted;          /* [A,R,K], in the place of targets */
    float *values;          /* [A,M,C] */
    float *seed;            /* [R] or [M]: 1/valid */
    uint8_t *reset;         /* [A,M] */
} kr_micro_batches;

size_t kr_micro_batches_bytes(const kr_batch_shape *shape);
/* Every micro-batch has B sequences of M/B rows, until it is filled otherwise. */
int kr_micro_batches_create(kr_micro_batches *b, const kr_batch_shape *shape, krait_error *e);
void kr_micro_batches_free(kr_micro_batches *b);
/* Reads the windows of the next step. */
int kr_micro_batches_fetch(kr_micro_batches *b, kr_loader *l, krait_error *e);
/* The seed of the loss, once all is filled and `valid` is known. */
void kr_micro_batches_seed(kr_micro_batches *b);
/* What dropout draws in step `step`, counted from 0. */
void kr_micro_batches_draw(kr_micro_batches *b, int64_t seed, int64_t step);
/* Binds micro-batch i to the inputs of lm. */
int kr_micro_batches_bind(const kr_micro_batches *b, int64_t i, kr_lm *lm, krait_error *e);
/* The picked rows that a run of micro-batch i has; 0: every row has a target. */
int64_t kr_micro_batches_picks(const kr_micro_batches *b, int64_t i);
/* How many losses micro-batch i gives. */
int64_t kr_micro_batches_losses(const kr_micro_batches *b, int64_t i);

#endif
