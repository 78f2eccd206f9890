/* hippo_matrix.c - the HiPPO systems in closed form, and the low-rank part that makes each normal.
 *
 *   legs      A_nk = -s_n s_k (n > k), -(n+1) (n = k), 0           B_n = s_n      s_n = sqrt(2n+1)
 *   legt      A_nk = -s_n s_k ((-1)^(n-k) if n < k, else 1)        B_n = s_n
 *   lagt      A_nk = -1 (n > k), -1/2 (n = k), 0                   B_n = 1
 *   fourier   A = S - 2 b b^T, S turns the pair (2k, 2k+1) at 2 pi k     B = 2 b
 *             b_0 = 1, b_2k = sqrt 2, 0 at odd places
 *
 * Sources: Gu et al. 2020 (HiPPO), 2022b (S4), 2022c (How to Train Your HiPPO: Fourier). */
#include <math.h>

#include "base/err.h"
#include "hippo/hippo_system.h"

static const double pi = 3.14159265358979323846;

static double root(int64_t n) { return sqrt((double)(2 * n + 1)); }

static double fourier_b(int64_t n) { return n == 0 ? 1 : n % 2 ? 0 : sqrt(2); }

static double fourier_a(int64_t n, int64_t k) {
    double turn = n / 2 != k / 2 || n == k ? 0 : 2 * pi * (double)(n / 2);
    return (n < k ? -turn : turn) - 2 * fourier_b(n) * fourier_b(k);
}

static double a_of(krait_hippo_kind kind, int64_t n, int64_t k) {
    switch (kind) {
    case KRAIT_HIPPO_LEGS: return n > k ? -root(n) * root(k) : n == k ? -(double)(n + 1) : 0;
    case KRAIT_HIPPO_LEGT: return root(n) * root(k) * (n < k && (k - n) % 2 ? 1 : -1);
    case KRAIT_HIPPO_LAGT: return n > k ? -1 : n == k ? -0.5 : 0;
    case KRAIT_HIPPO_FOURIER: return fourier_a(n, k);
    }
    return 0;
}

static double b_of(krait_hippo_kind kind, int64_t n) {
    if (kind == KRAIT_HIPPO_FOURIER) return 2 * fourier_b(n);
    return kind == KRAIT_HIPPO_LAGT ? 1 : root(n);
}

int krait_hippo_matrices(krait_hippo_kind kind, int64_t N, double *A, double *B, krait_error *e) {
    if (!A || !B) return kr_fail_null(e, "krait_hippo_matrices");
    if ((unsigned)kind > KRAIT_HIPPO_FOURIER)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "hippo: kind must be a krait_hippo_kind, is %d",
                       (int)kind);
    if (N < 1 || N > KRAIT_HIPPO_MOST)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "hippo: numbers must be 1 to %d, is %lld",
                       KRAIT_HIPPO_MOST, (long long)N);
    if (kind == KRAIT_HIPPO_FOURIER && N % 2)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "hippo: numbers must be even for fourier, is %lld",
                       (long long)N);
    for (int64_t n = 0; n < N; n++) {
        B[n] = b_of(kind, n);
        for (int64_t k = 0; k < N; k++) A[n * N + k] = a_of(kind, n, k);
    }
    return 0;
}

int kr_hippo_rank(krait_hippo_kind kind) { return kind == KRAIT_HIPPO_LEGT ? 2 : 1; }

/* legs and lagt: the diagonal's surplus; legt: pairs of the same parity; fourier: sqrt 2 b. */
void kr_hippo_correction(krait_hippo_kind kind, int64_t N, int r, double *P) {
    for (int64_t n = 0; n < N; n++) {
        P[n] = 0;
        if (r >= kr_hippo_rank(kind)) continue;
        switch (kind) {
        case KRAIT_HIPPO_LEGS: P[n] = root(n) * sqrt(0.5); break;
        case KRAIT_HIPPO_LEGT: P[n] = n % 2 == r ? root(n) : 0; break;
        case KRAIT_HIPPO_LAGT: P[n] = sqrt(0.5); break;
        case KRAIT_HIPPO_FOURIER: P[n] = sqrt(2) * fourier_b(n); break;
        }
    }
}
