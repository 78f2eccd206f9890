/* dialect.h - a dialect of config.json: which files it knows, how it reads and writes them. One
 * const kr_dialect, in a file of its own beside this one, and a line in dialects.def. */
#ifndef KR_DIALECT_H
#define KR_DIALECT_H

#include "base/json.h"
#include "models/config.h"

/* A document that is being read: the members are read one after another, the first failure sticks.
 */
typedef struct kr_reader {
    const json_t *json;
    const char *path;
    krait_error *e;
    int rc;
} kr_reader;

/* An absent or null member leaves the value. */
void kr_read_int(kr_reader *r, const char *key, int64_t *value);
void kr_read_real(kr_reader *r, const char *key, double *value);
void kr_read_bool(kr_reader *r, const char *key, bool *value);
void kr_read_text(kr_reader *r, const char *key, const char **value);
/* A setting by Krait's name, of every model or of c's mixer, from the member `key`. */
void kr_read_setting(kr_reader *r, const char *key, kr_config *c, const char *setting);
/* What a dialect calls a setting. */
typedef struct kr_dialect_key {
    const char *key, *setting;
} kr_dialect_key;
void kr_read_settings(kr_reader *r, const kr_dialect_key *keys, size_t n, kr_config *c);
/* bos, eos and pad: null and negative: none. A list: its first. Absent: `absent`. */
void kr_read_tokens(kr_reader *r, int64_t absent, kr_config *c);
/* What Krait adds to a dialect: the byte tokenizer, and how many ids exist. */
void kr_read_extras(kr_reader *r, kr_config *c);
void kr_read_refuse(kr_reader *r, const char *reason);

/* The layout of state-spaces/mamba: d_model, n_layer, ssm_cfg. What every layer of it has: sizes,
 * vocabulary with its padding; what cannot be is refused. */
bool kr_dialect_is_state_spaces(const json_t *json);
void kr_read_state_spaces(kr_reader *r, kr_config *c);
const char *kr_state_spaces_lacks(const kr_config *c);
/* Is it of layers called `layer` in its ssm_cfg? */
bool kr_dialect_has_layer(const json_t *json, const char *layer);
/* Begins to read "ssm_cfg" of the model `of`: all of keys; its other members must be among
 * `others`. The rest is read from what is returned, whose rc is the outer one's at the end. */
kr_reader kr_read_ssm_cfg(const kr_reader *outer, const kr_dialect_key *keys, size_t n_keys,
                          const char *const *others, size_t n_others, const char *of, kr_config *c);
/* Takes over ssm_cfg, which may be NULL (no memory). */
json_t *kr_make_state_spaces(const kr_config *c, json_t *ssm_cfg);

/* "float32" and so on into both members that transformers knows; tokens; extras: 0, or -1. */
int kr_dialect_add_tokens(json_t *json, const kr_config *c);
int kr_dialect_add_extras(json_t *json, const kr_config *c);

typedef struct kr_dialect {
    const char *model_type, *architecture; /* as the file has them; NULL: `is` tells */
    bool (*is)(const json_t *json);
    void (*read)(kr_reader *r, kr_config *c);
    /* Can this dialect say all of c? NULL: it is written where it is asked for by name, or never */
    bool (*holds)(const kr_config *c);
    /* Of the state-spaces layout alone. Of whose layers; and what of c it cannot say (NULL:
     * nothing) */
    const char *mixer;
    const char *(*lacks)(const kr_config *c);
    json_t *(*make)(const kr_config *c, const char *dtype); /* NULL: no memory */
} kr_dialect;

#define KR_LARGEST_VOCABULARY (1 << 24)

#endif
