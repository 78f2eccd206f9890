/* mamba_step.c - shape rule and checker cases of mamba_step_scan; mamba_step.h has the equations.
 */
#include "ops/mamba_step/mamba_step.h"

#include "base/err.h"
#include "ops/case.h"

static kr_tensor rows_like(const kr_tensor *x, kr_dtype type, int64_t width) {
    kr_tensor t = kr_tensor_make(NULL, type, 2, (int64_t[]){x->shape[0], width});
    t.dim0 = x->dim0;
    return t;
}

static int scan_shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    const kr_tensor *in = c->in, *u = &in[KR_STEP_SCAN_U];
    KR_TRY(kr_need_rank("mamba_step_scan", "u", u, 2, e));
    KR_TRY(kr_need_rank("mamba_step_scan", "a", &in[KR_STEP_A], 2, e));
    KR_TRY(kr_need_rank("mamba_step_scan", "dt_weight", &in[KR_STEP_DT_WEIGHT], 2, e));
    int64_t M = u->shape[0], E = u->shape[1], N = in[KR_STEP_A].shape[1];
    int64_t r = in[KR_STEP_DT_WEIGHT].shape[1];
    const kr_need needs[KR_STEP_SCAN_INS] = {{"xp", 2, {M, r + 2 * N}, false},
                                             {"dt_weight", 2, {E, r}, false},
                                             {"dt_bias", 1, {E}, false},
                                             {"a", 2, {E, N}, false},
                                             {"d", 1, {E}, false},
                                             {"u", 2, {M, E}, false},
                                             {"z", 2, {M, E}, false},
                                             {"seqs", 2, {-1, 3}, false},
                                             {"state", 3, {-1, E, N}, false}};
    KR_TRY(kr_need_all("mamba_step_scan", in, needs, KR_STEP_SCAN_INS, e));
    KR_TRY(kr_need_type("mamba_step_scan", "seqs", &in[KR_STEP_SCAN_SEQS], KR_I64, e));
    kr_dtype type = u->dtype;
    if (in[KR_STEP_XP].dtype != type || in[KR_STEP_SCAN_Z].dtype != type ||
        in[KR_STEP_DT_WEIGHT].dtype != type)
        return kr_fail(e, KRAIT_ERR_SHAPE, "mamba_step_scan: u, z, xp and the weight must agree");
    out[KR_STEP_Y] = rows_like(u, type, E);
    return 0;
}

static void scan_cost(const kr_call *c, double *flops, double *bytes) {
    double rows = (double)c->in[KR_STEP_SCAN_U].shape[0];
    *flops = rows * (2 * (double)kr_tensor_count(&c->in[KR_STEP_DT_WEIGHT]) +
                     8 * (double)kr_tensor_count(&c->in[KR_STEP_A]));
    *bytes = (double)kr_tensor_bytes(&c->in[KR_STEP_DT_WEIGHT]) +
             (2 * rows + 1) * (double)kr_tensor_bytes(&c->in[KR_STEP_A]);
}

static bool scan_cases(int index, kr_case *k) {
    static const struct {
        const char *name;
        int64_t M, E, N, r, tokens;
    } rows[] = {
        {"M=1 E=1", 1, 1, 1, 1, 1},          {"M=1", 1, 128, 16, 48, 1},
        {"M=3 odd", 3, 33, 5, 7, 3},         {"M=4, a row of no one", 4, 70, 16, 8, 3},
        {"M=37", 37, 96, 16, 40, 37},        {"N=17", 5, 20, 17, 24, 5},
        {"N=64 r=300", 17, 20, 64, 300, 17}, {"M=300, rows of no one", 300, 130, 16, 160, 250},
        {"M=9 r=8", 9, 62, 16, 8, 9}};
    if (index >= (int)(sizeof rows / sizeof *rows)) return false;
    int64_t M = rows[index].M, E = rows[index].E, N = rows[index].N, r = rows[index].r;
    k->name = rows[index].name;
    k->n_out = KR_STEP_SCAN_OUTS;
    k->tokens = rows[index].tokens;
    kr_case_normal(k, KR_STEP_XP, 2, (int64_t[]){M, r + 2 * N});
    kr_case_in(k, KR_STEP_DT_WEIGHT, KR_F32, 2, (int64_t[]){E, r}, KR_FILL_NORMAL, 0.2, 0);
    kr_case_normal(k, KR_STEP_DT_BIAS, 1, &E);
    kr_case_in(k, KR_STEP_A, KR_F32, 2, (int64_t[]){E, N}, KR_FILL_UNIFORM, -4, -0.1);
    kr_case_normal(k, KR_STEP_D, 1, &E);
    kr_case_normal(k, KR_STEP_SCAN_U, 2, (int64_t[]){M, E});
    kr_case_normal(k, KR_STEP_SCAN_Z, 2, (int64_t[]){M, E});
    kr_case_in(k, KR_STEP_SCAN_SEQS, KR_I64, 2, (int64_t[]){M, 3}, KR_FILL_SEQS, 0, 0);
    kr_case_normal(k, KR_STEP_STATE, 3, (int64_t[]){M + 1, E, N});
    k->out[KR_STEP_STATE_OUT] = kr_tensor_make(NULL, KR_F32, 3, (int64_t[]){M + 1, E, N});
    return true;
}

KR_DECLARE_REF_KERNEL(kr_mamba_step_scan);

const kr_op kr_op_mamba_step_scan = {
    .name = "mamba_step_scan",
    .shape = scan_shape,
    .cost = scan_cost,
    .cases = scan_cases,
    .n_in = KR_STEP_SCAN_INS,
    .n_out = KR_STEP_SCAN_OUTS,
    .no_accumulate = 3,
    .half_in =
        1u << KR_STEP_XP | 1u << KR_STEP_DT_WEIGHT | 1u << KR_STEP_SCAN_U | 1u << KR_STEP_SCAN_Z,
    .kernel = KR_REF_KERNELS_GPU(kr_mamba_step_scan),
};
