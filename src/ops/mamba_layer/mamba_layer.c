/* mamba_layer.c - shape rule and checker cases of a decode step; mamba_layer.h has the equations.
 */
#include "ops/mamba_layer/mamba_layer.h"

#include <math.h>

#include "base/err.h"
#include "ops/case.h"

static int check_types(const kr_tensor *in, krait_error *e) {
    kr_dtype type = in[KR_LAYER_IN].dtype;
    KR_TRY(kr_need_type("mamba_layer", "seqs", &in[KR_LAYER_SEQS], KR_I64, e));
    if (in[KR_LAYER_X_PROJ].dtype == type && in[KR_LAYER_DT].dtype == type &&
        in[KR_LAYER_OUT].dtype == type)
        return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "mamba_layer: the four matrices must be of one type");
}

static int shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *in = c->in, *x = &in[KR_LAYER_X];
    KR_TRY(kr_need_rank("mamba_layer", "x", x, 2, e));
    KR_TRY(kr_need_rank("mamba_layer", "conv", &in[KR_LAYER_CONV], 3, e));
    KR_TRY(kr_need_rank("mamba_layer", "a", &in[KR_LAYER_A], 2, e));
    KR_TRY(kr_need_rank("mamba_layer", "dt_proj", &in[KR_LAYER_DT], 2, e));
    kr_mamba_layer_sizes s = {x->shape[0],
                              x->shape[1],
                              in[KR_LAYER_A].shape[0],
                              in[KR_LAYER_A].shape[1],
                              in[KR_LAYER_DT].shape[1],
                              in[KR_LAYER_CONV].shape[2]};
    int64_t M = s.M, D = s.D, E = s.E, N = s.N, r = s.r, K = s.K;
    const kr_need needs[KR_LAYER_INS] = {{"x", 2, {M, D}, false},
                                         {"norm", 1, {D}, false},
                                         {"in_proj", 2, {2 * E, D}, false},
                                         {"in_bias", 1, {2 * E}, true},
                                         {"conv", 3, {E, 1, K}, false},
                                         {"conv_bias", 1, {E}, true},
                                         {"x_proj", 2, {r + 2 * N, E}, false},
                                         {"dt_proj", 2, {E, r}, false},
                                         {"dt_bias", 1, {E}, false},
                                         {"a", 2, {E, N}, false},
                                         {"d", 1, {E}, false},
                                         {"out_proj", 2, {D, E}, false},
                                         {"out_bias", 1, {D}, true},
                                         {"seqs", 2, {M, 3}, false},
                                         {"window", 3, {-1, K - 1, E}, false},
                                         {"state", 3, {-1, E, N}, false}};
    KR_TRY(kr_need_all("mamba_layer", in, needs, KR_LAYER_INS, e));
    KR_TRY(check_types(in, e));
    if (!kr_mamba_layer_serves(&s))
        return kr_fail(e, KRAIT_ERR_SHAPE,
                       "mamba_layer: %lld rows of %lld and %lld, %lld taps, %lld states, %lld in "
                       "dt_proj are not served",
                       (long long)M, (long long)D, (long long)E, (long long)K, (long long)N,
                       (long long)r);
    out[KR_LAYER_Y] = kr_tensor_make(NULL, x->dtype, 2, (int64_t[]){M, D});
    out[KR_LAYER_Y].dim0 = x->dim0;
    return 0;
}

bool kr_mamba_layer_serves(const kr_mamba_layer_sizes *s) {
    return s->M <= KR_LAYER_FEW && s->D <= KR_LAYER_WIDTH && s->E <= KR_LAYER_INNER &&
           s->r + 2 * s->N <= KR_LAYER_XP_WIDTH && s->K >= 2 && s->K <= KR_LAYER_TAPS &&
           s->D % KR_LAYER_MULTIPLE == 0 && s->E % KR_LAYER_MULTIPLE == 0 && s->r % 2 == 0;
}

#if defined(KR_CUDA)
/* Of the ring of the GPU's kernel, that its shared memory has room for (mamba_layer.cu). */
int kr_mamba_layer_slots(const kr_mamba_layer_sizes *s, bool half);
/* All of its blocks, which wait for each other, are on the card at once. */
bool kr_mamba_layer_resident(const kr_mamba_layer_sizes *s, bool half);
void kr_mamba_layer_chain_cuda(const kr_call *const *calls, int n);
#endif

bool kr_mamba_layer_fits(const kr_mamba_layer_sizes *s, bool half) {
#if defined(KR_CUDA)
    return kr_mamba_layer_serves(s) && kr_mamba_layer_slots(s, half) >= 2 &&
           kr_mamba_layer_resident(s, half);
#else
    (void)s;
    (void)half;
    return false;
#endif
}

static int check_cuda(const kr_call *c, krait_error *e) {
    const kr_tensor *in = c->in;
    kr_mamba_layer_sizes s = {in[KR_LAYER_X].shape[0],  in[KR_LAYER_X].shape[1],
                              in[KR_LAYER_A].shape[0],  in[KR_LAYER_A].shape[1],
                              in[KR_LAYER_DT].shape[1], in[KR_LAYER_CONV].shape[2]};
    if (kr_mamba_layer_fits(&s, in[KR_LAYER_IN].dtype == KR_BF16)) return 0;
    return kr_fail(
        e, KRAIT_ERR_UNSUPPORTED,
        "mamba_layer: %lld rows of %lld do not fit into the GPU's shared memory, or not all "
        "blocks of the kernel at once on the GPU",
        (long long)s.M, (long long)s.E);
}

/* The reference's numbers of a row: normed x, then u, z, xp, y. */
static size_t scratch(const kr_call *c) {
    const kr_tensor *in = c->in;
    int64_t n =
        in[KR_LAYER_X].shape[1] + 3 * in[KR_LAYER_A].shape[0] + in[KR_LAYER_X_PROJ].shape[0];
    return (size_t)n * sizeof(double);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    const int matrices[] = {KR_LAYER_IN, KR_LAYER_X_PROJ, KR_LAYER_DT, KR_LAYER_OUT};
    double rows = (double)c->in[KR_LAYER_X].shape[0];
    *flops = 8 * rows * (double)kr_tensor_count(&c->in[KR_LAYER_A]);
    *bytes = (2 * rows + 1) * (double)kr_tensor_bytes(&c->in[KR_LAYER_A]);
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        *flops += 2 * rows * (double)kr_tensor_count(&c->in[matrices[i]]);
        *bytes += (double)kr_tensor_bytes(&c->in[matrices[i]]);
    }
}

static const kr_mamba_layer_attr mamba = {1e-5, 0}, falcon = {1e-5, 1e-6};

static void matrix(kr_case *k, int i, int64_t rows, int64_t columns) {
    kr_case_in(k, i, KR_F32, 2, (int64_t[]){rows, columns}, KR_FILL_NORMAL,
               1 / sqrt((double)columns), 0);
}

static void add_inputs(kr_case *k, const kr_mamba_layer_sizes *s) {
    int64_t M = s->M, D = s->D, E = s->E, N = s->N, r = s->r, K = s->K, E2 = 2 * E;
    kr_case_normal(k, KR_LAYER_X, 2, (int64_t[]){M, D});
    kr_case_normal(k, KR_LAYER_NORM, 1, &D);
    matrix(k, KR_LAYER_IN, E2, D);
    kr_case_normal(k, KR_LAYER_IN_BIAS, 1, &E2);
    kr_case_normal(k, KR_LAYER_CONV, 3, (int64_t[]){E, 1, K});
    kr_case_normal(k, KR_LAYER_CONV_BIAS, 1, &E);
    matrix(k, KR_LAYER_X_PROJ, r + 2 * N, E);
    matrix(k, KR_LAYER_DT, E, r);
    kr_case_normal(k, KR_LAYER_DT_BIAS, 1, &E);
    kr_case_in(k, KR_LAYER_A, KR_F32, 2, (int64_t[]){E, N}, KR_FILL_UNIFORM, -4, -0.1);
    kr_case_normal(k, KR_LAYER_D, 1, &E);
    matrix(k, KR_LAYER_OUT, D, E);
    kr_case_normal(k, KR_LAYER_OUT_BIAS, 1, &D);
    kr_case_in(k, KR_LAYER_SEQS, KR_I64, 2, (int64_t[]){M, 3}, KR_FILL_SEQS, 0, 0);
    kr_case_normal(k, KR_LAYER_WINDOW, 3, (int64_t[]){M + 1, K - 1, E});
    kr_case_normal(k, KR_LAYER_STATE, 3, (int64_t[]){M + 1, E, N});
    k->out[KR_LAYER_WINDOW_OUT] = kr_tensor_make(NULL, KR_F32, 3, (int64_t[]){M + 1, K - 1, E});
    k->out[KR_LAYER_STATE_OUT] = kr_tensor_make(NULL, KR_F32, 3, (int64_t[]){M + 1, E, N});
}

static bool cases(int index, kr_case *k) {
    static const struct {
        const char *name;
        kr_mamba_layer_sizes s; /* M D E N r K */
        int64_t tokens;
        const kr_mamba_layer_attr *attr;
    } rows[] = {{"M=1 D=E=32", {1, 32, 32, 1, 2, 2}, 1, &mamba},
                {"M=1", {1, 64, 128, 16, 48, 4}, 1, &mamba},
                {"M=4 odd", {4, 96, 160, 5, 6, 3}, 4, &mamba},
                {"M=3, a row of no one", {3, 64, 192, 16, 8, 4}, 2, &mamba},
                {"M=2, more than a piece", {2, 1056, 160, 17, 24, 4}, 2, &mamba},
                {"M=8, with norms", {8, 320, 640, 16, 20, 4}, 8, &falcon},
                {"M=1, of 130M", {1, 768, 1536, 16, 48, 4}, 1, &mamba},
                {"M=5, as wide as can be", {5, 5120, 64, 4, 40, 4}, 5, &mamba},
                {"N=64 r=300", {7, 32, 96, 64, 300, 4}, 7, &falcon},
                {"M=2, round the ring", {2, 32, 2048, 16, 8, 4}, 2, &mamba},
                {"M=1, many channels, no bias", {1, 32, 10240, 16, 4, 4}, 1, &mamba}};
    if (index >= (int)(sizeof rows / sizeof *rows)) return false;
    k->name = rows[index].name;
    k->n_out = KR_LAYER_OUTS;
    k->tokens = rows[index].tokens;
    k->attr = rows[index].attr;
    k->attr_size = sizeof *rows[index].attr;
    k->half.tolerance = 2e-2; /* u, z and y are halves in between */
    add_inputs(k, &rows[index].s);
    if (index < 10) return true;
    kr_case_without(k, KR_LAYER_IN_BIAS);
    kr_case_without(k, KR_LAYER_CONV_BIAS);
    kr_case_without(k, KR_LAYER_OUT_BIAS);
    return true;
}

KR_DECLARE_REF_KERNEL(kr_mamba_layer);

const kr_op kr_op_mamba_layer = {
    .name = "mamba_layer",
    .shape = shape,
    .check_cuda = check_cuda,
    .scratch = scratch,
    .cost = cost,
    .cases = cases,
    .n_in = KR_LAYER_INS,
    .n_out = KR_LAYER_OUTS,
    .no_accumulate = 7,
    .half_in = 1u << KR_LAYER_IN | 1u << KR_LAYER_X_PROJ | 1u << KR_LAYER_DT | 1u << KR_LAYER_OUT,
    .kernel = KR_REF_KERNELS_GPU(kr_mamba_layer),
#if defined(KR_CUDA)
    .chain_cuda = kr_mamba_layer_chain_cuda,
#endif
};
