/* linear_attention.h - the settings of the linear attention mixer. */
#ifndef KR_LINEAR_ATTENTION_H
#define KR_LINEAR_ATTENTION_H

#include <string.h>

#include "mixers/mixer.h"

typedef enum kr_attention_block {
    KR_BLOCK_ATTENTION, /* keys, queries and values of the input; nothing behind */
    KR_BLOCK_GATED,     /* and a swish gate behind */
    KR_BLOCK_MAMBA      /* convolved values; keys and queries of the values; the gate */
} kr_attention_block;

typedef enum kr_attention_feature { KR_FEATURE_IDENTITY, KR_FEATURE_ELU } kr_attention_feature;

typedef enum kr_attention_decay {
    KR_ATTENTION_KEEPS,    /* none */
    KR_ATTENTION_RETAINS,  /* a constant for each head (RetNet) */
    KR_ATTENTION_GATED,    /* a number for each key channel and token (GLA) */
    KR_ATTENTION_SELECTIVE /* a number for each channel, key channel and token (Mamba) */
} kr_attention_decay;

typedef struct kr_linear_attention {
    int64_t heads, key, value; /* widths of all heads together */
    int64_t rank, kernel;
    int block, feature, decay;
    bool scale_queries, normaliser, input_gate, shortcut, head_norm, rope;
    double gate_divisor, rope_base;
    double dt_min, dt_max, dt_floor; /* of the initial step sizes */
} kr_linear_attention;

static inline kr_linear_attention kr_linear_attention_of(const kr_config *c) {
    kr_linear_attention s;
    memcpy(&s, c->settings, sizeof s);
    return s;
}

/* Whether the gates on input and decay have anything to project: `rank` columns. */
static inline int64_t kr_linear_attention_rank(const kr_linear_attention *s) {
    return s->input_gate || s->decay >= KR_ATTENTION_GATED ? s->rank : 0;
}

#endif
