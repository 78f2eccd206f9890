/* dialect.c - what the dialects of config.json share: members read one after another, tokens,
 * Krait's own additions. */
#include "models/dialect.h"

#include <string.h>

#include "base/err.h"
#include "mixers/mixer.h"

#define BYTES_KEY "krait_tokenizer"
#define USED_KEY "krait_vocabulary_used"

void kr_read_int(kr_reader *r, const char *key, int64_t *value) {
    if (r->rc == 0) r->rc = kr_json_int(r->json, key, value, r->path, r->e);
}

void kr_read_real(kr_reader *r, const char *key, double *value) {
    if (r->rc == 0) r->rc = kr_json_real(r->json, key, value, r->path, r->e);
}

void kr_read_bool(kr_reader *r, const char *key, bool *value) {
    if (r->rc == 0) r->rc = kr_json_bool(r->json, key, value, r->path, r->e);
}

void kr_read_text(kr_reader *r, const char *key, const char **value) {
    if (r->rc == 0) r->rc = kr_json_string(r->json, key, value, r->path, r->e);
}

void kr_read_refuse(kr_reader *r, const char *reason) {
    if (r->rc == 0) r->rc = kr_fail(r->e, KRAIT_ERR_UNSUPPORTED, "%s: %s", r->path, reason);
}

void kr_read_setting(kr_reader *r, const char *key, kr_config *c, const char *setting) {
    const json_t *v = json_object_get(r->json, key);
    const kr_mixer *m = kr_mixer_find(c->mixer);
    if (r->rc < 0 || !v || json_is_null(v)) return;
    const kr_setting *k = m ? kr_settings_find(m->settings, setting, strlen(setting)) : NULL;
    void *place = c->settings;
    if (!k) {
        k = kr_settings_find(kr_config_settings, setting, strlen(setting));
        place = c;
    }
    kr_setting renamed = k ? *k : (kr_setting){0};
    renamed.name = key; /* for messages */
    r->rc = k ? kr_setting_take(&renamed, place, v, r->path, r->e)
              : kr_fail(r->e, KRAIT_ERR_UNSUPPORTED, "%s: mixer %s has no %s", r->path, c->mixer,
                        setting);
}

void kr_read_settings(kr_reader *r, const kr_dialect_key *keys, size_t n, kr_config *c) {
    for (size_t i = 0; i < n; i++) kr_read_setting(r, keys[i].key, c, keys[i].setting);
}

/* ---- tokens and extras ---- */

static void read_token(kr_reader *r, const char *key, int64_t absent, int32_t *id) {
    const json_t *v = json_object_get(r->json, key);
    if (json_is_array(v)) v = json_array_get(v, 0);
    int64_t value = v ? -1 : absent;
    if (json_is_integer(v)) value = json_integer_value(v);
    if (v && !json_is_integer(v) && !json_is_null(v))
        kr_read_refuse(r, "a token id is not an integer");
    if (value >= KR_LARGEST_VOCABULARY) kr_read_refuse(r, "a token id lies outside any vocabulary");
    *id = value < 0 || value >= KR_LARGEST_VOCABULARY ? -1 : (int32_t)value;
}

void kr_read_tokens(kr_reader *r, int64_t absent, kr_config *c) {
    read_token(r, "bos_token_id", absent, &c->bos);
    read_token(r, "eos_token_id", absent, &c->eos);
    read_token(r, "pad_token_id", absent, &c->pad);
}

void kr_read_extras(kr_reader *r, kr_config *c) {
    const char *tokenizer = "";
    kr_read_text(r, BYTES_KEY, &tokenizer);
    c->bytes = strcmp(tokenizer, "bytes") == 0;
    if (tokenizer[0] && !c->bytes)
        kr_read_refuse(r, "\"" BYTES_KEY "\" is something other than \"bytes\"");
    c->vocabulary_used = c->vocabulary;
    kr_read_int(r, USED_KEY, &c->vocabulary_used);
}

static int add_token(json_t *json, const char *key, int32_t id) {
    return json_object_set_new(json, key, id < 0 ? json_null() : json_integer(id));
}

int kr_dialect_add_tokens(json_t *json, const kr_config *c) {
    return add_token(json, "bos_token_id", c->bos) || add_token(json, "eos_token_id", c->eos) ||
                   add_token(json, "pad_token_id", c->pad)
               ? -1
               : 0;
}

int kr_dialect_add_extras(json_t *json, const kr_config *c) {
    if (c->bytes && json_object_set_new(json, BYTES_KEY, json_string("bytes")) != 0) return -1;
    if (c->vocabulary_used == c->vocabulary) return 0;
    return json_object_set_new(json, USED_KEY, json_integer(c->vocabulary_used));
}

/* ---- the state-spaces layout, whatever its layers are ---- */

bool kr_dialect_is_state_spaces(const json_t *json) {
    return !json_object_get(json, "model_type") && json_object_get(json, "d_model") &&
           json_object_get(json, "n_layer");
}

bool kr_dialect_has_layer(const json_t *json, const char *layer) {
    const char *is = json_string_value(json_object_get(json_object_get(json, "ssm_cfg"), "layer"));
    return kr_dialect_is_state_spaces(json) && is && strcmp(is, layer) == 0;
}

kr_reader kr_read_ssm_cfg(const kr_reader *outer, const kr_dialect_key *keys, size_t n_keys,
                          const char *const *others, size_t n_others, const char *of,
                          kr_config *c) {
    const json_t *json = json_object_get(outer->json, "ssm_cfg");
    const char *key;
    json_t *unused;
    kr_reader r = {json, outer->path, outer->e, outer->rc};
    if (json && !json_is_object(json)) kr_read_refuse(&r, "\"ssm_cfg\" is not an object");
    json_object_foreach((json_t *)(uintptr_t)json, key, unused) {
        bool known = false;
        for (size_t i = 0; i < n_keys; i++) known |= strcmp(key, keys[i].key) == 0;
        for (size_t i = 0; i < n_others; i++) known |= strcmp(key, others[i]) == 0;
        if (!known && r.rc == 0)
            r.rc =
                kr_fail(r.e, KRAIT_ERR_UNSUPPORTED,
                        "%s: \"ssm_cfg\" has a key that %s does not know: %.60s", r.path, of, key);
    }
    kr_read_settings(&r, keys, n_keys, c);
    return r;
}

/* Rows of the embedding: the vocabulary rounded up to a multiple. */
static void pad_vocabulary(kr_reader *r, kr_config *c) {
    int64_t multiple = 8;
    kr_read_int(r, "pad_vocab_size_multiple", &multiple);
    if (multiple < 1 || multiple > 65536)
        kr_read_refuse(r, "\"pad_vocab_size_multiple\" is absurd");
    if (r->rc < 0 || c->vocabulary < 1 || c->vocabulary > KR_LARGEST_VOCABULARY) return;
    c->vocabulary_used = c->vocabulary;
    c->vocabulary = (c->vocabulary + multiple - 1) / multiple * multiple;
}

enum { MLP_MULTIPLE = 128 }; /* the original code rounds the width of its MLP up to one */

/* 0: none; else a gated one. */
static void set_channel_mixer(kr_reader *r, int64_t width, kr_config *c) {
    enum { MOST = 1 << 20 };
    if (width < 0 || width > MOST) kr_read_refuse(r, "\"d_intermediate\" is not from 0 to 1048576");
    if (width == 0 || r->rc < 0) return;
    c->channel_mixer = KR_CHANNEL_GATED_MLP;
    c->channel_width = (width + MLP_MULTIPLE - 1) / MLP_MULTIPLE * MLP_MULTIPLE;
}

void kr_read_state_spaces(kr_reader *r, kr_config *c) {
    bool rms_norm = true;
    int64_t mlp = 0;
    kr_read_setting(r, "d_model", c, "width");
    kr_read_setting(r, "n_layer", c, "layers");
    kr_read_setting(r, "tie_embeddings", c, "tied");
    kr_read_int(r, "vocab_size", &c->vocabulary);
    kr_read_bool(r, "rms_norm", &rms_norm);
    kr_read_int(r, "d_intermediate", &mlp);
    set_channel_mixer(r, mlp, c);
    if (!rms_norm) kr_read_refuse(r, "\"rms_norm\" is false: LayerNorm is not supported");
    if (json_array_size(json_object_get(r->json, "attn_layer_idx")) > 0)
        kr_read_refuse(r, "\"attn_layer_idx\" is not empty: attention layers are not supported");
    pad_vocabulary(r, c);
}

/* What its vocabulary is padded to a multiple of; 0: no multiple makes this one. */
static int64_t padding_of(const kr_config *c) {
    int64_t used = c->vocabulary_used, whole = c->vocabulary;
    if (used == whole) return 1;
    for (int64_t m = 8; m <= 65536; m *= 2)
        if ((used + m - 1) / m * m == whole) return m;
    for (int64_t m = 2; m <= 65536; m++)
        if ((used + m - 1) / m * m == whole) return m;
    return 0;
}

const char *kr_state_spaces_lacks(const kr_config *c) {
    if (c->channels > 0 || c->classes > 0 || c->numbers > 0)
        return "an end other than the next id (channels, classes, numbers)";
    kr_config rest = *c;
    bool gated = c->channel_mixer == KR_CHANNEL_GATED_MLP;
    if (gated && c->channel_width % MLP_MULTIPLE != 0)
        return "a channel_width that is no multiple of 128";
    if (gated) rest.channel_mixer = KR_CHANNEL_NONE;
    if (!kr_config_is_plain(&rest))
        return "layers other than rmsnorm, mixer and gated_mlp in front of their sums";
    if (c->norm_eps != 1e-5) return "norm_eps other than 1e-5";
    return padding_of(c) ? NULL : "a vocabulary that is no padded multiple of what is used of it";
}

json_t *kr_make_state_spaces(const kr_config *c, json_t *ssm_cfg) {
    if (!ssm_cfg) return NULL;
    return json_pack("{s:I, s:I, s:I, s:I, s:o, s:[], s:{}, s:b, s:b, s:b, s:I, s:b}", "d_model",
                     (json_int_t)c->width, "d_intermediate", (json_int_t)c->channel_width,
                     "n_layer", (json_int_t)c->layers, "vocab_size", (json_int_t)c->vocabulary_used,
                     "ssm_cfg", ssm_cfg, "attn_layer_idx", "attn_cfg", "rms_norm", 1,
                     "residual_in_fp32", 1, "fused_add_norm", 1, "pad_vocab_size_multiple",
                     (json_int_t)padding_of(c), "tie_embeddings", (int)c->tied);
}
