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
#include "ops/mamba_layer/mamba_layer.h"
#include "ops/sample/sample.h"
#include "serve/session_impl.h"

enum { STEPS = KR_DECODER_STEPS, FEW = KR_LAYER_FEW };

enum { TABLES = KR_SAMPLE_INPUTS + 1, IDS = KR_SAMPLE_LOGITS, SEQS = KR_SAMPLE_INPUTS };

/* A graph of steps of at most so many rows, and those of its inputs that stay on the GPU: the op's,
 * in place of the logits the ids, and seqs. */
typedef struct stepper {
    kr_lm lm;
    int64_t most;
    kr_value *in[TABLES];
} stepper;

struct kr_decoder {
    krait_session *s;
    krait_sampler_options o;
    int64_t vocabulary, most; /* rows at most */
    kr_weights weights;       /* views of the model's */
    stepper few, many;        /* few: what a step of a few rows is best made of */
    void *table[TABLES];      /* NULL: not used */
    kr_mail *mail[STEPS];

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

static void add_sampling(kr_decoder *d, stepper *g) {
    int64_t L = d->s->lanes, V = d->vocabulary;
    kr_value *ins[KR_SAMPLE_INPUTS], *outs[KR_SAMPLE_OUTPUTS] = {NULL};
    static const struct {
        int input;
        const char *name;
        kr_dtype type;
    } settings[] = {{KR_SAMPLE_TEMPERATURE, "temperature", KR_F32},
                    {KR_SAMPLE_TOP_K, "top_k", KR_I64},
                    {KR_SAMPLE_TOP_P, "top_p", KR_F32},
                    {KR_SAMPLE_MIN_P, "min_p", KR_F32},
                    {KR_SAMPLE_PENALTY, "penalty", KR_F32}};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        g->in[settings[i].input] =
            kr_graph_input(g->lm.g, settings[i].name, settings[i].type, KR_DIM0_FIXED, 1, &L);
    g->in[KR_SAMPLE_LANES] = kr_graph_input(g->lm.g, "lanes", KR_I64, KR_DIM0_TOKENS, 1, &g->most);
    g->in[KR_SAMPLE_RANDOM] =
        kr_graph_input(g->lm.g, "random", KR_I64, KR_DIM0_FIXED, 2, (int64_t[]){L, 2});
    if (d->o.repeat_penalty != 1)
        g->in[KR_SAMPLE_SEEN] =
            kr_graph_input(g->lm.g, "seen", KR_U8, KR_DIM0_FIXED, 2, (int64_t[]){L, V});
    memcpy(ins, g->in, sizeof ins);
    ins[KR_SAMPLE_LOGITS] = kr_graph_columns(g->lm.g, g->lm.logits, 0, V);
    g->in[SEQS] = g->lm.seqs;
    g->in[IDS] = outs[KR_SAMPLE_ID] = g->lm.ids;
    outs[KR_SAMPLE_SEEN_OUT] = ins[KR_SAMPLE_SEEN];
    outs[KR_SAMPLE_RANDOM_OUT] = ins[KR_SAMPLE_RANDOM];
    kr_graph_scope(g->lm.g, "sample");
    kr_apply(g->lm.g, &kr_op_sample, NULL, 0, ins, KR_SAMPLE_INPUTS, outs, KR_SAMPLE_OUTPUTS);
}

static int view_weights(kr_decoder *d, krait_error *e) {
    const kr_weights *w = kr_model_weights(d->s->model);
    for (int64_t i = 0; i < w->count; i++)
        KR_TRY(kr_weights_add(&d->weights, w->items[i].name, &w->items[i].tensor, e));
    kr_weights_sort(&d->weights);
    return 0;
}

/* A table's memory, zeroed, for both graphs. */
static int bind_table(kr_decoder *d, stepper *g, int i, krait_error *e) {
    if (!g->in[i]) return 0;
    kr_tensor t = *kr_value_tensor(g->in[i]);
    if (!d->table[i]) {
        int64_t rows = t.shape[0] > d->most ? t.shape[0] : d->most;
        size_t bytes = kr_tensor_bytes(&t) / (size_t)t.shape[0] * (size_t)rows;
        d->table[i] = kr_device_alloc(d->s->level, bytes);
        if (!d->table[i]) return kr_fail_memory(e, "generation on the GPU");
        KR_TRY(kr_device_fill(d->s->level, d->table[i], 0, bytes, e));
    }
    t.data = d->table[i];
    return kr_graph_bind_device(g->lm.g, g->in[i], &t, e);
}

static int build(kr_decoder *d, stepper *g, int64_t most, krait_error *e) {
    kr_lm_options o = {.tokens = most, .sequences = most, .slots = d->s->slots, .step = true};
    o.graph.level = d->s->level;
    o.graph.half = d->s->model->half;
    o.half_states = d->s->state_type == KR_BF16;
    g->most = most;
    KR_TRY(kr_lm_build(&g->lm, &d->s->model->config, &o, e));
    add_sampling(d, g);
    KR_TRY(kr_lm_bind_weights(&g->lm, &d->weights, e));
    KR_TRY(kr_graph_plan(g->lm.g, e));
    KR_TRY(kr_graph_allocate(g->lm.g, e));
    for (int i = 0; i < TABLES; i++) KR_TRY(bind_table(d, g, i, e));
    return kr_session_bind_states(d->s, &g->lm, e);
}

static int build_both(kr_decoder *d, krait_error *e) {
    KR_TRY(view_weights(d, e));
    KR_TRY(build(d, &d->few, d->most < FEW ? d->most : FEW, e));
    return d->most > FEW ? build(d, &d->many, d->most, e) : 0;
}

/* ---- tables ---------------------------------------------------------------------------------- */

/* Element i of a table. */
static int put(kr_decoder *d, int table, int64_t i, const void *value, size_t size,
               krait_error *e) {
    return kr_device_put(d->s->level, (char *)d->table[table] + (size_t)i * size, value, size, e);
}

static int put_settings(kr_decoder *d, krait_error *e) {
    float temperature = (float)d->o.temperature, top_p = (float)d->o.top_p;
    float min_p = (float)d->o.min_p, penalty = (float)d->o.repeat_penalty;
    for (int64_t i = 0; i < d->s->lanes; i++) {
        KR_TRY(put(d, KR_SAMPLE_TEMPERATURE, i, &temperature, sizeof temperature, e));
        KR_TRY(put(d, KR_SAMPLE_TOP_K, i, &d->o.top_k, sizeof d->o.top_k, e));
        KR_TRY(put(d, KR_SAMPLE_TOP_P, i, &top_p, sizeof top_p, e));
        KR_TRY(put(d, KR_SAMPLE_MIN_P, i, &min_p, sizeof min_p, e));
        KR_TRY(put(d, KR_SAMPLE_PENALTY, i, &penalty, sizeof penalty, e));
    }
    return 0;
}

/* Row r is the lane's, or (-1) no one's: then its sequence, of no tokens, has the slot behind the
 * lanes'. */
static int put_row(kr_decoder *d, int64_t r, int64_t lane, krait_error *e) {
    int64_t seq[3] = {r, lane >= 0, lane >= 0 ? lane : d->s->slots - 1};
    d->lane_of[r] = lane;
    if (lane >= 0) d->row_of[lane] = r;
    KR_TRY(put(d, SEQS, r, seq, sizeof seq, e));
    return put(d, KR_SAMPLE_LANES, r, &lane, sizeof lane, e);
}

static int fill_tables(kr_decoder *d, krait_error *e) {
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
    if (rc == 0) rc = build_both(d, e);
    if (rc == 0) rc = fill_tables(d, e);
    if (rc < 0)
        kr_decoder_free(d);
    else
        *out = d;
    return rc;
}

void kr_decoder_free(kr_decoder *d) {
    if (!d) return;
    for (int i = 0; i < TABLES; i++) kr_device_free(d->s->level, d->table[i]);
    for (int i = 0; i < STEPS; i++) {
        kr_mail_free(d->mail[i]);
        kr_free(d->was[i]);
    }
    if (d->few.lm.g) kr_lm_free(&d->few.lm);
    if (d->many.lm.g) kr_lm_free(&d->many.lm);
    kr_weights_free(&d->weights);
    kr_free(d->lane_of);
    kr_free(d->row_of);
    kr_free(d->seen);
    kr_free(d);
}

/* ---- lanes ----------------------------------------------------------------------------------- */

static int put_seen(kr_decoder *d, int64_t lane, const int32_t *ids, int64_t n, krait_error *e) {
    if (!d->table[KR_SAMPLE_SEEN]) return 0;
    memset(d->seen, 0, (size_t)d->vocabulary);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] >= 0 && ids[i] < d->vocabulary) d->seen[ids[i]] = 1;
    return put(d, KR_SAMPLE_SEEN, lane, d->seen, (size_t)d->vocabulary, e);
}

int kr_decoder_join(kr_decoder *d, int64_t lane, uint64_t seed, const int32_t *ids, int64_t n,
                    krait_error *e) {
    int64_t random[2] = {(int64_t)seed, 0};
    KR_TRY(put(d, KR_SAMPLE_RANDOM, lane, random, sizeof random, e));
    KR_TRY(put_seen(d, lane, ids, n, e));
    KR_TRY(put(d, IDS, d->rows, &ids[n - 1], sizeof *ids, e));
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
    int32_t *ids = d->table[IDS];
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
    stepper *g = d->rows <= d->few.most ? &d->few : &d->many;
    kr_tensor seqs = *kr_value_tensor(g->lm.seqs);
    seqs.shape[0] = size;
    KR_TRY(kr_graph_bind_device(g->lm.g, g->lm.seqs, &seqs, e));
    KR_TRY(kr_graph_run(g->lm.g, size, 0, e));
    KR_TRY(kr_mail_send(d->mail[at], d->table[IDS], (size_t)d->rows * sizeof(int32_t), e));
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
    if (!drawn) return kr_code(e);
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
