/* loader.h - training and evaluation windows over a token store.
 *
 * A part of the store [begin, end) is read in epochs. In each epoch its documents are put in an
 * order drawn from the seed, joined to one ring, turned by an offset drawn from the seed, and cut
 * into B stretches of equal length (+-1): lane b reads stretch b from its beginning to its end, T
 * tokens a window, so that window w+1 of a lane goes on where window w stopped and a state can be
 * carried. Every token of the part is read as input once an epoch, whatever the number and size of
 * documents; a huge document gives work to all lanes. Without shuffling the order is the store's
 * and the offset 0 (held-out data).
 *
 *   reset[b,t] = 1   a document, or a lane's stretch, begins at ids[b,t]: state and convolution
 *                    window begin anew
 *   targets[b,t]     the id after ids[b,t]; -1: nothing is to be predicted there (padding after a
 *                    stretch's end; the first token of another document where the tokenizer has
 *                    no end token)
 *
 * The next window depends on (options, epoch, window) alone: that pair is the position that a
 * checkpoint stores. */
#ifndef KR_LOADER_H
#define KR_LOADER_H

#include "data/text/token_store.h"

typedef struct kr_store_part {
    int64_t begin, end; /* tokens of the store */
} kr_store_part;

/* The last `fraction` of the tokens is held out. The cut is put at the nearest document's beginning
 * when that changes the fraction by less than half of itself, else inside a document. fraction 0:
 * all is for training. */
void kr_store_split(const kr_store *s, double fraction, kr_store_part *train,
                    kr_store_part *held_out);

typedef struct kr_loader_options {
    const kr_store *store; /* must live as long as the loader */
    kr_store_part part;
    int64_t lanes;  /* B */
    int64_t window; /* T */
    bool shuffle;
    uint64_t seed;  /* of the shuffling */
    int64_t epochs; /* 0: without end */
} kr_loader_options;

typedef struct kr_loader kr_loader;

typedef struct kr_loader_position {
    uint64_t check; /* of options and data: a position fits only the loader it came from */
    int64_t epoch, window;
} kr_loader_position;

typedef struct kr_batch {
    int64_t tokens; /* targets that are not -1 */
    int64_t
        bytes; /* of text that those targets stand for (end tokens stand for none); 0: unknown */
    int64_t epoch, window; /* of this batch, both from 0 */
} kr_batch;

int kr_loader_open(kr_loader **out, const kr_loader_options *o, krait_error *e);
void kr_loader_close(kr_loader **l);

/* 1: filled ids, targets (I32 [B,T]) and reset (U8 [B,T]); 0: the epochs are over. */
int kr_loader_next(kr_loader *l, int32_t *ids, int32_t *targets, uint8_t *reset, kr_batch *batch,
                   krait_error *e);

/* The position of the next batch, and going there; {check, 0, 0} is the beginning. */
void kr_loader_position_get(const kr_loader *l, kr_loader_position *p);
int kr_loader_seek(kr_loader *l, const kr_loader_position *p, krait_error *e);
int kr_loader_rewind(kr_loader *l, krait_error *e);

typedef struct kr_loader_info {
    int64_t tokens, documents; /* of the part */
    int64_t batches;           /* an epoch */
} kr_loader_info;
void kr_loader_describe(const kr_loader *l, kr_loader_info *info);

#endif
