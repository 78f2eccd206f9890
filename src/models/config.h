/* config.h - what config.json says about a model: defaults filled in, dialects unified.
 *
 * What every model has is a member of kr_config; what only its mixer has are the bytes of
 * `settings`, a struct that the mixer's table describes (mixers/mixer.h). */
#ifndef KR_CONFIG_H
#define KR_CONFIG_H

#include <krait/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/settings.h"

#define KR_MIXER_SETTINGS 256 /* room for the settings of any mixer */

typedef enum kr_pooling {
    KR_POOL_MEAN, /* the mean of a sequence's rows */
    KR_POOL_LAST, /* its last row */
    KR_POOL_EVERY /* every row: an answer for each */
} kr_pooling;

typedef enum kr_norm { KR_NORM_RMS, KR_NORM_LAYER } kr_norm;
typedef enum kr_norm_place { KR_NORM_BEFORE, KR_NORM_AFTER } kr_norm_place;
typedef enum kr_channel_mixer {
    KR_CHANNEL_NONE,
    KR_CHANNEL_MLP,
    KR_CHANNEL_GLU,
    KR_CHANNEL_GATED_MLP
} kr_channel_mixer;

typedef struct kr_config {
    char architecture[64]; /* "MambaForCausalLM", "FalconMambaForCausalLM", "KraitForCausalLM" */
    char mixer[32];        /* the name of a line of mixers.def: "mamba1" */
    int64_t layers, width;
    int64_t vocabulary;      /* rows of the embedding, padding included */
    int64_t vocabulary_used; /* ids below this exist; = vocabulary when unknown */
    double norm_eps;
    int norm;              /* kr_norm */
    int norm_place;        /* kr_norm_place */
    int channel_mixer;     /* kr_channel_mixer: what follows the mixer in each layer */
    bool bidirectional;    /* a second mixer in each layer reads the rows from behind */
    bool sequence_norm;    /* mixers read channels that are normed over their sequence */
    int64_t channel_width; /* of mlp and gated_mlp, else 0 */
    bool tied;             /* the head is the embedding */
    int64_t channels;      /* > 0: input is rows of so many numbers, not ids */
    int64_t classes;       /* > 0: the head tells classes, not the next id */
    int64_t numbers;       /* > 0: it tells so many numbers */
    int pooling;           /* what such a head reads: kr_pooling */
    int32_t bos, eos, pad; /* -1: none */
    bool bytes;            /* "krait_tokenizer": "bytes": there is no tokenizer.json */
    unsigned char settings[KR_MIXER_SETTINGS];
} kr_config;

/* What the head tells, classes or numbers; 0: the next id. */
static inline int64_t kr_config_tells(const kr_config *c) {
    return c->classes ? c->classes : c->numbers;
}

/* The table of the members above that a user may set: mixer, layers, width, norm_eps, ... */
extern const kr_setting kr_config_settings[];

/* Every value at its default, of this mixer; sets nothing that depends on others. Without a mixer
 * of that name it is the config's name all the same, and kr_config_finish refuses it. */
void kr_config_default(kr_config *c, const char *mixer);
/* Derives what was left open (a setting of 0 that means "from the width") and checks. `from` names
 * the file or whatever else was read, in messages. */
int kr_config_finish(kr_config *c, const char *from, krait_error *e);
/* All in one: settings is NULL or "state=8 tied=false", of the mixer or of every model. */
int kr_config_make(kr_config *c, const char *mixer, int64_t width, int64_t layers,
                   int64_t vocabulary, const char *settings, krait_error *e);

/* Settings worth testing, i from 0 on: the mixer's variants, then its first one in every kind of
 * layer. NULL behind the last. */
#define KR_VARIANT_TEXT 400
const char *kr_config_variant(const char *mixer, int i, char text[KR_VARIANT_TEXT]);

/* A language model of layers of rmsnorm and mixer alone: all that the layouts of other programs can
 * say. */
bool kr_config_is_plain(const kr_config *c);

/* The same model on data whose steps are `rate` times as long: multiplies the setting "rate" of its
 * mixer, which a system in continuous time has and others do not. */
int kr_config_resample(kr_config *c, double rate, krait_error *e);

/* The same weights read otherwise: "name=value", a setting of the mixer that they do not tell
 * (kr_mixer.unseen) and that not every layout's config.json can say. Others are refused. */
int kr_config_override(kr_config *c, const char *assignment, krait_error *e);

/* Refuses sizes that are not positive, absurd, or inconsistent, with one line. */
int kr_config_check(const kr_config *c, krait_error *e);

/* Reads config.json in any dialect of dialects.def: the Hugging Face layout (mamba, falcon_mamba),
 * the state-spaces layout (d_model, n_layer, ssm_cfg), Krait's own; an unknown architecture is
 * refused by name, with the list of the known ones. */
int kr_config_read(kr_config *c, const char *path, krait_error *e);
/* The same from text, for fuzzing; `path` is only for messages. */
int kr_config_read_bytes(kr_config *c, const char *text, size_t size, const char *path,
                         krait_error *e);
/* Writes config.json so that transformers' from_pretrained takes it, where transformers has such a
 * model, else in Krait's dialect. dtype: "float32", "bfloat16", "float16". */
int kr_config_write(const kr_config *c, const char *path, const char *dtype, krait_error *e);
/* The same as the original code of state-spaces wants it; refuses a model that it has no words for,
 * with what that is. The ids of special tokens and the byte tokenizer have no place there. */
int kr_config_check_state_spaces(const kr_config *c, const char *path, krait_error *e);
int kr_config_write_state_spaces(const kr_config *c, const char *path, krait_error *e);

#endif
