/* lssl_test.c - section 3 of the sheet s4.md (structured state spaces, Gu et al. 2020 to 2022): the
 * linear state space layer as a recurrence, as a convolution with its Krylov vectors and in
 * continuous time; its initial values.
 *
 * What holds for every mixer (forms of a model agree, gradients of a whole model) is tested over
 * all of them in lm_test.c and selftest_model_test.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <krait/scan.h>

#include "base/rng.h"
#include "base/test_worst.h"
#include "mixers/lssl/lssl.h"
#include "models/lm.h"
#include "ops/discretise_dense/discretise_dense.h"

enum { N = 64, T = 512 };

static void *zeros(size_t bytes) {
    void *p = calloc(1, bytes);
    assert_non_null(p);
    return p;
}

/* LegS with a step of `dt`, by the op in double: decay [(1+2N) N], b [N]. */
static void discrete(double dt, double rate, double *decay, double *b) {
    double *A = zeros((N * N + N) * sizeof *A), *B = A + N * N, log_dt = log(dt);
    int64_t one = 1, n = N;
    krait_error e;
    kr_discretise_dense_attr attr = {rate};
    assert_int_equal(krait_hippo_matrices(KRAIT_HIPPO_LEGS, N, A, B, &e), 0);
    kr_call c = {.attr = &attr, .n_in = KR_DENSE_INS, .n_out = 2, .threads = 1};
    c.in[KR_DENSE_DT] = kr_tensor_make(&log_dt, KR_F64, 1, &one);
    c.in[KR_DENSE_A] = kr_tensor_make(A, KR_F64, 2, (int64_t[]){N, N});
    c.in[KR_DENSE_B] = kr_tensor_make(B, KR_F64, 1, &n);
    c.out[0] = kr_tensor_make(decay, KR_F64, 2, (int64_t[]){1, (1 + 2 * N) * N});
    c.out[1] = kr_tensor_make(b, KR_F64, 2, (int64_t[]){1, N});
    c.scratch = zeros(kr_op_discretise_dense.scratch(&c));
    kr_op_kernel(&kr_op_discretise_dense, KR_LEVEL_REF64)(&c);
    free(c.scratch);
    free(A);
}

/* (I - g A) Ab = I + g A and (I - g A) b = delta B. */
static void a_step_is_the_bilinear_rule(void **state) {
    (void)state;
    double *decay = zeros((1 + 2 * N) * N * sizeof *decay), b[N], A[N * N], B[N], worst = 0;
    double g = 0.02 / 2;
    discrete(0.02, 1, decay, b);
    assert_int_equal(krait_hippo_matrices(KRAIT_HIPPO_LEGS, N, A, B, NULL), 0);
    const double *Ab = decay + (1 + N) * N;
    for (int i = 0; i < N; i++) {
        double right = b[i];
        for (int k = 0; k < N; k++) right -= g * A[i * N + k] * b[k];
        worst = kr_worst(worst, fabs(right - 0.02 * B[i]));
        for (int j = 0; j < N; j++) {
            double sum = Ab[i * N + j];
            for (int k = 0; k < N; k++) sum -= g * A[i * N + k] * Ab[k * N + j];
            worst = kr_worst(worst, fabs(sum - (i == j) - g * A[i * N + j]));
            assert_true(decay[j] == 0 && decay[(1 + i) * N + j] == (i == j ? -1 : 0));
        }
    }
    print_message("N 64: the rule is off by %.1e\n", worst);
    assert_true(worst < 1e-12);
    free(decay);
}

/* ---- three views ------------------------------------------------------------------------------
 */

static void square(double *P) {
    double *S = zeros(N * N * sizeof *S);
    for (int i = 0; i < N * N; i++)
        for (int k = 0; k < N; k++) S[i] += P[i / N * N + k] * P[k * N + i % N];
    memcpy(P, S, N * N * sizeof *S);
    free(S);
}

/* K_l = c Ab^l b from the Krylov vectors b, Ab b, ... by doubling. */
static void krylov(const double *Ab, const double *b, const double *c, double *K) {
    double *P = zeros(N * N * sizeof *P), *X = zeros(T * N * sizeof *X);
    memcpy(P, Ab, N * N * sizeof *P);
    memcpy(X, b, N * sizeof *X);
    for (int m = 1; m < T; m *= 2) {
        for (int l = 0; l < m; l++)
            for (int i = 0; i < N; i++)
                for (int k = 0; k < N; k++) X[(m + l) * N + i] += P[i * N + k] * X[l * N + k];
        square(P);
    }
    for (int l = 0; l < T; l++) {
        K[l] = 0;
        for (int n = 0; n < N; n++) K[l] += c[n] * X[l * N + n];
    }
    free(P);
    free(X);
}

/* y of the engine in f32, row by row in two halves that hand on the state. */
static void recurrence(const double *decay, const double *b, const double *c, const float *x,
                       float *y) {
    krait_scan_desc d = krait_scan_lssl(1, N);
    krait_error e;
    float *a = zeros((1 + 2 * N) * N * sizeof *a), bc[2 * N], h[N] = {0};
    for (int i = 0; i < (1 + 2 * N) * N; i++) a[i] = (float)decay[i];
    for (int n = 0; n < N; n++) bc[n] = (float)b[n], bc[N + n] = (float)c[n];
    for (int half = 0; half < 2; half++) {
        krait_scan_arrays r = {.rows = T / 2, .slots = 1, .a = a, .b = bc, .c = bc + N, .state = h};
        r.x = x + half * T / 2;
        r.y = y + half * T / 2;
        if (krait_scan_run(&d, &r, 1, &e) < 0) fail_msg("%s", e.message);
    }
    free(a);
}

static void recurrence_and_krylov_convolution_agree(void **state) {
    (void)state;
    double *decay = zeros((1 + 2 * N) * N * sizeof *decay), b[N], c[N], K[T], worst = 0, size = 0;
    float x[T], y[T];
    kr_rng rng = kr_rng_make(12, 12);
    for (int n = 0; n < N; n++) c[n] = kr_rng_normal(&rng);
    for (int t = 0; t < T; t++) x[t] = (float)kr_rng_normal(&rng);
    discrete(0.01, 1, decay, b);
    krylov(decay + (1 + N) * N, b, c, K);
    recurrence(decay, b, c, x, y);
    for (int t = 0; t < T; t++) {
        double sum = 0;
        for (int l = 0; l <= t; l++) sum += K[l] * (double)x[t - l];
        worst = kr_worst(worst, fabs((double)y[t] - sum));
        size = fmax(size, fabs(sum));
    }
    print_message(
        "N 64, T 512: recurrence (f32, two halves) and Krylov convolution differ by %.1e\n",
        worst / size);
    assert_true(worst / size < 1e-5);
    free(decay);
}

/* Continuous time: every fourth sample with steps four times as long gives the same signal. The
 * read is of low order, as the rule's error grows with the order. */
static void another_rate_is_the_same_system(void **state) {
    (void)state;
    double *decay = zeros((1 + 2 * N) * N * sizeof *decay), b[N], c[N] = {0.3, -1, 0.5, 0.2};
    float x[T], y[T], slow_x[T] = {0}, slow_y[T];
    double worst = 0, size = 0;
    for (int t = 0; t < T; t++) x[t] = (float)(sin(0.02 * t) + 0.4 * cos(0.031 * t + 1));
    for (int t = 0; 4 * t < T; t++) slow_x[t] = x[4 * t];
    discrete(0.004, 1, decay, b);
    recurrence(decay, b, c, x, y);
    discrete(0.004, 4, decay, b);
    recurrence(decay, b, c, slow_x, slow_y);
    for (int t = T / 8; 4 * t < T; t++) {
        worst = kr_worst(worst, fabs((double)slow_y[t] - (double)y[4 * t]));
        size = fmax(size, fabs((double)y[4 * t]));
    }
    print_message("a quarter of the samples, rate 4: outputs differ by %.3f of the largest\n",
                  worst / size);
    assert_true(worst / size < 0.05);
    free(decay);
}

static void fresh_models_have_the_published_values(void **state) {
    (void)state;
    kr_config c;
    krait_error e;
    kr_weights w = {0};
    double A[36], B[6], off = 0, least = 1, most = 0;
    if (kr_config_make(&c, "lssl", 256, 1, 16, "state=6", &e) < 0) fail_msg("%s", e.message);
    if (kr_lm_init_weights(&c, 11, &w, &e) < 0) fail_msg("%s", e.message);
    const kr_tensor *a = kr_weights_find(&w, "backbone.layers.0.mixer.A");
    const kr_tensor *b = kr_weights_find(&w, "backbone.layers.0.mixer.B");
    const kr_tensor *dt = kr_weights_find(&w, "backbone.layers.0.mixer.log_dt");
    assert_true(a && b && dt);
    assert_int_equal(krait_hippo_matrices(KRAIT_HIPPO_LEGS, 6, A, B, &e), 0);
    for (int i = 0; i < 36; i++) off = kr_worst(off, fabs((double)((float *)a->data)[i] - A[i]));
    for (int i = 0; i < 6; i++) off = kr_worst(off, fabs((double)((float *)b->data)[i] - B[i]));
    for (int i = 0; i < 256; i++) {
        least = fmin(least, exp((double)((float *)dt->data)[i]));
        most = kr_worst(most, exp((double)((float *)dt->data)[i]));
    }
    print_message("A and B off by %.1e, steps %.4f to %.4f\n", off, least, most);
    assert_true(off < 1e-6 && least > 0.00099 && least < 0.0015 && most > 0.07 && most < 0.101);
    kr_weights_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_the_bilinear_rule),
        cmocka_unit_test(recurrence_and_krylov_convolution_agree),
        cmocka_unit_test(another_rate_is_the_same_system),
        cmocka_unit_test(fresh_models_have_the_published_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
