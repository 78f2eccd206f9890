/* bpe_read.h - vocabulary and merges of a byte-level BPE, from the strings of its files. */
#ifndef KR_BPE_READ_H
#define KR_BPE_READ_H

#include "base/json.h"
#include "data/tokenizer/bpe_text.h"

/* The largest known file of this kind has 35 MB. */
#define KR_TOKENIZER_FILE_LIMIT ((size_t)256 << 20)

typedef struct kr_bpe_reader {
    krait_tokenizer *t;
    kr_bpe_text *b;   /* t->inside */
    const char *what; /* the file, for messages */
    json_t *root;     /* of the file; dropped by kr_bpe_read_end */
    const json_t *vocab;
    char *left, *right, *joined; /* strings of the merge at hand */
    size_t left_capacity, right_capacity, joined_capacity;
} kr_bpe_reader;

/* r->t and r->what are set. Makes r->b. */
int kr_bpe_read_begin(kr_bpe_reader *r, krait_error *e);
/* {"string": id, ...} in byte characters; room for `merges` merges. */
int kr_bpe_read_vocab(kr_bpe_reader *r, const json_t *vocab, int64_t merges, krait_error *e);
/* The next merge: two strings of the vocabulary, whose joined string is one too. */
int kr_bpe_read_pair(kr_bpe_reader *r, const char *left, size_t left_size, const char *right,
                     size_t right_size, krait_error *e);
/* The same, as "left right". */
int kr_bpe_read_merge(kr_bpe_reader *r, const char *line, size_t size, krait_error *e);
/* A token looked for in text before merging. It gets its id's bytes where the vocabulary has none.
 * normalised: it is looked for in normalised text. */
int kr_bpe_read_added(kr_bpe_reader *r, kr_added_token *a, bool normalised, krait_error *e);
/* Finishes the added tokens unless rc is an error already, frees the reader's memory, and returns
 * rc or what went wrong. */
int kr_bpe_read_end(kr_bpe_reader *r, int rc, krait_error *e);

/* A hash of bytes, continued from h. */
uint64_t kr_bpe_read_hash(const void *bytes, size_t size, uint64_t h);

#endif
