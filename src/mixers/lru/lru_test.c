/* lru_test.c - the checks of the Linear Recurrent Unit's sheet (Orvieto et al. 2023, "Resurrecting
 * Recurrent Neural Networks for Long Sequences"), each a test: ring initialisation, forms of the
 * scan, the normalisation, the gradients' formulas, parameter groups, and the copy task.
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
#include <krait/train.h>

#include "base/rng.h"
#include "base/test_worst.h"
#include "models/lm.h"
#include "models/model.h"
#include "train/optimiser.h"

typedef double complex cplx;

static void *zeros(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    if (!p) abort();
    return p;
}

/* ---- lru.md, check 1: the ring
 * ------------------------------------------------------------------------------
 */

static const float *weight(const kr_weights *w, const char *name, int64_t *n) {
    char full[96];
    snprintf(full, sizeof full, "backbone.layers.0.mixer.%s", name);
    const kr_tensor *t = kr_weights_find(w, full);
    assert_non_null(t);
    *n = kr_tensor_count(t);
    return t->data;
}

static void fresh(kr_weights *w, int64_t width, const char *settings) {
    kr_config c;
    krait_error e;
    if (kr_config_make(&c, "lru", width, 1, 16, settings, &e) < 0) fail_msg("%s", e.message);
    if (kr_lm_init_weights(&c, 11, w, &e) < 0) fail_msg("%s", e.message);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The largest distance between the numbers' distribution and the uniform one on [low, high]
 * (Kolmogorov), times the root of their number: under 1.63 for 99 of 100 samples. */
static double from_uniform(double *x, int64_t n, double low, double high) {
    double worst = 0;
    qsort(x, (size_t)n, sizeof *x, ascending);
    for (int64_t i = 0; i < n; i++) {
        double share = (x[i] - low) / (high - low);
        worst = kr_worst(worst, fmax(fabs(share - (double)i / (double)n),
                                     fabs(share - (double)(i + 1) / (double)n)));
    }
    return worst * sqrt((double)n);
}

static void check_ring(const char *settings, double r_min, double r_max, double max_phase) {
    kr_weights w = {0};
    int64_t n;
    fresh(&w, 4, settings);
    const float *nu = weight(&w, "nu_log", &n), *theta = weight(&w, "theta_log", &n);
    const float *gamma = weight(&w, "gamma_log", &n);
    double *square = zeros((size_t)n, sizeof *square), *phase = zeros((size_t)n, sizeof *phase);
    double off = 0;
    for (int64_t i = 0; i < n; i++) {
        double size = exp(-exp((double)nu[i]));
        assert_true(size < 1 && isfinite(nu[i]) && isfinite(theta[i]) && isfinite(gamma[i]));
        square[i] = size * size;
        phase[i] = exp((double)theta[i]);
        double normal = -expm1(-2 * exp((double)nu[i])); /* 1 - |lambda|^2 */
        off = kr_worst(off, fabs(exp(2 * (double)gamma[i]) / normal - 1));
    }
    double ring = from_uniform(square, n, r_min * r_min, r_max * r_max);
    double angle = from_uniform(phase, n, 0, max_phase);
    print_message("%s: |lambda|^2 %.2f, phase %.2f from uniform, gamma off by %.1e\n", settings,
                  ring, angle, off);
    assert_true(ring < 1.63 && angle < 1.63 && off < 1e-5);
    free(square);
    free(phase);
    kr_weights_free(&w);
}

static void the_ring_is_uniform(void **state) {
    (void)state;
    check_ring("state=20000 r_min=0 r_max=1", 0, 1, 6.283185307179586);
    check_ring("state=20000 r_min=0.9 r_max=0.999", 0.9, 0.999, 6.283185307179586);
    check_ring("state=20000 r_min=0.999 r_max=0.9999 max_phase=0.3141592653589793", 0.999, 0.9999,
               0.3141592653589793);
}

/* |lambda| stays below 1 for parameters that no training would reach. */
static void any_parameters_are_stable(void **state) {
    (void)state;
    static const float nus[] = {-30, -10, -1, 0, 1, 3, 80};
    enum { N = 7, T = 50 };
    float A[2 * N], x[T * 2 * N] = {0}, y[T * 2 * N];
    krait_scan_desc d = krait_scan_lru(N);
    krait_scan_arrays a = {.rows = T, .x = x, .a = A, .y = y};
    krait_error e;
    double most = 0;
    for (int n = 0; n < N; n++) {
        A[n] = -expf(nus[n]);
        A[N + n] = expf(nus[n] < 8 ? -nus[n] / 5 : 5);
        x[n] = 1;
    }
    assert_int_equal(krait_scan_run(&d, &a, 1, &e), 0);
    for (int t = 1; t < T; t++)
        for (int n = 0; n < N; n++) {
            double now = hypot((double)y[t * 2 * N + n], (double)y[t * 2 * N + N + n]);
            most = kr_worst(most, now);
        }
    print_message("lru.md 1: largest state behind a 1: 1 + %.1e\n", most - 1);
    assert_true(most <= 1 + 1e-5);
}

/* ---- lru.md, checks 2 and 3: forms of the scan
 * ---------------------------------------------------------------
 */

enum { L = 4096, LANES = 3 };

/* (a, b) of the earlier steps, then of the later: what both do to a state. */
typedef struct pair {
    cplx a, b;
} pair;

static pair then(pair early, pair late, bool swapped) {
    if (swapped) return (pair){late.a * early.a, early.a * late.b + early.b};
    return (pair){late.a * early.a, late.a * early.b + late.b};
}

/* Rounds numbers to float where `single` says so. */
static pair rounded(pair p, bool single) {
    if (!single) return p;
    return (pair){(float)creal(p.a) + I * (double)(float)cimag(p.a),
                  (float)creal(p.b) + I * (double)(float)cimag(p.b)};
}

static void kogge_stone(pair *p, int n, bool single, bool swapped) {
    pair *old = zeros((size_t)n, sizeof *old);
    for (int k = 1; k < n; k *= 2) {
        memcpy(old, p, (size_t)n * sizeof *p);
        for (int t = k; t < n; t++) p[t] = rounded(then(old[t - k], old[t], swapped), single);
    }
    free(old);
}

/* Up-sweep, down-sweep: the exclusive prefix; then each element joins. */
static void blelloch(pair *p, int n, bool single, bool swapped) {
    pair *tree = zeros((size_t)n, sizeof *tree);
    memcpy(tree, p, (size_t)n * sizeof *p);
    for (int k = 1; k < n; k *= 2)
        for (int t = 2 * k - 1; t < n; t += 2 * k)
            tree[t] = rounded(then(tree[t - k], tree[t], swapped), single);
    tree[n - 1] = (pair){1, 0};
    for (int k = n / 2; k > 0; k /= 2)
        for (int t = 2 * k - 1; t < n; t += 2 * k) {
            pair left = tree[t - k];
            tree[t - k] = tree[t];
            tree[t] = rounded(then(tree[t], left, swapped), single);
        }
    for (int t = 0; t < n; t++) p[t] = rounded(then(tree[t], p[t], swapped), single);
    free(tree);
}

/* Inputs of a recurrence that remembers: |lambda| up to 0.999. */
typedef struct long_run {
    float A[2 * LANES], x[L * 2 * LANES], y[L * 2 * LANES];
} long_run;

static cplx lambda_of(const long_run *r, int n) {
    return cexp((double)r->A[n] + I * (double)r->A[LANES + n]);
}

static long_run *make_run(void) {
    static const double sizes[LANES] = {0.5, 0.9, 0.999};
    long_run *r = zeros(1, sizeof *r);
    kr_rng rng = kr_rng_make(3, 1);
    for (int n = 0; n < LANES; n++) {
        r->A[n] = (float)log(sizes[n]);
        r->A[LANES + n] = (float)(0.3 + n);
    }
    for (int i = 0; i < L * 2 * LANES; i++) r->x[i] = (float)kr_rng_normal(&rng);
    return r;
}

/* The engine, in pieces of `piece` rows that hand on their state. */
static void engine(long_run *r, int64_t piece) {
    float carry[2 * LANES] = {0};
    krait_scan_desc d = krait_scan_lru(LANES);
    krait_error e;
    for (int64_t t = 0; t < L; t += piece) {
        krait_scan_arrays a = {.rows = t + piece < L ? piece : L - t,
                               .slots = 1,
                               .x = r->x + t * 2 * LANES,
                               .a = r->A,
                               .state = carry,
                               .y = r->y + t * 2 * LANES};
        if (krait_scan_run(&d, &a, 1, &e) < 0) fail_msg("%s", e.message);
    }
}

/* The largest difference of the engine's states to a tree's, relative to the largest state. */
static double against(const long_run *r, void (*tree)(pair *, int, bool, bool), bool single,
                      bool swapped) {
    pair *p = zeros(L, sizeof *p);
    double worst = 0, size = 0;
    for (int n = 0; n < LANES; n++) {
        for (int t = 0; t < L; t++) {
            const float *v = r->x + t * 2 * LANES + n;
            p[t] = rounded((pair){lambda_of(r, n), (double)v[0] + I * (double)v[LANES]}, single);
        }
        tree(p, L, single, swapped);
        for (int t = 0; t < L; t++) {
            const float *h = r->y + t * 2 * LANES + n;
            worst = kr_worst(worst, cabs(p[t].b - (double)h[0] - I * (double)h[LANES]));
            size = fmax(size, cabs(p[t].b));
        }
    }
    free(p);
    return worst / size;
}

static void sequential(pair *p, int n, bool single, bool swapped) {
    for (int t = 1; t < n; t++) p[t] = rounded(then(p[t - 1], p[t], swapped), single);
}

/* The trees among themselves, in double. */
static double in_double(const long_run *r, void (*tree)(pair *, int, bool, bool), bool swapped) {
    double worst = 0, size = 0;
    pair *p = zeros(L, sizeof *p), *q = zeros(L, sizeof *q);
    for (int n = 0; n < LANES; n++) {
        for (int t = 0; t < L; t++) {
            const float *v = r->x + t * 2 * LANES + n;
            p[t] = q[t] = (pair){lambda_of(r, n), (double)v[0] + I * (double)v[LANES]};
        }
        sequential(p, L, false, false);
        tree(q, L, false, swapped);
        for (int t = 0; t < L; t++) {
            worst = kr_worst(worst, cabs(p[t].b - q[t].b));
            size = fmax(size, cabs(p[t].b));
        }
    }
    free(p);
    free(q);
    return worst / size;
}

static void forms_of_the_scan_agree(void **state) {
    (void)state;
    long_run *r = make_run();
    static const int64_t pieces[] = {L, 1, 63, 256};
    for (int i = 0; i < 4; i++) {
        engine(r, pieces[i]);
        double s = against(r, sequential, true, false), k = against(r, kogge_stone, true, false);
        double b = against(r, blelloch, true, false);
        print_message("pieces of %4lld: sequential %.1e, Kogge-Stone %.1e, Blelloch %.1e\n",
                      (long long)pieces[i], s, k, b);
        assert_true(s <= 1e-5 && k <= 1e-5 && b <= 1e-5);
    }
    double k = in_double(r, kogge_stone, false), b = in_double(r, blelloch, false);
    print_message("in double: Kogge-Stone %.1e, Blelloch %.1e\n", k, b);
    assert_true(k <= 1e-12 && b <= 1e-12);
    free(r);
}

static void operands_in_the_other_order_fail(void **state) {
    (void)state;
    long_run *r = make_run();
    engine(r, L);
    double k = against(r, kogge_stone, true, true), b = against(r, blelloch, true, true);
    print_message("lru.md 3: swapped: Kogge-Stone off by %.2g, Blelloch by %.2g\n", k, b);
    assert_true(k > 1e-2 && b > 1e-2 && in_double(r, kogge_stone, true) > 1e-2);
    free(r);
}

/* ---- lru.md, checks 4 and 5: sizes of states
 * -----------------------------------------------------------------
 */

/* E |h_t|^2 of each lane under white input of unit variance (half in each part), behind T rows. */
static void state_sizes(const double *size, const double *phase, int64_t N, int64_t T, int64_t S,
                        double *mean) {
    float *A = zeros((size_t)(2 * N), sizeof *A), *x = zeros((size_t)(T * 2 * N), sizeof *x);
    float *y = zeros((size_t)(T * 2 * N), sizeof *y);
    krait_scan_desc d = krait_scan_lru(N);
    krait_error e;
    kr_rng rng = kr_rng_make(5, 9);
    for (int64_t n = 0; n < N; n++) {
        A[n] = (float)log(size[n]);
        A[N + n] = (float)phase[n];
        mean[n] = 0;
    }
    for (int64_t s = 0; s < S; s++) {
        for (int64_t i = 0; i < T * 2 * N; i++) x[i] = (float)(sqrt(0.5) * kr_rng_normal(&rng));
        krait_scan_arrays a = {.rows = T, .x = x, .a = A, .y = y};
        assert_int_equal(krait_scan_run(&d, &a, 2, &e), 0);
        for (int64_t n = 0; n < N; n++)
            for (int64_t t = T / 2; t < T; t++) {
                double re = (double)y[t * 2 * N + n], im = (double)y[t * 2 * N + N + n];
                mean[n] += (re * re + im * im) / (double)(S * (T - T / 2));
            }
    }
    free(A);
    free(x);
    free(y);
}

/* Draws lanes of a ring as the sheet says, without the mixer's code. */
static void draw_ring(double *size, double *phase, int64_t N, double r_min, double r_max) {
    kr_rng rng = kr_rng_make(1, 2);
    for (int64_t n = 0; n < N; n++) {
        double u = ((double)n + kr_rng_uniform(&rng)) / (double)N;
        size[n] = sqrt(u * (r_max * r_max - r_min * r_min) + r_min * r_min);
        phase[n] = 6.28 * kr_rng_uniform(&rng);
    }
}

static void the_state_s_norm_is_the_formula_s(void **state) {
    (void)state;
    enum { N = 512 };
    static const double rings[][2] = {{0, 0.9}, {0, 0.99}, {0.9, 0.99}};
    for (int i = 0; i < 3; i++) {
        double size[N], phase[N], mean[N], sum = 0, low = rings[i][0], high = rings[i][1];
        draw_ring(size, phase, N, low, high);
        state_sizes(size, phase, N, 1024, 2, mean);
        for (int n = 0; n < N; n++) sum += mean[n] / N;
        double formula = log((1 - low * low) / (1 - high * high)) / (high * high - low * low);
        print_message("ring %.2f to %.2f: E|h|^2 / E|Bu|^2 %.3f, by the formula %.3f\n", low, high,
                      sum, formula);
        assert_true(fabs(sum / formula - 1) < 0.05);
    }
}

/* |gamma|^2 E|h|^2 of each lane, of a fresh model's parameters. */
static void gamma_makes_unit_variance(void **state) {
    (void)state;
    kr_weights w = {0};
    int64_t N;
    fresh(&w, 4, "state=200 r_min=0.5 r_max=0.99");
    const float *nu = weight(&w, "nu_log", &N), *theta = weight(&w, "theta_log", &N);
    const float *gamma = weight(&w, "gamma_log", &N);
    double size[200], phase[200], mean[200], worst = 0, sum = 0;
    assert_int_equal(N, 200);
    for (int n = 0; n < 200; n++) {
        size[n] = exp(-exp((double)nu[n]));
        phase[n] = exp((double)theta[n]);
    }
    state_sizes(size, phase, N, 2048, 100, mean);
    for (int n = 0; n < 200; n++) {
        double variance = exp(2 * (double)gamma[n]) * mean[n];
        worst = kr_worst(worst, fabs(variance - 1));
        sum += variance / 200;
    }
    print_message("variance of a lane: %.4f on average, at most %.1f %% off\n", sum, 100 * worst);
    assert_true(worst < 0.05 && fabs(sum - 1) < 0.01);
    kr_weights_free(&w);
}

/* ---- lru.md, checks 6 and 7: the gradients' formulas
 * ---------------------------------------------------------
 */

enum { H = 3, N = 4, T = 7 };

typedef struct layer {
    double nu[N], theta[N], gamma[N], b_re[N][H], b_im[N][H], c_re[H][N], c_im[H][N], d[H];
    double u[T][H], g[T][H]; /* g: dL/dy */
} layer;

enum { NUMBERS = sizeof(layer) / sizeof(double) - T * H }; /* those that L depends on */

static void lanes_of(const layer *l, cplx lambda[N], cplx h[T + 1][N], cplx v[T][N]) {
    for (int n = 0; n < N; n++) {
        lambda[n] = cexp(-exp(l->nu[n]) + I * exp(l->theta[n]));
        h[0][n] = 0;
        for (int t = 0; t < T; t++) {
            v[t][n] = 0;
            for (int i = 0; i < H; i++) v[t][n] += (l->b_re[n][i] + I * l->b_im[n][i]) * l->u[t][i];
            h[t + 1][n] = lambda[n] * h[t][n] + exp(l->gamma[n]) * v[t][n];
        }
    }
}

/* sum of g . y, y = Re(C h) + D u */
static double loss_of(const layer *l) {
    cplx lambda[N], h[T + 1][N], v[T][N];
    double sum = 0;
    lanes_of(l, lambda, h, v);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < H; i++) {
            double y = l->d[i] * l->u[t][i];
            for (int n = 0; n < N; n++)
                y += creal((l->c_re[i][n] + I * l->c_im[i][n]) * h[t + 1][n]);
            sum += l->g[t][i] * y;
        }
    return sum;
}

/* Section 3 of the sheet; wrong: the reversed scan multiplies by lambda, not its conjugate. */
static void formulas(const layer *l, layer *d, bool wrong) {
    cplx lambda[N], h[T + 1][N], v[T][N];
    lanes_of(l, lambda, h, v);
    memset(d, 0, sizeof *d);
    for (int n = 0; n < N; n++) {
        cplx S = 0, G = 0;
        double e = exp(l->gamma[n]);
        for (int t = T - 1; t >= 0; t--) {
            S *= wrong ? lambda[n] : conj(lambda[n]);
            for (int i = 0; i < H; i++) {
                S += conj(l->c_re[i][n] + I * l->c_im[i][n]) * l->g[t][i];
                d->c_re[i][n] += l->g[t][i] * creal(h[t + 1][n]);
                d->c_im[i][n] -= l->g[t][i] * cimag(h[t + 1][n]);
            }
            G += S * conj(h[t][n]);
            d->gamma[n] += creal(conj(S) * e * v[t][n]);
            for (int i = 0; i < H; i++) {
                d->b_re[n][i] += e * creal(S) * l->u[t][i];
                d->b_im[n][i] += e * cimag(S) * l->u[t][i];
                d->u[t][i] += e * (l->b_re[n][i] * creal(S) + l->b_im[n][i] * cimag(S));
            }
        }
        d->nu[n] = -exp(l->nu[n]) * creal(conj(G) * lambda[n]);
        d->theta[n] = -exp(l->theta[n]) * cimag(conj(G) * lambda[n]);
    }
    for (int t = 0; t < T; t++)
        for (int i = 0; i < H; i++) {
            d->d[i] += l->g[t][i] * l->u[t][i];
            d->u[t][i] += l->d[i] * l->g[t][i];
        }
}

/* The largest difference between numbers [from, from + n) of the formulas and central differences,
 * relative to the largest of them. */
static double difference(layer *l, const layer *d, size_t from, size_t n) {
    double worst = 0, scale = 0, *x = (double *)(void *)l;
    for (size_t i = from; i < from + n; i++) {
        double old = x[i], step = 1e-5;
        x[i] = old + step;
        double up = loss_of(l);
        x[i] = old - step;
        double numeric = (up - loss_of(l)) / (2 * step);
        x[i] = old;
        worst = kr_worst(worst, fabs(numeric - ((const double *)(const void *)d)[i]));
        scale = fmax(scale, fabs(numeric));
    }
    return worst / scale;
}

static void draw_layer(layer *l) {
    kr_rng rng = kr_rng_make(8, 8);
    for (size_t i = 0; i < sizeof *l / sizeof(double); i++)
        ((double *)(void *)l)[i] = 0.7 * kr_rng_normal(&rng);
}

static void gradients_are_the_formulas(void **state) {
    (void)state;
    layer l, d;
    draw_layer(&l);
    formulas(&l, &d, false);
    double off = difference(&l, &d, 0, NUMBERS);
    print_message("formulas against central differences: %.1e\n", off);
    assert_true(off < 1e-6);
    formulas(&l, &d, true);
    double wrong = difference(&l, &d, offsetof(layer, theta) / sizeof(double), N);
    print_message("with lambda in place of its conjugate: theta_log off by %.1e\n", wrong);
    assert_true(wrong > 1e-2);
}

/* The engine's gradients of the lanes, brought on to nu_log and theta_log, are the formulas'. */
static void the_engine_s_gradients_are_the_formulas(void **state) {
    (void)state;
    layer l, d;
    cplx lambda[N], h[T + 1][N], v[T][N];
    float A[2 * N], x[T * 2 * N], dy[T * 2 * N], dx[T * 2 * N], dA[2 * N];
    krait_scan_desc scan = krait_scan_lru(N);
    krait_error e;
    draw_layer(&l);
    formulas(&l, &d, false);
    lanes_of(&l, lambda, h, v);
    for (int n = 0; n < N; n++) {
        A[n] = (float)-exp(l.nu[n]);
        A[N + n] = (float)exp(l.theta[n]);
        for (int t = 0; t < T; t++) {
            cplx in = exp(l.gamma[n]) * v[t][n], S = 0;
            for (int i = 0; i < H; i++) S += conj(l.c_re[i][n] + I * l.c_im[i][n]) * l.g[t][i];
            x[t * 2 * N + n] = (float)creal(in), x[t * 2 * N + N + n] = (float)cimag(in);
            dy[t * 2 * N + n] = (float)creal(S), dy[t * 2 * N + N + n] = (float)cimag(S);
        }
    }
    krait_scan_arrays a = {.rows = T, .x = x, .a = A};
    krait_scan_gradients g = {.dy = dy, .dx = dx, .da = dA};
    assert_int_equal(krait_scan_gradient(&scan, &a, &g, 1, &e), 0);
    double worst = 0;
    for (int n = 0; n < N; n++) { /* A = -exp(nu_log), exp(theta_log) */
        double nu = (double)dA[n] * -exp(l.nu[n]), theta = (double)dA[N + n] * exp(l.theta[n]);
        double gamma = 0;
        for (int t = 0; t < T; t++)
            gamma += creal(conj((double)dx[t * 2 * N + n] + I * (double)dx[t * 2 * N + N + n]) *
                           exp(l.gamma[n]) * v[t][n]);
        worst = kr_worst(worst, fabs(nu - d.nu[n]) / (1 + fabs(d.nu[n])));
        worst = kr_worst(worst, fabs(theta - d.theta[n]) / (1 + fabs(d.theta[n])));
        worst = kr_worst(worst, fabs(gamma - d.gamma[n]) / (1 + fabs(d.gamma[n])));
    }
    print_message("engine (f32) against the formulas: %.1e\n", worst);
    assert_true(worst < 1e-5);
}

/* ---- lru.md, check 8: parameter groups
 * ----------------------------------------------------------------------
 */

/* One step with no gradient but weight decay; then what is recurrent has not moved. */
static void decay_spares_the_recurrence(void **state) {
    (void)state;
    kr_config c;
    kr_weights w = {0}, before = {0};
    kr_lm lm;
    kr_optimiser o;
    kr_recipe r;
    krait_error e;
    kr_lm_options options = {.graph = {.training = true},
                             .tokens = 8,
                             .sequences = 1,
                             .loss = true};
    assert_int_equal(kr_device_level(&options.graph.level, &e), 0);
    assert_int_equal(kr_config_make(&c, "lru", 6, 1, 11, "state=5", &e), 0);
    assert_int_equal(kr_lm_init_weights(&c, 3, &w, &e), 0);
    assert_int_equal(kr_lm_init_weights(&c, 3, &before, &e), 0);
    assert_int_equal(kr_lm_build(&lm, &c, &options, &e), 0);
    assert_int_equal(kr_lm_bind_weights(&lm, &w, &e), 0);
    assert_int_equal(kr_graph_plan(lm.g, &e), 0);
    assert_int_equal(kr_graph_allocate(lm.g, &e), 0);
    kr_graph_zero_gradients(lm.g);
    assert_int_equal(kr_optimiser_create(&o, lm.g, &w, 1, &e), 0);
    kr_recipe_default(&r);
    r.weight_decay = 0.5;
    assert_int_equal(kr_optimiser_step(&o, &r, 0.1, 1, &e), 0);
    int recurrent = 0, decayed = 0;
    for (int i = 0; i < kr_graph_param_count(lm.g); i++) {
        const kr_param_decl *d;
        const kr_tensor *t = kr_value_tensor(kr_graph_param_at(lm.g, i, &d));
        const float *was = kr_weights_find(&before, d->name)->data, *is = t->data;
        bool spared = d->recurrent || d->no_decay;
        for (int64_t k = 0; k < kr_tensor_count(t); k++)
            assert_true(fabsf(is[k] - (spared ? 1.0F : 0.95F) * was[k]) <= 1e-6F * fabsf(was[k]));
        const char *name = strrchr(d->name, '.') + 1;
        bool of_group = strcmp(name, "nu_log") == 0 || strcmp(name, "theta_log") == 0 ||
                        strcmp(name, "gamma_log") == 0 || strcmp(name, "B") == 0;
        assert_int_equal(d->recurrent, of_group);
        recurrent += d->recurrent;
        decayed += !spared;
    }
    print_message("%d recurrent parameters stayed, %d decayed\n", recurrent, decayed);
    assert_true(recurrent == 4 && decayed == 3); /* C, D, glu.weight */
    kr_optimiser_free(&o);
    kr_lm_free(&lm);
    kr_weights_free(&w);
    kr_weights_free(&before);
}

/* ---- lru.md, check 9: the copy task
 * -------------------------------------------------------------------------
 */

/* 10 patterns of 7 bits, 7 pads, a stop, then the patterns again: 28 steps, a pattern an id. */
enum {
    PATTERNS = 10,
    PADS = 7,
    PAD = 128,
    STOP = 129,
    STEPS = 2 * PATTERNS + PADS + 1,
    BATCH = 64
};

static void draw_copy(int32_t *ids, kr_rng *rng) {
    for (int i = 0; i < PATTERNS; i++)
        ids[i] = ids[PATTERNS + PADS + 1 + i] = (int32_t)kr_rng_below(rng, 128);
    for (int i = 0; i < PADS; i++) ids[PATTERNS + i] = PAD;
    ids[PATTERNS + PADS] = STOP;
}

static int bits_that_agree(const float *logits, int32_t id) {
    int best = 0, same = 0;
    for (int i = 1; i < 128; i++)
        if (logits[i] > logits[best]) best = i;
    for (int bit = 0; bit < 7; bit++) same += (best >> bit & 1) == (id >> bit & 1);
    return same;
}

/* The share of bits right in the answers of new examples. */
static double bit_accuracy(const krait_model *m, kr_rng *rng) {
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    krait_session *s;
    krait_error e;
    static float logits[STEPS * 136];
    int right = 0;
    o.max_tokens = STEPS;
    if (krait_session_create(&s, m, &o, &e) < 0) fail_msg("%s", e.message);
    for (int k = 0; k < 50; k++) {
        int32_t ids[STEPS];
        draw_copy(ids, rng);
        krait_span span = {0, ids, STEPS, KRAIT_WANT_ALL};
        assert_int_equal(krait_session_reset(s, 0, &e), 0);
        assert_int_equal(krait_session_forward(s, &span, 1, logits, &e), 0);
        for (int i = PATTERNS + PADS; i + 1 < STEPS; i++)
            right += bits_that_agree(logits + i * 136, ids[i + 1]);
    }
    krait_session_close(&s);
    return right / (50.0 * PATTERNS * 7);
}

static krait_trainer *copy_trainer(void) {
    kr_config c;
    kr_weights w = {0};
    krait_model *m;
    krait_trainer *t;
    krait_error e;
    krait_trainer_options o = KRAIT_TRAINER_OPTIONS_INIT;
    if (kr_config_make(&c, "lru", 64, 2, 136, "state=64 r_min=0.9 r_max=0.999", &e) < 0)
        fail_msg("%s", e.message);
    assert_int_equal(kr_lm_init_weights(&c, 5, &w, &e), 0);
    assert_int_equal(kr_model_from_weights(&m, &c, &w, NULL, &e), 0);
    o.tokens = BATCH * STEPS;
    o.documents = BATCH;
    o.weight_decay = 0.05;
    if (krait_trainer_create(&t, m, &o, &e) < 0) fail_msg("%s", e.message);
    krait_model_close(&m);
    return t;
}

static void copies(void **state) {
    (void)state;
    enum { UPDATES = 1500 };
    static int32_t text[BATCH][STEPS];
    const int32_t *ids[BATCH];
    int64_t counts[BATCH];
    kr_rng rng = kr_rng_make(4, 4);
    krait_trainer *t = copy_trainer();
    krait_error e;
    double accuracy = 0, loss = 0;
    int step = 0;
    while (step < UPDATES && accuracy <= 0.99) {
        for (int b = 0; b < BATCH; b++) {
            draw_copy(text[b], &rng);
            ids[b] = text[b];
            counts[b] = STEPS;
        }
        double rate = step < 50 ? 0.004 * (step + 1) / 50 : 0.004;
        if (krait_trainer_backward(t, ids, counts, BATCH, &loss, &e) < 0) fail_msg("%s", e.message);
        if (krait_trainer_update(t, rate, NULL, &e) < 0) fail_msg("%s", e.message);
        if (++step % 25 == 0) accuracy = bit_accuracy(krait_trainer_model(t), &rng);
    }
    print_message("copy task: %.2f %% of the bits right after %d updates, loss %.3f\n",
                  100 * accuracy, step, loss);
    assert_true(accuracy > 0.99);
    krait_trainer_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_ring_is_uniform),
        cmocka_unit_test(any_parameters_are_stable),
        cmocka_unit_test(forms_of_the_scan_agree),
        cmocka_unit_test(operands_in_the_other_order_fail),
        cmocka_unit_test(the_state_s_norm_is_the_formula_s),
        cmocka_unit_test(gamma_makes_unit_variance),
        cmocka_unit_test(gradients_are_the_formulas),
        cmocka_unit_test(the_engine_s_gradients_are_the_formulas),
        cmocka_unit_test(decay_spares_the_recurrence),
        cmocka_unit_test(copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
