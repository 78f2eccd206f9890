/* text_source.c - documents from files, folders and stdin; text_source.h says what a document is.
 */
#include "data/text/text_source.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "data/text/file_list.h"

enum { PIECE = 4 << 20, LINE_LIMIT = 1 << 30, LOOK = 64 << 10 };

struct kr_source {
    kr_file_list files;
    char *separator;
    size_t separator_size;
    bool lines;
    size_t piece;
    size_t file; /* index of the open file */
    FILE *stream;
    bool jsonl, ended; /* of the open file */
    bool inside;       /* the last piece did not end its document */
    int64_t line, done;
    char *buffer; /* [capacity]; unread: [begin, end) */
    size_t begin, end, capacity;
    json_t *json; /* holds the text of the last .jsonl line */
};

int kr_source_open(kr_source **out, const kr_source_options *o, krait_error *e) {
    *out = NULL;
    if (o->n_paths <= 0) return kr_fail(e, KRAIT_ERR_ARGUMENT, "no data: no file was named");
    kr_source *s = kr_calloc(1, sizeof *s);
    if (!s) return kr_fail_memory(e, "reading text");
    s->lines = o->lines;
    s->piece = !o->piece ? PIECE : o->piece < 64 ? 64 : o->piece;
    int rc = 0;
    if (o->separator && *o->separator && !o->lines) {
        s->separator = kr_strdup(o->separator);
        s->separator_size = strlen(o->separator);
        if (!s->separator) rc = kr_fail_memory(e, "reading text");
    }
    for (int64_t i = 0; rc == 0 && i < o->n_paths; i++)
        rc = kr_file_list_add(&s->files, o->paths[i], e);
    if (rc < 0) kr_source_close(&s);
    *out = s;
    return rc;
}

static void close_file(kr_source *s) {
    if (s->stream && s->stream != stdin) fclose(s->stream);
    s->stream = NULL;
    s->begin = s->end = 0;
}

void kr_source_close(kr_source **source) {
    kr_source *s = *source;
    if (!s) return;
    close_file(s);
    json_decref(s->json);
    kr_file_list_free(&s->files);
    kr_free(s->separator);
    kr_free(s->buffer);
    kr_free(s);
    *source = NULL;
}

void kr_source_progress(const kr_source *s, int64_t *done, int64_t *all) {
    *done = s->done;
    *all = 0;
    for (size_t i = 0; i < s->files.count && *all >= 0; i++)
        *all = s->files.files[i].size < 0 ? -1 : *all + s->files.files[i].size;
}

static uint64_t mix(uint64_t h, uint64_t v) {
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

uint64_t kr_source_hash(const kr_source *s) {
    uint64_t h = mix(s->lines, s->separator ? kr_hash_string(s->separator) : 0);
    for (size_t i = 0; i < s->files.count; i++) {
        const kr_file_entry *f = &s->files.files[i];
        if (f->size < 0) return 0;
        h = mix(h, kr_hash_string(f->path));
        h = mix(mix(mix(h, (uint64_t)f->size), (uint64_t)f->seconds), (uint64_t)f->nanoseconds);
    }
    return h ? h : 1;
}

static const char *path_of(const kr_source *s) {
    const char *path = s->files.files[s->file].path;
    return strcmp(path, "-") == 0 ? "stdin" : path;
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

/* Reads until `want` bytes are unread or the file ends. */
static int fill(kr_source *s, size_t want, krait_error *e) {
    if (s->begin) memmove(s->buffer, s->buffer + s->begin, s->end - s->begin);
    s->end -= s->begin;
    s->begin = 0;
    if (kr_grow((void **)&s->buffer, &s->capacity, want, 1) < 0)
        return kr_fail_memory(e, path_of(s));
    while (!s->ended && s->end < want) {
        size_t n = fread(s->buffer + s->end, 1, want - s->end, s->stream);
        s->end += n;
        s->done += (int64_t)n;
        if (n == 0 && ferror(s->stream))
            return kr_fail(e, KRAIT_ERR_IO, "%s: reading failed: %s", path_of(s), strerror(errno));
        s->ended = n == 0;
    }
    return 0;
}

static int open_file(kr_source *s, krait_error *e) {
    const char *path = s->files.files[s->file].path;
    s->stream = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!s->stream)
        return kr_fail(e, KRAIT_ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    s->jsonl = !s->lines && ends_with(path, ".jsonl");
    s->ended = s->inside = false;
    s->line = 0;
    KR_TRY(fill(s, s->piece, e));
    const char *zero = s->end ? memchr(s->buffer, 0, s->end < LOOK ? s->end : LOOK) : NULL;
    if (zero)
        return kr_fail(e, KRAIT_ERR_FORMAT,
                       "%s: not text (a zero byte at offset %lld): give text files", path_of(s),
                       (long long)(zero - s->buffer));
    return 0;
}

static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* Where to cut text[0..size) that goes on: the last place in its second half where a single line
 * end stands between a non-blank and a letter; else where a single space follows a letter and
 * precedes one; else between two characters. */
static size_t cut_text(const char *text, size_t size) {
    for (size_t i = size - 1; i > size / 2; i--)
        if (text[i - 1] == '\n' && is_letter(text[i]) && !is_blank(text[i - 2])) return i;
    for (size_t i = size - 1; i > size / 2; i--)
        if (text[i] == ' ' && is_letter(text[i - 1]) && is_letter(text[i + 1 < size ? i + 1 : i]))
            return i;
    size_t i = size;
    while (i > size - 4 && i > 1 && ((unsigned char)text[i - 1] & 0xC0) == 0x80) i--;
    return i > 1 && (unsigned char)text[i - 1] >= 0xC0 ? i - 1 : size;
}

/* Numbers in a line may be cut only at a blank. */
static size_t cut_numbers(const char *text, size_t size) {
    for (size_t i = size; i > 1; i--)
        if (is_blank(text[i - 1])) return i;
    return size;
}

static const char *find(const kr_source *s) {
    const char *text = s->buffer + s->begin;
    size_t size = s->end - s->begin;
    if (s->lines || s->jsonl) return size ? memchr(text, '\n', size) : NULL;
    if (!s->separator) return NULL;
    for (const char *end = text + size, *p = text; p < end; p++) {
        p = memchr(p, s->separator[0], (size_t)(end - p));
        if (!p || (size_t)(end - p) < s->separator_size) return NULL;
        if (memcmp(p, s->separator, s->separator_size) == 0) return p;
    }
    return NULL;
}

static void emit(kr_source *s, kr_piece *p, size_t size, bool last) {
    p->bytes = s->buffer + s->begin;
    p->size = size;
    p->first = !s->inside;
    p->last = last;
    p->path = path_of(s);
    p->line = s->lines || s->jsonl ? s->line : 0;
    s->inside = !last;
    s->begin += size;
}

static int text_of_line(kr_source *s, kr_piece *p, krait_error *e) {
    json_error_t why;
    json_decref(s->json);
    s->json = json_loadb(p->bytes, p->size, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &why);
    if (!s->json)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: line %lld is not JSON: %s", p->path,
                       (long long)p->line, why.text);
    json_t *text = json_object_get(s->json, "text");
    if (!json_is_string(text))
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: line %lld has no string named \"text\"", p->path,
                       (long long)p->line);
    p->bytes = json_string_value(text);
    p->size = json_string_length(text);
    return 0;
}

/* A piece of the open file: 1, or 0 at its end. */
static int next_of_file(kr_source *s, kr_piece *p, krait_error *e) {
    bool by_line = s->lines || s->jsonl;
    size_t delimiter = by_line ? 1 : s->separator_size, want = s->piece + delimiter;
    const char *end = find(s);
    if (!end && !s->ended) {
        KR_TRY(fill(s, want, e));
        end = find(s);
    }
    while (!end && s->jsonl && !s->ended) { /* JSON must be whole */
        if (want >= LINE_LIMIT)
            return kr_fail(e, KRAIT_ERR_FORMAT, "%s: line %lld is longer than 1 GiB", path_of(s),
                           (long long)s->line + 1);
        KR_TRY(fill(s, want *= 2, e));
        end = find(s);
    }
    size_t unread = s->end - s->begin;
    if (!unread && !s->inside) return 0;
    s->line += !s->inside;
    if (end) {
        emit(s, p, (size_t)(end - s->buffer) - s->begin, true);
        s->begin += delimiter;
    } else if (s->ended) {
        emit(s, p, unread, true);
    } else { /* `delimiter` bytes stay, so that a separator is never cut in two */
        const char *text = s->buffer + s->begin;
        size_t most = unread - delimiter;
        emit(s, p, s->lines ? cut_numbers(text, most) : cut_text(text, most), false);
    }
    return 1;
}

int kr_source_next(kr_source *s, kr_piece *p, krait_error *e) {
    while (s->file < s->files.count) {
        if (!s->stream) KR_TRY(open_file(s, e));
        int got = next_of_file(s, p, e);
        if (got < 0) return got;
        if (got == 0) {
            close_file(s);
            s->file++;
            continue;
        }
        if (!s->jsonl) return 1;
        if (p->size == 0 || (p->size == 1 && *p->bytes == '\r')) continue;
        KR_TRY(text_of_line(s, p, e));
        return 1;
    }
    return 0;
}
