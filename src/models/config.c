/* config.c - config.json <-> kr_config: the Hugging Face layout (mamba, falcon_mamba) and the
 * state-spaces layout.
 *
 * Both dialects leave things out and let their class defaults speak; the tables below are those
 * defaults. Traps that they set:
 *   - FalconMamba's "expand" is wrong in its own released file: intermediate_size, where
 *     present, always wins.
 *   - use_bias has changed its default between versions of transformers: where it is absent the
 *     weights decide.
 *   - state-spaces writes the vocabulary without padding and never eps, N, K or expand.
 *   - end tokens may be null, one id or a list.
 * Whether the weights fit is left to the models. Source: configuration classes of transformers'
 * mamba and falcon_mamba; MambaConfig of state-spaces/mamba. */
#include "models/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"

#define MAX_CONFIG ((size_t)1 << 20)
#define BYTES_KEY "krait_tokenizer"
#define USED_KEY "krait_vocabulary_used"

/* Bounds that no model comes near and under which no product of two sizes (times layers) leaves 63
 * bits. */
enum { MAX_LAYERS = 4096, MAX_WIDTH = 1 << 20, MAX_STATE = 4096, MAX_KERNEL = 256 };
#define MAX_VOCABULARY (1 << 24)

typedef struct family {
    const char *model_type, *architecture;
    double mixer_rms_eps; /* the class default; 0: the family has none */
} family;

static const family families[] = {
    {"mamba", "MambaForCausalLM", 0},
    {"falcon_mamba", "FalconMambaForCausalLM", 1e-6},
};
static const size_t n_families = sizeof families / sizeof *families;

static int64_t auto_rank(int64_t width) { return (width + 15) / 16; }

void kr_config_mamba(kr_config *c, int64_t width, int64_t layers, int64_t vocabulary) {
    *c = (kr_config){
        .layers = layers,
        .width = width,
        .vocabulary = vocabulary,
        .vocabulary_used = vocabulary,
        .norm_eps = 1e-5,
        .tied = true,
        .bos = -1,
        .eos = -1,
        .pad = -1,
        .inner = 2 * width,
        .state = 16,
        .kernel = 4,
        .dt_rank = auto_rank(width),
        .conv_bias = true,
        .dt_min = 0.001,
        .dt_max = 0.1,
        .dt_floor = 1e-4,
        .dt_scale = 1.0,
    };
    snprintf(c->architecture, sizeof c->architecture, "%s", families[0].architecture);
    snprintf(c->mixer, sizeof c->mixer, "mamba1");
}

/* ---- checking ---- */

static int check_range(const char *what, int64_t value, int64_t least, int64_t most,
                       krait_error *e) {
    if (value >= least && value <= most) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s is %lld, must lie between %lld and %lld", what,
                   (long long)value, (long long)least, (long long)most);
}

static int check_real(const char *what, double value, double least, double most, krait_error *e) {
    if (value >= least && value <= most) return 0; /* refuses NaN too */
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s is %g, must lie between %g and %g", what, value,
                   least, most);
}

static int check_sizes(const kr_config *c, krait_error *e) {
    KR_TRY(check_range("the number of layers", c->layers, 1, MAX_LAYERS, e));
    KR_TRY(check_range("the width (hidden_size)", c->width, 1, MAX_WIDTH, e));
    KR_TRY(check_range("the inner width (intermediate_size)", c->inner, 1, MAX_WIDTH, e));
    KR_TRY(check_range("the state size", c->state, 1, MAX_STATE, e));
    KR_TRY(check_range("the convolution kernel", c->kernel, 1, MAX_KERNEL, e));
    KR_TRY(check_range("time_step_rank", c->dt_rank, 1, MAX_WIDTH, e));
    KR_TRY(check_range("the vocabulary", c->vocabulary, 1, MAX_VOCABULARY, e));
    return check_range("the used vocabulary", c->vocabulary_used, 1, c->vocabulary, e);
}

int kr_config_check(const kr_config *c, krait_error *e) {
    KR_TRY(check_sizes(c, e));
    KR_TRY(check_range("bos_token_id", c->bos, -1, c->vocabulary - 1, e));
    KR_TRY(check_range("eos_token_id", c->eos, -1, c->vocabulary - 1, e));
    KR_TRY(check_range("pad_token_id", c->pad, -1, c->vocabulary - 1, e));
    KR_TRY(check_real("the norm's epsilon", c->norm_eps, 1e-30, 1, e));
    KR_TRY(check_real("mixer_rms_eps", c->mixer_rms_eps, 0, 1, e));
    KR_TRY(check_real("time_step_min", c->dt_min, 1e-30, 1e3, e));
    KR_TRY(check_real("time_step_max", c->dt_max, c->dt_min, 1e3, e));
    KR_TRY(check_real("time_step_floor", c->dt_floor, 0, 1e3, e));
    return check_real("time_step_scale", c->dt_scale, 0, 1e3, e);
}

/* ---- reading, both dialects ---- */

/* A document that is being read: the members are read one after another, the first failure sticks.
 */
typedef struct source {
    const json_t *json;
    const char *path;
    krait_error *e;
    int rc;
} source;

static void read_int(source *s, const char *key, int64_t *value) {
    if (s->rc == 0) s->rc = kr_json_int(s->json, key, value, s->path, s->e);
}

static void read_real(source *s, const char *key, double *value) {
    if (s->rc == 0) s->rc = kr_json_real(s->json, key, value, s->path, s->e);
}

static void read_bool(source *s, const char *key, bool *value) {
    if (s->rc == 0) s->rc = kr_json_bool(s->json, key, value, s->path, s->e);
}

static void read_text(source *s, const char *key, const char **value) {
    if (s->rc == 0) s->rc = kr_json_string(s->json, key, value, s->path, s->e);
}

static void refuse(source *s, const char *reason) {
    if (s->rc == 0) s->rc = kr_fail(s->e, KRAIT_ERR_UNSUPPORTED, "%s: %s", s->path, reason);
}

/* ceil(width / 16) where the file says "auto" or nothing. */
static void read_rank(source *s, const char *key, kr_config *c) {
    const char *text = json_string_value(json_object_get(s->json, key));
    c->dt_rank = c->width > 0 && c->width <= MAX_WIDTH ? auto_rank(c->width) : 0;
    if (!text || strcmp(text, "auto") != 0) read_int(s, key, &c->dt_rank);
}

/* int(expand * width); `expand` may be a fraction. Nonsense gives 0, which the check refuses. */
static void read_expand(source *s, kr_config *c) {
    double expand = 2;
    read_real(s, "expand", &expand);
    double inner = floor(expand * (double)c->width);
    c->inner = inner >= 1 && inner <= MAX_WIDTH ? (int64_t)inner : 0;
}

static void read_scheme(source *s, const char *key, kr_config *c) {
    const char *scheme = "random";
    read_text(s, key, &scheme);
    c->dt_init_constant = strcmp(scheme, "constant") == 0;
    if (!c->dt_init_constant && strcmp(scheme, "random") != 0)
        refuse(s, "the initial time step is neither \"random\" nor \"constant\"");
}

/* ---- the Hugging Face layout ---- */

/* null and negative: none. A list: its first. Absent: the class default 0. */
static void read_token(source *s, const char *key, int32_t *id) {
    const json_t *v = json_object_get(s->json, key);
    if (json_is_array(v)) v = json_array_get(v, 0);
    int64_t value = v ? -1 : 0;
    if (json_is_integer(v)) value = json_integer_value(v);
    if (v && !json_is_integer(v) && !json_is_null(v)) refuse(s, "a token id is not an integer");
    if (value >= MAX_VOCABULARY) refuse(s, "a token id lies outside any vocabulary");
    *id = value < 0 || value >= MAX_VOCABULARY ? -1 : (int32_t)value;
}

static void read_used(source *s, kr_config *c) {
    const char *tokenizer = "";
    read_text(s, BYTES_KEY, &tokenizer);
    c->bytes = strcmp(tokenizer, "bytes") == 0;
    if (tokenizer[0] && !c->bytes) refuse(s, "\"" BYTES_KEY "\" is something other than \"bytes\"");
    c->vocabulary_used = c->vocabulary;
    read_int(s, USED_KEY, &c->vocabulary_used);
}

static void read_sizes(source *s, kr_config *c) {
    read_int(s, "hidden_size", &c->width);
    read_int(s, "num_hidden_layers", &c->layers);
    read_int(s, "vocab_size", &c->vocabulary);
    read_int(s, "state_size", &c->state);
    read_int(s, "conv_kernel", &c->kernel);
    read_expand(s, c);
    read_int(s, "intermediate_size", &c->inner);
    read_rank(s, "time_step_rank", c);
}

static void read_switches(source *s, kr_config *c) {
    const char *activation = "silu";
    read_bool(s, "use_bias", &c->linear_bias);
    c->linear_bias_unsaid = !json_is_boolean(json_object_get(s->json, "use_bias"));
    read_bool(s, "use_conv_bias", &c->conv_bias);
    read_bool(s, "tie_word_embeddings", &c->tied);
    read_text(s, "hidden_act", &activation);
    if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0)
        refuse(s, "\"hidden_act\" is something other than \"silu\"");
}

static void read_hugging_face(source *s, const family *f, kr_config *c) {
    kr_config_mamba(c, 768, 32, 50280);
    snprintf(c->architecture, sizeof c->architecture, "%s", f->architecture);
    c->mixer_rms_eps = f->mixer_rms_eps;
    read_sizes(s, c);
    read_switches(s, c);
    read_used(s, c);
    read_real(s, "layer_norm_epsilon", &c->norm_eps);
    if (f->mixer_rms_eps > 0) read_real(s, "mixer_rms_eps", &c->mixer_rms_eps);
    read_real(s, "time_step_min", &c->dt_min);
    read_real(s, "time_step_max", &c->dt_max);
    read_real(s, "time_step_floor", &c->dt_floor);
    read_real(s, "time_step_scale", &c->dt_scale);
    read_scheme(s, "time_step_init_scheme", c);
    read_token(s, "bos_token_id", &c->bos);
    read_token(s, "eos_token_id", &c->eos);
    read_token(s, "pad_token_id", &c->pad);
}

/* ---- the state-spaces layout ---- */

static void read_ssm_cfg(source *outer, kr_config *c) {
    static const char *const known[] = {"layer",    "d_state",       "d_conv",    "expand",
                                        "dt_rank",  "dt_min",        "dt_max",    "dt_init",
                                        "dt_scale", "dt_init_floor", "conv_bias", "bias"};
    const json_t *json = json_object_get(outer->json, "ssm_cfg");
    if (json && !json_is_object(json)) refuse(outer, "\"ssm_cfg\" is not an object");
    if (outer->rc < 0) return;
    const char *key, *layer = "Mamba1";
    json_t *unused;
    json_object_foreach((json_t *)(uintptr_t)json, key, unused) {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found |= strcmp(key, known[i]) == 0;
        if (!found) refuse(outer, "\"ssm_cfg\" has a key that Mamba-1 does not know");
    }
    source s = {json, outer->path, outer->e, outer->rc};
    read_text(&s, "layer", &layer);
    if (strcmp(layer, "Mamba1") != 0) refuse(&s, "\"ssm_cfg\" names a layer other than Mamba1");
    read_int(&s, "d_state", &c->state);
    read_int(&s, "d_conv", &c->kernel);
    read_expand(&s, c);
    read_rank(&s, "dt_rank", c);
    read_real(&s, "dt_min", &c->dt_min);
    read_real(&s, "dt_max", &c->dt_max);
    read_real(&s, "dt_init_floor", &c->dt_floor);
    read_real(&s, "dt_scale", &c->dt_scale);
    read_scheme(&s, "dt_init", c);
    read_bool(&s, "conv_bias", &c->conv_bias);
    read_bool(&s, "bias", &c->linear_bias);
    outer->rc = s.rc;
}

/* Rows of the embedding: the vocabulary rounded up to a multiple. */
static void pad_vocabulary(source *s, kr_config *c) {
    int64_t multiple = 8;
    read_int(s, "pad_vocab_size_multiple", &multiple);
    if (multiple < 1 || multiple > 65536) refuse(s, "\"pad_vocab_size_multiple\" is absurd");
    if (s->rc < 0 || c->vocabulary < 1 || c->vocabulary > MAX_VOCABULARY) return;
    c->vocabulary_used = c->vocabulary;
    c->vocabulary = (c->vocabulary + multiple - 1) / multiple * multiple;
}

static void read_state_spaces(source *s, kr_config *c) {
    kr_config_mamba(c, 2560, 64, 50277);
    read_int(s, "d_model", &c->width);
    read_int(s, "n_layer", &c->layers);
    read_int(s, "vocab_size", &c->vocabulary);
    read_bool(s, "tie_embeddings", &c->tied);
    bool rms_norm = true;
    int64_t mlp = 0;
    read_bool(s, "rms_norm", &rms_norm);
    read_int(s, "d_intermediate", &mlp);
    if (!rms_norm) refuse(s, "\"rms_norm\" is false: LayerNorm is not supported");
    if (mlp != 0)
        refuse(s, "\"d_intermediate\" is not 0: models with MLP layers are not supported");
    if (json_array_size(json_object_get(s->json, "attn_layer_idx")) > 0)
        refuse(s, "\"attn_layer_idx\" is not empty: attention layers are not supported");
    pad_vocabulary(s, c);
    read_ssm_cfg(s, c);
}

/* ---- which is it ---- */

static int unknown(const char *path, const char *name, krait_error *e) {
    return kr_fail(
        e, KRAIT_ERR_UNSUPPORTED,
        "%s: unknown architecture %.100s; known are mamba (MambaForCausalLM), falcon_mamba "
        "(FalconMambaForCausalLM) and the state-spaces layout (d_model, n_layer)",
        path, name);
}

/* By "model_type", or by "architectures" where that is absent; both must agree. */
static int find_family(const json_t *json, const char *path, const family **out, krait_error *e) {
    const char *type = NULL;
    KR_TRY(kr_json_string(json, "model_type", &type, path, e));
    const char *architecture =
        json_string_value(json_array_get(json_object_get(json, "architectures"), 0));
    *out = NULL;
    for (size_t i = 0; i < n_families && !*out; i++) {
        const family *f = &families[i];
        if (type ? strcmp(type, f->model_type) == 0
                 : architecture && strcmp(architecture, f->architecture) == 0)
            *out = f;
    }
    if (*out && (!architecture || strcmp(architecture, (*out)->architecture) == 0)) return 0;
    if (*out || !type) return unknown(path, architecture ? architecture : "(none is named)", e);
    return unknown(path, type, e);
}

static int read_object(kr_config *c, const json_t *json, const char *path, krait_error *e) {
    if (!json_is_object(json)) return kr_fail(e, KRAIT_ERR_FORMAT, "%s: not an object", path);
    source s = {json, path, e, 0};
    if (!json_object_get(json, "model_type") && json_object_get(json, "d_model") &&
        json_object_get(json, "n_layer")) {
        read_state_spaces(&s, c);
    } else {
        const family *f;
        KR_TRY(find_family(json, path, &f, e));
        read_hugging_face(&s, f, c);
    }
    if (s.rc < 0) return s.rc;
    int rc = kr_config_check(c, e);
    if (rc == 0) return 0;
    kr_fail_prefix(e, "%s", path);
    if (e) e->code = KRAIT_ERR_FORMAT; /* the file's fault, not the caller's */
    return KRAIT_ERR_FORMAT;
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

/* ---- writing ---- */

static json_t *token(int32_t id) { return id < 0 ? json_null() : json_integer(id); }

/* The members that both dialects of transformers share. `expand` is an integer there;
 * intermediate_size wins over it. */
static json_t *make_json(const kr_config *c, const family *f, const char *dtype) {
    return json_pack(
        "{s:[s], s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:s, s:f, s:b, "
        "s:f, s:f, s:f, s:f, s:s, s:b, s:o, s:o, s:o}",
        "architectures", f->architecture, "model_type", f->model_type, "dtype", dtype,
        "torch_dtype", dtype, "vocab_size", (json_int_t)c->vocabulary, "hidden_size",
        (json_int_t)c->width, "num_hidden_layers", (json_int_t)c->layers, "intermediate_size",
        (json_int_t)c->inner, "expand", (json_int_t)((c->inner + c->width - 1) / c->width),
        "state_size", (json_int_t)c->state, "conv_kernel", (json_int_t)c->kernel, "time_step_rank",
        (json_int_t)c->dt_rank, "use_bias", (int)c->linear_bias, "use_conv_bias", (int)c->conv_bias,
        "hidden_act", "silu", "layer_norm_epsilon", c->norm_eps, "residual_in_fp32", 1,
        "time_step_min", c->dt_min, "time_step_max", c->dt_max, "time_step_floor", c->dt_floor,
        "time_step_scale", c->dt_scale, "time_step_init_scheme",
        c->dt_init_constant ? "constant" : "random", "tie_word_embeddings", (int)c->tied,
        "bos_token_id", token(c->bos), "eos_token_id", token(c->eos), "pad_token_id",
        token(c->pad));
}

/* What only some models have; 0 or -1. The krait_ keys are ignored by transformers. */
static int add_extras(json_t *json, const kr_config *c) {
    if (c->mixer_rms_eps > 0 &&
        json_object_set_new(json, "mixer_rms_eps", json_real(c->mixer_rms_eps)) != 0)
        return -1;
    if (c->bytes && json_object_set_new(json, BYTES_KEY, json_string("bytes")) != 0) return -1;
    if (c->vocabulary_used == c->vocabulary) return 0;
    return json_object_set_new(json, USED_KEY, json_integer(c->vocabulary_used));
}

int kr_config_write(const kr_config *c, const char *path, const char *dtype, krait_error *e) {
    KR_TRY(kr_config_check(c, e));
    const family *f = c->mixer_rms_eps > 0 ? &families[1] : &families[0];
    json_t *json = make_json(c, f, dtype);
    int rc =
        json && add_extras(json, c) == 0 ? kr_json_write(json, path, e) : kr_fail_memory(e, path);
    json_decref(json);
    return rc;
}
