/* token_store.h - a corpus as token ids, tokenised once: in memory, or in a cache file that is
 * mapped.
 *
 * Document i is ids[start[i] .. start[i+1]). Where the tokenizer has an end token every document
 * begins with it: it is the target that says "the document before is over" and the input from which
 * a new one begins. Documents without text are left out. Memory: with a cache file, 8 bytes a
 * document while it is written, none of it afterwards. */
#ifndef KR_TOKEN_STORE_H
#define KR_TOKEN_STORE_H

#include "data/text/text_docs.h"

typedef struct kr_store_options {
    kr_docs_options docs;
    const char *cache;    /* folder for the cache file; NULL: memory only */
    int64_t memory_bytes; /* files that are larger together go through the cache; 0: 32 MiB; stdin
                             counts as small */
    /* Bytes read of all (-1: unknown); non-zero stops. May be NULL. */
    int (*on_progress)(void *user, int64_t done, int64_t all);
    void *user;
} kr_store_options;

typedef struct kr_store kr_store;

/* The tokenizer must live as long as the store. An empty corpus is an error. */
int kr_store_open(kr_store **out, const kr_store_options *o, krait_error *e);
void kr_store_close(kr_store **s);

int64_t kr_store_tokens(const kr_store *s);
int64_t kr_store_documents(const kr_store *s);
int64_t kr_store_bytes(const kr_store *s); /* of text; 0: unknown (ids without a tokenizer) */
uint64_t kr_store_hash(const kr_store *s); /* of the ids and document starts */
const char *kr_store_cache_file(const kr_store *s); /* NULL: in memory */
int32_t kr_store_end(const kr_store *s);            /* -1: none */
const krait_tokenizer *kr_store_tokenizer(const kr_store *s);

/* start[0..documents]: the last is the number of tokens. */
const int64_t *kr_store_starts(const kr_store *s);
/* Copies ids[begin .. begin+count) to out. An id outside the vocabulary (a damaged cache file) is
 * an error. */
int kr_store_read(const kr_store *s, int64_t begin, int64_t count, int32_t *out, krait_error *e);

#endif
