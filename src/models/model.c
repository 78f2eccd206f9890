/* model.c - opening, describing and saving a model. The parts of opening are in model_load.c. */
#include "models/model.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/rng.h"
#include "data/tokenizer/tokenizer.h"
#include "device/device.h"
#include "mixers/mixer.h"
#include "models/lm.h"

/* ---- what belongs to a model besides its weights ---- */

/* Files that make up a tokenizer, for Krait or for others; the first three are enough for Krait. */
static const char *const companion_names[KR_MAX_COMPANIONS] = {"tokenizer.json", "vocab.json",
                                                               "merges.txt",
                                                               "tokenizer_config.json",
                                                               "special_tokens_map.json"};

/* Maps folder's companions, so that saving can write them wherever their originals have gone by
 * then. */
static int take_companions(krait_model *m, const char *folder, krait_error *e) {
    for (int i = 0; i < KR_MAX_COMPANIONS; i++) {
        char *path = kr_path_join(folder, companion_names[i]);
        if (!path) return kr_fail_memory(e, folder);
        kr_companion *c = &m->companions[m->n_companions];
        int rc = 0;
        if (kr_is_file(path) && (rc = kr_map_open(&c->map, path, e)) == 0) {
            c->name = companion_names[i];
            m->n_companions++;
        }
        kr_free(path);
        KR_TRY(rc);
    }
    return 0;
}

static bool has_companion(const krait_model *m, const char *name) {
    for (int i = 0; i < m->n_companions; i++)
        if (strcmp(m->companions[i].name, name) == 0) return true;
    return false;
}

static bool is_bytes(const krait_tokenizer *t) { return strcmp(t->kind->name, "bytes") == 0; }

/* The tokenizer's own files, when it came from a folder or from a file of its own. */
static int take_tokenizer_files(krait_model *m, const krait_tokenizer *t, krait_error *e) {
    if (is_bytes(t)) return 0;
    if (kr_is_dir(t->path)) return take_companions(m, t->path, e);
    kr_companion *c = &m->companions[m->n_companions];
    KR_TRY(kr_map_open(&c->map, t->path, e));
    c->name = companion_names[0];
    m->n_companions++;
    return 0;
}

/* Brings the configuration in line with the tokenizer: which ids exist, where a document ends. */
static int adopt_tokenizer(kr_config *c, const krait_tokenizer *t, krait_error *e) {
    int64_t ids = krait_tokenizer_vocabulary(t);
    if (ids > c->vocabulary)
        return kr_fail(e, KRAIT_ERR_MISMATCH,
                       "the tokenizer has %lld ids, the model's vocabulary is %lld", (long long)ids,
                       (long long)c->vocabulary);
    c->vocabulary_used = ids;
    c->bytes = is_bytes(t);
    if (c->eos < 0) c->eos = krait_tokenizer_end(t);
    return 0;
}

static int open_tokenizer(krait_model *m, const char *folder, bool optional, krait_error *e) {
    bool beside = has_companion(m, "tokenizer.json") || has_companion(m, "vocab.json");
    if (!m->config.bytes && !beside && optional) return 0;
    if (!m->config.bytes && !beside) KR_TRY(kr_lm_check_next(&m->config, e)); /* no id to tell */
    if (!m->config.bytes && !beside)
        return kr_fail(
            e, KRAIT_ERR_IO,
            "%s: no tokenizer.json: put the model's tokenizer there, or work with token ids",
            folder);
    KR_TRY(krait_tokenizer_open(&m->tokenizer, m->config.bytes ? "bytes" : folder, e));
    int rc = adopt_tokenizer(&m->config, m->tokenizer, e);
    if (rc < 0) kr_fail_prefix(e, "%s", folder);
    return rc;
}

/* ---- making ---- */

static uint64_t real_bits(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static void hash_in(krait_model *m, uint64_t bits) {
    m->hash = (m->hash ^ bits) * 0x9E3779B97F4A7C15u ^ m->hash >> 29;
}

/* The hash of the weights (their names and shapes tell most of the configuration) and of what they
 * do not tell. */
static int hash_model(krait_model *m, krait_error *e) {
    KR_TRY(kr_weights_scan(&m->weights, kr_device_threads(), &m->hash, e));
    const kr_config *c = &m->config;
    hash_in(m, kr_hash_string(c->mixer));
    hash_in(m, real_bits(c->norm_eps));
    const kr_mixer *mixer = kr_mixer_find(c->mixer);
    for (const char *const *name = mixer->unseen; name && *name; name++)
        hash_in(m, kr_setting_bits(kr_settings_find(mixer->settings, *name, strlen(*name)),
                                   c->settings));
    hash_in(m, (uint64_t)c->tied | (uint64_t)c->pooling << 1 | (uint64_t)(c->numbers > 0) << 3);
    return 0;
}

static int finish(krait_model *m, kr_dtype dtype, krait_error *e) {
    KR_TRY(kr_model_unify(m, e));
    KR_TRY(kr_model_fit(m, dtype, e));
    return hash_model(m, e);
}

static int read_weights(krait_model *m, const char *folder, const char *file, krait_error *e) {
    if (!file) return kr_weights_read_folder(&m->weights, folder, e);
    char *path = kr_path_join(folder, file);
    if (!path) return kr_fail_memory(e, folder);
    size_t n = strlen(file);
    bool safe = n > 12 && strcmp(file + n - 12, ".safetensors") == 0;
    int rc = safe ? kr_safetensors_read(&m->weights, path, e) : kr_pth_read(&m->weights, path, e);
    kr_free(path);
    return rc;
}

static int read_config(krait_model *m, const char *folder, krait_error *e) {
    char *path = kr_path_join(folder, "config.json");
    if (!path) return kr_fail_memory(e, folder);
    int rc = kr_config_read(&m->config, path, e);
    kr_free(path);
    return rc;
}

static int load(krait_model *m, const char *folder, const char *file, const krait_model_options *o,
                krait_error *e) {
    KR_TRY(read_config(m, folder, e));
    for (int64_t i = 0; i < o->n_sets; i++) KR_TRY(kr_config_override(&m->config, o->sets[i], e));
    if (o->rate != 1 && o->rate != 0) KR_TRY(kr_config_resample(&m->config, o->rate, e));
    if (!m->config.bytes) KR_TRY(take_companions(m, folder, e)); /* else they are another model's */
    if (!o->without_tokenizer) KR_TRY(open_tokenizer(m, folder, o->tokenizer_optional != 0, e));
    KR_TRY(read_weights(m, folder, file, e));
    int rc = finish(m, o->keep_dtype ? KR_DTYPE_COUNT : (kr_dtype)o->dtype, e);
    if (rc == 0) rc = kr_model_place(m, o->device, e);
    if (rc < 0) kr_fail_prefix(e, "%s", folder);
    return rc;
}

static bool known_dtype(krait_dtype t) {
    return t == KRAIT_F32 || t == KRAIT_BF16 || t == KRAIT_F16;
}

int krait_model_open(krait_model **out, const char *path, const krait_model_options *options,
                     krait_error *e) {
    krait_model_options o = KRAIT_MODEL_OPTIONS_INIT;
    if (!out || !path) return kr_fail_null(e, "krait_model_open");
    *out = NULL;
    KR_TRY(kr_options_read(&o, sizeof o, options, "krait_model_options", e));
    if (!o.keep_dtype && !known_dtype(o.dtype))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "krait_model_open: unknown dtype %d", (int)o.dtype);
    if (!o.keep_dtype && o.dtype == KRAIT_F16 && o.device && strcmp(o.device, "cpu") != 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "%s: a GPU computes in f32 or bf16: f16 matrices are not possible there",
                       o.device);
    if (o.n_sets < 0 || (o.n_sets > 0 && !o.sets)) return kr_fail_null(e, "krait_model_open: sets");
    kr_level level;
    if (o.device) KR_TRY(kr_device_open(o.device, &level, e)); /* before all that takes time */
    char *folder;
    const char *file;
    KR_TRY(kr_model_find(&folder, &file, path, e));
    krait_model *m = kr_calloc(1, sizeof *m);
    int rc = m ? load(m, folder, file, &o, e) : kr_fail_memory(e, path);
    kr_free(folder);
    if (rc < 0) krait_model_close(&m);
    *out = m;
    return rc;
}

int kr_model_from_weights(krait_model **out, const kr_config *c, kr_weights *w,
                          krait_tokenizer *tokenizer, krait_error *e) {
    *out = NULL;
    krait_model *m = kr_calloc(1, sizeof *m);
    if (!m) return kr_fail_memory(e, "a model");
    m->config = *c;
    m->weights = *w;
    int rc = 0;
    if (tokenizer) {
        rc = adopt_tokenizer(&m->config, tokenizer, e);
        if (rc == 0) rc = take_tokenizer_files(m, tokenizer, e);
    }
    if (rc == 0) rc = finish(m, KR_DTYPE_COUNT, e);
    *w = m->weights; /* grown or converted: the caller's again when this failed */
    if (rc < 0) {
        m->weights = (kr_weights){0};
        krait_model_close(&m);
        return rc;
    }
    *w = (kr_weights){0};
    m->tokenizer = tokenizer;
    *out = m;
    return 0;
}

void krait_model_close(krait_model **model) {
    krait_model *m = model ? *model : NULL;
    if (!m) return;
    krait_tokenizer_close(&m->tokenizer);
    for (int i = 0; i < m->n_companions; i++) kr_map_close(&m->companions[i].map);
    kr_model_unplace(m);
    kr_weights_free(&m->weights);
    kr_free(m->matrix);
    kr_free(m);
    *model = NULL;
}

/* ---- describing ---- */

const krait_tokenizer *krait_model_tokenizer(const krait_model *model) { return model->tokenizer; }

static kr_dtype matrix_dtype(const krait_model *m) {
    for (int64_t i = 0; i < m->weights.count; i++)
        if (m->matrix[i]) return m->weights.items[i].tensor.dtype;
    return KR_F32;
}

void krait_model_describe(const krait_model *model, krait_model_info *info) {
    const kr_config *c = &model->config;
    *info = (krait_model_info){
        .architecture = c->architecture,
        .mixer = c->mixer,
        .layers = c->layers,
        .width = c->width,
        .vocabulary = c->vocabulary,
        .vocabulary_used = c->vocabulary_used,
        .parameters = model->parameters,
        .weight_bytes = model->weight_bytes,
        .state_bytes = kr_lm_state_bytes(c, false),
        .dtype = kr_dtype_name(matrix_dtype(model)),
        .hash = model->hash,
        .end_token = model->tokenizer ? krait_tokenizer_end(model->tokenizer) : c->eos,
    };
}

int krait_model_setting(const krait_model *model, int64_t index, krait_setting_info *info) {
    if (!model || !info || index < 0) return KRAIT_ERR_ARGUMENT;
    const kr_setting *k = kr_config_settings;
    const void *values = &model->config;
    bool of_mixer = index >= kr_settings_count(k);
    if (of_mixer) {
        index -= kr_settings_count(k);
        k = kr_mixer_find(model->config.mixer)->settings;
        values = model->config.settings;
    }
    if (index >= kr_settings_count(k)) return KRAIT_ERR_ARGUMENT;
    k += index;
    *info = (krait_setting_info){.name = k->name, .meaning = k->help, .of_mixer = of_mixer};
    info->is_text = k->kind == KR_SETTING_TEXT || k->kind == KR_SETTING_CHOICE;
    kr_setting_text(k, values, info->value);
    return 0;
}

int64_t krait_model_tensor_count(const krait_model *model) { return model->weights.count; }

int krait_model_tensor(const krait_model *model, int64_t index, krait_tensor_info *info) {
    if (!model || !info || index < 0 || index >= model->weights.count) return KRAIT_ERR_ARGUMENT;
    const kr_weight *w = &model->weights.items[index];
    *info = (krait_tensor_info){.name = kr_model_file_name(model, w->name),
                                .dtype = kr_dtype_name(w->tensor.dtype),
                                .rank = w->tensor.rank,
                                .bytes = (int64_t)kr_tensor_bytes(&w->tensor)};
    for (int i = 0; i < w->tensor.rank; i++) info->shape[i] = w->tensor.shape[i];
    return 0;
}

/* ---- saving ---- */

static int save_config(const krait_model *m, const char *folder, kr_dtype dtype,
                       krait_layout layout, krait_error *e) {
    const char *name = dtype == KR_BF16 ? "bfloat16" : dtype == KR_F16 ? "float16" : "float32";
    char *path = kr_path_join(folder, "config.json");
    if (!path) return kr_fail_memory(e, folder);
    int rc = layout == KRAIT_LAYOUT_STATE_SPACES ? kr_config_write_state_spaces(&m->config, path, e)
                                                 : kr_config_write(&m->config, path, name, e);
    kr_free(path);
    return rc;
}

static int save_companion(const kr_companion *c, const char *folder, krait_error *e) {
    char *path = kr_path_join(folder, c->name);
    if (!path) return kr_fail_memory(e, folder);
    kr_out out = {0};
    int rc = kr_out_open(&out, path, e);
    if (rc == 0) rc = kr_out_write(&out, c->map.data, c->map.size, e);
    if (rc == 0) rc = kr_out_commit(&out, e);
    kr_out_abort(&out);
    kr_free(path);
    return rc;
}

/* All of them, in place of those of the model that was there before, if there was one. */
static int save_companions(const krait_model *m, const char *folder, krait_error *e) {
    bool replaces = kr_holds_file(folder, "config.json");
    for (int i = 0; i < m->n_companions; i++) KR_TRY(save_companion(&m->companions[i], folder, e));
    for (int i = 0; replaces && i < KR_MAX_COMPANIONS; i++)
        if (!has_companion(m, companion_names[i]))
            KR_TRY(kr_remove_old(folder, companion_names[i], e));
    return 0;
}

static int save_weights(const krait_model *m, const char *folder, kr_dtype dtype,
                        const krait_save_options *o, krait_error *e) {
    kr_weights converted = {0};
    int rc = kr_model_converted(m, dtype, &converted, e);
    if (rc == 0 && o->layout == KRAIT_LAYOUT_STATE_SPACES) {
        rc = kr_model_names_of_state_spaces(&m->config, &converted, e);
        if (rc == 0) rc = kr_weights_write_pth(&converted, folder, e);
    } else if (rc == 0) {
        rc = kr_weights_write_folder(&converted, folder, o->shard_bytes, e);
    }
    kr_weights_free(&converted);
    return rc;
}

static int check_save(const krait_save_options *o, krait_error *e) {
    if (!o->keep_dtype && !known_dtype(o->dtype))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "krait_model_save: unknown dtype %d", (int)o->dtype);
    if (o->shard_bytes < 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "krait_model_save: shard_bytes is negative");
    if (o->layout != KRAIT_LAYOUT_HUGGING_FACE && o->layout != KRAIT_LAYOUT_STATE_SPACES)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "krait_model_save: unknown layout %d",
                       (int)o->layout);
    if (o->layout == KRAIT_LAYOUT_STATE_SPACES && o->shard_bytes > 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "krait_model_save: the state-spaces layout is one file, shard_bytes is %lld",
                       (long long)o->shard_bytes);
    return 0;
}

int krait_model_save(const krait_model *model, const char *folder,
                     const krait_save_options *options, krait_error *e) {
    krait_save_options o = KRAIT_SAVE_OPTIONS_INIT;
    if (!model || !folder) return kr_fail_null(e, "krait_model_save");
    KR_TRY(kr_options_read(&o, sizeof o, options, "krait_save_options", e));
    KR_TRY(check_save(&o, e));
    kr_dtype dtype = o.keep_dtype ? matrix_dtype(model) : (kr_dtype)o.dtype;
    if (o.layout == KRAIT_LAYOUT_STATE_SPACES)
        KR_TRY(kr_config_check_state_spaces(&model->config, folder, e));
    KR_TRY(kr_make_dirs(folder, e));
    KR_TRY(save_weights(model, folder, dtype, &o, e));
    KR_TRY(save_companions(model, folder, e));
    return save_config(model, folder, dtype, o.layout, e);
}
