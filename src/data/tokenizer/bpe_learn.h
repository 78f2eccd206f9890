/* bpe_learn.h - choosing the merges of a vocabulary from counted words.
 *
 * Again and again the pair of neighbouring tokens that occurs most often (of equals: the one of
 * lower ids) becomes a new token in every word (Sennrich et al. 2016). A pair knows the words it
 * was seen in, so a merge touches those alone. */
#ifndef KR_BPE_LEARN_H
#define KR_BPE_LEARN_H

#include "data/tokenizer/tokenizer_write.h"
#include "data/tokenizer/word_count.h"

typedef struct kr_learn_options {
    int64_t vocabulary;    /* stop when the tokenizer has this many ids */
    int64_t min_frequency; /* or when no pair occurs this often */
    int (*on_progress)(void *user, int64_t done, int64_t all); /* non-zero stops; may be NULL */
    void *user;
} kr_learn_options;

/* t holds the 256 bytes as ids first_byte + byte; merged tokens are added behind, and the merges
 * are returned in *merges (kr_free it), *count of them. Where two ways of merging give the same
 * string they give the same id. */
int kr_bpe_learn(krait_tokenizer *t, int32_t first_byte, const kr_word_count *words,
                 const kr_learn_options *o, kr_merge_pair **merges, int64_t *count, krait_error *e);

#endif
