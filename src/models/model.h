/* model.h - inside of krait_model: configuration, weights, tokenizer. Read-only after opening. */
#ifndef KR_MODEL_H
#define KR_MODEL_H

#include <krait/krait.h>

#include "formats/weights.h"
#include "models/config.h"

struct krait_model {
    kr_config config;
    kr_weights weights;         /* names of the Hugging Face layout whatever the file's */
    krait_tokenizer *tokenizer; /* NULL: opened without */
    /* the tokenizer.json that was read, for copying on save; NULL: byte level */
    char *tokenizer_path;
    uint64_t hash;
    int64_t parameters, weight_bytes;
};

/* Makes a model around weights that the caller filled (training, random benchmarks): takes over *w
 * and the tokenizer. */
int kr_model_from_weights(krait_model **out, const kr_config *c, kr_weights *w,
                          krait_tokenizer *tokenizer, krait_error *e);

#endif
