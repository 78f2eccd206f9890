/* session.c - timelines of one model: packs spans into passes over one planned graph, and keeps the
 * states.
 *
 * A pass is M token rows cut into sequences (first row, count, lane), as models/lm.h wants them. A
 * call runs as many passes as its spans need: every lane that still has tokens gets its share of
 * the rows of each pass, so lanes advance together, and logits are computed only for the rows that
 * are wanted. States are read and written in place, by lane.
 *
 * Everything is checked before the first pass; from there on, on the CPU, nothing allocates and
 * nothing can fail, so a failed call has moved no lane. On the GPU the states are there, and move
 * by copies within it; what can still fail is the GPU. */
#include <inttypes.h>
#include <krait/krait.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/options.h"
#include "mixers/mixer.h"
#include "serve/session_impl.h"
#include "serve/state_file.h"

/* The most bytes of logits that one pass makes, if that leaves a row for each lane. */
#define LOGIT_BYTES (32 << 20)
/* Token rows of a pass where nobody says how many. */
enum { CHUNK = 512, CHUNK_ON_GPU = 4096 };

/* ---- making and closing ---------------------------------------------------------------------- */

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int check_options(const krait_session_options *o, krait_error *e) {
    if (o->lanes < 1 || o->lanes > INT32_MAX)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "session: %" PRId64 " lanes; 1 or more are needed",
                       o->lanes);
    if (o->max_tokens < 0 || o->max_tokens > INT32_MAX)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "session: max_tokens is %" PRId64 "; 0 (as it suits) or more is needed",
                       o->max_tokens);
    if (o->state_type == KRAIT_F32 || o->state_type == KRAIT_BF16) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT,
                   "session: state_type is %d; KRAIT_F32 (%d) or KRAIT_BF16 (%d) is needed",
                   (int)o->state_type, KRAIT_F32, KRAIT_BF16);
}

/* Whether there are states in bf16 here. */
static int check_state_type(const krait_session *s, krait_error *e) {
    const kr_config *c = &s->model->config;
    if (s->state_type == KR_F32) return 0;
    if (kr_lm_state_bytes(c, true) == kr_lm_state_bytes(c, false))
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                       "states in bf16: the mixer %s has none, its states are f32", c->mixer);
    if (s->level == KR_LEVEL_CUDA && s->model->half) return 0;
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "states in bf16 go with a model in bf16 on a GPU (--device cuda --dtype bf16)");
}

static int view_weights(krait_session *s, krait_error *e) {
    const kr_weights *w = kr_model_weights(s->model);
    for (int64_t i = 0; i < w->count; i++)
        KR_TRY(kr_weights_add(&s->weights, w->items[i].name, &w->items[i].tensor, e));
    kr_weights_sort(&s->weights);
    return 0;
}

static int build_graph(krait_session *s, int threads, krait_error *e) {
    kr_lm_options o = {.tokens = s->max_tokens,
                       .rows = s->max_rows,
                       .sequences = s->lanes,
                       .slots = s->slots,
                       .half_states = s->state_type == KR_BF16};
    o.graph.threads = threads;
    o.graph.level = s->level;
    o.graph.half = s->model->half;
    KR_TRY(kr_lm_build(&s->lm, &s->model->config, &o, e));
    KR_TRY(kr_lm_bind_weights(&s->lm, &s->weights, e));
    KR_TRY(kr_graph_plan(s->lm.g, e));
    int rc = kr_graph_allocate(s->lm.g, e);
    if (rc == KRAIT_ERR_MEMORY)
        kr_fail_prefix(e, "lanes %lld, chunk %lld (less of --lanes or --chunk takes less)",
                       (long long)s->lanes, (long long)s->max_tokens);
    return rc;
}

/* A block of n * size bytes, zeroed, counted in s->bytes; NULL when memory fails. */
static void *room(krait_session *s, int64_t n, size_t size) {
    s->bytes += (size_t)n * size;
    return kr_calloc((size_t)n, size);
}

static int allocate_buffers(krait_session *s, krait_error *e) {
    s->position = room(s, s->lanes, sizeof *s->position);
    s->next = room(s, s->lanes, sizeof *s->next);
    s->taken = room(s, s->lanes, sizeof *s->taken);
    s->cursors = room(s, s->lanes, sizeof *s->cursors);
    s->ids = room(s, s->max_tokens, sizeof *s->ids);
    s->seqs = room(s, s->lanes, sizeof *s->seqs);
    s->rows = room(s, s->max_rows, sizeof *s->rows);
    s->out = room(s, s->max_rows, sizeof *s->out);
    s->state = room(s, s->lm.n_states, sizeof *s->state);
    s->state_bytes = room(s, s->lm.n_states, sizeof *s->state_bytes);
    if (!s->position || !s->next || !s->taken || !s->cursors || !s->ids || !s->seqs || !s->rows ||
        !s->out || !s->state || !s->state_bytes)
        return kr_fail_memory(e, "a session");
    for (int64_t i = 0; i < s->lanes; i++) s->next[i] = -1;
    return 0;
}

/* v's tensor with n first rows at `data`. */
static kr_tensor rows_of(const kr_value *v, void *data, int64_t n) {
    kr_tensor t = *kr_value_tensor(v);
    int64_t shape[KR_MAX_RANK];
    for (int i = 0; i < t.rank; i++) shape[i] = i == 0 ? n : t.shape[i];
    return kr_tensor_make(data, t.dtype, t.rank, shape);
}

static int bind(krait_session *s, kr_value *v, void *data, int64_t n, krait_error *e) {
    kr_tensor t = rows_of(v, data, n);
    return kr_graph_bind(s->lm.g, v, &t, e);
}

int kr_session_bind_states(const krait_session *s, kr_lm *lm, krait_error *e) {
    for (int i = 0; i < lm->n_states; i++) {
        kr_tensor t = rows_of(lm->state_in[i], s->state[i], s->slots);
        KR_TRY(kr_graph_bind(lm->g, lm->state_in[i], &t, e));
        KR_TRY(kr_graph_bind(lm->g, lm->state_out[i], &t, e));
    }
    return 0;
}

/* Each tensor begins on whole vectors. */
static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

static int allocate_states(krait_session *s, krait_error *e) {
    size_t total = 0, offset = 0;
    for (int i = 0; i < s->lm.n_states; i++) {
        size_t bytes = kr_tensor_bytes(kr_value_tensor(s->lm.state_in[i]));
        s->state_bytes[i] = bytes / (size_t)s->slots;
        total += aligned(bytes);
    }
    s->block = kr_device_alloc(s->level, total);
    if (!s->block)
        return kr_fail(e, KRAIT_ERR_MEMORY,
                       "not enough memory for the states of %" PRId64 " lanes: they take %.1f MB",
                       s->lanes, (double)total / 1e6);
    KR_TRY(kr_device_fill(s->level, s->block, 0, total, e));
    s->bytes += total;
    for (int i = 0; i < s->lm.n_states; i++) {
        s->state[i] = s->block + offset;
        offset += aligned(s->state_bytes[i] * (size_t)s->slots);
    }
    return kr_session_bind_states(s, &s->lm, e);
}

static int make(krait_session *s, const krait_session_options *o, krait_error *e) {
    /* of a model that reads numbers there are none: the graph refuses it */
    int64_t row_bytes = larger(1, s->model->config.vocabulary) * (int64_t)sizeof(float);
    s->lanes = o->lanes;
    s->state_type = (kr_dtype)o->state_type;
    KR_TRY(kr_model_level(s->model, &s->level, e));
    KR_TRY(check_state_type(s, e));
    bool gpu = s->level == KR_LEVEL_CUDA;
    s->slots = s->lanes + gpu;
    s->max_tokens = o->max_tokens ? o->max_tokens : gpu ? CHUNK_ON_GPU : CHUNK;
    s->max_rows = smaller(s->max_tokens, larger(s->lanes, larger(1, LOGIT_BYTES / row_bytes)));
    KR_TRY(view_weights(s, e));
    KR_TRY(build_graph(s, o->threads, e));
    KR_TRY(allocate_buffers(s, e));
    KR_TRY(allocate_states(s, e));
    KR_TRY(bind(s, s->lm.ids, s->ids, s->max_tokens, e));
    KR_TRY(bind(s, s->lm.rows, s->rows, s->max_rows, e));
    kr_plan_sizes sizes;
    kr_graph_sizes(s->lm.g, &sizes);
    s->bytes += sizes.activations + sizes.scratch;
    return 0;
}

int krait_session_create(krait_session **out, const krait_model *model,
                         const krait_session_options *options, krait_error *e) {
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    if (out) *out = NULL;
    if (!out || !model) return kr_fail_null(e, "krait_session_create");
    KR_TRY(kr_options_read(&o, sizeof o, options, "krait_session_options", e));
    KR_TRY(check_options(&o, e));
    krait_session *s = kr_calloc(1, sizeof *s);
    if (!s) return kr_fail_memory(e, "a session");
    s->model = model;
    int rc = make(s, &o, e);
    if (rc < 0) {
        krait_session_close(&s);
        return rc;
    }
    *out = s;
    return 0;
}

void krait_session_close(krait_session **session) {
    krait_session *s = session ? *session : NULL;
    if (!s) return;
    kr_device_free(s->level, s->block);
    void *const blocks[] = {s->state,   s->state_bytes, s->position, s->next, s->taken,
                            s->cursors, s->ids,         s->seqs,     s->rows, s->out};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) kr_free(blocks[i]);
    if (s->lm.g) kr_lm_free(&s->lm);
    kr_weights_free(&s->weights);
    kr_free(s);
    *session = NULL;
}

int64_t krait_session_bytes(const krait_session *s) { return s ? (int64_t)s->bytes : 0; }

/* ---- forward --------------------------------------------------------------------------------- */

static int check_lane(const krait_session *s, int64_t lane, krait_error *e) {
    if (!s) return kr_fail(e, KRAIT_ERR_ARGUMENT, "the session is NULL");
    if (lane >= 0 && lane < s->lanes) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "lane %" PRId64 " of a session with %" PRId64, lane,
                   s->lanes);
}

static int check_ids(const krait_session *s, const krait_span *span, krait_error *e) {
    int64_t v = s->model->config.vocabulary;
    if (span->count < 0 || (span->count == 0 && span->want == KRAIT_WANT_LAST))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "a span of %" PRId64 " tokens for lane %" PRId64,
                       span->count, span->lane);
    if (span->want != KRAIT_WANT_NONE && span->want != KRAIT_WANT_LAST &&
        span->want != KRAIT_WANT_ALL)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "the span for lane %" PRId64 " wants %d", span->lane,
                       (int)span->want);
    if (!span->ids && span->count > 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "the ids of the span for lane %" PRId64 " are NULL",
                       span->lane);
    for (int64_t i = 0; i < span->count; i++)
        if (span->ids[i] < 0 || span->ids[i] >= v)
            return kr_fail(e, KRAIT_ERR_ARGUMENT,
                           "token id %" PRId32 " at position %" PRId64
                           "; the model's go from 0 to %" PRId64,
                           span->ids[i], i, v - 1);
    return 0;
}

/* Checks all spans; returns the rows of logits that they want. */
static int64_t check_spans(krait_session *s, const krait_span *spans, int64_t n, krait_error *e) {
    int64_t rows = 0;
    memset(s->taken, 0, (size_t)s->lanes * sizeof *s->taken);
    for (int64_t i = 0; i < n; i++) {
        const krait_span *span = &spans[i];
        KR_TRY(check_lane(s, span->lane, e));
        if (s->taken[span->lane])
            return kr_fail(e, KRAIT_ERR_ARGUMENT, "two spans for lane %" PRId64, span->lane);
        KR_TRY(check_ids(s, span, e));
        s->taken[span->lane] = true;
        s->cursors[i] = (kr_session_cursor){0, rows};
        rows += span->want == KRAIT_WANT_ALL ? span->count : span->want == KRAIT_WANT_LAST;
    }
    return rows;
}

/* How many of the span's next tokens can join the pass without asking for more rows of logits than
 * are left. */
static int64_t fit_rows(const krait_session *s, const krait_span *span, int64_t left,
                        int64_t take) {
    int64_t free_rows = s->max_rows - s->n_rows;
    if (span->want == KRAIT_WANT_ALL) return smaller(take, free_rows);
    if (span->want == KRAIT_WANT_LAST && take == left && free_rows == 0) return take - 1;
    return take;
}

static void pick_row(krait_session *s, kr_session_cursor *c, int64_t row) {
    s->rows[s->n_rows] = row;
    s->out[s->n_rows++] = c->out++;
}

static void add_tokens(krait_session *s, const krait_span *span, kr_session_cursor *c,
                       int64_t take) {
    int64_t first = s->n_ids;
    memcpy(s->ids + first, span->ids + c->done, (size_t)take * sizeof *s->ids);
    s->seqs[s->n_seqs][0] = first;
    s->seqs[s->n_seqs][1] = take;
    s->seqs[s->n_seqs++][2] = span->lane;
    s->n_ids += take;
    c->done += take;
    if (span->want == KRAIT_WANT_ALL)
        for (int64_t i = 0; i < take; i++) pick_row(s, c, first + i);
    if (span->want == KRAIT_WANT_LAST && c->done == span->count) pick_row(s, c, s->n_ids - 1);
}

/* Fills the next pass; false when all spans are done. Each lane with tokens left gets an equal
 * share of the rows that those before it did not take. */
static bool pack(krait_session *s, const krait_span *spans, int64_t n) {
    int64_t active = 0;
    s->n_ids = s->n_seqs = s->n_rows = 0;
    for (int64_t i = 0; i < n; i++) active += s->cursors[i].done < spans[i].count;
    for (int64_t i = 0; i < n && s->n_ids < s->max_tokens; i++) {
        kr_session_cursor *c = &s->cursors[i];
        int64_t left = spans[i].count - c->done, free_ids = s->max_tokens - s->n_ids;
        if (left == 0) continue;
        int64_t take = smaller(left, larger(1, free_ids / active--));
        take = fit_rows(s, &spans[i], left, take);
        if (take > 0) add_tokens(s, &spans[i], c, take);
    }
    return s->n_ids > 0;
}

static int run_pass(krait_session *s, float *logits, krait_error *e) {
    int64_t v = s->model->config.vocabulary;
    KR_TRY(bind(s, s->lm.seqs, s->seqs, s->n_seqs, e));
    KR_TRY(kr_graph_run(s->lm.g, s->n_ids, s->n_rows, e));
    if (s->n_rows == 0) return 0;
    const float *made = kr_graph_fetch(s->lm.g, s->lm.logits, e);
    if (!made) return kr_code(e);
    for (int64_t i = 0; i < s->n_rows; i++)
        memcpy(logits + s->out[i] * v, made + i * v, (size_t)v * sizeof *logits);
    return 0;
}

int krait_session_forward(krait_session *s, const krait_span *spans, int64_t n_spans, float *logits,
                          krait_error *e) {
    if (!s || n_spans < 0 || (!spans && n_spans > 0))
        return kr_fail_null(e, "krait_session_forward");
    int64_t rows = check_spans(s, spans, n_spans, e);
    if (rows < 0) return (int)rows;
    if (rows > 0 && !logits)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "logits are wanted, but there is no place for them");
    while (pack(s, spans, n_spans)) KR_TRY(run_pass(s, logits, e));
    for (int64_t i = 0; i < n_spans; i++) {
        s->position[spans[i].lane] += spans[i].count;
        if (spans[i].count > 0) s->next[spans[i].lane] = -1;
    }
    return 0;
}

/* ---- lanes ----------------------------------------------------------------------------------- */

int64_t krait_session_position(const krait_session *s, int64_t lane) {
    return s && lane >= 0 && lane < s->lanes ? s->position[lane] : -1;
}

int32_t krait_session_next(const krait_session *s, int64_t lane) {
    return s && lane >= 0 && lane < s->lanes ? s->next[lane] : -1;
}

int krait_session_set_next(krait_session *s, int64_t lane, int32_t id, krait_error *e) {
    KR_TRY(check_lane(s, lane, e));
    if (id < -1 || id >= s->model->config.vocabulary)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "token id %" PRId32 " is outside the model's vocabulary", id);
    s->next[lane] = id;
    return 0;
}

static char *lane_state(const krait_session *s, int i, int64_t lane) {
    return (char *)s->state[i] + s->state_bytes[i] * (size_t)lane;
}

int krait_session_reset(krait_session *s, int64_t lane, krait_error *e) {
    KR_TRY(check_lane(s, lane, e));
    for (int i = 0; i < s->lm.n_states; i++)
        KR_TRY(kr_device_fill(s->level, lane_state(s, i, lane), 0, s->state_bytes[i], e));
    s->position[lane] = 0;
    s->next[lane] = -1;
    return 0;
}

/* Within a level, or between the GPU and the CPU. */
static int move_bytes(kr_level to_level, void *to, kr_level from_level, const void *from,
                      size_t bytes, krait_error *e) {
    if ((to_level == KR_LEVEL_CUDA) == (from_level == KR_LEVEL_CUDA))
        return kr_device_copy(to_level, to, from, bytes, e);
    return to_level == KR_LEVEL_CUDA ? kr_device_put(to_level, to, from, bytes, e)
                                     : kr_device_get(from_level, to, from, bytes, e);
}

int krait_session_copy(krait_session *to, int64_t to_lane, const krait_session *from,
                       int64_t from_lane, krait_error *e) {
    KR_TRY(check_lane(to, to_lane, e));
    KR_TRY(check_lane(from, from_lane, e));
    if (to->model->hash != from->model->hash)
        return kr_fail(e, KRAIT_ERR_MISMATCH, "the two sessions are of different models");
    if (to->state_type != from->state_type)
        return kr_fail(e, KRAIT_ERR_MISMATCH, "one session's states are f32, the other's bf16");
    for (int i = 0; i < to->lm.n_states; i++)
        KR_TRY(move_bytes(to->level, lane_state(to, i, to_lane), from->level,
                          lane_state(from, i, from_lane), to->state_bytes[i], e));
    to->position[to_lane] = from->position[from_lane];
    to->next[to_lane] = from->next[from_lane];
    return 0;
}

/* The lane's states for a file: where they are, or copied to `room`. */
static int gather(const krait_session *s, int64_t lane, char *room, const void **parts,
                  uint64_t *sizes, krait_error *e) {
    for (int i = 0; i < s->lm.n_states; i++) {
        sizes[i] = s->state_bytes[i];
        parts[i] = room ? room : lane_state(s, i, lane);
        if (!room) continue;
        KR_TRY(kr_device_get(s->level, room, lane_state(s, i, lane), s->state_bytes[i], e));
        room += s->state_bytes[i];
    }
    return 0;
}

int krait_session_save_state(const krait_session *s, int64_t lane, const char *path,
                             krait_error *e) {
    KR_TRY(check_lane(s, lane, e));
    if (!path) return kr_fail_null(e, "krait_session_save_state");
    size_t n = (size_t)s->lm.n_states, bytes = 0;
    for (size_t i = 0; i < n; i++) bytes += s->state_bytes[i];
    bool away = s->level == KR_LEVEL_CUDA;
    const void **parts = kr_calloc(n, sizeof *parts);
    uint64_t *sizes = kr_calloc(n, sizeof *sizes);
    char *room = away ? kr_malloc(bytes) : NULL;
    kr_state_file f = {.model_hash = s->model->hash,
                       .dtype = s->state_type,
                       .position = s->position[lane],
                       .next = s->next[lane],
                       .n_tensors = (uint32_t)n};
    int rc = parts && sizes && (room || !away) ? 0 : kr_fail_memory(e, path);
    if (rc == 0) rc = gather(s, lane, room, parts, sizes, e);
    if (rc == 0) rc = kr_state_write(&f, parts, sizes, path, e);
    kr_free(parts);
    kr_free(sizes);
    kr_free(room);
    return rc;
}

/* The hash is also of how the weights are read, which --rate and --set say: what they are here. */
static const char *read_otherwise(const krait_model *m, char text[160]) {
    char value[64];
    const kr_mixer *mixer = kr_mixer_find(m->config.mixer);
    *text = 0;
    for (const char *const *name = mixer->unseen; name && *name; name++) {
        const kr_setting *k = kr_settings_find(mixer->settings, *name, strlen(*name));
        if (strcmp(*name, "rate") == 0)
            snprintf(text, 160, " with rate %s: --rate and --set must be as they were",
                     kr_setting_text(k, m->config.settings, value));
    }
    return text;
}

static int check_state(const krait_session *s, const kr_state_file *f, const char *path,
                       krait_error *e) {
    char text[160];
    if (f->model_hash != s->model->hash)
        return kr_fail(e, KRAIT_ERR_MISMATCH,
                       "%s: the state of another model (its hash is %016" PRIx64
                       ", this one's %016" PRIx64 "%s)",
                       path, f->model_hash, s->model->hash, read_otherwise(s->model, text));
    if (f->dtype != s->state_type)
        return kr_fail(e, KRAIT_ERR_MISMATCH, "%s: its states are %s, this session's are %s: %s",
                       path, kr_dtype_name(f->dtype), kr_dtype_name(s->state_type),
                       f->dtype == KR_BF16
                           ? "it takes --state-type bf16, with --device cuda and --dtype bf16"
                           : "leave out --state-type bf16");
    bool fits = f->n_tensors == (uint32_t)s->lm.n_states && f->next < s->model->config.vocabulary;
    for (uint32_t i = 0; fits && i < f->n_tensors; i++)
        fits = kr_state_tensor_bytes(f, i) == s->state_bytes[i];
    if (fits) return 0;
    return kr_fail(e, KRAIT_ERR_MISMATCH, "%s: its sizes are not those of this model's state",
                   path);
}

static int load(krait_session *s, int64_t lane, const kr_map *map, const char *path,
                krait_error *e) {
    kr_state_file f;
    KR_TRY(kr_state_parse(&f, map->data, map->size, path, e));
    KR_TRY(check_state(s, &f, path, e));
    const unsigned char *p = f.payload;
    for (int i = 0; i < s->lm.n_states; i++) {
        KR_TRY(kr_device_put(s->level, lane_state(s, i, lane), p, s->state_bytes[i], e));
        p += s->state_bytes[i];
    }
    s->position[lane] = f.position;
    s->next[lane] = f.next;
    return 0;
}

int krait_session_load_state(krait_session *s, int64_t lane, const char *path, krait_error *e) {
    kr_map map;
    KR_TRY(check_lane(s, lane, e));
    if (!path) return kr_fail_null(e, "krait_session_load_state");
    KR_TRY(kr_map_open(&map, path, e));
    int rc = load(s, lane, &map, path, e);
    kr_map_close(&map);
    return rc;
}
