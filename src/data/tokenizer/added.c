/* added.c - the search for added tokens; added.h says how. */
#include "data/tokenizer/added.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/tokenizer/utf8.h"

int kr_added_add(kr_added *a, const kr_added_token *t, krait_error *e) {
    if (t->size > KR_ADDED_LONGEST)
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "added token '%.40s' is longer than %d bytes",
                       t->text, KR_ADDED_LONGEST);
    if (kr_grow((void **)&a->tokens, &a->capacity, a->count + 1, sizeof *a->tokens) < 0)
        return kr_fail_memory(e, "added tokens");
    char *copy = kr_strndup(t->text, t->size);
    if (!copy) return kr_fail_memory(e, "added tokens");
    a->tokens[a->count] = *t;
    a->tokens[a->count++].text = copy;
    return 0;
}

void kr_added_free(kr_added *a) {
    for (size_t i = 0; i < a->count; i++) kr_free(a->tokens[i].text);
    kr_free(a->tokens);
    *a = (kr_added){0};
}

static int compare(const kr_added_token *x, const kr_added_token *y) {
    size_t least = x->size < y->size ? x->size : y->size;
    int order = memcmp(x->text, y->text, least);
    return order ? order : (x->size > y->size) - (x->size < y->size);
}

static int by_text(const void *x, const void *y) { return compare(x, y); }

int kr_added_finish(kr_added *a, krait_error *e) {
    if (a->count) qsort(a->tokens, a->count, sizeof *a->tokens, by_text);
    for (size_t i = 0; i < a->count; i++) {
        if (i && compare(&a->tokens[i - 1], &a->tokens[i]) == 0)
            return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "added token '%.80s' is there twice",
                           a->tokens[i].text);
        a->begins[(unsigned char)a->tokens[i].text[0]] = true;
    }
    return 0;
}

/* The first token in [low, high) whose byte `depth` is at least c; all agree before that byte. */
static size_t first_with(const kr_added *a, size_t low, size_t high, size_t depth, int c) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const kr_added_token *t = &a->tokens[middle];
        if (depth < t->size && (unsigned char)t->text[depth] >= c)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* The longest token that text begins with; NULL: none. */
static const kr_added_token *longest(const kr_added *a, const char *text, size_t size) {
    size_t low = 0, high = a->count;
    const kr_added_token *best = NULL;
    for (size_t depth = 0; depth < size; depth++) {
        int c = (unsigned char)text[depth];
        low = first_with(a, low, high, depth, c);
        high = first_with(a, low, high, depth, c + 1);
        if (low == high) break;
        if (a->tokens[low].size == depth + 1) best = &a->tokens[low];
    }
    return best;
}

/* ---- characters around a token -------------------- */

static bool is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

/* \w of Unicode's regular expressions: alphabetic, mark, decimal, connector, join control. */
static bool is_word(uint32_t c) {
    if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
        (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C ||
        c == 0x200D)
        return true;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NL) || k == UTF8PROC_CATEGORY_PC;
}

/* The character that ends at text[end) and its length; 0 at the beginning. */
static size_t before(const char *text, size_t end, uint32_t *c) {
    size_t n = 0;
    while (n < end && n < 4 && ((unsigned char)text[end - n - 1] & 0xC0) == 0x80) n++;
    n += n < end;
    return n && kr_utf8_step(text + end - n, n, c) == n ? n : 0;
}

static bool touches_word(const char *text, size_t size, size_t begin, size_t end) {
    uint32_t c;
    if (before(text, begin, &c) && is_word(c)) return true;
    return kr_utf8_step(text + end, size - end, &c) && is_word(c);
}

static void take_spaces(const kr_added_token *t, const char *text, size_t size, kr_added_search *s,
                        kr_added_match *m) {
    uint32_t c;
    size_t n;
    while (t->lstrip && m->begin > s->done && (n = before(text, m->begin, &c)) && is_space(c))
        m->begin -= n;
    if (!t->rstrip) return;
    if (m->end < s->spaces) m->end = s->spaces; /* no second look at a long run */
    while ((n = kr_utf8_step(text + m->end, size - m->end, &c)) && is_space(c)) m->end += n;
    s->spaces = m->end;
}

bool kr_added_next(const kr_added *a, const char *text, size_t size, kr_added_search *s,
                   kr_added_match *m) {
    for (size_t i = s->from; i < size; i++) {
        if (!a->begins[(unsigned char)text[i]]) continue;
        const kr_added_token *t = longest(a, text + i, size - i);
        if (!t) continue;
        s->from = i + t->size;
        if (t->single_word && touches_word(text, size, i, s->from)) {
            i = s->from - 1;
            continue;
        }
        *m = (kr_added_match){i, s->from, t->id};
        take_spaces(t, text, size, s, m);
        s->done = m->end;
        return true;
    }
    s->from = size;
    return false;
}
