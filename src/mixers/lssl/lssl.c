/* lssl.c - the linear state space layer, from which S4 grew: one linear system in continuous time
 * with whole matrices, shared by the channels, each of which has a step and a read of its own; then
 * a mixing of channels.
 *
 *   x' = A x + B u                   A, B start as one of HiPPO's
 *   h_t = Ab h_{t-1} + b u_t         Ab, b from A, B, delta: ops/discretise_dense
 *   y_t = C h_t + D u_t              C [N] of each channel
 *   out_t = W gelu(y_t) + w
 *
 * A row costs N^2 a channel, and Ab of a step N^3: why S4 exists. Nothing keeps a learned A stable;
 * a small recurrent_learning_rate does. State of a sequence: h, [H,N]. Source: Gu et al. 2021.
 * docs/references.md has the full title. */
#include "mixers/lssl/lssl.h"

#include <krait/scan.h>

#include <math.h>

#include "base/err.h"
#include "base/mem.h"
#include "mixers/s4d/s4d.h"
#include "nn/nn.h"
#include "ops/discretise_dense/discretise_dense.h"
#include "scan/scan_op.h"

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(kr_lssl, state, 64, 2, 1024, "numbers of state a channel"),
    KR_SETTING_CHOICE_OF(kr_lssl, start, KRAIT_HIPPO_LEGS, "legs|legt|lagt|fourier",
                         "the HiPPO system whose matrices are the initial values"),
    KR_SETTING_REAL_OF(
        kr_lssl, rate, 1, 1e-6, 1e6,
        "length of a step, in steps of training: 2 where data are sampled half as often"),
    KR_SETTING_REAL_OF(kr_lssl, dt_min, 0.001, 1e-30, 1e3, "smallest initial step size"),
    KR_SETTING_REAL_OF(kr_lssl, dt_max, 0.1, 1e-30, 1e3, "largest initial step size"),
    {.name = NULL}};

static const char *const unseen[] = {"rate", NULL};

static const char *const variants[] = {"state=5", "state=4 start=fourier tied=false",
                                       "state=3 start=legt rate=2", NULL};

static int check(const kr_config *c, krait_error *e) {
    kr_lssl s = kr_lssl_of(c);
    if (s.start == KRAIT_HIPPO_FOURIER && s.state % 2)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "state (%lld) must be even where start is fourier",
                       (long long)s.state);
    if (s.dt_min <= s.dt_max) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "dt_min (%g) is above dt_max (%g)", s.dt_min, s.dt_max);
}

static int states(const kr_config *c, kr_state_decl s[KR_MAX_STATES]) {
    s[0] = (kr_state_decl){"h", 2, {c->width, kr_lssl_of(c).state}};
    return 1;
}

/* init.a: the HiPPO system; A [N,N] or B [N]. */
static int start_matrix(const kr_param_decl *d, float *values, krait_error *e) {
    int64_t N = d->shape[0], count = d->rank == 2 ? N * N : N;
    double *A = kr_malloc((size_t)(N * N + N) * sizeof *A);
    if (!A) return kr_fail_memory(e, "initial values");
    double *B = A + N * N;
    int rc = krait_hippo_matrices((krait_hippo_kind)d->init.a, N, A, B, e);
    for (int64_t i = 0; rc == 0 && i < count; i++) values[i] = (float)(d->rank == 2 ? A : B)[i];
    kr_free(A);
    return rc;
}

/* The decay [H,(1+2N) N] and b [H,N]. */
static void discrete(kr_nn *nn, const kr_lssl *s, kr_value *ab[2]) {
    int64_t H = nn->config->width, N = s->state;
    kr_init steps = {KR_INIT_UNIFORM, log(s->dt_min), log(s->dt_max), 0};
    kr_init_started start = {start_matrix, s->start, 0, 0};
    kr_discretise_dense_attr attr = {s->rate};
    kr_value *ins[KR_DENSE_INS] = {
        [KR_DENSE_DT] = kr_nn_param(nn, "log_dt", KR_PARAM_RECURRENT, steps, 1, &H),
        [KR_DENSE_A] =
            kr_nn_param_started(nn, "A", KR_PARAM_RECURRENT, &start, 2, (int64_t[]){N, N}),
        [KR_DENSE_B] = kr_nn_param_started(nn, "B", KR_PARAM_RECURRENT, &start, 1, &N),
    };
    ab[0] = ab[1] = NULL;
    kr_apply(nn->g, &kr_op_discretise_dense, &attr, sizeof attr, ins, KR_DENSE_INS, ab, 2);
}

static kr_value *build(kr_nn *nn, kr_value *u) {
    kr_lssl s = kr_lssl_of(nn->config);
    int64_t H = nn->config->width;
    kr_value *ab[2], *outs[KR_SCAN_OUTS] = {[KR_SCAN_OUT_STATE] = nn->state_out[0]};
    krait_scan_desc scan = krait_scan_lssl(H, s.state);
    kr_init normal = {KR_INIT_NORMAL, 0, 1, 0};
    discrete(nn, &s, ab);
    kr_value *ins[KR_SCAN_INS] = {[KR_SCAN_X] = u,
                                  [KR_SCAN_A] = ab[0],
                                  [KR_SCAN_B] = ab[1],
                                  [KR_SCAN_C] = kr_nn_param(nn, "C", KR_PARAM_DECAY, normal, 2,
                                                            (int64_t[]){H, s.state}),
                                  [KR_SCAN_D] = kr_nn_param(nn, "D", KR_PARAM_DECAY, normal, 1, &H),
                                  [KR_SCAN_SEQS] = nn->seqs,
                                  [KR_SCAN_RESET] = nn->reset,
                                  [KR_SCAN_STATE] = nn->state_in[0]};
    kr_apply(nn->g, &kr_op_scan, &scan, sizeof scan, ins, KR_SCAN_INS, outs, KR_SCAN_OUTS);
    return kr_s4d_mixed(nn, outs[0], false);
}

const kr_mixer kr_mixer_lssl = {
    .name = "lssl",
    .settings = settings,
    .settings_size = sizeof(kr_lssl),
    .unseen = unseen,
    .check = check,
    .variants = variants,
    .states = states,
    .build = build,
};
