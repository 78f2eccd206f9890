/* mamba_layer.c - shape rule and checker cases of a decode step; mamba_layer.h has the equations.
 */
#include "ops/mamba_layer/mamba_layer.h"

#include "ops/mamba_layer/mamba_layer_rules.h"

static kr_mamba_layer_sizes sizes_of(const kr_tensor *in) {
    return (kr_mamba_layer_sizes){in[KR_LAYER_X].shape[0],   in[KR_LAYER_X].shape[1],
                                  in[KR_LAYER_OUT].shape[1], in[KR_LAYER_STATE].shape[2],
                                  in[KR_LAYER_DT].shape[1],  in[KR_LAYER_CONV].shape[2]};
}

static kr_layer_shape shape_of(const kr_mamba_layer_sizes *s) {
    return (kr_layer_shape){.M = s->M,
                            .D = s->D,
                            .E = s->E,
                            .N = s->N,
                            .K = s->K,
                            .in = 2 * s->E,
                            .mixed = s->E,
                            .steps = s->E,
                            .skips = s->E,
                            .a = {s->E, s->N},
                            .a_rank = 2};
}

static int check_sizes(const kr_mamba_layer_sizes *s, krait_error *e) {
    if (kr_mamba_layer_serves(s)) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE,
                   "mamba_layer: %lld rows of %lld and %lld, %lld taps, %lld states, %lld in "
                   "dt_proj are not served",
                   (long long)s->M, (long long)s->D, (long long)s->E, (long long)s->K,
                   (long long)s->N, (long long)s->r);
}

static int shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *in = c->in;
    kr_need needs[KR_LAYER_INS];
    KR_TRY(kr_layer_need_ranks("mamba_layer", in, 2, e));
    KR_TRY(kr_need_rank("mamba_layer", "dt_proj", &in[KR_LAYER_DT], 2, e));
    kr_mamba_layer_sizes s = sizes_of(in);
    kr_layer_shape both = shape_of(&s);
    KR_TRY(check_sizes(&s, e));
    kr_layer_needs(&both, needs);
    needs[KR_LAYER_X_PROJ] = (kr_need){"x_proj", 2, {s.r + 2 * s.N, s.E}, false};
    needs[KR_LAYER_DT] = (kr_need){"dt_proj", 2, {s.E, s.r}, false};
    KR_TRY(kr_need_all("mamba_layer", in, needs, KR_LAYER_INS, e));
    KR_TRY(kr_need_type("mamba_layer", "seqs", &in[KR_LAYER_SEQS], KR_I64, e));
    KR_TRY(kr_layer_need_like_in("mamba_layer", "x_proj", in, KR_LAYER_X_PROJ, e));
    KR_TRY(kr_layer_need_like_in("mamba_layer", "dt_proj", in, KR_LAYER_DT, e));
    KR_TRY(kr_layer_need_like_in("mamba_layer", "out_proj", in, KR_LAYER_OUT, e));
    kr_layer_shape_y(&in[KR_LAYER_X], out);
    return 0;
}

bool kr_mamba_layer_serves(const kr_mamba_layer_sizes *s) {
    return kr_layer_serves(s->M, s->D, s->E, s->K, s->r + 2 * s->N);
}

#if defined(KR_CUDA)
/* Whether the GPU has room for the ring of its kernel, and for all blocks at once (mamba_layer.cu).
 */
bool kr_mamba_layer_has_room(const kr_mamba_layer_sizes *s, bool half);
void kr_mamba_layer_chain_cuda(const kr_call *const *calls, int n);
#endif

bool kr_mamba_layer_fits(const kr_mamba_layer_sizes *s, bool half) {
#if defined(KR_CUDA)
    return kr_mamba_layer_serves(s) && kr_mamba_layer_has_room(s, half);
#else
    (void)s;
    (void)half;
    return false;
#endif
}

static int check_cuda(const kr_call *c, krait_error *e) {
    kr_mamba_layer_sizes s = sizes_of(c->in);
    if (kr_mamba_layer_fits(&s, c->in[KR_LAYER_IN].dtype == KR_BF16)) return 0;
    return kr_layer_no_room("mamba_layer", s.M, s.E, e);
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

static bool cases(int index, kr_case *k) {
    static const struct {
        const char *name;
        kr_mamba_layer_sizes s; /* M D E N r K */
        int64_t tokens;
        bool no_bias;
        const kr_mamba_layer_attr *attr;
    } rows[] = {{"M=1 D=E=32", {1, 32, 32, 1, 2, 2}, 1, false, &mamba},
                {"M=1", {1, 64, 128, 16, 48, 4}, 1, false, &mamba},
                {"M=4 odd", {4, 96, 160, 5, 6, 3}, 4, false, &mamba},
                {"M=3, a row of no one", {3, 64, 192, 16, 8, 4}, 2, false, &mamba},
                {"M=2, more than a piece", {2, 1056, 160, 17, 24, 4}, 2, false, &mamba},
                {"M=8, with norms", {8, 320, 640, 16, 20, 4}, 8, false, &falcon},
                {"M=1, of 130M", {1, 768, 1536, 16, 48, 4}, 1, false, &mamba},
                {"M=5, as wide as can be", {5, 5120, 64, 4, 40, 4}, 5, false, &mamba},
                {"N=64 r=300", {7, 32, 96, 64, 300, 4}, 7, false, &falcon},
                {"M=2, round the ring", {2, 32, 2048, 16, 8, 4}, 2, false, &mamba},
                {"M=1, many channels", {1, 32, 10240, 16, 4, 4}, 1, true, &mamba}};
    if (index >= (int)(sizeof rows / sizeof *rows)) return false;
    const kr_mamba_layer_sizes *s = &rows[index].s;
    kr_layer_shape both = shape_of(s);
    k->name = rows[index].name;
    k->tokens = rows[index].tokens;
    k->attr = rows[index].attr;
    k->attr_size = sizeof *rows[index].attr;
    kr_layer_case(k, &both);
    kr_layer_case_matrix(k, KR_LAYER_X_PROJ, s->r + 2 * s->N, s->E);
    kr_layer_case_matrix(k, KR_LAYER_DT, s->E, s->r);
    if (rows[index].no_bias) kr_layer_case_unbiased(k);
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
