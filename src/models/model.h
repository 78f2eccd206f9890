/* model.h - inside of krait_model: configuration, weights, tokenizer. Read-only after opening. */
#ifndef KR_MODEL_H
#define KR_MODEL_H

#include <krait/krait.h>

#include "device/device.h"
#include "formats/weights.h"
#include "models/config.h"

/* A small file that travels with the model: tokenizer.json and its companions. */
typedef struct kr_companion {
    const char *name;
    kr_map map;
} kr_companion;

#define KR_MAX_COMPANIONS 5

struct krait_model {
    kr_config config;
    kr_weights weights;         /* names of the Hugging Face layout whatever the file's; sorted */
    bool singular;              /* the file has backbone.embedding.weight, as state-spaces does */
    bool *matrix;               /* [weights.count] may be f16 or bf16; the others are f32 */
    krait_tokenizer *tokenizer; /* NULL: opened without */
    kr_companion companions[KR_MAX_COMPANIONS]; /* written beside the weights on save */
    int n_companions;
    uint64_t hash; /* of what decides the outputs: sizes, and all weights as they are in memory */
    int64_t parameters, weight_bytes;
    /* Opened for a GPU: the same names, with tensors in one block there. half: the matrices are
     * bf16 and so are activations; else all is f32 */
    kr_weights placed;
    void *block; /* NULL: on the CPU */
    bool half;
};

/* Where the sessions of a model compute, and its weights there. */
int kr_model_level(const krait_model *m, kr_level *level, krait_error *e);
const kr_weights *kr_model_weights(const krait_model *m);

/* Makes a model around weights that the caller filled (training, random benchmarks): takes over *w
 * and the tokenizer (may be NULL); both stay the caller's when it fails. */
int kr_model_from_weights(krait_model **out, const kr_config *c, kr_weights *w,
                          krait_tokenizer *tokenizer, krait_error *e);

/* ---- parts of opening (model_load.c) ---- */

/* The folder that `name` means: itself, or a model that ships with the program. kr_free *folder.
 * *file is the name of a weights file when `name` is one; NULL: the folder's. */
int kr_model_find(char **folder, const char **file, const char *name, krait_error *e);
/* Names and set of tensors as the Hugging Face layout has them, whatever the dialect. Settles what
 * config.json left open. */
int kr_model_unify(krait_model *m, krait_error *e);
/* What the model's file calls the tensor that is `name` here. */
const char *kr_model_file_name(const krait_model *m, const char *name);
/* The other way: names of the state-spaces layout, whose head is there though it is tied. */
int kr_model_names_of_state_spaces(const kr_config *c, kr_weights *w, krait_error *e);
/* Converts matrices to `dtype` (KR_DTYPE_COUNT: leaves them), checks every tensor against the
 * configuration, brings the rest to f32; fills m->matrix and m->parameters. */
int kr_model_fit(krait_model *m, kr_dtype dtype, krait_error *e);
/* Opens the device of that name (NULL: the CPU) and copies the weights to it (model_place.c). */
int kr_model_place(krait_model *m, const char *device, krait_error *e);
void kr_model_unplace(krait_model *m);
/* A set of weights like m's with the matrices as `dtype`; what needs no conversion is shared with
 * m. */
int kr_model_converted(const krait_model *m, kr_dtype dtype, kr_weights *out, krait_error *e);

#endif
