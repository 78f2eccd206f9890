/* mamba2_layer.c - shape rule and checker cases of a decode step of Mamba-2; mamba2_layer.h has the
 * equations. */
#include "ops/mamba_layer/mamba2_layer.h"

#include "ops/mamba_layer/mamba_layer_rules.h"

static kr_mamba2_layer_sizes sizes_of(const kr_tensor *in) {
    return (kr_mamba2_layer_sizes){in[KR_LAYER2_X].shape[0],   in[KR_LAYER2_X].shape[1],
                                   in[KR_LAYER2_OUT].shape[1], in[KR_LAYER2_STATE].shape[2],
                                   in[KR_LAYER2_A].shape[0],   in[KR_LAYER2_CONV].shape[2]};
}

static kr_layer_shape shape_of(const kr_mamba2_layer_sizes *s, int64_t skips) {
    int64_t keys = 2 * s->N;
    return (kr_layer_shape){.M = s->M,
                            .D = s->D,
                            .E = s->E,
                            .N = s->N,
                            .K = s->K,
                            .in = 2 * s->E + keys + s->H,
                            .mixed = s->E + keys,
                            .steps = s->H,
                            .skips = skips,
                            .a = {s->H},
                            .a_rank = 1};
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
    const kr_tensor *in = c->in;
    kr_need needs[KR_LAYER2_INS];
    KR_TRY(kr_layer_need_ranks("mamba2_layer", in, 1, e));
    kr_mamba2_layer_sizes s = sizes_of(in);
    kr_layer_shape both = shape_of(&s, in[KR_LAYER2_D].shape[0] == s.H ? s.H : s.E);
    KR_TRY(check_sizes(&s, e));
    kr_layer_needs(&both, needs);
    needs[KR_LAYER2_GATE_NORM] = (kr_need){"gate_norm", 1, {s.E}, false};
    KR_TRY(kr_need_all("mamba2_layer", in, needs, KR_LAYER2_INS, e));
    KR_TRY(kr_need_type("mamba2_layer", "seqs", &in[KR_LAYER2_SEQS], KR_I64, e));
    KR_TRY(kr_layer_need_like_in("mamba2_layer", "out_proj", in, KR_LAYER2_OUT, e));
    if (in[KR_LAYER2_STATE].dtype == KR_BF16)
        KR_TRY(kr_need_type("mamba2_layer", "in_proj of states in bf16", &in[KR_LAYER2_IN], KR_BF16,
                            e));
    KR_TRY(kr_need_type("mamba2_layer", "state out", &c->out[KR_LAYER2_STATE_OUT],
                        in[KR_LAYER2_STATE].dtype, e));
    kr_layer_shape_y(&in[KR_LAYER2_X], out);
    return 0;
}

bool kr_mamba2_layer_serves(const kr_mamba2_layer_sizes *s) {
    return kr_layer_serves(s->M, s->D, s->E, s->K, 2 * s->N + s->H) && s->H > 0 && s->E % s->H == 0;
}

#if defined(KR_CUDA)
/* Whether the GPU has room for the ring of its kernel, and for all blocks at once
 * (mamba2_layer.cu). */
bool kr_mamba2_layer_has_room(const kr_mamba2_layer_sizes *s, bool half);
void kr_mamba2_layer_chain_cuda(const kr_call *const *calls, int n);
#endif

bool kr_mamba2_layer_fits(const kr_mamba2_layer_sizes *s, bool half) {
#if defined(KR_CUDA)
    return kr_mamba2_layer_serves(s) && kr_mamba2_layer_has_room(s, half);
#else
    (void)s;
    (void)half;
    return false;
#endif
}

static int check_cuda(const kr_call *c, krait_error *e) {
    kr_mamba2_layer_sizes s = sizes_of(c->in);
    if (kr_mamba2_layer_fits(&s, c->in[KR_LAYER2_IN].dtype == KR_BF16)) return 0;
    return kr_layer_no_room("mamba2_layer", s.M, s.E, e);
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
    kr_layer_shape both = shape_of(s, rows[index].per_channel ? s->E : s->H);
    k->name = rows[index].name;
    k->tokens = rows[index].tokens;
    k->attr = rows[index].attr;
    k->attr_size = sizeof *rows[index].attr;
    k->half.wide = rows[index].half_states ? 0 : 1u << KR_LAYER2_STATE;
    k->half.out = rows[index].half_states ? 1u << KR_LAYER2_STATE_OUT : 0;
    kr_layer_case(k, &both);
    kr_case_normal(k, KR_LAYER2_GATE_NORM, 1, &s->E);
    if (rows[index].no_bias) kr_layer_case_unbiased(k);
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
