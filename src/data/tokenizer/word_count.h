/* word_count.h - how often each word occurs, in bounded memory.
 *
 * When the table is full, words seen once are dropped, then words seen twice, and so on until half
 * of it is free (as in lossy counting: Manku & Motwani 2002). The counts of words that stay are
 * lower bounds; rare words, which decide no merge, may be lost. Deterministic for one order of
 * words. */
#ifndef KR_WORD_COUNT_H
#define KR_WORD_COUNT_H

#include <krait/error.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kr_word {
    uint64_t hash;
    int64_t count;
    uint32_t start, size; /* in bytes */
} kr_word;

typedef struct kr_word_count {
    kr_word *words; /* in the order in which they were first seen */
    size_t count, capacity;
    char *bytes;
    size_t bytes_count, bytes_capacity;
    uint32_t *slots; /* [mask + 1]: index + 1 of a word, 0: empty */
    uint64_t mask;
    size_t most_words, most_bytes;
} kr_word_count;

/* most_words 0: 8 Mi words (with their table about 350 MB), most_bytes 0: 128 MiB. */
int kr_word_count_make(kr_word_count *w, size_t most_words, size_t most_bytes, krait_error *e);
/* The entry of a word, made with count 0 when it is new; valid until the next call. */
int kr_word_count_get(kr_word_count *w, const char *word, size_t size, kr_word **entry,
                      krait_error *e);
void kr_word_count_free(kr_word_count *w);

#endif
