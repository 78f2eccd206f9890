/* scan_forms_test.c - linear_recurrence.md section 6, checks 1, 2, 6, 7 and 9: every way to compute
 * the recurrence that its section 3 lists, written out here in double, against the engine, for each
 * class of decay:
 *
 *   D0 none   D1 one number   D2 a complex number a mode, all constant in time
 *   D3 a number a row   D4 a number a row and mode   D5 and channel
 *
 * The engine's reference in double must agree to 1e-12, its kernels of every level of this machine
 * to 1e-4 of the largest output. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/test_worst.h"
#include <complex.h>

#include "scan/scan_plan.h"
#include "scan/scan_problem.h"

typedef double complex cplx;

enum { T = 100, PADDED = 128, P = 8, N = 4, LANES = P * N };

/* What rows do to a state: h -> a h + b. */
typedef struct pair {
    cplx a, b;
} pair;

/* One head, taken apart: the pair of each row and lane (p,n), c of each row, what is read. */
typedef struct rows {
    int64_t P, lanes;
    bool constant, by_channel; /* a, b, c in time; a differs by channel */
    pair at[T][LANES];
    cplx h0[LANES], h[LANES], c[T][N], k[T][N], decay[T][N];
    double x[T][P], y[T][P], kappa;
} rows;

static const char *const classes[] = {"D0", "D1", "D2", "D3", "D4", "D5"};

static krait_scan_desc describe(int of) {
    krait_scan_desc d = of == 0   ? krait_scan_linear_attention(1, P, N)
                        : of == 1 ? krait_scan_retnet(1, P, N)
                        : of == 2 ? krait_scan_s4d(1, N)
                                  : krait_scan_gla(1, P, N);
    if (of == 2) d.form = KRAIT_FORM_GIVEN;
    if (of == 3) d.decay = KRAIT_DECAY_SCALAR;
    if (of == 5) d.decay = KRAIT_DECAY_MATRIX;
    return d;
}

static void draw(problem *p, int of, kr_dtype type) {
    problem_make(p, describe(of), type, T, 1, NULL);
    problem_drop(p, KR_SCAN_RESET);
    problem_drop(p, KR_SCAN_Z);
    problem_drop(p, KR_SCAN_D);
}

/* Number i of an array whose vectors of N may be complex. */
static cplx number(const problem *p, const kr_tensor *t, int64_t row, int64_t n) {
    bool twice = p->d.complex_state;
    int64_t width = t->shape[t->rank - 1], at = (t->shape[0] > 1 ? row : 0) * width;
    return get(t, at + n) + (twice ? I * get(t, at + N + n) : 0);
}

static cplx decay_of(const problem *p, int64_t t, int64_t channel, int64_t n) {
    const kr_tensor *A = &p->forward.in[KR_SCAN_A];
    int64_t at = p->d.decay == KRAIT_DECAY_SCALAR   ? 0
                 : p->d.decay == KRAIT_DECAY_MATRIX ? channel * N + n
                                                    : n;
    if (p->d.decay == KRAIT_DECAY_NONE) return 1;
    cplx a = number(p, A, t, at);
    return p->d.form == KRAIT_FORM_LOG ? cexp(a) : a;
}

static void take_apart(const problem *p, rows *r) {
    const kr_tensor *in = p->forward.in;
    *r = (rows){.P = p->d.width, .kappa = p->d.kappa, .constant = p->d.b_constant};
    r->by_channel = p->d.decay == KRAIT_DECAY_MATRIX;
    r->lanes = r->P * N;
    int64_t twice = p->d.complex_state ? 2 : 1;
    for (int64_t i = 0; i < r->lanes; i++) { /* of slot 1 */
        int64_t at = (r->P + i / N) * N * twice + i % N;
        r->h0[i] = get(&in[KR_SCAN_STATE], at);
        if (twice == 2) r->h0[i] += I * get(&in[KR_SCAN_STATE], at + N);
    }
    for (int64_t t = 0; t < T; t++) {
        for (int64_t c = 0; c < r->P; c++) r->x[t][c] = get(&in[KR_SCAN_X], t * r->P + c);
        for (int64_t n = 0; n < N; n++) {
            r->k[t][n] = number(p, &in[KR_SCAN_B], t, n);
            r->c[t][n] = number(p, &in[KR_SCAN_C], t, n);
            r->decay[t][n] = decay_of(p, t, 0, n);
        }
        for (int64_t i = 0; i < r->lanes; i++)
            r->at[t][i] = (pair){decay_of(p, t, i / N, i % N), r->k[t][i % N] * r->x[t][i / N]};
    }
}

/* ---- section 3: the ways ---- */

static pair then(pair early, pair late) {
    return (pair){late.a * early.a, late.a * early.b + late.b};
}
static pair swapped(pair early, pair late) {
    return (pair){late.a * early.a, early.a * late.b + early.b};
}

typedef pair join(pair early, pair late);

/* 3.2: in place, inclusive. */
static void kogge_stone(pair *p, join *j) {
    static pair old[PADDED];
    for (int d = 1; d < PADDED; d *= 2) {
        memcpy(old, p, sizeof old);
        for (int t = d; t < PADDED; t++) p[t] = j(old[t - d], old[t]);
    }
}

/* 3.3: up, down, and each element joins its exclusive prefix. */
static void blelloch(pair *p, join *j) {
    static pair tree[PADDED];
    memcpy(tree, p, sizeof tree);
    for (int d = 1; d < PADDED; d *= 2)
        for (int t = 2 * d - 1; t < PADDED; t += 2 * d) tree[t] = j(tree[t - d], tree[t]);
    tree[PADDED - 1] = (pair){1, 0};
    for (int d = PADDED / 2; d > 0; d /= 2)
        for (int t = 2 * d - 1; t < PADDED; t += 2 * d) {
            pair left = tree[t - d];
            tree[t - d] = tree[t];
            tree[t] = j(tree[t], left);
        }
    for (int t = 0; t < PADDED; t++) p[t] = j(tree[t], p[t]);
}

/* Chunks of C rows by themselves; the carry goes through their ends. */
static void two_level(pair *p, int C) {
    pair carry = {1, 0};
    for (int first = 0; first < PADDED; first += C) {
        int end = first + C < PADDED ? first + C : PADDED;
        for (int t = first + 1; t < end; t++) p[t] = then(p[t - 1], p[t]);
        for (int t = first; t < end; t++) p[t] = then(carry, p[t]);
        carry = p[end - 1];
    }
}

/* 3.5: tiles end in any order; each walks back over what those before it have published. */
static void look_back(pair *p, int C, kr_rng *rng) {
    static pair aggregate[PADDED], prefix[PADDED];
    static int done[PADDED], order[PADDED];
    int tiles = (PADDED + C - 1) / C;
    for (int i = 0; i < tiles; i++) {
        order[i] = i;
        done[i] = 0;
        int end = (i + 1) * C < PADDED ? (i + 1) * C : PADDED;
        for (int t = i * C + 1; t < end; t++) p[t] = then(p[t - 1], p[t]);
        aggregate[i] = p[end - 1];
    }
    for (int i = tiles - 1; i > 0; i--) {
        int k = (int)kr_rng_below(rng, (uint64_t)i + 1), old = order[i];
        order[i] = order[k];
        order[k] = old;
    }
    for (int i = 0; i < tiles; i++) {
        int own = order[i];
        pair before = {1, 0};
        int back = own - 1;
        for (; back >= 0 && !done[back]; back--) before = then(aggregate[back], before);
        if (back >= 0) before = then(prefix[back], before);
        prefix[own] = then(before, aggregate[own]);
        done[own] = 1;
        for (int t = own * C; t < (own + 1) * C && t < PADDED; t++) p[t] = then(before, p[t]);
    }
}

typedef enum form { SEQUENTIAL, KOGGE, TREE, TWO_LEVEL, LOOK_BACK } form;

/* The states of every lane by a scan over pairs; y and the last state from them. */
static void by_scan(rows *r, form f, join *j, int C) {
    static pair p[PADDED];
    kr_rng rng = kr_rng_make(9, (uint64_t)C);
    memset(r->y, 0, sizeof r->y);
    for (int64_t i = 0; i < r->lanes; i++) {
        for (int t = 0; t < PADDED; t++) p[t] = t < T ? r->at[t][i] : (pair){1, 0};
        if (f == SEQUENTIAL)
            for (int t = 1; t < PADDED; t++) p[t] = then(p[t - 1], p[t]);
        if (f == KOGGE) kogge_stone(p, j);
        if (f == TREE) blelloch(p, j);
        if (f == TWO_LEVEL) two_level(p, C);
        if (f == LOOK_BACK) look_back(p, C, &rng);
        for (int t = 0; t < T; t++)
            r->y[t][i / N] += r->kappa * creal((p[t].a * r->h0[i] + p[t].b) * r->c[t][i % N]);
        r->h[i] = p[PADDED - 1].a * r->h0[i] + p[PADDED - 1].b; /* padding passes it on */
    }
}

/* The product of the decays of rows (s, t] of mode n. */
static cplx way(const rows *r, int64_t s, int64_t t, int64_t n) {
    cplx a = 1;
    for (int64_t i = s + 1; i <= t; i++) a *= r->decay[i][n];
    return a;
}

/* 3.6: rows of a chunk meet as scores; the state in front of it is read and handed on. One chunk of
 * T rows: the quadratic form. */
static void by_products(rows *r, int C) {
    memcpy(r->h, r->h0, sizeof r->h);
    memset(r->y, 0, sizeof r->y);
    for (int64_t first = 0; first < T; first += C) {
        int64_t end = first + C < T ? first + C : T;
        for (int64_t t = first; t < end; t++)
            for (int64_t n = 0; n < N; n++) {
                for (int64_t s = first; s <= t; s++) {
                    cplx score = r->c[t][n] * r->k[s][n] * way(r, s, t, n);
                    for (int64_t c = 0; c < r->P; c++)
                        r->y[t][c] += r->kappa * creal(score * r->x[s][c]);
                }
                for (int64_t c = 0; c < r->P; c++)
                    r->y[t][c] +=
                        r->kappa * creal(r->c[t][n] * way(r, first - 1, t, n) * r->h[c * N + n]);
            }
        for (int64_t i = 0; i < r->lanes; i++) {
            r->h[i] *= way(r, first - 1, end - 1, i % N);
            for (int64_t s = first; s < end; s++)
                r->h[i] += way(r, s, end - 1, i % N) * r->at[s][i].b;
        }
    }
}

static void transform(cplx *x, int n, double sign) {
    if (n == 1) return;
    cplx even[PADDED], odd[PADDED];
    for (int i = 0; i < n / 2; i++) even[i] = x[2 * i], odd[i] = x[2 * i + 1];
    transform(even, n / 2, sign);
    transform(odd, n / 2, sign);
    for (int i = 0; i < n / 2; i++) {
        cplx turned = cexp(I * (sign * 2 * acos(-1) * i / n)) * odd[i];
        x[i] = even[i] + turned;
        x[i + n / 2] = even[i] - turned;
    }
}

/* 3.7: y = K * x by Fourier transforms, zeros behind both. */
static void by_transform(rows *r) {
    static cplx K[2 * PADDED], x[2 * PADDED];
    memset(K, 0, sizeof K);
    memset(x, 0, sizeof x);
    cplx power[N], last[N];
    for (int n = 0; n < N; n++) power[n] = last[n] = 1;
    memcpy(r->h, r->h0, sizeof r->h);
    for (int t = 0; t < T; t++) {
        x[t] = r->x[t][0];
        for (int n = 0; n < N; n++) {
            K[t] += r->kappa * creal(r->c[0][n] * power[n] * r->k[0][n]);
            power[n] *= r->decay[0][n];
        }
    }
    transform(K, 2 * PADDED, -1);
    transform(x, 2 * PADDED, -1);
    for (int i = 0; i < 2 * PADDED; i++) x[i] *= K[i] / (2 * PADDED);
    transform(x, 2 * PADDED, 1);
    for (int t = 0; t < T; t++) {
        r->y[t][0] = creal(x[t]);
        for (int n = 0; n < N; n++) {
            last[n] *= r->decay[0][n];
            r->y[t][0] += r->kappa * creal(r->c[0][n] * last[n] * r->h0[n]);
            r->h[n] = r->decay[0][n] * r->h[n] + r->at[t][n].b;
        }
    }
}

/* ---- the comparison ---- */

/* The engine's y and last state against a form's, of the largest. */
static double apart(const problem *p, const rows *r) {
    double worst = 0, size = 0;
    int64_t twice = p->d.complex_state ? 2 : 1;
    for (int64_t i = 0; i < T * r->P; i++) {
        double is = get(&p->forward.out[KR_SCAN_OUT_Y], i), want = r->y[i / r->P][i % r->P];
        worst = isnan(is) ? INFINITY : fmax(worst, fabs(is - want));
        size = fmax(size, fabs(want));
    }
    worst /= size;
    for (int64_t i = 0; i < r->lanes; i++) {
        int64_t at = (r->P + i / N) * N * twice + i % N;
        cplx is = get(&p->forward.out[KR_SCAN_OUT_STATE], at);
        if (twice == 2) is += I * get(&p->forward.out[KR_SCAN_OUT_STATE], at + N);
        worst = kr_worst(worst, cabs(is - r->h[i]) / (1 + cabs(r->h[i])));
    }
    return worst;
}

static const int chunks[] = {1, 2, 7, 16, 64, T};

/* The worst of all forms that the class allows. */
static double all_forms(const problem *p, rows *r, int of) {
    double worst = 0;
    for (form f = SEQUENTIAL; f <= TREE; f++) {
        by_scan(r, f, then, 1);
        worst = kr_worst(worst, apart(p, r));
    }
    for (int i = 0; i < 6; i++) {
        for (form f = TWO_LEVEL; f <= LOOK_BACK; f++) {
            by_scan(r, f, then, chunks[i]);
            worst = kr_worst(worst, apart(p, r));
        }
        if (of == 5) continue; /* scores would differ by channel */
        by_products(r, chunks[i]);
        worst = kr_worst(worst, apart(p, r));
    }
    if (of == 2) {
        by_transform(r);
        worst = kr_worst(worst, apart(p, r));
    }
    return worst;
}

/* linear_recurrence.md checks 1 and 2. */
static void every_form_is_the_engine_s(void **state) {
    (void)state;
    static rows r;
    for (int of = 0; of < 6; of++) {
        problem p;
        draw(&p, of, KR_F64);
        take_apart(&p, &r);
        problem_forward(&p, KR_LEVEL_REF64);
        double exact = all_forms(&p, &r, of), single = 0;
        problem_free(&p);
        draw(&p, of, KR_F32);
        take_apart(&p, &r);
        for (kr_level level = KR_LEVEL_REF; level < KR_LEVEL_COUNT; level++) {
            if (!kr_level_supported(level)) continue;
            problem_forward(&p, level);
            single = fmax(single, all_forms(&p, &r, of));
        }
        print_message("linear_recurrence.md 6.1, 6.2: %s, chunks of 1 to %d: double %.1e, kernels "
                      "%.1e (%s)\n",
                      classes[of], T, exact, single,
                      kr_scan_plan_name(kr_scan_pick((p.forward.attr = &p.d, &p.forward), false)));
        assert_true(exact < 1e-12 && single < 1e-4);
        problem_free(&p);
    }
}

/* linear_recurrence.md check 7: with its operands the other way round the operator is another. */
static void the_order_of_operands_matters(void **state) {
    (void)state;
    static rows r;
    for (int of = 1; of < 6; of++) {
        problem p;
        draw(&p, of, KR_F64);
        take_apart(&p, &r);
        problem_forward(&p, KR_LEVEL_REF64);
        by_scan(&r, KOGGE, swapped, 1);
        double kogge = apart(&p, &r);
        by_scan(&r, TREE, swapped, 1);
        double tree = apart(&p, &r);
        print_message("linear_recurrence.md 6.7: %s with swapped operands: off by %.2g and %.2g\n",
                      classes[of], kogge, tree);
        assert_true(kogge > 1e-3 && tree > 1e-3);
        problem_free(&p);
    }
}

/* linear_recurrence.md check 6 for D4: logarithms that add up to far below what e^-s could hold,
 * alternating with none; no NaN, and the forms' values. */
static void vector_decays_at_their_edges(void **state) {
    (void)state;
    static const double logs[][2] = {{-80, 0}, {-20, -20}, {0, 0}, {-1e4, -1e-3}};
    static rows r;
    for (int k = 0; k < 4; k++) {
        problem p;
        draw(&p, 4, KR_F32);
        for (int64_t i = 0; i < T * N; i++)
            set(&p.forward.in[KR_SCAN_A], i, logs[k][(i / N + i) % 2]);
        take_apart(&p, &r);
        by_products(&r, 64);
        double worst = 0;
        for (kr_level level = KR_LEVEL_REF; level < KR_LEVEL_COUNT; level++) {
            if (!kr_level_supported(level)) continue;
            problem_forward(&p, level);
            worst = kr_worst(worst, apart(&p, &r));
            problem_backward(&p, level);
            for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++)
                for (int64_t m = 0; m < problem_count(&p.backward.out[i]); m++)
                    assert_true(isfinite(get(&p.backward.out[i], m)));
        }
        print_message("linear_recurrence.md 6.6: D4, logarithms %g and %g, sum over 64 rows %g: "
                      "%.1e\n",
                      logs[k][0], logs[k][1], 32 * (logs[k][0] + logs[k][1]), worst);
        assert_true(worst < 1e-5);
        problem_free(&p);
    }
}

/* linear_recurrence.md check 9: nothing moves in front of a row that changes; where a convolution
 * is made of transforms, by less than 1e-6. */
static void later_rows_change_nothing(void **state) {
    (void)state;
    enum { ROW = 61 };
    for (int of = 0; of < 6; of++)
        for (kr_level level = KR_LEVEL_REF; level < KR_LEVEL_COUNT; level++) {
            problem p;
            double before[ROW * P], moved = 0, size = 0, after = 0;
            if (!kr_level_supported(level)) continue;
            draw(&p, of, KR_F32);
            p.forward.attr = &p.d;
            bool convolved = kr_scan_pick(&p.forward, false) == KR_SCAN_CONV;
            const kr_tensor *y = &p.forward.out[KR_SCAN_OUT_Y];
            problem_forward(&p, level);
            for (int64_t i = 0; i < ROW * p.d.width; i++) before[i] = get(y, i);
            double at = get(y, ROW * p.d.width);
            set(&p.forward.in[KR_SCAN_X], ROW * p.d.width, 3);
            problem_forward(&p, level);
            for (int64_t i = 0; i < ROW * p.d.width; i++) {
                moved = fmax(moved, fabs(get(y, i) - before[i]));
                size = fmax(size, fabs(before[i]));
            }
            after = fabs(get(y, ROW * p.d.width) - at);
            print_message("linear_recurrence.md 6.9: %s, %s: moved by %.1e of %.1f\n", classes[of],
                          kr_level_name(level), moved, size);
            assert_true(after > 1e-3);
            assert_true(convolved ? moved <= 1e-6 * size : moved == 0);
            problem_free(&p);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_is_the_engine_s),
        cmocka_unit_test(the_order_of_operands_matters),
        cmocka_unit_test(vector_decays_at_their_edges),
        cmocka_unit_test(later_rows_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
