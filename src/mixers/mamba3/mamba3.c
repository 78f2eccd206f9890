/* mamba3.c - the Mamba-3 mixer: a recurrence by the trapezoidal rule whose state turns as tokens
 * say, of one input a head (SISO) or several (MIMO, rank R).
 *
 *   [z ; x ; B ; C ; dt ; rate ; mix ; angle] = in_proj a       E, E, R G N twice, H three times, S
 *   delta, log alpha, gamma, beta = trapezoid(dt, rate, mix)    a number a head (ops/trapezoid)
 *   phi_t     = phi_{t-1} + pi tanh(angle) delta                (ops/phase)
 *   q, k      = C, B: normed, B_bias or C_bias added, turned by phi            (ops/turned_keys)
 *   v         = x;   MIMO: v_r = x mimo_x_r                                    (ops/ranks)
 *   h_t       = alpha h_{t-1} + sum_r beta v_{t-1,r} (x) k_{t-1,r} + gamma v_{t,r} (x) k_{t,r}
 *   y_r       = h q_r + D v_r
 *   o         = y silu(z);   MIMO: sum_r mimo_o_r y_r silu(z mimo_z_r)
 *               with the norm, norm(y_r) over the channels of a head in place of y_r
 *   out       = out_proj o
 *
 * SISO turns pairs (2i, 2i+1) of the state, MIMO pairs (i, i + N/2), as their published weights
 * have it. State of a sequence: phi; h; the last token's k and x. Source: Lahoti et al. 2026.
 * docs/references.md has the full title. */
#include "mixers/mamba3/mamba3.h"

#include <krait/scan.h>

#include <math.h>
#include <stdio.h>

#include "base/err.h"
#include "nn/nn.h"
#include "ops/concat/concat.h"
#include "ops/gated_rmsnorm/gated_rmsnorm.h"
#include "ops/phase/phase.h"
#include "ops/previous/previous.h"
#include "ops/ranks/ranks.h"
#include "ops/turned_keys/turned_keys.h"
#include "scan/scan_op.h"

enum { PHASE, SSM, KEY, VALUE, STATES };

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(kr_mamba3, expand, 2, 1, 1 << 20, "inner width = expand * width",
                      .needs = "inner=0"),
    KR_SETTING_INT_OF(kr_mamba3, inner, 0, 0, 1 << 20, "inner width; 0: by expand"),
    KR_SETTING_INT_OF(kr_mamba3, head_dim, 64, 1, 1 << 16, "channels of a head"),
    KR_SETTING_INT_OF(kr_mamba3, state, 128, 2, 4096, "state size N of each channel"),
    KR_SETTING_INT_OF(kr_mamba3, groups, 1, 1, 1 << 16, "groups of heads that share B and C"),
    KR_SETTING_INT_OF(kr_mamba3, rank, 0, 0, 64,
                      "inputs of a head (MIMO), fast up to 4 on a GPU, 32 on a CPU; 0: SISO"),
    KR_SETTING_CHOICE_OF(kr_mamba3, turned, KR_MAMBA3_HALF, "half|all",
                         "how much of the state turns"),
    KR_SETTING_CHOICE_OF(kr_mamba3, rate, KR_RATE_HEAVY_TAIL, "heavy_tail|softplus",
                         "of the decay; softplus is that of weights from before June 2026"),
    KR_SETTING_BOOL_OF(kr_mamba3, out_norm, false, "a norm of each head in front of the gate"),
    KR_SETTING_REAL_OF(kr_mamba3, dt_min, 0.001, 1e-30, 1e3, "smallest initial step size"),
    KR_SETTING_REAL_OF(kr_mamba3, dt_max, 0.1, 1e-30, 1e3, "largest initial step size"),
    KR_SETTING_REAL_OF(kr_mamba3, dt_floor, 1e-4, 0, 1e3, "no initial step is below"),
    KR_SETTING_REAL_OF(kr_mamba3, a_floor, 1e-4, 0, 1e3, "no decay rate is below"),
    {.name = NULL}};

/* Different splits of in_proj may have one sum. */
static const char *const unseen[] = {"groups", "state", "turned", "rate", "a_floor", NULL};

static const char *const variants[] = {
    "inner=12 head_dim=3 state=8 groups=2",
    "inner=16 head_dim=8 state=5 turned=all out_norm=true tied=false a_floor=1.2",
    "inner=12 head_dim=6 state=6 rank=2 turned=all",
    "inner=16 head_dim=8 state=8 rank=3 groups=2 out_norm=true rate=softplus",
    "inner=8 head_dim=8 state=4 rank=1",
    NULL};

static void fill(kr_config *c) {
    kr_mamba3 s = kr_mamba3_of(c);
    if (!s.inner) s.inner = s.expand * c->width;
    s.expand = (s.inner + c->width - 1) / c->width;
    memcpy(c->settings, &s, sizeof s);
}

/* As config.c bounds sizes: with it a projection of any model's layers can be counted. */
enum { MOST_KEYS = 1 << 24 };

static int check(const kr_config *c, krait_error *e) {
    kr_mamba3 s = kr_mamba3_of(c);
    if (s.inner % s.head_dim != 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "head_dim (%lld) does not divide the inner width (%lld)",
                       (long long)s.head_dim, (long long)s.inner);
    if (kr_mamba3_heads(&s) % s.groups != 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "groups (%lld) does not divide the %lld heads",
                       (long long)s.groups, (long long)kr_mamba3_heads(&s));
    int64_t keys = kr_mamba3_ranks(&s) * s.groups * s.state; /* columns of B in the projection */
    if (keys > MOST_KEYS)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "rank * groups * state is %lld, must be at most %d",
                       (long long)keys, MOST_KEYS);
    if (kr_mamba3_angles(&s) < 1)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "state (%lld) is too small: no pair of its turning half is left",
                       (long long)s.state);
    if (s.dt_min <= s.dt_max) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "dt_min (%g) is above dt_max (%g)", s.dt_min, s.dt_max);
}

static int states(const kr_config *c, kr_state_decl s[KR_MAX_STATES]) {
    kr_mamba3 m = kr_mamba3_of(c);
    int64_t H = kr_mamba3_heads(&m);
    s[PHASE] = (kr_state_decl){"phase", 2, {H, kr_mamba3_angles(&m)}};
    s[SSM] = (kr_state_decl){"ssm", 2, {m.inner, m.state}};
    s[KEY] = (kr_state_decl){"key", 3, {kr_mamba3_ranks(&m), H, m.state}};
    s[VALUE] = (kr_state_decl){"value", 1, {m.inner}};
    return STATES;
}

/* Columns of the projection in, in their order. */
typedef struct parts {
    kr_value *z, *x, *b, *c, *dt, *rate, *mix, *angle;
} parts;

static parts project(kr_nn *nn, const kr_mamba3 *m, kr_value *a) {
    int64_t E = m->inner, keys = kr_mamba3_ranks(m) * m->groups * m->state;
    int64_t D = nn->config->width, H = kr_mamba3_heads(m), S = kr_mamba3_angles(m);
    parts p;
    const struct {
        kr_value **to;
        int64_t count;
    } split[] = {{&p.z, E},  {&p.x, E},    {&p.b, keys}, {&p.c, keys},
                 {&p.dt, H}, {&p.rate, H}, {&p.mix, H},  {&p.angle, S}};
    int64_t total = 2 * E + 2 * keys + 3 * H + S, at = 0;
    kr_value *all = kr_nn_linear(nn, a, "in_proj", D, total, false, kr_init_fan_in(D, 1));
    for (size_t i = 0; i < sizeof split / sizeof *split; i++) {
        *split[i].to = kr_graph_columns(nn->g, all, at, split[i].count);
        at += split[i].count;
    }
    return p;
}

/* outs: delta [M,H], the decay's logarithm [M,H], gains [M,2R,H] */
static void steps(kr_nn *nn, const kr_mamba3 *m, const parts *p, kr_value *outs[3]) {
    int64_t H = kr_mamba3_heads(m);
    kr_value *bias =
        kr_nn_param(nn, "dt_bias", KR_PARAM_PLAIN,
                    (kr_init){KR_INIT_SOFTPLUS_INV, m->dt_min, m->dt_max, m->dt_floor}, 1, &H);
    kr_trapezoid_attr attr = {(kr_rate)m->rate, m->a_floor, kr_mamba3_ranks(m)};
    kr_apply(nn->g, &kr_op_trapezoid, &attr, sizeof attr,
             (kr_value *[]){p->dt, p->rate, p->mix, bias}, 4, outs, 3);
    for (int i = 0; i < 3; i++) kr_graph_recompute(nn->g, outs[i]);
}

/* [M,H,S] */
static kr_value *phase(kr_nn *nn, kr_value *angle, kr_value *delta) {
    kr_value *outs[2] = {NULL, nn->state_out[PHASE]};
    kr_apply(nn->g, &kr_op_phase, NULL, 0,
             (kr_value *[]){angle, delta, nn->seqs, nn->reset, nn->state_in[PHASE]}, 5, outs, 2);
    return outs[0];
}

/* B or C [M,R,G,N] as keys or queries [M,R,H,N]. */
static kr_value *keys(kr_nn *nn, const kr_mamba3 *m, kr_value *x, const char *name, kr_value *phi) {
    char full[16];
    snprintf(full, sizeof full, "%s_norm.weight", name);
    kr_value *weight = kr_nn_param(nn, full, KR_PARAM_PLAIN, KR_ONES, 1, &m->state);
    snprintf(full, sizeof full, "%s_bias", name);
    kr_value *bias = kr_nn_param(nn, full, KR_PARAM_PLAIN, KR_ONES, 3,
                                 (int64_t[]){kr_mamba3_heads(m), kr_mamba3_ranks(m), m->state});
    kr_turned_keys_attr attr = {nn->config->norm_eps, m->groups, m->rank > 0};
    kr_value *y = kr_apply1(nn->g, &kr_op_turned_keys, &attr, sizeof attr,
                            (kr_value *[]){x, weight, bias, phi}, 4);
    kr_graph_recompute(nn->g, y);
    return y;
}

/* x, and behind it that of the token before. */
static kr_value *with_previous(kr_nn *nn, kr_value *x, int state) {
    kr_value *outs[2] = {NULL, nn->state_out[state]};
    kr_apply(nn->g, &kr_op_previous, NULL, 0,
             (kr_value *[]){x, nn->seqs, nn->reset, nn->state_in[state]}, 4, outs, 2);
    kr_graph_recompute(nn->g, outs[0]);
    return outs[0];
}

/* x [M,k,E] or y [M,R,E] and a weight "mimo_..." [H,R,P]. */
static kr_value *ranked(kr_nn *nn, const kr_mamba3 *m, const kr_op *op, kr_value *x,
                        const char *name, double first) {
    kr_value *w = kr_nn_param(nn, name, KR_PARAM_DECAY, (kr_init){KR_INIT_CONSTANT, first, 0, 0}, 3,
                              (int64_t[]){kr_mamba3_heads(m), m->rank, m->head_dim});
    kr_value *y = kr_apply1(nn->g, op, NULL, 0, (kr_value *[]){x, w}, 2);
    kr_graph_recompute(nn->g, y);
    return y;
}

static kr_value *recurrence(kr_nn *nn, const kr_mamba3 *m, const parts *p, kr_value *z) {
    int64_t H = kr_mamba3_heads(m);
    kr_value *step[3] = {NULL};
    steps(nn, m, p, step);
    kr_value *phi = phase(nn, p->angle, step[0]);
    kr_value *k = with_previous(nn, keys(nn, m, p->b, "B", phi), KEY);
    kr_value *q = keys(nn, m, p->c, "C", phi), *v = with_previous(nn, p->x, VALUE);
    if (m->rank > 0) v = ranked(nn, m, &kr_op_spread, v, "mimo_x", 1 / (double)m->rank);
    krait_scan_desc scan = krait_scan_mamba3(H, m->head_dim, m->state, kr_mamba3_ranks(m));
    kr_value *ins[KR_SCAN_INS] = {[KR_SCAN_X] = v,
                                  [KR_SCAN_A] = step[1],
                                  [KR_SCAN_B] = k,
                                  [KR_SCAN_C] = q,
                                  [KR_SCAN_D] =
                                      kr_nn_param(nn, "D", KR_PARAM_PLAIN, KR_ONES, 1, &H),
                                  [KR_SCAN_Z] = m->out_norm ? NULL : z,
                                  [KR_SCAN_SEQS] = nn->seqs,
                                  [KR_SCAN_RESET] = nn->reset,
                                  [KR_SCAN_STATE] = nn->state_in[SSM],
                                  [KR_SCAN_GAIN] = step[2]};
    kr_value *outs[KR_SCAN_OUTS] = {[KR_SCAN_OUT_STATE] = nn->state_out[SSM]};
    kr_apply(nn->g, &kr_op_scan, &scan, sizeof scan, ins, KR_SCAN_INS, outs, KR_SCAN_OUTS);
    kr_graph_recompute_dear(nn->g, outs[0], NULL, 0);
    return outs[0];
}

/* norm(y_r) silu(z_r) of every rank, over the channels of a head; ranks share the weight. */
static kr_value *normed(kr_nn *nn, const kr_mamba3 *m, kr_value *y, kr_value *z) {
    int64_t R = kr_mamba3_ranks(m);
    kr_value *weight = kr_nn_param(nn, "norm.weight", KR_PARAM_PLAIN, KR_ONES, 1, &m->inner);
    kr_value *all = weight, *outs[2] = {NULL, NULL};
    for (int64_t r = 1; r < R; r++)
        all = kr_apply1(nn->g, &kr_op_concat, NULL, 0, (kr_value *[]){all, weight}, 2);
    kr_gated_rmsnorm_attr attr = {nn->config->norm_eps, R * kr_mamba3_heads(m), true};
    kr_apply(nn->g, &kr_op_gated_rmsnorm, &attr, sizeof attr, (kr_value *[]){y, z, all}, 3, outs,
             2);
    kr_graph_recompute(nn->g, outs[0]);
    return outs[0];
}

static kr_value *build(kr_nn *nn, kr_value *a) {
    const kr_config *c = nn->config;
    kr_mamba3 m = kr_mamba3_of(c);
    parts p = project(nn, &m, a);
    kr_value *z = p.z;
    if (m.rank > 0) z = ranked(nn, &m, &kr_op_spread, z, "mimo_z", 1);
    kr_value *y = recurrence(nn, &m, &p, z);
    if (m.out_norm) y = normed(nn, &m, y, z);
    if (m.rank > 0) y = ranked(nn, &m, &kr_op_gather, y, "mimo_o", 1 / (double)m.rank);
    /* scaled so that the residual stream's variance does not grow with depth */
    kr_init out = kr_init_fan_in(m.inner, 1 / sqrt((double)c->layers));
    return kr_nn_linear(nn, y, "out_proj", m.inner, c->width, false, out);
}

const kr_mixer kr_mixer_mamba3 = {
    .name = "mamba3",
    .settings = settings,
    .settings_size = sizeof(kr_mamba3),
    .unseen = unseen,
    .fill = fill,
    .check = check,
    .variants = variants,
    .states = states,
    .build = build,
};
