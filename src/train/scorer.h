/* scorer.h - runs a language model forward and gives the loss of every token: of evaluation and of
 * samples.
 *
 * Rows are filled by the caller (ids, targets, reset, and which rows belong to which lane), at most
 * `tokens` a run; each lane's state is carried from run to run. */
#ifndef KR_SCORER_H
#define KR_SCORER_H

#include "models/lm.h"
#include "train/lane_states.h"

typedef struct kr_scorer {
    kr_lm lm;
    kr_lane_states states;
    int64_t tokens, lanes;  /* M, S */
    int64_t vocabulary;     /* V */
    const float *nll;       /* of the last run */
    void *block;            /* the four arrays below */
    int32_t *ids, *targets; /* [M] */
    int64_t *seqs;          /* [S,3]: first row, count, lane */
    uint8_t *reset;         /* [M] */
} kr_scorer;

typedef struct kr_scorer_options {
    kr_graph_options graph; /* level, threads; half, cast */
    int64_t tokens, lanes;  /* the most of a run */
    bool logits;            /* kr_scorer_logits may be called */
} kr_scorer_options;

/* Records and plans the graph on these weights; its sizes are known from here on. */
int kr_scorer_create(kr_scorer *s, const kr_config *c, kr_weights *w, const kr_scorer_options *o,
                     krait_error *e);
/* Allocates; all states are zero. `over` (or NULL): a graph whose memory is used where it is large
 * enough; kr_scorer_refresh then comes before runs that follow one of it. */
int kr_scorer_allocate(kr_scorer *s, const kr_graph *over, krait_error *e);
size_t kr_scorer_bytes(const kr_scorer *s, const kr_graph *over); /* what allocate takes */
void kr_scorer_free(kr_scorer *s);

/* The weights have changed since the last run. */
void kr_scorer_refresh(kr_scorer *s);
/* Runs m rows of n sequences, and fetches their losses. */
int kr_scorer_run(kr_scorer *s, int64_t m, int64_t n, krait_error *e);
const float *kr_scorer_nll(const kr_scorer *s); /* [m] nats, 0 where the target is -1 */
/* [m,V] of the last run; NULL: failed */
const float *kr_scorer_logits(kr_scorer *s, krait_error *e);

#endif
