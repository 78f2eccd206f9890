/* hippo_system.h - the HiPPO systems x' = A x + B u as a normal matrix plus low rank, and their
 * modes: where structured state spaces start. include/krait/hippo.h has A and B.
 *
 *   A = V diag(lambda) V* - sum_r P_r P_r*        V unitary, lambda in conjugate pairs
 *
 * N is even; of each pair the half with a frequency >= 0 is kept, ordered by it. Time is in windows
 * of the measure. Source: Gu et al. 2022b (S4), appendix C. */
#ifndef KR_HIPPO_SYSTEM_H
#define KR_HIPPO_SYSTEM_H

#include <krait/hippo.h>

enum { KR_HIPPO_RANKS = 2 };

/* How many P there are. */
int kr_hippo_rank(krait_hippo_kind kind);
/* P_r [N], r < rank; zeros from there on. */
void kr_hippo_correction(krait_hippo_kind kind, int64_t N, int r, double *P);

/* A system in the coordinates of its modes; numbers are re, im. A mode's phase is free: B >= 0. */
typedef struct kr_hippo_modes {
    int64_t N;         /* of the real system; N/2 modes */
    double rate;       /* -Re lambda, of all modes */
    double *frequency; /* [N/2] Im lambda */
    double *B;         /* [N/2] V* B */
    double (*P)[2];    /* [rank,N/2] V* P */
    double (*V)[2];    /* [N,N/2] eigenvectors in columns */
    int rank;
} kr_hippo_modes;

int kr_hippo_modes_make(kr_hippo_modes *m, krait_hippo_kind kind, int64_t N, krait_error *e);
void kr_hippo_modes_free(kr_hippo_modes *m);

#endif
