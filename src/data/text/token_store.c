/* token_store.c - a corpus as ids: built once from kr_docs into memory or a cache file.
 *
 * Cache file, little-endian: header (64 bytes), ids (2 or 4 bytes each), zeros to a multiple of 8,
 * document starts (i64). */
#include "data/text/token_store.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

enum { MEMORY_DEFAULT = 32 << 20, STAGE = 1 << 15 };

typedef struct header {
    char magic[8];
    uint32_t version, width; /* bytes of an id */
    uint64_t key;            /* kr_docs_hash of what was tokenised */
    uint64_t content;        /* hash of ids and starts */
    int64_t tokens, documents, bytes;
    int64_t largest; /* id */
} header;
_Static_assert(sizeof(header) == 64, "the header is 64 bytes without padding");

static const char magic[8] = {'K', 'R', 'T', 'O', 'K', 'E', 'N', 'S'};

struct kr_store {
    const krait_tokenizer *tokenizer;
    int32_t end;
    int64_t vocabulary; /* bound of ids; INT32_MAX: none */
    header h;
    const void *ids;       /* [tokens] of h.width bytes */
    const int64_t *starts; /* [documents + 1] */
    void *own_ids;         /* in memory */
    int64_t *own_starts;
    size_t ids_capacity, starts_capacity;
    kr_map map; /* in a cache file */
    char *cache_file;
    kr_out out; /* while building one */
};

int64_t kr_store_tokens(const kr_store *s) { return s->h.tokens; }
int64_t kr_store_documents(const kr_store *s) { return s->h.documents; }
int64_t kr_store_bytes(const kr_store *s) { return s->h.bytes; }
uint64_t kr_store_hash(const kr_store *s) { return s->h.content; }
int32_t kr_store_end(const kr_store *s) { return s->end; }
const int64_t *kr_store_starts(const kr_store *s) { return s->starts; }
const krait_tokenizer *kr_store_tokenizer(const kr_store *s) { return s->tokenizer; }
const char *kr_store_cache_file(const kr_store *s) { return s->cache_file; }

static uint64_t mix(uint64_t h, uint64_t v) {
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

static size_t starts_offset(const header *h) {
    size_t ids = (size_t)h->tokens * h->width;
    return sizeof *h + (ids + 7) / 8 * 8;
}

int kr_store_read(const kr_store *s, int64_t begin, int64_t count, int32_t *out, krait_error *e) {
    int64_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t id = s->h.width == 2 ? ((const uint16_t *)s->ids)[begin + i]
                                      : ((const uint32_t *)s->ids)[begin + i];
        if (id > largest) largest = id;
        out[i] = (int32_t)id;
    }
    if (largest < s->vocabulary) return 0;
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: damaged: id %lld is outside the vocabulary of %lld",
                   s->cache_file ? s->cache_file : "token store", (long long)largest,
                   (long long)s->vocabulary);
}

/* ---- building -------------------- */

static int add_start(kr_store *s, krait_error *e) {
    size_t n = (size_t)s->h.documents;
    if (kr_grow((void **)&s->own_starts, &s->starts_capacity, n + 2, sizeof(int64_t)) < 0)
        return kr_fail_memory(e, "the documents of the corpus");
    s->own_starts[n] = s->h.tokens;
    s->h.documents++;
    return 0;
}

/* Appends at most STAGE ids. */
static int add_stage(kr_store *s, const int32_t *ids, size_t count, krait_error *e) {
    uint16_t narrow[STAGE];
    for (size_t i = 0; s->h.width == 2 && i < count; i++) narrow[i] = (uint16_t)ids[i];
    const void *from = s->h.width == 2 ? (const void *)narrow : ids;
    size_t at = (size_t)s->h.tokens * s->h.width, size = count * s->h.width;
    s->h.tokens += (int64_t)count;
    if (s->out.stream) return kr_out_write(&s->out, from, size, e);
    if (kr_grow(&s->own_ids, &s->ids_capacity, at + size, 1) < 0)
        return kr_fail_memory(e, "the token ids of the corpus (give a folder for the cache)");
    memcpy((char *)s->own_ids + at, from, size);
    return 0;
}

static int add_ids(kr_store *s, const int32_t *ids, int64_t count, krait_error *e) {
    for (int64_t i = 0; i < count; i++) {
        s->h.content = mix(s->h.content, (uint64_t)(uint32_t)ids[i]);
        if (ids[i] > s->h.largest) s->h.largest = ids[i];
    }
    for (int64_t i = 0; i < count; i += STAGE)
        KR_TRY(add_stage(s, ids + i, (size_t)(count - i < STAGE ? count - i : STAGE), e));
    return 0;
}

static int add_all(kr_store *s, kr_docs *docs, const kr_store_options *o, krait_error *e) {
    kr_doc doc;
    bool begun = false; /* the document has its start */
    int got;
    while ((got = kr_docs_next(docs, &doc, e)) > 0) {
        if (doc.first) begun = false;
        if (!begun && doc.count) {
            KR_TRY(add_start(s, e));
            s->h.content = mix(s->h.content, UINT64_MAX);
            if (s->end >= 0 && doc.ids[0] != s->end) KR_TRY(add_ids(s, &s->end, 1, e));
            begun = true;
        }
        KR_TRY(add_ids(s, doc.ids, doc.count, e));
        s->h.bytes += doc.bytes;
        int64_t done, all;
        kr_docs_progress(docs, &done, &all);
        if (o->on_progress && o->on_progress(o->user, done, all))
            return kr_fail(e, KRAIT_ERR_CANCELLED, "stopped while reading the corpus");
    }
    if (got < 0) return got;
    if (!s->h.documents)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s%s: empty: there is no text to read",
                       o->docs.paths[0], o->docs.n_paths > 1 ? " and the other paths" : "");
    s->own_starts[s->h.documents] = s->h.tokens;
    return 0;
}

/* The header is written last, over the zeros that held its place. */
static int finish_file(kr_store *s, krait_error *e) {
    static const char zeros[8];
    size_t ids = (size_t)s->h.tokens * s->h.width;
    KR_TRY(kr_out_write(&s->out, zeros, (8 - ids % 8) % 8, e));
    KR_TRY(kr_out_write(&s->out, s->own_starts, ((size_t)s->h.documents + 1) * sizeof(int64_t), e));
    if (fseek(s->out.stream, 0, SEEK_SET) != 0)
        return kr_fail(e, KRAIT_ERR_IO, "%s: writing failed: %s", s->cache_file, strerror(errno));
    KR_TRY(kr_out_write(&s->out, &s->h, sizeof s->h, e));
    return kr_out_commit(&s->out, e);
}

static void drop_memory(kr_store *s) {
    kr_free(s->own_ids);
    kr_free(s->own_starts);
    s->own_ids = s->own_starts = NULL;
    s->ids_capacity = s->starts_capacity = 0;
}

/* ---- the cache file -------------------- */

static bool starts_fit(const header *h, const int64_t *starts) {
    for (int64_t i = 0; i < h->documents; i++)
        if (starts[i] >= starts[i + 1]) return false;
    return starts[0] == 0 && starts[h->documents] == h->tokens;
}

/* Is the mapped file whole, and of these files and this tokenizer? */
static bool map_fits(const kr_store *s) {
    header h;
    if (s->map.size < sizeof h) return false;
    memcpy(&h, s->map.data, sizeof h);
    int64_t room = (int64_t)s->map.size;
    if (memcmp(h.magic, magic, sizeof magic) != 0 || h.version != 1 || h.width != s->h.width ||
        h.key != s->h.key || h.documents < 1 || h.tokens < h.documents || h.tokens > room ||
        h.documents > room / 8 || h.largest >= s->vocabulary)
        return false;
    size_t at = starts_offset(&h), size = ((size_t)h.documents + 1) * sizeof(int64_t);
    return at + size == s->map.size && starts_fit(&h, (const int64_t *)(s->map.data + at));
}

/* 1: the cache file is there and fits; 0: it has to be made. */
static int use_cache(kr_store *s) {
    if (!kr_is_file(s->cache_file) || kr_map_open(&s->map, s->cache_file, NULL) < 0) return 0;
    if (!map_fits(s)) {
        kr_map_close(&s->map);
        return 0;
    }
    memcpy(&s->h, s->map.data, sizeof s->h);
    s->ids = s->map.data + sizeof s->h;
    s->starts = (const int64_t *)(s->map.data + starts_offset(&s->h));
    return 1;
}

static int build_file(kr_store *s, kr_docs *docs, const kr_store_options *o, krait_error *e) {
    static const header none;
    KR_TRY(kr_make_dirs(o->cache, e));
    KR_TRY(kr_out_open(&s->out, s->cache_file, e));
    KR_TRY(kr_out_write(&s->out, &none, sizeof none, e));
    KR_TRY(add_all(s, docs, o, e));
    KR_TRY(finish_file(s, e));
    drop_memory(s);
    if (use_cache(s)) return 0;
    return kr_fail(e, KRAIT_ERR_IO, "%s: was written and cannot be read back", s->cache_file);
}

static int build_memory(kr_store *s, kr_docs *docs, const kr_store_options *o, krait_error *e) {
    KR_TRY(add_all(s, docs, o, e));
    s->ids = s->own_ids;
    s->starts = s->own_starts;
    return 0;
}

static int name_cache(kr_store *s, const char *folder, krait_error *e) {
    char name[40];
    snprintf(name, sizeof name, "tokens-%016llx.bin", (unsigned long long)s->h.key);
    s->cache_file = kr_path_join(folder, name);
    return s->cache_file ? 0 : kr_fail_memory(e, "the cache of token ids");
}

static int fill_store(kr_store *s, kr_docs *docs, const kr_store_options *o, krait_error *e) {
    int64_t done, all, limit = o->memory_bytes ? o->memory_bytes : MEMORY_DEFAULT;
    kr_docs_progress(docs, &done, &all);
    s->h.key = kr_docs_hash(docs);
    if (!o->cache || !s->h.key || all <= limit) return build_memory(s, docs, o, e);
    KR_TRY(name_cache(s, o->cache, e));
    return use_cache(s) ? 0 : build_file(s, docs, o, e);
}

int kr_store_open(kr_store **out, const kr_store_options *o, krait_error *e) {
    *out = NULL;
    kr_store *s = kr_calloc(1, sizeof *s);
    if (!s) return kr_fail_memory(e, "a token store");
    s->tokenizer = o->docs.tokenizer;
    s->end = s->tokenizer ? krait_tokenizer_end(s->tokenizer) : -1;
    s->vocabulary = o->docs.vocabulary;
    if (!s->vocabulary)
        s->vocabulary = s->tokenizer ? krait_tokenizer_vocabulary(s->tokenizer) : INT32_MAX;
    memcpy(s->h.magic, magic, sizeof magic);
    s->h.version = 1;
    s->h.width = s->vocabulary <= 65536 ? 2 : 4;
    kr_docs *docs = NULL;
    int rc = kr_docs_open(&docs, &o->docs, e);
    if (rc == 0) rc = fill_store(s, docs, o, e);
    kr_docs_close(&docs);
    if (rc < 0) kr_store_close(&s);
    *out = s;
    return rc;
}

void kr_store_close(kr_store **store) {
    kr_store *s = *store;
    if (!s) return;
    kr_out_abort(&s->out);
    kr_map_close(&s->map);
    drop_memory(s);
    kr_free(s->cache_file);
    kr_free(s);
    *store = NULL;
}
