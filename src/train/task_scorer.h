/* task_scorer.h - how often a model is right on a task's examples, of any length.
 *
 * Examples are read side by side, whole where they fit a run, else in chunks with their state
 * carried. The mean of an example's rows comes from those of its chunks: the head is linear, so its
 * logits are averaged. An answer is right when it is the likeliest; numbers are off by a square. */
#ifndef KR_TASK_SCORER_H
#define KR_TASK_SCORER_H

#include "train/lane_states.h"
#include "train/task_batches.h"

/* One answer: example, row of the target (of a label: the last), what was right, what was said and
 * its log-probability (of numbers 0, 0 and the square). Returns non-zero to stop. */
typedef int kr_task_heard(void *user, int64_t example, int64_t row, int32_t right, int32_t said,
                          double logprob);

typedef struct kr_task_result {
    int64_t examples, whole;  /* whole: all of whose answers were right */
    int64_t answers, correct; /* one by one */
    /* nats an answer; of numbers the mean square of what they are off: nothing is right then */
    double loss;
} kr_task_result;

typedef struct kr_task_scorer {
    kr_lm lm;
    kr_lane_states states; /* only with chunks */
    const kr_task_source *source;
    int pooling;
    int64_t lanes, logits; /* examples side by side; ids or classes, V */
    kr_micro_batches rows; /* one micro-batch */
    struct kr_task_answer {
        int64_t lane, row;
        int32_t right;
    } * answers;  /* [R]: what the picked rows are for */
    double *sums; /* [lanes, V]: logits of labels; or */
    double *row;  /* [V]: of one answer, where rows are answered one by one */
} kr_task_scorer;

/* Does a model of this configuration take the task's input and give its answers? */
int kr_task_fits(const kr_task_source *source, const kr_config *c, krait_error *e);
/* Records and plans the graph on these weights, for at most `most` examples. */
int kr_task_scorer_create(kr_task_scorer *s, const kr_config *c, kr_weights *w,
                          const kr_graph_options *o, const kr_task_source *source, int64_t most,
                          krait_error *e);
/* The same with at most so many rows a run: longer examples are read in chunks. */
int kr_task_scorer_create_rows(kr_task_scorer *s, const kr_config *c, kr_weights *w,
                               const kr_graph_options *o, const kr_task_source *source,
                               int64_t most, int64_t rows, krait_error *e);
/* `over` (or NULL): a graph whose memory is used where it is large enough. */
int kr_task_scorer_allocate(kr_task_scorer *s, const kr_graph *over, krait_error *e);
size_t kr_task_scorer_bytes(const kr_task_scorer *s, const kr_graph *over);
void kr_task_scorer_free(kr_task_scorer *s);
/* Scores the next n examples of b, which has this scorer's lanes. heard may be NULL. */
int kr_task_scorer_run(kr_task_scorer *s, kr_task_batches *b, int64_t n, kr_task_result *result,
                       kr_task_heard *heard, void *user, krait_error *e);

#endif
