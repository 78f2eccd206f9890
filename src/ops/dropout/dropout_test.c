/* dropout_test.c - how many numbers are left out, that rows and sites differ, and that tied rows do
 * not. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/dropout/dropout.h"

enum { M = 400, D = 250 };
static float x[M][D], y[M][D];
static int64_t draw[2] = {1, 5}, seqs[2][3] = {{0, 100, 0}, {100, M - 100, 1}};

/* y of the machine's best kernel; x is ones. */
static void drop(double share, int64_t site, bool tied) {
    kr_dropout_attr attr = {share, site};
    kr_level level;
    kr_call c = {.n_in = 3, .n_out = 1, .attr = &attr, .threads = 2};
    for (int m = 0; m < M; m++)
        for (int d = 0; d < D; d++) x[m][d] = 1;
    c.in[0] = kr_tensor_make(x, KR_F32, 2, (int64_t[]){M, D});
    c.in[1] = kr_tensor_make(draw, KR_I64, 1, (int64_t[]){2});
    c.in[2] = kr_tensor_make(tied ? seqs : NULL, KR_I64, 2, (int64_t[]){2, 3});
    c.out[0] = kr_tensor_make(y, KR_F32, 2, (int64_t[]){M, D});
    assert_int_equal(kr_device_level(&level, NULL), 0);
    kr_op_kernel(&kr_op_dropout, level)(&c);
}

static void share_is_left_out(void **state) {
    (void)state;
    for (double share = 0; share < 0.9; share += 0.2) {
        double out = 0, sum = 0;
        drop(share, 3, false);
        for (int m = 0; m < M; m++)
            for (int d = 0; d < D; d++) {
                out += y[m][d] == 0;
                sum += (double)y[m][d];
                assert_true(y[m][d] == 0 || fabs((double)y[m][d] * (1 - share) - 1) < 1e-6);
            }
        double n = (double)M * D, off = (out / n - share) / sqrt(0.25 / n);
        printf("share %.1f: %.4f left out (%.2f deviations off), mean %.4f\n", share, out / n, off,
               sum / n);
        assert_true(fabs(off) < 4 && (share > 0 || out == 0));
    }
}

static void rows_and_sites_differ(void **state) {
    (void)state;
    static float first[D];
    drop(0.5, 0, false);
    assert_memory_not_equal(y[0], y[1], sizeof y[0]);
    memcpy(first, y[0], sizeof first);
    drop(0.5, 1, false);
    assert_memory_not_equal(y[0], first, sizeof first);
    int same = 0;
    for (int d = 0; d < D; d++) same += y[0][d] == first[d];
    printf("%d of %d columns alike at two sites\n", same, D);
    assert_true(abs(same - D / 2) < 40);
}

static void tied_rows_are_alike(void **state) {
    (void)state;
    drop(0.5, 0, true);
    for (int m = 0; m < M; m++) assert_memory_equal(y[m], y[m < 100 ? 0 : 100], sizeof y[0]);
    assert_memory_not_equal(y[0], y[100], sizeof y[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(share_is_left_out),
                                       cmocka_unit_test(rows_and_sites_differ),
                                       cmocka_unit_test(tied_rows_are_alike)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
