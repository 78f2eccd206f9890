/* bpe.h - byte pair encoding of one word.
 *
 * A word begins as its bytes' ids. Of all neighbouring pairs that have a merge the one of lowest
 * rank (the leftmost of equals) is replaced by its merged id, until none is left (Sennrich et al.
 * 2016). Short words are scanned; long ones keep their pairs in a heap, so that a word of n bytes
 * takes n log n steps. */
#ifndef KR_BPE_H
#define KR_BPE_H

#include "data/tokenizer/tokenizer.h"

typedef struct kr_bpe {
    int32_t byte_id[256]; /* -1: the vocabulary has no token for this byte */
    struct kr_merge {
        uint64_t pair; /* left id << 32 | right id; UINT64_MAX: an empty slot */
        uint32_t rank;
        int32_t id;
    } * merges; /* [mask + 1], open addressing */
    uint64_t mask;
    int64_t count;
} kr_bpe;

/* Room for `count` merges; all byte ids are -1. */
int kr_bpe_make(kr_bpe *b, int64_t count, krait_error *e);
void kr_bpe_free(kr_bpe *b);
/* Merges are added in the order of their ranks; a pair that comes again takes the later rank. */
void kr_bpe_add(kr_bpe *b, int32_t left, int32_t right, int32_t id);

/* One thread's scratch: the word being merged and the ids of words met lately, in `slots` entries
 * of 64 bytes (a power of two); a new word takes the place of an old one. */
typedef struct kr_bpe_scratch kr_bpe_scratch;
int kr_bpe_scratch_make(kr_bpe_scratch **out, size_t slots, krait_error *e);
void kr_bpe_scratch_free(kr_bpe_scratch **s);

/* Appends the ids of a word. */
int kr_bpe_word(const kr_bpe *b, kr_bpe_scratch *s, const char *word, size_t size, kr_ids *out,
                krait_error *e);

#endif
