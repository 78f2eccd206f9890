/* nfc.c - normal form C. Code points below U+0300 neither change nor combine with what precedes
 * them, so only stretches around higher ones are given to utf8proc; plain text is not copied. */
#include "data/tokenizer/nfc.h"

#include <string.h>

#include <utf8proc.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/tokenizer/utf8.h"

/* The end of the stretch at `at` in which no code point reaches U+0300 (bytes below 0xCC). The last
 * character is left out when something follows it: it may combine with that. */
static size_t plain_end(const char *text, size_t size, size_t at) {
    size_t start = at;
    while (at < size && (unsigned char)text[at] < 0xCC) at++;
    if (at == size) return size;
    while (at > start && ((unsigned char)text[at - 1] & 0xC0) == 0x80) at--;
    return at > start ? at - 1 : start;
}

/* The end of the stretch that needs normalising: up to two plain characters in a row, of which the
 * first still belongs to it. */
static size_t rich_end(const char *text, size_t size, size_t at) {
    int plain = 0;
    while (at < size) {
        uint32_t c = 0;
        size_t step = kr_utf8_step(text + at, size - at, &c);
        plain = c < 0x300 ? plain + 1 : 0;
        if (plain == 2) return at;
        at += step ? step : 1;
    }
    return size;
}

static int fail_unicode(utf8proc_ssize_t code, krait_error *e) {
    return kr_fail(e, KRAIT_ERR_FORMAT, "text cannot be normalised: %s", utf8proc_errmsg(code));
}

/* Sorts a run of marks by combining class, equal classes in their order, in linear time: a run may
 * be as long as the text. `other` [count] is scratch. */
static void sort_marks(int32_t *marks, int32_t *other, size_t count) {
    size_t place[257] = {0};
    for (size_t i = 0; i < count; i++)
        place[utf8proc_get_property(marks[i])->combining_class + 1]++;
    for (size_t i = 1; i < 257; i++) place[i] += place[i - 1];
    for (size_t i = 0; i < count; i++)
        other[place[utf8proc_get_property(marks[i])->combining_class]++] = marks[i];
    memcpy(marks, other, count * sizeof *marks);
}

/* Canonical ordering of points[0..count), with points[count..2 count) as scratch. */
static void order_marks(int32_t *points, size_t count) {
    for (size_t i = 0, end; i < count; i = end) {
        end = i;
        while (end < count && utf8proc_get_property(points[end])->combining_class) end++;
        if (end - i > 1) sort_marks(points + i, points + count, end - i);
        end += end == i;
    }
}

/* Fills n->points with the decomposition of text and returns how many there are. */
static int decompose(kr_nfc *n, const char *text, size_t size, size_t *count, krait_error *e) {
    const utf8proc_option_t how = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    enum { LONGEST = 32 }; /* no code point decomposes to more */
    *count = 0;
    for (size_t at = 0, step; at < size; at += step) {
        uint32_t c = 0;
        step = kr_utf8_step(text + at, size - at, &c);
        if (!step) return kr_fail(e, KRAIT_ERR_ARGUMENT, "text to normalise is not UTF-8");
        if (kr_grow((void **)&n->points, &n->points_capacity, *count + LONGEST, sizeof *n->points) <
            0)
            return kr_fail_memory(e, "normalising text");
        utf8proc_ssize_t got =
            utf8proc_decompose_char((utf8proc_int32_t)c, n->points + *count, LONGEST, how, NULL);
        if (got < 0) return fail_unicode(got, e);
        *count += (size_t)got;
    }
    if (kr_grow((void **)&n->points, &n->points_capacity, *count * 2, sizeof *n->points) < 0)
        return kr_fail_memory(e, "normalising text");
    return 0;
}

/* Composes points[0..count) and appends them to n->text[*used ...). */
static int append_composed(kr_nfc *n, size_t *used, int32_t *points, size_t count, krait_error *e) {
    utf8proc_ssize_t left = utf8proc_normalize_utf32(points, (utf8proc_ssize_t)count,
                                                     UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (left < 0) return fail_unicode(left, e);
    if (kr_grow((void **)&n->text, &n->capacity, *used + (size_t)left * 4, 1) < 0)
        return kr_fail_memory(e, "normalising text");
    for (utf8proc_ssize_t i = 0; i < left; i++)
        *used += (size_t)utf8proc_encode_char(points[i], (utf8proc_uint8_t *)n->text + *used);
    return 0;
}

/* Appends the normal form of text to n->text. It is composed in parts that end at U+11A7: that
 * character composes with nothing, but utf8proc before 2.9 drops it after a Hangul syllable. */
static int append_rich(kr_nfc *n, size_t *used, const char *text, size_t size, krait_error *e) {
    enum { INERT = 0x11A7 };
    size_t count;
    KR_TRY(decompose(n, text, size, &count, e));
    order_marks(n->points, count);
    for (size_t from = 0, end; from < count; from = end) {
        end = from + 1;
        while (end < count && n->points[end] != INERT) end++;
        KR_TRY(append_composed(n, used, n->points + from, end - from, e));
    }
    return 0;
}

int kr_nfc_run(kr_nfc *n, const char *text, size_t size, const char **out, size_t *out_size,
               krait_error *e) {
    *out = text;
    *out_size = size;
    size_t at = plain_end(text, size, 0), used = 0;
    if (at == size) return 0;
    for (size_t from = 0; from < size;) {
        if (kr_grow((void **)&n->text, &n->capacity, used + at - from, 1) < 0)
            return kr_fail_memory(e, "normalising text");
        if (at > from) memcpy(n->text + used, text + from, at - from);
        used += at - from;
        from = at;
        if (from == size) break;
        size_t end = rich_end(text, size, from);
        KR_TRY(append_rich(n, &used, text + from, end - from, e));
        from = end;
        at = plain_end(text, size, from);
    }
    *out = n->text;
    *out_size = used;
    return 0;
}

void kr_nfc_free(kr_nfc *n) {
    kr_free(n->text);
    kr_free(n->points);
    *n = (kr_nfc){0};
}
