/* mamba2.c - the Mamba-2 mixer: a selective linear recurrence whose decay is one number a head
 * (state space duality).
 *
 *   [z0 ; x0 ; z ; xBC ; dt] = in_proj a              E - S twice, S, S + 2 G N, H columns
 *   [x ; B ; C]     = silu(conv1d(xBC))               depthwise, causal
 *   delta           = clamp(softplus(dt + dt_bias))   (inside the scan)
 *   h_t             = exp(delta A) h_{t-1} + delta x (x) B,   A = -exp(A_log)     [P,N] a head
 *   y               = h C + D x
 *   v               = weight rms(y silu(z)), or weight rms(y) silu(z)   over the columns of a group
 *   out             = out_proj [silu(z0) x0 ; v]
 *
 * S of the E inner channels go through the recurrence (all but rarely: then there are no z0 and
 * x0), the others through a gated map. Heads share B and C by groups. Without the norm v = y
 * silu(z). State of a sequence: the last K-1 inputs of the convolution, and h in f32 (on the GPU
 * bf16 where the user wants it). Source: Dao & Gu 2024. docs/references.md has the full title. */
#include "mixers/mamba2/mamba2.h"

#include <krait/scan.h>

#include <math.h>

#include "base/err.h"
#include "nn/nn.h"
#include "ops/add/add.h"
#include "ops/causal_conv/causal_conv.h"
#include "ops/elementwise/elementwise.h"
#include "ops/gated_rmsnorm/gated_rmsnorm.h"
#include "ops/linear/linear.h"
#include "ops/mamba_layer/mamba2_layer.h"
#include "ops/mamba_step/mamba_step.h"
#include "ops/neg_exp/neg_exp.h"
#include "scan/scan_op.h"

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(kr_mamba2, expand, 2, 1, 1 << 20, "inner width = expand * width",
                      .needs = "inner=0"),
    KR_SETTING_INT_OF(kr_mamba2, inner, 0, 0, 1 << 20, "inner width; 0: by expand"),
    KR_SETTING_INT_OF(kr_mamba2, ssm, 0, 0, 1 << 20,
                      "inner channels with a recurrence, the others have a gate alone; 0: all"),
    KR_SETTING_INT_OF(kr_mamba2, head_dim, 64, 1, 1 << 16, "channels of a head"),
    KR_SETTING_INT_OF(kr_mamba2, state, 128, 1, 4096, "state size N of each channel"),
    KR_SETTING_INT_OF(kr_mamba2, groups, 1, 1, 1 << 16, "groups of heads that share B and C"),
    KR_SETTING_INT_OF(kr_mamba2, kernel, 4, 1, 256, "width of the causal convolution"),
    KR_SETTING_BOOL_OF(kr_mamba2, conv_bias, true, "the convolution has a bias"),
    KR_SETTING_BOOL_OF(kr_mamba2, linear_bias, false, "the projections in and out have biases"),
    KR_SETTING_BOOL_OF(kr_mamba2, gated_norm, true, "a norm in front of the projection out"),
    KR_SETTING_BOOL_OF(kr_mamba2, norm_before_gate, false, "that norm comes before the gate",
                       .needs = "gated_norm=true"),
    KR_SETTING_BOOL_OF(kr_mamba2, skip_per_channel, false, "D for each channel, not each head"),
    KR_SETTING_REAL_OF(kr_mamba2, dt_min, 0.001, 1e-30, 1e3, "smallest initial step size"),
    KR_SETTING_REAL_OF(kr_mamba2, dt_max, 0.1, 1e-30, 1e3, "largest initial step size"),
    KR_SETTING_REAL_OF(kr_mamba2, dt_floor, 1e-4, 0, 1e3, "no initial step is below"),
    KR_SETTING_REAL_OF(kr_mamba2, dt_least, 0, 0, 1e6, "no step is below"),
    KR_SETTING_REAL_OF(kr_mamba2, dt_most, 0, 0, 1e6, "no step is above; 0: any"),
    KR_SETTING_REAL_OF(kr_mamba2, a_min, 1, 1e-30, 1e6, "smallest initial decay rate"),
    KR_SETTING_REAL_OF(kr_mamba2, a_max, 16, 1e-30, 1e6, "largest initial decay rate"),
    KR_SETTING_REAL_OF(kr_mamba2, conv_init, 0, 0, 1e3,
                       "bound of the initial filter; 0: 1/sqrt(kernel)"),
    {.name = NULL}};

/* groups * state and inner are seen, in shapes; these are not. */
static const char *const unseen[] = {"groups",   "state",   "norm_before_gate",
                                     "dt_least", "dt_most", NULL};

static const char *const variants[] = {
    "inner=12 head_dim=3 state=4 groups=2 kernel=3",
    "inner=24 head_dim=8 state=3 kernel=2 norm_before_gate=true skip_per_channel=true "
    "linear_bias=true tied=false dt_least=0.05 dt_most=0.9",
    "inner=16 head_dim=16 state=5 gated_norm=false",
    "inner=11 ssm=8 head_dim=4 state=3 groups=2 linear_bias=true", NULL};

static void fill(kr_config *c) {
    kr_mamba2 s = kr_mamba2_of(c);
    if (!s.inner) s.inner = s.expand * c->width;
    if (!s.ssm) s.ssm = s.inner;
    s.expand = (s.inner + c->width - 1) / c->width;
    memcpy(c->settings, &s, sizeof s);
}

static int check(const kr_config *c, krait_error *e) {
    kr_mamba2 s = kr_mamba2_of(c);
    if (s.ssm > s.inner)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "ssm (%lld) is above the inner width (%lld)",
                       (long long)s.ssm, (long long)s.inner);
    if (s.ssm % s.head_dim != 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "head_dim (%lld) does not divide the %s (%lld)",
                       (long long)s.head_dim,
                       s.ssm < s.inner ? "channels of the recurrence, ssm" : "inner width",
                       (long long)s.ssm);
    if (kr_mamba2_heads(&s) % s.groups != 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "groups (%lld) does not divide the %lld heads",
                       (long long)s.groups, (long long)kr_mamba2_heads(&s));
    if (s.dt_min > s.dt_max)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "dt_min (%g) is above dt_max (%g)", s.dt_min,
                       s.dt_max);
    if (s.dt_most > 0 && s.dt_least > s.dt_most)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "dt_least (%g) is above dt_most (%g)", s.dt_least,
                       s.dt_most);
    if (s.a_min <= s.a_max) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "a_min (%g) is above a_max (%g)", s.a_min, s.a_max);
}

static int states(const kr_config *c, kr_state_decl s[KR_MAX_STATES]) {
    kr_mamba2 m = kr_mamba2_of(c);
    s[0] = (kr_state_decl){"conv", 2, {m.kernel - 1, kr_mamba2_mixed(&m)}};
    s[1] = (kr_state_decl){"ssm", 2, {m.ssm, m.state}};
    return 2;
}

/* The filter, and its bias or NULL. Fresh values of the bias too: the official code leaves the
 * framework's default. */
static kr_value *filter(kr_nn *nn, const kr_mamba2 *m, kr_value **bias) {
    int64_t width = kr_mamba2_mixed(m);
    kr_init init = kr_init_fan_in(m->kernel, 1);
    kr_init of_filter = m->conv_init > 0 ? kr_init_symmetric(m->conv_init) : init;
    kr_value *w = kr_nn_param(nn, "conv1d.weight", KR_PARAM_DECAY, of_filter, 3,
                              (int64_t[]){width, 1, m->kernel});
    *bias = NULL;
    if (m->conv_bias) *bias = kr_nn_param(nn, "conv1d.bias", KR_PARAM_PLAIN, init, 1, &width);
    return w;
}

/* x, B and C. */
static kr_value *convolution(kr_nn *nn, const kr_mamba2 *m, kr_value *mixed) {
    kr_value *b, *w = filter(nn, m, &b);
    kr_value *outs[2] = {NULL, m->kernel > 1 ? nn->state_out[0] : NULL};
    kr_value *before = m->kernel > 1 ? nn->state_in[0] : NULL;
    kr_causal_conv_attr attr = {.silu = 1, .early = nn->step_rows > 0};
    kr_apply(nn->g, &kr_op_causal_conv, &attr, sizeof attr,
             (kr_value *[]){mixed, w, b, nn->seqs, nn->reset, before}, 6, outs, 2);
    kr_graph_recompute(nn->g, outs[0]);
    return outs[0];
}

static krait_scan_desc describe(const kr_mamba2 *m) {
    krait_scan_desc d = krait_scan_mamba2(kr_mamba2_heads(m), m->head_dim, m->state, m->groups);
    d.dt_min = m->dt_least;
    d.dt_max = m->dt_most;
    d.skip_per_channel = m->skip_per_channel;
    return d;
}

/* The parameters of the recurrence: the step's bias; A, from its logarithm; D. */
static kr_value *step_bias(kr_nn *nn, const kr_mamba2 *m) {
    int64_t H = kr_mamba2_heads(m);
    return kr_nn_param(nn, "dt_bias", KR_PARAM_PLAIN,
                       (kr_init){KR_INIT_SOFTPLUS_INV, m->dt_min, m->dt_max, m->dt_floor}, 1, &H);
}

static kr_value *decay(kr_nn *nn, const kr_mamba2 *m) {
    int64_t H = kr_mamba2_heads(m);
    kr_value *a_log = kr_nn_param(nn, "A_log", KR_PARAM_PLAIN,
                                  (kr_init){KR_INIT_LOG_UNIFORM, m->a_min, m->a_max, 0}, 1, &H);
    return kr_apply1(nn->g, &kr_op_neg_exp, NULL, 0, &a_log, 1);
}

static kr_value *skip(kr_nn *nn, const kr_mamba2 *m) {
    int64_t H = kr_mamba2_heads(m);
    return kr_nn_param(nn, "D", KR_PARAM_PLAIN, KR_ONES, 1, m->skip_per_channel ? &m->ssm : &H);
}

static kr_value *recurrence(kr_nn *nn, const kr_mamba2 *m, kr_value *u, kr_value *raw) {
    int64_t E = m->ssm, GN = m->groups * m->state;
    kr_value *bias = step_bias(nn, m), *a = decay(nn, m), *d = skip(nn, m);
    krait_scan_desc scan = describe(m);
    kr_value *ins[] = {kr_graph_columns(nn->g, u, 0, E),
                       raw,
                       a,
                       kr_graph_columns(nn->g, u, E, GN),
                       kr_graph_columns(nn->g, u, E + GN, GN),
                       d,
                       NULL, /* the gate comes later */
                       bias,
                       nn->seqs,
                       nn->reset,
                       nn->state_in[1]};
    kr_value *outs[2] = {NULL, nn->state_out[1]};
    kr_apply(nn->g, &kr_op_scan, &scan, sizeof scan, ins, 11, outs, 2);
    kr_graph_recompute_dear(nn->g, outs[0], NULL, 0);
    return outs[0];
}

static kr_value *norm_weight(kr_nn *nn, const kr_mamba2 *m) {
    return kr_nn_param(nn, "norm.weight", KR_PARAM_PLAIN, KR_ONES, 1, &m->ssm);
}

/* y gated by z and, where the model has it, normed. */
static kr_value *gated(kr_nn *nn, const kr_mamba2 *m, kr_value *y, kr_value *z) {
    kr_value *outs[2] = {NULL, NULL};
    if (m->gated_norm) {
        kr_value *w = norm_weight(nn, m);
        kr_gated_rmsnorm_attr attr = {nn->config->norm_eps, m->groups, m->norm_before_gate};
        kr_apply(nn->g, &kr_op_gated_rmsnorm, &attr, sizeof attr, (kr_value *[]){y, z, w}, 3, outs,
                 2);
    } else {
        kr_elementwise_attr attr = {KR_FUNCTION_SILU};
        outs[0] = kr_apply1(nn->g, &kr_op_gate, &attr, sizeof attr, (kr_value *[]){y, z}, 2);
    }
    kr_graph_recompute(nn->g, outs[0]);
    return outs[0];
}

/* Scaled so that the residual stream's variance does not grow with depth. */
static kr_init out_init(const kr_nn *nn, const kr_mamba2 *m) {
    return kr_init_fan_in(m->inner, 1 / sqrt((double)nn->config->layers));
}

/* A decode step of many rows of halves on the GPU, in a model whose next norm adds up parts. */
static bool is_step_of_many(const kr_nn *nn) {
    return nn->step_rows > KR_STEP_FEW && kr_graph_level(nn->g) == KR_LEVEL_CUDA &&
           kr_graph_half(nn->g) && kr_config_is_plain(nn->config);
}

/* out_proj of y; its weight has columns for the gated map in front of those for y. */
static kr_value *project_out(kr_nn *nn, const kr_mamba2 *m, kr_value *mapped, kr_value *y) {
    int64_t D = nn->config->width, E = m->inner, rest = E - m->ssm;
    kr_init init = out_init(nn, m);
    if (!rest && is_step_of_many(nn) && !m->linear_bias)
        return kr_nn_linear_parts(nn, y, "out_proj", E, D, init);
    if (!rest) return kr_nn_linear(nn, y, "out_proj", E, D, m->linear_bias, init);
    kr_value *w = kr_nn_param(nn, "out_proj.weight", KR_PARAM_MATRIX, init, 2, (int64_t[]){D, E});
    kr_value *b = NULL, *half = kr_nn_half_copy(nn, w);
    if (m->linear_bias) b = kr_nn_param(nn, "out_proj.bias", KR_PARAM_PLAIN, KR_ZEROS, 1, &D);
    kr_value *left[4] = {mapped, kr_graph_columns(nn->g, w, 0, rest), b,
                         kr_graph_columns(nn->g, half, 0, rest)};
    kr_value *right[4] = {y, kr_graph_columns(nn->g, w, rest, m->ssm), NULL,
                          kr_graph_columns(nn->g, half, rest, m->ssm)};
    kr_value *sum[2] = {kr_apply1(nn->g, &kr_op_linear, NULL, 0, left, 4),
                        kr_apply1(nn->g, &kr_op_linear, NULL, 0, right, 4)};
    return kr_apply1(nn->g, &kr_op_add, NULL, 0, sum, 2);
}

static kr_value *build(kr_nn *nn, kr_value *a) {
    const kr_config *c = nn->config;
    kr_mamba2 m = kr_mamba2_of(c);
    int64_t D = c->width, S = m.ssm, rest = m.inner - S, mixed = kr_mamba2_mixed(&m);
    int64_t H = kr_mamba2_heads(&m), at = 2 * rest;
    kr_value *all =
        kr_nn_linear(nn, a, "in_proj", D, at + S + mixed + H, m.linear_bias, kr_init_fan_in(D, 1));
    kr_value *mapped = NULL, *z = kr_graph_columns(nn->g, all, at, S);
    if (rest)
        mapped = kr_nn_gate(nn, KR_FUNCTION_SILU, kr_graph_columns(nn->g, all, rest, rest),
                            kr_graph_columns(nn->g, all, 0, rest));
    kr_value *u = convolution(nn, &m, kr_graph_columns(nn->g, all, at + S, mixed));
    kr_value *raw = kr_graph_columns(nn->g, all, at + S + mixed, H);
    kr_value *y = gated(nn, &m, recurrence(nn, &m, u, raw), z);
    return project_out(nn, &m, mapped, y);
}

/* ---- a decode step of few rows on the GPU, where launches cost more than arithmetic ---------- */

/* One row, one group, whose norm comes behind the gate, and no other channels. */
static bool is_one_op(const kr_nn *nn, const kr_mamba2 *m) {
    kr_mamba2_layer_sizes s = {nn->step_rows, nn->config->width,  m->ssm,
                               m->state,      kr_mamba2_heads(m), m->kernel};
    return nn->step_rows == 1 && kr_graph_level(nn->g) == KR_LEVEL_CUDA && nn->state_in[1] &&
           m->ssm == m->inner && m->groups == 1 && m->gated_norm && !m->norm_before_gate &&
           kr_mamba2_layer_fits(&s, kr_graph_half(nn->g));
}

static kr_value *matrix(kr_nn *nn, const char *name, int64_t rows, int64_t columns, kr_init init) {
    return kr_nn_param(nn, name, KR_PARAM_MATRIX, init, 2, (int64_t[]){rows, columns});
}

static void add_biases(kr_nn *nn, const kr_mamba2 *m, int64_t made, kr_value **ins) {
    if (!m->linear_bias) return;
    ins[KR_LAYER2_IN_BIAS] = kr_nn_param(nn, "in_proj.bias", KR_PARAM_PLAIN, KR_ZEROS, 1, &made);
    ins[KR_LAYER2_OUT_BIAS] =
        kr_nn_param(nn, "out_proj.bias", KR_PARAM_PLAIN, KR_ZEROS, 1, &nn->config->width);
}

static kr_value *step(kr_nn *nn, kr_value *x, kr_value *norm) {
    kr_mamba2 m = kr_mamba2_of(nn->config);
    int64_t D = nn->config->width, E = m.ssm;
    int64_t made = E + kr_mamba2_mixed(&m) + kr_mamba2_heads(&m);
    if (!is_one_op(nn, &m)) return NULL;
    kr_value *ins[KR_LAYER2_INS] = {[KR_LAYER2_X] = x, [KR_LAYER2_NORM] = norm};
    kr_value *outs[KR_LAYER2_OUTS] = {NULL, nn->state_out[0], nn->state_out[1]};
    ins[KR_LAYER2_IN] = matrix(nn, "in_proj.weight", made, D, kr_init_fan_in(D, 1));
    ins[KR_LAYER2_CONV] = filter(nn, &m, &ins[KR_LAYER2_CONV_BIAS]);
    ins[KR_LAYER2_DT_BIAS] = step_bias(nn, &m);
    ins[KR_LAYER2_A] = decay(nn, &m);
    ins[KR_LAYER2_D] = skip(nn, &m);
    ins[KR_LAYER2_GATE_NORM] = norm_weight(nn, &m);
    ins[KR_LAYER2_OUT] = matrix(nn, "out_proj.weight", D, E, out_init(nn, &m));
    add_biases(nn, &m, made, ins);
    ins[KR_LAYER2_SEQS] = nn->seqs;
    ins[KR_LAYER2_WINDOW] = nn->state_in[0];
    ins[KR_LAYER2_STATE] = nn->state_in[1];
    kr_mamba2_layer_attr attr = {nn->config->norm_eps, m.dt_least, m.dt_most};
    kr_apply(nn->g, &kr_op_mamba2_layer, &attr, sizeof attr, ins, KR_LAYER2_INS, outs,
             KR_LAYER2_OUTS);
    return outs[KR_LAYER2_Y];
}

const kr_mixer kr_mixer_mamba2 = {
    .name = "mamba2",
    .settings = settings,
    .settings_size = sizeof(kr_mamba2),
    .unseen = unseen,
    .fill = fill,
    .check = check,
    .variants = variants,
    .states = states,
    .half_states = 1u << 1,
    .build = build,
    .step = step,
};
