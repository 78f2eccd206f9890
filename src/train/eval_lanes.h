/* eval_lanes.h - scores documents side by side: each lane reads one, its state carried to any
 * length. Internal to src/train.
 *
 * Where documents come from is a feeder's business: files (evaluate.c) or the questions of a task
 * (lambada.c). Results do not depend on which documents share a run. */
#ifndef KR_EVAL_LANES_H
#define KR_EVAL_LANES_H

#include <krait/train.h>

#include "models/model.h"
#include "train/scorer.h"

typedef struct kr_eval_score {
    int32_t id;
    float nll;
} kr_eval_score;

typedef struct kr_eval_lane {
    int32_t *ids; /* what is known of the document from token `base` on */
    int64_t count;
    size_t capacity;
    int64_t at;   /* next row to read, index into ids */
    int64_t base; /* position in the document of ids[0] */
    int64_t doc;
    bool busy, ended;    /* has a document; all of which is in ids */
    int64_t scored_from; /* position of the first token that counts for a task's question */
    double logprob;      /* of those tokens */
    bool matched;        /* each of them was likelier than any other */
    kr_eval_score *held; /* [n_held] of positions from held_from on, which on_token has not heard */
    int64_t n_held, held_from;
    size_t held_capacity;
} kr_eval_lane;

typedef struct kr_eval_run kr_eval_run;
/* Gives an idle lane a document (its first part), or a busy one the next part of its own. 1: done;
 * 0: nothing for this lane now; negative: an error. Uses kr_eval_lane_begin and kr_eval_lane_add.
 */
typedef int kr_eval_feed(void *user, kr_eval_lane *lane, krait_error *e);

struct kr_eval_run {
    const krait_model *model;
    const krait_eval_options *o;
    krait_eval_result *result;
    kr_scorer scorer;
    kr_eval_lane *lanes;
    kr_eval_feed *feed;
    void *user;
    const float *logits; /* of a task's run */
    bool task;           /* only tokens from scored_from on are counted, and questions are */
    bool full;           /* max_tokens are done, or a callback said stop */
    bool cancelled;
};

void kr_eval_lane_begin(kr_eval_lane *lane, int64_t doc, int64_t scored_from);
/* Adds ids to the lane's document; `last`: it ends here. */
int kr_eval_lane_add(kr_eval_lane *lane, const int32_t *ids, int64_t count, bool last,
                     krait_error *e);

/* Scores all that the feeder gives; sums go into run->result. model, o, result, feed, user and task
 * are set. */
int kr_eval_lanes_run(kr_eval_run *run, krait_error *e);

/* lambada.c */
int kr_eval_lambada(const krait_model *model, const krait_eval_options *o,
                    krait_eval_result *result, krait_error *e);

/* eval_task.c */
int kr_eval_sequence_task(const krait_model *model, const krait_eval_options *o,
                          krait_eval_result *result, krait_error *e);

#endif
