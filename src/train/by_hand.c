/* by_hand.c - training one step at a time: the caller owns the loop, the data and the schedule; the
 * graph, the gradients and AdamW are those of krait_train.
 *
 *   loss = mean over all predicted tokens of -log p(next token), each document from a zero state */
#include <inttypes.h>
#include <krait/train.h>
#include <math.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/options.h"
#include "models/lm.h"
#include "models/model.h"
#include "train/nan_report.h"
#include "train/optimiser.h"

struct krait_trainer {
    krait_trainer_options o;
    kr_recipe recipe; /* the optimiser's numbers */
    krait_model *model;
    kr_lm lm;
    kr_optimiser optimiser;
    int32_t *ids, *targets; /* [tokens] */
    float *seed;            /* [tokens] */
    int64_t (*seqs)[3];     /* [documents] */
    int64_t rows, n_seqs, predicted;
};

/* ---- models ---------------------------------------------------------------------------------- */

int krait_recipe_model(krait_model **out, const char *recipe, const char *const *sets,
                       int64_t n_sets, krait_error *e) {
    kr_recipe r;
    kr_config c;
    kr_weights w = {0};
    krait_tokenizer *t = NULL;
    if (!out) return kr_fail_null(e, "krait_recipe_model");
    *out = NULL;
    kr_recipe_default(&r);
    if (recipe) KR_TRY(kr_recipe_read(&r, recipe, e));
    for (int64_t i = 0; i < n_sets; i++) KR_TRY(kr_recipe_set(&r, sets[i], e));
    KR_TRY(kr_recipe_finish(&r, e));
    if (*r.task)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "recipe: a model made by hand reads text: leave out task (%s), or train by "
                       "krait_train",
                       r.task);
    KR_TRY(krait_tokenizer_open(&t, r.tokenizer, e));
    int rc = kr_recipe_config(&r, krait_tokenizer_vocabulary(t), krait_tokenizer_end(t), &c, e);
    if (rc == 0) rc = kr_lm_init_weights(&c, (uint64_t)r.seed, &w, e);
    if (rc == 0) rc = kr_model_from_weights(out, &c, &w, t, e);
    if (rc == 0) return 0;
    kr_weights_free(&w);
    krait_tokenizer_close(&t);
    return rc;
}

/* ---- making and closing ---------------------------------------------------------------------- */

static int check_options(const krait_trainer_options *o, krait_error *e) {
    if (o->tokens < 2 || o->documents < 1 || o->tokens > INT32_MAX)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "trainer: room for %" PRId64 " tokens of %" PRId64 " documents", o->tokens,
                       o->documents);
    if (o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1 && o->eps > 0 &&
        o->weight_decay >= 0 && o->clip >= 0)
        return 0;
    return kr_fail(
        e, KRAIT_ERR_ARGUMENT,
        "trainer: betas must be in [0, 1), eps above 0, weight_decay and clip not below");
}

static int build(krait_trainer *t, const krait_model *model, krait_error *e) {
    kr_lm_options o = {.graph = {.training = true, .threads = t->o.threads},
                       .tokens = t->o.tokens,
                       .sequences = t->o.documents,
                       .loss = true,
                       .no_logits = true};
    kr_weights w = {0};
    KR_TRY(kr_device_open(t->o.device, &o.graph.level, e));
    bool gpu = o.graph.level == KR_LEVEL_CUDA;
    if (t->o.half && !gpu)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "trainer: activations in bf16 need a GPU");
    o.graph.half = t->o.half;
    o.graph.recompute = gpu; /* what is cheap to compute again there is never kept */
    int rc = kr_weights_copy_f32(&w, &model->weights, e);
    if (rc == 0) rc = kr_model_from_weights(&t->model, &model->config, &w, NULL, e);
    if (rc < 0) {
        kr_weights_free(&w);
        return rc;
    }
    KR_TRY(kr_lm_build(&t->lm, &t->model->config, &o, e));
    KR_TRY(kr_lm_bind_weights(&t->lm, &t->model->weights, e));
    KR_TRY(kr_graph_plan(t->lm.g, e));
    KR_TRY(kr_graph_allocate(t->lm.g, e));
    int threads = t->o.threads > 0 ? t->o.threads : kr_device_threads();
    return kr_optimiser_create(&t->optimiser, t->lm.g, &t->model->weights, threads, e);
}

static int allocate(krait_trainer *t, krait_error *e) {
    size_t n = (size_t)t->o.tokens;
    t->ids = kr_calloc(n, sizeof *t->ids);
    t->targets = kr_calloc(n, sizeof *t->targets);
    t->seed = kr_calloc(n, sizeof *t->seed);
    t->seqs = kr_calloc((size_t)t->o.documents, sizeof *t->seqs);
    return t->ids && t->targets && t->seed && t->seqs ? 0 : kr_fail_memory(e, "a trainer");
}

int krait_trainer_create(krait_trainer **out, const krait_model *model,
                         const krait_trainer_options *options, krait_error *e) {
    krait_trainer_options o = KRAIT_TRAINER_OPTIONS_INIT;
    if (out) *out = NULL;
    if (!out || !model) return kr_fail_null(e, "krait_trainer_create");
    KR_TRY(kr_options_read(&o, sizeof o, options, "krait_trainer_options", e));
    KR_TRY(check_options(&o, e));
    krait_trainer *t = kr_calloc(1, sizeof *t);
    if (!t) return kr_fail_memory(e, "a trainer");
    t->o = o;
    kr_recipe_default(&t->recipe);
    t->recipe.beta1 = o.beta1;
    t->recipe.beta2 = o.beta2;
    t->recipe.eps = o.eps;
    t->recipe.weight_decay = o.weight_decay;
    int rc = build(t, model, e);
    if (rc == 0) rc = allocate(t, e);
    if (rc < 0)
        krait_trainer_close(&t);
    else
        *out = t;
    return rc;
}

void krait_trainer_close(krait_trainer **trainer) {
    krait_trainer *t = trainer ? *trainer : NULL;
    if (!t) return;
    kr_optimiser_free(&t->optimiser);
    if (t->lm.g) kr_lm_free(&t->lm);
    krait_model_close(&t->model);
    kr_free(t->ids);
    kr_free(t->targets);
    kr_free(t->seed);
    kr_free(t->seqs);
    kr_free(t);
    *trainer = NULL;
}

const krait_model *krait_trainer_model(const krait_trainer *t) {
    return kr_optimiser_fetch_weights(&t->optimiser, &t->model->weights, NULL) < 0 ? NULL
                                                                                   : t->model;
}

/* ---- one step -------------------------------------------------------------------------------- */

static int check_documents(const krait_trainer *t, const int32_t *const *ids, const int64_t *counts,
                           int64_t n, krait_error *e) {
    int64_t total = 0, vocabulary = t->model->config.vocabulary;
    if (n < 1 || n > t->o.documents)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "%" PRId64 " documents; the trainer was made for 1 to %" PRId64, n,
                       t->o.documents);
    for (int64_t i = 0; i < n; i++) {
        if (counts[i] < 2)
            return kr_fail(e, KRAIT_ERR_ARGUMENT,
                           "document %" PRId64 " has %" PRId64 " tokens; 2 or more are needed", i,
                           counts[i]);
        if (counts[i] > t->o.tokens - total)
            return kr_fail(e, KRAIT_ERR_ARGUMENT, "the trainer was made for %" PRId64 " tokens",
                           t->o.tokens);
        total += counts[i];
        for (int64_t k = 0; k < counts[i]; k++)
            if (ids[i][k] < 0 || ids[i][k] >= vocabulary)
                return kr_fail(e, KRAIT_ERR_ARGUMENT,
                               "document %" PRId64 ": token id %" PRId32
                               "; the model's go from 0 to %" PRId64,
                               i, ids[i][k], vocabulary - 1);
    }
    return 0;
}

/* Lays the documents side by side; each row's target is the next row, except at the ends. */
static void fill(krait_trainer *t, const int32_t *const *ids, const int64_t *counts, int64_t n) {
    t->rows = 0;
    t->n_seqs = n;
    for (int64_t i = 0; i < n; i++) {
        int64_t first = t->rows;
        for (int64_t k = 0; k < counts[i]; k++, t->rows++) {
            t->ids[t->rows] = ids[i][k];
            t->targets[t->rows] = k + 1 < counts[i] ? ids[i][k + 1] : -1;
        }
        t->seqs[i][0] = first;
        t->seqs[i][1] = counts[i];
        t->seqs[i][2] = i;
    }
    t->predicted = t->rows - n;
    for (int64_t i = 0; i < t->rows; i++) t->seed[i] = 1.0f / (float)t->predicted;
}

static int bind(kr_graph *g, kr_value *v, void *data, int64_t rows, krait_error *e) {
    kr_tensor like = *kr_value_tensor(v);
    int64_t shape[2] = {rows, like.shape[1]};
    kr_tensor t = kr_tensor_make(data, like.dtype, like.rank, shape);
    return kr_graph_bind(g, v, &t, e);
}

int krait_trainer_backward(krait_trainer *t, const int32_t *const *ids, const int64_t *counts,
                           int64_t n, double *loss, krait_error *e) {
    if (!t || !ids || !counts) return kr_fail_null(e, "krait_trainer_backward");
    KR_TRY(check_documents(t, ids, counts, n, e));
    fill(t, ids, counts, n);
    KR_TRY(bind(t->lm.g, t->lm.ids, t->ids, t->rows, e));
    KR_TRY(bind(t->lm.g, t->lm.targets, t->targets, t->rows, e));
    KR_TRY(bind(t->lm.g, t->lm.seed, t->seed, t->rows, e));
    KR_TRY(bind(t->lm.g, t->lm.seqs, t->seqs, t->n_seqs, e));
    KR_TRY(kr_graph_run(t->lm.g, t->rows, 0, e));
    const float *nll = kr_graph_fetch(t->lm.g, t->lm.nll, e);
    double sum = 0;
    if (!nll) return kr_code(e);
    for (int64_t i = 0; i < t->rows; i++) sum += (double)nll[i];
    if (loss) *loss = sum / (double)t->predicted;
    if (isfinite(sum)) return 0;
    return kr_nan_report(&t->optimiser, t->rows, 0,
                         isnan(sum) ? "the loss is not a number: a lower learning rate may help"
                                    : "the loss is infinite: a lower learning rate may help",
                         e);
}

int krait_trainer_update(krait_trainer *t, double rate, double *grad_norm, krait_error *e) {
    if (!t) return kr_fail_null(e, "krait_trainer_update");
    double norm = 0, clip = t->o.clip;
    KR_TRY(kr_optimiser_norm(&t->optimiser, &norm, e));
    if (grad_norm) *grad_norm = norm;
    if (isfinite(norm))
        KR_TRY(kr_optimiser_step(&t->optimiser, &t->recipe, rate,
                                 clip > 0 && norm > clip ? clip / norm : 1, e));
    kr_graph_zero_gradients(t->lm.g);
    if (isfinite(norm)) return 0;
    return kr_fail(e, KRAIT_ERR_NUMERIC, "the gradient's norm is %g: nothing was updated", norm);
}
