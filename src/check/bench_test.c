/* bench_test.c - the benchmark reports rows that can be true, and refuses what it does not know. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <krait/train.h>

#include "check/bench.h"
#include "device/test_gpu.h"
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
        cmocka_unit_test(unknown_things_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
