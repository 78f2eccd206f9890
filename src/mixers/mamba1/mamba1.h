/* mamba1.h - the settings of the Mamba mixer. */
#ifndef KR_MAMBA1_H
#define KR_MAMBA1_H

#include <string.h>

#include "mixers/mixer.h"

typedef struct kr_mamba1 {
    int64_t expand, inner, state, kernel, dt_rank;
    bool conv_bias, linear_bias;
    bool linear_bias_unsaid; /* config.json is silent on linear_bias: the weights decide */
    double dt_min, dt_max, dt_floor, dt_scale;
    int dt_init;          /* 0 random, 1 constant */
    double mixer_rms_eps; /* > 0: FalconMamba's weightless norms on dt_low, B and C; 0: none */
} kr_mamba1;

static inline kr_mamba1 kr_mamba1_of(const kr_config *c) {
    kr_mamba1 s;
    memcpy(&s, c->settings, sizeof s);
    return s;
}

#endif
