/* s4d_start.c - initial values of S4D: the modes of four linear systems that remember the past.
 *
 *   lin    lambda_n = -1/2 + i pi n                          (Fourier)
 *   inv    lambda_n = -1/2 + i (N/pi) (N/(2n+1) - 1)
 *   legs   eigenvalues of the normal part of HiPPO-LegS, and B in their basis (src/hippo/)
 *   real   lambda_n = -(n+1)
 *
 * Source: Gu et al. 2022 (S4D). */
#include <math.h>

#include "hippo/hippo_system.h"
#include "mixers/s4d/s4d.h"

static const double pi = 3.14159265358979323846;

/* rate, frequency and B of mode n; of legs the modes are at m. */
static void mode(kr_s4d_start start, double N, int64_t n, const kr_hippo_modes *m, double v[3]) {
    double place = (double)n;
    v[KR_S4D_RATE] = 0.5;
    v[KR_S4D_B] = 1;
    switch (start) {
    case KR_S4D_LIN: v[KR_S4D_FREQUENCY] = pi * place; return;
    case KR_S4D_INV: v[KR_S4D_FREQUENCY] = N / pi * (N / (2 * place + 1) - 1); return;
    case KR_S4D_LEGS:
        v[KR_S4D_RATE] = m->rate;
        v[KR_S4D_FREQUENCY] = m->frequency[n];
        v[KR_S4D_B] = m->B[n];
        return;
    case KR_S4D_REAL:
        v[KR_S4D_RATE] = place + 1;
        v[KR_S4D_FREQUENCY] = 0;
        return;
    }
}

void kr_s4d_repeat(float *values, int64_t copies, int64_t count) {
    for (int64_t i = count; i < copies * count; i++) values[i] = values[i - count];
}

int kr_s4d_first(kr_s4d_start start, int64_t N, kr_s4d_part part, int64_t copies, float *values,
                 krait_error *e) {
    kr_hippo_modes m = {0};
    int64_t half = N / 2, count = part == KR_S4D_B ? N : half;
    if (start == KR_S4D_LEGS) {
        int rc = kr_hippo_modes_make(&m, KRAIT_HIPPO_LEGS, N, e);
        if (rc < 0) return rc;
    }
    for (int64_t n = 0; n < count; n++) {
        double v[3] = {0};
        if (n < half) mode(start, (double)N, n, &m, v); /* else the imaginary part of B: 0 */
        values[n] = (float)(part == KR_S4D_RATE ? log(v[part]) : v[part]);
    }
    kr_s4d_repeat(values, copies, count);
    kr_hippo_modes_free(&m);
    return 0;
}
