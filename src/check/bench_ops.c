/* bench_ops.c - single kernels at the sizes of a model: matrix products by rows, and the
 * recurrence. */
#include <stdio.h>

#include "base/err.h"
#include "base/mem.h"
#include "check/bench.h"
#include "check/check.h"
#include "ops/linear/linear.h"
#include "scan/scan_op.h"

enum { WEIGHT_BYTES = 1 << 28, STATE = 16 };

/* A kernel with its arguments. Weights lie in a pool and each call takes the next, as the layers of
 * a model do, so that they come from memory and not from the cache. */
typedef struct timed {
    kr_check_data data;
    kr_call call;
    kr_kernel *kernel;
    void *out[KR_MAX_OUT], *scratch, *pool;
    size_t weight; /* bytes of one in the pool; 0: no pool */
    int calls;     /* of one timed run */
} timed;

static int run_timed(void *user, krait_error *e) {
    timed *t = user;
    (void)e;
    for (int i = 0; i < t->calls; i++) {
        if (t->weight) t->call.in[1].data = (char *)t->pool + (size_t)i * t->weight;
        t->kernel(&t->call);
    }
    return 0;
}

static int open_timed(timed *t, const kr_bench *b, const kr_op *op, const kr_case *k,
                      krait_error *e) {
    *t = (timed){.kernel = kr_op_kernel(op, b->level), .calls = 1};
    KR_TRY(kr_check_data_make(&t->data, op, k, KR_CHECK_PLAIN, e));
    t->call = t->data.call;
    t->call.threads = b->o.threads;
    for (int i = 0; i < k->n_out; i++) {
        if (!t->data.present[i]) continue;
        t->out[i] = kr_aligned(kr_tensor_bytes(&t->call.out[i]));
        if (!t->out[i]) return kr_fail_memory(e, "the benchmark of a kernel");
        memset(t->out[i], 0, kr_tensor_bytes(&t->call.out[i]));
        t->call.out[i].data = t->out[i];
    }
    t->scratch = kr_aligned(op->scratch ? op->scratch(&t->call) : 0);
    if (!t->scratch) return kr_fail_memory(e, "the benchmark of a kernel");
    t->call.scratch = t->scratch;
    return 0;
}

static int open_pool(timed *t, krait_error *e) {
    t->weight = (kr_tensor_bytes(&t->call.in[1]) + KR_ALIGN - 1) / KR_ALIGN * KR_ALIGN;
    t->calls = (int)(WEIGHT_BYTES / t->weight);
    if (t->calls < 1) t->calls = 1;
    t->pool = kr_aligned(t->weight * (size_t)t->calls);
    if (!t->pool) return kr_fail_memory(e, "the benchmark of a kernel");
    for (int i = 0; i < t->calls; i++)
        memcpy((char *)t->pool + (size_t)i * t->weight, t->data.in[1],
               kr_tensor_bytes(&t->call.in[1]));
    return 0;
}

static void close_timed(timed *t) {
    for (int i = 0; i < KR_MAX_OUT; i++) kr_free(t->out[i]);
    kr_free(t->scratch);
    kr_free(t->pool);
    kr_check_data_free(&t->data);
}

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
    timed t;
    char name[80];
    double flops, bytes;
    int rc = open_timed(&t, b, op, &k, e);
    if (rc == 0 && !dw) rc = open_pool(&t, e);
    if (rc == 0) {
        op->cost(&t.call, &flops, &bytes);
        snprintf(name, sizeof name, "%s %s M=%lld %lld->%lld", op->name, kr_dtype_name(type),
                 (long long)M, (long long)K, (long long)N);
        kr_bench_report r = {.name = name,
                             .unit = few ? "GB/s" : "GFLOP/s",
                             .amount = (few ? bytes : flops) * t.calls,
                             .scale = 1e9,
                             .ceiling = few ? b->read_rate : b->gemm_rate};
        rc = kr_bench_measure(b, &r, run_timed, &t, NULL, e);
    }
    close_timed(&t);
    return rc;
}

/* The projections of one layer, and the head. */
int kr_bench_ops(kr_bench *b, krait_error *e) {
    static const int64_t rows[] = {1, 4, 32, 512};
    static const kr_dtype types[] = {KR_F32, KR_BF16, KR_F16};
    int64_t D = 768, layers = 0;
    kr_bench_shape(b->o.model, &D, &layers);
    int64_t R = (D + 15) / 16, E = 2 * D;
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

static void scan_input(kr_case *k, int i, int64_t rows, int64_t columns, double low, double high) {
    k->in[i] = matrix(KR_F32, rows, columns);
    k->fill[i].kind = KR_FILL_UNIFORM;
    k->fill[i].a = low;
    k->fill[i].b = high;
}

/* The Mamba-1 member over B sequences of T tokens, with everything fused. */
static void scan_case(kr_case *k, const krait_scan_desc *d, int64_t B, int64_t T, int64_t E) {
    *k = (kr_case){.name = "bench", .n_in = KR_SCAN_INS, .n_out = 1, .tokens = B * T};
    for (int i = 0; i < KR_SCAN_GRAD_INS; i++) k->fill[i].kind = KR_FILL_ABSENT;
    scan_input(k, KR_SCAN_X, B * T, E, -1, 1);
    scan_input(k, KR_SCAN_DT, B * T, E, -2, 2);
    scan_input(k, KR_SCAN_A, 1, E * STATE, -STATE, -1);
    scan_input(k, KR_SCAN_B, B * T, STATE, -1, 1);
    scan_input(k, KR_SCAN_C, B * T, STATE, -1, 1);
    scan_input(k, KR_SCAN_D, 1, E, 0, 1);
    scan_input(k, KR_SCAN_Z, B * T, E, -1, 1);
    scan_input(k, KR_SCAN_BIAS, 1, E, -5, -2);
    k->in[KR_SCAN_SEQS] = matrix(KR_I64, B, 3);
    k->fill[KR_SCAN_SEQS].kind = KR_FILL_SEQS;
    k->attr = d;
    k->attr_size = sizeof *d;
}

static int bench_scan_op(const kr_bench *b, const kr_op *op, const kr_case *k, const char *name,
                         double updates, double *median, krait_error *e) {
    timed t;
    kr_bench_report r = {.name = name,
                         .unit = "M updates/s",
                         .amount = updates,
                         .scale = 1e6,
                         .note = "states times tokens"};
    int rc = open_timed(&t, b, op, k, e);
    if (rc == 0) rc = kr_bench_measure(b, &r, run_timed, &t, median, e);
    close_timed(&t);
    return rc;
}

int kr_bench_scan(kr_bench *b, krait_error *e) {
    int64_t D = 768, layers = 0;
    kr_bench_shape(b->o.model, &D, &layers);
    int64_t B = b->o.batch ? b->o.batch : 4, T = b->o.tokens ? b->o.tokens : 512, E = 2 * D;
    krait_scan_desc d = {.heads = 1,
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
    double updates = (double)(B * T) * (double)(E * STATE), forward, backward;
    kr_case k;
    scan_case(&k, &d, B, T, E);
    KR_TRY(bench_scan_op(b, &kr_op_scan, &k, "scan forward", updates, &forward, e));
    k.n_in = KR_SCAN_GRAD_INS;
    k.n_out = KR_SCAN_GRAD_OUTS;
    scan_input(&k, KR_SCAN_DY, B * T, E, -1, 1);
    for (int i = KR_SCAN_DSTATE_IN; i < KR_SCAN_GRAD_OUTS; i++) k.out_absent[i] = true;
    KR_TRY(bench_scan_op(b, &kr_op_scan_grad, &k, "scan backward", updates, &backward, e));
    b->scan_seconds = forward + backward;
    return 0;
}
