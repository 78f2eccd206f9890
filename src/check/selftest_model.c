/* selftest_model.c - krait_selftest_model: one model computed in three ways, and the gradient of
 * its loss tensor by tensor.
 *
 * The whole form is one pass of a graph without states over a document; the step form feeds a
 * session one token at a time, the chunked form pieces of 1, 2, 3, ... tokens. All three are the
 * same function. */
#include <krait/train.h>

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "models/lm.h"
#include "models/model.h"

enum { CHUNKS_UP_TO = 40 };

typedef struct documents {
    const krait_model *model;
    const int32_t *const *ids;
    const int64_t *counts;
    int64_t n, longest, predicted;
} documents;

static int check_documents(documents *d, krait_error *e) {
    for (int64_t i = 0; i < d->n; i++) {
        for (int64_t k = 0; k < d->counts[i]; k++)
            if (d->ids[i][k] < 0 || d->ids[i][k] >= d->model->config.vocabulary)
                return kr_fail(e, KRAIT_ERR_ARGUMENT,
                               "document %" PRId64 ": id %d is outside the vocabulary of %" PRId64,
                               i, d->ids[i][k], d->model->config.vocabulary);
        if (d->counts[i] > d->longest) d->longest = d->counts[i];
        if (d->counts[i] > 1) d->predicted += d->counts[i] - 1;
    }
    if (d->predicted > 0) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "selftest: no document has two tokens");
}

/* ---- a graph over one document, without states ---- */

typedef struct whole {
    kr_lm lm;
    kr_weights weights;
    int32_t *targets;
    float *seed;
} whole;

static int view_weights(kr_weights *w, const kr_weights *of, krait_error *e) {
    for (int64_t i = 0; i < of->count; i++)
        KR_TRY(kr_weights_add(w, of->items[i].name, &of->items[i].tensor, e));
    kr_weights_sort(w);
    return 0;
}

/* `training`: in f32, with the loss and its gradients. */
static int whole_open(whole *w, const documents *d, bool training, krait_error *e) {
    kr_lm_options o = {.graph.training = training,
                       .tokens = d->longest,
                       .sequences = 1,
                       .loss = training};
    *w = (whole){0};
    KR_TRY(kr_device_level(&o.graph.level, e));
    if (training)
        KR_TRY(kr_weights_copy_f32(&w->weights, &d->model->weights, e));
    else
        KR_TRY(view_weights(&w->weights, &d->model->weights, e));
    KR_TRY(kr_lm_build(&w->lm, &d->model->config, &o, e));
    KR_TRY(kr_lm_bind_weights(&w->lm, &w->weights, e));
    KR_TRY(kr_graph_plan(w->lm.g, e));
    KR_TRY(kr_graph_allocate(w->lm.g, e));
    w->targets = kr_calloc((size_t)d->longest, sizeof *w->targets);
    w->seed = kr_calloc((size_t)d->longest, sizeof *w->seed);
    return w->targets && w->seed ? 0 : kr_fail_memory(e, "the model's selftest");
}

static void whole_close(whole *w) {
    if (w->lm.g) kr_lm_free(&w->lm);
    kr_weights_free(&w->weights);
    kr_free(w->targets);
    kr_free(w->seed);
}

static int bind(whole *w, kr_value *v, const void *data, kr_dtype type, int64_t rows,
                krait_error *e) {
    if (!v) return 0;
    int64_t shape[2] = {rows, 3};
    kr_tensor t = kr_tensor_make((void *)(uintptr_t)data, type, type == KR_I64 ? 2 : 1, shape);
    return kr_graph_bind(w->lm.g, v, &t, e);
}

static int whole_run(whole *w, const documents *d, int64_t doc, krait_error *e) {
    int64_t n = d->counts[doc], seqs[3] = {0, n, 0};
    for (int64_t k = 0; k < n; k++) {
        w->targets[k] = k + 1 < n ? d->ids[doc][k + 1] : -1;
        w->seed[k] = 1.0F / (float)d->predicted;
    }
    KR_TRY(bind(w, w->lm.ids, d->ids[doc], KR_I32, n, e));
    KR_TRY(bind(w, w->lm.targets, w->targets, KR_I32, n, e));
    KR_TRY(bind(w, w->lm.seed, w->seed, KR_F32, n, e));
    KR_TRY(bind(w, w->lm.seqs, seqs, KR_I64, 1, e));
    return kr_graph_run(w->lm.g, n, 0, e);
}

/* ---- forms ---- */

typedef struct forms {
    documents d;
    whole whole;
    krait_session *step, *chunk;
    float *logits; /* [CHUNKS_UP_TO, V] */
    double largest, step_difference, chunk_difference;
} forms;

static int open_session(krait_session **s, const documents *d, int64_t tokens, krait_error *e) {
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    o.max_tokens = tokens;
    return krait_session_create(s, d->model, &o, e);
}

static int forms_open(forms *f, krait_error *e) {
    KR_TRY(whole_open(&f->whole, &f->d, false, e));
    KR_TRY(open_session(&f->step, &f->d, 1, e));
    KR_TRY(open_session(&f->chunk, &f->d, CHUNKS_UP_TO, e));
    f->logits = kr_calloc(CHUNKS_UP_TO * (size_t)f->d.model->config.vocabulary, sizeof(float));
    return f->logits ? 0 : kr_fail_memory(e, "the model's selftest");
}

static void forms_close(forms *f) {
    whole_close(&f->whole);
    krait_session_close(&f->step);
    krait_session_close(&f->chunk);
    kr_free(f->logits);
}

static double difference(const float *a, const float *b, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

/* Feeds document `doc` in pieces of first, first + grow, ... tokens and compares with the whole
 * form. */
static int feed(forms *f, krait_session *s, int64_t doc, int64_t grow, double *worst,
                krait_error *e) {
    const float *want = kr_value_tensor(f->whole.lm.logits)->data;
    int64_t V = f->d.model->config.vocabulary, n = f->d.counts[doc], piece = 1;
    KR_TRY(krait_session_reset(s, 0, e));
    for (int64_t at = 0; at < n; at += piece, piece += piece < CHUNKS_UP_TO ? grow : 0) {
        if (piece > n - at) piece = n - at;
        krait_span span = {0, f->d.ids[doc] + at, piece, KRAIT_WANT_ALL};
        KR_TRY(krait_session_forward(s, &span, 1, f->logits, e));
        *worst = fmax(*worst, difference(f->logits, want + at * V, piece * V));
    }
    return 0;
}

static int compare_forms(forms *f, krait_error *e) {
    KR_TRY(forms_open(f, e));
    for (int64_t doc = 0; doc < f->d.n; doc++) {
        if (f->d.counts[doc] == 0) continue;
        KR_TRY(whole_run(&f->whole, &f->d, doc, e));
        const float *logits = kr_value_tensor(f->whole.lm.logits)->data;
        for (int64_t i = 0; i < f->d.counts[doc] * f->d.model->config.vocabulary; i++) {
            if (!isfinite(logits[i]))
                return kr_fail(e, KRAIT_ERR_NUMERIC,
                               "selftest: a logit of document %" PRId64 " is %g", doc,
                               (double)logits[i]);
            f->largest = fmax(f->largest, fabs((double)logits[i]));
        }
        KR_TRY(feed(f, f->step, doc, 0, &f->step_difference, e));
        KR_TRY(feed(f, f->chunk, doc, 1, &f->chunk_difference, e));
    }
    return 0;
}

/* ---- gradients ---- */

static void report_gradients(whole *w, const krait_model *model, krait_model_check *check) {
    check->tensors = kr_graph_param_count(w->lm.g);
    for (int i = 0; i < check->tensors; i++) {
        const kr_param_decl *decl;
        kr_value *gradient = kr_graph_gradient(w->lm.g, kr_graph_param_at(w->lm.g, i, &decl));
        const kr_tensor *t = gradient ? kr_value_tensor(gradient) : NULL;
        double square = 0;
        for (int64_t k = 0; t && k < kr_tensor_count(t); k++) {
            double g = (double)((const float *)t->data)[k];
            square += g * g;
        }
        if (check->on_tensor)
            check->on_tensor(check->user, kr_model_file_name(model, decl->name), sqrt(square));
    }
}

static int measure_gradients(whole *w, const documents *d, krait_model_check *check,
                             krait_error *e) {
    double sum = 0;
    KR_TRY(whole_open(w, d, true, e));
    kr_graph_zero_gradients(w->lm.g);
    for (int64_t doc = 0; doc < d->n; doc++) {
        if (d->counts[doc] < 2) continue;
        KR_TRY(whole_run(w, d, doc, e));
        const float *nll = kr_value_tensor(w->lm.nll)->data;
        for (int64_t k = 0; k < d->counts[doc]; k++) sum += (double)nll[k];
    }
    check->loss = sum / (double)d->predicted;
    report_gradients(w, d->model, check);
    return 0;
}

int krait_selftest_model(const krait_model *model, const int32_t *const *ids, const int64_t *counts,
                         int64_t n, krait_model_check *check, krait_error *e) {
    forms f = {.d = {.model = model, .ids = ids, .counts = counts, .n = n}};
    whole gradients = {0};
    KR_TRY(check_documents(&f.d, e));
    int rc = compare_forms(&f, e);
    if (rc == 0) rc = measure_gradients(&gradients, &f.d, check, e);
    double largest = f.largest > 0 ? f.largest : 1;
    check->step_error = f.step_difference / largest;
    check->chunk_error = f.chunk_difference / largest;
    forms_close(&f);
    whole_close(&gradients);
    return rc;
}
