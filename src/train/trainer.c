/* trainer.c - opening a training run: recipe, data, model, graphs and all memory, before the first
 * step. */
#define _DEFAULT_SOURCE
#include "train/trainer.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/options.h"

/* ---- recipe and resuming ---- */

static int read_recipe(kr_trainer *t, krait_error *e) {
    kr_recipe_default(&t->recipe);
    if (t->o.recipe) KR_TRY(kr_recipe_read(&t->recipe, t->o.recipe, e));
    for (int64_t i = 0; i < t->o.n_sets; i++) KR_TRY(kr_recipe_set(&t->recipe, t->o.sets[i], e));
    return kr_recipe_finish(&t->recipe, e);
}

/* What a resumed run computes must be what the one before it computed. */
static int compare_recipes(kr_trainer *t, krait_error *e) {
    kr_recipe then;
    char path[PATH_MAX], changed[200] = "";
    const char *key;
    snprintf(path, sizeof path, "%s/recipe.json", t->resume_from);
    kr_recipe_default(&then);
    KR_TRY(kr_recipe_read(&then, path, e));
    if (strcmp(then.precision, "auto") == 0) strcpy(then.precision, "f32");
    if (strcmp(t->recipe.precision, "auto") == 0) strcpy(t->recipe.precision, then.precision);
    int from = 0;
    key = kr_recipe_difference(&t->recipe, &then, true, &from);
    if (key)
        return kr_fail(e, KRAIT_ERR_MISMATCH,
                       "%s: made with another value of %s: resume with the recipe it began with",
                       t->resume_from, key);
    from = 0;
    while ((key = kr_recipe_difference(&t->recipe, &then, false, &from))) {
        size_t used = strlen(changed);
        snprintf(changed + used, sizeof changed - used, "%s %s", used ? "," : "changed:", key);
    }
    if (*changed) kr_trainer_tell(t, KRAIT_EVENT_NOTE, changed);
    return 0;
}

/* Values that were asked for and cannot take effect. */
static void tell_idle(kr_trainer *t) {
    const kr_recipe *r = &t->recipe;
    kr_recipe usual;
    kr_recipe_default(&usual);
    if (r->sample_every > 0 || (r->sample_tokens == usual.sample_tokens && !*r->sample_prompt &&
                                r->sample_temperature == usual.sample_temperature))
        return;
    kr_trainer_tell(t, KRAIT_EVENT_NOTE,
                    "sample_tokens, sample_temperature and sample_prompt have no effect: "
                    "sample_every is 0");
}

static int find_checkpoint(kr_trainer *t, krait_error *e) {
    char path[PATH_MAX], note[400];
    if (!t->o.resume) {
        if (!kr_checkpoint_any(t->o.out)) return 0;
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "%s already holds a run: resume it, or give another folder", t->o.out);
    }
    KR_TRY(kr_checkpoint_clean(t->o.out, e));
    KR_TRY(kr_checkpoint_find(t->o.out, path, sizeof path, note, sizeof note, e));
    if (*note) kr_trainer_tell(t, KRAIT_EVENT_NOTE, note);
    if (!*path) {
        kr_trainer_tell(t, KRAIT_EVENT_NOTE, "nothing to resume: starting from the beginning");
        return 0;
    }
    t->resume_from = kr_strdup(path);
    if (!t->resume_from) return kr_fail_memory(e, "the run");
    snprintf(note, sizeof note, "resuming from %.380s", path);
    kr_trainer_tell(t, KRAIT_EVENT_NOTE, note);
    return compare_recipes(t, e);
}

/* From here on the recipe says what the run does, whatever the device. */
static int settle_precision(kr_trainer *t, krait_error *e) {
    char *precision = t->recipe.precision;
    bool gpu = t->level == KR_LEVEL_CUDA;
    if (strcmp(precision, "auto") == 0) strcpy(precision, gpu ? "bf16" : "f32");
    t->half = strcmp(precision, "bf16") == 0;
    if (gpu || !t->half) return 0;
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "precision bf16 needs a GPU: give --device cuda, or precision=f32");
}

/* ---- model ---- */

/* Configuration and weights of a model folder. */
static int copy_model(kr_trainer *t, const char *path, kr_config *c, kr_weights *w,
                      krait_error *e) {
    krait_model_options o = KRAIT_MODEL_OPTIONS_INIT;
    krait_model *from;
    o.without_tokenizer = 1;
    KR_TRY(krait_model_open(&from, path, &o, e));
    int64_t ids = t->recipe.vocabulary; /* the data's ids are below it */
    if (ids == 0 && t->tokenizer) ids = krait_tokenizer_vocabulary(t->tokenizer);
    *c = from->config;
    int rc = kr_weights_copy_f32(w, &from->weights, e);
    if (rc == 0 && kr_trainer_has_task(t)) rc = kr_task_fits(&t->task, c, e);
    if (rc == 0 && ids > c->vocabulary)
        rc = kr_fail(e, KRAIT_ERR_MISMATCH, "%s has %lld ids, the %s %lld", path,
                     (long long)c->vocabulary,
                     t->recipe.vocabulary ? "recipe's vocabulary" : "tokenizer", (long long)ids);
    krait_model_close(&from);
    return rc;
}

static int fresh_model(kr_trainer *t, kr_config *c, kr_weights *w, krait_error *e) {
    if (kr_trainer_has_task(t)) {
        KR_TRY(kr_recipe_task_config(&t->recipe, &t->task, c, e));
        return kr_lm_init_weights(c, (uint64_t)t->recipe.seed, w, e);
    }
    int64_t ids = t->tokenizer ? krait_tokenizer_vocabulary(t->tokenizer) : 0;
    int32_t end = t->tokenizer ? krait_tokenizer_end(t->tokenizer) : -1;
    KR_TRY(kr_recipe_config(&t->recipe, ids, end, c, e));
    KR_TRY(kr_lm_init_weights(c, (uint64_t)t->recipe.seed, w, e));
    kr_weights_sort(w);
    return 0;
}

static int open_model(kr_trainer *t, krait_error *e) {
    kr_config c;
    kr_weights w = {0};
    const char *from = t->resume_from ? t->resume_from : t->o.init_model;
    if (from && !t->resume_from && kr_recipe_shapes_model(&t->recipe))
        kr_trainer_tell(t, KRAIT_EVENT_NOTE,
                        "the recipe's model shape has no effect: the initial model decides it");
    int rc = from ? copy_model(t, from, &c, &w, e) : fresh_model(t, &c, &w, e);
    if (rc == 0) rc = kr_model_from_weights(&t->model, &c, &w, t->tokenizer, e);
    if (rc == 0)
        t->tokenizer = NULL; /* the model's now */
    else
        kr_weights_free(&w);
    return rc;
}

static bool holds(const char *folder, const char *name) {
    char *path = kr_path_join(folder, name);
    bool there = path && kr_is_file(path);
    kr_free(path);
    return there;
}

/* The tokenizer of the model `from`: its folder (*folder is the caller's to free), "bytes", or NULL
 * when the model reads ids alone. A byte model's folder may hold files of another one. */
static int find_tokenizer(const char *from, char **folder, const char **path, krait_error *e) {
    kr_config c;
    const char *file;
    KR_TRY(kr_model_find(folder, &file, from, e));
    char *config = kr_path_join(*folder, "config.json");
    int rc = config ? kr_config_read(&c, config, e) : kr_fail_memory(e, *folder);
    kr_free(config);
    if (rc < 0) return rc;
    bool there = holds(*folder, "tokenizer.json") || holds(*folder, "vocab.json");
    *path = c.bytes ? "bytes" : there ? *folder : NULL;
    return 0;
}

/* The tokenizer that the recipe names, or that of the model that the run starts or goes on from.
 * Ids whose number the recipe gives need none. */
static int open_tokenizer(kr_trainer *t, krait_error *e) {
    const char *from = t->resume_from ? t->resume_from : t->o.init_model, *path = NULL;
    bool named = kr_recipe_given(&t->recipe, "tokenizer");
    if (*t->recipe.task) return 0;
    char *folder = NULL;
    int rc = from && !named ? find_tokenizer(from, &folder, &path, e) : 0;
    bool alone = !named && !path && t->o.data_is_ids && t->recipe.vocabulary > 0;
    if (!path) path = t->recipe.tokenizer;
    if (rc == 0 && !alone) rc = krait_tokenizer_open(&t->tokenizer, path, e);
    kr_free(folder);
    if (rc == 0 && alone && t->recipe.sample_every > 0)
        rc = kr_fail(e, KRAIT_ERR_ARGUMENT,
                     "recipe: sample_every needs a tokenizer: token ids alone have no text");
    if (rc == 0 && alone)
        kr_trainer_tell(t, KRAIT_EVENT_NOTE, "no tokenizer: the model reads token ids alone");
    return rc;
}

/* ---- data ---- */

static int open_task(kr_trainer *t, krait_error *e) {
    const kr_recipe *r = &t->recipe;
    const kr_task *task = kr_task_need(r->task, e);
    if (!task) return KRAIT_ERR_ARGUMENT;
    if (t->o.data_is_ids)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "task %s: token ids have no effect with a task",
                       task->name);
    KR_TRY(kr_task_open(&t->task, task, r->task_settings, (uint64_t)r->seed, t->o.data, t->o.n_data,
                        e));
    if (r->batch * t->task.longest <= INT32_MAX) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "recipe: batch %lld of up to %lld rows is beyond 2^31",
                   (long long)r->batch, (long long)t->task.longest);
}

int64_t kr_trainer_eval_window(const kr_recipe *r) {
    int64_t lane = 2048 / r->batch;
    return lane < 1 ? 1 : lane < r->window ? lane : r->window;
}

static int open_data(kr_trainer *t, krait_error *e) {
    const kr_recipe *r = &t->recipe;
    if (*r->task) return open_task(t, e);
    if (t->o.n_data < 1)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "training needs data, or a task in the recipe");
    kr_store_options so = {.docs = {.paths = t->o.data,
                                    .n_paths = t->o.n_data,
                                    .ids = t->o.data_is_ids,
                                    .tokenizer = t->tokenizer,
                                    .vocabulary = r->vocabulary},
                           .cache = t->o.out};
    kr_loader_options lo = {.lanes = r->batch,
                            .window = r->window,
                            .shuffle = true,
                            .seed = (uint64_t)r->seed};
    kr_store_part held_out;
    KR_TRY(kr_store_open(&t->store, &so, e));
    kr_store_split(t->store, r->held_out, &lo.part, &held_out);
    lo.store = t->store;
    KR_TRY(kr_loader_open(&t->data, &lo, e));
    if (r->held_out == 0) {
        kr_trainer_tell(t, KRAIT_EVENT_NOTE, "held_out is 0: there is no evaluation");
        return 0;
    }
    t->eval_window = kr_trainer_eval_window(r);
    lo.part = held_out;
    lo.window = t->eval_window;
    lo.shuffle = false;
    lo.epochs = 1;
    return kr_loader_open(&t->held_out, &lo, e);
}

/* ---- graphs and memory ---- */

kr_batch_shape kr_trainer_shape(const kr_trainer *t, int64_t batch) {
    const kr_recipe *r = &t->recipe;
    if (kr_trainer_has_task(t))
        return kr_task_batches_shape(&t->task, t->model->config.pooling, r->accumulate, batch);
    return (kr_batch_shape){.count = r->accumulate, .lanes = batch, .rows = batch * r->window};
}

kr_lm_options kr_trainer_graph(const kr_trainer *t, int64_t batch, bool recompute) {
    const kr_recipe *r = &t->recipe;
    kr_batch_shape shape = kr_trainer_shape(t, batch);
    bool gpu = t->level == KR_LEVEL_CUDA; /* cheap there: never kept */
    return (kr_lm_options){.graph = {.training = true,
                                     .recompute = (gpu ? 1 : 0) + (recompute ? 1 : 0),
                                     .threads = t->threads,
                                     .level = t->level,
                                     .half = t->half},
                           .tokens = shape.rows,
                           .rows = shape.picks,
                           .any_ends = kr_trainer_has_task(t),
                           .sequences = batch,
                           .slots = r->carry_state ? batch : 0,
                           .reset = r->reset && !kr_trainer_has_task(t),
                           .loss = true,
                           .no_logits = true,
                           .dropout = r->dropout,
                           .dropout_tied = r->dropout_tied};
}

static int check_recurrent_rate(const kr_trainer *t, krait_error *e) {
    double factor = t->recipe.recurrent_learning_rate;
    const kr_param_decl *d;
    if (factor == 1) return 0;
    for (int i = 0; i < kr_graph_param_count(t->lm.g); i++) {
        kr_graph_param_at(t->lm.g, i, &d);
        if (d->recurrent) return 0;
    }
    return kr_fail(e, KRAIT_ERR_ARGUMENT,
                   "recipe: recurrent_learning_rate (%g) has no effect: mixer %s has no such group "
                   "of parameters; leave it out, or set it to 1",
                   factor, t->model->config.mixer);
}

int kr_trainer_plan_graphs(kr_trainer *t, krait_error *e) {
    const kr_recipe *r = &t->recipe;
    kr_lm_options o = kr_trainer_graph(t, r->batch, r->recompute);
    KR_TRY(kr_lm_build(&t->lm, &t->model->config, &o, e));
    KR_TRY(check_recurrent_rate(t, e));
    KR_TRY(kr_lm_bind_weights(&t->lm, &t->model->weights, e));
    KR_TRY(kr_graph_plan(t->lm.g, e));
    if (kr_trainer_has_task(t)) {
        kr_graph_options g = {.threads = t->threads,
                              .level = t->level,
                              .half = t->half,
                              .cast = t->half};
        return kr_task_scorer_create(&t->task_scorer, &t->model->config, &t->model->weights, &g,
                                     &t->task, r->eval_batches * r->batch, e);
    }
    if (!t->held_out && r->sample_every == 0) return 0;
    kr_scorer_options s = {.graph = {.threads = t->threads, .level = t->level, .half = t->half},
                           .tokens = r->batch * (t->eval_window ? t->eval_window : 1),
                           .lanes = r->batch,
                           .logits = r->sample_every > 0};
    s.graph.cast = t->half;
    return kr_scorer_create(&t->scorer, &t->model->config, &t->model->weights, &s, e);
}

const kr_graph *kr_trainer_under(const kr_trainer *t) {
    return t->level == KR_LEVEL_CUDA ? t->lm.g : NULL;
}

static int allocate_task(kr_trainer *t, krait_error *e) {
    const kr_config *c = &t->model->config;
    KR_TRY(kr_task_batches_open(&t->examples, &t->task, KR_TASK_TRAIN, c, t->recipe.batch,
                                t->threads, e));
    KR_TRY(kr_task_batches_open(&t->held_examples, &t->task, KR_TASK_VALID, c, t->task_scorer.lanes,
                                t->threads, e));
    KR_TRY(kr_optimiser_view_weights(&t->optimiser, &t->placed, e));
    KR_TRY(kr_lm_bind_weights(&t->task_scorer.lm, &t->placed, e));
    return kr_task_scorer_allocate(&t->task_scorer, kr_trainer_under(t), e);
}

static int allocate(kr_trainer *t, krait_error *e) {
    kr_batch_shape shape = kr_trainer_shape(t, t->recipe.batch);
    KR_TRY(kr_graph_allocate(t->lm.g, e));
    KR_TRY(kr_lane_states_create(&t->states, &t->lm, true, e));
    KR_TRY(kr_micro_batches_create(&t->batches, &shape, e));
    KR_TRY(kr_optimiser_create(&t->optimiser, t->lm.g, &t->model->weights, t->threads, e));
    if (kr_trainer_has_task(t)) return allocate_task(t, e);
    if (!t->scorer.lm.g) return 0;
    KR_TRY(kr_optimiser_view_weights(&t->optimiser, &t->placed, e));
    KR_TRY(kr_lm_bind_weights(&t->scorer.lm, &t->placed, e));
    return kr_scorer_allocate(&t->scorer, kr_trainer_under(t), e);
}

static int check_room(const kr_trainer *t, krait_error *e) {
    size_t left, all;
    if (t->level != KR_LEVEL_CUDA) return 0;
    kr_device_memory(t->level, &left, &all);
    return kr_trainer_fits(t, left, e);
}

static int check_options(kr_trainer *t, const krait_train_options *given, krait_error *e) {
    t->o = (krait_train_options)KRAIT_TRAIN_OPTIONS_INIT;
    KR_TRY(kr_options_read(&t->o, sizeof t->o, given, "krait_train_options", e));
    if (!t->o.out) return kr_fail(e, KRAIT_ERR_ARGUMENT, "training needs a folder for its results");
    if (strlen(t->o.out) > 800) /* the logs' names are put behind it in 1,024 bytes */
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "%.100s...: the path is longer than 800 bytes",
                       t->o.out);
    t->threads = t->o.threads > 0 ? t->o.threads : kr_device_threads();
    KR_TRY(kr_device_open(t->o.device, &t->level, e));
    return kr_make_dirs(t->o.out, e);
}

int kr_trainer_open(kr_trainer *t, const krait_train_options *o, krait_error *e) {
    memset(t, 0, sizeof *t);
    KR_TRY(check_options(t, o, e));
    KR_TRY(read_recipe(t, e));
    KR_TRY(find_checkpoint(t, e));
    KR_TRY(settle_precision(t, e));
    tell_idle(t);
    KR_TRY(open_tokenizer(t, e));
    KR_TRY(open_data(t, e));
    KR_TRY(open_model(t, e));
    KR_TRY(kr_trainer_plan_graphs(t, e));
    KR_TRY(kr_trainer_tell_plan(t, e));
    KR_TRY(check_room(t, e));
    return allocate(t, e);
}

void kr_trainer_close(kr_trainer *t) {
    kr_event_file_close(&t->events);
    kr_run_log_close(&t->log);
    kr_task_scorer_free(&t->task_scorer);
    kr_task_batches_close(&t->examples);
    kr_task_batches_close(&t->held_examples);
    kr_task_close(&t->task);
    kr_scorer_free(&t->scorer); /* before the graph in whose memory it may be */
    kr_optimiser_free(&t->optimiser);
    kr_weights_free(&t->placed);
    kr_micro_batches_free(&t->batches);
    kr_lane_states_free(&t->states);
    if (t->lm.g) kr_lm_free(&t->lm);
    kr_loader_close(&t->held_out);
    kr_loader_close(&t->data);
    kr_store_close(&t->store);
    krait_model_close(&t->model);
    krait_tokenizer_close(&t->tokenizer);
    kr_free(t->resume_from);
}
