/* train_step.c - one optimiser step: forward and backward over the micro-batches, clipping,
 * outliers, update. */
#include <math.h>
#include <stdio.h>

#include "base/err.h"
#include "train/nan_report.h"
#include "train/schedule.h"
#include "train/trainer.h"

static double sum_of(const float *nll, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)nll[i];
    return sum;
}

static int run(kr_trainer *t, int64_t i, krait_error *e) {
    KR_TRY(kr_micro_batches_bind(&t->batches, i, &t->lm, e));
    return kr_graph_run(t->lm.g, t->batches.m[i], kr_micro_batches_picks(&t->batches, i), e);
}

/* `value`, of micro-batch i, which is the one that ran last. */
static int not_a_number(kr_trainer *t, int64_t i, const char *what, double value, krait_error *e) {
    char text[120];
    snprintf(text, sizeof text, "step %lld: the %s is %s", (long long)t->step + 1, what,
             isnan(value) ? "not a number" : "infinite");
    return kr_nan_report(&t->optimiser, t->batches.m[i], kr_micro_batches_picks(&t->batches, i),
                         text, e);
}

/* Runs the micro-batches again, the last one first, until one's own gradients are not finite:
 * sets *i. With carried states only the last one's are still there. */
static int find_bad_gradients(kr_trainer *t, int64_t *i, krait_error *e) {
    for (*i = t->batches.shape.count - 1; *i > 0 && !t->recipe.carry_state; --*i) {
        double norm;
        kr_graph_zero_gradients(t->lm.g);
        KR_TRY(run(t, *i, e));
        KR_TRY(kr_optimiser_norm(&t->optimiser, &norm, e));
        if (!isfinite(norm)) return 0;
    }
    return kr_micro_batches_bind(&t->batches, *i, &t->lm, e);
}

/* Forward and backward over micro-batch i; adds its loss. */
static int run_micro_batch(kr_trainer *t, int64_t i, double *sum, krait_error *e) {
    if (i > 0 && t->recipe.carry_state) KR_TRY(kr_lane_states_swap(&t->states, e));
    KR_TRY(run(t, i, e));
    if (i + 1 == t->batches.shape.count && kr_trainer_has_task(t) && t->step + 1 < t->recipe.steps)
        kr_task_batches_ahead(&t->examples);
    const float *nll = kr_graph_fetch(t->lm.g, t->lm.nll, e);
    if (!nll) return kr_code(e);
    double loss = sum_of(nll, kr_micro_batches_losses(&t->batches, i));
    if (!isfinite(loss)) return not_a_number(t, i, "loss", loss, e);
    *sum += loss;
    return 0;
}

static int bad_norm(kr_trainer *t, double norm, krait_error *e) {
    int64_t i;
    KR_TRY(find_bad_gradients(t, &i, e));
    return not_a_number(t, i, "gradient norm", norm, e);
}

static void decide(kr_trainer *t, kr_step_result *r) {
    double z = 0;
    int which = 0;
    r->skipped = kr_outlier_step(&t->outlier, r->loss, r->norm, t->recipe.outlier, &z, &which);
    if (r->skipped)
        snprintf(r->why, sizeof r->why, "%s %.4g is %.1f deviations above the last %d steps",
                 which ? "gradient norm" : "loss", which ? r->norm : r->loss, z, KR_OUTLIER_WINDOW);
}

/* Of a task all rows count as read, though few have targets. */
static int64_t rows_of(const kr_micro_batches *b) {
    int64_t rows = 0;
    for (int64_t i = 0; i < b->shape.count; i++) rows += b->m[i];
    return rows;
}

int kr_trainer_step(kr_trainer *t, kr_step_result *r, krait_error *e) {
    double sum = 0;
    *r = (kr_step_result){.rate = kr_learning_rate(&t->recipe, t->step + 1)};
    if (kr_trainer_has_task(t))
        KR_TRY(kr_task_batches_fill(&t->examples, &t->batches, e));
    else
        KR_TRY(kr_micro_batches_fetch(&t->batches, t->data, e));
    kr_micro_batches_draw(&t->batches, t->recipe.seed, t->step);
    kr_graph_zero_gradients(t->lm.g);
    for (int64_t i = 0; i < t->batches.shape.count; i++) KR_TRY(run_micro_batch(t, i, &sum, e));
    r->loss = t->batches.valid ? sum / (double)t->batches.valid : 0;
    KR_TRY(kr_optimiser_norm(&t->optimiser, &r->norm, e));
    if (!isfinite(r->norm)) return bad_norm(t, r->norm, e);
    decide(t, r);
    double clip = t->recipe.clip, scale = clip > 0 && r->norm > clip ? clip / r->norm : 1;
    if (!r->skipped) KR_TRY(kr_optimiser_step(&t->optimiser, &t->recipe, r->rate, scale, e));
    if (t->recipe.carry_state) KR_TRY(kr_lane_states_swap(&t->states, e));
    t->step++;
    t->tokens += kr_trainer_has_task(t) ? rows_of(&t->batches) : t->batches.valid;
    return 0;
}
