/* dialect_mamba.c - config.json of Mamba: the Hugging Face layout (mamba, falcon_mamba) and the
 * state-spaces layout.
 *
 * Both leave things out and let their class defaults speak. Traps that they set:
 *   - FalconMamba's "expand" is wrong in its own released file: intermediate_size, where
 *     present, always wins.
 *   - use_bias has changed its default between versions of transformers: where it is absent the
 *     weights decide.
 *   - state-spaces writes the vocabulary without padding and never eps, N, K or expand.
 *   - end tokens may be null, one id or a list.
 * Whether the weights fit is left to the models. Source: configuration classes of transformers'
 * mamba and falcon_mamba; MambaConfig of state-spaces/mamba. */
#include <math.h>
#include <string.h>

#include "mixers/mamba1/mamba1.h"
#include "models/dialect.h"

enum { MAX_INNER = 1 << 20 };
#define FALCON_EPS 1e-6

static void put(kr_config *c, const kr_mamba1 *s) { memcpy(c->settings, s, sizeof *s); }

/* The defaults of the official implementation. */
static void start(kr_config *c, int64_t width, int64_t layers, int64_t vocabulary) {
    kr_config_default(c, "mamba1");
    c->width = width;
    c->layers = layers;
    c->vocabulary = c->vocabulary_used = vocabulary;
}

/* 0, from the width, where the file says "auto" or nothing. */
static void read_rank(kr_reader *r, const char *key, kr_config *c) {
    const char *text = json_string_value(json_object_get(r->json, key));
    if (text && strcmp(text, "auto") == 0) return;
    int64_t rank = 1;
    kr_read_int(r, key, &rank);
    if (rank == 0) kr_read_refuse(r, "time_step_rank is 0, must be at least 1");
    kr_read_setting(r, key, c, "dt_rank");
}

/* int(expand * width); `expand` may be a fraction. */
static void read_expand(kr_reader *r, kr_config *c) {
    double expand = 2;
    kr_read_real(r, "expand", &expand);
    double inner = floor(expand * (double)c->width);
    if (json_is_integer(json_object_get(r->json, "intermediate_size"))) return; /* that one wins */
    if (!(inner >= 1 && inner <= MAX_INNER)) {
        kr_read_refuse(r, "\"expand\" gives an inner width that is not from 1 to 1048576");
        return;
    }
    kr_mamba1 s = kr_mamba1_of(c);
    s.inner = (int64_t)inner;
    put(c, &s);
}

/* ---- the Hugging Face layout ---- */

static const kr_dialect_key keys[] = {
    {"hidden_size", "width"},
    {"num_hidden_layers", "layers"},
    {"layer_norm_epsilon", "norm_eps"},
    {"tie_word_embeddings", "tied"},
    {"state_size", "state"},
    {"conv_kernel", "kernel"},
    {"use_bias", "linear_bias"},
    {"use_conv_bias", "conv_bias"},
    {"time_step_min", "dt_min"},
    {"time_step_max", "dt_max"},
    {"time_step_floor", "dt_floor"},
    {"time_step_scale", "dt_scale"},
    {"time_step_init_scheme", "dt_init"},
};

static void read_inner(kr_reader *r, kr_config *c) {
    int64_t inner = 1;
    read_expand(r, c);
    kr_read_int(r, "intermediate_size", &inner);
    if (inner == 0) kr_read_refuse(r, "intermediate_size is 0, must be at least 1");
    kr_read_setting(r, "intermediate_size", c, "inner");
}

static void read_mamba(kr_reader *r, kr_config *c) {
    const char *activation = "silu";
    start(c, 768, 32, 50280);
    kr_read_settings(r, keys, sizeof keys / sizeof *keys, c);
    kr_read_int(r, "vocab_size", &c->vocabulary);
    read_inner(r, c);
    read_rank(r, "time_step_rank", c);
    kr_mamba1 s = kr_mamba1_of(c);
    s.linear_bias_unsaid = !json_is_boolean(json_object_get(r->json, "use_bias"));
    put(c, &s);
    kr_read_text(r, "hidden_act", &activation);
    if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0)
        kr_read_refuse(r, "\"hidden_act\" is something other than \"silu\"");
    kr_read_extras(r, c);
    kr_read_tokens(r, 0, c);
}

static void read_falcon(kr_reader *r, kr_config *c) {
    read_mamba(r, c);
    kr_mamba1 s = kr_mamba1_of(c);
    s.mixer_rms_eps = FALCON_EPS;
    put(c, &s);
    kr_read_setting(r, "mixer_rms_eps", c, "mixer_rms_eps");
}

static bool is_mamba(const kr_config *c) {
    return strcmp(c->mixer, "mamba1") == 0 && kr_config_is_plain(c);
}

static bool mamba_holds(const kr_config *c) {
    return is_mamba(c) && !(kr_mamba1_of(c).mixer_rms_eps > 0);
}

static bool falcon_holds(const kr_config *c) {
    return is_mamba(c) && kr_mamba1_of(c).mixer_rms_eps > 0;
}

/* The members that both dialects of transformers share. `expand` is an integer there;
 * intermediate_size wins over it. */
static json_t *pack(const kr_config *c, const kr_mamba1 *s, const kr_dialect *d,
                    const char *dtype) {
    return json_pack(
        "{s:[s], s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:s, s:f, s:b, "
        "s:f, s:f, s:f, s:f, s:s, s:b}",
        "architectures", d->architecture, "model_type", d->model_type, "dtype", dtype,
        "torch_dtype", dtype, "vocab_size", (json_int_t)c->vocabulary, "hidden_size",
        (json_int_t)c->width, "num_hidden_layers", (json_int_t)c->layers, "intermediate_size",
        (json_int_t)s->inner, "expand", (json_int_t)s->expand, "state_size", (json_int_t)s->state,
        "conv_kernel", (json_int_t)s->kernel, "time_step_rank", (json_int_t)s->dt_rank, "use_bias",
        (int)s->linear_bias, "use_conv_bias", (int)s->conv_bias, "hidden_act", "silu",
        "layer_norm_epsilon", c->norm_eps, "residual_in_fp32", 1, "time_step_min", s->dt_min,
        "time_step_max", s->dt_max, "time_step_floor", s->dt_floor, "time_step_scale", s->dt_scale,
        "time_step_init_scheme", s->dt_init ? "constant" : "random", "tie_word_embeddings",
        (int)c->tied);
}

extern const kr_dialect kr_dialect_mamba, kr_dialect_falcon_mamba;

static json_t *make(const kr_config *c, const char *dtype) {
    kr_mamba1 s = kr_mamba1_of(c);
    bool falcon = s.mixer_rms_eps > 0;
    json_t *json = pack(c, &s, falcon ? &kr_dialect_falcon_mamba : &kr_dialect_mamba, dtype);
    if (json && kr_dialect_add_tokens(json, c) == 0 &&
        (!falcon || json_object_set_new(json, "mixer_rms_eps", json_real(s.mixer_rms_eps)) == 0) &&
        kr_dialect_add_extras(json, c) == 0)
        return json;
    json_decref(json);
    return NULL;
}

const kr_dialect kr_dialect_mamba = {
    .model_type = "mamba",
    .architecture = "MambaForCausalLM",
    .read = read_mamba,
    .holds = mamba_holds,
    .make = make,
};

const kr_dialect kr_dialect_falcon_mamba = {
    .model_type = "falcon_mamba",
    .architecture = "FalconMambaForCausalLM",
    .read = read_falcon,
    .holds = falcon_holds,
    .make = make,
};

/* ---- the state-spaces layout ---- */

static const kr_dialect_key ssm_keys[] = {
    {"d_state", "state"},          {"d_conv", "kernel"},       {"dt_min", "dt_min"},
    {"dt_max", "dt_max"},          {"dt_scale", "dt_scale"},   {"dt_init", "dt_init"},
    {"dt_init_floor", "dt_floor"}, {"conv_bias", "conv_bias"}, {"bias", "linear_bias"},
};

static const char *const others[] = {"layer", "expand", "dt_rank"};

static void read_ssm_cfg(kr_reader *outer, kr_config *c) {
    const char *layer = "Mamba1";
    kr_reader r = kr_read_ssm_cfg(outer, ssm_keys, sizeof ssm_keys / sizeof *ssm_keys, others,
                                  sizeof others / sizeof *others, "Mamba-1", c);
    kr_read_text(&r, "layer", &layer);
    if (strcmp(layer, "Mamba1") != 0)
        kr_read_refuse(&r, "\"ssm_cfg\" names a layer other than Mamba1");
    read_expand(&r, c);
    read_rank(&r, "dt_rank", c);
    outer->rc = r.rc;
}

static void read_state_spaces(kr_reader *r, kr_config *c) {
    start(c, 2560, 64, 50277);
    kr_read_state_spaces(r, c);
    read_ssm_cfg(r, c);
}

static const char *lacks(const kr_config *c) {
    kr_mamba1 s = kr_mamba1_of(c);
    if (s.inner % c->width != 0) return "an inner width that is no multiple of the width";
    if (s.mixer_rms_eps > 0) return "norms of dt, B and C (mixer_rms_eps)";
    return kr_state_spaces_lacks(c);
}

static json_t *make_state_spaces(const kr_config *c, const char *dtype) {
    kr_mamba1 s = kr_mamba1_of(c);
    (void)dtype;
    return kr_make_state_spaces(
        c, json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:s, s:f, s:b, s:b}", "layer",
                     "Mamba1", "d_state", (json_int_t)s.state, "d_conv", (json_int_t)s.kernel,
                     "expand", (json_int_t)(s.inner / c->width), "dt_rank", (json_int_t)s.dt_rank,
                     "dt_min", s.dt_min, "dt_max", s.dt_max, "dt_scale", s.dt_scale, "dt_init",
                     s.dt_init ? "constant" : "random", "dt_init_floor", s.dt_floor, "conv_bias",
                     (int)s.conv_bias, "bias", (int)s.linear_bias));
}

const kr_dialect kr_dialect_state_spaces = {
    .architecture = "MambaForCausalLM",
    .is = kr_dialect_is_state_spaces,
    .read = read_state_spaces,
    .mixer = "mamba1",
    .lacks = lacks,
    .make = make_state_spaces,
};
