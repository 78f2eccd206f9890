/* dialect_krait.c - Krait's own config.json, for models that no other program knows: the settings
 * of every model and of its mixer, by their names in the tables, flat.
 *
 *   {"model_type": "krait", "architectures": ["KraitForCausalLM"], "mixer": "lru", "layers": 4,
 *    "width": 192, "vocabulary": 264, "state": 128, ...}
 *
 * A setting that is absent has its default; a member that nobody knows is refused. */
#include <string.h>

#include "base/err.h"
#include "mixers/mixer.h"
#include "models/dialect.h"

/* What the tables do not hold. */
static const char *const others[] = {
    "architectures",         "model_type",          "dtype",
    "torch_dtype",           "vocabulary",          "bos_token_id",
    "eos_token_id",          "pad_token_id",        "krait_tokenizer",
    "krait_vocabulary_used", "transformers_version"};

static bool is_other(const char *key) {
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(key, others[i]) == 0) return true;
    return false;
}

static void need(kr_reader *r, const char *key) {
    if (r->rc == 0 && !json_object_get(r->json, key))
        r->rc = kr_fail(r->e, KRAIT_ERR_FORMAT, "%s: \"%s\" is missing", r->path, key);
}

static bool known(const kr_setting *table, const char *key) {
    return kr_settings_find(table, key, strlen(key)) != NULL;
}

static void read_members(kr_reader *r, const kr_mixer *m, kr_config *c) {
    const char *key;
    json_t *unused;
    json_object_foreach((json_t *)(uintptr_t)r->json, key, unused) {
        if (is_other(key)) continue;
        if (known(m->settings, key) || known(kr_config_settings, key)) {
            kr_read_setting(r, key, c, key);
            continue;
        }
        char near[200] = "";
        kr_settings_near(m->settings, key, near, sizeof near);
        if (r->rc == 0)
            r->rc = kr_fail(r->e, KRAIT_ERR_FORMAT, "%s: mixer %s has no setting \"%.60s\"%s%s",
                            r->path, m->name, key, *near ? "; did you mean: " : "", near);
    }
}

static void read(kr_reader *r, kr_config *c) {
    const char *name = "";
    need(r, "mixer");
    kr_read_text(r, "mixer", &name);
    kr_config_default(c, name);
    const kr_mixer *m = kr_mixer_find(name);
    if (r->rc < 0 || !m) return; /* kr_config_finish refuses it, and says which there are */
    need(r, "layers");
    need(r, "width");
    need(r, "vocabulary");
    read_members(r, m, c);
    kr_read_int(r, "vocabulary", &c->vocabulary);
    kr_read_extras(r, c);
    kr_read_tokens(r, -1, c);
}

static bool holds(const kr_config *c) { return c->mixer[0] != 0; }

static json_t *make(const kr_config *c, const char *dtype) {
    const kr_mixer *m = kr_mixer_find(c->mixer);
    json_t *json =
        json_pack("{s:[s], s:s, s:s, s:I}", "architectures", "KraitForCausalLM", "model_type",
                  "krait", "dtype", dtype, "vocabulary", (json_int_t)c->vocabulary);
    if (json && kr_settings_write(kr_config_settings, c, json) == 0 &&
        kr_settings_write(m->settings, c->settings, json) == 0 &&
        kr_dialect_add_tokens(json, c) == 0 && kr_dialect_add_extras(json, c) == 0)
        return json;
    json_decref(json);
    return NULL;
}

const kr_dialect kr_dialect_krait = {
    .model_type = "krait",
    .architecture = "KraitForCausalLM",
    .read = read,
    .holds = holds,
    .make = make,
};
