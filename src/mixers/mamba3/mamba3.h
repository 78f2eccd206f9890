/* mamba3.h - the settings of the Mamba-3 mixer. */
#ifndef KR_MAMBA3_H
#define KR_MAMBA3_H

#include <string.h>

#include "mixers/mixer.h"
#include "ops/trapezoid/trapezoid.h"

typedef struct kr_mamba3 {
    int64_t expand, inner, head_dim, state, groups;
    int64_t rank;                    /* 0: SISO; from 1 on: MIMO of that rank */
    int turned;                      /* kr_mamba3_turned */
    int rate;                        /* kr_rate: how the decay rate comes out of its projection */
    bool out_norm;                   /* a norm of each head in front of the gate */
    double dt_min, dt_max, dt_floor; /* of the initial step sizes */
    double a_floor;                  /* no decay rate is below */
} kr_mamba3;

/* The share of the state that turns. */
typedef enum kr_mamba3_turned { KR_MAMBA3_HALF, KR_MAMBA3_ALL } kr_mamba3_turned;

static inline kr_mamba3 kr_mamba3_of(const kr_config *c) {
    kr_mamba3 s;
    memcpy(&s, c->settings, sizeof s);
    return s;
}

static inline int64_t kr_mamba3_heads(const kr_mamba3 *s) { return s->inner / s->head_dim; }
static inline int64_t kr_mamba3_ranks(const kr_mamba3 *s) { return s->rank > 0 ? s->rank : 1; }
/* Pairs of state numbers that turn. */
static inline int64_t kr_mamba3_angles(const kr_mamba3 *s) {
    return (s->turned == KR_MAMBA3_ALL ? s->state : s->state / 2) / 2;
}

#endif
