/* hippo_modes.c - the modes of a HiPPO system: eigenvalues and eigenvectors of its normal part
 * M = A + sum_r P_r P_r^T = -rate I + S, S real and skew, in double.
 *
 *   S = Q T Q^T              T skew tridiagonal, Q from reflections (Householder)
 *   -i T = F R F*            F = diag(i^k), R real, symmetric, with zeros on its diagonal
 *   R = Y diag(w) Y^T        by implicit QL (Dubrulle et al. 1968)
 *
 * so S v = i w v for v = Q F y: all steps turn real vectors, errors are of the size of rounding
 * (4e-13 of the largest frequency at N 256). No library is needed for it: LAPACK's equal would be
 * a dependency for one call. Of fourier the modes are the pairs themselves. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "hippo/hippo_system.h"

/* [N,N] matrices are in rows. */
typedef struct eigen {
    int64_t N;
    double *S, *Q;   /* S is reduced to T; Q starts as I */
    double *off, *w; /* [N] off-diagonal of R, then 0; eigenvalues */
    double *Y, *v;   /* [N,N]; [N] a reflection */
} eigen;

/* ---- S = Q T Q^T ------------------------------------------------------------------------------
 */

/* m <- m - 2 v v^T m, or (from the right) m - 2 m v v^T; v [N] of length 1, 0 before `first`. */
static void reflect(double *m, const double *v, int64_t N, int64_t first, bool right) {
    for (int64_t i = 0; i < N; i++) {
        double dot = 0;
        for (int64_t k = first; k < N; k++) dot += v[k] * (right ? m[i * N + k] : m[k * N + i]);
        for (int64_t k = first; k < N; k++)
            *(right ? &m[i * N + k] : &m[k * N + i]) -= 2 * dot * v[k];
    }
}

/* The reflection that leaves column j nothing below row j + 1; false: it has nothing there. */
static bool reflection(const eigen *g, int64_t j) {
    double norm = 0;
    memset(g->v, 0, (size_t)g->N * sizeof *g->v);
    for (int64_t i = j + 1; i < g->N; i++) g->v[i] = g->S[i * g->N + j];
    for (int64_t i = j + 1; i < g->N; i++) norm += g->v[i] * g->v[i];
    double head = g->v[j + 1], rest = norm - head * head;
    if (!(rest > 0)) return false;
    g->v[j + 1] += head < 0 ? -sqrt(norm) : sqrt(norm);
    norm = sqrt(rest + g->v[j + 1] * g->v[j + 1]);
    for (int64_t i = j + 1; i < g->N; i++) g->v[i] /= norm;
    return true;
}

static void tridiagonal(eigen *g) {
    int64_t N = g->N;
    for (int64_t j = 0; j + 2 < N; j++) {
        if (!reflection(g, j)) continue;
        reflect(g->S, g->v, N, j + 1, false);
        reflect(g->S, g->v, N, j + 1, true);
        reflect(g->Q, g->v, N, j + 1, true);
    }
    for (int64_t j = 0; j < N; j++) g->off[j] = j + 1 < N ? -g->S[(j + 1) * N + j] : 0;
}

/* ---- R = Y diag(w) Y^T ------------------------------------------------------------------------
 */

/* Turns columns i and i + 1 of Y. */
static void turn(const eigen *g, int64_t i, double c, double s) {
    for (int64_t k = 0; k < g->N; k++) {
        double *y = g->Y + k * g->N + i, a = y[0], b = y[1];
        y[0] = c * a - s * b;
        y[1] = s * a + c * b;
    }
}

/* One step of QL on rows low to high, shifted by what row low's corner tends to. */
static void ql_step(eigen *g, int64_t low, int64_t high) {
    double *d = g->w, *e = g->off, h = (d[low + 1] - d[low]) / (2 * e[low]);
    double r = hypot(h, 1), c = 1, s = 1, p = 0;
    h = d[high] - d[low] + e[low] / (h + copysign(r, h));
    for (int64_t i = high - 1; i >= low; i--) {
        double f = s * e[i], b = c * e[i];
        r = hypot(f, h);
        e[i + 1] = r;
        if (r == 0) { /* the matrix falls apart here */
            d[i + 1] -= p;
            e[high] = 0;
            return;
        }
        s = f / r;
        c = h / r;
        h = d[i + 1] - p;
        r = (d[i] - h) * s + 2 * c * b;
        p = s * r;
        d[i + 1] = h + p;
        h = c * r - b;
        turn(g, i, c, s);
    }
    d[low] -= p;
    e[low] = h;
    e[high] = 0;
}

/* The first row from low on behind which R falls apart. */
static int64_t block_end(const eigen *g, int64_t low) {
    for (int64_t m = low; m + 1 < g->N; m++) {
        double size = fabs(g->w[m]) + fabs(g->w[m + 1]);
        if (fabs(g->off[m]) <= 1e-17 * size || g->off[m] == 0) return m;
    }
    return g->N - 1;
}

static int diagonalise(eigen *g, krait_error *e) {
    enum { STEPS = 60 }; /* two or three are usual */
    for (int64_t low = 0; low < g->N; low++)
        for (int step = 0;; step++) {
            int64_t high = block_end(g, low);
            if (high == low) break;
            if (step == STEPS)
                return kr_fail(e, KRAIT_ERR_NUMERIC,
                               "hippo: eigenvalue %lld of %lld did not settle", (long long)low,
                               (long long)g->N);
            ql_step(g, low, high);
        }
    return 0;
}

/* ---- the modes --------------------------------------------------------------------------------
 */

static void identity(double *m, int64_t N) {
    memset(m, 0, (size_t)(N * N) * sizeof *m);
    for (int64_t i = 0; i < N; i++) m[i * N + i] = 1;
}

/* The eigenvalue at place `rank` of those above 0, from below; they come in pairs. */
static int64_t pick(const eigen *g, int64_t rank) {
    for (int64_t i = 0; i < g->N; i++) {
        int64_t below = 0;
        for (int64_t k = 0; k < g->N; k++)
            below += g->w[k] < g->w[i] || (g->w[k] == g->w[i] && k < i);
        if (below == g->N / 2 + rank) return i;
    }
    return 0;
}

/* Column m of V = Q F Y's column `from`. */
static void eigenvector(const eigen *g, const kr_hippo_modes *m, int64_t column, int64_t from) {
    int64_t N = g->N;
    for (int64_t n = 0; n < N; n++) {
        double part[4] = {0}; /* of i^0 .. i^3 */
        for (int64_t k = 0; k < N; k++) part[k % 4] += g->Q[n * N + k] * g->Y[k * N + from];
        m->V[n * N / 2 + column][0] = part[0] - part[2];
        m->V[n * N / 2 + column][1] = part[1] - part[3];
    }
}

static int general_modes(kr_hippo_modes *m, const double *M, krait_error *e) {
    int64_t N = m->N;
    size_t square = (size_t)(N * N);
    double *work = kr_malloc((3 * square + 3 * (size_t)N) * sizeof *work);
    if (!work) return kr_fail_memory(e, "modes of a HiPPO system");
    eigen g = {N,
               work,
               work + square,
               work + 3 * square,
               work + 3 * square + N,
               work + 2 * square,
               work + 3 * square + 2 * N};
    memcpy(g.S, M, square * sizeof *M);
    for (int64_t i = 0; i < N; i++) g.S[i * N + i] = 0;
    identity(g.Q, N);
    identity(g.Y, N);
    memset(g.w, 0, (size_t)N * sizeof *g.w);
    tridiagonal(&g);
    int rc = diagonalise(&g, e);
    for (int64_t i = 0; rc == 0 && i < N / 2; i++) {
        int64_t from = pick(&g, i);
        m->frequency[i] = g.w[from];
        eigenvector(&g, m, i, from);
    }
    kr_free(work);
    return rc;
}

static void fourier_modes(kr_hippo_modes *m) {
    int64_t half = m->N / 2;
    memset(m->V, 0, (size_t)(m->N * half) * sizeof *m->V);
    for (int64_t k = 0; k < half; k++) {
        m->frequency[k] = 2 * 3.14159265358979323846 * (double)k;
        m->V[2 * k * half + k][0] = sqrt(0.5);
        m->V[(2 * k + 1) * half + k][1] = -sqrt(0.5);
    }
}

/* V* x of mode k. */
static void project(const kr_hippo_modes *m, int64_t k, const double *x, double to[2]) {
    to[0] = to[1] = 0;
    for (int64_t n = 0; n < m->N; n++) {
        const double *v = m->V[n * m->N / 2 + k];
        to[0] += v[0] * x[n];
        to[1] -= v[1] * x[n];
    }
}

/* B and P in the modes' coordinates, each mode turned so that B is real. */
static void coordinates(kr_hippo_modes *m, krait_hippo_kind kind, const double *B, double *P) {
    int64_t half = m->N / 2;
    for (int64_t k = 0; k < half; k++) {
        double b[2];
        project(m, k, B, b);
        m->B[k] = hypot(b[0], b[1]);
        double c = m->B[k] > 0 ? b[0] / m->B[k] : 1, s = m->B[k] > 0 ? b[1] / m->B[k] : 0;
        for (int64_t n = 0; n < m->N; n++) {
            double *v = m->V[n * half + k], re = v[0];
            v[0] = re * c - v[1] * s;
            v[1] = re * s + v[1] * c;
        }
    }
    for (int r = 0; r < m->rank; r++) {
        kr_hippo_correction(kind, m->N, r, P);
        for (int64_t k = 0; k < half; k++) project(m, k, P, m->P[r * half + k]);
    }
}

/* M = A + sum P P^T in place of A. */
static void make_normal(kr_hippo_modes *m, krait_hippo_kind kind, double *A, double *P) {
    int64_t N = m->N;
    for (int r = 0; r < m->rank; r++) {
        kr_hippo_correction(kind, N, r, P);
        for (int64_t i = 0; i < N * N; i++) A[i] += P[i / N] * P[i % N];
    }
    for (int64_t n = 0; n < N; n++) m->rate -= A[n * N + n] / (double)N;
    if (fabs(m->rate) < 1e-9) m->rate = 0; /* of systems that only turn */
}

static int fill(kr_hippo_modes *m, krait_hippo_kind kind, krait_error *e) {
    int64_t N = m->N;
    double *A = kr_malloc((size_t)(N * N + 2 * N) * sizeof *A);
    if (!A) return kr_fail_memory(e, "modes of a HiPPO system");
    double *B = A + N * N, *P = B + N;
    int rc = krait_hippo_matrices(kind, N, A, B, e);
    if (rc == 0) make_normal(m, kind, A, P);
    if (rc == 0 && kind == KRAIT_HIPPO_FOURIER) fourier_modes(m);
    if (rc == 0 && kind != KRAIT_HIPPO_FOURIER) rc = general_modes(m, A, e);
    if (rc == 0) coordinates(m, kind, B, P);
    kr_free(A);
    return rc;
}

int kr_hippo_modes_make(kr_hippo_modes *m, krait_hippo_kind kind, int64_t N, krait_error *e) {
    size_t half = (size_t)N / 2;
    *m = (kr_hippo_modes){.N = N, .rank = kr_hippo_rank(kind)};
    if (N < 2 || N % 2 || N > KRAIT_HIPPO_MOST)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "hippo: modes need an even number from 2 to %d, not %lld", KRAIT_HIPPO_MOST,
                       (long long)N);
    m->frequency = kr_malloc(half * sizeof *m->frequency);
    m->B = kr_malloc(half * sizeof *m->B);
    m->P = kr_malloc((size_t)m->rank * half * sizeof *m->P);
    m->V = kr_malloc((size_t)N * half * sizeof *m->V);
    int rc = m->frequency && m->B && m->P && m->V ? fill(m, kind, e)
                                                  : kr_fail_memory(e, "modes of a HiPPO system");
    if (rc < 0) kr_hippo_modes_free(m);
    return rc;
}

void kr_hippo_modes_free(kr_hippo_modes *m) {
    kr_free(m->frequency);
    kr_free(m->B);
    kr_free(m->P);
    kr_free(m->V);
    *m = (kr_hippo_modes){0};
}
