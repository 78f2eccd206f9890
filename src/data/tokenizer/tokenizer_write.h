/* tokenizer_write.h - writing tokenizer.json. */
#ifndef KR_TOKENIZER_WRITE_H
#define KR_TOKENIZER_WRITE_H

#include "data/tokenizer/tokenizer.h"

typedef struct kr_merge_pair {
    int32_t left, right;
} kr_merge_pair;

/* A byte-level BPE without normaliser, with the GPT-2 pattern: the vocabulary is t's table, the end
 * token (t->end, -1: none) is a special added token, merges[0..count) are in the order of ranks. */
int kr_tokenizer_write(const krait_tokenizer *t, const kr_merge_pair *merges, int64_t count,
                       const char *path, krait_error *e);

#endif
