/* scorer.c - forward runs that give each token's loss. */
#include "train/scorer.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "device/device.h"

static size_t block_bytes(int64_t tokens, int64_t lanes) {
    return (size_t)tokens * (2 * sizeof(int32_t) + 1) + (size_t)lanes * 3 * sizeof(int64_t);
}

int kr_scorer_create(kr_scorer *s, const kr_config *c, kr_weights *w, const kr_scorer_options *o,
                     krait_error *e) {
    kr_lm_options l = {.graph = o->graph,
                       .tokens = o->tokens,
                       .sequences = o->lanes,
                       .slots = o->lanes,
                       .reset = true,
                       .loss = true,
                       .no_logits = !o->logits};
    memset(s, 0, sizeof *s);
    KR_TRY(kr_lm_build(&s->lm, c, &l, e));
    s->tokens = o->tokens;
    s->lanes = o->lanes;
    s->vocabulary = c->vocabulary;
    int rc = kr_lm_bind_weights(&s->lm, w, e);
    if (rc == 0) rc = kr_graph_plan(s->lm.g, e);
    if (rc < 0) kr_scorer_free(s);
    return rc;
}

size_t kr_scorer_bytes(const kr_scorer *s, const kr_graph *over) {
    kr_plan_sizes sizes;
    kr_graph_sizes(s->lm.g, &sizes);
    size_t own = over && kr_graph_fits(s->lm.g, over) ? 0 : sizes.activations + sizes.scratch;
    return own + sizes.inputs + kr_lane_states_bytes(&s->lm, false) +
           block_bytes(s->tokens, s->lanes);
}

static int bind_inputs(kr_scorer *s, krait_error *e) {
    kr_tensor ids = kr_tensor_make(s->ids, KR_I32, 1, &s->tokens);
    kr_tensor targets = kr_tensor_make(s->targets, KR_I32, 1, &s->tokens);
    kr_tensor reset = kr_tensor_make(s->reset, KR_U8, 1, &s->tokens);
    KR_TRY(kr_graph_bind(s->lm.g, s->lm.ids, &ids, e));
    KR_TRY(kr_graph_bind(s->lm.g, s->lm.targets, &targets, e));
    return kr_graph_bind(s->lm.g, s->lm.reset, &reset, e);
}

int kr_scorer_allocate(kr_scorer *s, const kr_graph *over, krait_error *e) {
    if (over && kr_graph_fits(s->lm.g, over))
        KR_TRY(kr_graph_allocate_over(s->lm.g, over, e));
    else
        KR_TRY(kr_graph_allocate(s->lm.g, e));
    KR_TRY(kr_lane_states_create(&s->states, &s->lm, false, e));
    s->block = kr_aligned(block_bytes(s->tokens, s->lanes));
    if (!s->block) return kr_fail_memory(e, "evaluation");
    s->seqs = s->block;
    s->ids = (int32_t *)(s->seqs + 3 * s->lanes);
    s->targets = s->ids + s->tokens;
    s->reset = (uint8_t *)(s->targets + s->tokens);
    return bind_inputs(s, e);
}

void kr_scorer_free(kr_scorer *s) {
    kr_lane_states_free(&s->states);
    if (s->lm.g) kr_lm_free(&s->lm);
    kr_free(s->block);
    memset(s, 0, sizeof *s);
}

void kr_scorer_refresh(kr_scorer *s) { kr_graph_params_changed(s->lm.g); }

int kr_scorer_run(kr_scorer *s, int64_t m, int64_t n, krait_error *e) {
    kr_tensor seqs = kr_tensor_make(s->seqs, KR_I64, 2, (const int64_t[]){n, 3});
    KR_TRY(kr_graph_bind(s->lm.g, s->lm.seqs, &seqs, e));
    KR_TRY(kr_graph_run(s->lm.g, m, 0, e));
    s->nll = kr_graph_fetch(s->lm.g, s->lm.nll, e);
    if (s->nll) return 0;
    return kr_code(e);
}

const float *kr_scorer_nll(const kr_scorer *s) { return s->nll; }

const float *kr_scorer_logits(kr_scorer *s, krait_error *e) {
    return kr_graph_fetch(s->lm.g, s->lm.logits, e);
}
