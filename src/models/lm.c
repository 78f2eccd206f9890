/* lm.c - records the graph of a language model, and connects it to weights. lm.h has the equations.
 */
#include "models/lm.h"

#include <stdio.h>

#include "base/err.h"
#include "base/mem.h"
#include "mixers/mixer.h"
#include "models/block.h"
#include "nn/nn.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "ops/embedding/embedding.h"
#include "ops/gather_rows/gather_rows.h"
#include "ops/linear/linear.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/segment_mean/segment_mean.h"
#include "ops/squared_error/squared_error.h"

/* ---- the graph ------------------------------------------------------------------------------- */

static void add_inputs(kr_lm *lm, const kr_config *c, const kr_lm_options *o) {
    kr_graph *g = lm->g;
    int64_t logit_rows = o->rows > 0 ? o->rows : o->tokens;
    kr_dim0 logit_dim0 = o->rows > 0 ? KR_DIM0_ROWS : KR_DIM0_TOKENS;
    if (c->channels > 0)
        lm->values = kr_graph_input(g, "values", kr_graph_real(g), KR_DIM0_TOKENS, 2,
                                    (int64_t[]){o->tokens, c->channels});
    else
        lm->ids = kr_graph_input(g, "ids", KR_I32, KR_DIM0_TOKENS, 1, &o->tokens);
    lm->seqs = kr_graph_input(g, "seqs", KR_I64, KR_DIM0_FIXED, 2, (int64_t[]){o->sequences, 3});
    if (o->reset) lm->reset = kr_graph_input(g, "reset", KR_U8, KR_DIM0_TOKENS, 1, &o->tokens);
    if (o->rows > 0 && kr_config_tells(c) > 0)
        lm->spans = kr_graph_input(g, "spans", KR_I64, KR_DIM0_ROWS, 2, (int64_t[]){o->rows, 3});
    else if (o->rows > 0)
        lm->rows = kr_graph_input(g, "rows", KR_I64, KR_DIM0_ROWS, 1, &o->rows);
    if (o->graph.training && o->dropout > 0)
        lm->draw = kr_graph_input(g, "draw", KR_I64, KR_DIM0_FIXED, 1, (int64_t[]){2});
    if (!o->loss) return;
    if (c->numbers > 0)
        lm->wanted = kr_graph_input(g, "wanted", kr_graph_real(g), logit_dim0, 2,
                                    (int64_t[]){logit_rows, c->numbers});
    else
        lm->targets = kr_graph_input(g, "targets", KR_I32, logit_dim0, 1, &logit_rows);
    if (o->graph.training)
        lm->seed = kr_graph_input(g, "seed", kr_graph_real(g), logit_dim0, 1, &logit_rows);
}

/* Declares the states of one layer: bound from outside when the options ask for slots. */
static void add_states(kr_lm *lm, const kr_mixer *mixer, kr_nn *nn, int layer,
                       const kr_lm_options *o) {
    kr_state_decl decl[KR_MAX_STATES];
    int n = mixer->states(nn->config, decl);
    for (int i = 0; i < n; i++) {
        nn->state_in[i] = nn->state_out[i] = NULL;
        if (o->slots <= 0) continue;
        int64_t shape[KR_MAX_RANK] = {o->slots};
        for (int d = 0; d < decl[i].rank; d++) shape[d + 1] = decl[i].shape[d];
        char name[64];
        snprintf(name, sizeof name, "layers.%d.%s", layer, decl[i].name);
        kr_dtype t = o->half_states && mixer->half_states >> i & 1 ? KR_BF16 : kr_graph_real(lm->g);
        nn->state_in[i] = kr_graph_state(lm->g, name, t, false, decl[i].rank + 1, shape);
        nn->state_out[i] = kr_graph_state(lm->g, name, t, true, decl[i].rank + 1, shape);
        if (o->state_gradient) kr_graph_want_gradient(lm->g, nn->state_in[i]);
        lm->state_in[lm->n_states] = nn->state_in[i];
        lm->state_out[lm->n_states++] = nn->state_out[i];
    }
}

static kr_value *embed(kr_nn *nn, kr_value *ids) {
    const kr_config *c = nn->config;
    kr_param_decl d = {.name = "backbone.embeddings.weight",
                       .rank = 2,
                       .shape = {c->vocabulary, c->width},
                       .init = {KR_INIT_NORMAL, 0, 0.02, 0},
                       .no_decay = true,
                       .matrix = true};
    kr_value *w = kr_graph_param(nn->g, &d);
    return kr_apply1(nn->g, &kr_op_embedding, NULL, 0, (kr_value *[]){ids, w}, 2);
}

/* Rows of numbers, through a linear map; in f32, as the residual stream is. Its bias begins as its
 * weights do: were it 0, the norm of w x would leave of one number x its sign alone. */
static kr_value *stem(kr_nn *nn, kr_value *values) {
    const kr_config *c = nn->config;
    snprintf(nn->prefix, sizeof nn->prefix, "backbone.");
    kr_init init = kr_init_fan_in(c->channels, 1);
    kr_value *w =
        kr_nn_param(nn, "stem.weight", KR_PARAM_DECAY, init, 2, (int64_t[]){c->width, c->channels});
    kr_value *b = kr_nn_param(nn, "stem.bias", KR_PARAM_PLAIN, init, 1, &c->width);
    return kr_apply1(nn->g, &kr_op_linear, NULL, 0, (kr_value *[]){values, w, b}, 3);
}

/* A head of its own begins as any linear map does; a tied one is the embedding. */
static kr_value *head_weight(kr_nn *nn) {
    const kr_config *c = nn->config;
    kr_init init = kr_init_fan_in(c->width, 1);
    kr_param_decl d = {.rank = 2,
                       .shape = {c->vocabulary, c->width},
                       .init = {init.kind, init.a, init.b, init.c},
                       .no_decay = c->tied,
                       .matrix = true};
    snprintf(d.name, sizeof d.name, "%s",
             c->tied ? "backbone.embeddings.weight" : "lm_head.weight");
    return kr_graph_param(nn->g, &d);
}

/* Classes or numbers: a linear map with a bias, in f32. */
static kr_value *classifier(kr_nn *nn, kr_value *x) {
    const kr_config *c = nn->config;
    int64_t K = kr_config_tells(c);
    snprintf(nn->prefix, sizeof nn->prefix, "head.");
    kr_value *w = kr_nn_param(nn, "weight", KR_PARAM_DECAY, kr_init_fan_in(c->width, 1), 2,
                              (int64_t[]){K, c->width});
    kr_value *b = kr_nn_param(nn, "bias", KR_PARAM_PLAIN, KR_ZEROS, 1, &K);
    return kr_apply1(nn->g, &kr_op_linear, NULL, 0, (kr_value *[]){x, w, b}, 3);
}

static kr_value *head(kr_nn *nn, kr_value *x) {
    if (kr_config_tells(nn->config) > 0) return classifier(nn, x);
    kr_value *w = head_weight(nn);
    kr_value *w16 = kr_nn_half_copy(nn, w);
    kr_linear_attr attr = {.f32_out = 1, .early = nn->step_rows > 0 && !w16};
    return kr_apply1(nn->g, &kr_op_linear, &attr, sizeof attr, (kr_value *[]){x, w, NULL, w16}, 4);
}

/* The picked rows: the head is most of the work of a short prompt. */
static kr_value *picked(kr_lm *lm, kr_value *x) {
    return x ? kr_apply1(lm->g, &kr_op_gather_rows, NULL, 0, (kr_value *[]){x, lm->rows}, 2) : NULL;
}

/* Embedding and layers; returns the normed output of the last, [M,D]. */
static kr_value *backbone(kr_lm *lm, kr_nn *nn, const kr_mixer *mixer, const kr_lm_options *o) {
    kr_graph_scope(lm->g, "embeddings");
    kr_stream s = {.branch = lm->values ? stem(nn, lm->values) : embed(nn, lm->ids)};
    lm->entered = s.branch;
    if (o->input_gradient) kr_graph_want_gradient(lm->g, s.branch);
    for (int i = 0; i < (int)nn->config->layers; i++) {
        add_states(lm, mixer, nn, i, o);
        kr_block_build(nn, mixer, i, &s);
    }
    kr_graph_scope(lm->g, "backbone.norm_f");
    if (lm->rows) {
        s.branch = picked(lm, s.branch);
        s.sum = picked(lm, s.sum);
    }
    kr_value *x = kr_block_last_norm(nn, &s);
    if (!lm->spans) return x;
    return kr_apply1(lm->g, &kr_op_segment_mean, NULL, 0, (kr_value *[]){x, lm->spans}, 2);
}

/* Head and loss in one, which never holds all logits: the GPU's way when nobody wants those. */
static bool is_fused(const kr_lm *lm, const kr_nn *nn, const kr_lm_options *o) {
    return o->loss && kr_config_tells(nn->config) == 0 && (o->no_logits || lm->seed) &&
           o->graph.level == KR_LEVEL_CUDA && !o->graph.f64;
}

static void add_fused_loss(kr_lm *lm, kr_nn *nn, kr_value *x) {
    kr_value *w = head_weight(nn);
    kr_linear_cross_entropy_attr attr = {.with_gradient = lm->seed != NULL};
    lm->nll = kr_apply1(lm->g, &kr_op_linear_cross_entropy, &attr, sizeof attr,
                        (kr_value *[]){x, w, lm->targets, kr_nn_half_copy(nn, w)}, 4);
}

static void add_logits(kr_lm *lm, kr_nn *nn, kr_value *x, const kr_lm_options *o) {
    lm->logits = head(nn, x);
    if (!o->graph.training) kr_graph_output(lm->g, "logits", lm->logits);
    if (!o->loss) return;
    if (lm->wanted)
        lm->nll = kr_apply1(lm->g, &kr_op_squared_error, NULL, 0,
                            (kr_value *[]){lm->logits, lm->wanted}, 2);
    else
        lm->nll = kr_apply1(lm->g, &kr_op_cross_entropy, NULL, 0,
                            (kr_value *[]){lm->logits, lm->targets}, 2);
}

static void add_head(kr_lm *lm, kr_nn *nn, kr_value *x, const kr_lm_options *o) {
    if (is_fused(lm, nn, o))
        add_fused_loss(lm, nn, x);
    else
        add_logits(lm, nn, x, o);
    if (!o->loss) return;
    kr_graph_output(lm->g, "nll", lm->nll);
    if (!lm->seed) return;
    kr_graph_seed(lm->g, lm->nll, lm->seed);
}

/* Gradients that come from after this window: one more input for each state out. */
static void seed_states(kr_lm *lm) {
    for (int i = 0; i < lm->n_states; i++) {
        if (!lm->state_out[i]) continue; /* the graph says why */
        const kr_tensor *t = kr_value_tensor(lm->state_out[i]);
        lm->state_seed[i] = kr_graph_state(lm->g, "state seed", t->dtype, false, t->rank, t->shape);
        kr_graph_seed(lm->g, lm->state_out[i], lm->state_seed[i]);
    }
}

static int allocate_states(kr_lm *lm, const kr_config *c, krait_error *e) {
    size_t n = (size_t)c->layers * KR_MAX_STATES;
    lm->state_in = kr_calloc(3 * n, sizeof *lm->state_in);
    if (!lm->state_in) return kr_fail_memory(e, "the model's graph");
    lm->state_out = lm->state_in + n;
    lm->state_seed = lm->state_in + 2 * n;
    return 0;
}

int kr_lm_check_next(const kr_config *c, krait_error *e) {
    if (c->channels == 0 && kr_config_tells(c) == 0) return 0;
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "the model %s, it has no next token: a task trains (recipe key task) and "
                   "evaluates (krait eval --task) it",
                   c->classes > 0   ? "classifies sequences"
                   : c->numbers > 0 ? "tells numbers"
                                    : "reads numbers");
}

/* What reads from behind has no state to go on from, and knows no documents within a sequence. */
static int check_whole(const kr_config *c, const kr_lm_options *o, krait_error *e) {
    if (!c->bidirectional || (o->slots == 0 && !o->step && !o->reset)) return 0;
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "a bidirectional model reads whole sequences: it cannot %s",
                   o->reset ? "pack documents" : "go on from a state");
}

static int check_place(const kr_config *c, const kr_lm_options *o, krait_error *e) {
    if (c->norm_place == KR_NORM_BEFORE || !o->graph.half) return 0;
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "norm_place after needs precision f32: its residual stream is not kept in bf16");
}

int kr_lm_build(kr_lm *lm, const kr_config *c, const kr_lm_options *o, krait_error *e) {
    *lm = (kr_lm){0};
    KR_TRY(kr_config_check(c, e));
    if (!o->any_ends) KR_TRY(kr_lm_check_next(c, e));
    KR_TRY(check_whole(c, o, e));
    KR_TRY(check_place(c, o, e));
    const kr_mixer *mixer = kr_mixer_find(c->mixer);
    KR_TRY(allocate_states(lm, c, e));
    lm->g = kr_graph_create(&o->graph, e);
    if (!lm->g) {
        kr_lm_free(lm);
        return KRAIT_ERR_MEMORY;
    }
    add_inputs(lm, c, o);
    kr_nn nn = {.g = lm->g, .config = c, .seqs = lm->seqs, .reset = lm->reset};
    nn.dropout = (kr_nn_leaving_out){lm->draw, o->dropout, o->dropout_tied, 0};
    if (o->step) nn.step_rows = o->tokens;
    kr_value *x = backbone(lm, &nn, mixer, o);
    kr_graph_scope(lm->g, "lm_head");
    add_head(lm, &nn, x, o);
    if (o->state_gradient) seed_states(lm);
    if (lm->seed) kr_graph_backward(lm->g);
    krait_error why;
    if (kr_graph_ok(lm->g, &why)) return 0;
    kr_lm_free(lm);
    return kr_fail(e, why.code, "%s", why.message);
}

void kr_lm_free(kr_lm *lm) {
    kr_graph_free(lm->g);
    kr_free(lm->state_in);
    *lm = (kr_lm){0};
}
