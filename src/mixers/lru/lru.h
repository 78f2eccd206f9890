/* lru.h - the settings of the Linear Recurrent Unit. */
#ifndef KR_LRU_H
#define KR_LRU_H

#include <string.h>

#include "mixers/mixer.h"

typedef enum kr_lru_mixing { KR_LRU_GLU, KR_LRU_HALF_GLU, KR_LRU_NO_MIXING } kr_lru_mixing;

typedef struct kr_lru {
    int64_t state; /* complex lanes N */
    double r_min, r_max, max_phase;
    int mixing; /* kr_lru_mixing */
} kr_lru;

static inline kr_lru kr_lru_of(const kr_config *c) {
    kr_lru s;
    memcpy(&s, c->settings, sizeof s);
    return s;
}

#endif
