/* rnn_mixer.h - the settings of the nonlinear recurrences as a mixer. */
#ifndef KR_RNN_MIXER_H
#define KR_RNN_MIXER_H

#include <string.h>

#include "mixers/mixer.h"

typedef struct kr_rnn_settings {
    int64_t state; /* numbers of h: H */
    int cell;      /* kr_rnn_cell */
    double forget_bias;
} kr_rnn_settings;

static inline kr_rnn_settings kr_rnn_of(const kr_config *c) {
    kr_rnn_settings s;
    memcpy(&s, c->settings, sizeof s);
    return s;
}

#endif
