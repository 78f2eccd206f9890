/* decoder.h - steps of one token for many lanes of a session on the GPU: what is drawn in a step is
 * read in the next one without leaving it.
 *
 * Lanes join and leave between steps. A step is queued, not waited for: its tokens are read from
 * the host afterwards, best when the next step has been queued already. */
#ifndef KR_DECODER_H
#define KR_DECODER_H

#include <krait/krait.h>
#include <stdbool.h>

typedef struct kr_decoder kr_decoder;

enum { KR_DECODER_STEPS = 2 }; /* that can be under way */

/* For a session of a model on the GPU; all lanes draw with these options, each with its own seed.
 * Logits are drawn from below `vocabulary`. */
int kr_decoder_create(kr_decoder **out, krait_session *s, int64_t vocabulary,
                      const krait_sampler_options *options, krait_error *e);
void kr_decoder_free(kr_decoder *d); /* NULL does nothing */

/* The lane takes part from the next step on, which reads ids[n - 1]; the others are read already,
 * and count with it for the repetition penalty. */
int kr_decoder_join(kr_decoder *d, int64_t lane, uint64_t seed, const int32_t *ids, int64_t n,
                    krait_error *e);
/* The lane takes no part any more. unread: what steps under way draw for it is still wanted. A lane
 * that left already: only that. */
int kr_decoder_leave(kr_decoder *d, int64_t lane, bool unread, krait_error *e);
int64_t kr_decoder_lanes(const kr_decoder *d);  /* taking part now */
int64_t kr_decoder_unread(const kr_decoder *d); /* steps under way, or done and not read */

/* Queues a step. */
int kr_decoder_step(kr_decoder *d, krait_error *e);
/* Waits for the oldest step that was not read; ids[lane] is what it drew for each lane that took
 * part in it, -1 for the others. None under way: 0, else 1, or an error (a logit that is no
 * number). */
int kr_decoder_read(kr_decoder *d, int32_t *ids, krait_error *e);

#endif
