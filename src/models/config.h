/* config.h - what config.json says about a model: defaults filled in, dialects unified. */
#ifndef KR_CONFIG_H
#define KR_CONFIG_H

#include <krait/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kr_config {
    char architecture[64]; /* "MambaForCausalLM", "FalconMambaForCausalLM" */
    char mixer[32];        /* the name of a line of mixers.def: "mamba1" */
    int64_t layers, width;
    int64_t vocabulary;      /* rows of the embedding, padding included */
    int64_t vocabulary_used; /* ids below this exist; = vocabulary when unknown */
    double norm_eps;
    bool tied;             /* the head is the embedding */
    int32_t bos, eos, pad; /* -1: none */
    bool bytes;            /* "krait_tokenizer": "bytes": there is no tokenizer.json */
    /* Mamba (Gu & Dao 2023) */
    int64_t inner, state, kernel, dt_rank;
    bool linear_bias, conv_bias;
    bool linear_bias_unsaid; /* config.json is silent on linear_bias: the weights decide */
    double mixer_rms_eps;    /* > 0: FalconMamba's weightless norms on dt_low, B and C; 0: none */
    double dt_min, dt_max, dt_floor, dt_scale;
    bool dt_init_constant;
} kr_config;

/* The defaults of the official implementation: expand 2, N 16, K 4, dt_rank ceil(width/16), eps
 * 1e-5, tied. */
void kr_config_mamba(kr_config *c, int64_t width, int64_t layers, int64_t vocabulary);

/* Refuses sizes that are not positive, absurd, or inconsistent, with one line. */
int kr_config_check(const kr_config *c, krait_error *e);

/* Reads config.json of the Hugging Face layout (mamba, falcon_mamba) or of the state-spaces layout
 * (d_model, n_layer, ssm_cfg); an unknown architecture is refused by name, with the list of the
 * known ones. Knows where the two layouts differ. */
int kr_config_read(kr_config *c, const char *path, krait_error *e);
/* The same from text, for fuzzing; `path` is only for messages. */
int kr_config_read_bytes(kr_config *c, const char *text, size_t size, const char *path,
                         krait_error *e);
/* Writes config.json so that transformers' from_pretrained takes it. dtype: "float32", "bfloat16",
 * "float16". */
int kr_config_write(const kr_config *c, const char *path, const char *dtype, krait_error *e);

#endif
