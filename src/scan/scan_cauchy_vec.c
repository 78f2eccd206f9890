/* scan_cauchy_vec.c - the kernel of a diagonal minus low rank, and its gradient; scan_cauchy.h has
 * the equation.
 *
 * With x~ = (1, -w (I + w S_qp)^-1 S_q0) and l~ = (1, -w S_0p (I + w S_qp)^-1), dK^ = l~ dS x~. So
 * y_n = sum_j x~_j right_jn / (1 - w a_n) and z_n = sum_i l~_i left_in / (1 - w a_n), which are
 * (I - w A)^-1 b and its mirror, give all gradients: with G^ that of K^ at w, summed over the
 * circle,
 *
 *   G_c = kappa conj(y) G^     G_q = kappa conj(l~_q y) G^     G_a = kappa conj(w z y) G^
 *   G_b = kappa conj(z) G^     G_p = kappa conj(x~_p z) G^
 *
 * Points come in pairs w, conj(w), whose K^, x~ and l~ are conjugates. */
#include "scan/scan_cauchy.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "vec/vec.h"

enum { SIDES = KR_CAUCHY_RANKS + 1, C = 2 * KR_W };

/* A complex number of each lane. */
typedef struct number {
    double re[KR_W], im[KR_W];
} number;

KR_VINLINE number get(const double *p) {
    number v;
    memcpy(&v, p, sizeof v);
    return v;
}

KR_VINLINE void multiply(number *to, const number *a, const number *b) {
    for (int i = 0; i < KR_W; i++) {
        double re = a->re[i] * b->re[i] - a->im[i] * b->im[i];
        to->im[i] = a->re[i] * b->im[i] + a->im[i] * b->re[i];
        to->re[i] = re;
    }
}

/* to += a b */
KR_VINLINE void add_product(number *to, const number *a, const number *b) {
    for (int i = 0; i < KR_W; i++) {
        to->re[i] += a->re[i] * b->re[i] - a->im[i] * b->im[i];
        to->im[i] += a->re[i] * b->im[i] + a->im[i] * b->re[i];
    }
}

/* to += conj(a) b, at memory */
KR_VINLINE void add_conj_product(double *to, const number *a, const number *b) {
    for (int i = 0; i < KR_W; i++) {
        to[i] += a->re[i] * b->re[i] + a->im[i] * b->im[i];
        to[KR_W + i] += a->re[i] * b->im[i] - a->im[i] * b->re[i];
    }
}

KR_VINLINE void scale(number *v, double re, double im) { /* by one number for all lanes */
    for (int i = 0; i < KR_W; i++) {
        double real = v->re[i] * re - v->im[i] * im;
        v->im[i] = v->re[i] * im + v->im[i] * re;
        v->re[i] = real;
    }
}

KR_VINLINE void invert(number *v) {
    for (int i = 0; i < KR_W; i++) {
        double size = 1 / (v->re[i] * v->re[i] + v->im[i] * v->im[i]);
        v->re[i] *= size;
        v->im[i] *= -size;
    }
}

/* ---- transforms: natural order to turned bits, and back ---------------------------------------
 */

KR_VINLINE void butterfly(double *x, double *y, double re, double im, bool forward) {
    for (int i = 0; i < KR_W; i++) {
        double a = x[i], b = x[KR_W + i], c = y[i], d = y[KR_W + i];
        double u = forward ? a - c : c * re + d * im, v = forward ? b - d : d * re - c * im;
        x[i] = forward ? a + c : a + u;
        x[KR_W + i] = forward ? b + d : b + v;
        y[i] = forward ? u * re - v * im : a - u;
        y[KR_W + i] = forward ? u * im + v * re : b - v;
    }
}

static void pass(const kr_cauchy *c, int64_t n, int64_t half, bool forward) {
    for (int64_t first = 0; first < n; first += 2 * half)
        for (int64_t j = 0; j < half; j++) {
            const double *root = c->roots + 2 * j * (n / (2 * half));
            double *x = c->points + (first + j) * C;
            if (forward)
                butterfly(x, x + half * C, root[0], root[1], true);
            else
                butterfly(x, x + half * C, root[0], root[1], false);
        }
}

static void transform(const kr_cauchy *c, int64_t n) {
    for (int64_t half = n / 2; half; half /= 2) pass(c, n, half, true);
}

static void inverse(const kr_cauchy *c, int64_t n) {
    for (int64_t half = 1; half < n; half *= 2) pass(c, n, half, false);
}

static int64_t turned(int64_t k, int64_t n) {
    int64_t to = 0;
    for (; n > 1; n /= 2, k /= 2) to = 2 * to + k % 2;
    return to;
}

/* ---- one point of the circle ------------------------------------------------------------------
 */

/* A point, its value, x~ and l~. */
typedef struct point {
    double re, im;
    number value, x[SIDES], l[SIDES];
} point;

KR_VINLINE const double *left(const kr_cauchy *c, int64_t i) {
    return i ? c->low + (c->low_rank + i - 1) * c->modes * C : c->c;
}
KR_VINLINE const double *right(const kr_cauchy *c, int64_t j) {
    return j ? c->low + (j - 1) * c->modes * C : c->b;
}

/* 1 / (1 - w a_n) */
KR_VINLINE number reciprocal(const kr_cauchy *c, double re, double im, int64_t n) {
    number v = get(c->a + n * C);
    scale(&v, -re, -im);
    for (int i = 0; i < KR_W; i++) v.re[i] += 1;
    invert(&v);
    return v;
}

/* S [SIDES,SIDES] += sum_n left right / (1 - w a), conjugated at conj(w). */
KR_VINLINE void half_sums(const kr_cauchy *c, double re, double im, number *S, int64_t sides,
                          double sign) {
    number sum[SIDES * SIDES];
    memset(sum, 0, sizeof sum);
    for (int64_t n = 0; n < c->modes; n++) {
        number d = reciprocal(c, re, im, n), l[SIDES];
        for (int64_t i = 0; i < sides; i++) {
            number v = get(left(c, i) + n * C);
            multiply(&l[i], &v, &d);
        }
        for (int64_t j = 0; j < sides; j++) {
            number v = get(right(c, j) + n * C);
            for (int64_t i = 0; i < sides; i++) add_product(&sum[i * SIDES + j], &l[i], &v);
        }
    }
    for (int64_t i = 0; i < SIDES * SIDES; i++)
        for (int k = 0; k < KR_W; k++) {
            S[i].re[k] += c->kappa / 2 * sum[i].re[k];
            S[i].im[k] += sign * c->kappa / 2 * sum[i].im[k];
        }
}

/* Row k of m [K, cols] over its pivot, and out of the others. Its real part is positive where the
 * decay shrinks, so no rows are exchanged. */
static void eliminate(number *m, int64_t K, int64_t cols, int64_t k) {
    number pivot = m[k * cols + k];
    invert(&pivot);
    for (int64_t j = 0; j < cols; j++) multiply(&m[k * cols + j], &m[k * cols + j], &pivot);
    for (int64_t i = 0; i < K; i++) {
        number f = m[i * cols + k];
        for (int64_t j = 0; i != k && j < cols; j++) {
            number v = m[k * cols + j];
            for (int t = 0; t < KR_W; t++) v.re[t] = -v.re[t], v.im[t] = -v.im[t];
            add_product(&m[i * cols + j], &f, &v);
        }
    }
}

/* x~ (transposed: l~) and, with x~, the value. */
static void solve(point *p, const number *S, int64_t K, bool transposed) {
    enum { COLS = KR_CAUCHY_RANKS + 1 };
    number m[KR_CAUCHY_RANKS * COLS], *to = transposed ? p->l : p->x;
    for (int64_t i = 0; i < K; i++)
        for (int64_t j = 0; j <= K; j++) {
            int64_t row = 1 + i, col = j < K ? 1 + j : 0;
            number v = S[transposed ? col * SIDES + row : row * SIDES + col];
            scale(&v, j < K ? p->re : -p->re, j < K ? p->im : -p->im);
            for (int t = 0; t < KR_W && i == j; t++) v.re[t] += 1;
            m[i * (K + 1) + j] = v;
        }
    for (int64_t k = 0; k < K; k++) eliminate(m, K, K + 1, k);
    for (int t = 0; t < KR_W; t++) to[0].re[t] = 1, to[0].im[t] = 0;
    for (int64_t k = 0; k < K; k++) to[1 + k] = m[k * (K + 1) + K];
    if (transposed) return;
    p->value = S[0];
    for (int64_t k = 0; k < K; k++) add_product(&p->value, &S[1 + k], &p->x[1 + k]);
}

static void point_at(const kr_cauchy *c, point *p, double re, double im, bool back) {
    number S[SIDES * SIDES];
    memset(S, 0, sizeof S);
    p->re = re;
    p->im = im;
    if (c->low_rank == 1) { /* what almost all are: loops of fixed length */
        half_sums(c, re, im, S, 2, 1);
        half_sums(c, re, -im, S, 2, -1);
    } else {
        half_sums(c, re, im, S, 1 + c->low_rank, 1);
        half_sums(c, re, -im, S, 1 + c->low_rank, -1);
    }
    solve(p, S, c->low_rank, false);
    if (back) solve(p, S, c->low_rank, true);
}

static void conjugate(const kr_cauchy *c, point *p) {
    p->im = -p->im;
    for (int t = 0; t < KR_W; t++) {
        p->value.im[t] *= -1;
        for (int64_t i = 0; i <= c->low_rank; i++) p->x[i].im[t] *= -1, p->l[i].im[t] *= -1;
    }
}

/* r^l */
static double wound(const kr_cauchy *c, int64_t l) {
    return pow(1e-16, (double)l / (double)(c->n + c->length));
}

/* Point k, k <= n / 2. */
static void point_of(const kr_cauchy *c, point *p, int64_t k, bool back) {
    int64_t n = c->n;
    double radius = wound(c, 1);
    double re = 2 * k == n ? -1 : c->roots[2 * k], im = 2 * k == n ? 0 : c->roots[2 * k + 1];
    point_at(c, p, radius * re, radius * im, back);
}

/* points[l] *= factor / r^l, l < length; zeros behind. */
static void unwind(const kr_cauchy *c, double factor) {
    for (int64_t l = 0; l < c->n; l++) {
        double size = l < c->length ? factor / wound(c, l) : 0;
        for (int i = 0; i < C; i++) c->points[l * C + i] *= size;
    }
}

void KR_FN(kr_cauchy_kernel)(const kr_cauchy *c) {
    int64_t n = c->n;
    for (int64_t k = 0; k <= n / 2; k++) {
        point p;
        point_of(c, &p, k, false);
        memcpy(c->points + turned(k, n) * C, &p.value, sizeof p.value);
        conjugate(c, &p);
        if (k && 2 * k < n) memcpy(c->points + turned(n - k, n) * C, &p.value, sizeof p.value);
    }
    inverse(c, n);
    unwind(c, 1 / (double)n);
}

/* ---- gradient ---------------------------------------------------------------------------------
 */

/* What point p, whose value has the gradient G / kappa, adds to those of mode n. */
KR_VINLINE void mode_back(const kr_cauchy *c, const point *p, const number *G, int64_t n,
                          int64_t sides) {
    number d = reciprocal(c, p->re, p->im, n), y, z, zy, t;
    memset(&y, 0, sizeof y);
    memset(&z, 0, sizeof z);
    for (int64_t i = 0; i < sides; i++) {
        number v = get(right(c, i) + n * C), u = get(left(c, i) + n * C);
        add_product(&y, &p->x[i], &v);
        add_product(&z, &p->l[i], &u);
    }
    multiply(&y, &y, &d);
    multiply(&z, &z, &d);
    multiply(&zy, &z, &y);
    scale(&zy, p->re, p->im);
    add_conj_product(c->ga + n * C, &zy, G);
    add_conj_product(c->gc + n * C, &y, G);
    add_conj_product(c->gb + n * C, &z, G);
    for (int64_t k = 1; k < sides; k++) {
        multiply(&t, &p->x[k], &z);
        add_conj_product(c->glow + ((k - 1) * c->modes + n) * C, &t, G);
        multiply(&t, &p->l[k], &y);
        add_conj_product(c->glow + ((c->low_rank + k - 1) * c->modes + n) * C, &t, G);
    }
}

static void point_back(const kr_cauchy *c, const point *p, const double *gradient) {
    number G = get(gradient);
    for (int i = 0; i < KR_W; i++) G.re[i] *= c->kappa, G.im[i] *= c->kappa;
    for (int64_t n = 0; n < c->modes; n++)
        if (c->low_rank == 1)
            mode_back(c, p, &G, n, 2);
        else
            mode_back(c, p, &G, n, 1 + c->low_rank);
}

void KR_FN(kr_cauchy_gradient)(const kr_cauchy *c) {
    int64_t n = c->n;
    for (int64_t l = 0; l < n; l++) /* real */
        memset(c->points + l * C + KR_W, 0, KR_W * sizeof *c->points);
    for (int64_t l = c->length; l < n; l++) memset(c->points + l * C, 0, C * sizeof *c->points);
    unwind(c, 1 / (double)n);
    transform(c, n);
    for (int64_t k = 0; k <= n / 2; k++) {
        point p;
        point_of(c, &p, k, true);
        point_back(c, &p, c->points + turned(k, n) * C);
        conjugate(c, &p);
        if (k && 2 * k < n) point_back(c, &p, c->points + turned(n - k, n) * C);
    }
}
