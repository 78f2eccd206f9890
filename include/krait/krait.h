/* krait.h - models, sessions, generation, evaluation.
 *
 * Three objects carry everything:
 *
 *   krait_model    a model file in memory: weights, configuration, tokenizer. Read-only: threads
 *                  may share it.
 *   krait_session  mutable timelines ("lanes") of one model: state and position of each. One
 *                  thread at a time; sessions on a GPU may be in different threads, whose work
 *                  takes turns there.
 *   krait_sampler  turns logits into a token.
 *
 * The shortest program (examples/generate_text.c):
 *
 *   krait_model *m;  krait_error e;
 *   if (krait_model_open(&m, "demo", NULL, &e) < 0) { puts(e.message); return 1; }
 *   krait_generate_options o = KRAIT_GENERATE_OPTIONS_INIT;
 *   o.on_text = print_it;
 *   krait_generate(m, (const char *[]){"In the beginning"}, 1, &o, NULL, &e);
 *   krait_model_close(&m);
 *
 * Conventions: 0 or a negative krait_err (error.h); counts and offsets are int64_t; token ids are
 * int32_t; options structs begin with their size, set by their INIT macro; a function that makes an
 * object stores it through its first argument and leaves NULL there on failure; a closing function
 * takes the address, frees, and stores NULL; closing NULL does nothing. Strings are UTF-8.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KRAIT_KRAIT_H
#define KRAIT_KRAIT_H

#include <krait/error.h>
#include <krait/version.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct krait_model krait_model;
typedef struct krait_tokenizer krait_tokenizer;
typedef struct krait_session krait_session;
typedef struct krait_sampler krait_sampler;

/* ---- models --------------------------------------------------------------------------------- */

typedef enum krait_dtype { KRAIT_F32 = 0, KRAIT_BF16 = 2, KRAIT_F16 = 3 } krait_dtype;

typedef struct krait_model_options {
    size_t size;
    /* 1 (default): matrices stay in the file's type, mapped; 0: as `dtype` says */
    int keep_dtype;
    krait_dtype dtype;     /* the type of the matrices in memory when keep_dtype is 0 */
    int without_tokenizer; /* 1: tokenizer.json is neither needed nor read */
    /* 1: a folder without tokenizer.json opens too; such a model reads and gives ids alone */
    int tokenizer_optional;
    /* NULL or "cpu"; "cuda" or "cuda:N": an NVIDIA GPU gets a copy of the weights, which all
     * sessions of the model share and compute on. It computes in bf16 (sums, states and the
     * residual stream in f32) when all matrices are bf16 in memory, else in f32: a file's f16 is
     * kept as f32 there, and to ask for f16 is refused. */
    const char *device;
    /* The length of a step of the data, in steps of the data that the model was trained on: 2 where
     * they are sampled half as often, 0.5 twice as often. Only of mixers that are systems in
     * continuous time (s4, s4d, lssl): others are refused. 1 or 0: as it is. */
    double rate;
    /* "key=value": settings of the mixer that the weights do not tell, in place of what config.json
     * says or cannot say: "rate=softplus" for Mamba-3 in the state-spaces layout from before June
     * 2026. Others are refused, with a list of those (KRAIT_ERR_ARGUMENT). */
    const char *const *sets;
    int64_t n_sets;
} krait_model_options;
#define KRAIT_MODEL_OPTIONS_INIT                                                                   \
    { sizeof(krait_model_options), 1, KRAIT_F32, 0, 0, NULL, 1, NULL, 0 }

/* Opens a folder in the Hugging Face layout (config.json, model.safetensors or its shards,
 * tokenizer.json), a folder in the state-spaces layout (config.json, pytorch_model.bin), or a model
 * that ships with the program by name ("demo": looked for in $KRAIT_MODELS, then in the installed
 * data folder, then in the source tree it was built from). options may be NULL.
 *
 * Weights whose type fits are not read but mapped: the file must stay as it is while the model is
 * open. A program that replaces it should write a new file and rename it over the old one, as
 * krait_model_save does; a file that is truncated in place ends this process by SIGBUS. */
KRAIT_API int krait_model_open(krait_model **out, const char *path,
                               const krait_model_options *options, krait_error *e);
KRAIT_API void krait_model_close(krait_model **model);

typedef struct krait_model_info {
    const char *architecture; /* "MambaForCausalLM", "KraitForCausalLM", ... */
    const char *mixer;        /* "mamba1", "lru", ... */
    int64_t layers, width;
    int64_t vocabulary;      /* rows of the embedding, padding included */
    int64_t vocabulary_used; /* ids that the tokenizer can produce; samplers draw below it */
    int64_t parameters;      /* tied tensors counted once */
    int64_t weight_bytes;    /* in memory */
    int64_t state_bytes;     /* of one lane, in f32: what krait_session_save_state writes */
    const char *dtype;       /* of the matrices in memory: "f32", "bf16", "f16" */
    uint64_t hash;           /* of configuration and weights: binds state files to the model */
    int32_t end_token;       /* -1: none */
} krait_model_info;
KRAIT_API void krait_model_describe(const krait_model *model, krait_model_info *info);

/* A setting of the model ("width", "64"; "norm_place", "before") or of its mixer ("state", "16"):
 * what a config.json of Krait's own holds. */
typedef struct krait_setting_info {
    const char *name, *meaning;
    char value[64]; /* a number, true or false, or a text */
    int is_text;
    int of_mixer;
} krait_setting_info;
/* From 0 on, those of the mixer last; KRAIT_ERR_ARGUMENT behind the last. */
KRAIT_API int krait_model_setting(const krait_model *model, int64_t index,
                                  krait_setting_info *info);

typedef struct krait_tensor_info {
    const char *name; /* as in the file */
    const char *dtype;
    int rank;
    int64_t shape[4];
    int64_t bytes;
} krait_tensor_info;
KRAIT_API int64_t krait_model_tensor_count(const krait_model *model);
KRAIT_API int krait_model_tensor(const krait_model *model, int64_t index, krait_tensor_info *info);

typedef enum krait_layout {
    KRAIT_LAYOUT_HUGGING_FACE, /* config.json, model.safetensors */
    KRAIT_LAYOUT_STATE_SPACES  /* of Mamba's own authors: config.json, pytorch_model.bin; Mamba,
                                  Mamba-2 and Mamba-3 only */
} krait_layout;

typedef struct krait_save_options {
    size_t size;
    int keep_dtype; /* 1 (default): each matrix in the type it has in memory */
    krait_dtype dtype;
    int64_t shard_bytes; /* 0: one file; else model-00001-of-000NN.safetensors and their index */
    krait_layout layout;
} krait_save_options;
#define KRAIT_SAVE_OPTIONS_INIT                                                                    \
    { sizeof(krait_save_options), 1, KRAIT_F32, 0, KRAIT_LAYOUT_HUGGING_FACE }

/* Writes a Hugging Face folder that transformers loads by from_pretrained, or the folder that
 * mamba_ssm's from_pretrained loads, which has no place for ids of special tokens. Each file
 * appears whole or not at all, config.json last. Weights that were in the folder go, in whatever
 * layout and number of files they lay there; so does the tokenizer of a model that was there (a
 * config.json says so). */
KRAIT_API int krait_model_save(const krait_model *model, const char *folder,
                               const krait_save_options *options, krait_error *e);

/* ---- tokenizers ----------------------------------------------------------------------------- */

/* The model's tokenizer; NULL when it was opened without one. Lives as long as the model. */
KRAIT_API const krait_tokenizer *krait_model_tokenizer(const krait_model *model);

/* Opens tokenizer.json, a folder that holds one (or vocab.json and merges.txt), or "bytes": the
 * byte-level tokenizer, ids 0..255 the bytes, 256 the end of a document. */
KRAIT_API int krait_tokenizer_open(krait_tokenizer **out, const char *path, krait_error *e);
KRAIT_API void krait_tokenizer_close(krait_tokenizer **tokenizer);
KRAIT_API int64_t krait_tokenizer_vocabulary(const krait_tokenizer *t); /* largest id + 1 */
/* end of document; -1: none */
KRAIT_API int32_t krait_tokenizer_end(const krait_tokenizer *t);

/* Encodes `length` bytes of text. Writes at most `capacity` ids and returns how many there are in
 * all (call again with more room), or a negative krait_err. Bytes that are not UTF-8 are encoded as
 * they stand, byte by byte, where the vocabulary has byte tokens. */
KRAIT_API int64_t krait_tokenizer_encode(const krait_tokenizer *t, const char *text, size_t length,
                                         int32_t *ids, int64_t capacity, krait_error *e);
/* The bytes of ids[0..count). Writes at most `capacity` bytes (no terminator); returns the number
 * in all, or an error. The bytes may end inside a UTF-8 sequence: krait_utf8_complete says how many
 * of them can be shown. */
KRAIT_API int64_t krait_tokenizer_decode(const krait_tokenizer *t, const int32_t *ids,
                                         int64_t count, char *text, int64_t capacity,
                                         krait_error *e);
/* How many leading bytes of text[0..length) do not end inside a UTF-8 sequence. */
KRAIT_API size_t krait_utf8_complete(const char *text, size_t length);

/* ---- sessions ------------------------------------------------------------------------------- */

typedef struct krait_session_options {
    size_t size;
    int64_t lanes; /* timelines that can run together (default 1) */
    /* token rows of one pass: longer input runs in chunks of this many; 0: 512, on a GPU 4096 */
    int64_t max_tokens;
    int threads;  /* 0: OMP_NUM_THREADS or all cores */
    int reserved; /* 0 */
    /* Of the recurrence's states: KRAIT_F32, or KRAIT_BF16 for Mamba-2 in bf16 on a GPU: half the
     * memory, and many lanes decode faster; they are rounded at every step. Other types are
     * KRAIT_ERR_ARGUMENT, other models or places KRAIT_ERR_UNSUPPORTED. */
    krait_dtype state_type;
} krait_session_options;
#define KRAIT_SESSION_OPTIONS_INIT                                                                 \
    { sizeof(krait_session_options), 1, 0, 0, 0, KRAIT_F32 }

/* Makes the timelines, all at position 0 with zero states, and the one arena they compute in. */
KRAIT_API int krait_session_create(krait_session **out, const krait_model *model,
                                   const krait_session_options *options, krait_error *e);
KRAIT_API void krait_session_close(krait_session **session);
/* arena and states, weights not counted */
KRAIT_API int64_t krait_session_bytes(const krait_session *s);

typedef enum krait_want { KRAIT_WANT_NONE, KRAIT_WANT_LAST, KRAIT_WANT_ALL } krait_want;

/* Some tokens for one lane. */
typedef struct krait_span {
    int64_t lane;
    const int32_t *ids;
    int64_t count;
    krait_want want; /* logits after the last token, after every token, or none */
} krait_span;

/* Reads the spans, each from its lane's state, and moves the lanes on. The one primitive: a decode
 * step is a span of one token; a ragged batch is several spans (of different lanes) of any lengths.
 * Logits are written in the order of spans and tokens, [rows, vocabulary] f32, `vocabulary` being
 * krait_model_info.vocabulary; `logits` may be NULL when nothing is wanted. On failure no lane has
 * moved. */
KRAIT_API int krait_session_forward(krait_session *s, const krait_span *spans, int64_t n_spans,
                                    float *logits, krait_error *e);
KRAIT_API int64_t krait_session_position(const krait_session *s, int64_t lane); /* tokens read */
KRAIT_API int krait_session_reset(krait_session *s, int64_t lane, krait_error *e);
/* Copies a lane's state and position; the sessions' models must have the same hash, and
 * their states the same type (else KRAIT_ERR_MISMATCH). This is how a timeline forks. */
KRAIT_API int krait_session_copy(krait_session *to, int64_t to_lane, const krait_session *from,
                                 int64_t from_lane, krait_error *e);

/* A token that was drawn on a lane but not read yet; -1: none. It is only kept: reading a span
 * forgets it, a state file carries it, and krait_generate reads it first when it continues from
 * that file. */
KRAIT_API int krait_session_set_next(krait_session *s, int64_t lane, int32_t id, krait_error *e);
KRAIT_API int32_t krait_session_next(const krait_session *s, int64_t lane);

/* A state file: magic, version, model hash, element type, position, next token, sizes, state,
 * checksum. Loading refuses, with the reason, a file of another model, type or size, or a damaged
 * one; a loaded lane continues bit for bit. */
KRAIT_API int krait_session_save_state(const krait_session *s, int64_t lane, const char *path,
                                       krait_error *e);
KRAIT_API int krait_session_load_state(krait_session *s, int64_t lane, const char *path,
                                       krait_error *e);

/* ---- sampling and generation ---------------------------------------------------------------- */

typedef struct krait_sampler_options {
    size_t size;
    double temperature;    /* 0: the most likely token */
    int64_t top_k;         /* 0: off */
    double top_p;          /* 1: off */
    double min_p;          /* 0: off: keeps tokens with p >= min_p * max p */
    double repeat_penalty; /* 1: off: logit < 0 ? logit * p : logit / p for every token seen */
    uint64_t seed;
} krait_sampler_options;
#define KRAIT_SAMPLER_OPTIONS_INIT                                                                 \
    { sizeof(krait_sampler_options), 0.8, 40, 0.95, 0.0, 1.0, 0 }

/* Repetition penalty, top-k, temperature, top-p, min-p, draw. `vocabulary` ids can be drawn */
KRAIT_API int krait_sampler_create(krait_sampler **out, int64_t vocabulary,
                                   const krait_sampler_options *options, krait_error *e);
KRAIT_API void krait_sampler_close(krait_sampler **s);
KRAIT_API void krait_sampler_accept(krait_sampler *s, int32_t id); /* for the repetition penalty */
/* Draws from logits [vocabulary] (unchanged); the drawn id is accepted. Negative: a NaN in the
 * logits. */
KRAIT_API int32_t krait_sampler_draw(krait_sampler *s, const float *logits, krait_error *e);

typedef struct krait_generate_options {
    size_t size;
    int64_t tokens;                /* new tokens for each prompt (default 256) */
    krait_sampler_options sampler; /* prompt i uses seed + i */
    int64_t lanes;                 /* prompts running together at most (default 32) */
    int64_t max_tokens;            /* chunk of prefill; 0: 512, on a GPU 4096 */
    int threads;
    int ignore_end; /* 1: goes on past the end token */
    /* One prompt only: continue from / leave a state file. NULL: off */
    const char *state_in, *state_out; /* the sampler is not in it: it begins anew from its seed */
    /* Called with text as it comes, for prompt `index`: always whole UTF-8, bytes that are none
     * having become U+FFFD. Return non-zero to stop everything. May be NULL. */
    int (*on_text)(void *user, int64_t index, const char *text, size_t length);
    /* Called once for each prompt as it ends, with its new tokens (the end token not among them)
     * and their text, valid during the call. May be NULL. */
    int (*on_done)(void *user, int64_t index, const int32_t *ids, int64_t count, const char *text,
                   size_t length);
    void *user;
    /* Prompts as ids instead of texts: ids[i][0..counts[i]). When set, `prompts` may be NULL */
    const int32_t *const *ids;
    const int64_t *counts;
    krait_dtype state_type; /* krait_session_options.state_type */
} krait_generate_options;
#define KRAIT_GENERATE_OPTIONS_INIT                                                                \
    {                                                                                              \
        sizeof(krait_generate_options), 256, KRAIT_SAMPLER_OPTIONS_INIT, 32, 0, 0, 0, NULL, NULL,  \
            NULL, NULL, NULL, NULL, NULL, KRAIT_F32                                                \
    }

typedef struct krait_generate_stats {
    int64_t prompt_tokens, new_tokens;
    double load_seconds, prompt_seconds, decode_seconds;
} krait_generate_stats;

/* Continues n prompts as one ragged batch; each prompt's result equals what it would be alone. An
 * empty prompt begins with the end token where the tokenizer has one; with state_in it may be empty
 * when the file carries a next token. tokens 0 only reads: with state_out, the state of a prompt.
 * stats may be NULL. */
KRAIT_API int krait_generate(const krait_model *model, const char *const *prompts, int64_t n,
                             const krait_generate_options *options, krait_generate_stats *stats,
                             krait_error *e);

#ifdef __cplusplus
}
#endif
#endif
