/* mamba2.h - the settings of the Mamba-2 mixer. */
#ifndef KR_MAMBA2_H
#define KR_MAMBA2_H

#include <string.h>

#include "mixers/mixer.h"

typedef struct kr_mamba2 {
    int64_t expand, inner, ssm, head_dim, state, groups, kernel;
    bool conv_bias, linear_bias;
    bool gated_norm, norm_before_gate, skip_per_channel;
    double dt_min, dt_max, dt_floor; /* of the initial step sizes */
    double dt_least, dt_most;        /* step sizes are clamped; dt_most 0: to nothing above */
    double a_min, a_max;             /* of the initial decay rates */
    double conv_init;                /* bound of the initial filter; 0: 1/sqrt(kernel) */
} kr_mamba2;

static inline kr_mamba2 kr_mamba2_of(const kr_config *c) {
    kr_mamba2 s;
    memcpy(&s, c->settings, sizeof s);
    return s;
}

static inline int64_t kr_mamba2_heads(const kr_mamba2 *s) { return s->ssm / s->head_dim; }
/* Channels of the convolution: x, B and C. */
static inline int64_t kr_mamba2_mixed(const kr_mamba2 *s) {
    return s->ssm + 2 * s->groups * s->state;
}

#endif
