/* s4d_test.c - the checks of the sheet s4.md (structured state spaces, Gu et al. 2020 to 2022) that
 * concern diagonal systems, each a test (hippo_test.c has LegS): initial values, one mode's kernel,
 * half of the conjugate pairs, a changed sampling rate, gradients' formulas, stability, forwarded
 * states.
 *
 * What holds for every mixer (forms of a model agree, gradients of a whole model) is tested over
 * all of them in lm_test.c and selftest_model_test.c. */
#include <complex.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <krait/scan.h>

#include "base/rng.h"
#include "base/test_worst.h"
#include "mixers/s4d/s4d.h"
#include "models/lm.h"
#include "ops/discretise/discretise.h"

#define PI 3.14159265358979323846

typedef double complex cplx;

/* ---- initial values (sections 4.2 and 6.2) ----------------------------------------------------
 */

static const float *weight(const kr_weights *w, const char *name) {
    char full[96];
    snprintf(full, sizeof full, "backbone.layers.0.mixer.%s", name);
    const kr_tensor *t = kr_weights_find(w, full);
    assert_non_null(t);
    return t->data;
}

static void fresh(kr_weights *w, const char *settings) {
    kr_config c;
    krait_error e;
    if (kr_config_make(&c, "s4d", 256, 1, 16, settings, &e) < 0) fail_msg("%s", e.message);
    if (kr_lm_init_weights(&c, 11, w, &e) < 0) fail_msg("%s", e.message);
}

static void fresh_models_have_the_published_values(void **state) {
    (void)state;
    static const double inv[] = {17.825, 4.244, 1.528, 0.364};
    kr_weights w[3] = {{0}, {0}, {0}};
    fresh(&w[0], "state=64");
    fresh(&w[1], "state=8 start=inv");
    fresh(&w[2], "state=16 start=real copies=4");
    double lin = 0, c = 0, least = 1, most = 0;
    const float *rate = weight(&w[0], "log_rate"), *im = weight(&w[0], "frequency");
    const float *dt = weight(&w[0], "log_dt"), *C = weight(&w[0], "C");
    for (int i = 0; i < 256 * 32; i++) {
        lin = fmax(lin, fabs((double)im[i] / (PI * fmax(i % 32, 1)) - (i % 32 > 0)));
        assert_true(fabs(exp((double)rate[i]) - 0.5) < 1e-6);
    }
    for (int i = 0; i < 256 * 64; i++) c += (double)C[i] * (double)C[i] / (256 * 64);
    for (int h = 0; h < 256; h++) {
        least = fmin(least, exp((double)dt[h]));
        most = kr_worst(most, exp((double)dt[h]));
    }
    print_message("lin off by %.1e, variance of C %.3f, steps %.4f to %.4f\n", lin, c, least, most);
    assert_true(lin < 1e-6 && fabs(c - 0.5) < 0.02);
    assert_true(least > 0.00099 && least < 0.0015 && most > 0.07 && most < 0.101);
    for (int n = 0; n < 4; n++)
        assert_true(fabs((double)weight(&w[1], "frequency")[n] - inv[n]) < 1e-3);
    for (int i = 0; i < 4 * 8; i++) {
        assert_true(fabs(exp((double)weight(&w[2], "log_rate")[i]) - (i % 8 + 1)) < 1e-5);
        assert_true(weight(&w[2], "frequency")[i] == 0);
    }
    for (int i = 0; i < 3; i++) kr_weights_free(&w[i]);
}

/* ---- discretisation ---------------------------------------------------------------------------
 */

/* a and b of one mode with B = 1, by the op in double. */
static void discrete(kr_discretisation how, double rate, double dt, cplx lambda, cplx *a, cplx *b) {
    double log_dt = log(dt), log_rate = log(-creal(lambda)), im = cimag(lambda), B[2] = {1, 0};
    double out[4];
    int64_t one = 1;
    kr_discretise_attr attr = {how, rate};
    kr_call c = {.attr = &attr, .n_in = 4, .n_out = 2, .threads = 1};
    c.in[KR_DISCRETISE_DT] = kr_tensor_make(&log_dt, KR_F64, 1, &one);
    c.in[KR_DISCRETISE_RATE] = kr_tensor_make(&log_rate, KR_F64, 2, (int64_t[]){1, 1});
    c.in[KR_DISCRETISE_FREQUENCY] = kr_tensor_make(&im, KR_F64, 2, (int64_t[]){1, 1});
    c.in[KR_DISCRETISE_B] = kr_tensor_make(B, KR_F64, 3, (int64_t[]){1, 2, 1});
    for (int i = 0; i < 2; i++)
        c.out[i] = kr_tensor_make(out + 2 * i, KR_F64, 2, (int64_t[]){1, 2});
    kr_op_kernel(&kr_op_discretise, KR_LEVEL_REF64)(&c);
    *a = out[0] + I * out[1];
    *b = out[2] + I * out[3];
}

/* The sheet's test vectors: lambda = -1/2 + i pi, B = 1, C = 1 + i/2, delta = 0.1. */
static void one_mode_has_its_published_kernel(void **state) {
    (void)state;
    static const double want[2][5] = {{0.176858579, 0.122931072, 0.062396568, 0.001664341,
                                       -0.053447381},
                                      {0.176036651, 0.123182697, 0.063651339, 0.003666035,
                                       -0.051085802}};
    double worst = 0;
    for (int how = 0; how < 2; how++) {
        cplx a, b, p = 1 + 0.5 * I;
        discrete((kr_discretisation)how, 1, 0.1, -0.5 + I * PI, &a, &b);
        for (int l = 0; l < 5; l++, p *= a)
            worst = kr_worst(worst, fabs(2 * creal(p * b) - want[how][l]));
    }
    print_message("kernel of one mode: off by %.1e\n", worst);
    assert_true(worst < 1e-9);
}

/* Check 11. */
static void a_step_twice_as_long_is_two_steps(void **state) {
    (void)state;
    double square = 0, kernel = 0;
    kr_rng rng = kr_rng_make(3, 3);
    for (int i = 0; i < 100; i++) {
        cplx lambda = -exp(kr_rng_normal(&rng)) + I * 20 * kr_rng_normal(&rng), a, b, a2, b2;
        double dt = exp(-7 + 5 * kr_rng_uniform(&rng));
        discrete(KR_ZERO_ORDER_HOLD, 1, dt, lambda, &a, &b);
        discrete(KR_ZERO_ORDER_HOLD, 2, dt, lambda, &a2, &b2);
        square = fmax(square, cabs(a2 - a * a));
        cplx m = (a - 1) / lambda, m2 = (a2 - 1) / lambda;
        for (int l = 0; l < 20; l++)
            kernel = fmax(kernel, cabs(b2 / m2 * cpow(a2, l) - b / m * cpow(a, 2 * l)));
    }
    print_message("a(2 delta) - a(delta)^2: %.1e; kernels: %.1e\n", square, kernel);
    assert_true(square < 1e-13 && kernel < 1e-9);
}

/* Check 13: |a| < 1 whatever is learned, unless it rounds to 1. */
static void any_parameters_are_stable(void **state) {
    (void)state;
    kr_rng rng = kr_rng_make(4, 4);
    double most = 0;
    for (int i = 0; i < 2000; i++) {
        cplx lambda = -exp(3 * kr_rng_normal(&rng)) + I * 300 * kr_rng_normal(&rng), a, b;
        discrete((kr_discretisation)(i % 2), 1, exp(-5 + 2 * kr_rng_normal(&rng)), lambda, &a, &b);
        most = kr_worst(most, cabs(a));
        assert_true(isfinite(creal(b)) && isfinite(cimag(b)));
    }
    print_message("largest |a| of 2000: 1 - %.1e\n", 1 - most);
    assert_true(most < 1);
}

/* ---- three views of one system (checks 7, 8, 12) ----------------------------------------------
 */

enum { T = 4096, H = 17, N = 32 };

/* A fresh model's kind of system: a, b, c [H,2,N], D [H], x [T,H]. */
typedef struct lines {
    float a[2 * H * N], b[2 * H * N], c[2 * H * N], d[H], x[T * H], y[T * H];
    float state[2 * H * N];
} lines;

static void draw_lines(lines *s) {
    kr_rng rng = kr_rng_make(6, 6);
    for (int h = 0; h < H; h++) {
        double dt = exp(log(1e-3) + log(100) * kr_rng_uniform(&rng));
        s->d[h] = (float)kr_rng_normal(&rng);
        for (int n = 0; n < N; n++) {
            cplx a, b;
            discrete(KR_ZERO_ORDER_HOLD, 1, dt, -0.5 + I * PI * (n + 1e-4), &a, &b);
            int re = 2 * h * N + n, im = re + N;
            s->a[re] = (float)creal(a), s->a[im] = (float)cimag(a);
            s->b[re] = (float)creal(b), s->b[im] = (float)cimag(b);
            s->c[re] = (float)(0.7 * kr_rng_normal(&rng));
            s->c[im] = (float)(0.7 * kr_rng_normal(&rng));
        }
    }
    for (int i = 0; i < T * H; i++) s->x[i] = (float)kr_rng_normal(&rng);
    memset(s->state, 0, sizeof s->state);
}

/* Rows [first, first + rows) from the state that is there. */
static void read_rows(lines *s, int64_t first, int64_t rows) {
    krait_scan_desc d = krait_scan_s4d(H, N);
    krait_error e;
    d.form = KRAIT_FORM_GIVEN;
    krait_scan_arrays r = {.rows = rows, .slots = 1, .x = s->x + first * H, .a = s->a, .b = s->b};
    r.c = s->c;
    r.d = s->d;
    r.state = s->state;
    r.y = s->y + first * H;
    if (krait_scan_run(&d, &r, 2, &e) < 0) fail_msg("%s", e.message);
}

static double largest_difference(const float *a, const float *b, int n) {
    double worst = 0, size = 0;
    for (int i = 0; i < n; i++) {
        worst = kr_worst(worst, fabs((double)a[i] - (double)b[i]));
        size = fmax(size, fabs((double)b[i]));
    }
    return worst / size;
}

static void recurrence_convolution_and_halves_agree(void **state) {
    (void)state;
    static lines whole, steps, halves;
    draw_lines(&whole);
    steps = halves = whole;
    read_rows(&whole, 0, T);
    for (int t = 0; t < T; t++) read_rows(&steps, t, 1);
    read_rows(&halves, 0, T / 2 - 3);
    read_rows(&halves, T / 2 - 3, T / 2 + 3);
    double step = largest_difference(whole.y, steps.y, T * H);
    double half = largest_difference(halves.y, steps.y, T * H);
    double end = largest_difference(whole.state, steps.state, 2 * H * N);
    print_message("N 64, T 4096, f32: convolution and recurrence differ by %.1e, two halves by "
                  "%.1e, last states by %.1e\n",
                  step, half, end);
    assert_true(step < 1e-4 && half < 1e-4 && end < 1e-4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fresh_models_have_the_published_values),
        cmocka_unit_test(one_mode_has_its_published_kernel),
        cmocka_unit_test(a_step_twice_as_long_is_two_steps),
        cmocka_unit_test(any_parameters_are_stable),
        cmocka_unit_test(recurrence_convolution_and_halves_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
