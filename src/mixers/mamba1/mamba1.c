/* mamba1.c - the Mamba mixer: a gated, causally convolved, input-dependent (selective) linear
 * recurrence.
 *
 *   [x ; z]        = in_proj a
 *   u              = silu(conv1d(x))                            depthwise, causal
 *   [dl ; B ; C]   = x_proj u                                   r, N, N columns
 *   delta          = softplus(dt_proj dl + dt_bias)             (inside the scan)
 *   h_t            = exp(delta A) h_{t-1} + delta B u,   A = -exp(A_log)
 *   y              = C . h + D u
 *   out            = out_proj (y * silu(z))
 *
 * FalconMamba is the same with weightless norms on dl, B and C (mixer_rms_eps > 0). State of a
 * sequence: the last K-1 inputs of the convolution, and h [E,N] in f32. Source: Gu & Dao 2023;
 * Zuo et al. 2024 (FalconMamba). docs/references.md has the full titles. */
#include <krait/scan.h>

#include <math.h>

#include "base/err.h"
#include "mixers/mamba1/mamba1.h"
#include "nn/nn.h"
#include "ops/causal_conv/causal_conv.h"
#include "ops/mamba_layer/mamba_layer.h"
#include "ops/mamba_step/mamba_step.h"
#include "ops/neg_exp/neg_exp.h"
#include "scan/scan_op.h"

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(kr_mamba1, expand, 2, 1, 1 << 20, "inner width = expand * width",
                      .needs = "inner=0"),
    KR_SETTING_INT_OF(kr_mamba1, inner, 0, 0, 1 << 20, "inner width; 0: by expand"),
    KR_SETTING_INT_OF(kr_mamba1, state, 16, 1, 4096, "state size N of each channel"),
    KR_SETTING_INT_OF(kr_mamba1, kernel, 4, 1, 256, "width of the causal convolution"),
    KR_SETTING_INT_OF(kr_mamba1, dt_rank, 0, 0, 1 << 20,
                      "rank of the step size projection; 0: width/16, rounded up"),
    KR_SETTING_BOOL_OF(kr_mamba1, conv_bias, true, "the convolution has a bias"),
    KR_SETTING_BOOL_OF(kr_mamba1, linear_bias, false, "the projections in and out have biases"),
    KR_SETTING_REAL_OF(kr_mamba1, dt_min, 0.001, 1e-30, 1e3, "smallest initial step size"),
    KR_SETTING_REAL_OF(kr_mamba1, dt_max, 0.1, 1e-30, 1e3, "largest initial step size"),
    KR_SETTING_REAL_OF(kr_mamba1, dt_floor, 1e-4, 0, 1e3, "no initial step is below"),
    KR_SETTING_REAL_OF(kr_mamba1, dt_scale, 1, 0, 1e3, "scales the initial step size projection"),
    KR_SETTING_CHOICE_OF(kr_mamba1, dt_init, 0, "random|constant", "initial step size projection"),
    KR_SETTING_REAL_OF(kr_mamba1, mixer_rms_eps, 0, 0, 1,
                       "epsilon of FalconMamba's norms on dt, B and C; 0: no such norms"),
    {.name = NULL}};

/* The norms have no weights that would tell of them. */
static const char *const unseen[] = {"mixer_rms_eps", NULL};

static const char *const variants[] = {
    "inner=10 state=3 kernel=3 dt_rank=2",
    "inner=10 state=3 kernel=2 dt_rank=2 mixer_rms_eps=1e-6 linear_bias=true tied=false", NULL};

static void fill(kr_config *c) {
    kr_mamba1 s = kr_mamba1_of(c);
    if (!s.inner) s.inner = s.expand * c->width;
    if (!s.dt_rank) s.dt_rank = (c->width + 15) / 16;
    s.expand = (s.inner + c->width - 1) / c->width;
    memcpy(c->settings, &s, sizeof s);
}

static int check(const kr_config *c, krait_error *e) {
    kr_mamba1 s = kr_mamba1_of(c);
    if (s.dt_min <= s.dt_max) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "dt_min (%g) is above dt_max (%g)", s.dt_min, s.dt_max);
}

static int states(const kr_config *c, kr_state_decl s[KR_MAX_STATES]) {
    kr_mamba1 m = kr_mamba1_of(c);
    s[0] = (kr_state_decl){"conv", 2, {m.kernel - 1, m.inner}};
    s[1] = (kr_state_decl){"ssm", 2, {m.inner, m.state}};
    return 2;
}

/* The filter, and its bias or NULL. Fresh values of the bias too: the official code leaves the
 * framework's default. */
static kr_value *filter(kr_nn *nn, kr_value **bias) {
    kr_mamba1 m = kr_mamba1_of(nn->config);
    kr_init init = kr_init_fan_in(m.kernel, 1);
    kr_value *w = kr_nn_param(nn, "conv1d.weight", KR_PARAM_DECAY, init, 3,
                              (int64_t[]){m.inner, 1, m.kernel});
    *bias = NULL;
    if (m.conv_bias) *bias = kr_nn_param(nn, "conv1d.bias", KR_PARAM_PLAIN, init, 1, &m.inner);
    return w;
}

static kr_value *convolution(kr_nn *nn, kr_value *x) {
    kr_mamba1 m = kr_mamba1_of(nn->config);
    kr_value *b, *w = filter(nn, &b);
    kr_value *outs[2] = {NULL, m.kernel > 1 ? nn->state_out[0] : NULL};
    kr_value *before = m.kernel > 1 ? nn->state_in[0] : NULL;
    kr_causal_conv_attr attr = {.silu = 1, .early = nn->step_rows > 0};
    kr_apply(nn->g, &kr_op_causal_conv, &attr, sizeof attr,
             (kr_value *[]){x, w, b, nn->seqs, nn->reset, before}, 6, outs, 2);
    kr_graph_recompute(nn->g, outs[0]);
    return outs[0];
}

/* A slice of x_proj's output, normed when the model is a FalconMamba. */
static kr_value *selected(kr_nn *nn, kr_value *xp, int64_t first, int64_t count) {
    kr_value *v = kr_graph_columns(nn->g, xp, first, count);
    double eps = kr_mamba1_of(nn->config).mixer_rms_eps;
    return eps > 0 ? kr_nn_rmsnorm(nn, v, NULL, NULL, count, eps, NULL) : v;
}

static kr_init dt_init(const kr_config *c) {
    kr_mamba1 m = kr_mamba1_of(c);
    double s = m.dt_scale / sqrt((double)m.dt_rank);
    return m.dt_init ? (kr_init){KR_INIT_CONSTANT, s, 0, 0} : kr_init_symmetric(s);
}

/* raw = dt_proj.weight dl: the bias joins inside the scan, in front of the softplus. */
static kr_value *raw_step(kr_nn *nn, kr_value *dl) {
    const kr_config *c = nn->config;
    kr_mamba1 m = kr_mamba1_of(nn->config);
    kr_value *raw = kr_nn_linear(nn, dl, "dt_proj", m.dt_rank, m.inner, false, dt_init(c));
    kr_graph_recompute(nn->g, raw);
    return raw;
}

/* A decode step of halves on the GPU, of any number of rows, with nothing of FalconMamba's in
 * between. */
static bool is_step(const kr_nn *nn) {
    return nn->step_rows > 0 && kr_graph_level(nn->g) == KR_LEVEL_CUDA && kr_graph_half(nn->g) &&
           kr_mamba1_of(nn->config).mixer_rms_eps <= 0 && nn->state_in[1];
}

/* Then dt_proj is part of the recurrence. */
static bool joins_dt(const kr_nn *nn) {
    kr_mamba1 m = kr_mamba1_of(nn->config);
    return is_step(nn) && m.state == KR_STEP_STATES && m.dt_rank % 8 == 0;
}

/* The parameters of the recurrence: A, from its logarithm; D; the step's bias. */
static kr_value *decay(kr_nn *nn) {
    kr_mamba1 m = kr_mamba1_of(nn->config);
    kr_value *a_log =
        kr_nn_param(nn, "A_log", KR_PARAM_PLAIN, (kr_init){KR_INIT_LOG_ARANGE, 0, 0, 0}, 2,
                    (int64_t[]){m.inner, m.state});
    return kr_apply1(nn->g, &kr_op_neg_exp, NULL, 0, &a_log, 1);
}

static kr_value *skip(kr_nn *nn) {
    kr_mamba1 m = kr_mamba1_of(nn->config);
    return kr_nn_param(nn, "D", KR_PARAM_PLAIN, KR_ONES, 1, &m.inner);
}

static kr_value *step_bias(kr_nn *nn) {
    kr_mamba1 m = kr_mamba1_of(nn->config);
    return kr_nn_param(nn, "dt_proj.bias", KR_PARAM_PLAIN,
                       (kr_init){KR_INIT_SOFTPLUS_INV, m.dt_min, m.dt_max, m.dt_floor}, 1,
                       &m.inner);
}

static kr_value *step_recurrence(kr_nn *nn, kr_value *xp, kr_value *u, kr_value *z, kr_value *bias,
                                 kr_value *a, kr_value *d) {
    const kr_config *c = nn->config;
    kr_mamba1 m = kr_mamba1_of(nn->config);
    kr_value *w = kr_nn_param(nn, "dt_proj.weight", KR_PARAM_MATRIX, dt_init(c), 2,
                              (int64_t[]){m.inner, m.dt_rank});
    kr_value *ins[KR_STEP_SCAN_INS] = {xp, w, bias, a, d, u, z, nn->seqs, nn->state_in[1]};
    kr_value *outs[KR_STEP_SCAN_OUTS] = {NULL, nn->state_out[1]};
    kr_apply(nn->g, &kr_op_mamba_step_scan, NULL, 0, ins, KR_STEP_SCAN_INS, outs,
             KR_STEP_SCAN_OUTS);
    return outs[0];
}

static kr_value *recurrence(kr_nn *nn, kr_value *u, kr_value *z) {
    kr_mamba1 m = kr_mamba1_of(nn->config);
    int64_t E = m.inner, N = m.state, r = m.dt_rank;
    kr_value *xp = kr_nn_linear(nn, u, "x_proj", E, r + 2 * N, false, kr_init_fan_in(E, 1));
    kr_value *raw = joins_dt(nn) ? NULL : raw_step(nn, selected(nn, xp, 0, r));
    kr_value *bias = step_bias(nn), *a = decay(nn), *d = skip(nn);
    if (joins_dt(nn)) return step_recurrence(nn, xp, u, z, bias, a, d);
    krait_scan_desc scan = krait_scan_mamba1(E, N);
    kr_value *ins[] = {
        u,    raw,      a,         selected(nn, xp, r, N), selected(nn, xp, r + N, N), d, z,
        bias, nn->seqs, nn->reset, nn->state_in[1]};
    kr_value *outs[2] = {NULL, nn->state_out[1]};
    kr_apply(nn->g, &kr_op_scan, &scan, sizeof scan, ins, 11, outs, 2);
    if (kr_graph_level(nn->g) == KR_LEVEL_CUDA) kr_graph_remake(nn->g, outs[0]);
    kr_graph_recompute_dear(nn->g, outs[0], NULL, 0);
    return outs[0];
}

/* Scaled so that the residual stream's variance does not grow with depth. */
static kr_init out_init(const kr_config *c) {
    return kr_init_fan_in(kr_mamba1_of(c).inner, 1 / sqrt((double)c->layers));
}

static kr_value *project_out(kr_nn *nn, kr_value *g) {
    const kr_config *c = nn->config;
    kr_mamba1 m = kr_mamba1_of(nn->config);
    if (is_step(nn) && nn->step_rows > KR_STEP_FEW && !m.linear_bias && kr_config_is_plain(c))
        return kr_nn_linear_parts(nn, g, "out_proj", m.inner, c->width, out_init(c));
    return kr_nn_linear(nn, g, "out_proj", m.inner, c->width, m.linear_bias, out_init(c));
}

static kr_value *build(kr_nn *nn, kr_value *a) {
    const kr_config *c = nn->config;
    kr_mamba1 m = kr_mamba1_of(nn->config);
    int64_t D = c->width, E = m.inner;
    kr_value *xz = kr_nn_linear(nn, a, "in_proj", D, 2 * E, m.linear_bias, kr_init_fan_in(D, 1));
    kr_graph_recompute_dear(nn->g, xz, NULL, 0);
    kr_value *x = kr_graph_columns(nn->g, xz, 0, E), *z = kr_graph_columns(nn->g, xz, E, E);
    return project_out(nn, recurrence(nn, convolution(nn, x), z));
}

/* ---- a decode step of few rows on the GPU, where launches cost more than arithmetic ---------- */

static bool is_one_op(const kr_nn *nn) {
    kr_mamba1 m = kr_mamba1_of(nn->config);
    kr_mamba_layer_sizes s = {nn->step_rows, nn->config->width, m.inner,
                              m.state,       m.dt_rank,         m.kernel};
    return kr_graph_level(nn->g) == KR_LEVEL_CUDA && nn->state_in[1] &&
           kr_mamba_layer_fits(&s, kr_graph_half(nn->g));
}

static kr_value *matrix(kr_nn *nn, const char *name, int64_t rows, int64_t columns, kr_init init) {
    return kr_nn_param(nn, name, KR_PARAM_MATRIX, init, 2, (int64_t[]){rows, columns});
}

static void add_biases(kr_nn *nn, kr_value **in, kr_value **out) {
    int64_t D = nn->config->width, E2 = 2 * kr_mamba1_of(nn->config).inner;
    if (!kr_mamba1_of(nn->config).linear_bias) return;
    *in = kr_nn_param(nn, "in_proj.bias", KR_PARAM_PLAIN, KR_ZEROS, 1, &E2);
    *out = kr_nn_param(nn, "out_proj.bias", KR_PARAM_PLAIN, KR_ZEROS, 1, &D);
}

static kr_value *step(kr_nn *nn, kr_value *x, kr_value *norm) {
    const kr_config *c = nn->config;
    kr_mamba1 m = kr_mamba1_of(nn->config);
    int64_t D = c->width, E = m.inner, r = m.dt_rank, N = m.state;
    if (!is_one_op(nn)) return NULL;
    kr_value *ins[KR_LAYER_INS] = {[KR_LAYER_X] = x, [KR_LAYER_NORM] = norm};
    kr_value *outs[KR_LAYER_OUTS] = {NULL, nn->state_out[0], nn->state_out[1]};
    ins[KR_LAYER_IN] = matrix(nn, "in_proj.weight", 2 * E, D, kr_init_fan_in(D, 1));
    ins[KR_LAYER_CONV] = filter(nn, &ins[KR_LAYER_CONV_BIAS]);
    ins[KR_LAYER_X_PROJ] = matrix(nn, "x_proj.weight", r + 2 * N, E, kr_init_fan_in(E, 1));
    ins[KR_LAYER_DT] = matrix(nn, "dt_proj.weight", E, r, dt_init(c));
    ins[KR_LAYER_DT_BIAS] = step_bias(nn);
    ins[KR_LAYER_A] = decay(nn);
    ins[KR_LAYER_D] = skip(nn);
    ins[KR_LAYER_OUT] = matrix(nn, "out_proj.weight", D, E, out_init(c));
    add_biases(nn, &ins[KR_LAYER_IN_BIAS], &ins[KR_LAYER_OUT_BIAS]);
    ins[KR_LAYER_SEQS] = nn->seqs;
    ins[KR_LAYER_WINDOW] = nn->state_in[0];
    ins[KR_LAYER_STATE] = nn->state_in[1];
    kr_mamba_layer_attr attr = {c->norm_eps, m.mixer_rms_eps};
    kr_apply(nn->g, &kr_op_mamba_layer, &attr, sizeof attr, ins, KR_LAYER_INS, outs, KR_LAYER_OUTS);
    return outs[KR_LAYER_Y];
}

const kr_mixer kr_mixer_mamba1 = {
    .name = "mamba1",
    .settings = settings,
    .settings_size = sizeof(kr_mamba1),
    .unseen = unseen,
    .fill = fill,
    .check = check,
    .variants = variants,
    .states = states,
    .build = build,
    .step = step,
};
