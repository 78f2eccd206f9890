/* decoder.c - decode steps on the GPU. decoder.h has the contract.
 *
 * The graph of a step is the model's with one row a sequence, and behind it the op `sample`, which
 * writes the ids that the next step begins with. Row r of a step belongs to the lane lanes[r]; the
 * rows in use are the first ones: when a lane leaves, the last row takes its place. A step has as
 * many rows as the next of a few sizes says, so that each size is recorded once; rows beyond those
 * in use are sequences of no tokens. Everything is queued in order, so rows can be rewritten while
 * steps are under way. */
#include "serve/decoder.h"

#include <inttypes.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "ops/sample/sample.h"
#include "serve/session_impl.h"

enum { STEPS = KR_DECODER_STEPS };

/* One of the graph's inputs that stays on the GPU. */
typedef struct table {
    kr_value *value;
    void *data;
} table;

struct kr_decoder {
    krait_session *s;
    krait_sampler_options o;
    int64_t vocabulary, most; /* rows at most */
    kr_weights weights;       /* views of the model's */
    kr_lm lm;
    kr_mail *mail[STEPS];
    table seqs, ids, in[KR_SAMPLE_INPUTS]; /* in: those of the op, logits left out */

    int64_t rows;         /* in use */
    int64_t *lane_of;     /* [most] lane of each row */
    int64_t *row_of;      /* [lanes] row of each lane; -1: none */
    uint8_t *seen;        /* [vocabulary] of the lane that joins */
    int64_t queued, read; /* steps so far, and how many of them were read */
    int64_t *was[STEPS];  /* [most] lane of each row in a step under way; -1: it left */
    int64_t was_rows[STEPS];
};

/* ---- the graph of a step --------------------------------------------------------------------- */

/* Steps have 1, 2, 4, 8, 12, 16, 24, 32, 48, 64 ... rows. */
static int64_t size_for(int64_t rows) {
    int64_t size = 1;
    while (size < rows) size *= 2;
    return size >= 16 && size / 4 * 3 >= rows ? size / 4 * 3 : size;
}

static void add_table(kr_decoder *d, int i, const char *name, kr_dtype type, kr_dim0 dim0, int rank,
                      const int64_t *shape) {
    d->in[i].value = kr_graph_input(d->lm.g, name, type, dim0, rank, shape);
}

static void add_sampling(kr_decoder *d) {
    int64_t L = d->s->lanes, V = d->vocabulary, M = d->most;
    kr_value *ins[KR_SAMPLE_INPUTS] = {NULL}, *outs[KR_SAMPLE_OUTPUTS] = {NULL};
    kr_graph *g = d->lm.g;
    ins[KR_SAMPLE_LOGITS] = kr_graph_columns(g, d->lm.logits, 0, V);
    add_table(d, KR_SAMPLE_LANES, "lanes", KR_I64, KR_DIM0_TOKENS, 1, &M);
    add_table(d, KR_SAMPLE_TEMPERATURE, "temperature", KR_F32, KR_DIM0_FIXED, 1, &L);
    add_table(d, KR_SAMPLE_TOP_K, "top_k", KR_I64, KR_DIM0_FIXED, 1, &L);
    add_table(d, KR_SAMPLE_TOP_P, "top_p", KR_F32, KR_DIM0_FIXED, 1, &L);
    add_table(d, KR_SAMPLE_MIN_P, "min_p", KR_F32, KR_DIM0_FIXED, 1, &L);
    add_table(d, KR_SAMPLE_PENALTY, "penalty", KR_F32, KR_DIM0_FIXED, 1, &L);
    add_table(d, KR_SAMPLE_RANDOM, "random", KR_I64, KR_DIM0_FIXED, 2, (int64_t[]){L, 2});
    if (d->o.repeat_penalty != 1)
        add_table(d, KR_SAMPLE_SEEN, "seen", KR_U8, KR_DIM0_FIXED, 2, (int64_t[]){L, V});
    for (int i = 1; i < KR_SAMPLE_INPUTS; i++) ins[i] = d->in[i].value;
    d->ids.value = outs[KR_SAMPLE_ID] = d->lm.ids;
    d->seqs.value = d->lm.seqs;
    outs[KR_SAMPLE_SEEN_OUT] = ins[KR_SAMPLE_SEEN];
    outs[KR_SAMPLE_RANDOM_OUT] = ins[KR_SAMPLE_RANDOM];
    kr_graph_scope(g, "sample");
    kr_apply(g, &kr_op_sample, NULL, 0, ins, KR_SAMPLE_INPUTS, outs, KR_SAMPLE_OUTPUTS);
}

static int bind_weights(kr_decoder *d, krait_error *e) {
    const kr_weights *w = kr_model_weights(d->s->model);
    for (int64_t i = 0; i < w->count; i++)
        KR_TRY(kr_weights_add(&d->weights, w->items[i].name, &w->items[i].tensor, e));
    kr_weights_sort(&d->weights);
    return kr_lm_bind_weights(&d->lm, &d->weights, e);
}

static int build(kr_decoder *d, krait_error *e) {
    kr_lm_options o = {.tokens = d->most, .sequences = d->most, .slots = d->s->lanes};
    o.graph.level = d->s->level;
    o.graph.half = d->s->model->half;
    KR_TRY(kr_lm_build(&d->lm, &d->s->model->config, &o, e));
    add_sampling(d);
    KR_TRY(bind_weights(d, e));
    KR_TRY(kr_graph_plan(d->lm.g, e));
    KR_TRY(kr_graph_allocate(d->lm.g, e));
    return kr_session_bind_states(d->s, &d->lm, e);
}

/* ---- tables ---------------------------------------------------------------------------------- */

static int bind_table(kr_decoder *d, table *t, krait_error *e) {
    if (!t->value) return 0;
    kr_tensor bound = *kr_value_tensor(t->value);
    size_t bytes = kr_tensor_bytes(&bound);
    bound.data = t->data = kr_device_alloc(d->s->level, bytes);
    if (!t->data) return kr_fail_memory(e, "generation on the GPU");
    KR_TRY(kr_device_fill(d->s->level, t->data, 0, bytes, e));
    return kr_graph_bind_device(d->lm.g, t->value, &bound, e);
}

/* Element i of a table. */
static int put(kr_decoder *d, const table *t, int64_t i, const void *value, size_t size,
               krait_error *e) {
    return kr_device_put(d->s->level, (char *)t->data + (size_t)i * size, value, size, e);
}

static int put_settings(kr_decoder *d, krait_error *e) {
    float temperature = (float)d->o.temperature, top_p = (float)d->o.top_p;
    float min_p = (float)d->o.min_p, penalty = (float)d->o.repeat_penalty;
    for (int64_t i = 0; i < d->s->lanes; i++) {
        KR_TRY(put(d, &d->in[KR_SAMPLE_TEMPERATURE], i, &temperature, sizeof temperature, e));
        KR_TRY(put(d, &d->in[KR_SAMPLE_TOP_K], i, &d->o.top_k, sizeof d->o.top_k, e));
        KR_TRY(put(d, &d->in[KR_SAMPLE_TOP_P], i, &top_p, sizeof top_p, e));
        KR_TRY(put(d, &d->in[KR_SAMPLE_MIN_P], i, &min_p, sizeof min_p, e));
        KR_TRY(put(d, &d->in[KR_SAMPLE_PENALTY], i, &penalty, sizeof penalty, e));
    }
    return 0;
}

/* Row r is the lane's, or (-1) no one's. */
static int put_row(kr_decoder *d, int64_t r, int64_t lane, krait_error *e) {
    int64_t seq[3] = {r, lane >= 0, lane >= 0 ? lane : 0};
    d->lane_of[r] = lane;
    if (lane >= 0) d->row_of[lane] = r;
    KR_TRY(put(d, &d->seqs, r, seq, sizeof seq, e));
    return put(d, &d->in[KR_SAMPLE_LANES], r, &lane, sizeof lane, e);
}

static int fill_tables(kr_decoder *d, krait_error *e) {
    KR_TRY(bind_table(d, &d->ids, e));
    KR_TRY(bind_table(d, &d->seqs, e));
    for (int i = 0; i < KR_SAMPLE_INPUTS; i++) KR_TRY(bind_table(d, &d->in[i], e));
    KR_TRY(put_settings(d, e));
    for (int64_t i = 0; i < d->s->lanes; i++) d->row_of[i] = -1;
    for (int64_t r = 0; r < d->most; r++) KR_TRY(put_row(d, r, -1, e));
    return 0;
}

/* ---- making and closing ---------------------------------------------------------------------- */

static int allocate(kr_decoder *d, krait_error *e) {
    size_t most = (size_t)d->most;
    d->lane_of = kr_calloc(most, sizeof *d->lane_of);
    d->row_of = kr_calloc((size_t)d->s->lanes, sizeof *d->row_of);
    d->seen = kr_calloc((size_t)d->vocabulary, 1);
    bool whole = d->lane_of && d->row_of && d->seen;
    for (int i = 0; i < STEPS; i++) {
        d->was[i] = kr_calloc(most, sizeof **d->was);
        whole = whole && d->was[i];
        KR_TRY(kr_mail_create(&d->mail[i], d->s->level, most * sizeof(int32_t), e));
    }
    return whole ? 0 : kr_fail_memory(e, "generation on the GPU");
}

int kr_decoder_create(kr_decoder **out, krait_session *s, int64_t vocabulary,
                      const krait_sampler_options *options, krait_error *e) {
    *out = NULL;
    kr_decoder *d = kr_calloc(1, sizeof *d);
    if (!d) return kr_fail_memory(e, "generation on the GPU");
    d->s = s;
    d->o = *options;
    d->vocabulary = vocabulary;
    d->most = size_for(s->lanes);
    int rc = allocate(d, e);
    if (rc == 0) rc = build(d, e);
    if (rc == 0) rc = fill_tables(d, e);
    if (rc < 0)
        kr_decoder_free(d);
    else
        *out = d;
    return rc;
}

void kr_decoder_free(kr_decoder *d) {
    if (!d) return;
    kr_device_free(d->s->level, d->ids.data);
    kr_device_free(d->s->level, d->seqs.data);
    for (int i = 0; i < KR_SAMPLE_INPUTS; i++) kr_device_free(d->s->level, d->in[i].data);
    for (int i = 0; i < STEPS; i++) {
        kr_mail_free(d->mail[i]);
        kr_free(d->was[i]);
    }
    if (d->lm.g) kr_lm_free(&d->lm);
    kr_weights_free(&d->weights);
    kr_free(d->lane_of);
    kr_free(d->row_of);
    kr_free(d->seen);
    kr_free(d);
}

/* ---- lanes ----------------------------------------------------------------------------------- */

static int put_seen(kr_decoder *d, int64_t lane, const int32_t *ids, int64_t n, krait_error *e) {
    if (!d->in[KR_SAMPLE_SEEN].value) return 0;
    memset(d->seen, 0, (size_t)d->vocabulary);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] >= 0 && ids[i] < d->vocabulary) d->seen[ids[i]] = 1;
    return put(d, &d->in[KR_SAMPLE_SEEN], lane, d->seen, (size_t)d->vocabulary, e);
}

int kr_decoder_join(kr_decoder *d, int64_t lane, uint64_t seed, const int32_t *ids, int64_t n,
                    krait_error *e) {
    int64_t random[2] = {(int64_t)seed, 0};
    KR_TRY(put(d, &d->in[KR_SAMPLE_RANDOM], lane, random, sizeof random, e));
    KR_TRY(put_seen(d, lane, ids, n, e));
    KR_TRY(put(d, &d->ids, d->rows, &ids[n - 1], sizeof *ids, e));
    KR_TRY(put_row(d, d->rows, lane, e));
    d->rows++;
    return 0;
}

/* What steps under way draw for the lane is no one's. */
static void forget(kr_decoder *d, int64_t lane) {
    for (int64_t k = d->read; k < d->queued; k++)
        for (int64_t r = 0; r < d->was_rows[k % STEPS]; r++)
            if (d->was[k % STEPS][r] == lane) d->was[k % STEPS][r] = -1;
}

int kr_decoder_leave(kr_decoder *d, int64_t lane, bool unread, krait_error *e) {
    if (!unread) forget(d, lane);
    if (d->row_of[lane] < 0) return 0;
    int64_t hole = d->row_of[lane], last = d->rows - 1;
    int32_t *ids = d->ids.data;
    d->row_of[lane] = -1;
    if (hole < last) {
        KR_TRY(kr_device_copy(d->s->level, ids + hole, ids + last, sizeof *ids, e));
        KR_TRY(put_row(d, hole, d->lane_of[last], e));
    }
    d->rows--;
    return put_row(d, last, -1, e);
}

int64_t kr_decoder_lanes(const kr_decoder *d) { return d->rows; }
int64_t kr_decoder_unread(const kr_decoder *d) { return d->queued - d->read; }

/* ---- steps ----------------------------------------------------------------------------------- */

int kr_decoder_step(kr_decoder *d, krait_error *e) {
    int at = (int)(d->queued % STEPS);
    int64_t size = size_for(d->rows);
    if (d->rows == 0 || d->queued - d->read == STEPS)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "a step of %" PRId64 " lanes, %" PRId64 " unread",
                       d->rows, d->queued - d->read);
    kr_tensor seqs = *kr_value_tensor(d->seqs.value);
    seqs.shape[0] = size;
    KR_TRY(kr_graph_bind_device(d->lm.g, d->seqs.value, &seqs, e));
    KR_TRY(kr_graph_run(d->lm.g, size, 0, e));
    KR_TRY(kr_mail_send(d->mail[at], d->ids.data, (size_t)d->rows * sizeof(int32_t), e));
    memcpy(d->was[at], d->lane_of, (size_t)d->rows * sizeof **d->was);
    d->was_rows[at] = d->rows;
    for (int64_t r = 0; r < d->rows; r++) d->s->position[d->lane_of[r]]++;
    d->queued++;
    return 0;
}

int kr_decoder_read(kr_decoder *d, int32_t *ids, krait_error *e) {
    int at = (int)(d->read % STEPS);
    if (d->read == d->queued) return 0;
    const int32_t *drawn = kr_mail_read(d->mail[at], e);
    if (!drawn) return e ? e->code : KRAIT_ERR_UNSUPPORTED;
    d->read++;
    for (int64_t i = 0; i < d->s->lanes; i++) ids[i] = -1;
    for (int64_t r = 0; r < d->was_rows[at]; r++) {
        if (d->was[at][r] < 0) continue;
        ids[d->was[at][r]] = drawn[r];
        if (drawn[r] >= 0) continue;
        return kr_fail(e, KRAIT_ERR_NUMERIC,
                       "a logit is not a number, or infinite: the model's weights are damaged");
    }
    return 1;
}
