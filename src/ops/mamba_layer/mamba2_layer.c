/* mamba2_layer.c - shape rule and checker cases of a decode step of Mamba-2; mamba2_layer.h has the
 * equations. */
#include "ops/mamba_layer/mamba2_layer.h"

#include <math.h>

#include "base/err.h"
#include "ops/case.h"
#include "ops/mamba_layer/mamba_layer.h"

static kr_mamba2_layer_sizes sizes_of(const kr_tensor *in) {
    return (kr_mamba2_layer_sizes){in[KR_LAYER2_X].shape[0],   in[KR_LAYER2_X].shape[1],
                                   in[KR_LAYER2_OUT].shape[1], in[KR_LAYER2_STATE].shape[2],
                                   in[KR_LAYER2_A].shape[0],   in[KR_LAYER2_CONV].shape[2]};
}

static int check_ranks(const kr_tensor *in, krait_error *e) {
    static const struct {
        int input, rank;
        const char *name;
    } of[] = {{KR_LAYER2_X, 2, "x"}, {KR_LAYER2_OUT, 2, "out_proj"}, {KR_LAYER2_STATE, 3, "state"},
              {KR_LAYER2_A, 1, "a"}, {KR_LAYER2_CONV, 3, "conv"},    {KR_LAYER2_D, 1, "d"}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        KR_TRY(kr_need_rank("mamba2_layer", of[i].name, &in[of[i].input], of[i].rank, e));
    return 0;
}

static int check_sizes(const kr_mamba2_layer_sizes *s, krait_error *e) {
    if (kr_mamba2_layer_serves(s)) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE,
                   "mamba2_layer: %lld rows of %lld and %lld, %lld taps, %lld states, %lld heads "
                   "are not served",
                   (long long)s->M, (long long)s->D, (long long)s->E, (long long)s->K,
                   (long long)s->N, (long long)s->H);
}

static int shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *in = c->in, *x = &in[KR_LAYER2_X];
    KR_TRY(check_ranks(in, e));
    kr_mamba2_layer_sizes s = sizes_of(in);
    int64_t M = s.M, D = s.D, E = s.E, N = s.N, H = s.H, K = s.K;
    int64_t all = 2 * E + 2 * N + H, mixed = E + 2 * N;
    int64_t skips = in[KR_LAYER2_D].shape[0] == H ? H : E;
    const kr_need needs[KR_LAYER2_INS] = {
        {"x", 2, {M, D}, false},           {"norm", 1, {D}, false},
        {"in_proj", 2, {all, D}, false},   {"in_bias", 1, {all}, true},
        {"conv", 3, {mixed, 1, K}, false}, {"conv_bias", 1, {mixed}, true},
        {"dt_bias", 1, {H}, false},        {"a", 1, {H}, false},
        {"d", 1, {skips}, false},          {"gate_norm", 1, {E}, false},
        {"out_proj", 2, {D, E}, false},    {"out_bias", 1, {D}, true},
        {"seqs", 2, {M, 3}, false},        {"window", 3, {-1, K - 1, mixed}, false},
        {"state", 3, {-1, E, N}, false}};
    KR_TRY(check_sizes(&s, e));
    KR_TRY(kr_need_all("mamba2_layer", in, needs, KR_LAYER2_INS, e));
    KR_TRY(kr_need_type("mamba2_layer", "seqs", &in[KR_LAYER2_SEQS], KR_I64, e));
    KR_TRY(kr_need_type("mamba2_layer", "out_proj", &in[KR_LAYER2_OUT], in[KR_LAYER2_IN].dtype, e));
    if (in[KR_LAYER2_STATE].dtype == KR_BF16)
        KR_TRY(kr_need_type("mamba2_layer", "in_proj of states in bf16", &in[KR_LAYER2_IN], KR_BF16,
                            e));
    KR_TRY(kr_need_type("mamba2_layer", "state out", &c->out[KR_LAYER2_STATE_OUT],
                        in[KR_LAYER2_STATE].dtype, e));
    out[KR_LAYER2_Y] = kr_tensor_make(NULL, x->dtype, 2, (int64_t[]){M, D});
    out[KR_LAYER2_Y].dim0 = x->dim0;
    return 0;
}

bool kr_mamba2_layer_serves(const kr_mamba2_layer_sizes *s) {
    int64_t words = 2 * s->N + s->H;
    return s->M <= KR_LAYER_FEW && s->D <= KR_LAYER_WIDTH && s->E <= KR_LAYER_INNER &&
           words <= KR_LAYER_XP_WIDTH && words % 2 == 0 && s->K >= 2 && s->K <= KR_LAYER_TAPS &&
           s->D % KR_LAYER_MULTIPLE == 0 && s->E % KR_LAYER_MULTIPLE == 0 && s->H > 0 &&
           s->E % s->H == 0;
}

#if defined(KR_CUDA)
/* Of the ring of the GPU's kernel, that its shared memory has room for (mamba2_layer.cu). */
int kr_mamba2_layer_slots(const kr_mamba2_layer_sizes *s, bool half);
/* All of its blocks, which wait for each other, are on the card at once. */
bool kr_mamba2_layer_resident(const kr_mamba2_layer_sizes *s, bool half);
void kr_mamba2_layer_chain_cuda(const kr_call *const *calls, int n);
#endif

bool kr_mamba2_layer_fits(const kr_mamba2_layer_sizes *s, bool half) {
#if defined(KR_CUDA)
    return kr_mamba2_layer_serves(s) && kr_mamba2_layer_slots(s, half) >= 2 &&
           kr_mamba2_layer_resident(s, half);
#else
    (void)s;
    (void)half;
    return false;
#endif
}

static int check_cuda(const kr_call *c, krait_error *e) {
    kr_mamba2_layer_sizes s = sizes_of(c->in);
    if (kr_mamba2_layer_fits(&s, c->in[KR_LAYER2_IN].dtype == KR_BF16)) return 0;
    return kr_fail(
        e, KRAIT_ERR_UNSUPPORTED,
        "mamba2_layer: %lld rows of %lld do not fit into the GPU's shared memory, or not all "
        "blocks of the kernel at once on the GPU",
        (long long)s.M, (long long)s.E);
}

/* The reference's numbers of a row: normed x, then what in_proj makes, then y. */
static size_t scratch(const kr_call *c) {
    kr_mamba2_layer_sizes s = sizes_of(c->in);
    return (size_t)(s.D + 3 * s.E + 2 * s.N + s.H) * sizeof(double);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    kr_mamba2_layer_sizes s = sizes_of(c->in);
    double rows = (double)s.M, states = (double)s.E * (double)s.N;
    double weights = (double)kr_tensor_count(&c->in[KR_LAYER2_IN]) +
                     (double)kr_tensor_count(&c->in[KR_LAYER2_OUT]);
    *flops = rows * (6 * states + 2 * weights);
    *bytes = 8 * rows * states + (double)kr_tensor_bytes(&c->in[KR_LAYER2_IN]) +
             (double)kr_tensor_bytes(&c->in[KR_LAYER2_OUT]);
}

static const kr_mamba2_layer_attr plain = {1e-5, 0, 0}, clamped = {1e-5, 0.3, 0.9};

static void matrix(kr_case *k, int i, int64_t rows, int64_t columns) {
    kr_case_in(k, i, KR_F32, 2, (int64_t[]){rows, columns}, KR_FILL_NORMAL,
               1 / sqrt((double)columns), 0);
}

static void add_inputs(kr_case *k, const kr_mamba2_layer_sizes *s, int64_t skips) {
    int64_t M = s->M, D = s->D, E = s->E, N = s->N, H = s->H, K = s->K;
    int64_t all = 2 * E + 2 * N + H, mixed = E + 2 * N;
    kr_case_normal(k, KR_LAYER2_X, 2, (int64_t[]){M, D});
    kr_case_normal(k, KR_LAYER2_NORM, 1, &D);
    matrix(k, KR_LAYER2_IN, all, D);
    kr_case_normal(k, KR_LAYER2_IN_BIAS, 1, &all);
    kr_case_in(k, KR_LAYER2_CONV, KR_F32, 3, (int64_t[]){mixed, 1, K}, KR_FILL_NORMAL, 0.5, 0);
    kr_case_normal(k, KR_LAYER2_CONV_BIAS, 1, &mixed);
    kr_case_normal(k, KR_LAYER2_DT_BIAS, 1, &H);
    kr_case_in(k, KR_LAYER2_A, KR_F32, 1, &H, KR_FILL_UNIFORM, -4, -0.1);
    kr_case_normal(k, KR_LAYER2_D, 1, &skips);
    kr_case_normal(k, KR_LAYER2_GATE_NORM, 1, &E);
    matrix(k, KR_LAYER2_OUT, D, E);
    kr_case_normal(k, KR_LAYER2_OUT_BIAS, 1, &D);
    kr_case_in(k, KR_LAYER2_SEQS, KR_I64, 2, (int64_t[]){M, 3}, KR_FILL_SEQS, 0, 0);
    kr_case_normal(k, KR_LAYER2_WINDOW, 3, (int64_t[]){M + 1, K - 1, mixed});
    kr_case_normal(k, KR_LAYER2_STATE, 3, (int64_t[]){M + 1, E, N});
    k->out[KR_LAYER2_WINDOW_OUT] =
        kr_tensor_make(NULL, KR_F32, 3, (int64_t[]){M + 1, K - 1, mixed});
    k->out[KR_LAYER2_STATE_OUT] = kr_tensor_make(NULL, KR_F32, 3, (int64_t[]){M + 1, E, N});
}

static bool cases(int index, kr_case *k) {
    static const struct {
        const char *name;
        kr_mamba2_layer_sizes s; /* M D E N H K */
        int64_t tokens;
        bool per_channel, no_bias;
        bool half_states; /* in the half form */
        const kr_mamba2_layer_attr *attr;
    } rows[] = {
        {"M=1 D=E=32 N=1", {1, 32, 32, 1, 2, 2}, 1, false, false, false, &plain},
        {"M=1", {1, 64, 128, 16, 4, 4}, 1, false, false, false, &plain},
        {"M=4 odd", {4, 96, 160, 5, 10, 3}, 4, false, false, false, &clamped},
        {"M=3, a row of no one", {3, 64, 192, 16, 4, 4}, 2, true, false, false, &plain},
        {"M=2, more than a piece", {2, 1056, 160, 17, 20, 4}, 2, false, false, false, &plain},
        {"M=8, D of a channel", {8, 320, 640, 64, 10, 4}, 8, true, false, false, &clamped},
        {"M=1, of 130M", {1, 768, 1536, 128, 24, 4}, 1, false, true, false, &plain},
        {"M=5, as wide as can be", {5, 5120, 64, 4, 2, 4}, 5, false, false, false, &plain},
        {"N=300", {7, 32, 96, 300, 6, 4}, 7, false, false, false, &plain},
        {"M=1 N=256, P=1", {1, 64, 64, 256, 64, 4}, 1, false, false, false, &plain},
        {"M=1, many channels", {1, 32, 10240, 16, 80, 4}, 1, false, true, false, &plain},
        {"M=1, states in bf16", {1, 96, 192, 128, 4, 4}, 1, false, true, true, &plain},
        {"M=3, N=5, states in bf16", {3, 64, 160, 5, 10, 3}, 2, false, false, true, &clamped}};
    if (index >= (int)(sizeof rows / sizeof *rows)) return false;
    const kr_mamba2_layer_sizes *s = &rows[index].s;
    k->name = rows[index].name;
    k->n_out = KR_LAYER2_OUTS;
    k->tokens = rows[index].tokens;
    k->attr = rows[index].attr;
    k->attr_size = sizeof *rows[index].attr;
    k->half.tolerance = 2e-2; /* u, z and gate_norm * g are halves in between */
    k->half.wide = rows[index].half_states ? 0 : 1u << KR_LAYER2_STATE;
    k->half.out = rows[index].half_states ? 1u << KR_LAYER2_STATE_OUT : 0;
    add_inputs(k, s, rows[index].per_channel ? s->E : s->H);
    if (!rows[index].no_bias) return true;
    kr_case_without(k, KR_LAYER2_IN_BIAS);
    kr_case_without(k, KR_LAYER2_CONV_BIAS);
    kr_case_without(k, KR_LAYER2_OUT_BIAS);
    return true;
}

KR_DECLARE_REF_KERNEL(kr_mamba2_layer);

const kr_op kr_op_mamba2_layer = {
    .name = "mamba2_layer",
    .shape = shape,
    .check_cuda = check_cuda,
    .scratch = scratch,
    .cost = cost,
    .cases = cases,
    .n_in = KR_LAYER2_INS,
    .n_out = KR_LAYER2_OUTS,
    .no_accumulate = 7,
    .half_in = 1u << KR_LAYER2_IN | 1u << KR_LAYER2_OUT | 1u << KR_LAYER2_STATE,
    .kernel = KR_REF_KERNELS_GPU(kr_mamba2_layer),
#if defined(KR_CUDA)
    .chain_cuda = kr_mamba2_layer_chain_cuda,
#endif
};
