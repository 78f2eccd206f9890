/* recipe.h - what a training run does: tables of keys, read from JSON and from "key=value"
 * overrides.
 *
 * Three tables (base/settings.h) are the only places that know the keys: that of every model
 * (models/config.h), that of the model's mixer, and the recipe's own in recipe.c. They drive
 * parsing, checking, defaults, help, the echo at the start of a run and the comparison when a run
 * is resumed. */
#ifndef KR_RECIPE_H
#define KR_RECIPE_H

#include <jansson.h>
#include <krait/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "data/tasks/task.h"
#include "models/config.h"

#define KR_RECIPE_TEXT 512

typedef struct kr_recipe {
    char about[KR_RECIPE_TEXT];
    kr_config config; /* the model, but for the vocabulary; its mixer decides the third table */
    int64_t vocabulary, pad_vocabulary;
    /* what it is trained on: a task, whose settings are the fourth table; empty: text */
    char task[64];
    _Alignas(8) unsigned char task_settings[KR_TASK_SETTINGS];
    /* data */
    char tokenizer[KR_RECIPE_TEXT];
    int64_t batch, window, accumulate;
    double held_out;
    bool carry_state, reset;
    double dropout;
    bool dropout_tied;
    int64_t seed;
    /* optimiser */
    int64_t steps, tokens;
    double learning_rate, min_learning_rate, recurrent_learning_rate;
    char schedule[16], decay_shape[16];
    int64_t warmup, decay;
    double beta1, beta2, eps, weight_decay, clip, outlier;
    bool recompute;
    char precision[8];
    /* what happens on the way */
    int64_t log_every, eval_every, eval_batches;
    int64_t sample_every, sample_tokens;
    double sample_temperature;
    char sample_prompt[KR_RECIPE_TEXT];
    int64_t checkpoint_every, keep;
    /* bit i: key i of a table (model, mixer, task, recipe) was set by the file or by an override */
    uint64_t given[4];
} kr_recipe;

/* Every key at its default. */
void kr_recipe_default(kr_recipe *r);
/* Reads a JSON object of keys from a file; unknown keys are errors that list the near ones. */
int kr_recipe_read(kr_recipe *r, const char *path, krait_error *e);
/* The same from text in memory (`from` names it in errors). */
int kr_recipe_parse(kr_recipe *r, const char *text, size_t length, const char *from,
                    krait_error *e);
/* "key=value". Another mixer or task takes over what was given and has the same name with it. */
int kr_recipe_set(kr_recipe *r, const char *assignment, krait_error *e);
/* Checks what a single key's range cannot, and turns `tokens` into `steps`. */
int kr_recipe_finish(kr_recipe *r, krait_error *e);
/* All keys as a JSON object, in table order; NULL: no memory. */
json_t *kr_recipe_json(const kr_recipe *r);
/* Was this key set, rather than left at its default? */
bool kr_recipe_given(const kr_recipe *r, const char *key);
/* Was any key set that decides the shape of a fresh model? */
bool kr_recipe_shapes_model(const kr_recipe *r);
/* The first key whose value differs and that a resumed run may not change (fixed) or may (!fixed);
 * NULL: none. `from` is the index to start at, moved behind the key that was found. */
const char *kr_recipe_difference(const kr_recipe *a, const kr_recipe *b, bool fixed, int *from);
/* The model that the recipe describes, for a tokenizer of this many ids and this end token. */
int kr_recipe_config(const kr_recipe *r, int64_t tokenizer_ids, int32_t end, kr_config *c,
                     krait_error *e);
/* The same for a task: input and head are the task's. */
int kr_recipe_task_config(const kr_recipe *r, const kr_task_source *task, kr_config *c,
                          krait_error *e);

#endif
