/* s4d.h - the settings of S4D, and its published initial values. */
#ifndef KR_S4D_H
#define KR_S4D_H

#include <string.h>

#include "mixers/mixer.h"

typedef enum kr_s4d_start { KR_S4D_LIN, KR_S4D_INV, KR_S4D_LEGS, KR_S4D_REAL } kr_s4d_start;

typedef struct kr_s4d {
    int64_t state, copies;
    int start; /* kr_s4d_start */
    int discretisation;
    double rate, dt_min, dt_max;
    bool glu;
} kr_s4d;

static inline kr_s4d kr_s4d_of(const kr_config *c) {
    kr_s4d s;
    memcpy(&s, c->settings, sizeof s);
    return s;
}

/* Mode n (of N/2) of a state of N real numbers at first: -Re and Im of lambda, and B (real: a
 * mode's phase is free). */
double kr_s4d_first_rate(kr_s4d_start start, int64_t n);
double kr_s4d_first_frequency(kr_s4d_start start, int64_t N, int64_t n);
double kr_s4d_first_b(kr_s4d_start start, int64_t N, int64_t n);

#endif
