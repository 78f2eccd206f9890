/* s4.c - S4: for each channel a linear system in continuous time that starts as one of HiPPO's,
 * diagonal minus low rank, made discrete by the bilinear rule with a step of the channel's own;
 * then a mixing of channels.
 *
 *   x' = (Lambda - P P*) x + B u      lambda_n = -exp(log_rate_n) + i frequency_n
 *   h_t = a h_{t-1} - sum_r p_r 2 Re(q_r h_{t-1}) + b u_t   ops/discretise_low_rank
 *   y_t = 2 Re sum_{n < N/2} C_n h_t[n] + D u_t
 *   out_t = (W_a z_t + b_a) sigmoid(W_b z_t + b_b),   z_t = gelu(y_t)
 *
 * -Re lambda and P P* are positive, so that no learning makes it unstable. Generation and carried
 * states run the recurrence, O(N) a row; whole sequences are convolutions with a kernel from sums
 * of Cauchy's form (src/scan/scan_cauchy.h). C means the same to both, so nothing is converted
 * between them, and a kernel has no length of its own. State of a sequence: h, [H,2,N/2].
 * Sources: Gu et al. 2022b, Goel et al. 2022. docs/references.md has the full titles. */
#include "mixers/s4/s4.h"

#include <krait/scan.h>

#include <math.h>

#include "base/err.h"
#include "hippo/hippo_system.h"
#include "mixers/s4d/s4d.h"
#include "nn/nn.h"
#include "ops/discretise_low_rank/discretise_low_rank.h"
#include "scan/scan_op.h"

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(kr_s4, state, 64, 2, 512, "real numbers of state a channel, even"),
    KR_SETTING_INT_OF(kr_s4, copies, 0, 0, 1 << 20,
                      "systems that the channels share in turn; 0: one each"),
    KR_SETTING_CHOICE_OF(kr_s4, start, KRAIT_HIPPO_LEGS, "legs|legt|lagt|fourier",
                         "the HiPPO system whose matrices are the initial values"),
    KR_SETTING_REAL_OF(
        kr_s4, rate, 1, 1e-6, 1e6,
        "length of a step, in steps of training: 2 where data are sampled half as often"),
    KR_SETTING_REAL_OF(kr_s4, dt_min, 0.001, 1e-30, 1e3, "smallest initial step size"),
    KR_SETTING_REAL_OF(kr_s4, dt_max, 0.1, 1e-30, 1e3, "largest initial step size"),
    KR_SETTING_REAL_OF(kr_s4, least_decay, 1e-4, 1e-30, 1e3,
                       "smallest initial -Re lambda: legt, lagt and fourier only turn"),
    KR_SETTING_BOOL_OF(kr_s4, glu, true, "a gated linear unit mixes the channels, not a map"),
    {.name = NULL}};

static const char *const unseen[] = {"rate", NULL};

static const char *const variants[] = {"state=8",
                                       "state=6 start=legt copies=2 glu=false least_decay=0.2",
                                       "state=4 start=fourier tied=false least_decay=0.1",
                                       "state=6 start=lagt rate=2 least_decay=0.1", NULL};

static void fill(kr_config *c) {
    kr_s4 s = kr_s4_of(c);
    if (!s.copies) s.copies = c->width;
    memcpy(c->settings, &s, sizeof s);
}

static int check(const kr_config *c, krait_error *e) {
    kr_s4 s = kr_s4_of(c);
    return kr_s4d_check(c, s.state, s.copies, s.dt_min, s.dt_max, e);
}

static int states(const kr_config *c, kr_state_decl s[KR_MAX_STATES]) {
    s[0] = (kr_state_decl){"h", 2, {c->width, kr_s4_of(c).state}};
    return 1;
}

/* ---- initial values: init.a = the HiPPO system, b = N, c = least -Re lambda ---- */

typedef enum part { RATE, FREQUENCY, B, P } part;

/* Number i of one system's part. As published, windows are 2 long (rates and B halved). */
static double number(const kr_hippo_modes *m, part what, double window, double least, int64_t i) {
    int64_t half = m->N / 2, n = i % half, row = i / half;
    switch (what) {
    case RATE: return log(fmax(m->rate / window, least));
    case FREQUENCY: return m->frequency[n] / window;
    case B: return row ? 0 : m->B[n] / window;
    case P: return m->P[row / 2 * half + n][row % 2] / sqrt(window);
    }
    return 0;
}

static int start_part(const kr_param_decl *d, part what, float *values, krait_error *e) {
    krait_hippo_kind kind = (krait_hippo_kind)d->init.a;
    double window = kind == KRAIT_HIPPO_LEGT || kind == KRAIT_HIPPO_FOURIER ? 2 : 1;
    kr_hippo_modes m;
    int64_t count = 1;
    KR_TRY(kr_hippo_modes_make(&m, kind, (int64_t)d->init.b, e));
    for (int i = 1; i < d->rank; i++) count *= d->shape[i];
    for (int64_t i = 0; i < count; i++) values[i] = (float)number(&m, what, window, d->init.c, i);
    kr_s4d_repeat(values, d->shape[0], count);
    kr_hippo_modes_free(&m);
    return 0;
}

static int start_rate(const kr_param_decl *d, float *values, krait_error *e) {
    return start_part(d, RATE, values, e);
}
static int start_frequency(const kr_param_decl *d, float *values, krait_error *e) {
    return start_part(d, FREQUENCY, values, e);
}
static int start_b(const kr_param_decl *d, float *values, krait_error *e) {
    return start_part(d, B, values, e);
}
static int start_p(const kr_param_decl *d, float *values, krait_error *e) {
    return start_part(d, P, values, e);
}

static kr_value *system_param(kr_nn *nn, const kr_s4 *s, const char *name, kr_start *start,
                              int rank, const int64_t *shape) {
    kr_init_started init = {start, s->start, (double)s->state, s->least_decay};
    return kr_nn_param_started(nn, name, KR_PARAM_RECURRENT, &init, rank, shape);
}

/* ---- the graph ---- */

/* The decay [H,(1+2R) N] and b [H,N]. */
static void discrete(kr_nn *nn, const kr_s4 *s, kr_value *ab[2]) {
    int64_t S = s->copies, N = s->state / 2, R = kr_hippo_rank((krait_hippo_kind)s->start);
    kr_discretise_low_rank_attr attr = {s->rate};
    kr_value *ins[KR_LOW_INS] = {
        [KR_LOW_DT] = kr_s4d_log_step(nn, s->dt_min, s->dt_max),
        [KR_LOW_RATE] = system_param(nn, s, "log_rate", start_rate, 2, (int64_t[]){S, N}),
        [KR_LOW_FREQUENCY] =
            system_param(nn, s, "frequency", start_frequency, 2, (int64_t[]){S, N}),
        [KR_LOW_B] = system_param(nn, s, "B", start_b, 3, (int64_t[]){S, 2, N}),
        [KR_LOW_P] = system_param(nn, s, "P", start_p, 4, (int64_t[]){S, R, 2, N}),
    };
    ab[0] = ab[1] = NULL;
    kr_apply(nn->g, &kr_op_discretise_low_rank, &attr, sizeof attr, ins, KR_LOW_INS, ab, 2);
}

static kr_value *build(kr_nn *nn, kr_value *u) {
    kr_s4 s = kr_s4_of(nn->config);
    kr_value *ab[2];
    int rank = kr_hippo_rank((krait_hippo_kind)s.start);
    krait_scan_desc scan = krait_scan_s4(nn->config->width, s.state / 2, rank);
    discrete(nn, &s, ab);
    return kr_s4d_mixed(nn, kr_s4d_scan(nn, &scan, u, ab), s.glu);
}

const kr_mixer kr_mixer_s4 = {
    .name = "s4",
    .settings = settings,
    .settings_size = sizeof(kr_s4),
    .unseen = unseen,
    .fill = fill,
    .check = check,
    .variants = variants,
    .states = states,
    .build = build,
};
