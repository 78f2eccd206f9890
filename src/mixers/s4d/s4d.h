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

typedef enum kr_s4d_part { KR_S4D_RATE, KR_S4D_FREQUENCY, KR_S4D_B } kr_s4d_part;

/* A part of `copies` equal systems of N/2 modes (a state of N real numbers) at first: log -Re
 * lambda or Im lambda [copies,N/2]; B [copies,2,N/2] (real: a mode's phase is free). */
int kr_s4d_first(kr_s4d_start start, int64_t N, kr_s4d_part part, int64_t copies, float *values,
                 krait_error *e);
/* values [copies,count] <- the first row. */
void kr_s4d_repeat(float *values, int64_t copies, int64_t count);

/* What follows the recurrence: y [M,any] -> [M,H], by GELU and a map with (glu) or without a gate.
 */
kr_value *kr_s4d_mixed(kr_nn *nn, kr_value *y, bool glu);

#endif
