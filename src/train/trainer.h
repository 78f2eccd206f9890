/* trainer.h - everything a training run holds, and what is done with it. Internal to src/train.
 *
 *   trainer.c        opening and closing: recipe, data, model, graphs, memory
 *   train_plan.c     the plan that is told before the first step
 *   train_room.c     whether the plan fits into memory, and what would
 *   train_step.c     one step: micro-batches, clipping, outliers, update
 *   train_watch.c    evaluation on held-out data, samples, logs and events
 *   train.c          the loop, checkpoints and resuming */
#ifndef KR_TRAINER_H
#define KR_TRAINER_H

#include <krait/train.h>

#include "data/text/loader.h"
#include "models/model.h"
#include "train/checkpoint.h"
#include "train/event_file.h"
#include "train/lane_states.h"
#include "train/micro_batches.h"
#include "train/optimiser.h"
#include "train/outlier.h"
#include "train/recipe.h"
#include "train/run_log.h"
#include "train/scorer.h"
#include "train/task_scorer.h"

typedef struct kr_trainer {
    krait_train_options o;
    kr_recipe recipe;
    kr_level level;
    bool half; /* bf16 activations */
    int threads;
    char *resume_from; /* a checkpoint's folder; NULL: a fresh run */

    krait_tokenizer *tokenizer; /* until the model has it */
    krait_model *model;         /* its weights are trained in place */
    kr_store *store;
    kr_loader *data, *held_out; /* held_out NULL: nothing is kept for evaluation */
    kr_task_source task;        /* with a task instead of text: its examples */
    kr_task_batches examples, held_examples;
    kr_task_scorer task_scorer;
    kr_lm lm;
    kr_lane_states states; /* empty unless carry_state */
    kr_micro_batches batches;
    kr_optimiser optimiser;
    kr_weights placed; /* on the GPU: views of the weights that the optimiser has there */
    kr_scorer scorer;  /* evaluation and samples; lm.g NULL: neither is wanted */
    int64_t eval_window;

    kr_outlier outlier;
    int64_t step, tokens;
    kr_run_log log;
    kr_event_file events;
    double started; /* seconds; and the tokens that were behind us then */
    int64_t tokens_then;
    bool stop; /* a callback asked for it */
} kr_trainer;

/* Fills t; on failure kr_trainer_close frees what there is. */
int kr_trainer_open(kr_trainer *t, const krait_train_options *o, krait_error *e);
void kr_trainer_close(kr_trainer *t);

/* The training graph's options at so many sequences, recomputing or not. */
kr_lm_options kr_trainer_graph(const kr_trainer *t, int64_t batch, bool recompute);

/* Is it a task that is trained on? */
static inline bool kr_trainer_has_task(const kr_trainer *t) { return t->task.task != NULL; }
/* What a micro-batch of the training graph holds at most, with so many sequences. */
kr_batch_shape kr_trainer_shape(const kr_trainer *t, int64_t batch);

/* The graph whose memory the evaluation uses: on the GPU the training graph, between its steps. */
const kr_graph *kr_trainer_under(const kr_trainer *t);

/* Builds and plans the graphs of training and evaluation as the recipe says; nothing is allocated
 * yet. */
int kr_trainer_plan_graphs(kr_trainer *t, krait_error *e);
/* Tokens of a lane that evaluation reads at once. */
int64_t kr_trainer_eval_window(const kr_recipe *r);
/* Tells the plan: called between planning and allocating. */
int kr_trainer_tell_plan(kr_trainer *t, krait_error *e);

/* Bytes of what is planned (train_room.c): of the weights, of evaluation, and in all where the
 * steps are computed. */
size_t kr_trainer_weight_bytes(const kr_trainer *t);
size_t kr_trainer_evaluation_bytes(const kr_trainer *t);
size_t kr_trainer_bytes(const kr_trainer *t);
/* Refuses a plan of more than `left` bytes, with the settings that would make it fit. */
int kr_trainer_fits(const kr_trainer *t, size_t left, krait_error *e);

typedef struct kr_step_result {
    double loss, norm, rate;
    bool skipped;
    char why[120]; /* when skipped */
} kr_step_result;
/* Step t->step + 1. */
int kr_trainer_step(kr_trainer *t, kr_step_result *r, krait_error *e);

/* Reports a step to the log, the event file and the callback, as the recipe says. */
int kr_trainer_tell_step(kr_trainer *t, const kr_step_result *r, krait_error *e);
/* Mean loss on held-out data, logged and told. */
int kr_trainer_evaluate(kr_trainer *t, krait_error *e);
int kr_trainer_sample(kr_trainer *t, krait_error *e);
/* An event with a text; kind NOTE, CHECKPOINT, SAMPLE ... */
void kr_trainer_tell(kr_trainer *t, krait_event_kind kind, const char *text);
double kr_trainer_seconds(void); /* a clock that only moves forward */

#endif
