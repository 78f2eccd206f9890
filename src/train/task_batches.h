/* task_batches.h - examples of a task as batches: rows, sequences, and which rows have targets.
 *
 * Which rows a head reads: ids are said at the rows where the task asks; a label is told by the
 * mean of an example's rows, by its last row, or by every row, as the model's pooling says. Batches
 * depend on (task, batch size, position) alone. */
#ifndef KR_TASK_BATCHES_H
#define KR_TASK_BATCHES_H

#include "data/tasks/task.h"
#include "models/config.h"
#include "train/micro_batches.h"

typedef struct kr_task_batches {
    const kr_task_source *source; /* must live as long */
    kr_task_part part;
    int pooling, threads;
    int64_t lanes;        /* examples of a batch */
    int64_t next;         /* of all examples that were and will be read: the position */
    int64_t ahead;        /* examples from there on that are made already */
    int64_t epoch;        /* whose order is in `order` */
    int64_t *order;       /* [examples of the part], of parts that end; else NULL */
    kr_example *examples; /* [lanes] */
} kr_task_batches;

int kr_task_batches_open(kr_task_batches *b, const kr_task_source *source, kr_task_part part,
                         const kr_config *c, int64_t lanes, int threads, krait_error *e);
void kr_task_batches_close(kr_task_batches *b);

/* The most rows and targets of a micro-batch of so many examples. */
kr_batch_shape kr_task_batches_shape(const kr_task_source *source, int pooling, int64_t count,
                                     int64_t lanes);
/* Fills all micro-batches of a step with the next examples. */
int kr_task_batches_fill(kr_task_batches *b, kr_micro_batches *to, krait_error *e);
/* Makes the examples that the next fill lays out first, while a GPU is at work; those that cannot
 * be made are left to it. */
void kr_task_batches_ahead(kr_task_batches *b);
/* Makes the next n examples (at most `lanes`) into b->examples. */
int kr_task_batches_make(kr_task_batches *b, int64_t n, krait_error *e);
/* Position, and a hash of what it belongs to. */
uint64_t kr_task_batches_check(const kr_task_batches *b);
int kr_task_batches_seek(kr_task_batches *b, int64_t next, krait_error *e);

#endif
