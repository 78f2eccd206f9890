/* bench_test.c - the benchmark reports rows that can be true, and refuses what it does not know. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <krait/train.h>

#include "check/bench.h"
#include "device/test_gpu.h"
#include "ops/case.h"
#include "ops/linear/linear.h"
#include "scan/scan_op.h"

typedef struct seen {
    int rows, wrong;
} seen;

static void on_row(void *user, const krait_bench_row *row) {
    seen *s = user;
    s->rows++;
    if (!(row->median > 0 && row->minimum <= row->median && row->median <= row->maximum))
        s->wrong++;
    printf("%s: %.4g %s (%.4g to %.4g), ceiling %.4g\n", row->name, row->median, row->unit,
           row->minimum, row->maximum, row->ceiling);
}

static void rows_are_sane(void **state) {
    (void)state;
    krait_bench_options o = KRAIT_BENCH_OPTIONS_INIT;
    krait_error e;
    seen s = {0};
    o.what = "scan";
    o.batch = 1;
    o.tokens = 16;
    o.runs = 3;
    o.on_row = on_row;
    o.user = &s;
    if (krait_bench(&o, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(s.rows, 4);
    assert_int_equal(s.wrong, 0);
}

static void on_name(void *user, const krait_bench_row *row) {
    if (strstr(row->name, "bf16 states")) ++*(int *)user;
    printf("%s\n", row->name);
}

/* A row of states that are not as usual says so. */
static void names_tell_the_states(void **state) {
    (void)state;
    krait_bench_options o = KRAIT_BENCH_OPTIONS_INIT;
    krait_error e;
    int named = 0;
    if (!kr_test_gpu()) skip();
    o.what = "prefill";
    o.model = "mamba2-130m";
    o.device = "cuda";
    o.dtype = o.state_type = "bf16";
    o.tokens = 16;
    o.runs = 1;
    o.on_row = on_name;
    o.user = &named;
    for (o.batch = 1; o.batch <= 2; o.batch++)
        if (krait_bench(&o, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(named, 2);
}

static double rate_of(const kr_op *op, krait_scan_desc d, kr_dtype type) {
    const kr_bench b = {.half_rate = 16, .gemm_rate = 1, .level = KR_LEVEL_CUDA};
    kr_case k;
    kr_bench_scan_case(&k, &d, type, 1, 256);
    kr_call c = {.n_in = k.n_in, .n_out = k.n_out, .attr = k.attr};
    memcpy(c.in, k.in, sizeof c.in);
    return kr_bench_gpu_rate(&b, op, &c);
}

/* A recurrence by chunks of products is held against the rate of its products. */
static void rates_are_the_kernels(void **state) {
    (void)state;
    krait_scan_desc mamba2 = krait_scan_mamba2(2, 64, 128, 1), lanes;
    kr_bench b = {.o.model = "mamba-130m"};
    kr_bench_scan_desc(&b, &lanes, 64);
    if (!kr_test_gpu()) skip();
    assert_true(rate_of(&kr_op_scan, mamba2, KR_BF16) == 16);
    assert_true(rate_of(&kr_op_scan, mamba2, KR_F32) == 1);
    assert_true(rate_of(&kr_op_scan, lanes, KR_BF16) == 1);
    assert_true(rate_of(&kr_op_linear, lanes, KR_BF16) == 16);
    assert_true(rate_of(&kr_op_linear, lanes, KR_F32) == 1);
}

typedef struct timed {
    bool op[256]; /* of kr_ops */
    int cases;
    double most; /* bytes of one case */
} timed;

/* In place of a timing: the shape rule must take the case. */
static int take_case(void *user, const kr_op *op, const kr_case *k, krait_error *e) {
    timed *t = user;
    kr_call c = {.n_in = k->n_in, .n_out = k->n_out, .attr = k->attr, .threads = 1};
    kr_tensor out[KR_MAX_OUT];
    memset(out, 0, sizeof out);
    for (int i = 0; i < k->n_in; i++) {
        c.in[i] = k->in[i];
        c.in[i].data = k->fill[i].kind == KR_FILL_ABSENT || k->in[i].rank == 0 ? NULL : t;
    }
    for (int i = 0; i < k->n_out; i++) {
        c.out[i] = k->out[i];
        c.out[i].data = k->out_absent[i] ? NULL : t;
    }
    if (op->shape(&c, out, e) < 0) return e->code;
    for (int i = 0; i < k->n_out; i++)
        if (out[i].rank > 0 && !k->out_absent[i]) {
            c.out[i] = out[i];
            c.out[i].data = t;
        }
    t->cases++;
    t->most = fmax(t->most, kr_call_bytes(&c));
    for (int i = 0; kr_ops[i]; i++) t->op[i] |= kr_ops[i] == op;
    return 0;
}

/* Whoever adds a kernel for the GPU gives it a row (bench_gpu_rows.c), of a size it takes. */
static void every_kernel_has_a_row(void **state) {
    (void)state;
    static const char *const models[] = {"mamba-130m", "mamba2-130m", "mamba3-130m", "odd"};
    for (int m = 0; m < 4; m++) {
        timed t = {0};
        int kernels = 0, missing = 0;
        kr_bench b = {.o.model = models[m],
                      .level = KR_LEVEL_CUDA,
                      .width = m < 3 ? 768 : 100,
                      .layers = 24,
                      .instead = take_case,
                      .user = &t};
        krait_error e;
        if (kr_bench_gpu_ops(&b, &e) < 0) fail_msg("%s", e.message);
        double most = t.most;
        if (kr_bench_gpu_scan(&b, &e) < 0) fail_msg("%s", e.message);
        for (int i = 0; kr_ops[i]; i++) {
            bool kernel = kr_ops[i]->kernel[KR_LEVEL_CUDA] != NULL;
            kernels += kernel;
            missing += kernel && !t.op[i];
            if (kernel && !t.op[i]) printf("%s has no row\n", kr_ops[i]->name);
        }
        printf("%s: %d cases of %d kernels; ops: %.2f GB at most\n", models[m], t.cases, kernels,
               most * 1e-9);
        assert_int_equal(missing, 0);
        assert_true(t.cases > 80 && most > 0 && most < 8e9);
    }
}

static void unknown_things_are_refused(void **state) {
    (void)state;
    krait_bench_options o = KRAIT_BENCH_OPTIONS_INIT;
    krait_error e;
    o.what = "everything";
    assert_int_equal(krait_bench(&o, &e), KRAIT_ERR_ARGUMENT);
    printf("%s\n", e.message);
    o.what = "machine";
    o.batch = 4;
    assert_int_equal(krait_bench(&o, &e), KRAIT_ERR_ARGUMENT);
    printf("%s\n", e.message);
    o.batch = 0;
    o.what = "decode"; /* on a GPU without one: refused before it is looked for */
    o.dtype = "f16";
    o.device = "cuda";
    assert_int_equal(krait_bench(&o, &e), KRAIT_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "f32 or bf16"));
    o.dtype = o.device = NULL;
    o.runs = 0;
    assert_int_equal(krait_bench(&o, &e), KRAIT_ERR_ARGUMENT);
    printf("%s\n", e.message);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_sane),
        cmocka_unit_test(names_tell_the_states),
        cmocka_unit_test(rates_are_the_kernels),
        cmocka_unit_test(every_kernel_has_a_row),
        cmocka_unit_test(unknown_things_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
