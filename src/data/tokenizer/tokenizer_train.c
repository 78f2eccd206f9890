/* tokenizer_train.c - krait_tokenizer_train: words are counted while the text streams by, then the
 * merges are chosen from the counts. The corpus is never in memory: see word_count.h for what is.
 */
#include <string.h>

#include <krait/train.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/options.h"
#include "data/text/text_source.h"
#include "data/tokenizer/bpe_learn.h"
#include "data/tokenizer/pretok.h"
#include "data/tokenizer/utf8.h"

enum { FIRST_BYTE = 1, LONGEST_WORD = 256, MOST_TOKENS = 1 << 20 }; /* longer words: in parts */

typedef struct counting {
    kr_word_count words;
    kr_pretok *pretok;
    kr_pretok_scratch *scratch;
    kr_source *source;
    const krait_bpe_options *o;
} counting;

static int count_word(void *user, const char *word, size_t size, krait_error *e) {
    counting *c = user;
    for (size_t at = 0, n; at < size; at += n) {
        n = size - at < LONGEST_WORD ? size - at : LONGEST_WORD;
        kr_word *entry;
        KR_TRY(kr_word_count_get(&c->words, word + at, n, &entry, e));
        entry->count++;
    }
    return 0;
}

/* Bytes that are not UTF-8 end a word and are not counted: they are tokens already. */
static int count_piece(counting *c, const char *text, size_t size, krait_error *e) {
    for (size_t at = 0; at < size;) {
        size_t valid = kr_utf8_valid(text + at, size - at);
        KR_TRY(kr_pretok_run(c->pretok, c->scratch, text + at, valid, false, count_word, c, e));
        at += valid + (at + valid < size);
    }
    return 0;
}

static int count_all(counting *c, krait_error *e) {
    kr_piece p;
    int got;
    while ((got = kr_source_next(c->source, &p, e)) > 0) {
        KR_TRY(count_piece(c, p.bytes, p.size, e));
        int64_t done, all;
        kr_source_progress(c->source, &done, &all);
        if (c->o->on_progress && c->o->on_progress(c->o->user, done, all))
            return kr_fail(e, KRAIT_ERR_CANCELLED, "stopped while counting words");
    }
    if (got == 0 && c->words.count == 0)
        return kr_fail(e, KRAIT_ERR_FORMAT, "there is no text to learn a vocabulary from");
    return got;
}

static int count_words(counting *c, const char *const *data, int64_t n_data, krait_error *e) {
    kr_source_options s = {.paths = data, .n_paths = n_data};
    KR_TRY(kr_source_open(&c->source, &s, e));
    KR_TRY(kr_word_count_make(&c->words, 0, 0, e));
    KR_TRY(kr_pretok_make(&c->pretok, e));
    KR_TRY(kr_pretok_add_bytes(c->pretok, false, true, e));
    KR_TRY(kr_pretok_scratch_make(&c->scratch, c->pretok, e));
    return count_all(c, e);
}

/* The end token is id 0, the bytes are 1..256. */
static int begin_vocabulary(krait_tokenizer *t, const char *end, krait_error *e) {
    KR_TRY(kr_tokenizer_set(t, 0, end, strlen(end), e));
    t->end = 0;
    for (int32_t i = 0; i < 256; i++) {
        unsigned char byte = (unsigned char)i;
        KR_TRY(kr_tokenizer_set(t, FIRST_BYTE + i, &byte, 1, e));
    }
    return 0;
}

static int learn_and_write(const counting *c, const char *out, krait_error *e) {
    krait_tokenizer t = {.end = -1};
    kr_merge_pair *merges = NULL;
    int64_t count = 0;
    kr_learn_options o = {c->o->vocabulary, c->o->min_frequency, c->o->on_progress, c->o->user};
    int rc = begin_vocabulary(&t, c->o->end_token, e);
    if (rc == 0) rc = kr_bpe_learn(&t, FIRST_BYTE, &c->words, &o, &merges, &count, e);
    if (rc == 0) rc = kr_tokenizer_write(&t, merges, count, out, e);
    kr_free(merges);
    kr_free(t.bytes);
    kr_free(t.spans);
    return rc;
}

static int check(const krait_bpe_options *o, const char *out, krait_error *e) {
    if (!out) return kr_fail(e, KRAIT_ERR_ARGUMENT, "krait_tokenizer_train: out is NULL");
    if (o->vocabulary < FIRST_BYTE + 256 || o->vocabulary > MOST_TOKENS)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "a vocabulary of %lld: it must be from %d (the bytes and the end token) to "
                       "%d",
                       (long long)o->vocabulary, FIRST_BYTE + 256, MOST_TOKENS);
    size_t end = o->end_token ? strlen(o->end_token) : 0;
    if (end < 2 || end > 256 || kr_utf8_valid(o->end_token, end) != end)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "the end token must have 2 to 256 bytes of UTF-8");
    return 0;
}

int krait_tokenizer_train(const char *const *data, int64_t n_data, const char *out,
                          const krait_bpe_options *options, krait_error *e) {
    krait_bpe_options o = KRAIT_BPE_OPTIONS_INIT;
    KR_TRY(kr_options_read(&o, sizeof o, options, "krait_bpe_options", e));
    KR_TRY(check(&o, out, e));
    counting c = {.o = &o};
    int rc = count_words(&c, data, n_data, e);
    if (rc == 0) rc = learn_and_write(&c, out, e);
    kr_source_close(&c.source);
    kr_pretok_scratch_free(&c.scratch);
    kr_pretok_free(&c.pretok);
    kr_word_count_free(&c.words);
    return rc;
}
