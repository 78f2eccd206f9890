/* linear_attention.c - linear attention and what its settings make of it: retention, gated linear
 * attention, and every step from there to Mamba.
 *
 *   [v ; z ; l ; k ; q] = in_proj a            block attention: no z;  l only where a gate needs it
 *   block mamba:  [v ; z] = in_proj a,   v = silu(conv1d(v)),   [l ; k ; q] = x_proj v
 *   k, q                = phi(k), phi(q)                              phi = identity, or elu + 1
 *                         turned by their positions (ops/rope)        where asked, behind phi
 *   delta               = softplus(dt_proj l + dt_bias)               a number a channel
 *   h_t                 = alpha_t (*) h_{t-1} + g_t v_t (x) k_t       [P,N] a head
 *   y_t                 = r h_t q_t / (r sum over s <= t of k_s . q_t + 1e-10) + D v_t
 *   out                 = out_proj of y,  y silu(z),  or norm(y) silu(z)    the norm is each head's
 *
 * The sum is of keys that are not turned; r is N^(-1/2) or 1; g is 1 or delta (input gate); alpha
 * 1, 1 - 2^(-5-head) (retention), logsigmoid(decay_proj l)/16 as a logarithm (gated), or exp(delta
 * A), A = -exp(A_log) (selective); division and D are there when asked. These are the six switches
 * that Han et al. 2024 find between linear attention (Katharopoulos et al. 2020) and Mamba: input
 * gate, forget gate (decay), shortcut (D), normaliser, heads, block. With all of them Mamba's way
 * it is mixer mamba1, tensor by tensor. Retention: Sun et al. 2023; gated linear attention: Yang et
 * al. 2024. docs/references.md has the full titles.
 *
 * State of a sequence: the last inputs of the convolution; h; the sum of k; the angles. */
#include "mixers/linear_attention/linear_attention.h"

#include <krait/scan.h>

#include <math.h>

#include "base/err.h"
#include "nn/nn.h"
#include "ops/causal_conv/causal_conv.h"
#include "ops/elementwise/elementwise.h"
#include "ops/fill/fill.h"
#include "ops/gated_rmsnorm/gated_rmsnorm.h"
#include "ops/head_divide/head_divide.h"
#include "ops/linear/linear.h"
#include "ops/neg_exp/neg_exp.h"
#include "ops/retention/retention.h"
#include "ops/rope/rope.h"
#include "ops/scale/scale.h"
#include "scan/scan_op.h"

typedef kr_linear_attention mine;

#define STEPS "input_gate=true decay=selective" /* who has step sizes */

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(mine, heads, 4, 1, 1 << 16, "heads"),
    KR_SETTING_INT_OF(mine, key, 0, 0, 1 << 20, "width of keys, of all heads; 0: the model's"),
    KR_SETTING_INT_OF(mine, value, 0, 0, 1 << 20, "width of values, of all heads; 0: the model's"),
    KR_SETTING_CHOICE_OF(mine, block, 0, "attention|gated|mamba",
                         "gated: a gate behind; mamba: and values are convolved"),
    KR_SETTING_CHOICE_OF(mine, feature, 1, "identity|elu", "of keys and queries; elu: elu + 1"),
    KR_SETTING_BOOL_OF(mine, scale_queries, true, "queries are divided by sqrt(key/heads)"),
    KR_SETTING_CHOICE_OF(mine, decay, 0, "none|retention|gated|selective",
                         "what the state forgets"),
    KR_SETTING_REAL_OF(mine, gate_divisor, 16, 1e-3, 1e6, "decay gated: divides the logarithm",
                       .needs = "decay=gated"),
    KR_SETTING_BOOL_OF(mine, rope, false, "keys and queries are turned by their positions"),
    KR_SETTING_REAL_OF(mine, rope_base, 10000, 1, 1e12, "base of the angles", .needs = "rope=true"),
    KR_SETTING_BOOL_OF(mine, input_gate, false, "values are multiplied by a step size"),
    KR_SETTING_BOOL_OF(mine, shortcut, false, "D v joins what is read"),
    KR_SETTING_BOOL_OF(mine, normaliser, true, "what is read is divided by the sum of weights"),
    KR_SETTING_BOOL_OF(mine, head_norm, false, "a norm of each head in front of the gate"),
    KR_SETTING_INT_OF(mine, rank, 16, 1, 1 << 20, "rank of the gates on input and decay",
                      .needs = "input_gate=true decay=gated decay=selective"),
    KR_SETTING_INT_OF(mine, kernel, 4, 1, 256, "block mamba: width of the causal convolution",
                      .needs = "block=mamba"),
    KR_SETTING_REAL_OF(mine, dt_min, 0.001, 1e-30, 1e3, "smallest initial step size",
                       .needs = STEPS),
    KR_SETTING_REAL_OF(mine, dt_max, 0.1, 1e-30, 1e3, "largest initial step size", .needs = STEPS),
    KR_SETTING_REAL_OF(mine, dt_floor, 1e-4, 0, 1e3, "no initial step is below", .needs = STEPS),
    {.name = NULL}};

static const char *const unseen[] = {"heads", "feature",      "scale_queries",
                                     "decay", "gate_divisor", "normaliser",
                                     "rope",  "rope_base",    NULL};

static const char *const variants[] = {
    "heads=2 key=4 value=6",
    "heads=1 key=3 value=5 feature=identity normaliser=false scale_queries=false tied=false",
    "block=mamba heads=1 key=3 value=10 kernel=3 rank=2 feature=identity normaliser=false "
    "scale_queries=false decay=selective input_gate=true shortcut=true",
    "block=mamba heads=2 key=4 value=6 rank=2 kernel=1 decay=selective",
    "block=gated heads=2 key=4 value=16 rank=3 input_gate=true shortcut=true",
    "block=gated heads=2 key=4 value=6 rank=3 decay=gated feature=identity normaliser=false "
    "head_norm=true",
    "block=gated heads=2 key=8 value=12 decay=retention rope=true feature=identity "
    "normaliser=false head_norm=true",
    "heads=1 key=4 value=6 rope=true rope_base=10",
    NULL};

static void fill(kr_config *c) {
    mine s = kr_linear_attention_of(c);
    if (!s.key) s.key = c->width;
    if (!s.value) s.value = c->width;
    memcpy(c->settings, &s, sizeof s);
}

static int check(const kr_config *c, krait_error *e) {
    mine s = kr_linear_attention_of(c);
    if (s.key % s.heads != 0 || s.value % s.heads != 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "heads (%lld) does not divide key %lld and value %lld", (long long)s.heads,
                       (long long)s.key, (long long)s.value);
    if (s.normaliser && s.feature == KR_FEATURE_IDENTITY)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "normaliser is true with feature identity, which must be elu: the weights "
                       "it sums must be above 0");
    if (s.normaliser && (s.decay == KR_ATTENTION_GATED || s.decay == KR_ATTENTION_RETAINS))
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "normaliser is true with decay %s, which must be none or selective",
                       s.decay == KR_ATTENTION_GATED ? "gated" : "retention");
    if (s.rope && s.key / s.heads % 2)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "rope needs an even key / heads, is %lld",
                       (long long)(s.key / s.heads));
    if (s.head_norm && s.block == KR_BLOCK_ATTENTION)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "head_norm is true with block attention, which must be gated or mamba");
    if (s.dt_min <= s.dt_max) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "dt_min (%g) is above dt_max (%g)", s.dt_min, s.dt_max);
}

/* ---- states ---- */

/* Which of the states is which; -1: there is none. */
typedef struct places {
    int conv, kv, sum, phase, count;
} places;

static places places_of(const mine *s) {
    places p = {-1, -1, -1, -1, 0};
    if (s->block == KR_BLOCK_MAMBA && s->kernel > 1) p.conv = p.count++;
    p.kv = p.count++;
    if (s->normaliser) p.sum = p.count++;
    if (s->rope) p.phase = p.count++;
    return p;
}

static int states(const kr_config *c, kr_state_decl decl[KR_MAX_STATES]) {
    mine s = kr_linear_attention_of(c);
    places p = places_of(&s);
    if (p.conv >= 0) decl[p.conv] = (kr_state_decl){"conv", 2, {s.kernel - 1, s.value}};
    decl[p.kv] = (kr_state_decl){"kv", 2, {s.value, s.key / s.heads}};
    if (p.sum >= 0) decl[p.sum] = (kr_state_decl){"sum", 1, {s.key}};
    if (p.phase >= 0) decl[p.phase] = (kr_state_decl){"phase", 1, {s.key / s.heads / 2}};
    return p.count;
}

/* ---- the graph ---- */

/* [M,columns] for the rows of x. */
static kr_value *constant(kr_nn *nn, kr_value *x, double value, int64_t columns) {
    kr_fill_attr attr = {value, columns};
    kr_value *y = kr_apply1(nn->g, &kr_op_fill, &attr, sizeof attr, &x, 1);
    kr_graph_recompute(nn->g, y);
    return y;
}

static kr_value *convolution(kr_nn *nn, const mine *s, kr_value *v) {
    kr_init init = kr_init_fan_in(s->kernel, 1);
    kr_value *w = kr_nn_param(nn, "conv1d.weight", KR_PARAM_DECAY, init, 3,
                              (int64_t[]){s->value, 1, s->kernel});
    kr_value *b = kr_nn_param(nn, "conv1d.bias", KR_PARAM_PLAIN, init, 1, &s->value);
    int at = places_of(s).conv;
    kr_value *outs[2] = {NULL, at >= 0 ? nn->state_out[at] : NULL};
    kr_causal_conv_attr attr = {.silu = 1};
    kr_apply(nn->g, &kr_op_causal_conv, &attr, sizeof attr,
             (kr_value *[]){v, w, b, nn->seqs, nn->reset, at >= 0 ? nn->state_in[at] : NULL}, 6,
             outs, 2);
    kr_graph_recompute(nn->g, outs[0]);
    return outs[0];
}

/* What the projections of a layer give; NULL: the settings want none. */
typedef struct parts {
    kr_value *v, *z; /* [M,value] */
    kr_value *low;   /* [M,rank] */
    kr_value *kq;    /* keys, then queries [M,2 key] */
} parts;

static parts project(kr_nn *nn, const mine *s, kr_value *a) {
    int64_t D = nn->config->width, E = s->value, r = kr_linear_attention_rank(s);
    bool gated = s->block != KR_BLOCK_ATTENTION, mamba = s->block == KR_BLOCK_MAMBA;
    int64_t own = gated ? 2 * E : E, rest = r + 2 * s->key, at = own;
    kr_value *from =
        kr_nn_linear(nn, a, "in_proj", D, mamba ? own : own + rest, false, kr_init_fan_in(D, 1));
    parts p = {.v = kr_graph_columns(nn->g, from, 0, E)};
    if (gated) p.z = kr_graph_columns(nn->g, from, E, E);
    if (mamba) {
        p.v = convolution(nn, s, p.v);
        from = kr_nn_linear(nn, p.v, "x_proj", E, rest, false, kr_init_fan_in(E, 1));
        at = 0;
    }
    if (r) p.low = kr_graph_columns(nn->g, from, at, r);
    p.kq = kr_graph_columns(nn->g, from, at + r, 2 * s->key);
    if (s->feature == KR_FEATURE_ELU) p.kq = kr_nn_map(nn, KR_FUNCTION_ELU1, p.kq);
    return p;
}

/* The step sizes in front of the softplus; without their bias where somebody asks for it. */
static kr_value *raw_steps(kr_nn *nn, const mine *s, kr_value *low, kr_value **bias) {
    kr_value *w = kr_nn_param(nn, "dt_proj.weight", KR_PARAM_MATRIX, kr_init_fan_in(s->rank, 1), 2,
                              (int64_t[]){s->value, s->rank});
    kr_value *b = kr_nn_param(nn, "dt_proj.bias", KR_PARAM_PLAIN,
                              (kr_init){KR_INIT_SOFTPLUS_INV, s->dt_min, s->dt_max, s->dt_floor}, 1,
                              &s->value);
    if (bias) *bias = b;
    kr_value *ins[4] = {low, w, bias ? NULL : b, kr_nn_half_copy(nn, w)};
    kr_value *raw = kr_apply1(nn->g, &kr_op_linear, NULL, 0, ins, 4);
    kr_graph_recompute(nn->g, raw);
    return raw;
}

/* log alpha [M,key] */
static kr_value *log_decay(kr_nn *nn, const mine *s, kr_value *low) {
    kr_value *raw =
        kr_nn_linear(nn, low, "decay_proj", s->rank, s->key, true, kr_init_fan_in(s->rank, 1));
    return kr_nn_gate(nn, KR_FUNCTION_LOGSIGMOID, constant(nn, low, 1 / s->gate_divisor, s->key),
                      raw);
}

/* exp(delta A) and, where the input is gated too, delta v: one recurrence. */
static void selective(kr_nn *nn, const mine *s, const parts *p, krait_scan_desc *d,
                      kr_value **ins) {
    int64_t N = s->key / s->heads;
    d->decay = KRAIT_DECAY_MATRIX;
    d->form = KRAIT_FORM_DT;
    d->a_constant = d->dt_softplus = true;
    if (s->input_gate) d->gain = KRAIT_GAIN_DT;
    ins[KR_SCAN_DT] = raw_steps(nn, s, p->low, &ins[KR_SCAN_BIAS]);
    kr_value *a_log =
        kr_nn_param(nn, "A_log", KR_PARAM_PLAIN, (kr_init){KR_INIT_LOG_ARANGE, 0, 0, 0}, 2,
                    (int64_t[]){s->value, N});
    ins[KR_SCAN_A] = kr_apply1(nn->g, &kr_op_neg_exp, NULL, 0, &a_log, 1);
}

/* One scan: of x, with keys and queries kq, from and to state `at`. */
static kr_value *scan(kr_nn *nn, const mine *s, const krait_scan_desc *d, kr_value **ins,
                      kr_value *x, kr_value *kq, int at) {
    ins[KR_SCAN_X] = x;
    ins[KR_SCAN_B] = kr_graph_columns(nn->g, kq, 0, s->key);
    ins[KR_SCAN_C] = kr_graph_columns(nn->g, kq, s->key, s->key);
    ins[KR_SCAN_SEQS] = nn->seqs;
    ins[KR_SCAN_RESET] = nn->reset;
    ins[KR_SCAN_STATE] = nn->state_in[at];
    kr_value *outs[KR_SCAN_OUTS] = {[KR_SCAN_OUT_STATE] = nn->state_out[at]};
    kr_apply(nn->g, &kr_op_scan, d, sizeof *d, ins, KR_SCAN_INS, outs, KR_SCAN_OUTS);
    kr_graph_recompute_dear(nn->g, outs[0], NULL, 0);
    return outs[0];
}

/* Keys and queries where they stand. */
static kr_value *turned(kr_nn *nn, const mine *s, kr_value *kq) {
    int at = places_of(s).phase;
    kr_rope_attr attr = {s->key / s->heads, s->rope_base};
    kr_value *outs[2] = {NULL, nn->state_out[at]};
    kr_apply(nn->g, &kr_op_rope, &attr, sizeof attr,
             (kr_value *[]){kq, nn->seqs, nn->reset, nn->state_in[at]}, 4, outs, 2);
    kr_graph_recompute(nn->g, outs[0]);
    return outs[0];
}

static kr_value *attend(kr_nn *nn, const mine *s, const parts *p) {
    int64_t H = s->heads, N = s->key / H;
    double kappa = s->scale_queries ? 1 / sqrt((double)N) : 1;
    krait_scan_desc d = krait_scan_linear_attention(H, s->value / H, N);
    kr_value *ins[KR_SCAN_INS] = {NULL}, *x = p->v;
    if (s->decay == KR_ATTENTION_SELECTIVE)
        selective(nn, s, p, &d, ins);
    else if (s->input_gate)
        x = kr_nn_gate(nn, KR_FUNCTION_SOFTPLUS, p->v, raw_steps(nn, s, p->low, NULL));
    if (s->decay == KR_ATTENTION_GATED) {
        d = krait_scan_gla(H, s->value / H, N);
        ins[KR_SCAN_A] = log_decay(nn, s, p->low);
    }
    if (s->decay == KR_ATTENTION_RETAINS) {
        kr_retention_attr of = {H};
        d = krait_scan_retnet(H, s->value / H, N);
        d.form = KRAIT_FORM_LOG;
        ins[KR_SCAN_A] = kr_apply1(nn->g, &kr_op_retention, &of, sizeof of, &p->v, 1);
    }
    d.kappa = kappa;
    kr_value *kq = s->rope ? turned(nn, s, p->kq) : p->kq;
    kr_value *y = scan(nn, s, &d, ins, x, kq, places_of(s).kv);
    if (!s->normaliser) return y;
    krait_scan_desc ones = krait_scan_linear_attention(H, 1, N);
    kr_value *of_ones[KR_SCAN_INS] = {NULL};
    ones.kappa = kappa;
    kr_value *sum = scan(nn, s, &ones, of_ones, constant(nn, p->kq, 1, H), p->kq, places_of(s).sum);
    kr_head_divide_attr attr = {1e-10};
    y = kr_apply1(nn->g, &kr_op_head_divide, &attr, sizeof attr, (kr_value *[]){y, sum}, 2);
    kr_graph_recompute(nn->g, y);
    return y;
}

static kr_value *normed(kr_nn *nn, const mine *s, kr_value *y, kr_value *z) {
    kr_value *w = kr_nn_param(nn, "norm.weight", KR_PARAM_PLAIN, KR_ONES, 1, &s->value);
    kr_gated_rmsnorm_attr attr = {nn->config->norm_eps, s->heads, true};
    kr_value *outs[2] = {NULL, NULL};
    kr_apply(nn->g, &kr_op_gated_rmsnorm, &attr, sizeof attr, (kr_value *[]){y, z, w}, 3, outs, 2);
    kr_graph_recompute(nn->g, outs[0]);
    return outs[0];
}

static kr_value *build(kr_nn *nn, kr_value *a) {
    const kr_config *c = nn->config;
    mine s = kr_linear_attention_of(c);
    parts p = project(nn, &s, a);
    kr_value *y = attend(nn, &s, &p);
    if (s.shortcut) {
        kr_value *d = kr_nn_param(nn, "D", KR_PARAM_PLAIN, KR_ONES, 1, &s.value);
        y = kr_apply1(nn->g, &kr_op_skip, NULL, 0, (kr_value *[]){y, p.v, d}, 3);
    }
    if (s.head_norm)
        y = normed(nn, &s, y, p.z);
    else if (p.z)
        y = kr_nn_gate(nn, KR_FUNCTION_SILU, y, p.z);
    /* scaled so that the residual stream's variance does not grow with depth */
    kr_init out = kr_init_fan_in(s.value, 1 / sqrt((double)c->layers));
    return kr_nn_linear(nn, y, "out_proj", s.value, c->width, false, out);
}

const kr_mixer kr_mixer_linear_attention = {
    .name = "linear_attention",
    .settings = settings,
    .settings_size = sizeof(mine),
    .unseen = unseen,
    .fill = fill,
    .check = check,
    .variants = variants,
    .states = states,
    .build = build,
};
