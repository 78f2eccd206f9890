/* lssl.h - the settings of LSSL. */
#ifndef KR_LSSL_H
#define KR_LSSL_H

#include <krait/hippo.h>
#include <string.h>

#include "mixers/mixer.h"

typedef struct kr_lssl {
    int64_t state;
    int start; /* krait_hippo_kind */
    double rate, dt_min, dt_max;
} kr_lssl;

static inline kr_lssl kr_lssl_of(const kr_config *c) {
    kr_lssl s;
    memcpy(&s, c->settings, sizeof s);
    return s;
}

#endif
