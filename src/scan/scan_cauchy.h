/* scan_cauchy.h - the convolution kernel of a decay of a diagonal minus low rank (S4), by sums of
 * Cauchy's form in double.
 *
 *   K_l = kappa Re c (A^l b),   A h = a h - sum_k p_k kappa Re(q_k . h)
 *
 * Its generating function sum_l K_l w^l is, with S_ij = kappa/2 (sum_n left_i right_j / (1 - w a) +
 * the same of the conjugates), left = c, q_1 .. and right = b, p_1 .. (Woodbury),
 *
 *   K^(w) = S_00 - w S_0p (I + w S_qp)^-1 S_q0
 *
 * where nothing is singular: 1 - w a is, up to a factor, 2 (1 - w) - (1 + w) delta lambda. It is
 * taken at n points of a circle of radius r < 1, and a transform gives K_l r^l + K_{l+n} r^(l+n) +
 * ... (Abate & Whitt 1992). r is where what wraps around, r^n, is as small as what rounding becomes
 * when r^l is divided out, 1e-16 r^-length: 1e-8 for n = length, 2e-11 for n = 2 length. So nothing
 * needs truncation at `length`, and c means the same to kernel and recurrence. Powers of A must not
 * grow. Source: Gu et al. 2022b, Goel et al. 2022. */
#ifndef KR_SCAN_CAUCHY_H
#define KR_SCAN_CAUCHY_H

#include <stdint.h>

enum { KR_CAUCHY_RANKS = 4 }; /* what there is room for; above, the recurrence is as fast */

/* Lanes are channels: W of them, W the width of the level. Vectors of modes are [modes][2][W]. */
typedef struct kr_cauchy {
    int64_t modes, length, low_rank;
    int64_t n; /* points: a power of two from length on */
    double kappa;
    const double *a, *b, *c, *low; /* low: p_1 .. p_K, q_1 .. q_K */
    double *ga, *gb, *gc, *glow;   /* gradients, added to */
    const double *roots;           /* [n/2][2]: e^(-2 pi i j / n) */
    double *points;                /* [n][2][W] */
} kr_cauchy;

/* The n that floats need: the least. */
static inline int64_t kr_cauchy_points(int64_t length) {
    int64_t n = 4;
    while (n < length) n *= 2;
    return n;
}

/* K_l at points[l][0][W], l < length. */
typedef void kr_cauchy_function(const kr_cauchy *c);
kr_cauchy_function kr_cauchy_kernel_v1, kr_cauchy_kernel_v3, kr_cauchy_kernel_v4;
/* From dL/dK_l at points[l][0][W], l < length, which it destroys. */
kr_cauchy_function kr_cauchy_gradient_v1, kr_cauchy_gradient_v3, kr_cauchy_gradient_v4;

#endif
