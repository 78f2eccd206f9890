/* session_impl.h - inside of a session: its planned graph, its states, and the pass being packed.
 * For src/serve alone. */
#ifndef KR_SESSION_IMPL_H
#define KR_SESSION_IMPL_H

#include <krait/krait.h>

#include "models/lm.h"
#include "models/model.h"

typedef struct kr_session_cursor {
    int64_t done; /* tokens of the span that were packed */
    int64_t out;  /* the row of the caller's logits that comes next */
} kr_session_cursor;

struct krait_session {
    const krait_model *model;
    kr_level level;     /* where it computes, and where the states are */
    kr_weights weights; /* views of the model's; owns what had to be converted */
    kr_lm lm;
    int64_t lanes, max_tokens, max_rows;
    int64_t slots; /* of the states: the lanes, and on the GPU one more, for rows without a lane */
    kr_dtype state_type; /* of those states that may be bf16; the others are f32 */
    char *block;         /* the states, tensor by tensor, each [slots, ...] */
    void **state;        /* [n_states] into block */
    size_t *state_bytes; /* [n_states] of one lane */
    size_t bytes;

    int64_t *position;          /* [lanes] */
    int32_t *next;              /* [lanes] */
    bool *taken;                /* [lanes] while a call is checked */
    kr_session_cursor *cursors; /* [lanes], one a span */

    /* The pass being packed. */
    int32_t *ids;       /* [max_tokens] */
    int64_t (*seqs)[3]; /* [lanes] */
    int64_t *rows;      /* [max_rows] picked rows */
    int64_t *out;       /* [max_rows] where their logits go */
    int64_t n_ids, n_seqs, n_rows;
};

/* Binds the states of another graph of the same model to the session's. */
int kr_session_bind_states(const krait_session *s, kr_lm *lm, krait_error *e);

#endif
