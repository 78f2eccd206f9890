/* s4d.c - S4D: for each channel a linear system in continuous time whose matrix is diagonal and
 * complex, made discrete with a step of the channel's own; then a mixing of channels.
 *
 *   lambda_n = -exp(log_rate_n) + i frequency_n      delta = rate exp(log_dt)
 *   h_t[n]   = a_n h_{t-1}[n] + b_n u_t              a, b from lambda, B, delta: ops/discretise
 *   y_t      = 2 Re sum_{n < N/2} C_n h_t[n] + D u_t
 *   out_t    = (W_a z_t + b_a) sigmoid(W_b z_t + b_b),   z_t = gelu(y_t)
 *
 * Half of the conjugate pairs of a real system with N numbers of state is held, hence 2 Re. The
 * same weights are a recurrence, a convolution (src/scan picks which computes) and a system in
 * continuous time: `rate` changes the sampling of the data. State of a sequence: h, [H,2,N/2].
 * Source: Gu et al. 2022. docs/references.md has the full title. */
#include "mixers/s4d/s4d.h"

#include <krait/scan.h>

#include <math.h>

#include "base/err.h"
#include "nn/nn.h"
#include "ops/discretise/discretise.h"
#include "scan/scan_op.h"

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(kr_s4d, state, 64, 2, 4096, "real numbers of state a channel, even"),
    KR_SETTING_INT_OF(kr_s4d, copies, 0, 0, 1 << 20,
                      "systems that the channels share in turn; 0: one each"),
    KR_SETTING_CHOICE_OF(kr_s4d, start, KR_S4D_LIN, "lin|inv|legs|real",
                         "the system whose modes are the initial values"),
    KR_SETTING_CHOICE_OF(kr_s4d, discretisation, KR_ZERO_ORDER_HOLD, "zero_order_hold|bilinear",
                         "how a step is made of continuous time"),
    KR_SETTING_REAL_OF(
        kr_s4d, rate, 1, 1e-6, 1e6,
        "length of a step, in steps of training: 2 where data are sampled half as often"),
    KR_SETTING_REAL_OF(kr_s4d, dt_min, 0.001, 1e-30, 1e3, "smallest initial step size"),
    KR_SETTING_REAL_OF(kr_s4d, dt_max, 0.1, 1e-30, 1e3, "largest initial step size"),
    KR_SETTING_BOOL_OF(kr_s4d, glu, true, "a gated linear unit mixes the channels, not a map"),
    {.name = NULL}};

static const char *const unseen[] = {"discretisation", "rate", NULL};

static const char *const variants[] = {"state=8", "state=6 start=legs copies=2 glu=false",
                                       "state=4 start=inv discretisation=bilinear tied=false",
                                       "state=10 start=real rate=2", NULL};

static void fill(kr_config *c) {
    kr_s4d s = kr_s4d_of(c);
    if (!s.copies) s.copies = c->width;
    memcpy(c->settings, &s, sizeof s);
}

int kr_s4d_check(const kr_config *c, int64_t state, int64_t copies, double dt_min, double dt_max,
                 krait_error *e) {
    if (state % 2)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "state (%lld) must be even: modes come in pairs",
                       (long long)state);
    if (c->width % copies)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "copies (%lld) does not divide the width (%lld)",
                       (long long)copies, (long long)c->width);
    if (dt_min <= dt_max) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "dt_min (%g) is above dt_max (%g)", dt_min, dt_max);
}

static int check(const kr_config *c, krait_error *e) {
    kr_s4d s = kr_s4d_of(c);
    return kr_s4d_check(c, s.state, s.copies, s.dt_min, s.dt_max, e);
}

static int states(const kr_config *c, kr_state_decl s[KR_MAX_STATES]) {
    s[0] = (kr_state_decl){"h", 2, {c->width, kr_s4d_of(c).state}};
    return 1;
}

/* init.a: where they start; b: N; c: the part of the system */
static int start_part(const kr_param_decl *d, float *values, krait_error *e) {
    return kr_s4d_first((kr_s4d_start)d->init.a, (int64_t)d->init.b, (kr_s4d_part)d->init.c,
                        d->shape[0], values, e);
}

static kr_value *system_param(kr_nn *nn, const kr_s4d *s, const char *name, kr_s4d_part part,
                              int rank, const int64_t *shape) {
    kr_init_started init = {start_part, s->start, (double)s->state, part};
    return kr_nn_param_started(nn, name, KR_PARAM_RECURRENT, &init, rank, shape);
}

/* ---- the graph ---- */

kr_value *kr_s4d_log_step(kr_nn *nn, double dt_min, double dt_max) {
    kr_init steps = {KR_INIT_UNIFORM, log(dt_min), log(dt_max), 0};
    return kr_nn_param(nn, "log_dt", KR_PARAM_RECURRENT, steps, 1, &nn->config->width);
}

/* a and b, [H,N] each. */
static void discrete(kr_nn *nn, const kr_s4d *s, kr_value *ab[2]) {
    int64_t S = s->copies, N = s->state / 2;
    kr_discretise_attr attr = {(kr_discretisation)s->discretisation, s->rate};
    kr_value *ins[] = {
        kr_s4d_log_step(nn, s->dt_min, s->dt_max),
        system_param(nn, s, "log_rate", KR_S4D_RATE, 2, (int64_t[]){S, N}),
        system_param(nn, s, "frequency", KR_S4D_FREQUENCY, 2, (int64_t[]){S, N}),
        system_param(nn, s, "B", KR_S4D_B, 3, (int64_t[]){S, 2, N}),
    };
    ab[0] = ab[1] = NULL;
    kr_apply(nn->g, &kr_op_discretise, &attr, sizeof attr, ins, 4, ab, 2);
}

kr_value *kr_s4d_scan(kr_nn *nn, const krait_scan_desc *scan, kr_value *u, kr_value *const ab[2]) {
    int64_t H = scan->heads, N = scan->state;
    kr_value *outs[KR_SCAN_OUTS] = {[KR_SCAN_OUT_STATE] = nn->state_out[0]};
    kr_init normal = {KR_INIT_NORMAL, 0, 1, 0}, half = {KR_INIT_NORMAL, 0, sqrt(0.5), 0};
    kr_value *ins[KR_SCAN_INS] = {[KR_SCAN_X] = u,
                                  [KR_SCAN_A] = ab[0],
                                  [KR_SCAN_B] = ab[1],
                                  [KR_SCAN_C] = kr_nn_param(nn, "C", KR_PARAM_DECAY, half, 3,
                                                            (int64_t[]){H, 2, N}),
                                  [KR_SCAN_D] = kr_nn_param(nn, "D", KR_PARAM_DECAY, normal, 1, &H),
                                  [KR_SCAN_SEQS] = nn->seqs,
                                  [KR_SCAN_RESET] = nn->reset,
                                  [KR_SCAN_STATE] = nn->state_in[0]};
    kr_apply(nn->g, &kr_op_scan, scan, sizeof *scan, ins, KR_SCAN_INS, outs, KR_SCAN_OUTS);
    kr_graph_recompute_dear(nn->g, outs[0], NULL, 0);
    return outs[0];
}

kr_value *kr_s4d_mixed(kr_nn *nn, kr_value *y, bool glu) {
    int64_t H = nn->config->width;
    if (!y) return NULL; /* the graph says why */
    kr_value *z = kr_nn_map(nn, KR_FUNCTION_GELU_ERF, y);
    z = kr_nn_dropout(nn, z);
    int64_t rows = kr_value_tensor(y)->shape[1];
    kr_value *v =
        kr_nn_linear(nn, z, "out_proj", rows, glu ? 2 * H : H, true, kr_init_fan_in(rows, 1));
    if (!glu) return v;
    return kr_nn_gate(nn, KR_FUNCTION_SIGMOID, kr_graph_columns(nn->g, v, 0, H),
                      kr_graph_columns(nn->g, v, H, H));
}

static kr_value *build(kr_nn *nn, kr_value *u) {
    kr_s4d s = kr_s4d_of(nn->config);
    kr_value *ab[2];
    krait_scan_desc scan = krait_scan_s4d(nn->config->width, s.state / 2);
    scan.form = KRAIT_FORM_GIVEN;
    discrete(nn, &s, ab);
    return kr_s4d_mixed(nn, kr_s4d_scan(nn, &scan, u, ab), s.glu);
}

const kr_mixer kr_mixer_s4d = {
    .name = "s4d",
    .settings = settings,
    .settings_size = sizeof(kr_s4d),
    .unseen = unseen,
    .fill = fill,
    .check = check,
    .variants = variants,
    .states = states,
    .build = build,
};
