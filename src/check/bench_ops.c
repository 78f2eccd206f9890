/* bench_ops.c - single kernels at the sizes of a model: matrix products by rows, and the
 * recurrence. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "check/bench_call.h"
#include "ops/case.h"
#include "ops/linear/linear.h"
#include "scan/scan_op.h"

enum { STATE = 16 };

/* ---- matrix products ---- */

static kr_tensor matrix(kr_dtype type, int64_t rows, int64_t columns) {
    return kr_tensor_make(NULL, type, 2, (int64_t[]){rows, columns});
}

/* One product: M rows through a weight [N,K]; few rows are judged by bytes, many by operations. */
static int bench_product(const kr_bench *b, const kr_op *op, int64_t M, int64_t N, int64_t K,
                         kr_dtype type, krait_error *e) {
    kr_case k = {.name = "bench", .n_in = 2, .n_out = 1};
    bool dx = op == &kr_op_linear_dx, dw = op == &kr_op_linear_dw, few = M < 16;
    k.in[0] = matrix(KR_F32, M, dx || dw ? N : K);
    k.in[1] = dw ? matrix(KR_F32, M, K) : matrix(type, N, K);
    k.fill[0].kind = k.fill[1].kind = KR_FILL_UNIFORM;
    k.fill[0].b = k.fill[1].b = 1;
    kr_bench_call t;
    char name[80];
    double flops, bytes;
    int rc = kr_bench_call_open(&t, b, op, &k, !dw, e);
    if (rc == 0) {
        kr_bench_call_cost(&t, &flops, &bytes);
        snprintf(name, sizeof name, "%s %s M=%lld %lld->%lld", op->name, kr_dtype_name(type),
                 (long long)M, (long long)K, (long long)N);
        kr_bench_report r = {.name = name,
                             .unit = few ? "GB/s" : "GFLOP/s",
                             .amount = (few ? bytes : flops) * t.calls,
                             .scale = 1e9,
                             .ceiling = few ? b->read_rate : b->gemm_rate};
        rc = kr_bench_measure(b, &r, kr_bench_call_run, &t, NULL, e);
    }
    kr_bench_call_close(&t);
    return rc;
}

/* The projections of one layer, and the head. */
int kr_bench_ops(kr_bench *b, krait_error *e) {
    static const int64_t rows[] = {1, 4, 32, 512};
    static const kr_dtype types[] = {KR_F32, KR_BF16, KR_F16};
    int64_t D = b->width, R = (D + 15) / 16, E = 2 * b->width;
    int64_t sizes[5][2] = {{2 * E, D}, {R + 2 * STATE, E}, {E, R}, {D, E}, {50280, D}};
    for (int m = 0; m < 4; m++)
        for (int t = 0; t < (rows[m] < 512 ? 3 : 1); t++)
            for (int s = 0; s < 5; s++)
                KR_TRY(bench_product(b, &kr_op_linear, rows[m], sizes[s][0], sizes[s][1], types[t],
                                     e));
    for (int s = 0; s < 4; s++) {
        KR_TRY(bench_product(b, &kr_op_linear_dx, 2048, sizes[s][0], sizes[s][1], KR_F32, e));
        KR_TRY(bench_product(b, &kr_op_linear_dw, 2048, sizes[s][0], sizes[s][1], KR_F32, e));
    }
    return 0;
}

/* ---- the recurrence ---- */

static void scan_input(kr_case *k, int i, kr_dtype type, int64_t rows, int64_t columns, double low,
                       double high) {
    kr_case_in(k, i, type, 2, (int64_t[]){rows, columns}, KR_FILL_UNIFORM, low, high);
}

void kr_bench_scan_desc(const kr_bench *b, krait_scan_desc *d, int64_t E) {
    if (strcmp(kr_bench_mixer(b->o.model), "mamba2") == 0) {
        *d = krait_scan_mamba2(E / 64, 64, 128, 1);
        return;
    }
    if (strcmp(kr_bench_mixer(b->o.model), "mamba3") == 0) {
        *d = krait_scan_mamba3(E / 64, 64, 128, 1);
        return;
    }
    *d = (krait_scan_desc){.heads = 1,
                           .width = E,
                           .state = STATE,
                           .groups = 1,
                           .inputs = 1,
                           .reads = 1,
                           .kappa = 1,
                           .decay = KRAIT_DECAY_MATRIX,
                           .form = KRAIT_FORM_DT,
                           .gain = KRAIT_GAIN_DT,
                           .a_constant = true,
                           .dt_softplus = true,
                           .skip_per_channel = true};
}

void kr_bench_scan_case(kr_case *k, const krait_scan_desc *d, kr_dtype type, int64_t B, int64_t T) {
    static const struct {
        double low, high;
    } fills[KR_SCAN_SEQS] = {{-1, 1}, {-2, 2}, {-STATE, -1}, {-1, 1},
                             {-1, 1}, {0, 1},  {-1, 1},      {-5, -2}};
    *k = (kr_case){.name = "bench", .n_out = 1, .tokens = B * T};
    for (int i = 0; i < KR_SCAN_GRAD_INS; i++) k->fill[i].kind = KR_FILL_ABSENT;
    for (int i = 0; i < KR_SCAN_SEQS; i++) {
        bool constant, gate = i == KR_SCAN_Z, behind = d->gain == KRAIT_GAIN_DT; /* Mamba-2's */
        bool logs = i == KR_SCAN_A && d->form == KRAIT_FORM_LOG && !d->a_constant;
        int64_t columns = kr_scan_input_cols(d, i, &constant);
        if (gate && behind && d->decay != KRAIT_DECAY_MATRIX) continue;
        if (columns == 0 || (d->complex_lanes && (gate || i == KR_SCAN_D))) continue;
        scan_input(k, i, constant ? KR_F32 : type, constant ? 1 : B * T, columns,
                   logs ? -0.2 : fills[i].low, logs ? 0 : fills[i].high);
    }
    if (d->gain == KRAIT_GAIN_GIVEN)
        scan_input(k, KR_SCAN_GAIN, type, B * T, d->inputs * d->heads, 0, 0.1);
    kr_case_in(k, KR_SCAN_SEQS, KR_I64, 2, (int64_t[]){B, 3}, KR_FILL_SEQS, 0, 0);
    k->n_in = KR_SCAN_INS;
    k->attr = d;
    k->attr_size = sizeof *d;
}

void kr_bench_scan_backward(kr_case *k) {
    const kr_tensor *x = &k->in[KR_SCAN_X];
    bool constant;
    scan_input(k, KR_SCAN_DY, x->dtype, x->shape[0],
               kr_scan_input_cols((const krait_scan_desc *)k->attr, KR_SCAN_DY, &constant), -1, 1);
    k->n_in = KR_SCAN_GRAD_INS;
    k->n_out = KR_SCAN_GRAD_OUTS;
    for (int i = KR_SCAN_DSTATE_IN; i < KR_SCAN_GRAD_OUTS; i++) k->out_absent[i] = true;
}

static int bench_scan_op(const kr_bench *b, const kr_op *op, const kr_case *k, const char *name,
                         double updates, double *median, krait_error *e) {
    kr_bench_call t;
    kr_bench_report r = {.name = name,
                         .unit = "M updates/s",
                         .amount = updates,
                         .scale = 1e6,
                         .note = "states times tokens"};
    int rc = kr_bench_call_open(&t, b, op, k, false, e);
    if (rc == 0) rc = kr_bench_measure(b, &r, kr_bench_call_run, &t, median, e);
    kr_bench_call_close(&t);
    return rc;
}

int kr_bench_scan(kr_bench *b, krait_error *e) {
    int64_t B = b->o.batch ? b->o.batch : 4, T = b->o.tokens ? b->o.tokens : 512, E = 2 * b->width;
    krait_scan_desc d;
    double forward, backward;
    kr_case k;
    kr_bench_scan_desc(b, &d, E);
    double updates = (double)(B * T) * (double)(E * d.state);
    kr_bench_scan_case(&k, &d, KR_F32, B, T);
    KR_TRY(bench_scan_op(b, &kr_op_scan, &k, "scan forward", updates, &forward, e));
    kr_bench_scan_backward(&k);
    KR_TRY(bench_scan_op(b, &kr_op_scan_grad, &k, "scan backward", updates, &backward, e));
    b->scan_seconds = forward + backward;
    d = krait_scan_lru(E);
    updates = (double)(B * T) * (double)E;
    kr_bench_scan_case(&k, &d, KR_F32, B, T);
    KR_TRY(bench_scan_op(b, &kr_op_scan, &k, "scan of an LRU forward", updates, NULL, e));
    kr_bench_scan_backward(&k);
    return bench_scan_op(b, &kr_op_scan_grad, &k, "scan of an LRU backward", updates, NULL, e);
}
