/* generate.c - prompts to texts: a ragged batch over a session's lanes, in which a lane that ends
 * takes the next prompt.
 *
 * A round reads the prompts of lanes that just started (in chunks, together), then one token for
 * every running lane. What a prompt gives does not depend on its company: each lane has its own
 * state and its own sampler, seeded with seed + index.
 *
 * The token drawn last is never read, so a saved state stands before it and carries it as `next`:
 * reading it is the first thing that a resumed run does, with the same numbers as the run that was
 * not interrupted.
 *
 * On the GPU the rounds are those of generate_gpu.c; beginning, adding to a text and ending are
 * common. */
#include <inttypes.h>
#include <krait/krait.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/options.h"
#include "serve/generate_impl.h"

double kr_batch_now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int cancelled(krait_error *e) {
    return kr_fail(e, KRAIT_ERR_CANCELLED, "stopped by the caller");
}

/* ---- a lane begins --------------------------------------------------------------------------- */

/* Makes room for `more` ids behind the `first` that the lane's prompt begins with. */
static int room_for_prompt(kr_lane *l, int64_t first, int64_t more, krait_error *e) {
    l->n_prompt = first + more;
    l->prompt = kr_calloc((size_t)l->n_prompt + 1, sizeof *l->prompt);
    return l->prompt ? 0 : kr_fail_memory(e, "a prompt");
}

static int take_ids(kr_batch *b, kr_lane *l, int64_t first, krait_error *e) {
    const int32_t *ids = b->o.ids[l->index];
    int64_t n = b->o.counts[l->index];
    if (n < 0) return kr_fail(e, KRAIT_ERR_ARGUMENT, "a prompt of %" PRId64 " tokens", n);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= b->info.vocabulary)
            return kr_fail(e, KRAIT_ERR_ARGUMENT,
                           "prompt %" PRId64 ": token id %" PRId32
                           "; the model's go from 0 to %" PRId64,
                           l->index + 1, ids[i], b->info.vocabulary - 1);
    KR_TRY(room_for_prompt(l, first, n, e));
    if (n > 0) memcpy(l->prompt + first, ids, (size_t)n * sizeof *ids);
    return 0;
}

static int take_text(kr_batch *b, kr_lane *l, int64_t first, krait_error *e) {
    const char *text = b->prompts[l->index];
    size_t length = strlen(text);
    if (!b->tokenizer) return room_for_prompt(l, first, 0, e); /* an empty one: check() saw it */
    int64_t n = krait_tokenizer_encode(b->tokenizer, text, length, NULL, 0, e);
    if (n < 0) return (int)n;
    KR_TRY(room_for_prompt(l, first, n, e));
    n = krait_tokenizer_encode(b->tokenizer, text, length, l->prompt + first, n, e);
    return n < 0 ? (int)n : 0;
}

/* The lane's prompt: the token that a loaded state carries, then the given ids or text; or the end
 * token. */
static int take_prompt(kr_batch *b, kr_lane *l, int64_t at, krait_error *e) {
    int32_t next = krait_session_next(b->session, at);
    int64_t first = next >= 0;
    KR_TRY(b->o.ids ? take_ids(b, l, first, e) : take_text(b, l, first, e));
    if (next >= 0) l->prompt[0] = next;
    if (l->n_prompt > 0) return 0;
    if (b->o.state_in)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s carries no next token: a prompt is needed",
                       b->o.state_in);
    if (b->end < 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "prompt %" PRId64 " is empty, and the model has no end token to begin with",
                       l->index + 1);
    l->prompt[l->n_prompt++] = b->end;
    return 0;
}

static int start_lane(kr_batch *b, int64_t at, krait_error *e) {
    kr_lane *l = &b->lanes[at];
    krait_sampler_options o = b->o.sampler;
    l->index = b->begun++;
    o.seed += (uint64_t)l->index;
    if (b->o.state_in)
        KR_TRY(krait_session_load_state(b->session, at, b->o.state_in, e));
    else
        KR_TRY(krait_session_reset(b->session, at, e));
    KR_TRY(take_prompt(b, l, at, e));
    b->stats.prompt_tokens += l->n_prompt;
    if (kr_batch_on_gpu(b)) return 0;
    KR_TRY(krait_sampler_create(&l->sampler, b->info.vocabulary_used, &o, e));
    for (int64_t i = 0; i < l->n_prompt; i++) krait_sampler_accept(l->sampler, l->prompt[i]);
    return 0;
}

static void clear_lane(kr_lane *l) {
    krait_sampler_close(&l->sampler);
    kr_free(l->prompt);
    kr_free(l->ids);
    kr_text_free(&l->text);
    *l = (kr_lane){.index = -1};
}

/* ---- a lane goes on, and ends ---------------------------------------------------------------- */

/* Hands out what became whole since the last time. */
static int show(kr_batch *b, kr_lane *l, krait_error *e) {
    size_t length = l->text.length - l->shown;
    if (!b->o.on_text || length == 0) return 0;
    int stop = b->o.on_text(b->o.user, l->index, l->text.text + l->shown, length);
    l->shown = l->text.length;
    return stop ? cancelled(e) : 0;
}

static int add_text(kr_batch *b, kr_lane *l, int32_t id, krait_error *e) {
    char small[256], *bytes = small;
    if (!b->tokenizer) return 0;
    int64_t n = krait_tokenizer_decode(b->tokenizer, &id, 1, small, sizeof small, e);
    if (n < 0) return (int)n;
    if ((size_t)n > sizeof small) {
        bytes = kr_malloc((size_t)n);
        if (!bytes) return kr_fail_memory(e, "the text of a token");
        n = krait_tokenizer_decode(b->tokenizer, &id, 1, bytes, n, e);
    }
    int rc = n < 0                                          ? (int)n
             : kr_text_push(&l->text, bytes, (size_t)n) < 0 ? kr_fail_memory(e, "text")
                                                            : 0;
    if (bytes != small) kr_free(bytes);
    return rc < 0 ? rc : show(b, l, e);
}

int kr_batch_add(kr_batch *b, kr_lane *l, int32_t id, krait_error *e) {
    if (kr_grow((void **)&l->ids, &l->capacity, (size_t)l->n_ids + 1, sizeof *l->ids) < 0)
        return kr_fail_memory(e, "the tokens of a text");
    l->ids[l->n_ids++] = id;
    b->stats.new_tokens++;
    return add_text(b, l, id, e);
}

/* Saves the state, which has not read `next`, reports, and frees the lane. */
int kr_batch_finish(kr_batch *b, kr_lane *l, int32_t next, krait_error *e) {
    int64_t at = l - b->lanes;
    if (kr_text_end(&l->text) < 0) return kr_fail_memory(e, "text");
    KR_TRY(show(b, l, e));
    if (b->o.state_out) {
        KR_TRY(krait_session_set_next(b->session, at, next, e));
        KR_TRY(krait_session_save_state(b->session, at, b->o.state_out, e));
    }
    int stop = b->o.on_done &&
               b->o.on_done(b->o.user, l->index, l->ids, l->n_ids, l->text.text, l->text.length);
    clear_lane(l);
    return stop ? cancelled(e) : 0;
}

/* Draws the lane's next token. */
static int advance_lane(kr_batch *b, kr_lane *l, const float *logits, krait_error *e) {
    int32_t id = krait_sampler_draw(l->sampler, logits, e);
    if (id < 0) return id;
    bool ended = id == b->end && !b->o.ignore_end;
    if (!ended) KR_TRY(kr_batch_add(b, l, id, e));
    return ended || l->n_ids == b->o.tokens ? kr_batch_finish(b, l, id, e) : 0;
}

/* ---- rounds ---------------------------------------------------------------------------------- */

/* Collects a span for every lane whose `started` is as asked; lanes that want no new token leave
 * their last one unread. */
static int64_t collect(kr_batch *b, bool started) {
    int64_t n = 0;
    for (int64_t i = 0; i < b->n_lanes; i++) {
        kr_lane *l = &b->lanes[i];
        if (l->index < 0 || l->started != started) continue;
        b->order[n] = l;
        b->spans[n++] = started ? (krait_span){i, &l->ids[l->n_ids - 1], 1, KRAIT_WANT_LAST}
                        : b->o.tokens > 0
                            ? (krait_span){i, l->prompt, l->n_prompt, KRAIT_WANT_LAST}
                            : (krait_span){i, l->prompt, l->n_prompt - 1, KRAIT_WANT_NONE};
    }
    return n;
}

/* One call of the session for the lanes that stand where asked, then a draw for each. */
static int run_round(kr_batch *b, bool started, double *seconds, krait_error *e) {
    int64_t n = collect(b, started);
    double start = kr_batch_now();
    if (n == 0) return 0;
    KR_TRY(krait_session_forward(b->session, b->spans, n, b->logits, e));
    *seconds += kr_batch_now() - start;
    for (int64_t i = 0; i < n; i++) {
        kr_lane *l = b->order[i];
        l->started = true;
        if (b->o.tokens == 0)
            KR_TRY(kr_batch_finish(b, l, l->prompt[l->n_prompt - 1], e));
        else
            KR_TRY(advance_lane(b, l, b->logits + i * b->info.vocabulary, e));
    }
    return 0;
}

bool kr_batch_busy(const kr_batch *b) {
    bool busy = b->begun < b->n;
    for (int64_t i = 0; i < b->n_lanes; i++) busy = busy || b->lanes[i].index >= 0;
    return busy;
}

int kr_batch_fill(kr_batch *b, krait_error *e) {
    for (int64_t i = 0; i < b->n_lanes && b->begun < b->n; i++)
        if (b->lanes[i].index < 0) KR_TRY(start_lane(b, i, e));
    return 0;
}

static int run_all(kr_batch *b, krait_error *e) {
    while (kr_batch_busy(b)) {
        KR_TRY(kr_batch_fill(b, e));
        KR_TRY(run_round(b, false, &b->stats.prompt_seconds, e));
        KR_TRY(run_round(b, true, &b->stats.decode_seconds, e));
    }
    return 0;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int check(const kr_batch *b, krait_error *e) {
    const krait_generate_options *o = &b->o;
    if (b->n < 0 || o->tokens < 0 || o->lanes < 1)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "generate: %" PRId64 " prompts, %" PRId64 " tokens, %" PRId64 " lanes", b->n,
                       o->tokens, o->lanes);
    if ((o->state_in || o->state_out) && b->n != 1)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "generate: a state file goes with one prompt, not %" PRId64, b->n);
    if (o->ids ? !o->counts : !b->prompts && b->n > 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "generate: there are no prompts");
    for (int64_t i = 0; i < b->n; i++) {
        if (o->ids ? !o->ids[i] && o->counts[i] > 0 : !b->prompts[i])
            return kr_fail(e, KRAIT_ERR_ARGUMENT, "generate: prompt %" PRId64 " is NULL", i + 1);
        if (!o->ids && !b->tokenizer && b->prompts[i][0])
            return kr_fail(e, KRAIT_ERR_ARGUMENT,
                           "generate: the model has no tokenizer: give token ids");
    }
    return 0;
}

static int make(kr_batch *b, const krait_model *model, krait_error *e) {
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    b->n_lanes = o.lanes = b->n < b->o.lanes ? b->n : b->o.lanes;
    o.max_tokens = b->o.max_tokens;
    o.state_type = b->o.state_type;
    o.threads = b->o.threads;
    KR_TRY(krait_session_create(&b->session, model, &o, e));
    size_t n = (size_t)b->n_lanes;
    b->lanes = kr_calloc(n, sizeof *b->lanes);
    b->spans = kr_calloc(n, sizeof *b->spans);
    b->order = kr_calloc(n, sizeof(kr_lane *));
    b->drawn = kr_calloc(n, sizeof *b->drawn);
    bool gpu = kr_batch_on_gpu(b);
    if (!gpu) b->logits = kr_calloc(n * (size_t)b->info.vocabulary, sizeof *b->logits);
    if (!b->lanes || !b->spans || !b->order || !b->drawn || (!gpu && !b->logits))
        return kr_fail_memory(e, "generation");
    for (size_t i = 0; i < n; i++) b->lanes[i].index = -1;
    return 0;
}

static void clear(kr_batch *b) {
    for (int64_t i = 0; b->lanes && i < b->n_lanes; i++) clear_lane(&b->lanes[i]);
    kr_free(b->lanes);
    kr_free(b->spans);
    kr_free(b->order);
    kr_free(b->logits);
    kr_free(b->drawn);
    krait_session_close(&b->session);
}

int krait_generate(const krait_model *model, const char *const *prompts, int64_t n,
                   const krait_generate_options *options, krait_generate_stats *stats,
                   krait_error *e) {
    kr_batch b = {.o = KRAIT_GENERATE_OPTIONS_INIT, .prompts = prompts, .n = n};
    if (!model) return kr_fail_null(e, "krait_generate");
    KR_TRY(kr_options_read(&b.o, sizeof b.o, options, "krait_generate_options", e));
    krait_model_describe(model, &b.info);
    b.tokenizer = krait_model_tokenizer(model);
    b.end = b.tokenizer ? krait_tokenizer_end(b.tokenizer) : b.info.end_token;
    KR_TRY(check(&b, e));
    if (n == 0) return 0;
    if (b.o.state_out) KR_TRY(kr_out_check(b.o.state_out, e));
    double start = kr_batch_now();
    int rc = make(&b, model, e);
    b.stats.load_seconds = kr_batch_now() - start;
    if (rc == 0) rc = kr_batch_on_gpu(&b) ? kr_batch_run_gpu(&b, e) : run_all(&b, e);
    if (stats) *stats = b.stats;
    clear(&b);
    return rc;
}
