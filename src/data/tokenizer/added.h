/* added.h - finding added tokens in text: leftmost first, of those the longest.
 *
 * The strings are sorted; from a place in the text the range of strings that agree with it is
 * narrowed a byte at a time. Strings are at most 256 bytes, so that the search is linear in the
 * text whatever the strings. */
#ifndef KR_ADDED_H
#define KR_ADDED_H

#include <krait/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KR_ADDED_LONGEST 256

typedef struct kr_added_token {
    char *text; /* owned by the list */
    size_t size;
    int32_t id;
    bool lstrip, rstrip; /* takes the white space before, after it */
    bool special;        /* not text but a mark, as the end of a document */
    bool single_word;    /* counts only where no word character touches it */
} kr_added_token;

typedef struct kr_added {
    kr_added_token *tokens; /* sorted by text once kr_added_finish was called */
    size_t count, capacity;
    bool begins[256]; /* is there one that begins with this byte? */
} kr_added;

/* Copies t->text. */
int kr_added_add(kr_added *a, const kr_added_token *t, krait_error *e);
/* Sorts; a string that is there twice is an error. */
int kr_added_finish(kr_added *a, krait_error *e);
void kr_added_free(kr_added *a);

typedef struct kr_added_match {
    size_t begin, end; /* in the text, white space that is taken included */
    int32_t id;
} kr_added_match;

/* Where a search stands; zero at the beginning of a text. White space that a token took may hold
 * another token, which then counts too, as in Hugging Face's library. */
typedef struct kr_added_search {
    size_t from;   /* the search goes on here */
    size_t done;   /* the end of the last match */
    size_t spaces; /* white space is known to reach to here from the last match on */
} kr_added_search;

bool kr_added_next(const kr_added *a, const char *text, size_t size, kr_added_search *s,
                   kr_added_match *m);

#endif
