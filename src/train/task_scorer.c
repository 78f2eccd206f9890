/* task_scorer.c - forward runs over a task's examples, and counting what was right. */
#include "train/task_scorer.h"

#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

/* Rows of a run: as many as make the machine busy, and of one example as many as memory bears. */
enum { ROWS = 1 << 13, ROWS_GPU = 1 << 17, WHOLE = 1 << 16, WHOLE_GPU = 1 << 18, MOST_LANES = 64 };
#define MOST_LOGITS (1 << 24)

int kr_task_fits(const kr_task_source *s, const kr_config *c, krait_error *e) {
    const char *name = s->task->name;
    if (s->channels != c->channels)
        return kr_fail(e, KRAIT_ERR_MISMATCH,
                       "task %s gives %lld numbers a row (0: ids), the model reads %lld", name,
                       (long long)s->channels, (long long)c->channels);
    if (s->vocabulary > c->vocabulary)
        return kr_fail(e, KRAIT_ERR_MISMATCH,
                       "task %s has %lld ids, the model's vocabulary is %lld", name,
                       (long long)s->vocabulary, (long long)c->vocabulary);
    if (s->numbers != c->numbers)
        return kr_fail(e, KRAIT_ERR_MISMATCH,
                       "task %s asks for %lld numbers (0: for ids or labels), the model tells %lld",
                       name, (long long)s->numbers, (long long)c->numbers);
    if (s->each_row && c->pooling != KR_POOL_EVERY)
        return kr_fail(e, KRAIT_ERR_MISMATCH,
                       "task %s asks at each row, the model answers once: pooling must be every",
                       name);
    if (s->classes == c->classes) return 0;
    return kr_fail(e, KRAIT_ERR_MISMATCH,
                   "task %s has %lld classes (0: the answers are ids), the model tells %lld", name,
                   (long long)s->classes, (long long)c->classes);
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- making ---- */

/* How many lanes of how many rows: as many examples as fit `rows`; one that is above `whole` rows
 * is read in chunks. */
static kr_batch_shape choose_shape(const kr_task_scorer *s, int64_t most, int64_t rows,
                                   int64_t whole) {
    enum { LANES_OF_CHUNKS = 8 };
    const kr_task_source *t = s->source;
    int64_t lanes = smaller(rows / t->longest, smaller(most, MOST_LANES));
    lanes = smaller(lanes, MOST_LOGITS / (t->answers * s->logits));
    kr_batch_shape shape = {.count = 1,
                            .lanes = lanes < 1 ? 1 : lanes,
                            .channels = t->channels,
                            .spans = kr_task_tells(t) > 0};
    shape.rows = shape.lanes * t->longest;
    if (t->longest > whole) {
        shape.lanes = smaller(smaller(most, LANES_OF_CHUNKS), rows);
        shape.rows = rows;
    }
    shape.picks = smaller(shape.lanes * t->answers, shape.rows);
    if (shape.picks < shape.lanes) shape.picks = shape.lanes;
    return shape;
}

static int build(kr_task_scorer *s, const kr_config *c, const kr_graph_options *o,
                 const kr_batch_shape *shape, krait_error *e) {
    bool chunks = shape->rows < shape->lanes * s->source->longest;
    kr_lm_options l = {.graph = *o,
                       .tokens = shape->rows,
                       .rows = shape->picks,
                       .sequences = shape->lanes,
                       .slots = chunks ? shape->lanes : 0,
                       .any_ends = true};
    return kr_lm_build(&s->lm, c, &l, e);
}

static int create(kr_task_scorer *s, const kr_config *c, kr_weights *w, const kr_graph_options *o,
                  const kr_task_source *source, int64_t most, int64_t rows, int64_t whole,
                  krait_error *e) {
    *s = (kr_task_scorer){.source = source,
                          .pooling = c->pooling,
                          .logits = kr_config_tells(c) ? kr_config_tells(c) : c->vocabulary};
    KR_TRY(kr_task_fits(source, c, e));
    if (c->bidirectional && whole < source->longest) whole = source->longest; /* no chunks */
    kr_batch_shape shape = choose_shape(s, most, rows, whole);
    s->lanes = shape.lanes;
    s->rows.shape = shape;
    KR_TRY(build(s, c, o, &shape, e));
    int rc = kr_lm_bind_weights(&s->lm, w, e);
    if (rc == 0) rc = kr_graph_plan(s->lm.g, e);
    if (rc < 0) kr_task_scorer_free(s);
    return rc;
}

int kr_task_scorer_create(kr_task_scorer *s, const kr_config *c, kr_weights *w,
                          const kr_graph_options *o, const kr_task_source *source, int64_t most,
                          krait_error *e) {
    bool gpu = o->level == KR_LEVEL_CUDA;
    return create(s, c, w, o, source, most, gpu ? ROWS_GPU : ROWS, gpu ? WHOLE_GPU : WHOLE, e);
}

int kr_task_scorer_create_rows(kr_task_scorer *s, const kr_config *c, kr_weights *w,
                               const kr_graph_options *o, const kr_task_source *source,
                               int64_t most, int64_t rows, krait_error *e) {
    return create(s, c, w, o, source, most, rows, rows, e);
}

size_t kr_task_scorer_bytes(const kr_task_scorer *s, const kr_graph *over) {
    kr_plan_sizes sizes;
    kr_graph_sizes(s->lm.g, &sizes);
    size_t own = over && kr_graph_fits(s->lm.g, over) ? 0 : sizes.activations + sizes.scratch;
    return own + sizes.inputs + kr_lane_states_bytes(&s->lm, false) +
           kr_micro_batches_bytes(&s->rows.shape);
}

int kr_task_scorer_allocate(kr_task_scorer *s, const kr_graph *over, krait_error *e) {
    kr_batch_shape shape = s->rows.shape;
    if (over && kr_graph_fits(s->lm.g, over))
        KR_TRY(kr_graph_allocate_over(s->lm.g, over, e));
    else
        KR_TRY(kr_graph_allocate(s->lm.g, e));
    KR_TRY(kr_lane_states_create(&s->states, &s->lm, false, e));
    KR_TRY(kr_micro_batches_create(&s->rows, &shape, e));
    s->answers = kr_calloc((size_t)shape.picks, sizeof *s->answers);
    bool pooled = kr_task_tells(s->source) && !s->source->each_row;
    if (pooled)
        s->sums = kr_calloc((size_t)(s->lanes * s->logits), sizeof *s->sums);
    else
        s->row = kr_calloc((size_t)s->logits, sizeof *s->row);
    return s->answers && (s->sums || s->row) ? 0 : kr_fail_memory(e, "evaluation");
}

void kr_task_scorer_free(kr_task_scorer *s) {
    kr_lane_states_free(&s->states);
    kr_micro_batches_free(&s->rows);
    if (s->lm.g) kr_lm_free(&s->lm);
    kr_free(s->answers);
    kr_free(s->sums);
    kr_free(s->row);
    *s = (kr_task_scorer){0};
}

/* ---- counting ---- */

typedef struct run {
    kr_task_scorer *s;
    kr_task_batches *b;
    kr_task_result *result;
    kr_task_heard *heard;
    void *user;
    int64_t first, n; /* examples of this group */
    int64_t at[MOST_LANES];
    bool wrong[MOST_LANES], stop;
} run;

/* What the logits say: the likeliest, and the log-probabilities of it and of what is right. */
static int32_t likeliest(const double *logits, int64_t n, int32_t right, double *said,
                         double *wanted) {
    int32_t best = 0;
    double sum = 0;
    for (int64_t v = 1; v < n; v++)
        if (logits[v] > logits[best]) best = (int32_t)v;
    for (int64_t v = 0; v < n; v++) sum += exp(logits[v] - logits[best]);
    *said = -log(sum);
    *wanted = logits[right] - logits[best] - log(sum);
    return best;
}

static void count(run *r, int64_t lane, int64_t row, int32_t right, const double *logits) {
    double said, wanted;
    int32_t best = likeliest(logits, r->s->logits, right, &said, &wanted);
    r->result->answers++;
    r->result->correct += best == right;
    r->result->loss -= wanted;
    if (best != right) r->wrong[lane] = true;
    if (r->heard && !r->stop)
        r->stop = r->heard(r->user, r->first + lane, row, right, best, said) != 0;
}

/* One answer in numbers [K]: nothing is right or wrong. */
static void count_numbers(run *r, int64_t lane, int64_t row, const double *said) {
    const float *wanted = r->b->examples[lane].numbers;
    int64_t K = r->s->logits;
    double square = 0;
    if (r->s->source->each_row) wanted += row * K;
    for (int64_t k = 0; k < K; k++)
        square += (said[k] - (double)wanted[k]) * (said[k] - (double)wanted[k]);
    r->result->answers++;
    r->result->loss += square / (double)K;
    if (r->heard && !r->stop)
        r->stop = r->heard(r->user, r->first + lane, row, 0, 0, square / (double)K) != 0;
}

/* What is answered row by row: ids, or numbers at each row. */
static void count_rows(run *r, const float *logits) {
    kr_task_scorer *s = r->s;
    for (int64_t i = 0; i < s->rows.r[0]; i++) {
        const struct kr_task_answer *a = &s->answers[i];
        if (a->lane < 0) continue;
        for (int64_t v = 0; v < s->logits; v++) s->row[v] = (double)logits[i * s->logits + v];
        if (s->source->numbers)
            count_numbers(r, a->lane, a->row, s->row);
        else
            count(r, a->lane, a->row, a->right, s->row);
    }
}

/* Adds a chunk's part of each example's logits or numbers. */
static void add_labels(run *r, const float *logits) {
    kr_task_scorer *s = r->s;
    for (int64_t i = 0; i < s->rows.r[0]; i++) {
        const struct kr_task_answer *a = &s->answers[i];
        if (a->lane < 0) continue;
        bool mean = s->pooling == KR_POOL_MEAN;
        double share =
            mean ? (double)a->row / (double)r->b->examples[a->lane].count : 1; /* row: how many */
        double *sum = s->sums + a->lane * s->logits;
        for (int64_t v = 0; v < s->logits; v++) sum[v] += share * (double)logits[i * s->logits + v];
    }
}

/* ---- runs ---- */

/* Every row of [at, at + take) tells its own numbers. */
static int64_t take_each(kr_task_scorer *s, int64_t lane, int64_t at, int64_t take, int64_t m,
                         int64_t p) {
    for (int64_t i = 0; i < take; i++, p++) {
        int64_t span[3] = {m + i, 1, 0};
        memcpy(s->rows.picks + 3 * p, span, sizeof span);
        s->answers[p] = (struct kr_task_answer){lane, at + i, 0};
    }
    return p;
}

/* What tells the label in rows [at, at + take) of an example, which begin at row m: their mean, or
 * the last row of all. */
static int64_t take_span(kr_task_scorer *s, const kr_example *x, int64_t lane, int64_t at,
                         int64_t take, int64_t m, int64_t p) {
    bool mean = s->pooling == KR_POOL_MEAN;
    int64_t *span = s->rows.picks + 3 * p;
    if (!mean && at + take < x->count) return p;
    span[0] = mean ? m : m + take - 1;
    span[1] = mean ? take : 1;
    span[2] = 0;
    s->answers[p] = (struct kr_task_answer){lane, take, x->label};
    return p + 1;
}

/* Puts the next `take` rows of a lane behind row m, and what is asked there behind pick p. */
static int64_t take_rows(run *r, int64_t lane, int64_t take, int64_t m, int64_t p) {
    kr_task_scorer *s = r->s;
    const kr_example *x = &r->b->examples[lane];
    int64_t at = r->at[lane], C = s->source->channels;
    if (C)
        memcpy(s->rows.values + m * C, x->values + at * C, (size_t)(take * C) * sizeof(float));
    else
        memcpy(s->rows.ids + m, x->ids + at, (size_t)take * sizeof(int32_t));
    if (s->source->each_row) return take_each(s, lane, at, take, m, p);
    if (kr_task_tells(s->source)) return take_span(s, x, lane, at, take, m, p);
    for (int64_t i = at; i < at + take; i++) {
        if (x->targets[i] < 0) continue;
        s->rows.picks[p] = m + i - at;
        s->answers[p++] = (struct kr_task_answer){lane, i, x->targets[i]};
    }
    return p;
}

/* Lays out the next rows of all lanes; returns how many. */
static int64_t compose(run *r) {
    kr_task_scorer *s = r->s;
    int64_t m = 0, p = 0, n = 0, active = 0;
    for (int64_t k = 0; k < r->n; k++) active += r->at[k] < r->b->examples[k].count;
    for (int64_t k = 0; k < r->n; k++) {
        int64_t left = r->b->examples[k].count - r->at[k];
        if (left <= 0) continue;
        int64_t take = smaller(left, (s->rows.shape.rows - m) / active--);
        int64_t *seq = s->rows.seqs + 3 * n++;
        seq[0] = m;
        seq[1] = take;
        seq[2] = k;
        p = take_rows(r, k, take, m, p);
        r->at[k] += take;
        m += take;
    }
    if (p == 0) { /* nothing is asked in this chunk: any row will do */
        static const int64_t row[3] = {0, 1, 0}; /* as a row, and as a span */
        memcpy(s->rows.picks, row, (s->rows.shape.spans ? 3 : 1) * sizeof *row);
        s->answers[p++].lane = -1;
    }
    s->rows.m[0] = m;
    s->rows.r[0] = p;
    s->rows.s[0] = n;
    return m;
}

static int run_chunk(run *r, krait_error *e) {
    kr_task_scorer *s = r->s;
    KR_TRY(kr_micro_batches_bind(&s->rows, 0, &s->lm, e));
    KR_TRY(kr_graph_run(s->lm.g, s->rows.m[0], s->rows.r[0], e));
    if (s->answers[0].lane < 0) return 0;
    const float *logits = kr_graph_fetch(s->lm.g, s->lm.logits, e);
    if (!logits) return kr_code(e);
    if (s->sums)
        add_labels(r, logits);
    else
        count_rows(r, logits);
    return 0;
}

static int run_group(run *r, krait_error *e) {
    kr_task_scorer *s = r->s;
    r->first = r->b->next;
    KR_TRY(kr_task_batches_make(r->b, r->n, e));
    KR_TRY(kr_lane_states_zero(&s->states, e));
    memset(r->at, 0, sizeof r->at);
    memset(r->wrong, 0, sizeof r->wrong);
    if (s->sums) memset(s->sums, 0, (size_t)(s->lanes * s->logits) * sizeof *s->sums);
    while (compose(r) > 0) KR_TRY(run_chunk(r, e));
    for (int64_t k = 0; k < r->n; k++) {
        const kr_example *x = &r->b->examples[k];
        if (s->sums && s->source->numbers)
            count_numbers(r, k, x->count - 1, s->sums + k * s->logits);
        else if (s->sums)
            count(r, k, x->count - 1, x->label, s->sums + k * s->logits);
        r->result->whole += !r->wrong[k];
    }
    r->result->examples += r->n;
    return 0;
}

int kr_task_scorer_run(kr_task_scorer *s, kr_task_batches *b, int64_t n, kr_task_result *result,
                       kr_task_heard *heard, void *user, krait_error *e) {
    run r = {.s = s, .b = b, .result = result, .heard = heard, .user = user};
    kr_graph_params_changed(s->lm.g);
    *result = (kr_task_result){0};
    for (int64_t done = 0; done < n && !r.stop; done += r.n) {
        r.n = smaller(n - done, s->lanes);
        KR_TRY(run_group(&r, e));
    }
    if (r.stop) return kr_fail(e, KRAIT_ERR_CANCELLED, "stopped");
    if (!isfinite(result->loss))
        return kr_fail(e, KRAIT_ERR_NUMERIC, "task %s: the loss is %s", s->source->task->name,
                       isnan(result->loss) ? "not a number" : "infinite");
    if (result->answers) result->loss /= (double)result->answers;
    return 0;
}
