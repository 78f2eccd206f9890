/* mixer.h - what a mixer is: the part of a layer that lets tokens see each other.
 *
 * A mixer is src/mixers/<m>/ with one const kr_mixer, plus a line in mixers.def. It declares its
 * parameters by name while it records its graph (kr_nn_param), so one function is its shapes, its
 * initial values, its file layout and its computation; forward, decode step and training all come
 * from it. */
#ifndef KR_MIXER_H
#define KR_MIXER_H

#include "models/config.h"
#include "nn/nn.h"

typedef struct kr_state_decl {
    const char *name; /* "conv", "ssm" */
    int rank;         /* without the leading slot dimension */
    int64_t shape[KR_MAX_RANK - 1];
} kr_state_decl;

typedef struct kr_mixer {
    const char *name;
    /* What a model of this mixer can set, over a struct of its own that kr_config.settings holds;
     * no name is one of kr_config_settings, none is a text */
    const kr_setting *settings;
    size_t settings_size;
    /* Names of those that change what is computed though no weight's shape tells: they join the
     * model's hash. NULL-ended; NULL: none */
    const char *const *unseen;
    /* Derives what was left open (0: from the width); NULL: nothing can be */
    void (*fill)(kr_config *c);
    /* Refuses what no single range tells; NULL: nothing */
    int (*check)(const kr_config *c, krait_error *e);
    /* Settings worth testing: "state=3 kernel=2"; the first suits a width of 6. NULL-ended */
    const char *const *variants;
    int (*states)(const kr_config *c, kr_state_decl states[KR_MAX_STATES]); /* how many */
    /* Bit i: state i may be bf16 in a half graph (krait_session_options.state_type); others are f32
     */
    uint32_t half_states;
    /* x [M,D], normed -> [M,D], to be added to the residual stream */
    kr_value *(*build)(kr_nn *nn, kr_value *x);
    /* A whole layer in a decode step (nn->step_rows): x [M,D], f32 -> x and what build makes of its
     * norm. NULL, or it returns NULL without recording anything: norm and build do it. */
    kr_value *(*step)(kr_nn *nn, kr_value *x, kr_value *norm);
} kr_mixer;

extern const kr_mixer *const kr_mixers[]; /* NULL-ended */
const kr_mixer *kr_mixer_find(const char *name);

#endif
