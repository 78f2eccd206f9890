/* evaluate.c - krait_eval: the loss of a language model on documents of any length. */
#include <string.h>

#include "base/err.h"
#include "base/options.h"
#include "data/text/text_docs.h"
#include "train/eval_lanes.h"
#include "train/trainer.h"

/* Documents from files. A huge one comes in parts, so while it does the stream belongs to its lane.
 */
typedef struct reader {
    kr_docs *docs;
    const krait_eval_options *o;
    kr_eval_lane *owner;
    bool begun;   /* the document that is being read has had its first token */
    int64_t left; /* tokens that are still to be predicted */
    bool over;
} reader;

/* Cuts the document where max_tokens is reached, so that the first ones of the data are counted,
 * however many documents run together. */
static void cut(reader *r, kr_doc *doc) {
    if (doc->first) r->begun = false;
    int64_t predicted = doc->count - (doc->count > 0 && !r->begun);
    r->begun = r->begun || doc->count > 0;
    if (predicted >= r->left) {
        doc->count -= predicted - r->left;
        doc->last = r->over = true;
        predicted = r->left;
    }
    r->left -= predicted;
}

static int tell_progress(const reader *r, krait_error *e) {
    int64_t done, all;
    if (!r->o->on_progress) return 0;
    kr_docs_progress(r->docs, &done, &all);
    if (r->o->on_progress(r->o->user, done, all < 0 ? 0 : all) == 0) return 0;
    return kr_fail(e, KRAIT_ERR_CANCELLED, "stopped");
}

static int feed_document(void *user, kr_eval_lane *lane, krait_error *e) {
    reader *r = user;
    kr_doc doc;
    if (r->over || (r->owner && r->owner != lane) || (lane->busy && r->owner != lane)) return 0;
    int rc = kr_docs_next(r->docs, &doc, e);
    r->over = rc == 0;
    if (rc <= 0) return rc;
    KR_TRY(tell_progress(r, e));
    cut(r, &doc);
    if (doc.first) kr_eval_lane_begin(lane, doc.index, 0);
    r->owner = doc.last ? NULL : lane;
    KR_TRY(kr_eval_lane_add(lane, doc.ids, doc.count, doc.last, e));
    return 1;
}

static int evaluate_text(const krait_model *model, const krait_eval_options *o,
                         krait_eval_result *result, krait_error *e) {
    kr_docs_options d = {.paths = o->data,
                         .n_paths = o->n_data,
                         .ids = o->data_is_ids,
                         .tokenizer = model->tokenizer,
                         .vocabulary = model->config.vocabulary};
    reader r = {.o = o, .left = o->max_tokens ? o->max_tokens : INT64_MAX};
    kr_eval_run run = {.model = model, .o = o, .result = result, .feed = feed_document, .user = &r};
    if (!model->tokenizer && !o->data_is_ids)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "the model has no tokenizer: give token ids");
    KR_TRY(kr_docs_open(&r.docs, &d, e));
    int rc = kr_eval_lanes_run(&run, e);
    kr_docs_close(&r.docs);
    if (rc < 0 || result->tokens) return rc;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: no document has a second token to predict",
                   o->data[0]);
}

int krait_eval(const krait_model *model, const krait_eval_options *options,
               krait_eval_result *result, krait_error *e) {
    krait_eval_options o = KRAIT_EVAL_OPTIONS_INIT;
    double began = kr_trainer_seconds();
    KR_TRY(kr_options_read(&o, sizeof o, options, "krait_eval_options", e));
    if (!model || !result || o.context < 0 || o.max_tokens < 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "evaluation needs a model and a result");
    bool text = !o.task || strcmp(o.task, "lambada") == 0;
    if (text && o.n_data < 1)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "evaluation needs data, or a task");
    if (text && (o.n_sets || o.examples || o.on_answer))
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "sets, examples and on_answer are for sequence tasks: give one");
    memset(result, 0, sizeof *result);
    int rc;
    if (!o.task)
        rc = evaluate_text(model, &o, result, e);
    else if (strcmp(o.task, "lambada") == 0)
        rc = kr_eval_lambada(model, &o, result, e);
    else
        rc = kr_eval_sequence_task(model, &o, result, e);
    result->seconds = kr_trainer_seconds() - began;
    return rc;
}
