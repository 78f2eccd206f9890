/* train.c - krait_train: the loop, its checkpoints, and going on from one. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "train/trainer.h"

/* ---- checkpoints ---- */

/* Views of everything that a run needs besides the model; `position` must live as long as w. */
static int gather_state(kr_trainer *t, kr_weights *w, kr_loader_position *position,
                        krait_error *e) {
    const int64_t statistics = KR_OUTLIER_DOUBLES, three = 3;
    kr_tensor outlier = kr_tensor_make(&t->outlier, KR_F64, 1, &statistics);
    kr_tensor data = kr_tensor_make(position, KR_I64, 1, &three);
    if (kr_trainer_has_task(t))
        *position = (kr_loader_position){kr_task_batches_check(&t->examples), 0, t->examples.next};
    else
        kr_loader_position_get(t->data, position);
    KR_TRY(kr_optimiser_save(&t->optimiser, w, e));
    KR_TRY(kr_lane_states_save(&t->states, w, e));
    KR_TRY(kr_weights_add(w, "outlier", &outlier, e));
    KR_TRY(kr_weights_add(w, "data", &data, e));
    kr_weights_sort(w);
    return 0;
}

static int save_checkpoint(kr_trainer *t, krait_error *e) {
    char path[4096];
    kr_weights w = {0};
    kr_loader_position position;
    json_t *recipe = kr_recipe_json(&t->recipe);
    int rc = recipe ? kr_run_log_sync(&t->log, e) : kr_fail_memory(e, "the recipe");
    kr_checkpoint c = {t->step, t->optimiser.updates, t->tokens, t->log.length};
    if (rc == 0) rc = kr_optimiser_fetch_weights(&t->optimiser, &t->model->weights, e);
    if (rc == 0) rc = gather_state(t, &w, &position, e);
    if (rc == 0)
        rc = kr_checkpoint_save(t->o.out, &c, t->model, recipe, &w, t->recipe.keep, path,
                                sizeof path, e);
    if (rc == 0) kr_trainer_tell(t, KRAIT_EVENT_CHECKPOINT, path);
    kr_weights_free(&w);
    json_decref(recipe);
    return rc;
}

static int take_state(kr_trainer *t, const kr_weights *w, krait_error *e) {
    kr_loader_position position;
    const kr_tensor *outlier = kr_weights_find(w, "outlier"), *data = kr_weights_find(w, "data");
    if (!outlier || outlier->dtype != KR_F64 || kr_tensor_bytes(outlier) != sizeof t->outlier ||
        !data || data->dtype != KR_I64 || kr_tensor_bytes(data) != sizeof position)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: the state of the run is incomplete",
                       t->resume_from);
    memcpy(&t->outlier, outlier->data, sizeof t->outlier);
    memcpy(&position, data->data, sizeof position);
    KR_TRY(kr_optimiser_load(&t->optimiser, w, e));
    KR_TRY(kr_lane_states_load(&t->states, w, e));
    if (!kr_trainer_has_task(t)) return kr_loader_seek(t->data, &position, e);
    if (position.check != kr_task_batches_check(&t->examples))
        return kr_fail(e, KRAIT_ERR_MISMATCH, "%s: the examples of the task have changed",
                       t->resume_from);
    return kr_task_batches_seek(&t->examples, position.window, e);
}

static int resume(kr_trainer *t, int64_t *log_length, krait_error *e) {
    kr_checkpoint c;
    kr_weights w = {0};
    int rc = kr_checkpoint_load(t->resume_from, &c, &w, e);
    if (rc == 0) rc = take_state(t, &w, e);
    kr_weights_free(&w);
    if (rc < 0) return rc;
    t->step = c.step;
    t->tokens = c.tokens;
    t->optimiser.updates = c.updates;
    *log_length = c.log_length;
    return 0;
}

/* ---- the loop ---- */

static int open_logs(kr_trainer *t, int64_t log_length, krait_error *e) {
    char path[1024];
    snprintf(path, sizeof path, "%s/log.jsonl", t->o.out);
    KR_TRY(kr_run_log_open(&t->log, path, log_length, e));
    KR_TRY(kr_event_file_open(&t->events, t->o.out, t->step + 1, e));
    return kr_sync_dir(t->o.out, e); /* a checkpoint counts on the log: its name must last too */
}

static bool due(const kr_trainer *t, int64_t every) {
    return t->step == t->recipe.steps || (every > 0 && t->step % every == 0);
}

/* What happens after a step; the order decides what the log of a resumed run begins with. */
static int after_step(kr_trainer *t, const kr_step_result *r, krait_error *e) {
    KR_TRY(kr_trainer_tell_step(t, r, e));
    if (due(t, t->recipe.eval_every)) KR_TRY(kr_trainer_evaluate(t, e));
    if (t->recipe.sample_every && due(t, t->recipe.sample_every)) KR_TRY(kr_trainer_sample(t, e));
    if (due(t, t->recipe.checkpoint_every) || t->stop) KR_TRY(save_checkpoint(t, e));
    return 0;
}

static int run(kr_trainer *t, krait_error *e) {
    int64_t log_length = 0;
    if (t->resume_from) KR_TRY(resume(t, &log_length, e));
    KR_TRY(open_logs(t, log_length, e));
    if (!t->resume_from) KR_TRY(kr_trainer_evaluate(t, e));
    t->started = kr_trainer_seconds();
    t->tokens_then = t->tokens;
    while (t->step < t->recipe.steps && !t->stop) {
        kr_step_result r;
        KR_TRY(kr_trainer_step(t, &r, e));
        KR_TRY(after_step(t, &r, e));
    }
    if (t->step < t->recipe.steps)
        return kr_fail(e, KRAIT_ERR_CANCELLED, "stopped after step %lld of %lld: resume to go on",
                       (long long)t->step, (long long)t->recipe.steps);
    KR_TRY(kr_optimiser_fetch_weights(&t->optimiser, &t->model->weights, e));
    return krait_model_save(t->model, t->o.out, NULL, e);
}

int krait_train(const krait_train_options *options, krait_error *e) {
    kr_trainer *t = kr_calloc(1, sizeof *t);
    if (!t) return kr_fail_memory(e, "training");
    int rc = kr_trainer_open(t, options, e);
    if (rc == 0) rc = run(t, e);
    kr_trainer_close(t);
    kr_free(t);
    return rc;
}
