/* lru.c - the Linear Recurrent Unit: a linear recurrence on N complex lanes that forget at fixed,
 * learned rates, then a position-wise mixing of channels.
 *
 *   lambda  = exp(-exp(nu_log) + i exp(theta_log))               |lambda| < 1 whatever is learned
 *   h_t     = lambda h_{t-1} + exp(gamma_log) (B u_t)            B complex [N,H]
 *   y_t     = Re(C h_t) + D u_t                                  C complex [H,N]
 *   out_t   = (W_a z_t + b_a) sigmoid(W_b z_t + b_b),   z_t = gelu(y_t)
 *
 * exp(gamma_log) is folded into B before the product, and both products are real: B holds the rows
 * of Re B and then of Im B, C the columns of Re C and then of -Im C. At first lambda is uniform by
 * area on the ring r_min <= |lambda| <= r_max (phases up to max_phase), and gamma makes every lane
 * of unit variance under white input. State of a sequence: h, [2,N]. Source: Orvieto et al. 2023.
 * docs/references.md has the full title. */
#include <krait/scan.h>

#include <math.h>

#include "base/err.h"
#include "base/rng.h"
#include "mixers/lru/lru.h"
#include "nn/nn.h"
#include "ops/concat/concat.h"
#include "ops/neg_exp/neg_exp.h"
#include "ops/scale/scale.h"
#include "scan/scan_op.h"

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(kr_lru, state, 0, 0, 1 << 16, "complex lanes N; 0: as many as the width"),
    KR_SETTING_REAL_OF(kr_lru, r_min, 0, 0, 1, "smallest initial |lambda|"),
    KR_SETTING_REAL_OF(kr_lru, r_max, 1, 0, 1, "largest initial |lambda|"),
    KR_SETTING_REAL_OF(kr_lru, max_phase, 6.283185307179586, 1e-6, 6.283185307179587,
                       "largest initial phase of lambda: small for very long inputs"),
    KR_SETTING_CHOICE_OF(kr_lru, mixing, KR_LRU_GLU, "glu|half_glu|none",
                         "behind the gelu: half_glu has a linear map in its gate alone"),
    {.name = NULL}};

static const char *const variants[] = {"state=5 r_min=0.3 r_max=0.9",
                                       "state=3 mixing=half_glu tied=false max_phase=0.3",
                                       "state=4 mixing=none", NULL};

static void fill(kr_config *c) {
    kr_lru s = kr_lru_of(c);
    if (!s.state) s.state = c->width;
    memcpy(c->settings, &s, sizeof s);
}

static int check(const kr_config *c, krait_error *e) {
    kr_lru s = kr_lru_of(c);
    if (s.r_min < s.r_max) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "r_min (%g) must be below r_max (%g)", s.r_min, s.r_max);
}

static int states(const kr_config *c, kr_state_decl s[KR_MAX_STATES]) {
    s[0] = (kr_state_decl){"h", 2, {2, kr_lru_of(c).state}};
    return 1;
}

/* ---- initial values: a = r_min, b = r_max, or a = max_phase ---- */

/* -log |lambda| with |lambda|^2 uniform on [r_min^2, r_max^2]; never 0 or infinite. */
static double ring(const kr_param_decl *d, kr_rng *r) {
    double low = d->init.a * d->init.a, high = d->init.b * d->init.b;
    double square = low + kr_rng_uniform(r) * (high - low);
    return -0.5 * log(square < 1e-20 ? 1e-20 : square);
}

static double draw_nu(const kr_param_decl *d, int64_t index, kr_rng *r) {
    (void)index;
    return log(ring(d, r));
}

/* sqrt(1 - |lambda|^2) of the same lane. */
static double draw_gamma(const kr_param_decl *d, int64_t index, kr_rng *r) {
    (void)index;
    return 0.5 * log(-expm1(-2 * ring(d, r)));
}

static double draw_theta(const kr_param_decl *d, int64_t index, kr_rng *r) {
    (void)index;
    double share = kr_rng_uniform(r);
    return log(d->init.a * (share < 1e-9 ? 1e-9 : share));
}

static kr_init normal(double deviation) { return (kr_init){KR_INIT_NORMAL, 0, deviation, 0}; }

/* ---- the graph ---- */

/* log lambda [2N]: real parts, then imaginary ones. */
static kr_value *log_lambda(kr_nn *nn, const kr_lru *s) {
    kr_init_drawn nu = {draw_nu, s->r_min, s->r_max, 0, NULL};
    kr_init_drawn theta = {draw_theta, s->max_phase, 0, 0, NULL};
    kr_value *re = kr_nn_param_drawn(nn, "nu_log", KR_PARAM_RECURRENT, &nu, 1, &s->state);
    kr_value *im = kr_nn_param_drawn(nn, "theta_log", KR_PARAM_RECURRENT, &theta, 1, &s->state);
    re = kr_apply1(nn->g, &kr_op_neg_exp, NULL, 0, &re, 1);
    im = kr_nn_map(nn, KR_FUNCTION_EXP, im);
    return kr_apply1(nn->g, &kr_op_concat, NULL, 0, (kr_value *[]){re, im}, 2);
}

/* exp(gamma_log) B u [M,2N]. */
static kr_value *inputs(kr_nn *nn, const kr_lru *s, kr_value *u) {
    int64_t H = nn->config->width, N = s->state;
    kr_init_drawn drawn = {draw_gamma, s->r_min, s->r_max, 0, "nu_log"};
    kr_value *gamma = kr_nn_param_drawn(nn, "gamma_log", KR_PARAM_RECURRENT, &drawn, 1, &N);
    kr_value *b = kr_nn_param(nn, "B", KR_PARAM_RECURRENT, normal(sqrt(0.5 / (double)H)), 2,
                              (int64_t[]){2 * N, H});
    gamma = kr_nn_map(nn, KR_FUNCTION_EXP, gamma);
    b = kr_apply1(nn->g, &kr_op_row_scale, NULL, 0, (kr_value *[]){b, gamma}, 2);
    return kr_nn_product(nn, u, b, NULL);
}

static kr_value *recurrence(kr_nn *nn, const kr_lru *s, kr_value *u) {
    int64_t H = nn->config->width, N = s->state;
    krait_scan_desc scan = krait_scan_lru(N);
    kr_value *v = inputs(nn, s, u);
    kr_value *ins[KR_SCAN_INS] = {[KR_SCAN_X] = v,
                                  [KR_SCAN_A] = log_lambda(nn, s),
                                  [KR_SCAN_SEQS] = nn->seqs,
                                  [KR_SCAN_RESET] = nn->reset,
                                  [KR_SCAN_STATE] = nn->state_in[0]};
    kr_value *outs[KR_SCAN_OUTS] = {[KR_SCAN_OUT_STATE] = nn->state_out[0]};
    kr_apply(nn->g, &kr_op_scan, &scan, sizeof scan, ins, KR_SCAN_INS, outs, KR_SCAN_OUTS);
    kr_graph_recompute_dear(nn->g, outs[0], NULL, 0);
    kr_value *c = kr_nn_param(nn, "C", KR_PARAM_MATRIX, normal(1 / sqrt((double)N)), 2,
                              (int64_t[]){H, 2 * N});
    kr_value *d = kr_nn_param(nn, "D", KR_PARAM_DECAY, normal(1), 1, &H);
    kr_value *y = kr_nn_product(nn, outs[0], c, NULL);
    return kr_apply1(nn->g, &kr_op_skip, NULL, 0, (kr_value *[]){y, u, d}, 3);
}

static kr_value *build(kr_nn *nn, kr_value *u) {
    kr_lru s = kr_lru_of(nn->config);
    int64_t H = nn->config->width;
    kr_value *z = kr_nn_map(nn, KR_FUNCTION_GELU, recurrence(nn, &s, u));
    if (s.mixing == KR_LRU_NO_MIXING) return z;
    z = kr_nn_dropout(nn, z);
    bool half = s.mixing == KR_LRU_HALF_GLU;
    kr_value *ab =
        kr_nn_linear(nn, z, "glu", H, half ? H : 2 * H, true, normal(1 / sqrt((double)H)));
    kr_value *a = half ? z : kr_graph_columns(nn->g, ab, 0, H);
    kr_value *b = half ? ab : kr_graph_columns(nn->g, ab, H, H);
    return kr_nn_gate(nn, KR_FUNCTION_SIGMOID, a, b);
}

const kr_mixer kr_mixer_lru = {
    .name = "lru",
    .settings = settings,
    .settings_size = sizeof(kr_lru),
    .fill = fill,
    .check = check,
    .variants = variants,
    .states = states,
    .build = build,
};
