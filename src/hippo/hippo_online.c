/* hippo_online.c - a signal remembered as it arrives: the discrete step of a HiPPO system, and the
 * value that its coefficients give back for an age.
 *
 *   x <- (I - alpha D A)^-1 ((I + (1 - alpha) D A) x + D B u)     alpha = 0, 1, 1/2: the methods
 *
 * with D = 1/window, or 1/k at sample k where all the past counts alike. There the products with A
 * are running sums: A x = -s_n sum_{k<n} s_k x_k - (n+1) x_n, s_n = sqrt(2n+1). Source: Gu et al.
 * 2020. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/options.h"
#include "hippo/hippo_system.h"

struct krait_hippo {
    krait_hippo_options o;
    double *x, *work; /* [N] */
    double *A, *B;    /* [N,N], [N] of a step; NULL: window 0 */
    int64_t samples;
};

/* alpha of the method */
static double implicit_share(const krait_hippo *m) {
    switch (m->o.method) {
    case KRAIT_HIPPO_FORWARD: return 0;
    case KRAIT_HIPPO_BACKWARD: return 1;
    case KRAIT_HIPPO_BILINEAR: return 0.5;
    }
    return 0;
}

static double root(int64_t n) { return sqrt((double)(2 * n + 1)); }

/* ---- a step ---- */

/* Solves M Y = R in place of R; M [N,N] is destroyed, R [N,columns]. False: M is singular. */
static bool solve(double *M, double *R, int64_t N, int64_t columns) {
    for (int64_t j = 0; j < N; j++) {
        int64_t best = j;
        for (int64_t i = j + 1; i < N; i++)
            if (fabs(M[i * N + j]) > fabs(M[best * N + j])) best = i;
        double pivot = M[best * N + j];
        if (pivot == 0 || !isfinite(pivot)) return false;
        for (int64_t k = 0; best != j && k < N + columns; k++) {
            double *a = k < N ? &M[j * N + k] : &R[j * columns + k - N];
            double *b = k < N ? &M[best * N + k] : &R[best * columns + k - N], keep = *a;
            *a = *b;
            *b = keep;
        }
        for (int64_t i = 0; i < N; i++) {
            double f = i == j ? 0 : M[i * N + j] / pivot;
            if (f == 0) continue;
            for (int64_t k = j; k < N; k++) M[i * N + k] -= f * M[j * N + k];
            for (int64_t k = 0; k < columns; k++) R[i * columns + k] -= f * R[j * columns + k];
        }
    }
    for (int64_t j = 0; j < N; j++)
        for (int64_t k = 0; k < columns; k++) R[j * columns + k] /= M[j * N + j];
    return true;
}

/* Makes A and B those of a step. */
static int discretise(krait_hippo *m, krait_error *e) {
    int64_t N = m->o.numbers;
    double alpha = implicit_share(m), D = 1 / m->o.window;
    double *M = kr_malloc((size_t)(2 * N * N + N) * sizeof *M);
    if (!M) return kr_fail_memory(e, "a HiPPO memory");
    double *R = M + N * N;
    for (int64_t n = 0; n < N; n++) {
        for (int64_t k = 0; k < N; k++) {
            double a = D * m->A[n * N + k];
            M[n * N + k] = (n == k) - alpha * a;
            R[n * (N + 1) + k] = (n == k) + (1 - alpha) * a;
        }
        R[n * (N + 1) + N] = D * m->B[n];
    }
    bool solved = solve(M, R, N, N + 1);
    for (int64_t n = 0; n < N; n++) {
        memcpy(m->A + n * N, R + n * (N + 1), (size_t)N * sizeof *R);
        m->B[n] = R[n * (N + 1) + N];
    }
    kr_free(M);
    if (solved) return 0;
    return kr_fail(e, KRAIT_ERR_NUMERIC, "hippo: the step of window %g has no inverse",
                   m->o.window);
}

static void fixed_step(krait_hippo *m, double u) {
    int64_t N = m->o.numbers;
    for (int64_t n = 0; n < N; n++) {
        double sum = m->B[n] * u;
        for (int64_t k = 0; k < N; k++) sum += m->A[n * N + k] * m->x[k];
        m->work[n] = sum;
    }
    memcpy(m->x, m->work, (size_t)N * sizeof *m->x);
}

/* Sample k >= 1 of all the past; the first one is a constant from the start. */
static void growing_step(krait_hippo *m, double u) {
    double alpha = implicit_share(m), D = 1 / (double)m->samples, now = 0, next = 0;
    for (int64_t n = 0; n < m->o.numbers; n++) {
        double s = root(n), x = m->x[n], size = (double)(n + 1);
        double right = x - (1 - alpha) * D * (s * now + size * x) + D * s * u;
        m->x[n] = (right - alpha * D * s * next) / (1 + alpha * D * size);
        now += s * x;
        next += s * m->x[n];
    }
}

void krait_hippo_feed(krait_hippo *m, double sample) {
    if (m->A)
        fixed_step(m, sample);
    else if (m->samples == 0)
        m->x[0] = sample;
    else
        growing_step(m, sample);
    m->samples++;
}

/* ---- reading ---- */

/* sum_n x_n sqrt(2n+1) P_n(z) */
static double legendre(const krait_hippo *m, double z) {
    double before = 0, p = 1, sum = 0;
    for (int64_t n = 0; n < m->o.numbers; n++) {
        double size = (double)n;
        sum += m->x[n] * root(n) * p;
        double next = ((2 * size + 1) * z * p - size * before) / (size + 1);
        before = p;
        p = next;
    }
    return sum;
}

/* sum_n x_n e^(-s/2) L_n(s) */
static double laguerre(const krait_hippo *m, double s) {
    double before = 0, p = exp(-s / 2), sum = 0;
    for (int64_t n = 0; n < m->o.numbers; n++) {
        double size = (double)n;
        sum += m->x[n] * p;
        double next = ((2 * size + 1 - s) * p - size * before) / (size + 1);
        before = p;
        p = next;
    }
    return sum;
}

static double fourier(const krait_hippo *m, double s) {
    double sum = m->x[0];
    for (int64_t k = 1; k < m->o.numbers / 2; k++) {
        double angle = 2 * 3.14159265358979323846 * (double)k * s;
        sum += sqrt(2) * (m->x[2 * k] * cos(angle) + m->x[2 * k + 1] * sin(angle));
    }
    return sum;
}

double krait_hippo_recall(const krait_hippo *m, double age) {
    double window = m->A ? m->o.window : (double)m->samples, s = age / window;
    bool ends = !m->A || m->o.kind == KRAIT_HIPPO_LEGT || m->o.kind == KRAIT_HIPPO_FOURIER;
    if (m->samples == 0 || !(age >= 0) || (ends && s > 1)) return 0;
    switch (m->o.kind) {
    case KRAIT_HIPPO_LEGS: return legendre(m, m->A ? 2 * exp(-s) - 1 : 1 - 2 * s);
    case KRAIT_HIPPO_LEGT: return legendre(m, 1 - 2 * s);
    case KRAIT_HIPPO_LAGT: return laguerre(m, s);
    case KRAIT_HIPPO_FOURIER: return fourier(m, s);
    }
    return 0;
}

const double *krait_hippo_coefficients(const krait_hippo *m) { return m->x; }

/* ---- opening ---- */

static int check(const krait_hippo_options *o, krait_error *e) {
    if ((unsigned)o->method > KRAIT_HIPPO_BILINEAR)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "hippo: method must be a krait_hippo_method, is %d",
                       (int)o->method);
    if (o->window > 0 && isfinite(o->window)) return 0;
    if (o->window == 0 && o->kind == KRAIT_HIPPO_LEGS) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT,
                   "hippo: window must be above 0 (or, for LEGS, 0), is %g samples", o->window);
}

static int open_memory(krait_hippo *m, krait_error *e) {
    int64_t N = m->o.numbers;
    double *A = kr_malloc((size_t)(N * N + N) * sizeof *A);
    m->x = kr_calloc((size_t)(2 * N), sizeof *m->x);
    m->A = A;
    if (!m->x || !A) return kr_fail_memory(e, "a HiPPO memory");
    m->work = m->x + N;
    m->B = A + N * N;
    KR_TRY(krait_hippo_matrices(m->o.kind, N, m->A, m->B, e));
    if (m->o.window > 0) return discretise(m, e);
    kr_free(A); /* running sums do */
    m->A = m->B = NULL;
    return 0;
}

int krait_hippo_open(krait_hippo **out, const krait_hippo_options *options, krait_error *e) {
    krait_hippo_options o = KRAIT_HIPPO_OPTIONS_INIT;
    if (!out) return kr_fail_null(e, "krait_hippo_open");
    *out = NULL;
    KR_TRY(kr_options_read(&o, sizeof o, options, "krait_hippo_options", e));
    KR_TRY(check(&o, e));
    if (o.numbers < 1 || o.numbers > KRAIT_HIPPO_MOST)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "hippo: numbers must be 1 to %d, is %lld",
                       KRAIT_HIPPO_MOST, (long long)o.numbers);
    krait_hippo *m = kr_calloc(1, sizeof *m);
    if (!m) return kr_fail_memory(e, "a HiPPO memory");
    m->o = o;
    int rc = open_memory(m, e);
    if (rc < 0)
        krait_hippo_close(&m);
    else
        *out = m;
    return rc;
}

void krait_hippo_close(krait_hippo **memory) {
    if (!memory || !*memory) return;
    kr_free((*memory)->x);
    kr_free((*memory)->A);
    kr_free(*memory);
    *memory = NULL;
}
