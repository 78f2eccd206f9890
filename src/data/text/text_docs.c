/* text_docs.c - documents as token ids: a text source behind an encoder, or decimal ids read as
 * they stand. */
#include "data/text/text_docs.h"

#include "base/err.h"
#include "base/mem.h"

struct kr_docs {
    kr_docs_options o;
    kr_source *source;
    kr_encoder *encoder; /* NULL with ids */
    kr_ids ids;
    int64_t next_index;
};

int kr_docs_open(kr_docs **out, const kr_docs_options *o, krait_error *e) {
    *out = NULL;
    if (!o->tokenizer && !o->ids)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "text needs a tokenizer, or must be token ids");
    kr_docs *d = kr_calloc(1, sizeof *d);
    if (!d) return kr_fail_memory(e, "reading documents");
    d->o = *o;
    if (!d->o.vocabulary)
        d->o.vocabulary = o->tokenizer ? krait_tokenizer_vocabulary(o->tokenizer) : INT32_MAX;
    kr_source_options s = {.paths = o->paths, .n_paths = o->n_paths, .lines = o->ids};
    s.separator = o->separator;
    int rc = kr_source_open(&d->source, &s, e);
    if (rc == 0 && !o->ids) rc = kr_encoder_open(&d->encoder, o->tokenizer, 0, e);
    if (rc < 0) kr_docs_close(&d);
    *out = d;
    return rc;
}

void kr_docs_close(kr_docs **docs) {
    kr_docs *d = *docs;
    if (!d) return;
    kr_source_close(&d->source);
    kr_encoder_close(&d->encoder);
    kr_ids_free(&d->ids);
    kr_free(d);
    *docs = NULL;
}

void kr_docs_progress(const kr_docs *d, int64_t *done, int64_t *all) {
    kr_source_progress(d->source, done, all);
}

uint64_t kr_docs_hash(const kr_docs *d) {
    uint64_t source = kr_source_hash(d->source);
    if (!source) return 0;
    uint64_t h = (source ^ (d->o.tokenizer ? d->o.tokenizer->hash : 7)) * 0x9E3779B97F4A7C15u;
    return (h ^ (uint64_t)d->o.vocabulary ^ h >> 31) * 0xBF58476D1CE4E5B9u | 1;
}

static bool is_between(char c) { return c == ' ' || c == '\t' || c == '\r' || c == ','; }

/* Decimal numbers between blanks or commas. */
static int read_ids(kr_docs *d, const kr_piece *p, krait_error *e) {
    const char *at = p->bytes, *end = p->bytes + p->size;
    for (;;) {
        while (at < end && is_between(*at)) at++;
        if (at == end) return 0;
        int64_t id = 0;
        const char *start = at;
        for (; at < end && *at >= '0' && *at <= '9'; at++)
            if (id < d->o.vocabulary) id = id * 10 + (*at - '0');
        if (at == start || (at < end && !is_between(*at)))
            return kr_fail(e, KRAIT_ERR_FORMAT,
                           "%s: line %lld: token ids are decimal numbers, found '%.*s'", p->path,
                           (long long)p->line, (int)(end - start < 20 ? end - start : 20), start);
        if (id >= d->o.vocabulary)
            return kr_fail(e, KRAIT_ERR_FORMAT,
                           "%s: line %lld: id %.*s is outside the vocabulary of %lld", p->path,
                           (long long)p->line, (int)(at - start < 20 ? at - start : 20), start,
                           (long long)d->o.vocabulary);
        KR_TRY(kr_ids_push(&d->ids, (int32_t)id, e));
    }
}

static int take_piece(kr_docs *d, const kr_piece *p, krait_error *e) {
    if (d->o.ids) return read_ids(d, p, e);
    int rc = kr_encoder_run(d->encoder, p->bytes, p->size, &d->ids, e);
    if (rc < 0) kr_fail_prefix(e, "%s", p->path);
    return rc;
}

static int64_t count_bytes(const kr_docs *d) {
    int64_t bytes = 0;
    for (size_t i = 0; d->o.tokenizer && i < d->ids.count; i++)
        bytes += kr_tokenizer_id_bytes(d->o.tokenizer, d->ids.data[i]);
    return bytes;
}

int kr_docs_next(kr_docs *d, kr_doc *doc, krait_error *e) {
    d->ids.count = 0;
    kr_piece p;
    bool first = false;
    do {
        int got = kr_source_next(d->source, &p, e);
        if (got <= 0) return got;
        KR_TRY(take_piece(d, &p, e));
        first = first || p.first;
    } while (d->o.whole && !p.last);
    *doc = (kr_doc){.index = d->next_index, .ids = d->ids.data, .count = (int64_t)d->ids.count};
    doc->bytes = count_bytes(d);
    doc->first = first;
    doc->last = p.last;
    doc->path = p.path;
    doc->line = p.line;
    d->next_index += p.last;
    return 1;
}
