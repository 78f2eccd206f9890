/* bench_gpu.c - what the GPU itself can do, and its kernels at the sizes of a model, with bf16
 * activations as a training step has them.
 *
 * Kernels are judged by the longer of two floors: every byte once at the rate of a copy, and their
 * operations at the rate of a matrix product (of f32 ones where they are no product of bf16). */
#include <stdio.h>

#include "base/err.h"
#include "check/bench_gpu.h"
#include "ops/adamw/adamw.h"
#include "ops/case.h"
#include "ops/cast/cast.h"
#include "ops/causal_conv/causal_conv.h"
#include "ops/embedding/embedding.h"
#include "ops/linear/linear.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/mamba_step/mamba_step.h"
#include "ops/rmsnorm/rmsnorm.h"
#include "ops/sum_squares/sum_squares.h"
#include "scan/scan_gpu.h"

enum { COPY_BYTES = 1 << 30, HALF_SIDE = 8192, SIDE = 4096, STATE = 16, KERNEL = 4 };

/* ---- the card ---- */

typedef struct copying {
    void *from, *to;
} copying;

static int copy_all(void *user, krait_error *e) {
    const copying *c = user;
    KR_TRY(kr_device_copy(KR_LEVEL_CUDA, c->to, c->from, COPY_BYTES, e));
    return kr_device_wait(KR_LEVEL_CUDA, e);
}

static int measure_copy(kr_bench *b, bool report, krait_error *e) {
    double seconds[KR_BENCH_MOST_RUNS];
    copying c = {kr_device_alloc(b->level, COPY_BYTES), kr_device_alloc(b->level, COPY_BYTES)};
    int rc = c.from && c.to ? kr_device_fill(b->level, c.from, 1, COPY_BYTES, e)
                            : kr_fail_memory(e, "the benchmark of the GPU's memory");
    if (rc == 0) rc = kr_bench_time(b, copy_all, &c, seconds, e);
    kr_device_free(b->level, c.from);
    kr_device_free(b->level, c.to);
    if (rc < 0) return rc;
    b->read_rate = 2.0 * COPY_BYTES / seconds[b->o.runs / 2];
    if (report)
        kr_bench_rate(b, "copy", "GB/s", 2e-9 * COPY_BYTES, seconds, kr_device_name(b->level));
    return 0;
}

static kr_case product(kr_dtype type, int64_t M, int64_t N, int64_t K) {
    kr_case k = {.name = "bench", .n_out = 1};
    kr_case_in(&k, 0, type, 2, (int64_t[]){M, K}, KR_FILL_NORMAL, 1, 0);
    kr_case_in(&k, 1, type, 2, (int64_t[]){N, K}, KR_FILL_NORMAL, 1, 0);
    return k;
}

static int measure_product(kr_bench *b, kr_dtype type, int64_t side, double *rate, bool report,
                           krait_error *e) {
    double seconds[KR_BENCH_MOST_RUNS], flops, bytes;
    kr_case k = product(type, side, side, side);
    kr_bench_call t;
    char name[60];
    snprintf(name, sizeof name, "matrix product, %s, %lld^3", kr_dtype_name(type), (long long)side);
    int rc = kr_bench_call_open(&t, b, &kr_op_linear, &k, false, e);
    if (rc == 0) rc = kr_bench_time(b, kr_bench_call_run, &t, seconds, e);
    if (rc == 0) {
        kr_bench_call_cost(&t, &flops, &bytes);
        flops *= t.calls * t.repeats;
        *rate = flops / seconds[b->o.runs / 2];
        if (report) kr_bench_rate(b, name, "GFLOP/s", 1e-9 * flops, seconds, "");
    }
    kr_bench_call_close(&t);
    return rc;
}

int kr_bench_gpu_machine(kr_bench *b, bool report, krait_error *e) {
    KR_TRY(measure_copy(b, report, e));
    KR_TRY(measure_product(b, KR_BF16, HALF_SIDE, &b->half_rate, report, e));
    return measure_product(b, KR_F32, SIDE, &b->gemm_rate, report, e);
}

/* ---- kernels ---- */

/* Products of bf16: linear maps, the one at the end of a step among them, and a recurrence that is
 * done by chunks of products. */
double kr_bench_gpu_rate(const kr_bench *b, const kr_op *op, const kr_call *c) {
    bool scan = op == &kr_op_scan || op == &kr_op_scan_grad;
    bool linear = strncmp(op->name, "linear", 6) == 0 || op == &kr_op_mamba_step_out;
    bool products = scan ? kr_scan_gpu_pick(c) == KR_SCAN_GPU_MATRIX : linear;
    return products && c->in[0].dtype == KR_BF16 ? b->half_rate : b->gemm_rate;
}

/* The rate that binds is the row's own; the note has the other one, too. */
static int report_call(const kr_bench *b, kr_bench_call *t, const char *name, krait_error *e) {
    double seconds[KR_BENCH_MOST_RUNS];
    double flops, bytes, rate = kr_bench_gpu_rate(b, t->op, &t->call);
    kr_bench_call_cost(t, &flops, &bytes);
    bool computes = flops / rate > bytes / b->read_rate;
    char note[120] = "";
    double calls = t->calls * (double)t->repeats;
    kr_bench_report r = {.name = name,
                         .unit = computes ? "GFLOP/s" : "GB/s",
                         .note = note,
                         .amount = (computes ? flops : bytes) * calls,
                         .scale = 1e9,
                         .ceiling = computes ? rate : b->read_rate,
                         .calls = calls};
    KR_TRY(kr_bench_time(b, kr_bench_call_run, t, seconds, e));
    double second = seconds[b->o.runs / 2] / calls;
    int n = snprintf(note, sizeof note, "%.3g Mbyte", bytes * 1e-6);
    if (flops > 0)
        snprintf(note + n, sizeof note - (size_t)n, ", %.3g GFLOP: %.0f GB/s, %.0f GFLOP/s",
                 flops * 1e-9, bytes / second * 1e-9, flops / second * 1e-9);
    kr_bench_tell(b, &r, seconds);
    return 0;
}

static const char *type_of(const kr_case *k) {
    for (int i = 0; i < k->n_in; i++)
        if (k->in[i].dtype == KR_BF16 && k->fill[i].kind != KR_FILL_ABSENT) return "bf16";
    return kr_dtype_name(k->in[0].dtype);
}

int kr_bench_gpu_op(const kr_bench *b, const kr_op *op, const kr_case *k, const char *shape,
                    bool rotate, krait_error *e) {
    char name[100];
    kr_bench_call t = {0};
    if (b->instead) return b->instead(b->user, op, k, e);
    if (!kr_op_kernel(op, b->level)) return 0;
    snprintf(name, sizeof name, "%s %s %s", op->name, type_of(k), shape);
    int rc = kr_bench_call_open(&t, b, op, k, rotate, e);
    if (rc == 0) rc = report_call(b, &t, name, e);
    kr_bench_call_close(&t);
    return rc == KRAIT_ERR_MEMORY || t.refused ? 0 : rc;
}

static void normal(kr_case *k, int i, kr_dtype type, int64_t rows, int64_t columns) {
    kr_case_in(k, i, type, 2, (int64_t[]){rows, columns}, KR_FILL_NORMAL, 1, 0);
}

/* ---- the recurrence ---- */

static int bench_scan(const kr_bench *b, kr_dtype type, int64_t B, int64_t T, int64_t E,
                      krait_error *e) {
    krait_scan_desc d;
    kr_case k;
    char shape[60];
    kr_bench_scan_desc(b, &d, E);
    int n = snprintf(shape, sizeof shape, "B%lld T%lld ", (long long)B, (long long)T);
    if (d.heads == 1)
        snprintf(shape + n, sizeof shape - (size_t)n, "E%lld", (long long)E);
    else
        snprintf(shape + n, sizeof shape - (size_t)n, "H%lld P%lld N%lld", (long long)d.heads,
                 (long long)d.width, (long long)d.state);
    kr_bench_scan_case(&k, &d, type, B, T);
    KR_TRY(kr_bench_gpu_op(b, &kr_op_scan, &k, shape, false, e));
    kr_bench_scan_backward(&k);
    return kr_bench_gpu_op(b, &kr_op_scan_grad, &k, shape, false, e);
}

/* A step of decoding: a token of each sequence, and the states before and after it. */
static int bench_scan_step(const kr_bench *b, int64_t B, int64_t E, krait_error *e) {
    krait_scan_desc d;
    kr_case k;
    char shape[60];
    kr_bench_scan_desc(b, &d, E);
    int64_t states[] = {B, kr_scan_lanes(&d), d.state};
    snprintf(shape, sizeof shape, "step B%lld %lldx%lld", (long long)B, (long long)states[1],
             (long long)d.state);
    kr_bench_scan_case(&k, &d, KR_BF16, B, 1);
    kr_case_in(&k, KR_SCAN_STATE, KR_F32, 3, states, KR_FILL_NORMAL, 1, 0);
    k.n_in = KR_SCAN_INS;
    k.n_out = KR_SCAN_OUTS;
    k.out[KR_SCAN_OUT_STATE] = kr_tensor_make(NULL, KR_F32, 3, states);
    return kr_bench_gpu_op(b, &kr_op_scan, &k, shape, false, e);
}

/* A layer of the model; of Mamba one long sequence too, and a vision model's. */
int kr_bench_gpu_scan(kr_bench *b, krait_error *e) {
    int64_t E = 2 * b->width;
    KR_TRY(bench_scan_step(b, b->o.batch ? b->o.batch : 64, E, e));
    if (b->o.batch || b->o.tokens)
        return bench_scan(b, KR_BF16, b->o.batch ? b->o.batch : 8, b->o.tokens ? b->o.tokens : 2048,
                          E, e);
    KR_TRY(bench_scan(b, KR_BF16, 8, 2048, E, e));
    if (strcmp(kr_bench_mixer(b->o.model), "mamba1") != 0) return 0;
    KR_TRY(bench_scan(b, KR_F32, 8, 2048, E, e));
    KR_TRY(bench_scan(b, KR_BF16, 1, 131072, E, e));
    KR_TRY(bench_scan(b, KR_BF16, 1, 1048576, E, e));
    return bench_scan(b, KR_BF16, 64, 197, 384, e);
}

/* ---- the rest ---- */

static int bench_conv(const kr_bench *b, int64_t B, int64_t T, int64_t E, krait_error *e) {
    static const kr_causal_conv_attr silu = {.silu = 1};
    kr_case k = {.name = "bench", .n_out = 2, .tokens = B * T, .attr = &silu};
    char shape[60];
    snprintf(shape, sizeof shape, "B%lld T%lld E%lld", (long long)B, (long long)T, (long long)E);
    for (int i = 0; i < 8; i++) k.fill[i].kind = KR_FILL_ABSENT;
    normal(&k, 0, KR_BF16, B * T, E);
    kr_case_in(&k, 1, KR_F32, 3, (int64_t[]){E, 1, KERNEL}, KR_FILL_NORMAL, 0.5, 0);
    kr_case_in(&k, 2, KR_F32, 1, &E, KR_FILL_NORMAL, 1, 0);
    kr_case_in(&k, 3, KR_I64, 2, (int64_t[]){B, 3}, KR_FILL_SEQS, 0, 0);
    k.n_in = 6;
    k.out_absent[1] = true;
    KR_TRY(kr_bench_gpu_op(b, &kr_op_causal_conv, &k, shape, false, e));
    for (int i = 6; i > 0; i--) {
        k.in[i] = k.in[i - 1];
        k.fill[i] = k.fill[i - 1];
    }
    k.n_in = 8;
    k.n_out = 4;
    k.out_absent[1] = false;
    k.out_absent[3] = true;
    return kr_bench_gpu_op(b, &kr_op_causal_conv_grad, &k, shape, false, e);
}

/* One projection: forward, and the two gradients; of few rows (decoding) forward alone. */
static int bench_linear(const kr_bench *b, int64_t M, int64_t N, int64_t K, krait_error *e) {
    char shape[60];
    kr_case k = product(KR_BF16, M, N, K);
    snprintf(shape, sizeof shape, "M%lld %lld->%lld", (long long)M, (long long)K, (long long)N);
    KR_TRY(kr_bench_gpu_op(b, &kr_op_linear, &k, shape, true, e));
    if (M < 1024) return 0;
    normal(&k, 0, KR_BF16, M, N);
    KR_TRY(kr_bench_gpu_op(b, &kr_op_linear_dx, &k, shape, true, e));
    normal(&k, 1, KR_BF16, M, K);
    k.n_out = 2;
    k.out_absent[1] = true;
    return kr_bench_gpu_op(b, &kr_op_linear_dw, &k, shape, false, e);
}

/* Around a mixer: the norm in front of it, with the residual sum in f32. */
static int bench_norm(const kr_bench *b, int64_t M, int64_t D, krait_error *e) {
    static const kr_rmsnorm_attr half = {.eps = 1e-5, .half = 1};
    kr_case k = {.name = "bench", .n_out = 3, .attr = &half};
    char shape[60];
    snprintf(shape, sizeof shape, "M%lld D%lld", (long long)M, (long long)D);
    normal(&k, 0, KR_BF16, M, D);
    normal(&k, 1, KR_F32, M, D);
    kr_case_in(&k, 2, KR_F32, 1, &D, KR_FILL_NORMAL, 1, 0);
    KR_TRY(kr_bench_gpu_op(b, &kr_op_rmsnorm, &k, shape, false, e));
    k.in[3] = k.in[2];
    k.fill[3] = k.fill[2];
    normal(&k, 2, KR_F32, M, D);
    kr_case_in(&k, 4, KR_F32, 1, &M, KR_FILL_UNIFORM, 0.5, 1);
    return kr_bench_gpu_op(b, &kr_op_rmsnorm_grad, &k, shape, false, e);
}

/* Both ends of the model: tokens to vectors, and head and loss in one. */
static int bench_ends(const kr_bench *b, int64_t M, int64_t D, krait_error *e) {
    static const kr_linear_cross_entropy_attr once = {1};
    enum { VOCABULARY = 50280 };
    kr_case k = {.name = "bench", .n_out = 1};
    char shape[60];
    snprintf(shape, sizeof shape, "M%lld D%lld V%d", (long long)M, (long long)D, VOCABULARY);
    kr_case_in(&k, 0, KR_I32, 1, &M, KR_FILL_INDEX, VOCABULARY, 0);
    normal(&k, 1, KR_F32, VOCABULARY, D);
    KR_TRY(kr_bench_gpu_op(b, &kr_op_embedding, &k, shape, false, e));
    k.in[1] = k.in[0];
    k.fill[1] = k.fill[0];
    normal(&k, 0, KR_F32, M, D);
    k.out[0] = kr_tensor_make(NULL, KR_F32, 2, (int64_t[]){VOCABULARY, D});
    KR_TRY(kr_bench_gpu_op(b, &kr_op_embedding_grad, &k, shape, false, e));
    k = (kr_case){.name = "bench", .n_out = 3, .attr = &once};
    normal(&k, 0, KR_BF16, M, D);
    normal(&k, 1, KR_F32, VOCABULARY, D);
    kr_case_in(&k, 2, KR_I32, 1, &M, KR_FILL_INDEX, VOCABULARY, 0);
    normal(&k, 3, KR_BF16, VOCABULARY, D);
    k.fill[4].kind = KR_FILL_ABSENT;
    kr_case_in(&k, 5, KR_F32, 1, &M, KR_FILL_UNIFORM, 0, 1);
    return kr_bench_gpu_op(b, &kr_op_linear_cross_entropy_grad, &k, shape, false, e);
}

/* What walks over all parameters once a step. */
static int bench_parameters(const kr_bench *b, int64_t n, krait_error *e) {
    static const kr_adamw_attr attr = {1e-3, 0.9, 0.95, 1e-8, 0.1, 1, 10};
    kr_case k = {.name = "bench", .n_out = 3, .attr = &attr};
    char shape[60];
    snprintf(shape, sizeof shape, "n%lld", (long long)n);
    for (int i = 0; i < 4; i++) kr_case_in(&k, i, KR_F32, 1, &n, KR_FILL_UNIFORM, 1e-3, 1);
    KR_TRY(kr_bench_gpu_op(b, &kr_op_adamw, &k, shape, false, e));
    k.n_in = k.n_out = 1;
    KR_TRY(kr_bench_gpu_op(b, &kr_op_sum_squares, &k, shape, false, e));
    return kr_bench_gpu_op(b, &kr_op_cast, &k, shape, false, e);
}

int kr_bench_gpu_ops(kr_bench *b, krait_error *e) {
    int64_t D = b->width;
    int64_t B = b->o.batch ? b->o.batch : 8, T = b->o.tokens ? b->o.tokens : 2048;
    int64_t M = B * T, R = (D + 15) / 16, E = 2 * b->width, rows[] = {1, 128, M};
    int64_t sizes[][2] = {{2 * E, D}, {R + 2 * STATE, E}, {E, R}, {D, E}};
    for (int m = 0; m < 3; m++)
        for (int s = 0; s < 4; s++) KR_TRY(bench_linear(b, rows[m], sizes[s][0], sizes[s][1], e));
    KR_TRY(bench_conv(b, B, T, E, e));
    KR_TRY(bench_norm(b, M, D, e));
    KR_TRY(bench_ends(b, M, D, e));
    KR_TRY(bench_parameters(b, b->layers * 7 * D * D, e));
    return kr_bench_gpu_rows(b, e);
}
