/* lambada.c - the last word of a passage, given the rest of it.
 *
 * A question is a JSON line {"text"}. Its last word, with the blank before it, is to be predicted:
 * right when every token of it is likelier than any other. accuracy = share of right ones;
 * perplexity = exp(-mean over questions of log p(last word)). Source: Paperno et al. 2016; the
 * tokens of the word are those that the whole text has after the tokens of the rest. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/text/text_source.h"
#include "train/eval_lanes.h"

typedef struct questions {
    kr_source *source;
    const krait_tokenizer *tokenizer;
    const krait_eval_options *o;
    int32_t *ids;
    size_t capacity;
    int64_t count;     /* questions so far */
    int64_t predicted; /* tokens of their last words */
    bool over;
} questions;

static bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

/* Normalising can make a text longer: the ids may be more than its bytes. */
static int64_t encode(questions *q, const char *text, size_t size, krait_error *e) {
    for (size_t room = size + 1;;) {
        if (kr_grow((void **)&q->ids, &q->capacity, room, sizeof *q->ids))
            return kr_fail_memory(e, "a question");
        int64_t n =
            krait_tokenizer_encode(q->tokenizer, text, size, q->ids, (int64_t)q->capacity, e);
        if (n <= (int64_t)q->capacity) return n;
        room = (size_t)n;
    }
}

/* How many tokens stand before the last word, and how many there are in all. */
static int split(questions *q, const kr_piece *p, int64_t *rest, int64_t *all, krait_error *e) {
    if (p->line == 0)
        return kr_fail(
            e, KRAIT_ERR_FORMAT,
            "%s: a task's questions are JSON lines {\"text\": ...}, in a file whose name "
            "ends in .jsonl",
            p->path);
    size_t size = p->size;
    while (size && is_blank(p->bytes[size - 1])) size--;
    size_t word = size;
    while (word && !is_blank(p->bytes[word - 1])) word--;
    while (word && is_blank(p->bytes[word - 1])) word--;
    if (word == 0 || !p->first || !p->last)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: line %lld: a question is a text of several words",
                       p->path, (long long)p->line);
    *rest = encode(q, p->bytes, word, e);
    if (*rest < 0) return (int)*rest;
    *all = encode(q, p->bytes, size, e);
    if (*all < 0) return (int)*all;
    if (*rest >= 1 && *rest < *all) return 0;
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: line %lld: its last word has no tokens of its own",
                   p->path, (long long)p->line);
}

static int feed_question(void *user, kr_eval_lane *lane, krait_error *e) {
    questions *q = user;
    kr_piece p;
    int64_t rest = 0, all = 0, done, bytes;
    if (q->o->max_tokens && q->predicted >= q->o->max_tokens) q->over = true;
    if (q->over || lane->busy) return 0;
    int rc = kr_source_next(q->source, &p, e);
    q->over = rc == 0;
    if (rc <= 0) return rc;
    KR_TRY(split(q, &p, &rest, &all, e));
    kr_source_progress(q->source, &done, &bytes);
    if (q->o->on_progress && q->o->on_progress(q->o->user, done, bytes < 0 ? 0 : bytes))
        return kr_fail(e, KRAIT_ERR_CANCELLED, "stopped");
    q->predicted += all - rest;
    kr_eval_lane_begin(lane, q->count++, rest);
    KR_TRY(kr_eval_lane_add(lane, q->ids, all, true, e));
    return 1;
}

int kr_eval_lambada(const krait_model *model, const krait_eval_options *o,
                    krait_eval_result *result, krait_error *e) {
    kr_source_options s = {.paths = o->data, .n_paths = o->n_data};
    questions q = {.tokenizer = model->tokenizer, .o = o};
    kr_eval_run run = {
        .model = model, .o = o, .result = result, .feed = feed_question, .user = &q, .task = true};
    if (!model->tokenizer || o->data_is_ids)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "lambada needs a model's tokenizer and texts");
    KR_TRY(kr_source_open(&q.source, &s, e));
    int rc = kr_eval_lanes_run(&run, e);
    kr_source_close(&q.source);
    kr_free(q.ids);
    if (rc < 0 || result->questions) return rc;
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: no questions: expected JSON lines {\"text\": ...}",
                   o->data[0]);
}
