/* s4d.h - the settings of S4D, and its published initial values. */
#ifndef KR_S4D_H
#define KR_S4D_H

#include <krait/scan.h>
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

/* ---- what S4 has too ---- */

/* An even state; copies that divide the width; dt_min <= dt_max. */
int kr_s4d_check(const kr_config *c, int64_t state, int64_t copies, double dt_min, double dt_max,
                 krait_error *e);
/* log Delta [H] */
kr_value *kr_s4d_log_step(kr_nn *nn, double dt_min, double dt_max);
/* The scan of u [M,H] with the discrete system ab, a and b, and parameters C [H,2,N] and D [H]. */
kr_value *kr_s4d_scan(kr_nn *nn, const krait_scan_desc *scan, kr_value *u, kr_value *const ab[2]);
/* What follows the recurrence: y [M,any] -> [M,H], by GELU and a map with (glu) or without a gate.
 */
kr_value *kr_s4d_mixed(kr_nn *nn, kr_value *y, bool glu);

#endif
