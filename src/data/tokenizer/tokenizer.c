/* tokenizer.c - the public tokenizer functions, over the kinds of tokenizers.def. */
#include "data/tokenizer/tokenizer.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"

#define KR_TOKENIZER(name) extern const kr_tokenizer_kind kr_tokenizer_##name;
#include "data/tokenizer/tokenizers.def"
#undef KR_TOKENIZER

static const kr_tokenizer_kind *const kinds[] = {
#define KR_TOKENIZER(name) &kr_tokenizer_##name,
#include "data/tokenizer/tokenizers.def"
#undef KR_TOKENIZER
};

enum {
    LARGEST_ID = 1 << 21
}; /* an id beyond is damage: the table of spans grows with the largest id */

int kr_ids_reserve(kr_ids *v, size_t more, krait_error *e) {
    if (kr_grow((void **)&v->data, &v->capacity, v->count + more, sizeof *v->data) < 0)
        return kr_fail_memory(e, "token ids");
    return 0;
}

int kr_ids_push(kr_ids *v, int32_t id, krait_error *e) {
    if (v->count == v->capacity) KR_TRY(kr_ids_reserve(v, 1, e));
    v->data[v->count++] = id;
    return 0;
}

void kr_ids_free(kr_ids *v) {
    kr_free(v->data);
    *v = (kr_ids){0};
}

int kr_tokenizer_set(krait_tokenizer *t, int32_t id, const void *bytes, size_t size,
                     krait_error *e) {
    if (id < 0 || id >= LARGEST_ID)
        return kr_fail(e, KRAIT_ERR_FORMAT, "token id %d is outside 0..%d", (int)id,
                       LARGEST_ID - 1);
    if (size > UINT32_MAX || t->bytes_count + size > UINT32_MAX)
        return kr_fail(e, KRAIT_ERR_FORMAT, "the vocabulary holds more than 4 GiB of text");
    size_t need = (size_t)id + 1, had = (size_t)t->vocabulary;
    if (kr_grow((void **)&t->spans, &t->spans_capacity, need, sizeof *t->spans) < 0 ||
        kr_grow((void **)&t->bytes, &t->bytes_capacity, t->bytes_count + size, 1) < 0)
        return kr_fail_memory(e, "the vocabulary");
    if (need > had) {
        memset(t->spans + had, 0, (need - had) * sizeof *t->spans);
        t->vocabulary = (int64_t)need;
    }
    t->spans[id].start = (uint32_t)t->bytes_count;
    t->spans[id].size = (uint32_t)size;
    if (size) memcpy(t->bytes + t->bytes_count, bytes, size);
    t->bytes_count += size;
    return 0;
}

int64_t kr_tokenizer_id_bytes(const krait_tokenizer *t, int32_t id) {
    if (id < 0 || id >= t->vocabulary || id == t->end) return 0;
    return t->spans[id].size;
}

int kr_tokenizer_save(const krait_tokenizer *t, const char *path, krait_error *e) {
    return t->kind->save(t, path, e);
}

static const kr_tokenizer_kind *kind_of(const char *path) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i]->claims(path)) return kinds[i];
    return NULL;
}

int krait_tokenizer_open(krait_tokenizer **out, const char *path, krait_error *e) {
    if (!out) return kr_fail(e, KRAIT_ERR_ARGUMENT, "krait_tokenizer_open: out is NULL");
    *out = NULL;
    if (!path) return kr_fail(e, KRAIT_ERR_ARGUMENT, "krait_tokenizer_open: path is NULL");
    const kr_tokenizer_kind *kind = kind_of(path);
    if (!kind)
        return kr_fail(e, KRAIT_ERR_IO,
                       "%s: no tokenizer here: give tokenizer.json, a folder with tokenizer.json "
                       "or with vocab.json and merges.txt, or the word bytes",
                       path);
    krait_tokenizer *t = kr_calloc(1, sizeof *t);
    if (!t) return kr_fail_memory(e, "a tokenizer");
    t->kind = kind;
    t->end = -1;
    t->path = kr_strdup(path);
    int rc = t->path ? kind->open(t, path, e) : kr_fail_memory(e, "a tokenizer");
    if (rc < 0) krait_tokenizer_close(&t);
    *out = t;
    return rc;
}

void krait_tokenizer_close(krait_tokenizer **tokenizer) {
    krait_tokenizer *t = tokenizer ? *tokenizer : NULL;
    if (!t) return;
    if (t->kind->close) t->kind->close(t);
    kr_free(t->path);
    kr_free(t->bytes);
    kr_free(t->spans);
    kr_free(t);
    *tokenizer = NULL;
}

int64_t krait_tokenizer_vocabulary(const krait_tokenizer *t) { return t->vocabulary; }

int32_t krait_tokenizer_end(const krait_tokenizer *t) { return t->end; }

struct kr_encoder {
    const krait_tokenizer *tokenizer;
    void *scratch;
};

int kr_encoder_open(kr_encoder **out, const krait_tokenizer *t, size_t length, krait_error *e) {
    *out = NULL;
    kr_encoder *x = kr_calloc(1, sizeof *x);
    if (!x) return kr_fail_memory(e, "an encoder");
    x->tokenizer = t;
    int rc = t->kind->scratch_open ? t->kind->scratch_open(&x->scratch, t, length, e) : 0;
    if (rc < 0) kr_encoder_close(&x);
    *out = x;
    return rc;
}

int kr_encoder_run(kr_encoder *x, const char *text, size_t length, kr_ids *out, krait_error *e) {
    return x->tokenizer->kind->encode(x->tokenizer, x->scratch, text, length, out, e);
}

void kr_encoder_close(kr_encoder **x) {
    if (!*x) return;
    if ((*x)->scratch) (*x)->tokenizer->kind->scratch_close((*x)->scratch);
    kr_free(*x);
    *x = NULL;
}

int64_t krait_tokenizer_encode(const krait_tokenizer *t, const char *text, size_t length,
                               int32_t *ids, int64_t capacity, krait_error *e) {
    if (!t || (!text && length) || (!ids && capacity > 0))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "krait_tokenizer_encode: a pointer is NULL");
    kr_encoder *x;
    KR_TRY(kr_encoder_open(&x, t, length, e));
    kr_ids all = {0};
    int rc = kr_encoder_run(x, text, length, &all, e);
    int64_t count = (int64_t)all.count, copied = count < capacity ? count : capacity;
    if (rc == 0 && copied > 0) memcpy(ids, all.data, (size_t)copied * sizeof *ids);
    kr_ids_free(&all);
    kr_encoder_close(&x);
    return rc < 0 ? rc : count;
}

int64_t krait_tokenizer_decode(const krait_tokenizer *t, const int32_t *ids, int64_t count,
                               char *text, int64_t capacity, krait_error *e) {
    if (!t || (!ids && count > 0) || (!text && capacity > 0))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "krait_tokenizer_decode: a pointer is NULL");
    int64_t size = 0;
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= t->vocabulary)
            return kr_fail(e, KRAIT_ERR_ARGUMENT, "token id %d is outside the vocabulary of %lld",
                           (int)ids[i], (long long)t->vocabulary);
        struct kr_token_span s = t->spans[ids[i]];
        int64_t room = capacity - size;
        if (room > (int64_t)s.size) room = s.size;
        if (room > 0) memcpy(text + size, t->bytes + s.start, (size_t)room);
        size += s.size;
    }
    return size;
}

/* How long the sequence is that begins with this byte; 0: none begins with it. */
static size_t sequence_length(unsigned char lead) {
    if (lead < 0x80) return 1;
    if (lead >= 0xC2 && lead <= 0xDF) return 2;
    if (lead >= 0xE0 && lead <= 0xEF) return 3;
    return lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
}

size_t krait_utf8_complete(const char *text, size_t length) {
    /* Only the last three bytes can be the beginning of something unfinished. */
    for (size_t back = 1; back <= 3 && back <= length; back++) {
        unsigned char c = (unsigned char)text[length - back];
        if ((c & 0xC0) == 0x80) continue;
        return sequence_length(c) > back ? length - back : length;
    }
    return length;
}
