/* config.c - what a model is: defaults, derived values, checks, and config.json in the dialect that
 * fits. The dialects themselves are files of their own (dialect.h). */
#include "models/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "mixers/mixer.h"
#include "models/dialect.h"

#define MAX_CONFIG ((size_t)1 << 20)

/* Bounds that no model comes near and under which no product of two sizes (times layers) leaves 63
 * bits; a mixer with a size that is a product itself bounds that (mamba3). */
enum { MAX_LAYERS = 4096, MAX_WIDTH = 1 << 20 };

const kr_setting kr_config_settings[] = {
    KR_SETTING_TEXT_OF(kr_config, mixer, NULL, "the mixer of every layer"),
    KR_SETTING_INT_OF(kr_config, layers, 4, 1, MAX_LAYERS, "number of layers"),
    KR_SETTING_INT_OF(kr_config, width, 128, 1, MAX_WIDTH, "width of the residual stream"),
    KR_SETTING_REAL_OF(kr_config, norm_eps, 1e-5, 1e-30, 1, "epsilon of the norms"),
    KR_SETTING_CHOICE_OF(kr_config, norm, KR_NORM_RMS, "rmsnorm|layernorm",
                         "the norms; layernorm takes the mean away too, and has a bias"),
    KR_SETTING_CHOICE_OF(kr_config, norm_place, KR_NORM_BEFORE, "before|after",
                         "the norms stand before each part of a layer, or behind its sum"),
    KR_SETTING_BOOL_OF(kr_config, bidirectional, false,
                       "a second mixer in each layer reads sequences from behind"),
    KR_SETTING_BOOL_OF(kr_config, sequence_norm, false,
                       "mixers read channels of mean 0 and mean size 1 over each sequence"),
    KR_SETTING_CHOICE_OF(kr_config, channel_mixer, KR_CHANNEL_NONE, "none|mlp|glu|gated_mlp",
                         "what follows the mixer in each layer"),
    KR_SETTING_INT_OF(kr_config, channel_width, 0, 0, 4 * MAX_WIDTH,
                      "inner width of mlp and gated_mlp; 0: 4 and 8/3 times the width"),
    KR_SETTING_BOOL_OF(kr_config, tied, true, "the head is the embedding"),
    KR_SETTING_INT_OF(kr_config, channels, 0, 0, MAX_WIDTH,
                      "numbers of each row of the input; 0: the input is ids"),
    KR_SETTING_INT_OF(kr_config, classes, 0, 0, KR_LARGEST_VOCABULARY,
                      "classes that the head tells; 0: it predicts the next id"),
    KR_SETTING_INT_OF(kr_config, numbers, 0, 0, 1 << 16,
                      "numbers that the head tells, instead: a regression"),
    KR_SETTING_CHOICE_OF(kr_config, pooling, KR_POOL_MEAN, "mean|last|every",
                         "the rows that a head with classes or numbers reads"),
    {.name = NULL}};

#define KR_DIALECT(name) extern const kr_dialect kr_dialect_##name;
#include "models/dialects.def"
#undef KR_DIALECT

#define KR_DIALECT(name) &kr_dialect_##name,
static const kr_dialect *const dialects[] = {
#include "models/dialects.def"
    NULL};
#undef KR_DIALECT

/* ---- making ---- */

void kr_config_default(kr_config *c, const char *mixer) {
    const kr_mixer *m = kr_mixer_find(mixer);
    *c = (kr_config){.bos = -1, .eos = -1, .pad = -1};
    kr_settings_default(kr_config_settings, c);
    snprintf(c->mixer, sizeof c->mixer, "%s", mixer);
    if (m) kr_settings_default(m->settings, c->settings);
}

static int no_mixer(const char *name, krait_error *e) {
    char known[200] = "";
    for (int i = 0; kr_mixers[i]; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", kr_mixers[i]->name);
    }
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "there is no mixer called \"%.40s\"; known are %s",
                   name, known);
}

static const kr_dialect *dialect_for(const kr_config *c) {
    for (int i = 0; dialects[i]; i++)
        if (dialects[i]->holds && dialects[i]->holds(c)) return dialects[i];
    return NULL;
}

/* 4 D; of the gated one as many weights, in eights. */
static void fill_channels(kr_config *c) {
    if (c->channel_width) return;
    if (c->channel_mixer == KR_CHANNEL_MLP) c->channel_width = 4 * c->width;
    if (c->channel_mixer == KR_CHANNEL_GATED_MLP) c->channel_width = (c->width + 2) / 3 * 8;
}

int kr_config_finish(kr_config *c, const char *from, krait_error *e) {
    const kr_mixer *m = kr_mixer_find(c->mixer);
    if (!m) {
        int rc = no_mixer(c->mixer, e);
        kr_fail_prefix(e, "%s", from);
        return rc;
    }
    KR_TRY(kr_settings_check(kr_config_settings, c, from, e));
    KR_TRY(kr_settings_check(m->settings, c->settings, from, e));
    fill_channels(c);
    if (m->fill) m->fill(c);
    if (!c->architecture[0])
        snprintf(c->architecture, sizeof c->architecture, "%s", dialect_for(c)->architecture);
    int rc = kr_config_check(c, e);
    if (rc < 0) kr_fail_prefix(e, "%s", from);
    return rc;
}

static int set_pair(kr_config *c, const kr_mixer *m, const char *pair, krait_error *e) {
    const kr_setting *k = kr_settings_find(kr_config_settings, pair, strcspn(pair, "="));
    if (k) return kr_settings_assign(kr_config_settings, c, pair, "settings", "a model", e);
    return kr_settings_assign(m->settings, c->settings, pair, "settings", c->mixer, e);
}

int kr_config_make(kr_config *c, const char *mixer, int64_t width, int64_t layers,
                   int64_t vocabulary, const char *settings, krait_error *e) {
    char text[400], *rest, *pair;
    const kr_mixer *m = kr_mixer_find(mixer);
    if (!m) return no_mixer(mixer, e);
    kr_config_default(c, mixer);
    c->width = width;
    c->layers = layers;
    c->vocabulary = c->vocabulary_used = vocabulary;
    if (settings && strlen(settings) >= sizeof text)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "settings are longer than %zu bytes", sizeof text);
    snprintf(text, sizeof text, "%s", settings ? settings : "");
    for (rest = text; (pair = strtok_r(rest, " ", &rest));) KR_TRY(set_pair(c, m, pair, e));
    return kr_config_finish(c, "settings", e);
}

const char *kr_config_variant(const char *mixer, int i, char text[KR_VARIANT_TEXT]) {
    static const char *const layers[] = {"channel_mixer=mlp channel_width=7",
                                         "channel_mixer=glu norm_place=after",
                                         "channel_mixer=gated_mlp tied=false norm=layernorm",
                                         "norm=layernorm norm_place=after", NULL};
    const char *const *own = kr_mixer_find(mixer)->variants;
    int n = 0;
    while (own[n]) n++;
    if (i < n) return own[i];
    if (!layers[i - n]) return NULL;
    snprintf(text, KR_VARIANT_TEXT, "%s %s", own[0], layers[i - n]);
    return text;
}

/* The setting of a mixer in continuous time: Mamba-3's "rate" is another thing. NULL: none. */
static const kr_setting *rate_of(const kr_mixer *m) {
    const kr_setting *k = m ? kr_settings_find(m->settings, "rate", 4) : NULL;
    return k && k->kind == KR_SETTING_REAL ? k : NULL;
}

int kr_config_resample(kr_config *c, double rate, krait_error *e) {
    char names[200] = "";
    const kr_mixer *m = kr_mixer_find(c->mixer);
    const kr_setting *k = rate_of(m);
    if (!(rate > 0) || isinf(rate))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "rate must be above 0, is %g", rate);
    if (k) {
        double now;
        memcpy(&now, c->settings + k->at, sizeof now);
        now *= rate;
        memcpy(c->settings + k->at, &now, sizeof now);
        return kr_settings_check(m->settings, c->settings, "rate", e);
    }
    for (int i = 0; kr_mixers[i]; i++) {
        size_t used = strlen(names);
        if (rate_of(kr_mixers[i]))
            snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "",
                     kr_mixers[i]->name);
    }
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "mixer %s is no system in continuous time, it has no rate; these have one: %s",
                   c->mixer, names);
}

int kr_config_override(kr_config *c, const char *assignment, krait_error *e) {
    char names[200] = "";
    if (!assignment) return kr_fail_null(e, "settings");
    size_t n = strcspn(assignment, "=");
    const kr_mixer *m = kr_mixer_find(c->mixer);
    for (const char *const *name = m->unseen; name && *name; name++) {
        size_t used = strlen(names);
        if (strlen(*name) == n && memcmp(*name, assignment, n) == 0) {
            KR_TRY(
                kr_settings_assign(m->settings, c->settings, assignment, "settings", m->name, e));
            return kr_config_check(c, e);
        }
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", *name);
    }
    return kr_fail(e, KRAIT_ERR_ARGUMENT,
                   "settings: \"%.60s\": of mixer %s only what its weights do not tell can be set: "
                   "%s",
                   assignment, m->name, *names ? names : "nothing");
}

/* ---- checking ---- */

static int check_range(const char *what, int64_t value, int64_t least, int64_t most,
                       krait_error *e) {
    if (value >= least && value <= most) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s is %lld, must lie between %lld and %lld", what,
                   (long long)value, (long long)least, (long long)most);
}

static int check_ends(const kr_config *c, krait_error *e) {
    if (c->classes > 0 && c->numbers > 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "a head tells classes (%lld) or numbers (%lld)",
                       (long long)c->classes, (long long)c->numbers);
    if (c->channels > 0 && kr_config_tells(c) == 0)
        return kr_fail(
            e, KRAIT_ERR_ARGUMENT,
            "channels is %lld, a model that reads numbers needs classes or numbers to tell",
            (long long)c->channels);
    if (c->pooling != KR_POOL_MEAN && kr_config_tells(c) == 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "pooling has no effect: the head predicts ids, classes and numbers are 0");
    int64_t least = c->channels > 0 ? 0 : 1; /* without ids there is no embedding */
    KR_TRY(check_range("the vocabulary", c->vocabulary, least, KR_LARGEST_VOCABULARY, e));
    return check_range("the used vocabulary", c->vocabulary_used, least, c->vocabulary, e);
}

static int check_block(const kr_config *c, krait_error *e) {
    if (c->bidirectional && kr_config_tells(c) == 0)
        return kr_fail(
            e, KRAIT_ERR_ARGUMENT,
            "bidirectional needs classes or numbers: what predicts ids may not see them");
    if (c->sequence_norm && !c->bidirectional)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "sequence_norm needs bidirectional: its means are of rows to come too");
    bool wide = c->channel_mixer == KR_CHANNEL_MLP || c->channel_mixer == KR_CHANNEL_GATED_MLP;
    if (wide && c->channel_width < 1)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "channel_width must be 1 or more");
    if (!wide && c->channel_width)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "channel_width (%lld) has no effect: channel_mixer is not mlp or gated_mlp",
                       (long long)c->channel_width);
    return 0;
}

bool kr_config_is_plain(const kr_config *c) {
    return c->channels == 0 && kr_config_tells(c) == 0 && c->norm == KR_NORM_RMS &&
           c->norm_place == KR_NORM_BEFORE && c->channel_mixer == KR_CHANNEL_NONE;
}

int kr_config_check(const kr_config *c, krait_error *e) {
    const kr_mixer *m = kr_mixer_find(c->mixer);
    if (!m) return no_mixer(c->mixer, e);
    KR_TRY(kr_settings_check(kr_config_settings, c, "model", e));
    KR_TRY(kr_settings_check(m->settings, c->settings, m->name, e));
    KR_TRY(check_ends(c, e));
    KR_TRY(check_block(c, e));
    KR_TRY(check_range("bos_token_id", c->bos, -1, c->vocabulary - 1, e));
    KR_TRY(check_range("eos_token_id", c->eos, -1, c->vocabulary - 1, e));
    KR_TRY(check_range("pad_token_id", c->pad, -1, c->vocabulary - 1, e));
    return m->check ? m->check(c, e) : 0;
}

/* ---- which dialect is it ---- */

static int unknown(const char *path, const char *name, krait_error *e) {
    return kr_fail(
        e, KRAIT_ERR_UNSUPPORTED,
        "%s: unknown architecture %.100s; known are mamba (MambaForCausalLM), falcon_mamba "
        "(FalconMambaForCausalLM), mamba2 (Mamba2ForCausalLM), the state-spaces layout (d_model, "
        "n_layer) and krait (KraitForCausalLM)",
        path, name);
}

static bool names(const kr_dialect *d, const char *type, const char *architecture) {
    if (!d->model_type) return false;
    return type ? strcmp(type, d->model_type) == 0
                : architecture && strcmp(architecture, d->architecture) == 0;
}

/* By what is special to it, by "model_type", or by "architectures" where that is absent; both must
 * agree. */
static int find_dialect(const json_t *json, const char *path, const kr_dialect **out,
                        krait_error *e) {
    const char *type = NULL;
    *out = NULL;
    for (int i = 0; dialects[i]; i++)
        if (dialects[i]->is && dialects[i]->is(json)) *out = dialects[i];
    if (*out) return 0;
    KR_TRY(kr_json_string(json, "model_type", &type, path, e));
    const char *architecture =
        json_string_value(json_array_get(json_object_get(json, "architectures"), 0));
    for (int i = 0; dialects[i] && !*out; i++)
        if (names(dialects[i], type, architecture)) *out = dialects[i];
    if (*out && (!architecture || strcmp(architecture, (*out)->architecture) == 0)) return 0;
    if (*out || !type) return unknown(path, architecture ? architecture : "(none is named)", e);
    return unknown(path, type, e);
}

/* ---- reading and writing ---- */

static int read_object(kr_config *c, const json_t *json, const char *path, krait_error *e) {
    const kr_dialect *d;
    if (!json_is_object(json)) return kr_fail(e, KRAIT_ERR_FORMAT, "%s: not an object", path);
    KR_TRY(find_dialect(json, path, &d, e));
    kr_reader r = {json, path, e, 0};
    d->read(&r, c);
    if (r.rc == 0) {
        snprintf(c->architecture, sizeof c->architecture, "%s", d->architecture);
        r.rc = kr_config_finish(c, path, e);
    }
    if (r.rc == KRAIT_ERR_ARGUMENT)
        r.rc = KRAIT_ERR_FORMAT; /* the file's fault, not the caller's */
    if (e && r.rc < 0) e->code = (krait_err)r.rc;
    return r.rc;
}

int kr_config_read_bytes(kr_config *c, const char *text, size_t size, const char *path,
                         krait_error *e) {
    json_t *json;
    KR_TRY(kr_json_parse(&json, text, size, path, e));
    int rc = read_object(c, json, path, e);
    json_decref(json);
    return rc;
}

int kr_config_read(kr_config *c, const char *path, krait_error *e) {
    json_t *json;
    KR_TRY(kr_json_load(&json, path, MAX_CONFIG, e));
    int rc = read_object(c, json, path, e);
    json_decref(json);
    return rc;
}

static int write_in(const kr_dialect *d, const kr_config *c, const char *path, const char *dtype,
                    krait_error *e) {
    json_t *json = d->make(c, dtype);
    int rc = json ? kr_json_write(json, path, e) : kr_fail_memory(e, path);
    json_decref(json);
    return rc;
}

int kr_config_write(const kr_config *c, const char *path, const char *dtype, krait_error *e) {
    KR_TRY(kr_config_check(c, e));
    return write_in(dialect_for(c), c, path, dtype, e);
}

/* NULL: it has no words for this model. */
static const kr_dialect *state_spaces_for(const kr_config *c, const char *path, krait_error *e) {
    for (int i = 0; dialects[i]; i++) {
        if (!dialects[i]->mixer || strcmp(dialects[i]->mixer, c->mixer) != 0) continue;
        const char *lacks = dialects[i]->lacks(c);
        if (!lacks) return dialects[i];
        kr_fail(e, KRAIT_ERR_UNSUPPORTED, "%s: the state-spaces layout cannot say %s", path, lacks);
        return NULL;
    }
    kr_fail(e, KRAIT_ERR_UNSUPPORTED,
            "%s: the state-spaces layout is of mixers mamba1 to mamba3, this model is %s", path,
            c->mixer);
    return NULL;
}

int kr_config_check_state_spaces(const kr_config *c, const char *path, krait_error *e) {
    KR_TRY(kr_config_check(c, e));
    return state_spaces_for(c, path, e) ? 0 : KRAIT_ERR_UNSUPPORTED;
}

int kr_config_write_state_spaces(const kr_config *c, const char *path, krait_error *e) {
    KR_TRY(kr_config_check_state_spaces(c, path, e));
    return write_in(state_spaces_for(c, path, e), c, path, NULL, e);
}
