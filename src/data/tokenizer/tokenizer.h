/* tokenizer.h - inside of krait_tokenizer: text <-> token ids.
 *
 * A kind is a const struct in a file of its own and a line in tokenizers.def. Every kind fills one
 * table, the bytes that each id stands for; decoding is the concatenation of table entries and so
 * is shared. A tokenizer is read-only after opening: threads may share it, each encoding through
 * its own kr_encoder (scratch and word cache). */
#ifndef KR_TOKENIZER_H
#define KR_TOKENIZER_H

#include <krait/krait.h>
#include <stdbool.h>

/* A growing list of ids. */
typedef struct kr_ids {
    int32_t *data;
    size_t count, capacity;
} kr_ids;

int kr_ids_push(kr_ids *v, int32_t id, krait_error *e);
int kr_ids_reserve(kr_ids *v, size_t more, krait_error *e); /* room for `more` ids past count */
void kr_ids_free(kr_ids *v);

typedef struct kr_tokenizer_kind {
    const char *name;
    bool (*claims)(const char *path); /* is this file, folder or word for this kind? */
    /* Fills the tokenizer: its table by kr_tokenizer_set, and end, hash, inside. On failure `close`
     * is called. */
    int (*open)(krait_tokenizer *t, const char *path, krait_error *e);
    void (*close)(krait_tokenizer *t); /* frees what `inside` owns; may be NULL */
    /* Writes tokenizer.json for a tokenizer of this kind. */
    int (*save)(const krait_tokenizer *t, const char *path, krait_error *e);
    /* One thread's scratch for texts of about `length` bytes; both NULL: none needed. */
    int (*scratch_open)(void **scratch, const krait_tokenizer *t, size_t length, krait_error *e);
    void (*scratch_close)(void *scratch);
    /* Appends the ids of text to *out. */
    int (*encode)(const krait_tokenizer *t, void *scratch, const char *text, size_t length,
                  kr_ids *out, krait_error *e);
} kr_tokenizer_kind;

struct krait_tokenizer {
    const kr_tokenizer_kind *kind;
    void *inside;       /* the kind's own */
    char *path;         /* what was opened */
    int64_t vocabulary; /* V: largest id + 1 */
    int32_t end;        /* -1: none */
    uint64_t hash;      /* of everything that decides which ids a text has */
    unsigned char *bytes;
    size_t bytes_count, bytes_capacity;
    struct kr_token_span {
        uint32_t start, size;
    } * spans; /* [V]: the bytes of id i are bytes[start .. start+size) */
    size_t spans_capacity;
};

/* Says which bytes an id stands for; ids may come in any order. */
int kr_tokenizer_set(krait_tokenizer *t, int32_t id, const void *bytes, size_t size,
                     krait_error *e);

/* How many bytes of text an id stands for; the end token and ids without a token: 0. */
int64_t kr_tokenizer_id_bytes(const krait_tokenizer *t, int32_t id);

/* Writes tokenizer.json, which opens again with the same ids, here and in Hugging Face's library.
 */
int kr_tokenizer_save(const krait_tokenizer *t, const char *path, krait_error *e);

/* One thread's way to encode many texts: it keeps scratch memory and a bounded cache of words
 * between calls. */
typedef struct kr_encoder kr_encoder;
/* length: about how many bytes one text has (0: unknown), so that a short prompt makes no large
 * cache. */
int kr_encoder_open(kr_encoder **out, const krait_tokenizer *t, size_t length, krait_error *e);
int kr_encoder_run(kr_encoder *x, const char *text, size_t length, kr_ids *out, krait_error *e);
void kr_encoder_close(kr_encoder **x);

#endif
