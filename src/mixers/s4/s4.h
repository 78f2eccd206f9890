/* s4.h - the settings of S4. */
#ifndef KR_S4_H
#define KR_S4_H

#include <krait/hippo.h>
#include <string.h>

#include "mixers/mixer.h"

typedef struct kr_s4 {
    int64_t state, copies;
    int start; /* krait_hippo_kind */
    double rate, dt_min, dt_max, least_decay;
    bool glu;
} kr_s4;

static inline kr_s4 kr_s4_of(const kr_config *c) {
    kr_s4 s;
    memcpy(&s, c->settings, sizeof s);
    return s;
}

#endif
