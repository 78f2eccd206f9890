/* s4_test.c - the checks of the sheet s4.md (structured state spaces, Gu et al. 2020 to 2022) that
 * concern S4: its kernel by Cauchy's sums, by dense matrices and by the recurrence (checks 4 to 7
 * and the sheet's test vectors), both sides (9), gradients (10), carried states (12), stability
 * (13), published initial values.
 *
 * What holds for every mixer (forms of a model agree, gradients of a whole model) is tested over
 * all of them in lm_test.c and selftest_model_test.c; the plans of the scan in scan_vec_test.c. */
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

#include <krait/scan.h>

#include "base/rng.h"
#include "base/test_worst.h"
#include "hippo/hippo_system.h"
#include "mixers/s4/s4.h"
#include "models/lm.h"
#include "ops/discretise_low_rank/discretise_low_rank.h"
#include "scan/scan_cauchy.h"
#include "scan/scan_op.h"

typedef double complex cplx;

static const double pi = 3.14159265358979323846;

static double *numbers(int64_t n) {
    double *p = calloc((size_t)n, sizeof *p);
    assert_non_null(p);
    return p;
}

/* ---- one system: dense and real, and in the coordinates of its modes --------------------------
 */

enum { RANKS = KR_HIPPO_RANKS };

typedef struct dense {
    int64_t N;
    double *A, *B, *Ab, *Bb, *C; /* of x' = A x + B u; of a step; C [N] */
    kr_hippo_modes m;
    double dt;
    double *modes;           /* a, p.., q.., b, c: [2N/2] each */
    double *a, *low, *b, *c; /* in it */
} dense;

/* X <- M^-1 X, M [N,N] destroyed, X [N,K]. */
static void solve(double *M, double *X, int64_t N, int64_t K) {
    for (int64_t j = 0; j < N; j++) {
        int64_t best = j;
        for (int64_t i = j; i < N; i++)
            if (fabs(M[i * N + j]) > fabs(M[best * N + j])) best = i;
        for (int64_t k = 0; best != j && k < N; k++) {
            double keep = M[j * N + k];
            M[j * N + k] = M[best * N + k], M[best * N + k] = keep;
        }
        for (int64_t k = 0; best != j && k < K; k++) {
            double keep = X[j * K + k];
            X[j * K + k] = X[best * K + k], X[best * K + k] = keep;
        }
        for (int64_t i = 0; i < N; i++) {
            double f = i == j ? 0 : M[i * N + j] / M[j * N + j];
            for (int64_t k = 0; f != 0 && k < N; k++) M[i * N + k] -= f * M[j * N + k];
            for (int64_t k = 0; f != 0 && k < K; k++) X[i * K + k] -= f * X[j * K + k];
        }
    }
    for (int64_t i = 0; i < N * K; i++) X[i] /= M[i / K * N + i / K];
}

static void discretise_dense(dense *s) {
    int64_t N = s->N;
    double *M = numbers(N * N), *X = numbers(N * (N + 1));
    for (int64_t i = 0; i < N * N; i++) {
        double one = i / N == i % N;
        M[i] = one - s->dt / 2 * s->A[i];
        X[i / N * (N + 1) + i % N] = one + s->dt / 2 * s->A[i];
    }
    for (int64_t n = 0; n < N; n++) X[n * (N + 1) + N] = s->dt * s->B[n];
    solve(M, X, N, N + 1);
    for (int64_t i = 0; i < N * N; i++) s->Ab[i] = X[i / N * (N + 1) + i % N];
    for (int64_t n = 0; n < N; n++) s->Bb[n] = X[n * (N + 1) + N];
    free(M);
    free(X);
}

/* A row of real coordinates to that of the kept modes: C V. */
static void row_to_modes(const dense *s, const double *row, double *to) {
    int64_t half = s->N / 2;
    for (int64_t k = 0; k < half; k++) {
        to[k] = to[half + k] = 0;
        for (int64_t n = 0; n < s->N; n++) {
            to[k] += row[n] * s->m.V[n * half + k][0];
            to[half + k] += row[n] * s->m.V[n * half + k][1];
        }
    }
}

/* The op in double, of one channel: a, p.., q.. and b. */
static void discretise_modes(dense *s) {
    int64_t half = s->N / 2, one = 1, R = s->m.rank;
    double log_dt = log(s->dt), *rate = numbers(half), *B = numbers(2 * half);
    double *P = numbers(R * 2 * half);
    for (int64_t k = 0; k < half; k++) {
        rate[k] = log(fmax(s->m.rate, 1e-300));
        B[k] = s->m.B[k];
        for (int64_t r = 0; r < R; r++)
            for (int part = 0; part < 2; part++)
                P[(2 * r + part) * half + k] = s->m.P[r * half + k][part];
    }
    kr_discretise_low_rank_attr attr = {1};
    kr_call c = {.attr = &attr, .n_in = KR_LOW_INS, .n_out = 2, .threads = 1};
    c.in[KR_LOW_DT] = kr_tensor_make(&log_dt, KR_F64, 1, &one);
    c.in[KR_LOW_RATE] = kr_tensor_make(rate, KR_F64, 2, (int64_t[]){1, half});
    c.in[KR_LOW_FREQUENCY] = kr_tensor_make(s->m.frequency, KR_F64, 2, (int64_t[]){1, half});
    c.in[KR_LOW_B] = kr_tensor_make(B, KR_F64, 3, (int64_t[]){1, 2, half});
    c.in[KR_LOW_P] = kr_tensor_make(P, KR_F64, 4, (int64_t[]){1, R, 2, half});
    c.out[0] = kr_tensor_make(s->a, KR_F64, 2, (int64_t[]){1, (1 + 2 * R) * 2 * half});
    c.out[1] = kr_tensor_make(s->b, KR_F64, 2, (int64_t[]){1, 2 * half});
    c.scratch = calloc(1, kr_op_discretise_low_rank.scratch(&c));
    assert_non_null(c.scratch);
    kr_op_kernel(&kr_op_discretise_low_rank, KR_LEVEL_REF64)(&c);
    free(c.scratch);
    free(rate);
    free(B);
    free(P);
}

/* C NULL: drawn, so that every mode has its share. */
static void make(dense *s, krait_hippo_kind kind, int64_t N, double dt, const double *C,
                 uint64_t seed) {
    krait_error e;
    kr_rng rng = kr_rng_make(seed, seed);
    *s = (dense){.N = N, .dt = dt, .A = numbers(2 * N * N + 3 * N)};
    if (kr_hippo_modes_make(&s->m, kind, N, &e) < 0) fail_msg("%s", e.message);
    s->Ab = s->A + N * N;
    s->B = s->Ab + N * N;
    s->Bb = s->B + N;
    s->C = s->Bb + N;
    s->modes = numbers((3 + 2 * RANKS) * N);
    s->a = s->modes;
    s->low = s->a + N;
    s->b = s->low + 2 * RANKS * N;
    s->c = s->b + N;
    assert_int_equal(krait_hippo_matrices(kind, N, s->A, s->B, &e), 0);
    discretise_dense(s);
    discretise_modes(s);
    for (int64_t n = 0; n < N; n++) s->C[n] = C ? C[n] : kr_rng_normal(&rng);
    row_to_modes(s, s->C, s->c);
}

static void drop(dense *s) {
    free(s->A);
    free(s->modes);
    kr_hippo_modes_free(&s->m);
}

/* x <- Ab x */
static void dense_step(const dense *s, double *x, double *work) {
    for (int64_t n = 0; n < s->N; n++) {
        work[n] = 0;
        for (int64_t k = 0; k < s->N; k++) work[n] += s->Ab[n * s->N + k] * x[k];
    }
    memcpy(x, work, (size_t)s->N * sizeof *x);
}

static double dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void dense_kernel(const dense *s, double *K, int64_t L) {
    double *x = numbers(2 * s->N);
    memcpy(x, s->Bb, (size_t)s->N * sizeof *x);
    for (int64_t l = 0; l < L; l++) {
        K[l] = dot(s->C, x, s->N);
        dense_step(s, x, x + s->N);
    }
    free(x);
}

static double worst_of(const double *a, const double *b, int64_t n) {
    double worst = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        worst = kr_worst(worst, fabs(a[i] - b[i]));
        size = fmax(size, fabs(b[i]));
    }
    return worst / size;
}

/* ---- the kernel of the engine, in double, one lane of level v1 --------------------------------
 */

enum { W = 4 };

typedef struct sums {
    kr_cauchy s;
    double *all;
} sums;

/* v [2,modes] to lane 0 of [modes,2,W]; the other lanes the same. */
static double *spread(double *at, const double *v, int64_t modes) {
    for (int64_t n = 0; v && n < modes; n++)
        for (int part = 0; part < 2; part++)
            for (int i = 0; i < W; i++) at[(2 * n + part) * W + i] = v[part * modes + n];
    return at;
}

static sums sums_of(const double *a, const double *low, const double *b, const double *c,
                    int64_t modes, int64_t R, int64_t L, int64_t n) {
    sums z = {.s = {.modes = modes, .length = L, .low_rank = R, .n = n, .kappa = 2}};
    int64_t size = modes * 2 * W;
    z.all = numbers((6 + 4 * R) * size + 2 * n * W + n);
    double *at = z.all, *roots;
    z.s.a = spread(at, a, modes);
    z.s.b = spread(at + size, b, modes);
    z.s.c = spread(at + 2 * size, c, modes);
    z.s.low = at + 3 * size;
    for (int64_t k = 0; k < 2 * R; k++) spread(at + (3 + k) * size, low + k * 2 * modes, modes);
    at += (3 + 2 * R) * size;
    z.s.ga = at, z.s.gb = at + size, z.s.gc = at + 2 * size, z.s.glow = at + 3 * size;
    at += (3 + 2 * R) * size;
    z.s.points = at;
    z.s.roots = roots = at + 2 * n * W;
    for (int64_t j = 0; j < n / 2; j++) {
        roots[2 * j] = cos(2 * pi * (double)j / (double)n);
        roots[2 * j + 1] = -sin(2 * pi * (double)j / (double)n);
    }
    return z;
}

static void cauchy_kernel(const dense *s, double *K, int64_t L, int64_t n) {
    sums z = sums_of(s->a, s->low, s->b, s->c, s->N / 2, s->m.rank, L, n);
    kr_cauchy_kernel_v1(&z.s);
    for (int64_t l = 0; l < L; l++) K[l] = z.s.points[l * 2 * W + 1];
    free(z.all);
}

/* The sheet's test vectors: C = (1,1,1,1) in the real basis. */
static void legs_has_its_published_kernel(void **state) {
    (void)state;
    static const double want[8] = {0.547052198,  0.223439368,  0.063993929,  -0.004599419,
                                   -0.025621550, -0.023929161, -0.013252275, -0.000736758};
    static const double ones[4] = {1, 1, 1, 1};
    double K[8], D[8];
    dense s;
    make(&s, KRAIT_HIPPO_LEGS, 4, 0.1, ones, 0);
    dense_kernel(&s, D, 8);
    cauchy_kernel(&s, K, 8, 64);
    double worst = 0, most = 0;
    for (int l = 0; l < 8; l++) {
        worst = kr_worst(worst, fabs(K[l] - want[l]));
        most = kr_worst(most, fabs(D[l] - want[l]));
    }
    print_message("N 4: Cauchy off by %.1e, dense by %.1e\n", worst, most);
    assert_true(worst < 1e-9 && most < 1e-9);
    drop(&s);
}

/* Check 4, in double; the points of the circle include w = -r. */
static void cauchy_is_the_dense_kernel(void **state) {
    (void)state;
    static const char *const names[] = {"LegS", "LegT", "LagT", "Fourier"};
    static const int64_t lengths[] = {16, 64, 1024};
    for (int kind = 0; kind < 4; kind++)
        for (int i = 0; i < 3; i++) {
            int64_t L = lengths[i];
            double K[1024], D[1024];
            dense s;
            make(&s, (krait_hippo_kind)kind, 64, 0.01, NULL, 5);
            dense_kernel(&s, D, L);
            cauchy_kernel(&s, K, L, 8 * L);
            double fine = worst_of(K, D, L);
            cauchy_kernel(&s, K, L, 2 * L);
            print_message("%s, L %4d: off by %.1e with 8 L points, %.1e with 2 L\n", names[kind],
                          (int)L, fine, worst_of(K, D, L));
            assert_true(fine < 1e-10 && worst_of(K, D, L) < 1e-9);
            drop(&s);
        }
}

/* ---- the textbook's form: points on the circle of radius 1, C truncated at L ------------------
 */

/* Row <- row (I -+ Ab^L). */
static void truncate_row(const dense *s, double *row, int64_t L, double sign) {
    double *power = numbers(s->N), *work = numbers(s->N);
    memcpy(power, row, (size_t)s->N * sizeof *row);
    for (int64_t l = 0; l < L; l++) {
        for (int64_t k = 0; k < s->N; k++) {
            work[k] = 0;
            for (int64_t n = 0; n < s->N; n++) work[k] += power[n] * s->Ab[n * s->N + k];
        }
        memcpy(power, work, (size_t)s->N * sizeof *work);
    }
    for (int64_t n = 0; n < s->N; n++) row[n] += sign * power[n];
    free(power);
    free(work);
}

/* Section 5.2 by its letter, rank 1: K from the row Ct at L points. *imaginary: the largest
 * imaginary part. */
static void textbook_kernel(const dense *s, const double *row, double *K, int64_t L,
                            double *imaginary) {
    int64_t half = s->N / 2;
    double *C = numbers(s->N);
    cplx *hat = calloc((size_t)L, sizeof *hat);
    assert_non_null(hat);
    row_to_modes(s, row, C);
    for (int64_t k = 0; k < L; k++) {
        cplx w = 2 * k == L ? -1 : cexp(-2 * pi * I * (double)k / (double)L), S[4] = {0};
        for (int64_t n = 0; n < half; n++) {
            cplx lambda = -s->m.rate + I * s->m.frequency[n], Ct = C[n] + I * C[half + n];
            cplx P = s->m.P[n][0] + I * s->m.P[n][1], B = s->m.B[n];
            cplx v[4] = {Ct * B, Ct * P, conj(P) * B, conj(P) * P};
            cplx d = 2 * (1 - w) - (1 + w) * s->dt * lambda;
            cplx e = 2 * (1 - w) - (1 + w) * s->dt * conj(lambda);
            for (int i = 0; i < 4; i++) S[i] += s->dt * (v[i] / d + conj(v[i]) / e);
        }
        hat[k] = 2 * (S[0] - (1 + w) * S[1] * S[2] / (1 + (1 + w) * S[3]));
    }
    *imaginary = 0;
    for (int64_t l = 0; l < L; l++) {
        cplx sum = 0;
        for (int64_t k = 0; k < L; k++)
            sum += hat[k] * cexp(2 * pi * I * (double)(k * l % L) / (double)L) / (double)L;
        K[l] = creal(sum);
        *imaginary = fmax(*imaginary, fabs(cimag(sum)));
    }
    free(C);
    free(hat);
}

/* Checks 4 (the kernel is real), 5 and 6: the circle of radius 1 needs the truncated C, at L and
 * doubled; ours needs none, and a kernel twice as long begins with the shorter one. */
static void truncation_is_what_the_unit_circle_needs(void **state) {
    (void)state;
    enum { L = 64 };
    double want[2 * L], K[2 * L], ours[2 * L], shorter[L], row[64], im, im2;
    dense s;
    make(&s, KRAIT_HIPPO_LEGS, 64, 0.01, NULL, 6);
    dense_kernel(&s, want, 2 * L);
    memcpy(row, s.C, sizeof row);
    textbook_kernel(&s, row, K, L, &im);
    double wrapped = worst_of(K, want, L);
    truncate_row(&s, row, L, -1);
    textbook_kernel(&s, row, K, L, &im);
    double exact = worst_of(K, want, L);
    truncate_row(&s, row, L, 1); /* Ct of 2 L = Ct (I + Ab^L) */
    textbook_kernel(&s, row, K, 2 * L, &im2);
    double doubled = worst_of(K, want, 2 * L);
    cauchy_kernel(&s, ours, 2 * L, 16 * L);
    cauchy_kernel(&s, shorter, L, 8 * L);
    print_message("with Ct off by %.1e, imaginary %.1e, doubled by %.1e; with C by %.1e; ours by "
                  "%.1e, its first half by %.1e\n",
                  exact, fmax(im, im2), doubled, wrapped, worst_of(ours, want, 2 * L),
                  worst_of(shorter, ours, L));
    assert_true(exact < 1e-10 && doubled < 1e-10 && im < 1e-12 && im2 < 1e-12);
    assert_true(wrapped > 0.01);
    assert_true(worst_of(ours, want, 2 * L) < 1e-10 && worst_of(shorter, ours, L) < 1e-10);
    drop(&s);
}

/* ---- three views in f32 (issue: N 64, T 4096, 1e-4; checks 4, 7, 12) --------------------------
 */

enum { H = 8, N = 64, T = 4096, SAME = 3 };

typedef struct lines {
    float a[H * 3 * N], b[H * N], c[H * N], x[SAME * T * H], y[SAME * T * H], state[H * N];
} lines;

static void narrow(float *to, const double *from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = (float)from[i];
}

/* H systems of LegS with steps 0.001 to 0.1. */
static void draw_lines(lines *s, dense d[H]) {
    memset(s, 0, sizeof *s);
    for (int h = 0; h < H; h++) {
        make(&d[h], KRAIT_HIPPO_LEGS, N, 1e-3 * pow(100, h / (H - 1.0)), NULL, 20 + (uint64_t)h);
        narrow(s->a + h * 3 * N, d[h].a, N);
        narrow(s->a + h * 3 * N + N, d[h].low, 2 * N);
        narrow(s->b + h * N, d[h].b, N);
        narrow(s->c + h * N, d[h].c, N);
    }
}

/* Rows [first, first + rows) from a state and row by row; or, as a convolution, all rows SAME
 * times, for which a kernel pays. */
static void read_rows(lines *s, int64_t first, int64_t rows, bool from_state) {
    krait_scan_desc d = krait_scan_s4(H, N / 2, 1);
    krait_error e;
    krait_scan_arrays r = {.rows = rows, .slots = 1, .x = s->x + first * H, .a = s->a, .b = s->b};
    r.c = s->c;
    int64_t seqs[SAME][3];
    for (int i = 0; i < SAME; i++) seqs[i][0] = i * T, seqs[i][1] = T, seqs[i][2] = 0;
    r.state = from_state ? s->state : NULL;
    if (!from_state) {
        for (int i = T * H; i < SAME * T * H; i++) s->x[i] = s->x[i - T * H];
        r.rows = SAME * T;
        r.seqs = seqs[0];
        r.sequences = SAME;
    }
    r.y = s->y + first * H;
    if (krait_scan_run(&d, &r, 2, &e) < 0) fail_msg("%s", e.message);
}

/* Of each channel relative to its own largest number. */
static double largest_difference(const float *a, const float *b) {
    double most = 0;
    for (int h = 0; h < H; h++) {
        double worst = 0, size = 0;
        for (int t = 0; t < T; t++) {
            worst = kr_worst(worst, fabs((double)a[t * H + h] - (double)b[t * H + h]));
            size = fmax(size, fabs((double)b[t * H + h]));
        }
        most = kr_worst(most, worst / size);
    }
    return most;
}

static void cauchy_dense_and_recurrence_agree(void **state) {
    (void)state;
    static lines cauchy, steps, want;
    dense d[H];
    double K[T];
    draw_lines(&cauchy, d);
    for (int h = 0; h < H; h++) cauchy.x[h] = 1; /* an impulse */
    steps = want = cauchy;
    read_rows(&cauchy, 0, T, false);
    read_rows(&steps, 0, T, true);
    for (int h = 0; h < H; h++) {
        dense_kernel(&d[h], K, T);
        for (int t = 0; t < T; t++) want.y[t * H + h] = (float)K[t];
        drop(&d[h]);
    }
    double a = largest_difference(cauchy.y, want.y), b = largest_difference(steps.y, want.y);
    double c = largest_difference(cauchy.y, steps.y);
    print_message("N 64, T 4096, f32, %d channels with steps 0.001 to 0.1: Cauchy and dense differ "
                  "by %.1e, recurrence and dense by %.1e, Cauchy and recurrence by %.1e\n",
                  H, a, b, c);
    assert_true(a < 1e-4 && b < 1e-4 && c < 1e-4);
    kr_level level;
    krait_error e;
    assert_int_equal(kr_device_level(&level, &e), 0);
    if (level > KR_LEVEL_REF) assert_true(c > 0); /* two ways, not one twice */
}

static void steps_and_halves_are_the_convolution(void **state) {
    (void)state;
    static lines whole, steps, halves;
    dense d[H];
    kr_rng rng = kr_rng_make(8, 8);
    draw_lines(&whole, d);
    for (int h = 0; h < H; h++) drop(&d[h]);
    for (int i = 0; i < T * H; i++) whole.x[i] = (float)kr_rng_normal(&rng);
    steps = halves = whole;
    read_rows(&whole, 0, T, false);
    for (int t = 0; t < T; t++) read_rows(&steps, t, 1, true);
    read_rows(&halves, 0, T / 2 - 3, true);
    read_rows(&halves, T / 2 - 3, T / 2 + 3, true);
    double step = largest_difference(steps.y, whole.y);
    double half = largest_difference(halves.y, whole.y);
    print_message("step by step and convolution differ by %.1e, two halves by %.1e\n", step, half);
    assert_true(step < 1e-5 && half < 1e-5);
}

/* Check 7: the O(N) step is the dense one, in double over 100 steps of a random input. */
static void the_short_step_is_the_dense_step(void **state) {
    (void)state;
    static const krait_hippo_kind kinds[] = {KRAIT_HIPPO_LEGS, KRAIT_HIPPO_LEGT};
    for (int i = 0; i < 2; i++) {
        dense s;
        kr_rng rng = kr_rng_make(9, 9);
        make(&s, kinds[i], N, 0.05, NULL, 9);
        int64_t half = N / 2, R = s.m.rank;
        cplx h[N / 2] = {0};
        double x[2 * N] = {0}, worst = 0, size = 0;
        for (int t = 0; t < 100; t++) {
            double u = kr_rng_normal(&rng), low[RANKS] = {0}, y = 0;
            dense_step(&s, x, x + N);
            for (int n = 0; n < N; n++) x[n] += s.Bb[n] * u;
            for (int64_t r = 0; r < R; r++)
                for (int64_t n = 0; n < half; n++) {
                    const double *q = s.low + (R + r) * N;
                    low[r] += 2 * creal((q[n] + I * q[half + n]) * h[n]);
                }
            for (int64_t n = 0; n < half; n++) {
                h[n] = (s.a[n] + I * s.a[half + n]) * h[n] + (s.b[n] + I * s.b[half + n]) * u;
                for (int64_t r = 0; r < R; r++)
                    h[n] -= (s.low[r * N + n] + I * s.low[r * N + half + n]) * low[r];
                y += 2 * creal((s.c[n] + I * s.c[half + n]) * h[n]);
            }
            worst = kr_worst(worst, fabs(y - dot(s.C, x, N)));
            size = fmax(size, fabs(y));
        }
        print_message("rank %d: 100 short steps differ from dense ones by %.1e\n", (int)R,
                      worst / size);
        assert_true(worst / size < 1e-11);
        drop(&s);
    }
}

/* Check 9: from both sides y_t = sum_j k0_j u_{t-j} + sum_m k1_m u_{t+1+m}, with one system and a
 * read C for each side: the second is the recurrence in reverse order that reads before it writes.
 */
static void two_sides_are_the_double_sum(void **state) {
    (void)state;
    enum { L = 40 };
    float a[3 * N], b[N], c[2][N], x[L], y[2][L];
    double k[2][L], worst = 0, size = 0;
    kr_rng rng = kr_rng_make(14, 14);
    krait_error e;
    for (int t = 0; t < L; t++) x[t] = (float)kr_rng_normal(&rng);
    for (int side = 0; side < 2; side++) {
        dense s;
        make(&s, KRAIT_HIPPO_LEGS, N, 0.02, NULL, 30 + (uint64_t)side);
        dense_kernel(&s, k[side], L);
        narrow(a, s.a, N);
        narrow(a + N, s.low, 2 * N);
        narrow(b, s.b, N);
        narrow(c[side], s.c, N);
        krait_scan_desc d = krait_scan_s4(1, N / 2, 1);
        if (side) d.order = KRAIT_ORDER_REVERSE, d.read = KRAIT_READ_BEFORE;
        krait_scan_arrays r = {.rows = L, .x = x, .a = a, .b = b, .c = c[side], .y = y[side]};
        if (krait_scan_run(&d, &r, 1, &e) < 0) fail_msg("%s", e.message);
        drop(&s);
    }
    for (int t = 0; t < L; t++) {
        double sum = 0;
        for (int j = 0; j <= t; j++) sum += k[0][j] * (double)x[t - j];
        for (int m = 0; t + 1 + m < L; m++) sum += k[1][m] * (double)x[t + 1 + m];
        worst = kr_worst(worst, fabs((double)y[0][t] + (double)y[1][t] - sum));
        size = fmax(size, fabs(sum));
    }
    print_message("both sides differ from the double sum by %.1e\n", worst / size);
    assert_true(worst / size < 1e-5);
}

/* ---- gradients (check 10) ---------------------------------------------------------------------
 */

/* sum_l g_l K_l of one lane */
static double loss(const double *v, const double *g, int64_t modes, int64_t R, int64_t L) {
    int64_t size = 2 * modes;
    sums z =
        sums_of(v, v + size, v + (1 + 2 * R) * size, v + (2 + 2 * R) * size, modes, R, L, 8 * L);
    kr_cauchy_kernel_v1(&z.s);
    double sum = 0;
    for (int64_t l = 0; l < L; l++) sum += g[l] * z.s.points[l * 2 * W];
    free(z.all);
    return sum;
}

static void gradients_are_the_differences(void **state) {
    (void)state;
    enum { MODES = 3, L = 16, SIZE = 2 * MODES };
    for (int64_t R = 1; R <= 4; R++) {
        kr_rng rng = kr_rng_make(10, (uint64_t)R);
        double v[(3 + 2 * KR_CAUCHY_RANKS) * SIZE], g[L], worst = 0;
        int64_t count = (3 + 2 * R) * SIZE;
        for (int64_t i = 0; i < count; i++) v[i] = 0.35 * kr_rng_normal(&rng) / (double)R;
        for (int l = 0; l < L; l++) g[l] = kr_rng_normal(&rng);
        sums z = sums_of(v, v + SIZE, v + (1 + 2 * R) * SIZE, v + (2 + 2 * R) * SIZE, MODES, R, L,
                         8 * L);
        for (int l = 0; l < L; l++)
            for (int i = 0; i < W; i++) z.s.points[l * 2 * W + i] = g[l];
        kr_cauchy_gradient_v1(&z.s);
        for (int64_t i = 0; i < count; i++) {
            int64_t which = i / SIZE, at = 2 * (i % MODES) + i % SIZE / MODES;
            const double *from = which == 0           ? z.s.ga
                                 : which == 1 + 2 * R ? z.s.gb
                                 : which == 2 + 2 * R ? z.s.gc
                                                      : z.s.glow + (which - 1) * SIZE * W;
            double keep = v[i], eps = 1e-6, up, down;
            v[i] = keep + eps, up = loss(v, g, MODES, R, L);
            v[i] = keep - eps, down = loss(v, g, MODES, R, L);
            v[i] = keep;
            worst = kr_worst(worst, fabs((up - down) / (2 * eps) - from[at * W + 2]));
        }
        print_message("rank %d: gradients of the kernel off by %.1e\n", (int)R, worst);
        assert_true(worst < 1e-6);
        free(z.all);
    }
}

/* ---- stability (check 13) ---------------------------------------------------------------------
 */

/* One step as a real matrix on (Re h, Im h). */
static void step_matrix(const dense *s, double *M) {
    int64_t half = s->N / 2, R = s->m.rank;
    for (int64_t column = 0; column < s->N; column++) {
        cplx in = column < half ? 1 : I;
        int64_t at = column % half;
        for (int64_t n = 0; n < half; n++) {
            cplx v = n == at ? (s->a[n] + I * s->a[half + n]) * in : 0;
            for (int64_t r = 0; r < R; r++) {
                const double *q = s->low + (R + r) * s->N, *p = s->low + r * s->N;
                v -= (p[n] + I * p[half + n]) * 2 * creal((q[at] + I * q[half + at]) * in);
            }
            M[n * s->N + column] = creal(v);
            M[(half + n) * s->N + column] = cimag(v);
        }
    }
}

/* log of the spectral radius, by squaring 30 times. */
static double log_radius(double *M, int64_t n) {
    double *S = numbers(n * n), log_size = 0, share = 1;
    for (int i = 0; i < 30; i++) {
        double norm = sqrt(dot(M, M, n * n));
        log_size += share * log(norm);
        for (int64_t k = 0; k < n * n; k++) M[k] /= norm;
        for (int64_t k = 0; k < n * n; k++) {
            S[k] = 0;
            for (int64_t j = 0; j < n; j++) S[k] += M[k / n * n + j] * M[j * n + k % n];
        }
        memcpy(M, S, (size_t)(n * n) * sizeof *M);
        share /= 2;
    }
    free(S);
    return log_size;
}

static void any_parameters_are_stable(void **state) {
    (void)state;
    enum { SMALL = 16 };
    kr_rng rng = kr_rng_make(11, 11);
    double most = -1, M[SMALL * SMALL];
    for (int i = 0; i < 60; i++) {
        dense s;
        make(&s, i % 2 ? KRAIT_HIPPO_LEGT : KRAIT_HIPPO_LEGS, SMALL,
             exp(-5 + 2 * kr_rng_normal(&rng)), NULL, 1);
        for (int k = 0; k < s.m.rank * SMALL / 2; k++)
            for (int part = 0; part < 2; part++)
                s.m.P[k][part] += (1 + i % 5) * kr_rng_normal(&rng);
        s.m.rate = exp(3 * kr_rng_normal(&rng));
        discretise_modes(&s);
        step_matrix(&s, M);
        most = kr_worst(most, log_radius(M, SMALL));
        drop(&s);
    }
    print_message("largest |eigenvalue| of 60 perturbed systems: e^%.1e\n", most);
    assert_true(most < 0);
}

/* ---- initial values ---------------------------------------------------------------------------
 */

static const float *weight(const kr_weights *w, const char *name) {
    char full[96];
    snprintf(full, sizeof full, "backbone.layers.0.mixer.%s", name);
    const kr_tensor *t = kr_weights_find(w, full);
    assert_non_null(t);
    return t->data;
}

static void fresh_models_have_the_published_values(void **state) {
    (void)state;
    static const double frequency[] = {0.556501115, 4.603293007}, B[] = {0.966931170, 2.658015070};
    kr_weights w[2] = {{0}, {0}};
    double least = 1, most = 0, variance = 0, off = 0;
    static const char *const of[] = {"state=4", "state=8 start=fourier copies=2"};
    for (int i = 0; i < 2; i++) {
        kr_config c;
        krait_error e;
        if (kr_config_make(&c, "s4", 256, 1, 16, of[i], &e) < 0) fail_msg("%s", e.message);
        if (kr_lm_init_weights(&c, 11, &w[i], &e) < 0) fail_msg("%s", e.message);
    }
    for (int i = 0; i < 256 * 2; i++) {
        off = kr_worst(off, fabs(exp((double)weight(&w[0], "log_rate")[i]) - 0.5));
        off = kr_worst(off, fabs((double)weight(&w[0], "frequency")[i] - frequency[i % 2]));
        off = kr_worst(off, fabs((double)weight(&w[0], "B")[i / 2 * 4 + i % 2] - B[i % 2]));
        off =
            kr_worst(off, fabs((double)weight(&w[0], "P")[i / 2 * 4 + i % 2] - B[i % 2] / sqrt(2)));
    }
    for (int i = 0; i < 256; i++) {
        least = fmin(least, exp((double)weight(&w[0], "log_dt")[i]));
        most = kr_worst(most, exp((double)weight(&w[0], "log_dt")[i]));
    }
    for (int i = 0; i < 256 * 4; i++) variance += pow((double)weight(&w[0], "C")[i], 2) / 1024;
    for (int i = 0; i < 8; i++) { /* windows of 2, nothing only turns */
        off = kr_worst(off, fabs((double)weight(&w[1], "frequency")[i] / pi - i % 4));
        off = kr_worst(off, 1e3 * fabs(exp((double)weight(&w[1], "log_rate")[i]) - 1e-4));
    }
    print_message("off by %.1e; steps %.4f to %.4f, variance of C %.2f\n", off, least, most,
                  variance);
    assert_true(off < 1e-6 && fabs(variance - 0.5) < 0.1);
    assert_true(least > 0.00099 && least < 0.0015 && most > 0.07 && most < 0.101);
    for (int i = 0; i < 2; i++) kr_weights_free(&w[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(legs_has_its_published_kernel),
        cmocka_unit_test(cauchy_is_the_dense_kernel),
        cmocka_unit_test(truncation_is_what_the_unit_circle_needs),
        cmocka_unit_test(cauchy_dense_and_recurrence_agree),
        cmocka_unit_test(steps_and_halves_are_the_convolution),
        cmocka_unit_test(the_short_step_is_the_dense_step),
        cmocka_unit_test(two_sides_are_the_double_sum),
        cmocka_unit_test(gradients_are_the_differences),
        cmocka_unit_test(any_parameters_are_stable),
        cmocka_unit_test(fresh_models_have_the_published_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
