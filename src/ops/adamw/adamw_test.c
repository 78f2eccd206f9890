/* adamw_test.c - AdamW against torch.optim.AdamW and against itself in double; the squared norm
 * against a plain sum. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "ops/adamw/adamw.h"
#include "ops/sum_squares/sum_squares.h"

enum { N = 7, STEPS = 20 };
static const double start[N] = {0.5, -1.25, 2.0, 0.03125, -0.75, 0.0, 1.5};
/* torch 2, float64: AdamW(lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1 and 0), 20 steps
 * with the gradients of gradient_of. */
static const double expected[2][N] = {{0.48658719640761511, -1.2343844380685161, 1.9872434115907736,
                                       0.035570111645775469, -0.7385934644825386,
                                       -0.010429357462981277, 1.4989774926102368},
                                      {0.48953322710669223, -1.2418253002658448, 1.9991997924346676,
                                       0.035783268054915496, -0.74305090135034668,
                                       -0.010479676608420583, 1.5079951394993045}};

static double gradient_of(int64_t step, int i) { return (double)((step * 7 + i * 5) % 11 - 5) / 8; }

static void call_adamw(kr_level level, kr_dtype type, void *const data[4], int64_t n,
                       const kr_adamw_attr *attr) {
    kr_call c = {.n_in = 4, .n_out = 3, .attr = attr, .threads = 2};
    for (int i = 0; i < 4; i++) c.in[i] = kr_tensor_make(data[i], type, 1, &n);
    for (int i = 0; i < 3; i++) c.out[i] = c.in[i];
    kr_op_kernel(&kr_op_adamw, level)(&c);
}

static double against_torch(kr_level level, int k) {
    double w[N], m[N] = {0}, v[N] = {0}, g[N], worst = 0;
    float fw[N], fm[N] = {0}, fv[N] = {0}, fg[N];
    for (int i = 0; i < N; i++) fw[i] = (float)(w[i] = start[i]);
    for (int64_t s = 1; s <= STEPS; s++) {
        kr_adamw_attr a = {3e-3, 0.9, 0.95, 1e-8, k ? 0 : 0.1, 1, s};
        for (int i = 0; i < N; i++) fg[i] = (float)(g[i] = gradient_of(s, i));
        if (level == KR_LEVEL_REF64)
            call_adamw(level, KR_F64, (void *[]){w, m, v, g}, N, &a);
        else
            call_adamw(level, KR_F32, (void *[]){fw, fm, fv, fg}, N, &a);
    }
    for (int i = 0; i < N; i++) {
        double d = fabs((level == KR_LEVEL_REF64 ? w[i] : (double)fw[i]) - expected[k][i]);
        if (d > worst) worst = d;
    }
    return worst;
}

static void equals_torch(void **state) {
    (void)state;
    for (kr_level level = KR_LEVEL_REF64; level < KR_LEVEL_COUNT; level++) {
        if (level > KR_LEVEL_REF && !kr_level_supported(level)) continue;
        for (int k = 0; k < 2; k++) {
            double worst = against_torch(level, k);
            print_message("  level %s, decay %s: %.2g\n", kr_level_name(level), k ? "0" : "0.1",
                          worst);
            assert_true(worst <= (level == KR_LEVEL_REF64 ? 1e-13 : 1e-6));
        }
    }
}

static void levels_agree_with_double(void **state) {
    (void)state;
    enum { LONG = 5003 };
    static float f[4][LONG];
    static double d[4][LONG];
    kr_adamw_attr a = {1e-2, 0.9, 0.95, 1e-8, 0.1, 0.5, 3};
    for (kr_level level = KR_LEVEL_REF; level < KR_LEVEL_COUNT; level++) {
        if (level > KR_LEVEL_REF && !kr_level_supported(level)) continue;
        kr_rng r = kr_rng_make(1, 2);
        for (int i = 0; i < 4 * LONG; i++) {
            float x = (float)kr_rng_normal(&r);
            f[i / LONG][i % LONG] = i / LONG == 2 ? x * x : x;
            d[i / LONG][i % LONG] = (double)f[i / LONG][i % LONG];
        }
        call_adamw(KR_LEVEL_REF64, KR_F64, (void *[]){d[0], d[1], d[2], d[3]}, LONG, &a);
        call_adamw(level, KR_F32, (void *[]){f[0], f[1], f[2], f[3]}, LONG, &a);
        double worst = 0;
        for (int i = 0; i < 3 * LONG; i++)
            worst = fmax(worst, fabs((double)f[i / LONG][i % LONG] - d[i / LONG][i % LONG]));
        print_message("  level %s: largest difference %.2g\n", kr_level_name(level), worst);
        assert_true(worst < 2e-6);
    }
}

static double squares(kr_level level, const float *x, int64_t n, int threads) {
    static double scratch[64];
    double sum = NAN;
    kr_call c = {.n_in = 1, .n_out = 1, .scratch = scratch, .threads = threads};
    c.in[0] = kr_tensor_make((void *)(uintptr_t)x, KR_F32, 1, &n);
    c.out[0] = kr_tensor_make(&sum, KR_F64, 1, (const int64_t[]){1});
    assert_true(kr_op_sum_squares.scratch(&c) <= sizeof scratch);
    kr_op_kernel(&kr_op_sum_squares, level)(&c);
    return sum;
}

static void squared_norm(void **state) {
    (void)state;
    enum { LONG = 3 * KR_SUM_BLOCK + 11 };
    float *x = malloc(LONG * sizeof *x);
    assert_non_null(x);
    kr_rng r = kr_rng_make(3, 4);
    for (int i = 0; i < LONG; i++) x[i] = (float)kr_rng_normal(&r);
    double plain = squares(KR_LEVEL_REF, x, LONG, 1);
    for (kr_level level = KR_LEVEL_REF; level < KR_LEVEL_COUNT; level++) {
        if (level > KR_LEVEL_REF && !kr_level_supported(level)) continue;
        double one = squares(level, x, LONG, 1), two = squares(level, x, LONG, 2);
        print_message("  level %s: off by %.2g\n", kr_level_name(level), fabs(one / plain - 1));
        assert_true(fabs(one / plain - 1) < 1e-12);
        assert_memory_equal(&one, &two, sizeof one);
    }
    x[LONG - 3] = NAN;
    assert_true(isnan(squares(KR_LEVEL_REF, x, LONG, 2)));
    free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_torch),
        cmocka_unit_test(levels_agree_with_double),
        cmocka_unit_test(squared_norm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
