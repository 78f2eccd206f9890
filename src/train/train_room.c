/* train_room.c - what a planned run takes where its steps are computed, whether that fits, and
 * which settings would make it fit: they are planned too, evaluation included, not estimated. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "train/trainer.h"

/* Not in the plan: what the driver takes once kernels are loaded and steps recorded, and what
 * rounding up each allocation takes. */
enum { SLACK = 64 << 20, MOST_ACCUMULATE = 1 << 16 };

size_t kr_trainer_weight_bytes(const kr_trainer *t) {
    return (size_t)t->model->parameters * sizeof(float);
}

size_t kr_trainer_evaluation_bytes(const kr_trainer *t) {
    if (kr_trainer_has_task(t)) return kr_task_scorer_bytes(&t->task_scorer, kr_trainer_under(t));
    return t->scorer.lm.g ? kr_scorer_bytes(&t->scorer, kr_trainer_under(t)) : 0;
}

size_t kr_trainer_bytes(const kr_trainer *t) {
    kr_plan_sizes p;
    kr_graph_sizes(t->lm.g, &p);
    return kr_trainer_weight_bytes(t) + SLACK + kr_trainer_evaluation_bytes(t) + p.gradients +
           p.activations + p.scratch + p.inputs + kr_optimiser_bytes(t->lm.g) +
           kr_lane_states_bytes(&t->lm, true);
}

/* Would the run fit with the recipe r? */
static bool would_fit(const kr_trainer *t, const kr_recipe *r, size_t left) {
    kr_trainer other = *t; /* all but its graphs stays t's */
    other.recipe = *r;
    memset(&other.lm, 0, sizeof other.lm);
    memset(&other.scorer, 0, sizeof other.scorer);
    memset(&other.task_scorer, 0, sizeof other.task_scorer);
    if (t->held_out) other.eval_window = kr_trainer_eval_window(r);
    bool fits = kr_trainer_plan_graphs(&other, NULL) == 0 && kr_trainer_bytes(&other) <= left;
    kr_task_scorer_free(&other.task_scorer);
    kr_scorer_free(&other.scorer);
    if (other.lm.g) kr_lm_free(&other.lm);
    return fits;
}

/* Makes r the nearest recipe that fits: of the same steps in as few parts as possible, recomputing
 * only where it is needed; and where one sequence is still too much, of a shorter window. */
static bool find_recipe(const kr_trainer *t, kr_recipe *r, size_t left) {
    const kr_recipe *given = &t->recipe;
    for (int64_t parts = 1; parts <= given->batch; parts++)
        for (int recompute = given->recompute; recompute < 2; recompute++) {
            if (given->batch % parts || (parts == 1 && recompute == given->recompute)) continue;
            if (parts > 1 && (t->resume_from || given->accumulate * parts > MOST_ACCUMULATE))
                continue; /* what a run that goes on may not change, or nobody may ask for */
            r->batch = given->batch / parts;
            r->accumulate = given->accumulate * parts;
            r->recompute = recompute;
            if (would_fit(t, r, left)) return true;
        }
    if (kr_trainer_has_task(t) || t->resume_from) return false;
    while ((r->window /= 2) > 0)
        if (would_fit(t, r, left)) return true;
    return false;
}

static void advise(const kr_trainer *t, size_t left, char *advice, size_t size) {
    const kr_recipe *given = &t->recipe;
    kr_recipe r = *given;
    if (!find_recipe(t, &r, left)) {
        if (t->resume_from) {
            snprintf(advice, size,
                     "; a run that goes on can change only recompute here, and "
                     "that is not enough");
            return;
        }
        snprintf(advice, size, "; not even one %s fits: a smaller model %sis needed",
                 kr_trainer_has_task(t) ? "example at a time" : "token",
                 kr_trainer_has_task(t) ? "or a task of shorter examples " : "");
        return;
    }
    int n = snprintf(advice, size, "; it fits with%s",
                     r.recompute && !given->recompute ? " --set recompute=true" : "");
    if (r.batch != given->batch)
        n += snprintf(advice + n, size - (size_t)n, " --set batch=%lld --set accumulate=%lld",
                      (long long)r.batch, (long long)r.accumulate);
    if (r.window != given->window)
        snprintf(advice + n, size - (size_t)n, " --set window=%lld", (long long)r.window);
}

int kr_trainer_fits(const kr_trainer *t, size_t left, krait_error *e) {
    char advice[160];
    size_t need = kr_trainer_bytes(t);
    if (need <= left) return 0;
    advise(t, left, advice, sizeof advice);
    return kr_fail(e, KRAIT_ERR_MEMORY, "the plan takes %.2f GiB, %s has %.2f GiB free%s",
                   (double)need / 1073741824, kr_device_name(t->level), (double)left / 1073741824,
                   advice);
}
