/* pretok.c - pre-tokenizers over PCRE2; pretok.h says what a step does. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/tokenizer/pretok.h"

#include <string.h>

#include <pcre2.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/tokenizer/byte_chars.h"

enum { MOST_STEPS = 8, LONGEST_PATTERN = 4096, JIT_STACK = 1 << 20 };

typedef struct step {
    pcre2_code *code; /* NULL: no cutting */
    kr_cut cut;
    bool invert, bytes, prefix_space;
} step;

struct kr_pretok {
    step steps[MOST_STEPS];
    int count;
};

struct kr_pretok_scratch {
    struct {
        pcre2_match_data *match;
        char *prefixed, *mapped; /* text with a space in front; text in byte characters */
        size_t prefixed_capacity, mapped_capacity;
    } level[MOST_STEPS];
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    char *word; /* bytes of a word in byte characters */
    size_t word_capacity;
};

/* White space as Unicode lists it: PCRE2's \s also takes U+180E. Inside a class, without brackets.
 */
#define SPACES                                                                                     \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|"
                                   " ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

int kr_pretok_make(kr_pretok **out, krait_error *e) {
    *out = kr_calloc(1, sizeof **out);
    return *out ? 0 : kr_fail_memory(e, "a pre-tokenizer");
}

void kr_pretok_free(kr_pretok **p) {
    if (!*p) return;
    for (int i = 0; i < (*p)->count; i++) pcre2_code_free((*p)->steps[i].code);
    kr_free(*p);
    *p = NULL;
}

bool kr_pretok_has_bytes(const kr_pretok *p) {
    for (int i = 0; i < p->count; i++)
        if (p->steps[i].bytes) return true;
    return false;
}

/* ---- patterns -------------------- */

static int refuse(const char *pattern, const char *what, krait_error *e) {
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "the pattern '%.80s' uses %s, which is not supported",
                   pattern, what);
}

/* Copies one escape sequence (pattern[0] is the backslash) to out; returns its length, or an error
 * for those that mean different things to Oniguruma and PCRE2. */
static int translate_escape(const char *pattern, const char *at, bool in_class, char *out,
                            krait_error *e) {
    char c = at[1], name[3] = {'\\', c, 0};
    if (c == 's') {
        strcpy(out, in_class ? SPACES : "[" SPACES "]");
    } else if (c == 'S') {
        if (in_class) return refuse(pattern, "\\S in a class", e);
        strcpy(out, "[^" SPACES "]");
    } else if (c == 0 || (((c | 32) >= 'a' && (c | 32) <= 'z') && !strchr("pPdDrntfvx", c)) ||
               (c >= '0' && c <= '9')) {
        return refuse(pattern, c ? name : "a lone backslash", e);
    } else if ((c == 'p' || c == 'P' || c == 'x') && at[2] == '{') { /* the braces belong to it */
        size_t n = strcspn(at, "}") + 1;
        if (n > 100 || at[n - 1] != '}') return refuse(pattern, name, e);
        memcpy(out, at, n);
        out[n] = 0;
        return (int)n;
    } else {
        strcpy(out, name);
    }
    return 2;
}

/* Writes the pattern as PCRE2 reads it, into out[LONGEST_PATTERN * 2]. */
static int translate(const char *pattern, char *out, krait_error *e) {
    bool in_class = false;
    size_t used = 0;
    for (const char *at = pattern; *at;) {
        char piece[200] = {*at, 0};
        int taken = 1;
        if (*at == '\\') {
            taken = translate_escape(pattern, at, in_class, piece, e);
            if (taken < 0) return taken;
        } else if (*at == '[') {
            if (in_class) return refuse(pattern, "a class inside a class", e);
            in_class = true;
        } else if (*at == ']') {
            in_class = false;
        } else if (at[0] == '&' && at[1] == '&' && in_class) {
            return refuse(pattern, "an intersection of classes", e);
        } else if (at[0] == '}' && at[1] == '+') {
            return refuse(pattern, "}+", e);
        }
        size_t length = strlen(piece);
        if (used + length >= LONGEST_PATTERN * 2) return refuse(pattern, "too many classes", e);
        memcpy(out + used, piece, length + 1);
        used += length;
        at += taken;
    }
    out[used] = 0;
    return 0;
}

static int compile(pcre2_code **out, const char *pattern, bool literal, krait_error *e) {
    char text[LONGEST_PATTERN * 2];
    if (strlen(pattern) >= LONGEST_PATTERN || !*pattern)
        return refuse(pattern, *pattern ? "too many characters" : "no characters", e);
    if (literal)
        strcpy(text, pattern);
    else
        KR_TRY(translate(pattern, text, e));
    int code;
    PCRE2_SIZE at;
    uint32_t how = PCRE2_UTF | PCRE2_NO_UTF_CHECK | (literal ? PCRE2_LITERAL : PCRE2_UCP);
    *out = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, how, &code, &at, NULL);
    if (!*out) {
        char why[120] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "the pattern '%.80s' is not understood: %s",
                       pattern, why);
    }
    uint32_t may_be_empty = 0;
    pcre2_pattern_info(*out, PCRE2_INFO_MATCHEMPTY, &may_be_empty);
    if (may_be_empty) return refuse(pattern, "a match of no characters", e);
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* where it fails, pcre2_match interprets */
    return 0;
}

static int add_step(kr_pretok *p, step **out, krait_error *e) {
    if (p->count == MOST_STEPS)
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "a pre_tokenizer of more than %d steps",
                       MOST_STEPS);
    *out = &p->steps[p->count++];
    return 0;
}

int kr_pretok_add_split(kr_pretok *p, const char *pattern, bool literal, kr_cut cut, bool invert,
                        krait_error *e) {
    step *s = NULL;
    KR_TRY(add_step(p, &s, e));
    s->cut = cut;
    s->invert = invert;
    return compile(&s->code, pattern, literal, e);
}

int kr_pretok_add_bytes(kr_pretok *p, bool prefix_space, bool use_regex, krait_error *e) {
    if (kr_pretok_has_bytes(p))
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "a pre_tokenizer with two ByteLevel steps");
    step *s = NULL;
    KR_TRY(add_step(p, &s, e));
    s->bytes = true;
    s->prefix_space = prefix_space;
    return use_regex ? compile(&s->code, gpt2_pattern, false, e) : 0;
}

/* ---- scratch -------------------- */

int kr_pretok_scratch_make(kr_pretok_scratch **out, const kr_pretok *p, krait_error *e) {
    kr_pretok_scratch *s = *out = kr_calloc(1, sizeof *s);
    if (!s) return kr_fail_memory(e, "a pre-tokenizer");
    s->context = pcre2_match_context_create(NULL);
    s->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK, NULL);
    bool whole = s->context && s->stack;
    for (int i = 0; i < p->count; i++) {
        s->level[i].match = pcre2_match_data_create(1, NULL);
        whole = whole && s->level[i].match;
    }
    if (whole) {
        pcre2_jit_stack_assign(s->context, NULL, s->stack);
        return 0;
    }
    kr_pretok_scratch_free(out);
    return kr_fail_memory(e, "a pre-tokenizer");
}

void kr_pretok_scratch_free(kr_pretok_scratch **scratch) {
    kr_pretok_scratch *s = *scratch;
    if (!s) return;
    for (int i = 0; i < MOST_STEPS; i++) {
        pcre2_match_data_free(s->level[i].match);
        kr_free(s->level[i].prefixed);
        kr_free(s->level[i].mapped);
    }
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    kr_free(s->word);
    kr_free(s);
    *scratch = NULL;
}

/* ---- running -------------------- */

typedef struct run {
    const kr_pretok *p;
    kr_pretok_scratch *s;
    bool prefix;
    kr_word_fn word;
    void *user;
} run;

static int do_step(const run *r, int i, const char *text, size_t size, bool mapped, krait_error *e);

/* A piece that left step i: the next step's, or a word. */
static int leave_step(const run *r, int i, const char *text, size_t size, bool mapped,
                      krait_error *e) {
    const step *s = &r->p->steps[i];
    bool last = i + 1 == r->p->count;
    if (size == 0) return 0;
    if (s->bytes && !last) { /* later steps see byte characters */
        char **to = &r->s->level[i].mapped;
        if (kr_grow((void **)to, &r->s->level[i].mapped_capacity, size * 2, 1) < 0)
            return kr_fail_memory(e, "a word");
        size_t n = 0;
        for (size_t k = 0; k < size; k++) n += kr_byte_put((unsigned char)text[k], *to + n);
        return do_step(r, i + 1, *to, n, true, e);
    }
    if (!last) return do_step(r, i + 1, text, size, mapped, e);
    if (!mapped) return r->word(r->user, text, size, e);
    if (kr_grow((void **)&r->s->word, &r->s->word_capacity, size, 1) < 0)
        return kr_fail_memory(e, "a word");
    bool all;
    size_t n = kr_bytes_of_chars(text, size, r->s->word, &all);
    return r->word(r->user, r->s->word, n, e);
}

/* The next match in text at or after `from`: 1 and its bounds, 0: none. */
static int next_match(const run *r, int i, const char *text, size_t size, size_t from,
                      size_t *begin, size_t *end, krait_error *e) {
    pcre2_match_data *m = r->s->level[i].match;
    int rc = pcre2_match(r->p->steps[i].code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, m,
                         r->s->context);
    if (rc == PCRE2_ERROR_NOMATCH) return 0;
    if (rc < 0) {
        char why[120] = "";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "the tokenizer's pattern gave up on this text: %s",
                       why);
    }
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(m);
    *begin = bounds[0];
    *end = bounds[1];
    return 1;
}

/* Pieces as they are found, each told whether it matched; neighbours of a kind are joined where the
 * step says so. */
typedef struct pieces {
    const run *r;
    int i;
    const char *text;
    bool mapped;
    size_t begin, end; /* the piece that waits */
    bool matched;
} pieces;

static int flush(pieces *p, krait_error *e) {
    const step *s = &p->r->p->steps[p->i];
    if (p->begin == p->end || (s->cut == KR_CUT_REMOVED && p->matched != s->invert)) return 0;
    return leave_step(p->r, p->i, p->text + p->begin, p->end - p->begin, p->mapped, e);
}

static int found(pieces *p, size_t begin, size_t end, bool matched, krait_error *e) {
    if (begin == end) return 0;
    bool join =
        p->r->p->steps[p->i].cut == KR_CUT_CONTIGUOUS && p->begin < p->end && p->matched == matched;
    if (!join) {
        KR_TRY(flush(p, e));
        p->begin = begin;
    }
    p->end = end;
    p->matched = matched;
    return 0;
}

static int cut(const run *r, int i, const char *text, size_t size, bool mapped, krait_error *e) {
    pieces p = {r, i, text, mapped, 0, 0, false};
    size_t at = 0, begin = 0, end = 0;
    while (at < size) {
        int got = next_match(r, i, text, size, at, &begin, &end, e);
        if (got < 0) return got;
        if (got == 0) break;
        KR_TRY(found(&p, at, begin, false, e));
        KR_TRY(found(&p, begin, end, true, e));
        at = end;
    }
    KR_TRY(found(&p, at, size, false, e));
    return flush(&p, e);
}

static int do_step(const run *r, int i, const char *text, size_t size, bool mapped,
                   krait_error *e) {
    const step *s = &r->p->steps[i];
    if (s->prefix_space && r->prefix && *text != ' ') {
        char **to = &r->s->level[i].prefixed;
        if (kr_grow((void **)to, &r->s->level[i].prefixed_capacity, size + 1, 1) < 0)
            return kr_fail_memory(e, "a word");
        **to = ' ';
        memcpy(*to + 1, text, size);
        text = *to;
        size++;
    }
    return s->code ? cut(r, i, text, size, mapped, e) : leave_step(r, i, text, size, mapped, e);
}

int kr_pretok_run(const kr_pretok *p, kr_pretok_scratch *s, const char *text, size_t size,
                  bool prefix, kr_word_fn word, void *user, krait_error *e) {
    run r = {p, s, prefix, word, user};
    return size ? do_step(&r, 0, text, size, false, e) : 0;
}
