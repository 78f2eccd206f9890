/* eval_lanes.c - documents in lanes, a few rows of each in every run. */
#include "train/eval_lanes.h"

#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/tokenizer/tokenizer.h"

/* Lanes, and rows of a run: on the GPU many, where no logits are kept of them. */
enum { LANES = 16, ROWS = 512, ROWS_GPU = 8192 };

void kr_eval_lane_begin(kr_eval_lane *lane, int64_t doc, int64_t scored_from) {
    lane->count = lane->at = lane->base = 0;
    lane->doc = doc;
    lane->busy = true;
    lane->ended = false;
    lane->scored_from = scored_from;
    lane->logprob = 0;
    lane->matched = true;
}

int kr_eval_lane_add(kr_eval_lane *lane, const int32_t *ids, int64_t count, bool last,
                     krait_error *e) {
    memmove(lane->ids, lane->ids + lane->at, (size_t)(lane->count - lane->at) * sizeof *ids);
    lane->base += lane->at;
    lane->count -= lane->at;
    lane->at = 0;
    if (kr_grow((void **)&lane->ids, &lane->capacity, (size_t)(lane->count + count), sizeof *ids))
        return kr_fail_memory(e, "a document");
    memcpy(lane->ids + lane->count, ids, (size_t)count * sizeof *ids);
    lane->count += count;
    lane->ended = last;
    return 0;
}

/* Rows that can run: tokens whose successor is known. */
static int64_t ready(const kr_eval_lane *lane) {
    return lane->busy && lane->count > lane->at ? lane->count - lane->at - 1 : 0;
}

/* Sees to it that the lane has rows, if there are any for it. */
static int fill(kr_eval_run *run, kr_eval_lane *lane, krait_error *e) {
    if (!lane->busy && lane->n_held > 0) return 0; /* an earlier document is still being read */
    while (ready(lane) == 0) {
        if (lane->busy && lane->ended) lane->busy = false; /* a document of one token */
        int rc = run->feed(run->user, lane, e);
        if (rc <= 0) return rc;
    }
    return 0;
}

/* Puts `n` rows of the lane behind row m. */
static void take_rows(kr_eval_run *run, kr_eval_lane *lane, int64_t m, int64_t n) {
    kr_scorer *s = &run->scorer;
    for (int64_t i = 0; i < n; i++) {
        int64_t position = lane->base + lane->at + i;
        s->ids[m + i] = lane->ids[lane->at + i];
        s->targets[m + i] = lane->ids[lane->at + i + 1];
        s->reset[m + i] = position == 0 || (run->o->context && position % run->o->context == 0);
    }
}

/* Chooses the rows of the next run; returns how many, and of how many lanes. */
static int64_t compose(kr_eval_run *run, int64_t *sequences, krait_error *e) {
    kr_scorer *s = &run->scorer;
    int64_t active = 0, m = 0;
    *sequences = 0;
    for (int64_t i = 0; i < s->lanes; i++) {
        KR_TRY(fill(run, &run->lanes[i], e));
        active += ready(&run->lanes[i]) > 0;
    }
    for (int64_t i = 0; i < s->lanes && active > 0; i++) {
        int64_t n = ready(&run->lanes[i]), share = (s->tokens - m) / active;
        if (n == 0) continue;
        if (n > share) n = share;
        take_rows(run, &run->lanes[i], m, n);
        memcpy(s->seqs + 3 * (*sequences)++, (const int64_t[]){m, n, i}, 3 * sizeof(int64_t));
        m += n;
        active--;
    }
    return m;
}

/* Above every other: a model for which all tokens are alike has not answered. */
static bool is_likeliest(const float *logits, int64_t vocabulary, int32_t id) {
    for (int64_t v = 0; v < vocabulary; v++)
        if (v != id && !(logits[v] < logits[id])) return false;
    return true;
}

static void count_position(krait_eval_result *r, int64_t position, double nll) {
    int bucket = 0;
    while (bucket + 1 < KRAIT_EVAL_POSITIONS && position >> (bucket + 1)) bucket++;
    r->position_loss[bucket] += nll;
    r->position_count[bucket]++;
}

/* ---- on_token hears the documents one after another: rows of later ones wait ---- */

static int hold(kr_eval_lane *lane, int64_t position, int32_t id, float nll, krait_error *e) {
    if (kr_grow((void **)&lane->held, &lane->held_capacity, (size_t)lane->n_held + 1,
                sizeof *lane->held))
        return kr_fail_memory(e, "the losses of a document");
    if (lane->n_held == 0) lane->held_from = position;
    lane->held[lane->n_held++] = (kr_eval_score){id, nll};
    return 0;
}

static kr_eval_lane *oldest(const kr_eval_run *run) {
    kr_eval_lane *found = NULL;
    for (int i = 0; i < LANES; i++) {
        kr_eval_lane *l = &run->lanes[i];
        if ((l->busy || l->n_held > 0) && (!found || l->doc < found->doc)) found = l;
    }
    return found;
}

/* Tells what is held of the oldest document, and of the next ones as far as they are done; `all`:
 * nothing more is coming. */
static void tell(kr_eval_run *run, bool all) {
    for (kr_eval_lane *l; !run->cancelled && (l = oldest(run));) {
        for (int64_t i = 0; i < l->n_held && !run->cancelled; i++)
            run->cancelled = run->o->on_token(run->o->user, l->doc, l->held_from + i, l->held[i].id,
                                              -(double)l->held[i].nll) != 0;
        l->n_held = 0;
        run->full |= run->cancelled;
        if (l->busy && !all) return;
        l->busy = false;
    }
}

/* The token at `position` was predicted in `row`. */
static int count_token(kr_eval_run *run, kr_eval_lane *lane, int64_t row, int64_t position,
                       krait_error *e) {
    kr_scorer *s = &run->scorer;
    krait_eval_result *r = run->result;
    int32_t id = s->targets[row];
    double nll = (double)kr_scorer_nll(s)[row];
    if (position < lane->scored_from || run->full) return 0;
    if (!isfinite(nll))
        return kr_fail(e, KRAIT_ERR_NUMERIC,
                       "evaluation: the loss of document %lld at position %lld is %s; it must be "
                       "finite: the model's weights are damaged",
                       (long long)lane->doc, (long long)position,
                       isnan(nll) ? "not a number" : "infinite");
    r->tokens++;
    r->loss += nll;
    if (run->model->tokenizer) r->bytes += kr_tokenizer_id_bytes(run->model->tokenizer, id);
    count_position(r, position, nll);
    lane->logprob -= nll;
    if (run->task && lane->matched)
        lane->matched = is_likeliest(run->logits + row * s->vocabulary, s->vocabulary, id);
    return run->o->on_token ? hold(lane, position, id, (float)nll, e) : 0;
}

static void end_document(kr_eval_run *run, kr_eval_lane *lane) {
    lane->busy = false;
    run->result->documents++;
    if (!run->task) return;
    run->result->questions++;
    run->result->accuracy += lane->matched;
    run->result->task_perplexity -= lane->logprob;
}

static int count_run(kr_eval_run *run, int64_t sequences, krait_error *e) {
    kr_scorer *s = &run->scorer;
    if (run->task && !(run->logits = kr_scorer_logits(s, e))) return kr_code(e);
    for (int64_t k = 0; k < sequences; k++) {
        const int64_t *seq = s->seqs + 3 * k;
        kr_eval_lane *lane = &run->lanes[seq[2]];
        for (int64_t i = 0; i < seq[1]; i++)
            KR_TRY(count_token(run, lane, seq[0] + i, lane->base + lane->at + i + 1, e));
        lane->at += seq[1];
        if (lane->ended && ready(lane) == 0) end_document(run, lane);
    }
    if (run->o->on_token) tell(run, false);
    return 0;
}

static int score_all(kr_eval_run *run, krait_error *e) {
    while (!run->full) {
        int64_t sequences, m = compose(run, &sequences, e);
        if (m < 0) return (int)m;
        if (m == 0) break;
        KR_TRY(kr_scorer_run(&run->scorer, m, sequences, e));
        KR_TRY(count_run(run, sequences, e));
    }
    if (run->o->on_token) tell(run, true);
    if (!run->cancelled) return 0;
    return kr_fail(e, KRAIT_ERR_CANCELLED, "stopped");
}

static void finish(krait_eval_result *r, bool task) {
    const double ln2 = 0.69314718055994530942;
    double sum = r->loss;
    for (int i = 0; i < KRAIT_EVAL_POSITIONS; i++)
        if (r->position_count[i]) r->position_loss[i] /= (double)r->position_count[i];
    if (r->tokens) r->loss = sum / (double)r->tokens;
    if (r->tokens) r->perplexity = exp(r->loss);
    if (r->bytes) r->bits_per_byte = sum / (double)r->bytes / ln2;
    if (!task || r->questions == 0) return;
    r->accuracy /= (double)r->questions;
    r->task_perplexity = exp(r->task_perplexity / (double)r->questions);
}

/* On a GPU as many rows at a time as there is room for. */
static int plan_scorer(kr_eval_run *run, kr_scorer_options *o, krait_error *e) {
    kr_weights *weights = (kr_weights *)(uintptr_t)kr_model_weights(run->model);
    enum { SLACK = 64 << 20 }; /* what the driver and the library of products take besides */
    size_t left, all;
    for (;; o->tokens /= 2) {
        KR_TRY(kr_scorer_create(&run->scorer, &run->model->config, weights, o, e));
        kr_device_memory(o->graph.level, &left, &all);
        bool fits = all == 0 || kr_scorer_bytes(&run->scorer, NULL) + SLACK <= left;
        if (fits || o->tokens <= LANES) return 0;
        kr_scorer_free(&run->scorer);
    }
}

int kr_eval_lanes_run(kr_eval_run *run, krait_error *e) {
    kr_scorer_options o = {.lanes = LANES, .tokens = ROWS, .logits = run->task};
    o.graph.threads = run->o->threads > 0 ? run->o->threads : kr_device_threads();
    o.graph.half = run->model->half;
    KR_TRY(kr_model_level(run->model, &o.graph.level, e));
    if (o.graph.level == KR_LEVEL_CUDA && !run->task) o.tokens = ROWS_GPU;
    KR_TRY(plan_scorer(run, &o, e));
    run->lanes = kr_calloc(LANES, sizeof *run->lanes);
    int rc =
        run->lanes ? kr_scorer_allocate(&run->scorer, NULL, e) : kr_fail_memory(e, "evaluation");
    if (rc == 0) rc = score_all(run, e);
    if (rc == 0) finish(run->result, run->task);
    for (int i = 0; run->lanes && i < LANES; i++) {
        kr_free(run->lanes[i].ids);
        kr_free(run->lanes[i].held);
    }
    kr_free(run->lanes);
    kr_scorer_free(&run->scorer);
    return rc;
}
