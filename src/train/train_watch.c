/* train_watch.c - what a run shows: steps, evaluations and samples, to the log, the event file and
 * the callback. */
#define _DEFAULT_SOURCE
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

#include "base/err.h"
#include "base/mem.h"
#include "train/trainer.h"

double kr_trainer_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- events ---- */

static void send(kr_trainer *t, krait_train_event *event) {
    event->step = t->step;
    event->steps = t->recipe.steps;
    event->tokens = t->tokens;
    if (t->started > 0) event->seconds = kr_trainer_seconds() - t->started;
    if (event->seconds > 0)
        event->tokens_per_second = (double)(t->tokens - t->tokens_then) / event->seconds;
    if (event->tokens_per_second > 0)
        event->seconds_left = (double)(t->recipe.steps - t->step) *
                              (double)(t->batches.shape.count * t->batches.shape.rows) /
                              event->tokens_per_second;
    if (t->o.on_event && t->o.on_event(t->o.user, event)) t->stop = true;
}

void kr_trainer_tell(kr_trainer *t, krait_event_kind kind, const char *text) {
    krait_train_event event = {.kind = kind, .text = text};
    send(t, &event);
}

static int log_step(kr_trainer *t, const kr_step_result *r, const krait_train_event *event,
                    krait_error *e) {
    const kr_scalar scalars[] = {{"train/loss", r->loss},
                                 {"train/gradient_norm", r->norm},
                                 {"train/learning_rate", r->rate},
                                 {"train/tokens_per_second", event->tokens_per_second}};
    KR_TRY(kr_run_log_line(&t->log, e,
                           "{\"step\": %lld, \"tokens\": %lld, \"loss\": %.17g, "
                           "\"gradient_norm\": %.17g, \"learning_rate\": %.17g}",
                           (long long)t->step, (long long)t->tokens, r->loss, r->norm, r->rate));
    return kr_event_file_scalars(&t->events, t->step, scalars, 4, e);
}

int kr_trainer_tell_step(kr_trainer *t, const kr_step_result *r, krait_error *e) {
    krait_train_event event = {.kind = r->skipped ? KRAIT_EVENT_SKIPPED : KRAIT_EVENT_STEP,
                               .loss = r->loss,
                               .grad_norm = r->norm,
                               .learning_rate = r->rate,
                               .text = r->skipped ? r->why : NULL};
    send(t, &event);
    if (r->skipped)
        KR_TRY(kr_run_log_line(&t->log, e, "{\"step\": %lld, \"skipped\": \"%s\"}",
                               (long long)t->step, r->why));
    if (t->step % t->recipe.log_every != 0) return 0;
    return log_step(t, r, &event, e);
}

/* ---- held-out data ---- */

typedef struct tally {
    double nll;
    int64_t tokens, bytes;
} tally;

/* One window of every lane. 0: the part is over. */
static int score_window(kr_trainer *t, tally *sum, krait_error *e) {
    kr_scorer *s = &t->scorer;
    kr_batch batch;
    int rc = kr_loader_next(t->held_out, s->ids, s->targets, s->reset, &batch, e);
    if (rc <= 0) return rc;
    for (int64_t b = 0; b < s->lanes; b++) {
        s->seqs[3 * b] = b * t->eval_window;
        s->seqs[3 * b + 1] = t->eval_window;
        s->seqs[3 * b + 2] = b;
    }
    KR_TRY(kr_scorer_run(s, s->lanes * t->eval_window, s->lanes, e));
    const float *nll = kr_scorer_nll(s);
    for (int64_t i = 0; i < s->lanes * t->eval_window; i++) sum->nll += (double)nll[i];
    sum->tokens += batch.tokens;
    sum->bytes += batch.bytes;
    return 1;
}

static int log_evaluation(kr_trainer *t, const krait_train_event *event, krait_error *e) {
    const kr_scalar scalars[] = {{"eval/loss", event->loss},
                                 {"eval/bits_per_byte", event->bits_per_byte}};
    KR_TRY(kr_run_log_line(&t->log, e,
                           "{\"step\": %lld, \"eval_loss\": %.17g, \"eval_bits_per_byte\": %.17g}",
                           (long long)t->step, event->loss, event->bits_per_byte));
    return kr_event_file_scalars(&t->events, t->step, scalars, event->bits_per_byte > 0 ? 2 : 1, e);
}

static int log_task(kr_trainer *t, const krait_train_event *event, krait_error *e) {
    const kr_scalar scalars[] = {{"eval/loss", event->loss},
                                 {"eval/accuracy", event->accuracy},
                                 {"eval/accuracy_whole", event->accuracy_whole}};
    if (isnan(event->accuracy))
        KR_TRY(kr_run_log_line(&t->log, e, "{\"step\": %lld, \"eval_loss\": %.17g}",
                               (long long)t->step, event->loss));
    else
        KR_TRY(kr_run_log_line(&t->log, e,
                               "{\"step\": %lld, \"eval_loss\": %.17g, \"eval_accuracy\": %.17g, "
                               "\"eval_accuracy_whole\": %.17g}",
                               (long long)t->step, event->loss, event->accuracy,
                               event->accuracy_whole));
    return kr_event_file_scalars(&t->events, t->step, scalars, isnan(event->accuracy) ? 1 : 3, e);
}

/* The same examples of the validation part each time. */
static int evaluate_task(kr_trainer *t, krait_error *e) {
    kr_task_result r;
    int64_t n = t->recipe.eval_batches * t->recipe.batch, all = t->task.examples[KR_TASK_VALID];
    double before = kr_trainer_seconds();
    KR_TRY(kr_task_batches_seek(&t->held_examples, 0, e));
    KR_TRY(kr_task_scorer_run(&t->task_scorer, &t->held_examples, all && n > all ? all : n, &r,
                              NULL, NULL, e));
    if (t->started > 0) t->started += kr_trainer_seconds() - before;
    bool numbers = t->task.numbers > 0;
    krait_train_event event = {.kind = KRAIT_EVENT_EVAL,
                               .loss = r.loss,
                               .answers = r.answers,
                               .accuracy = numbers ? NAN : (double)r.correct / (double)r.answers,
                               .accuracy_whole =
                                   numbers ? NAN : (double)r.whole / (double)r.examples};
    send(t, &event);
    return log_task(t, &event, e);
}

int kr_trainer_evaluate(kr_trainer *t, krait_error *e) {
    if (kr_trainer_has_task(t)) return evaluate_task(t, e);
    if (!t->held_out) return 0;
    tally sum = {0};
    double before = kr_trainer_seconds();
    int64_t all = t->recipe.eval_batches * t->recipe.window;
    KR_TRY(kr_loader_rewind(t->held_out, e));
    KR_TRY(kr_lane_states_zero(&t->scorer.states, e));
    kr_scorer_refresh(&t->scorer);
    int rc = 1;
    for (int64_t done = 0; rc == 1 && done < all; done += t->eval_window)
        rc = score_window(t, &sum, e);
    if (rc < 0) return rc;
    krait_train_event event = {.kind = KRAIT_EVENT_EVAL};
    if (!isfinite(sum.nll))
        return kr_fail(e, KRAIT_ERR_NUMERIC,
                       "step %lld: the held-out loss is %s: a lower learning rate may help",
                       (long long)t->step, isnan(sum.nll) ? "not a number" : "infinite");
    if (sum.tokens) event.loss = sum.nll / (double)sum.tokens;
    if (sum.bytes) event.bits_per_byte = sum.nll / (double)sum.bytes / log(2.0);
    if (t->started > 0) t->started += kr_trainer_seconds() - before; /* not counted as training */
    send(t, &event);
    return log_evaluation(t, &event, e);
}

/* ---- samples ---- */

/* Reads n ids on lane 0 and draws what comes next. */
static int32_t read_and_draw(kr_trainer *t, const int32_t *ids, int64_t n, krait_sampler *sampler,
                             krait_error *e) {
    kr_scorer *s = &t->scorer;
    int64_t part = 0;
    for (int64_t at = 0; at < n; at += part) {
        part = n - at < s->tokens ? n - at : s->tokens;
        for (int64_t i = 0; i < part; i++) {
            s->ids[i] = ids[at + i];
            s->targets[i] = -1;
            s->reset[i] = 0;
        }
        memcpy(s->seqs, (const int64_t[]){0, part, 0}, 3 * sizeof(int64_t));
        KR_TRY(kr_scorer_run(s, part, 1, e));
    }
    const float *logits = kr_scorer_logits(s, e);
    if (!logits) return kr_code(e);
    return krait_sampler_draw(sampler, logits + (part - 1) * s->vocabulary, e);
}

/* The ids of the prompt: as many as fit in `room`; returns how many there are. */
static int64_t prompt_ids(const kr_trainer *t, int32_t *ids, int64_t room, krait_error *e) {
    const char *prompt = t->recipe.sample_prompt;
    return krait_tokenizer_encode(krait_model_tokenizer(t->model), prompt, strlen(prompt), ids,
                                  room, e);
}

/* Fills ids with the prompt of n ids and what follows; returns how many there are. */
static int64_t draw_ids(kr_trainer *t, int32_t *ids, int64_t n, krait_sampler *sampler,
                        krait_error *e) {
    int32_t end = krait_tokenizer_end(krait_model_tokenizer(t->model));
    n = prompt_ids(t, ids, n, e);
    if (n < 0) return n;
    if (n == 0) ids[n++] = end < 0 ? 0 : end;
    int64_t fresh = n;
    for (int64_t i = 0; i < t->recipe.sample_tokens; i++) {
        int32_t id = read_and_draw(t, ids + n - fresh, fresh, sampler, e);
        if (id < 0) return id;
        if (id == end) break;
        ids[n++] = id;
        fresh = 1;
    }
    return n;
}

/* text [3n + 1] of n raw bytes. */
static void make_readable(char *text, const char *raw, int64_t n) {
    size_t used = 0;
    for (int64_t i = 0; i < n;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t step =
            utf8proc_iterate((const utf8proc_uint8_t *)raw + i, (utf8proc_ssize_t)(n - i), &point);
        bool good = step > 0 && point != 0;
        memcpy(text + used, good ? raw + i : "\xEF\xBF\xBD", good ? (size_t)step : 3);
        used += good ? step : 3;
        i += good ? step : 1;
    }
}

/* Writes the text of ids as valid UTF-8, with U+FFFD for what is not and for NUL. */
static char *readable(const krait_tokenizer *tokenizer, const int32_t *ids, int64_t n) {
    int64_t size = krait_tokenizer_decode(tokenizer, ids, n, NULL, 0, NULL);
    char *raw = size < 0 ? NULL : kr_calloc((size_t)size + 1, 1);
    char *text = raw ? kr_calloc(3 * (size_t)size + 1, 1) : NULL;
    if (text) {
        krait_tokenizer_decode(tokenizer, ids, n, raw, size, NULL);
        make_readable(text, raw, size);
    }
    kr_free(raw);
    return text;
}

static int tell_sample(kr_trainer *t, const char *text, krait_error *e) {
    json_t *string = json_string(text);
    char *quoted = string ? json_dumps(string, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    int rc = quoted ? 0 : kr_fail_memory(e, "a sample");
    if (quoted) {
        kr_trainer_tell(t, KRAIT_EVENT_SAMPLE, text);
        rc = kr_run_log_line(&t->log, e, "{\"step\": %lld, \"sample\": %s}", (long long)t->step,
                             quoted);
    }
    free(quoted);
    json_decref(string);
    return rc;
}

int kr_trainer_sample(kr_trainer *t, krait_error *e) {
    krait_sampler_options o = KRAIT_SAMPLER_OPTIONS_INIT;
    krait_sampler *sampler;
    o.temperature = t->recipe.sample_temperature;
    o.seed = (uint64_t)(t->recipe.seed + t->step);
    int64_t n = prompt_ids(t, NULL, 0, e);
    if (n < 0) return (int)n;
    KR_TRY(krait_sampler_create(&sampler, t->model->config.vocabulary_used, &o, e));
    int rc = kr_lane_states_zero(&t->scorer.states, e);
    kr_scorer_refresh(&t->scorer);
    int32_t *ids = kr_calloc((size_t)(n + 1 + t->recipe.sample_tokens), sizeof *ids);
    if (rc == 0 && !ids) rc = kr_fail_memory(e, "a sample");
    n = rc == 0 ? draw_ids(t, ids, n, sampler, e) : rc;
    int64_t skip = n > 0 && !*t->recipe.sample_prompt; /* the token that stood in for a prompt */
    char *text = n < 0 ? NULL : readable(krait_model_tokenizer(t->model), ids + skip, n - skip);
    rc = n < 0 ? (int)n : text ? tell_sample(t, text, e) : kr_fail_memory(e, "a sample");
    kr_free(text);
    kr_free(ids);
    krait_sampler_close(&sampler);
    return rc;
}
