/* bpe_read.c - vocabulary and merges of a byte-level BPE, from the strings of its files. */
#include "data/tokenizer/bpe_read.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/tokenizer/byte_chars.h"
#include "data/tokenizer/nfc.h"

int kr_bpe_read_begin(kr_bpe_reader *r, krait_error *e) {
    r->b = r->t->inside = kr_calloc(1, sizeof *r->b);
    if (!r->b) return kr_fail_memory(e, "a tokenizer");
    return kr_pretok_make(&r->b->pretok, e);
}

uint64_t kr_bpe_read_hash(const void *bytes, size_t size, uint64_t h) {
    const unsigned char *at = bytes;
    for (; size; at += size < 8 ? size : 8, size -= size < 8 ? size : 8) {
        uint64_t part = size;
        memcpy(&part, at, size < 8 ? size : 8);
        h = (h ^ part) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    return h;
}

static bool is_taken(const krait_tokenizer *t, int64_t id) {
    return id < t->vocabulary && t->spans[id].size > 0;
}

/* One entry of the vocabulary; `bytes` has room for its string. */
static int read_token(kr_bpe_reader *r, const char *key, const json_t *value, char *bytes,
                      krait_error *e) {
    int64_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    if (id < 0 || id > INT32_MAX)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: the id of token '%.80s' is not a number from 0",
                       r->what, key);
    if (is_taken(r->t, id))
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: id %lld belongs to two tokens, one is '%.80s'",
                       r->what, (long long)id, key);
    bool all;
    size_t size = kr_bytes_of_chars(key, strlen(key), bytes, &all);
    if (all && size == 1) r->b->bpe.byte_id[(unsigned char)bytes[0]] = (int32_t)id;
    return kr_tokenizer_set(r->t, (int32_t)id, bytes, size, e);
}

int kr_bpe_read_vocab(kr_bpe_reader *r, const json_t *vocab, int64_t merges, krait_error *e) {
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: vocab is not an object of strings and ids",
                       r->what);
    r->vocab = vocab;
    KR_TRY(kr_bpe_make(&r->b->bpe, merges, e));
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, value) {
        if (kr_grow((void **)&r->joined, &r->joined_capacity, strlen(key) + 1, 1) < 0)
            return kr_fail_memory(e, "the vocabulary");
        KR_TRY(read_token(r, key, value, r->joined, e));
    }
    return 0;
}

/* Copies text to a growing buffer, as a terminated string; its id, -1: not in the vocabulary. */
static int put(char **to, size_t *capacity, size_t at, const char *text, size_t size,
               krait_error *e) {
    if (kr_grow((void **)to, capacity, at + size + 1, 1) < 0)
        return kr_fail_memory(e, "the merges of a tokenizer");
    memcpy(*to + at, text, size);
    (*to)[at + size] = 0;
    return 0;
}

static int id_of(const kr_bpe_reader *r, const char *token, int32_t *id, krait_error *e) {
    const json_t *value = json_object_get(r->vocab, token);
    *id = json_is_integer(value) ? (int32_t)json_integer_value(value) : -1;
    if (value) return 0;
    return kr_fail(e, KRAIT_ERR_FORMAT,
                   "%s: merge %lld uses '%.80s', which is not in the vocabulary", r->what,
                   (long long)r->b->bpe.count, token);
}

int kr_bpe_read_pair(kr_bpe_reader *r, const char *left, size_t left_size, const char *right,
                     size_t right_size, krait_error *e) {
    int32_t a, b, whole;
    KR_TRY(put(&r->left, &r->left_capacity, 0, left, left_size, e));
    KR_TRY(put(&r->right, &r->right_capacity, 0, right, right_size, e));
    KR_TRY(put(&r->joined, &r->joined_capacity, 0, left, left_size, e));
    KR_TRY(put(&r->joined, &r->joined_capacity, left_size, right, right_size, e));
    KR_TRY(id_of(r, r->left, &a, e));
    KR_TRY(id_of(r, r->right, &b, e));
    KR_TRY(id_of(r, r->joined, &whole, e));
    kr_bpe_add(&r->b->bpe, a, b, whole);
    return 0;
}

int kr_bpe_read_merge(kr_bpe_reader *r, const char *line, size_t size, krait_error *e) {
    const char *space = memchr(line, ' ', size);
    size_t left = space ? (size_t)(space - line) : 0, right = space ? size - left - 1 : 0;
    if (!left || !right || memchr(space + 1, ' ', right))
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: merge %lld, '%.*s', is not two strings", r->what,
                       (long long)r->b->bpe.count, (int)(size < 80 ? size : 80), line);
    return kr_bpe_read_pair(r, line, left, space + 1, right, e);
}

static int add_normalised(kr_bpe_reader *r, kr_added_token *a, krait_error *e) {
    kr_nfc n = {0};
    const char *text;
    kr_added_token copy = *a;
    int rc = kr_nfc_run(&n, a->text, a->size, &text, &copy.size, e);
    copy.text = (char *)(uintptr_t)text;
    if (rc == 0) rc = kr_added_add(&r->b->normal, &copy, e);
    kr_nfc_free(&n);
    return rc;
}

int kr_bpe_read_added(kr_bpe_reader *r, kr_added_token *a, bool normalised, krait_error *e) {
    const json_t *known = json_object_get(r->vocab, a->text);
    if (known && json_integer_value(known) != a->id)
        return kr_fail(e, KRAIT_ERR_FORMAT,
                       "%s: added token '%.80s' has id %d here and %lld in the vocabulary", r->what,
                       a->text, (int)a->id, (long long)json_integer_value(known));
    if (!known && is_taken(r->t, a->id))
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: id %d of added token '%.80s' belongs to another",
                       r->what, (int)a->id, a->text);
    KR_TRY(kr_tokenizer_set(r->t, a->id, a->text, a->size, e));
    if (normalised && r->b->nfc) return add_normalised(r, a, e);
    return kr_added_add(normalised ? &r->b->normal : &r->b->raw, a, e);
}

int kr_bpe_read_end(kr_bpe_reader *r, int rc, krait_error *e) {
    if (rc == 0) rc = kr_added_finish(&r->b->raw, e);
    if (rc == 0) rc = kr_added_finish(&r->b->normal, e);
    json_decref(r->root);
    kr_free(r->left);
    kr_free(r->right);
    kr_free(r->joined);
    return rc;
}
