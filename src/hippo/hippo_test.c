/* hippo_test.c - the checks of the sheet s4.md (structured state spaces, Gu et al. 2020 to 2022)
 * that concern HiPPO: closed forms (check 1, its test vectors), online approximation (check 2),
 * normal plus low rank (check 3). */
#include <complex.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/test_worst.h"
#include "hippo/hippo_system.h"

typedef double complex cplx;

static const double pi = 3.14159265358979323846;

static void matrices(krait_hippo_kind kind, int64_t N, double *A, double *B) {
    krait_error e;
    if (krait_hippo_matrices(kind, N, A, B, &e) < 0) fail_msg("%s", e.message);
}

static double *numbers(int64_t n) {
    double *p = calloc((size_t)n, sizeof *p);
    assert_non_null(p);
    return p;
}

/* ---- closed forms (section 2.2) ---------------------------------------------------------------
 */

static void matrices_are_the_published_ones(void **state) {
    (void)state;
    static const double legs[16] = {-1,
                                    0,
                                    0,
                                    0,
                                    -1.732050808,
                                    -2,
                                    0,
                                    0,
                                    -2.236067977,
                                    -3.872983346,
                                    -3,
                                    0,
                                    -2.645751311,
                                    -4.582575695,
                                    -5.916079783,
                                    -4};
    static const double b[4] = {1, 1.732050808, 2.236067977, 2.645751311};
    static const double p[4] = {0.707106781, 1.224744871, 1.581138830, 1.870828693};
    static const double legt[4] = {-0.5, 0.866025404, -1.118033989, 1.322875656}; /* window 2 */
    double A[16], B[4], P[4], worst = 0;
    matrices(KRAIT_HIPPO_LEGS, 4, A, B);
    kr_hippo_correction(KRAIT_HIPPO_LEGS, 4, 0, P);
    for (int i = 0; i < 16; i++) worst = kr_worst(worst, fabs(A[i] - legs[i]));
    for (int i = 0; i < 4; i++) worst = kr_worst(worst, fmax(fabs(B[i] - b[i]), fabs(P[i] - p[i])));
    matrices(KRAIT_HIPPO_LEGT, 4, A, B);
    for (int i = 0; i < 4; i++) worst = kr_worst(worst, fabs(A[i] / 2 - legt[i]));
    print_message("matrices off by %.1e\n", worst);
    assert_true(worst < 1e-9);
}

/* x <- e^(tA) x by Taylor's series on short pieces of t. */
static void flow(const double *A, double *x, int64_t N, double t) {
    enum { PIECES = 400, TERMS = 24 };
    double *term = numbers(2 * N), *next = term + N;
    for (int piece = 0; piece < PIECES; piece++) {
        memcpy(term, x, (size_t)N * sizeof *x);
        for (int k = 1; k <= TERMS; k++) {
            for (int64_t n = 0; n < N; n++) {
                next[n] = 0;
                for (int64_t j = 0; j < N; j++) next[n] += A[n * N + j] * term[j];
            }
            for (int64_t n = 0; n < N; n++) {
                term[n] = next[n] * t / PIECES / k;
                x[n] += term[n];
            }
        }
    }
    free(term);
}

static double legendre(int n, double z) {
    double before = 0, p = 1;
    for (int k = 0; k < n; k++) {
        double next = ((2 * k + 1) * z * p - k * before) / (k + 1);
        before = p;
        p = next;
    }
    return p;
}

static double laguerre(int n, double s) {
    double before = 0, p = 1;
    for (int k = 0; k < n; k++) {
        double next = ((2 * k + 1 - s) * p - k * before) / (k + 1);
        before = p;
        p = next;
    }
    return p;
}

/* Check 1: exact for each N. */
static void kernels_are_the_closed_forms(void **state) {
    (void)state;
    enum { N = 12 };
    double A[N * N], x[N], worst[2] = {0};
    for (int i = 0; i < 2; i++)
        for (double t = 0.1; t < 4; t += 0.7) {
            matrices(i ? KRAIT_HIPPO_LAGT : KRAIT_HIPPO_LEGS, N, A, x);
            flow(A, x, N, t);
            for (int n = 0; n < N; n++) {
                double want = i ? exp(-t / 2) * laguerre(n, t)
                                : exp(-t) * sqrt(2 * n + 1) * legendre(n, 2 * exp(-t) - 1);
                worst[i] = fmax(worst[i], fabs(x[n] - want));
            }
        }
    print_message("e^(tA) B: LegS off by %.1e, LagT by %.1e\n", worst[0], worst[1]);
    assert_true(worst[0] < 1e-10 && worst[1] < 1e-10);
}

/* The windows' kernels are only reached as N grows: within the window the first ones are, on
 * average, and nothing stays behind it. */
static void windows_end(void **state) {
    (void)state;
    enum { N = 64 };
    double *A = numbers(N * N), x[N];
    static const krait_hippo_kind kinds[] = {KRAIT_HIPPO_LEGT, KRAIT_HIPPO_FOURIER};
    for (int i = 0; i < 2; i++) {
        double within, behind = 0;
        matrices(kinds[i], N, A, x);
        flow(A, x, N, 0.37);
        within = fabs(x[0] - 1);
        flow(A, x, N, 1.13 - 0.37);
        for (int n = 0; n < 8; n++) behind = fmax(behind, fabs(x[n]));
        print_message("window of measure %d: off by %.3f inside, %.3f is left behind\n",
                      (int)kinds[i], within, behind);
        assert_true(within < 0.05 && behind < 0.2);
    }
    free(A);
}

/* ---- normal plus low rank (section 4, check 3) ------------------------------------------------
 */

/* How far V is from unitary on the kept half, and 2 Re V diag(lambda) V* from A + P P^T, relative
 * to the largest number of it. */
static void modes_off(krait_hippo_kind kind, int64_t N, double *unitary, double *normal) {
    kr_hippo_modes m;
    krait_error e;
    if (kr_hippo_modes_make(&m, kind, N, &e) < 0) fail_msg("%s", e.message);
    double *A = numbers(N * N), *B = numbers(N), *P = numbers(N), largest = 0;
    int64_t half = N / 2;
    *unitary = *normal = 0;
    matrices(kind, N, A, B);
    for (int r = 0; r < m.rank; r++) {
        kr_hippo_correction(kind, N, r, P);
        for (int64_t i = 0; i < N * N; i++) A[i] += P[i / N] * P[i % N];
    }
    for (int64_t i = 0; i < half; i++)
        for (int64_t j = 0; j < half; j++) {
            cplx same = 0, other = 0; /* with V_j, and with its conjugate */
            for (int64_t n = 0; n < N; n++) {
                const double *a = m.V[n * half + i], *b = m.V[n * half + j];
                same += (a[0] - I * a[1]) * (b[0] + I * b[1]);
                other += (a[0] - I * a[1]) * (b[0] - I * b[1]);
            }
            *unitary = fmax(*unitary, fmax(cabs(same - (i == j)), cabs(other)));
        }
    for (int64_t i = 0; i < N * N; i++) {
        cplx sum = 0;
        for (int64_t k = 0; k < half; k++) {
            const double *a = m.V[i / N * half + k], *b = m.V[i % N * half + k];
            sum += (a[0] + I * a[1]) * (-m.rate + I * m.frequency[k]) * (b[0] - I * b[1]);
        }
        *normal = fmax(*normal, fabs(2 * creal(sum) - A[i]));
        largest = fmax(largest, fabs(A[i]));
    }
    *normal /= fmax(largest, 1);
    free(A);
    free(B);
    free(P);
    kr_hippo_modes_free(&m);
}

static void modes_make_the_normal_part(void **state) {
    (void)state;
    static const char *const names[] = {"LegS", "LegT", "LagT", "Fourier"};
    for (int kind = 0; kind < 4; kind++)
        for (int64_t N = 2; N <= 256; N = N == 2 ? 64 : N * 2) {
            double unitary, normal;
            modes_off((krait_hippo_kind)kind, N, &unitary, &normal);
            print_message("%s, N %d: V* V - I %.1e, 2 Re V L V* - (A + P P*) %.1e of the largest\n",
                          names[kind], (int)N, unitary, normal);
            assert_true(unitary < 1e-10 && normal < 1e-12);
        }
}

/* Section 4.2's reference numbers. */
static void legs_has_its_published_modes(void **state) {
    (void)state;
    static const double four[] = {0.556501115, 4.603293007};
    static const double eight[] = {0.427488712, 1.957794151, 5.354208515, 19.857410371};
    static const double low[] = {0.264, 0.906, 1.703, 2.626};
    static const double top[] = {1303.274, 433.031, 258.152, 182.62};
    kr_hippo_modes m[3];
    double worst = 0, high = 0, square = 0;
    for (int i = 0; i < 3; i++)
        assert_int_equal(kr_hippo_modes_make(&m[i], KRAIT_HIPPO_LEGS, i < 2 ? 4 << i : 64, NULL),
                         0);
    for (int i = 0; i < 2; i++) worst = kr_worst(worst, fabs(m[0].frequency[i] - four[i]));
    for (int i = 0; i < 4; i++) {
        worst = kr_worst(worst, fabs(m[1].frequency[i] - eight[i]));
        high = fmax(high, fabs(m[2].frequency[31 - i] / top[i] - 1));
        assert_true(fabs(m[2].frequency[i] - low[i]) < 6e-4);
    }
    double b = fmax(fabs(m[0].B[0] - 0.966931170), fabs(m[0].B[1] - 2.658015070));
    for (int k = 0; k < 32; k++) square += 2 * m[2].B[k] * m[2].B[k];
    print_message("N 4 and 8: frequencies off by %.1e, B by %.1e; N 64: by %.1e of them, largest B "
                  "%.3f, sum of squares %.9f of N^2; rate %.15f\n",
                  worst, b, high, m[2].B[31], square / 4096, m[2].rate);
    assert_true(worst < 1e-9 && b < 1e-9 && high < 1e-5 && fabs(m[2].B[31] - 40.752) < 1e-3);
    assert_true(fabs(square / 4096 - 1) < 1e-12 && fabs(m[2].rate - 0.5) < 1e-12);
    for (int i = 0; i < 3; i++) kr_hippo_modes_free(&m[i]);
}

/* The equation whose roots are the frequencies of LegS: with t_n = 2 mu / (2n+1), sum_n atan t_n is
 * an odd multiple of pi/2 (from the recurrence of the eigenvectors' entries). */
static void legs_frequencies_solve_their_equation(void **state) {
    (void)state;
    enum { N = 256 };
    kr_hippo_modes m;
    double worst = 0;
    assert_int_equal(kr_hippo_modes_make(&m, KRAIT_HIPPO_LEGS, N, NULL), 0);
    for (int k = 0; k < N / 2; k++) {
        double sum = 0;
        for (int n = 0; n < N; n++) sum += atan(2 * m.frequency[k] / (2 * n + 1));
        worst = kr_worst(worst, fabs(sum - pi / 2 * (2 * k + 1)));
    }
    print_message("N 256: frequencies solve their equation within %.1e of %.0f\n", worst, 128 * pi);
    assert_true(worst < 1e-8);
    kr_hippo_modes_free(&m);
}

/* ---- the online approximation (section 2.3, check 2) ------------------------------------------
 */

static krait_hippo *opened(krait_hippo_kind kind, int64_t N, double window,
                           krait_hippo_method method) {
    krait_hippo_options o = KRAIT_HIPPO_OPTIONS_INIT;
    krait_hippo *m;
    krait_error e;
    o.kind = kind;
    o.numbers = N;
    o.window = window;
    o.method = method;
    if (krait_hippo_open(&m, &o, &e) < 0) fail_msg("%s", e.message);
    return m;
}

static void a_constant_stays_as_it_is(void **state) {
    (void)state;
    for (int method = 0; method < 3; method++) {
        krait_hippo *m = opened(KRAIT_HIPPO_LEGS, 32, 0, (krait_hippo_method)method);
        for (int j = 0; j < 1000; j++) krait_hippo_feed(m, 0.75);
        const double *x = krait_hippo_coefficients(m);
        double worst = fabs(x[0] - 0.75);
        for (int n = 1; n < 32; n++) worst = kr_worst(worst, fabs(x[n]));
        print_message("method %d: 1,000 samples of a constant move the coefficients by %.1e\n",
                      method, worst);
        assert_true(worst < 1e-14);
        krait_hippo_close(&m);
    }
}

enum { L = 1000, ORDER = 32 };

static double signal_at(double x) { return sin(4 * pi * x) + 0.5 * cos(10 * pi * x); }

/* x_n = integral over [0,1] of u sqrt(2n+1) P_n(2x - 1), by many points. */
static void projection(double *x) {
    enum { POINTS = 200000 };
    memset(x, 0, ORDER * sizeof *x);
    for (int j = 0; j < POINTS; j++) {
        double at = (j + 0.5) / POINTS, u = signal_at(at) / POINTS, before = 0, p = 1;
        for (int n = 0; n < ORDER; n++) {
            double next = ((2 * n + 1) * (2 * at - 1) * p - n * before) / (n + 1);
            x[n] += u * sqrt(2 * n + 1) * p;
            before = p;
            p = next;
        }
    }
}

static bool near(double is, double want) { return fabs(is / want - 1) < 0.2; }

/* The sheet's table: root mean square, the largest error away from the ends, the coefficients'. */
static void all_the_past_is_remembered_as_published(void **state) {
    (void)state;
    static const double table[3][3] = {{3.6e-2, 8.4e-2, 2.3e-2},
                                       {3.2e-2, 7.4e-2, 2.1e-2},
                                       {3.5e-3, 1.05e-2, 1.7e-3}};
    static const char *const names[] = {"forward", "backward", "bilinear"};
    double exact[ORDER];
    projection(exact);
    for (int method = 0; method < 3; method++) {
        krait_hippo *m = opened(KRAIT_HIPPO_LEGS, ORDER, 0, (krait_hippo_method)method);
        double squares = 0, most = 0, coefficient = 0;
        for (int j = 0; j < L; j++) krait_hippo_feed(m, signal_at((j + 0.5) / L));
        for (int j = 0; j < L; j++) {
            double x = (j + 0.5) / L, off = krait_hippo_recall(m, L - j - 0.5) - signal_at(x);
            squares += off * off / L;
            if (x > 0.05 && x < 0.95) most = kr_worst(most, fabs(off));
        }
        for (int n = 0; n < ORDER; n++)
            coefficient = fmax(coefficient, fabs(krait_hippo_coefficients(m)[n] - exact[n]));
        print_message("%s: rms %.2e, most %.2e, coefficients %.2e\n", names[method], sqrt(squares),
                      most, coefficient);
        assert_true(near(sqrt(squares), table[method][0]) && near(most, table[method][1]) &&
                    near(coefficient, table[method][2]));
        krait_hippo_close(&m);
    }
}

/* A slow signal through each fading or ending memory. */
static void windows_are_remembered(void **state) {
    (void)state;
    static const char *const names[] = {"LegS, fading", "LegT", "LagT", "Fourier"};
    static const double bound[] = {0.01, 0.02, 0.06, 0.06};
    for (int kind = 0; kind < 4; kind++) {
        double window = kind == KRAIT_HIPPO_LAGT ? 40 : 400, worst = 0;
        krait_hippo *m = opened((krait_hippo_kind)kind, 64, window, KRAIT_HIPPO_BILINEAR);
        for (int j = 0; j < 3 * L; j++) krait_hippo_feed(m, signal_at((j + 0.5) / L));
        for (int age = 20; age < 380; age++) {
            double is = krait_hippo_recall(m, age + 0.5);
            worst = kr_worst(worst, fabs(is - signal_at((3 * L - 1 - age + 0.5) / L)));
        }
        print_message("%s: ages 20 to 380 recalled within %.4f\n", names[kind], worst);
        assert_true(worst < bound[kind]);
        krait_hippo_close(&m);
    }
}

static void what_is_wrong_is_said(void **state) {
    (void)state;
    krait_hippo_options o = KRAIT_HIPPO_OPTIONS_INIT;
    krait_hippo *m;
    krait_error e;
    o.numbers = 0;
    assert_int_equal(krait_hippo_open(&m, &o, &e), KRAIT_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "numbers must be 1 to 4096, is 0"));
    o.numbers = 5;
    o.window = -1;
    assert_int_equal(krait_hippo_open(&m, &o, &e), KRAIT_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "window"));
    o.window = 10;
    o.kind = KRAIT_HIPPO_FOURIER;
    assert_int_equal(krait_hippo_open(&m, &o, &e), KRAIT_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "even"));
    o.numbers = 6;
    for (int64_t n = 1; n < 4; n++) {
        kr_mem_fail_after(n);
        assert_int_equal(krait_hippo_open(&m, &o, &e), KRAIT_ERR_MEMORY);
        assert_null(m);
    }
    kr_mem_fail_after(0);
    assert_int_equal(krait_hippo_open(&m, &o, &e), 0);
    assert_true(krait_hippo_recall(m, 1) == 0);
    krait_hippo_close(&m);
    kr_hippo_modes modes;
    for (int64_t n = 1; n < 6; n++) {
        kr_mem_fail_after(n);
        assert_int_equal(kr_hippo_modes_make(&modes, KRAIT_HIPPO_LEGS, 8, &e), KRAIT_ERR_MEMORY);
    }
    kr_mem_fail_after(0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matrices_are_the_published_ones),
        cmocka_unit_test(kernels_are_the_closed_forms),
        cmocka_unit_test(windows_end),
        cmocka_unit_test(modes_make_the_normal_part),
        cmocka_unit_test(legs_has_its_published_modes),
        cmocka_unit_test(legs_frequencies_solve_their_equation),
        cmocka_unit_test(a_constant_stays_as_it_is),
        cmocka_unit_test(all_the_past_is_remembered_as_published),
        cmocka_unit_test(windows_are_remembered),
        cmocka_unit_test(what_is_wrong_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
