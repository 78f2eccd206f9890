/* dialect_mamba2.c - config.json of Mamba-2: the Hugging Face layout (mamba2) and the state-spaces
 * layout with "ssm_cfg": {"layer": "Mamba2"}.
 *
 * Traps that they set: transformers gives the number of heads and their size, and wants their
 * product to be expand * hidden_size; time_step_limit ends in Infinity, which is no JSON, or in
 * {"__float__": "Infinity"}; chunk_size, norm_before_gate and rms_norm may be there and mean
 * nothing to it. state-spaces pads the vocabulary to a multiple that the file names. Source:
 * Mamba2Config of transformers; MambaConfig and Mamba2 of state-spaces/mamba. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "mixers/mamba2/mamba2.h"
#include "models/dialect.h"

static void put(kr_config *c, const kr_mamba2 *s) { memcpy(c->settings, s, sizeof *s); }

/* A step limit above this is none. */
#define NO_LIMIT 1e5

static const kr_dialect_key keys[] = {
    {"hidden_size", "width"},
    {"num_hidden_layers", "layers"},
    {"layer_norm_epsilon", "norm_eps"},
    {"state_size", "state"},
    {"conv_kernel", "kernel"},
    {"head_dim", "head_dim"},
    {"n_groups", "groups"},
    {"expand", "expand"},
    {"use_bias", "linear_bias"},
    {"use_conv_bias", "conv_bias"},
    {"time_step_min", "dt_min"},
    {"time_step_max", "dt_max"},
    {"time_step_floor", "dt_floor"},
};

/* [least, most]; most may be infinite, whichever way that is said. */
static void read_limit(kr_reader *r, const char *key, kr_config *c) {
    const json_t *limit = json_object_get(r->json, key);
    if (r->rc < 0 || !limit || json_is_null(limit)) return;
    const json_t *least = json_array_get(limit, 0), *most = json_array_get(limit, 1);
    const char *text = json_string_value(json_object_get(most, "__float__"));
    bool infinite = text && strcmp(text, "Infinity") == 0;
    double low = json_number_value(least), high = infinite ? INFINITY : json_number_value(most);
    kr_mamba2 s = kr_mamba2_of(c);
    if (json_array_size(limit) != 2 || !json_is_number(least) ||
        !(infinite || json_is_number(most)) || !(low >= 0 && low < NO_LIMIT && high >= low) ||
        !(high > 0)) {
        char reason[96];
        snprintf(reason, sizeof reason,
                 "\"%s\" is not [least, most] with 0 <= least <= most, least < 1e5, most > 0", key);
        kr_read_refuse(r, reason);
        return;
    }
    s.dt_least = low;
    s.dt_most = high > NO_LIMIT ? 0 : high;
    put(c, &s);
}

static void start(kr_config *c, int64_t width, int64_t layers, int64_t vocabulary) {
    kr_config_default(c, "mamba2");
    c->width = width;
    c->layers = layers;
    c->vocabulary = c->vocabulary_used = vocabulary;
}

static void read_mamba2(kr_reader *r, kr_config *c) {
    const char *activation = "silu";
    int64_t heads = 128;
    start(c, 4096, 64, 32768);
    c->tied = false;
    kr_mamba2 s = kr_mamba2_of(c);
    s.groups = 8;
    put(c, &s);
    kr_read_settings(r, keys, sizeof keys / sizeof *keys, c);
    kr_read_setting(r, "tie_word_embeddings", c, "tied");
    kr_read_int(r, "vocab_size", &c->vocabulary);
    kr_read_int(r, "num_heads", &heads);
    read_limit(r, "time_step_limit", c);
    s = kr_mamba2_of(c);
    if (r->rc == 0 && (heads < 1 || heads > 1 << 20 || heads * s.head_dim != s.expand * c->width))
        kr_read_refuse(r, "num_heads * head_dim is not expand * hidden_size");
    kr_read_text(r, "hidden_act", &activation);
    if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0)
        kr_read_refuse(r, "\"hidden_act\" is something other than \"silu\"");
    kr_read_extras(r, c);
    kr_read_tokens(r, 0, c);
}

static bool holds(const kr_config *c) {
    if (strcmp(c->mixer, "mamba2") != 0 || !kr_config_is_plain(c)) return false;
    kr_mamba2 s = kr_mamba2_of(c);
    return s.gated_norm && !s.norm_before_gate && !s.skip_per_channel &&
           s.inner == s.expand * c->width && s.ssm == s.inner && (s.dt_most > 0 || s.dt_least == 0);
}

/* Without limits time_step_limit is left out: its default says so, and JSON has no infinity. */
static int add_limit(json_t *json, const kr_mamba2 *s) {
    if (!(s->dt_most > 0)) return 0;
    return json_object_set_new(json, "time_step_limit",
                               json_pack("[f, f]", s->dt_least, s->dt_most));
}

static json_t *make(const kr_config *c, const char *dtype) {
    kr_mamba2 s = kr_mamba2_of(c);
    json_t *json = json_pack(
        "{s:[s], s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:b, s:b, s:s, "
        "s:f, s:b, s:b, s:f, s:f, s:f, s:b}",
        "architectures", "Mamba2ForCausalLM", "model_type", "mamba2", "dtype", dtype, "torch_dtype",
        dtype, "vocab_size", (json_int_t)c->vocabulary, "hidden_size", (json_int_t)c->width,
        "num_hidden_layers", (json_int_t)c->layers, "expand", (json_int_t)s.expand, "num_heads",
        (json_int_t)kr_mamba2_heads(&s), "head_dim", (json_int_t)s.head_dim, "state_size",
        (json_int_t)s.state, "n_groups", (json_int_t)s.groups, "conv_kernel", (json_int_t)s.kernel,
        "chunk_size", 256, "use_bias", (int)s.linear_bias, "use_conv_bias", (int)s.conv_bias,
        "hidden_act", "silu", "layer_norm_epsilon", c->norm_eps, "rms_norm", 1, "residual_in_fp32",
        1, "time_step_min", s.dt_min, "time_step_max", s.dt_max, "time_step_floor", s.dt_floor,
        "tie_word_embeddings", (int)c->tied);
    if (json && add_limit(json, &s) == 0 && kr_dialect_add_tokens(json, c) == 0 &&
        kr_dialect_add_extras(json, c) == 0)
        return json;
    json_decref(json);
    return NULL;
}

const kr_dialect kr_dialect_mamba2 = {
    .model_type = "mamba2",
    .architecture = "Mamba2ForCausalLM",
    .read = read_mamba2,
    .holds = holds,
    .make = make,
};

/* ---- the state-spaces layout ---- */

static const kr_dialect_key ssm_keys[] = {
    {"d_state", "state"},
    {"d_conv", "kernel"},
    {"expand", "expand"},
    {"headdim", "head_dim"},
    {"ngroups", "groups"},
    {"D_has_hdim", "skip_per_channel"},
    {"rmsnorm", "gated_norm"},
    {"norm_before_gate", "norm_before_gate"},
    {"dt_min", "dt_min"},
    {"dt_max", "dt_max"},
    {"dt_init_floor", "dt_floor"},
    {"conv_init", "conv_init"},
    {"conv_bias", "conv_bias"},
    {"bias", "linear_bias"},
    {"d_ssm", "ssm"},
};

static void read_rates(kr_reader *r, kr_config *c) {
    const json_t *range = json_object_get(r->json, "A_init_range");
    kr_mamba2 s = kr_mamba2_of(c);
    if (r->rc < 0 || !range || json_is_null(range)) return;
    if (json_array_size(range) != 2 || !json_is_number(json_array_get(range, 0)) ||
        !json_is_number(json_array_get(range, 1)))
        kr_read_refuse(r, "\"A_init_range\" is not two numbers");
    s.a_min = json_number_value(json_array_get(range, 0));
    s.a_max = json_number_value(json_array_get(range, 1));
    put(c, &s);
}

/* How it computes, or its defaults. */
static const char *const others[] = {"layer", "A_init_range", "dt_limit", "chunk_size",
                                     "use_mem_eff_path"};

static void read_ssm_cfg(kr_reader *outer, kr_config *c) {
    kr_reader r = kr_read_ssm_cfg(outer, ssm_keys, sizeof ssm_keys / sizeof *ssm_keys, others,
                                  sizeof others / sizeof *others, "Mamba-2", c);
    read_rates(&r, c);
    read_limit(&r, "dt_limit", c);
    outer->rc = r.rc;
}

static bool is_state_spaces(const json_t *json) { return kr_dialect_has_layer(json, "Mamba2"); }

static void read_state_spaces(kr_reader *r, kr_config *c) {
    start(c, 2560, 64, 50277);
    kr_read_state_spaces(r, c);
    read_ssm_cfg(r, c);
}

static const char *lacks(const kr_config *c) {
    if (kr_mamba2_of(c).inner % c->width != 0)
        return "an inner width that is no multiple of the width";
    return kr_state_spaces_lacks(c);
}

static json_t *make_ssm_cfg(const kr_config *c, const kr_mamba2 *s) {
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:[f, f], s:b, s:b, s:b, s:f, s:f, s:f, s:b, "
                     "s:b, s:i}",
                     "layer", "Mamba2", "d_state", (json_int_t)s->state, "d_conv",
                     (json_int_t)s->kernel, "expand", (json_int_t)(s->inner / c->width), "headdim",
                     (json_int_t)s->head_dim, "ngroups", (json_int_t)s->groups, "A_init_range",
                     s->a_min, s->a_max, "D_has_hdim", (int)s->skip_per_channel, "rmsnorm",
                     (int)s->gated_norm, "norm_before_gate", (int)s->norm_before_gate, "dt_min",
                     s->dt_min, "dt_max", s->dt_max, "dt_init_floor", s->dt_floor, "conv_bias",
                     (int)s->conv_bias, "bias", (int)s->linear_bias, "chunk_size", 256);
}

/* What is as its default says is left out: no limit has no number. */
static int add_rare(json_t *json, const kr_mamba2 *s) {
    double most = s->dt_most > 0 ? s->dt_most : 1e30;
    if (s->ssm < s->inner && json_object_set_new(json, "d_ssm", json_integer(s->ssm)) != 0)
        return -1;
    if (s->conv_init > 0 && json_object_set_new(json, "conv_init", json_real(s->conv_init)) != 0)
        return -1;
    if (!(s->dt_most > 0) && !(s->dt_least > 0)) return 0;
    return json_object_set_new(json, "dt_limit", json_pack("[f, f]", s->dt_least, most));
}

static json_t *make_state_spaces(const kr_config *c, const char *dtype) {
    kr_mamba2 s = kr_mamba2_of(c);
    json_t *json = make_ssm_cfg(c, &s);
    (void)dtype;
    if (json && add_rare(json, &s) == 0) return kr_make_state_spaces(c, json);
    json_decref(json);
    return NULL;
}

const kr_dialect kr_dialect_state_spaces2 = {
    .architecture = "Mamba2ForCausalLM",
    .is = is_state_spaces,
    .read = read_state_spaces,
    .mixer = "mamba2",
    .lacks = lacks,
    .make = make_state_spaces,
};
