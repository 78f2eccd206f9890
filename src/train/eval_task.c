/* eval_task.c - krait_eval of a sequence task: the share of answers that a model gets right. */
#include <math.h>
#include <stdio.h>

#include "base/err.h"
#include "models/model.h"
#include "train/eval_lanes.h"
#include "train/task_scorer.h"

enum { USUAL = 1000 }; /* examples of a task without end, where nobody says how many */

typedef struct heard {
    const krait_eval_options *o;
    int64_t examples, all, last;
} heard;

static int on_answer(void *user, int64_t example, int64_t row, int32_t right, int32_t said,
                     double logprob) {
    heard *h = user;
    if (example != h->last && h->o->on_progress &&
        h->o->on_progress(h->o->user, h->examples++, h->all))
        return 1;
    h->last = example;
    return h->o->on_answer ? h->o->on_answer(h->o->user, example, row, right, said, logprob) : 0;
}

static int open_source(kr_task_source *s, const kr_task *task, const krait_eval_options *o,
                       krait_error *e) {
    _Alignas(8) unsigned char settings[KR_TASK_SETTINGS];
    char of[64];
    snprintf(of, sizeof of, "task %s", task->name);
    kr_settings_default(task->settings, settings);
    for (int64_t i = 0; i < o->n_sets; i++)
        KR_TRY(kr_settings_assign(task->settings, settings, o->sets[i], "--set", of, e));
    return kr_task_open(s, task, settings, o->seed, o->data, o->n_data, e);
}

static int score(const krait_model *model, const krait_eval_options *o, const kr_task_source *s,
                 krait_eval_result *result, krait_error *e) {
    kr_weights *weights = (kr_weights *)(uintptr_t)kr_model_weights(model);
    kr_graph_options g = {.threads = o->threads > 0 ? o->threads : kr_device_threads(),
                          .half = model->half};
    kr_task_part part = (kr_task_part)o->part;
    int64_t n = s->examples[part] ? s->examples[part] : USUAL;
    if (o->examples && (o->examples < n || !s->examples[part])) n = o->examples;
    kr_task_scorer scorer = {.lm = {.g = NULL}};
    kr_task_batches batches = {.lanes = 0};
    kr_task_result r = {0};
    heard h = {.o = o, .all = n, .last = -1};
    KR_TRY(kr_model_level(model, &g.level, e));
    KR_TRY(kr_task_scorer_create(&scorer, &model->config, weights, &g, s, n, e));
    int rc = kr_task_scorer_allocate(&scorer, NULL, e);
    if (rc == 0)
        rc = kr_task_batches_open(&batches, s, part, &model->config, scorer.lanes, g.threads, e);
    if (rc == 0) rc = kr_task_scorer_run(&scorer, &batches, n, &r, on_answer, &h, e);
    kr_task_batches_close(&batches);
    kr_task_scorer_free(&scorer);
    result->questions = r.examples;
    result->tokens = r.answers;
    result->loss = r.loss;
    result->perplexity = result->task_perplexity = exp(r.loss);
    result->accuracy = r.answers ? (double)r.correct / (double)r.answers : 0;
    result->accuracy_whole = r.examples ? (double)r.whole / (double)r.examples : 0;
    if (s->numbers > 0)
        result->perplexity = result->task_perplexity = result->accuracy = result->accuracy_whole =
            NAN;
    return rc;
}

int kr_eval_sequence_task(const krait_model *model, const krait_eval_options *o,
                          krait_eval_result *result, krait_error *e) {
    kr_task_source s;
    const kr_task *task = kr_task_find(o->task);
    char names[400] = "lambada";
    for (int i = 0; !task && kr_tasks[i]; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, ", %s", kr_tasks[i]->name);
    }
    if (!task)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "there is no task \"%.60s\"; there are: %s", o->task,
                       names);
    if (o->data_is_ids || o->context || o->max_tokens || o->on_token)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "task %s: token ids, context, max_tokens and on_token have no effect",
                       task->name);
    if (o->part < KRAIT_TASK_TRAIN || o->part > KRAIT_TASK_TEST || o->examples < 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "task %s: no such part or number of examples",
                       task->name);
    KR_TRY(open_source(&s, task, o, e));
    int rc = 0;
    if (s.numbers && o->on_answer)
        rc = kr_fail(e, KRAIT_ERR_ARGUMENT, "task %s: its answers are numbers, not ids or labels",
                     task->name);
    if (rc == 0) rc = score(model, o, &s, result, e);
    kr_task_close(&s);
    return rc;
}
