/* rnn_mixer.c - the nonlinear recurrences as a mixer: plain RNN (tanh or relu), LSTM, GRU.
 *
 *   x  = W_ih u + b_ih              all gates, all tokens at once
 *   y  = cell(x, W_hh h + b_hh)     token after token: ops/rnn/rnn.h has the equations
 *   out = W_out y                   where H is not the width; else y itself
 *
 * Names, gate order and initial values (all of U(-1/sqrt(H), 1/sqrt(H))) are those of PyTorch's
 * RNN, LSTM and GRU. forget_bias is added to the forget gate's first bias of an LSTM (Jozefowicz et
 * al. 2015 take 1). State of a sequence: h [H], of an LSTM h and c [2,H]. */
#include <math.h>

#include "base/err.h"
#include "base/rng.h"
#include "mixers/rnn/rnn_mixer.h"
#include "nn/nn.h"
#include "ops/rnn/rnn.h"

static const kr_setting settings[] = {
    KR_SETTING_CHOICE_OF(kr_rnn_settings, cell, KR_RNN_LSTM, "tanh|relu|lstm|gru",
                         "what a step computes"),
    KR_SETTING_INT_OF(kr_rnn_settings, state, 0, 0, 1 << 16,
                      "numbers of h; 0: as many as the width"),
    KR_SETTING_REAL_OF(kr_rnn_settings, forget_bias, 0, -100, 100,
                       "added to the initial bias of an LSTM's forget gate"),
    {.name = NULL}};

static const char *const unseen[] = {"cell", NULL}; /* tanh and relu have the same weights */

static const char *const variants[] = {"cell=lstm forget_bias=1", "cell=gru state=5",
                                       "cell=tanh state=7 tied=false", "cell=relu", NULL};

static void fill(kr_config *c) {
    kr_rnn_settings s = kr_rnn_of(c);
    if (!s.state) s.state = c->width;
    memcpy(c->settings, &s, sizeof s);
}

static int check(const kr_config *c, krait_error *e) {
    kr_rnn_settings s = kr_rnn_of(c);
    if (s.forget_bias == 0 || s.cell == KR_RNN_LSTM) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "forget_bias is %g, which only cell = lstm has",
                   s.forget_bias);
}

static int states(const kr_config *c, kr_state_decl s[KR_MAX_STATES]) {
    kr_rnn_settings m = kr_rnn_of(c);
    s[0] = (kr_state_decl){"h", 2, {kr_rnn_states((kr_rnn_cell)m.cell), m.state}};
    return 1;
}

/* a = 1/sqrt(H), b = forget_bias, c = H: the forget gate is the second. */
static double draw_bias(const kr_param_decl *d, int64_t index, kr_rng *r) {
    double x = d->init.a * (2 * kr_rng_uniform(r) - 1);
    return (int64_t)((double)index / d->init.c) == 1 ? x + d->init.b : x;
}

/* [M,D] -> [M,G*H] */
static kr_value *inputs(kr_nn *nn, const kr_rnn_settings *s, kr_value *u) {
    int64_t columns = kr_rnn_gates((kr_rnn_cell)s->cell) * s->state;
    double bound = 1 / sqrt((double)s->state);
    kr_init_drawn drawn = {draw_bias, bound, s->forget_bias, (double)s->state, NULL};
    kr_value *w = kr_nn_param(nn, "weight_ih", KR_PARAM_MATRIX, kr_init_symmetric(bound), 2,
                              (int64_t[]){columns, nn->config->width});
    kr_value *b = kr_nn_param_drawn(nn, "bias_ih", KR_PARAM_PLAIN, &drawn, 1, &columns);
    return kr_nn_product(nn, u, w, b);
}

static kr_value *build(kr_nn *nn, kr_value *u) {
    kr_rnn_settings s = kr_rnn_of(nn->config);
    int64_t H = s.state, D = nn->config->width;
    kr_rnn_attr attr = {(kr_rnn_cell)s.cell};
    int64_t columns = kr_rnn_gates(attr.cell) * H;
    kr_init init = kr_init_fan_in(H, 1);
    kr_value *x = inputs(nn, &s, u);
    kr_value *w = kr_nn_param(nn, "weight_hh", KR_PARAM_DECAY, init, 2, (int64_t[]){columns, H});
    kr_value *b = kr_nn_param(nn, "bias_hh", KR_PARAM_PLAIN, init, 1, &columns);
    kr_value *ins[KR_RNN_INS] = {x, w, b, nn->seqs, nn->reset, nn->state_in[0]};
    kr_value *outs[KR_RNN_OUTS] = {[KR_RNN_STATE_OUT] = nn->state_out[0]};
    /* what only the backward pass reads is not made without one */
    int n_out = kr_graph_trains(nn->g) ? KR_RNN_OUTS : KR_RNN_STATE_OUT + 1;
    kr_apply(nn->g, &kr_op_rnn, &attr, sizeof attr, ins, KR_RNN_INS, outs, n_out);
    if (H == D) return outs[KR_RNN_Y];
    return kr_nn_linear(nn, outs[KR_RNN_Y], "out_proj", H, D, false, init);
}

const kr_mixer kr_mixer_rnn = {
    .name = "rnn",
    .settings = settings,
    .settings_size = sizeof(kr_rnn_settings),
    .unseen = unseen,
    .fill = fill,
    .check = check,
    .variants = variants,
    .states = states,
    .build = build,
};
