/* bpe_text.c - byte-level BPE of whole texts; bpe_text.h draws the path of a text. */
#include "data/tokenizer/bpe_text.h"

#include "base/err.h"
#include "base/mem.h"
#include "data/tokenizer/nfc.h"
#include "data/tokenizer/utf8.h"

enum { LEAST_SLOTS = 64, MOST_SLOTS = 1 << 15 }; /* of the word cache: 4 KiB to 2 MiB */

typedef struct scratch {
    kr_bpe_scratch *bpe;
    kr_pretok_scratch *pretok;
    kr_nfc nfc;
} scratch;

void kr_bpe_text_close(krait_tokenizer *t) {
    kr_bpe_text *b = t->inside;
    if (!b) return;
    kr_bpe_free(&b->bpe);
    kr_pretok_free(&b->pretok);
    kr_added_free(&b->raw);
    kr_added_free(&b->normal);
    kr_free(b);
    t->inside = NULL;
}

int kr_bpe_text_scratch_open(void **out, const krait_tokenizer *t, size_t length, krait_error *e) {
    const kr_bpe_text *b = t->inside;
    scratch *s = *out = kr_calloc(1, sizeof *s);
    if (!s) return kr_fail_memory(e, "an encoder");
    size_t slots = LEAST_SLOTS;
    while (slots < MOST_SLOTS && (length == 0 || slots < length / 8)) slots *= 2;
    KR_TRY(kr_bpe_scratch_make(&s->bpe, slots, e));
    return kr_pretok_scratch_make(&s->pretok, b->pretok, e);
}

void kr_bpe_text_scratch_close(void *opened) {
    scratch *s = opened;
    kr_bpe_scratch_free(&s->bpe);
    kr_pretok_scratch_free(&s->pretok);
    kr_nfc_free(&s->nfc);
    kr_free(s);
}

typedef struct job {
    const kr_bpe_text *b;
    scratch *s;
    kr_ids *out;
    bool prefix; /* may a space be put in front? not where text goes on after a foreign byte */
} job;

static int on_word(void *user, const char *word, size_t size, krait_error *e) {
    const job *j = user;
    return kr_bpe_word(&j->b->bpe, j->s->bpe, word, size, j->out, e);
}

/* Text without added tokens. */
static int plain(job *j, const char *text, size_t size, krait_error *e) {
    int rc = kr_pretok_run(j->b->pretok, j->s->pretok, text, size, j->prefix, on_word, j, e);
    j->prefix = true;
    return rc;
}

/* Cuts text at the added tokens of `a`, and hands what lies between to `rest`. */
static int at_tokens(job *j, const kr_added *a, const char *text, size_t size,
                     int (*rest)(job *, const char *, size_t, krait_error *), krait_error *e) {
    kr_added_search search = {0};
    kr_added_match m;
    size_t done = 0;
    while (a->count && kr_added_next(a, text, size, &search, &m)) {
        if (m.begin > done) KR_TRY(rest(j, text + done, m.begin - done, e));
        KR_TRY(kr_ids_push(j->out, m.id, e));
        done = m.end;
        j->prefix = true;
    }
    return done < size ? rest(j, text + done, size - done, e) : 0;
}

static int normalised(job *j, const char *text, size_t size, krait_error *e) {
    if (j->b->nfc) KR_TRY(kr_nfc_run(&j->s->nfc, text, size, &text, &size, e));
    return at_tokens(j, &j->b->normal, text, size, plain, e);
}

int kr_bpe_text_encode(const krait_tokenizer *t, void *opened, const char *text, size_t length,
                       kr_ids *out, krait_error *e) {
    job j = {t->inside, opened, out, true};
    for (size_t at = 0; at < length;) {
        size_t valid = kr_utf8_valid(text + at, length - at);
        if (valid) KR_TRY(at_tokens(&j, &j.b->raw, text + at, valid, normalised, e));
        at += valid;
        if (at == length) break;
        KR_TRY(kr_bpe_word(&j.b->bpe, j.s->bpe, text + at, 1, out, e));
        j.prefix = false;
        at++;
    }
    return 0;
}
