/* pretok.h - cutting text into the words that byte pairs are merged in.
 *
 * A pre-tokenizer is a short list of steps, each cutting the pieces of the one before:
 *   SPLIT   by a regular expression (PCRE2, compiled to machine code), what matches and what lies
 *           between; "removed" pieces are dropped, "contiguous" neighbours of a kind are one piece
 *   BYTES   the byte-level step: an optional space in front, the GPT-2 pattern, and from there on
 *           the text is in byte characters (byte_chars.h), as later steps of a list see it
 * Words reach the caller as plain bytes. */
#ifndef KR_PRETOK_H
#define KR_PRETOK_H

#include <krait/error.h>
#include <stdbool.h>
#include <stddef.h>

typedef enum kr_cut { KR_CUT_ISOLATED, KR_CUT_REMOVED, KR_CUT_CONTIGUOUS } kr_cut;

typedef struct kr_pretok kr_pretok;

int kr_pretok_make(kr_pretok **out, krait_error *e);
void kr_pretok_free(kr_pretok **p);
/* `pattern` is in the syntax of Hugging Face's files (Oniguruma); what PCRE2 would read in another
 * way is refused. literal: it is a plain string. invert: matches and what lies between change
 * places. */
int kr_pretok_add_split(kr_pretok *p, const char *pattern, bool literal, kr_cut cut, bool invert,
                        krait_error *e);
int kr_pretok_add_bytes(kr_pretok *p, bool prefix_space, bool use_regex, krait_error *e);
bool kr_pretok_has_bytes(const kr_pretok *p);

/* One thread's scratch. */
typedef struct kr_pretok_scratch kr_pretok_scratch;
int kr_pretok_scratch_make(kr_pretok_scratch **out, const kr_pretok *p, krait_error *e);
void kr_pretok_scratch_free(kr_pretok_scratch **s);

/* Calls word() for every word of the valid UTF-8 text[0..size), in order. prefix: false leaves out
 * the space in front (the text goes on after bytes that were not UTF-8). */
typedef int (*kr_word_fn)(void *user, const char *word, size_t size, krait_error *e);
int kr_pretok_run(const kr_pretok *p, kr_pretok_scratch *s, const char *text, size_t size,
                  bool prefix, kr_word_fn word, void *user, krait_error *e);

#endif
