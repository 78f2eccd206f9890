/* checkpoint.h - folders from which a run goes on as if it had never stopped.
 *
 * OUT/checkpoints/step-N/ holds the model in the Hugging Face layout, recipe.json, state.json
 * (counters), state.safetensors (moments, carried states, statistics, data position) and
 * manifest.json (size and crc32c of every other file, written last). It is written as step-N.tmp,
 * synced and renamed, so a folder without ".tmp" is complete; older ones go only after that. */
#ifndef KR_CHECKPOINT_H
#define KR_CHECKPOINT_H

#include <jansson.h>
#include <krait/krait.h>
#include <stdbool.h>

#include "formats/weights.h"

typedef struct kr_checkpoint {
    int64_t step, updates, tokens, log_length;
} kr_checkpoint;

/* Writes step-N and removes all but the newest `keep`. `path` receives its folder. On failure
 * nothing that was there is lost. */
int kr_checkpoint_save(const char *out, const kr_checkpoint *c, const krait_model *model,
                       const json_t *recipe, const kr_weights *state, int64_t keep, char *path,
                       size_t room, krait_error *e);

/* Is there any checkpoint? */
bool kr_checkpoint_any(const char *out);
/* Finds the newest checkpoint whose files agree with their manifest; `path` is empty when there is
 * none. `note` gets a line about a damaged one that was passed over, or is empty. Fails when there
 * are checkpoints but none is whole. */
int kr_checkpoint_find(const char *out, char *path, size_t room, char *note, size_t note_room,
                       krait_error *e);
/* Reads the counters, and the tensors of state.safetensors (into an empty set). */
int kr_checkpoint_load(const char *path, kr_checkpoint *c, kr_weights *state, krait_error *e);
/* Removes what an interrupted run left half-written. */
int kr_checkpoint_clean(const char *out, krait_error *e);

#endif
