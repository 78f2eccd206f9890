/* generate_impl.h - inside of krait_generate: prompts, lanes, and what a round on the CPU
 * (generate.c) and steps on the GPU (generate_gpu.c) have in common. */
#ifndef KR_GENERATE_IMPL_H
#define KR_GENERATE_IMPL_H

#include <krait/krait.h>
#include <stdbool.h>

#include "serve/session_impl.h"
#include "serve/text_stream.h"

typedef struct kr_lane {
    int64_t index;          /* of the prompt; -1: free */
    bool started;           /* its prompt has been read */
    krait_sampler *sampler; /* NULL on the GPU */
    int32_t *prompt;        /* [n_prompt] */
    int64_t n_prompt;
    int32_t *ids;            /* [n_ids] drawn */
    int64_t n_ids, n_queued; /* n_queued: steps on the GPU, read or under way */
    size_t capacity;
    kr_text_stream text;
    size_t shown; /* bytes of text handed out */
} kr_lane;

typedef struct kr_batch {
    krait_generate_options o;
    krait_model_info info;
    const krait_tokenizer *tokenizer; /* NULL: ids only */
    int32_t end;
    const char *const *prompts;
    int64_t n, begun; /* prompts in all, and handed to lanes */
    krait_session *session;
    int64_t n_lanes;
    kr_lane *lanes;
    krait_span *spans; /* [n_lanes] */
    kr_lane **order;   /* [n_lanes] the lane of each span */
    float *logits;     /* [n_lanes, vocabulary]; on the GPU they stay there: NULL */
    int32_t *drawn;    /* [n_lanes] by a step on the GPU */
    krait_generate_stats stats;
} kr_batch;

double kr_batch_now(void); /* seconds */

static inline bool kr_batch_on_gpu(const kr_batch *b) { return b->session->level == KR_LEVEL_CUDA; }

/* A prompt is left, or a lane in use. */
bool kr_batch_busy(const kr_batch *b);
/* Gives prompts to the free lanes: state, prompt and sampler are ready, nothing is read. */
int kr_batch_fill(kr_batch *b, krait_error *e);
/* A drawn token joins the lane's text. */
int kr_batch_add(kr_batch *b, kr_lane *l, int32_t id, krait_error *e);
/* Saves the state, which has not read `next`, reports, and frees the lane. */
int kr_batch_finish(kr_batch *b, kr_lane *l, int32_t next, krait_error *e);

int kr_batch_run_gpu(kr_batch *b, krait_error *e);

#endif
