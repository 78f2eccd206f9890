/* tokenizer_bytes.c - the byte-level tokenizer: ids 0..255 are the bytes, 256 is the end of a
 * document. */
#include <string.h>

#include "base/err.h"
#include "base/rng.h"
#include "data/tokenizer/tokenizer_write.h"

enum { END = 256 };
static const char end_text[] = "<|endoftext|>";

static bool claims(const char *path) { return strcmp(path, "bytes") == 0; }

static int open_bytes(krait_tokenizer *t, const char *path, krait_error *e) {
    for (int32_t i = 0; i < END; i++) {
        unsigned char byte = (unsigned char)i;
        KR_TRY(kr_tokenizer_set(t, i, &byte, 1, e));
    }
    KR_TRY(kr_tokenizer_set(t, END, end_text, sizeof end_text - 1, e));
    t->end = END;
    t->hash = kr_hash_string(path);
    return 0;
}

static int encode(const krait_tokenizer *t, void *scratch, const char *text, size_t length,
                  kr_ids *out, krait_error *e) {
    (void)t, (void)scratch;
    KR_TRY(kr_ids_reserve(out, length, e));
    for (size_t i = 0; i < length; i++) out->data[out->count + i] = (unsigned char)text[i];
    out->count += length;
    return 0;
}

static int save(const krait_tokenizer *t, const char *path, krait_error *e) {
    return kr_tokenizer_write(t, NULL, 0, path, e);
}

const kr_tokenizer_kind kr_tokenizer_bytes = {
    .name = "bytes",
    .claims = claims,
    .open = open_bytes,
    .save = save,
    .encode = encode,
};
