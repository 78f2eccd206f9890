/* cli_input.c - memory, models, files of text, and files of token ids. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <krait/train.h>
#include "cli.h"

static void *need(void *p) {
    if (p) return p;
    fprintf(stderr, "krait: not enough memory\n");
    exit(CLI_FAILED);
}

void *cli_alloc(size_t size) { return need(calloc(1, size ? size : 1)); }
void *cli_resize(void *old, size_t size) { return need(realloc(old, size ? size : 1)); }

int cli_error(krait_error *e, krait_err code, const char *format, ...) {
    va_list list;
    e->code = code;
    va_start(list, format);
    vsnprintf(e->message, sizeof e->message, format, list);
    va_end(list);
    return code;
}

static bool has_option(const cli_args *a, const char *name) {
    for (const cli_option *p = a->command->options; p->kind != CLI_END; p++)
        if (strcmp(p->name, name) == 0) return true;
    return false;
}

static void model_dtype(const cli_args *a, krait_model_options *o) {
    static const struct {
        const char *name;
        krait_dtype dtype;
    } types[] = {{"f32", KRAIT_F32}, {"bf16", KRAIT_BF16}, {"f16", KRAIT_F16}};
    for (size_t i = 0; has_option(a, "dtype") && i < sizeof types / sizeof *types; i++)
        if (strcmp(cli_text(a, "dtype"), types[i].name) == 0) {
            o->keep_dtype = 0;
            o->dtype = types[i].dtype;
        }
}

krait_model *cli_open_model(const cli_args *a, cli_tokenizer tokenizer) {
    krait_model_options o = KRAIT_MODEL_OPTIONS_INIT;
    krait_model *model = NULL;
    krait_error e;
    o.without_tokenizer = tokenizer == CLI_NO_TOKENIZER;
    o.tokenizer_optional = tokenizer == CLI_ANY_TOKENIZER;
    model_dtype(a, &o);
    if (has_option(a, "rate")) o.rate = cli_real(a, "rate");
    if (has_option(a, "device")) o.device = cli_text(a, "device");
    if (krait_model_open(&model, cli_text(a, "model"), &o, &e) < 0) cli_fail(a, "%s", e.message);
    return model;
}

void cli_append(cli_buffer *b, const void *bytes, size_t n) {
    if (b->capacity - b->length <= n) {
        b->capacity = 2 * b->capacity > b->length + n + 1 ? 2 * b->capacity : b->length + n + 1;
        b->bytes = cli_resize(b->bytes, b->capacity);
    }
    memcpy(b->bytes + b->length, bytes, n);
    b->length += n;
    b->bytes[b->length] = 0;
}

void cli_buffer_free(cli_buffer *b) {
    free(b->bytes);
    *b = (cli_buffer){0};
}

static int read_stream(cli_buffer *b, FILE *f, const char *path, krait_error *e) {
    char piece[65536];
    size_t n;
    cli_append(b, "", 0);
    while ((n = fread(piece, 1, sizeof piece, f)) > 0) cli_append(b, piece, n);
    if (!ferror(f)) return 0;
    return cli_error(e, KRAIT_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
}

int cli_read_file(cli_buffer *b, const char *path, krait_error *e) {
    if (strcmp(path, "-") == 0) return read_stream(b, stdin, "standard input", e);
    FILE *f = fopen(path, "rb");
    if (!f) return cli_error(e, KRAIT_ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    int rc = read_stream(b, f, path, e);
    fclose(f);
    return rc;
}

/* Room for one more document of each kind that is in use. */
static void grow(cli_documents *d) {
    if ((size_t)d->n < d->capacity) return;
    d->capacity = d->capacity ? 2 * d->capacity : 16;
    d->texts = cli_resize(d->texts, d->capacity * sizeof *d->texts);
    d->lengths = cli_resize(d->lengths, d->capacity * sizeof *d->lengths);
    d->ids = cli_resize(d->ids, d->capacity * sizeof *d->ids);
    d->counts = cli_resize(d->counts, d->capacity * sizeof *d->counts);
}

static void add(cli_documents *d, char *text, size_t length, int32_t *ids, int64_t count) {
    grow(d);
    d->texts[d->n] = text;
    d->lengths[d->n] = length;
    d->ids[d->n] = ids;
    d->counts[d->n++] = count;
}

void cli_add_text(cli_documents *d, const char *text) {
    size_t n = strlen(text);
    char *copy = cli_alloc(n + 1);
    memcpy(copy, text, n);
    add(d, copy, n, NULL, 0);
}

int cli_add_file(cli_documents *d, const char *path, krait_error *e) {
    cli_buffer b = {0};
    int rc = cli_read_file(&b, path, e);
    if (rc == 0)
        add(d, b.bytes, b.length, NULL, 0);
    else
        cli_buffer_free(&b);
    return rc;
}

/* Ids of one line; negative after filling e. */
static int add_ids(cli_documents *d, char *line, const char *path, krait_error *e) {
    int64_t count = 0;
    int32_t *ids = cli_alloc((strlen(line) / 2 + 1) * sizeof *ids);
    for (char *p = line, *end; *(p += strspn(p, " \t,")); p = end) {
        errno = 0;
        long long id = strtoll(p, &end, 10);
        if (end == p || errno || id < 0 || id > INT32_MAX || !strchr(" \t,", *end)) {
            free(ids);
            return cli_error(e, KRAIT_ERR_FORMAT, "%s: line %lld: %.20s is no token id", path,
                             (long long)d->n + 1, p);
        }
        ids[count++] = (int32_t)id;
    }
    add(d, NULL, 0, ids, count);
    return 0;
}

static int add_line(cli_documents *d, char *line, size_t n, bool as_ids, const char *path,
                    krait_error *e) {
    if (n > 0 && line[n - 1] == '\r') line[--n] = 0;
    if (strlen(line) != n)
        return cli_error(e, KRAIT_ERR_FORMAT, "%s: line %lld holds a zero byte", path,
                         (long long)d->n + 1);
    if (as_ids) return add_ids(d, line, path, e);
    cli_add_text(d, line);
    return 0;
}

static int read_documents(cli_documents *d, const char *path, bool as_ids, krait_error *e) {
    int rc = cli_read_file(&d->source, path, e);
    char *p = d->source.bytes, *end = p + d->source.length;
    while (rc == 0 && p < end) {
        char *stop = memchr(p, '\n', (size_t)(end - p));
        if (!stop) stop = end;
        *stop = 0;
        rc = add_line(d, p, (size_t)(stop - p), as_ids, path, e);
        p = stop + 1;
    }
    cli_buffer_free(&d->source);
    return rc;
}

int cli_read_lines(cli_documents *d, const char *path, krait_error *e) {
    return read_documents(d, path, false, e);
}

int cli_read_ids(cli_documents *d, const char *path, krait_error *e) {
    return read_documents(d, path, true, e);
}

void cli_documents_free(cli_documents *d) {
    for (int64_t i = 0; i < d->n; i++) {
        free(d->texts[i]);
        free(d->ids[i]);
    }
    free(d->texts);
    free(d->lengths);
    free(d->ids);
    free(d->counts);
    cli_buffer_free(&d->source);
    *d = (cli_documents){0};
}

int cli_task_part(const char *name) {
    if (strcmp(name, "train") == 0) return KRAIT_TASK_TRAIN;
    return strcmp(name, "valid") == 0 ? KRAIT_TASK_VALID : KRAIT_TASK_TEST;
}
