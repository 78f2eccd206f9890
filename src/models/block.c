/* block.c - records a layer of a model. block.h has the equations. */
#include "models/block.h"

#include <math.h>
#include <stdio.h>

#include "ops/add/add.h"
#include "ops/reverse_rows/reverse_rows.h"

static void enter(kr_nn *nn, int layer, const char *part) {
    snprintf(nn->prefix, sizeof nn->prefix, "backbone.layers.%d.%s", layer, part);
    kr_graph_scope(nn->g, nn->prefix);
}

static bool norms_first(const kr_nn *nn) { return nn->config->norm_place == KR_NORM_BEFORE; }

static kr_value *norm(kr_nn *nn, kr_value *x, kr_value *residual, const char *name,
                      kr_value **sum) {
    const kr_config *c = nn->config;
    if (c->norm == KR_NORM_LAYER)
        return kr_nn_layernorm(nn, x, residual, name, c->width, c->norm_eps, sum);
    return kr_nn_rmsnorm(nn, x, residual, name, c->width, c->norm_eps, sum);
}

/* What a part of the layer reads. */
static kr_value *part_in(kr_nn *nn, kr_stream *s, const char *name) {
    if (!norms_first(nn)) return s->branch;
    kr_value *a = norm(nn, s->branch, s->sum, name, &s->sum);
    /* Every second sum is the one before it and what joined it in halves. */
    if (s->norms++ % 2 && kr_graph_half(nn->g)) kr_graph_recompute(nn->g, s->sum);
    return a;
}

/* What it made joins the stream. */
static void part_out(kr_nn *nn, kr_stream *s, const char *name, kr_value *made) {
    made = kr_nn_dropout(nn, made);
    if (norms_first(nn))
        s->branch = made;
    else
        s->branch = norm(nn, made, s->branch, name, NULL);
}

/* ---- channel mixers ---- */

/* x [M,D] -> the two halves of up x, [M,W] each. */
static void halves(kr_nn *nn, kr_value *x, int64_t W, bool bias, kr_value *half[2]) {
    int64_t D = nn->config->width;
    kr_value *v = kr_nn_linear(nn, x, "fc1", D, 2 * W, bias, kr_init_fan_in(D, 1));
    half[0] = kr_graph_columns(nn->g, v, 0, W);
    half[1] = kr_graph_columns(nn->g, v, W, W);
}

/* Back to the stream, whose 2 L parts must not make it grow. */
static kr_value *down(kr_nn *nn, kr_value *x, bool bias) {
    const kr_config *c = nn->config;
    kr_init init = kr_init_fan_in(c->channel_width, 1 / sqrt(2 * (double)c->layers));
    return kr_nn_linear(nn, x, "fc2", c->channel_width, c->width, bias, init);
}

static kr_value *channel_mixer(kr_nn *nn, kr_value *a) {
    const kr_config *c = nn->config;
    kr_value *half[2];
    if (c->channel_mixer == KR_CHANNEL_MLP) {
        kr_init init = kr_init_fan_in(c->width, 1);
        kr_value *up = kr_nn_linear(nn, a, "fc1", c->width, c->channel_width, true, init);
        return down(nn, kr_nn_dropout(nn, kr_nn_map(nn, KR_FUNCTION_GELU, up)), true);
    }
    bool glu = c->channel_mixer == KR_CHANNEL_GLU;
    halves(nn, a, glu ? c->width : c->channel_width, glu, half);
    if (glu) return kr_nn_gate(nn, KR_FUNCTION_SIGMOID, half[0], half[1]);
    return down(nn, kr_nn_dropout(nn, kr_nn_gate(nn, KR_FUNCTION_SILU, half[0], half[1])), false);
}

/* ---- layers ---- */

static kr_value *reversed(kr_nn *nn, kr_value *x) {
    return kr_apply1(nn->g, &kr_op_reverse_rows, NULL, 0, (kr_value *[]){x, nn->seqs}, 2);
}

static kr_value *mix(kr_nn *nn, const kr_mixer *mixer, int layer, kr_value *a) {
    if (nn->config->sequence_norm) a = kr_nn_sequence_norm(nn, a, nn->config->norm_eps);
    enter(nn, layer, "mixer.");
    kr_value *y = mixer->build(nn, a);
    if (!nn->config->bidirectional) return y;
    enter(nn, layer, "mixer_back.");
    kr_value *z = reversed(nn, mixer->build(nn, reversed(nn, a)));
    return kr_apply1(nn->g, &kr_op_add, NULL, 0, (kr_value *[]){y, z}, 2);
}

/* Can the mixer do the whole layer of a decode step in its own way? */
static bool may_step(const kr_nn *nn, const kr_mixer *mixer, const kr_stream *s) {
    return nn->step_rows > 0 && mixer->step && !s->sum && kr_config_is_plain(nn->config);
}

void kr_block_build(kr_nn *nn, const kr_mixer *mixer, int layer, kr_stream *s) {
    const kr_config *c = nn->config;
    enter(nn, layer, "");
    if (may_step(nn, mixer, s)) {
        kr_value *w = kr_nn_param(nn, "norm.weight", KR_PARAM_PLAIN, KR_ONES, 1, &c->width);
        enter(nn, layer, "mixer.");
        kr_value *out = mixer->step(nn, s->branch, w);
        if (out) s->branch = out;
        if (out) return;
        enter(nn, layer, "");
    }
    kr_value *a = part_in(nn, s, "norm");
    a = mix(nn, mixer, layer, a);
    enter(nn, layer, "");
    part_out(nn, s, "norm", a);
    if (c->channel_mixer == KR_CHANNEL_NONE) return;
    a = part_in(nn, s, "norm2");
    enter(nn, layer, "mlp.");
    a = channel_mixer(nn, a);
    enter(nn, layer, "");
    part_out(nn, s, "norm2", a);
}

kr_value *kr_block_last_norm(kr_nn *nn, kr_stream *s) {
    snprintf(nn->prefix, sizeof nn->prefix, "backbone.");
    return norms_first(nn) ? norm(nn, s->branch, s->sum, "norm_f", NULL) : s->branch;
}
