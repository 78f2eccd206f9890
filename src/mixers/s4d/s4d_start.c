/* s4d_start.c - initial values of S4D: the modes of four linear systems that remember the past.
 *
 *   lin    lambda_n = -1/2 + i pi n                          (Fourier)
 *   inv    lambda_n = -1/2 + i (N/pi) (N/(2n+1) - 1)
 *   legs   eigenvalues of the normal part of HiPPO-LegS, and B in their basis
 *   real   lambda_n = -(n+1)
 *
 * LegS needs no eigenvalue solver. Its normal part plus 1/2 is the skew matrix S_nk = +-(s_n s_k)/2
 * (+ above the diagonal) with s_n^2 = 2n+1. S v = i mu v and q_n = s_n v_n give, from the
 * difference of two rows, with t_n = 2 mu / (2n+1):
 *
 *   q_{n+1} = -q_n (1 - i t_n) / (1 + i t_{n+1}),     and from the first and last rows
 *   sum_n atan t_n = pi/2 (N - 1 - 2m)                for some whole m
 *
 * whose left side grows with mu: one root for each m, found by halving. Then |q_n|^2 is as
 * 1/(1 + t_n^2), and V* B for the normed v is 1 / sqrt(sum_n 1 / ((2n+1) (1 + t_n^2))). Sources: Gu
 * et al. 2020 (HiPPO), 2022 (S4D); the closed form is worked out here. */
#include <math.h>

#include "mixers/s4d/s4d.h"

#define PI 3.14159265358979323846

/* Eigenvalue m of LegS from below, above 0. */
static double legs_frequency(int64_t N, int64_t m) {
    double low = 0, high = (double)N * (double)N, want = PI / 2 * (double)(2 * m + 1);
    for (int i = 0; i < 200 && high - low > 1e-15 * high; i++) {
        double mu = (low + high) / 2, sum = 0;
        for (int64_t n = 0; n < N; n++) sum += atan(2 * mu / (double)(2 * n + 1));
        if (sum < want)
            low = mu;
        else
            high = mu;
    }
    return (low + high) / 2;
}

double kr_s4d_first_rate(kr_s4d_start start, int64_t n) {
    return start == KR_S4D_REAL ? (double)(n + 1) : 0.5;
}

double kr_s4d_first_frequency(kr_s4d_start start, int64_t N, int64_t n) {
    double size = (double)N;
    switch (start) {
    case KR_S4D_LIN: return PI * (double)n;
    case KR_S4D_INV: return size / PI * (size / (double)(2 * n + 1) - 1);
    case KR_S4D_LEGS: return legs_frequency(N, n);
    case KR_S4D_REAL: return 0;
    }
    return 0;
}

double kr_s4d_first_b(kr_s4d_start start, int64_t N, int64_t n) {
    if (start != KR_S4D_LEGS) return 1;
    double mu = legs_frequency(N, n), sum = 0;
    for (int64_t k = 0; k < N; k++) {
        double odd = (double)(2 * k + 1), t = 2 * mu / odd;
        sum += 1 / (odd * (1 + t * t));
    }
    return 1 / sqrt(sum);
}
