/* generate_gpu.c - the rounds of generation on the GPU: prompts are read but for their last token,
 * with which a lane joins the steps of decoder.c; the texts grow a step behind.
 *
 * A step is queued before the tokens of the one before it are read, so the GPU never waits for the
 * host. A lane whose end token comes by surprise has taken part in one step too many, which moved
 * its state on: where the state is to be saved, each step is read before the next is queued. */
#include "base/err.h"
#include "serve/decoder.h"
#include "serve/generate_impl.h"

/* Reads the prompts of new lanes, which then decode, or are done where only that was asked. */
static int read_prompts(kr_batch *b, kr_decoder *d, krait_error *e) {
    int64_t n = 0;
    double start = kr_batch_now();
    for (int64_t i = 0; i < b->n_lanes; i++) {
        kr_lane *l = &b->lanes[i];
        if (l->index < 0 || l->started) continue;
        b->order[n] = l;
        b->spans[n++] = (krait_span){i, l->prompt, l->n_prompt - 1, KRAIT_WANT_NONE};
    }
    if (n == 0) return 0;
    KR_TRY(krait_session_forward(b->session, b->spans, n, NULL, e));
    KR_TRY(kr_device_wait(b->session->level, e));
    b->stats.prompt_seconds += kr_batch_now() - start;
    for (int64_t i = 0; i < n; i++) {
        kr_lane *l = b->order[i];
        uint64_t seed = b->o.sampler.seed + (uint64_t)l->index;
        l->started = true;
        if (b->o.tokens == 0)
            KR_TRY(kr_batch_finish(b, l, l->prompt[l->n_prompt - 1], e));
        else
            KR_TRY(kr_decoder_join(d, l - b->lanes, seed, l->prompt, l->n_prompt, e));
    }
    return 0;
}

/* Queues a step; lanes for which it is the last leave. */
static int queue_step(kr_batch *b, kr_decoder *d, krait_error *e) {
    if (kr_decoder_lanes(d) == 0) return 0;
    KR_TRY(kr_decoder_step(d, e));
    for (int64_t i = 0; i < b->n_lanes; i++) {
        kr_lane *l = &b->lanes[i];
        if (l->index < 0 || l->n_queued == b->o.tokens) continue;
        if (++l->n_queued == b->o.tokens) KR_TRY(kr_decoder_leave(d, i, true, e));
    }
    return 0;
}

static int take_token(kr_batch *b, kr_decoder *d, kr_lane *l, int32_t id, krait_error *e) {
    bool ended = id == b->end && !b->o.ignore_end;
    if (!ended) KR_TRY(kr_batch_add(b, l, id, e));
    if (!ended && l->n_ids < b->o.tokens) return 0;
    KR_TRY(kr_decoder_leave(d, l - b->lanes, false, e));
    return kr_batch_finish(b, l, id, e);
}

/* Takes the tokens of the oldest step under way. Returns 1 when there was one. */
static int take_step(kr_batch *b, kr_decoder *d, krait_error *e) {
    int some = kr_decoder_read(d, b->drawn, e);
    for (int64_t i = 0; some > 0 && i < b->n_lanes; i++)
        if (b->drawn[i] >= 0) KR_TRY(take_token(b, d, &b->lanes[i], b->drawn[i], e));
    return some;
}

static int run_steps(kr_batch *b, kr_decoder *d, krait_error *e) {
    int64_t ahead = b->o.state_out ? 0 : KR_DECODER_STEPS - 1;
    double start = kr_batch_now(), reading = b->stats.prompt_seconds;
    while (kr_batch_busy(b)) {
        KR_TRY(kr_batch_fill(b, e));
        KR_TRY(read_prompts(b, d, e));
        KR_TRY(queue_step(b, d, e));
        while (kr_decoder_unread(d) > (kr_decoder_lanes(d) > 0 ? ahead : 0))
            KR_TRY(take_step(b, d, e));
    }
    b->stats.decode_seconds = kr_batch_now() - start - (b->stats.prompt_seconds - reading);
    return 0;
}

int kr_batch_run_gpu(kr_batch *b, krait_error *e) {
    krait_sampler *check;
    kr_decoder *d;
    KR_TRY(krait_sampler_create(&check, b->info.vocabulary_used, &b->o.sampler, e));
    krait_sampler_close(&check);
    KR_TRY(kr_decoder_create(&d, b->session, b->info.vocabulary_used, &b->o.sampler, e));
    int rc = run_steps(b, d, e);
    kr_decoder_free(d);
    return rc;
}
