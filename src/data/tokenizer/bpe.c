/* bpe.c - byte pair encoding of one word; bpe.h has the rule. */
#include "data/tokenizer/bpe.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"

enum { SHORT = 48, CACHED_BYTES = 22, CACHED_IDS = 8 };
#define NONE UINT32_MAX

typedef struct entry {   /* of the word cache: one cache line */
    uint8_t size, count; /* size 0: empty */
    char word[CACHED_BYTES];
    uint64_t hash;
    int32_t ids[CACHED_IDS];
} entry;
_Static_assert(sizeof(entry) == 64, "an entry of the word cache is one cache line");

typedef struct symbol { /* of a long word: a linked list in an array */
    int32_t id;         /* -1: merged into the one before */
    uint32_t rank;      /* of the pair (this, next); NONE: it has no merge */
    uint32_t previous, next;
} symbol;

struct kr_bpe_scratch {
    entry *cache;
    size_t slots;
    symbol *symbols;
    size_t symbols_capacity;
    uint64_t *heap; /* rank << 32 | position */
    size_t heap_count, heap_capacity;
};

static uint64_t mix(uint64_t v) {
    v *= 0x9E3779B97F4A7C15u;
    return v ^ v >> 32;
}

int kr_bpe_make(kr_bpe *b, int64_t count, krait_error *e) {
    uint64_t slots = 16;
    while (slots < (uint64_t)count * 2) slots *= 2;
    b->merges = kr_malloc((size_t)slots * sizeof *b->merges);
    if (!b->merges) return kr_fail_memory(e, "the merges of a tokenizer");
    memset(b->merges, 0xFF, (size_t)slots * sizeof *b->merges);
    memset(b->byte_id, 0xFF, sizeof b->byte_id);
    b->mask = slots - 1;
    b->count = 0;
    return 0;
}

void kr_bpe_free(kr_bpe *b) {
    kr_free(b->merges);
    *b = (kr_bpe){0};
}

static struct kr_merge *find(const kr_bpe *b, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t slot = mix(pair) & b->mask;
    while (b->merges[slot].pair != pair && b->merges[slot].pair != UINT64_MAX)
        slot = (slot + 1) & b->mask;
    return &b->merges[slot];
}

void kr_bpe_add(kr_bpe *b, int32_t left, int32_t right, int32_t id) {
    struct kr_merge *m = find(b, left, right);
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    *m = (struct kr_merge){pair, (uint32_t)b->count++, id};
}

static uint32_t rank_of(const kr_bpe *b, int32_t left, int32_t right) {
    return find(b, left, right)->rank; /* of an empty slot: NONE */
}

int kr_bpe_scratch_make(kr_bpe_scratch **out, size_t slots, krait_error *e) {
    kr_bpe_scratch *s = *out = kr_calloc(1, sizeof *s);
    if (!s) return kr_fail_memory(e, "an encoder");
    s->slots = slots;
    s->cache = kr_aligned(slots * sizeof *s->cache);
    if (s->cache) {
        memset(s->cache, 0, slots * sizeof *s->cache);
        return 0;
    }
    kr_bpe_scratch_free(out);
    return kr_fail_memory(e, "an encoder's word cache");
}

void kr_bpe_scratch_free(kr_bpe_scratch **s) {
    if (!*s) return;
    kr_free((*s)->cache);
    kr_free((*s)->symbols);
    kr_free((*s)->heap);
    kr_free(*s);
    *s = NULL;
}

/* ---- short words -------------------- */

/* Merges ids[0..n) in place by scanning for the lowest rank; returns how many are left. */
static size_t merge_short(const kr_bpe *b, int32_t *ids, size_t n) {
    uint32_t rank[SHORT];
    for (size_t i = 0; i + 1 < n; i++) rank[i] = rank_of(b, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NONE) break;
        ids[best] = find(b, ids[best], ids[best + 1])->id;
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        if (best + 1 < n) {
            memmove(rank + best + 1, rank + best + 2, (n - best - 2) * sizeof *rank);
            rank[best] = rank_of(b, ids[best], ids[best + 1]);
        }
        if (best > 0) rank[best - 1] = rank_of(b, ids[best - 1], ids[best]);
    }
    return n;
}

/* ---- long words -------------------- */

static int push(kr_bpe_scratch *s, uint32_t rank, uint32_t position, krait_error *e) {
    if (rank == NONE) return 0;
    if (kr_grow((void **)&s->heap, &s->heap_capacity, s->heap_count + 1, sizeof *s->heap) < 0)
        return kr_fail_memory(e, "a long word");
    uint64_t item = (uint64_t)rank << 32 | position, *h = s->heap;
    size_t i = s->heap_count++;
    for (; i > 0 && h[(i - 1) / 2] > item; i = (i - 1) / 2) h[i] = h[(i - 1) / 2];
    h[i] = item;
    return 0;
}

static uint64_t pop(kr_bpe_scratch *s) {
    uint64_t *h = s->heap, top = h[0], item = h[--s->heap_count];
    size_t i = 0, n = s->heap_count;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && h[child + 1] < h[child]) child++;
        if (h[child] >= item) break;
        h[i] = h[child];
    }
    h[i] = item;
    return top;
}

/* The pair that begins at symbol i has changed. */
static int renew(const kr_bpe *b, kr_bpe_scratch *s, uint32_t i, krait_error *e) {
    symbol *a = &s->symbols[i];
    a->rank = a->next == NONE ? NONE : rank_of(b, a->id, s->symbols[a->next].id);
    return push(s, a->rank, i, e);
}

static int merge_long(const kr_bpe *b, kr_bpe_scratch *s, size_t n, krait_error *e) {
    s->heap_count = 0;
    for (size_t i = 0; i < n; i++) KR_TRY(renew(b, s, (uint32_t)i, e));
    while (s->heap_count) {
        uint64_t top = pop(s);
        uint32_t i = (uint32_t)top;
        symbol *a = &s->symbols[i];
        if (a->id < 0 || a->rank != top >> 32) continue; /* it changed since it was pushed */
        symbol *gone = &s->symbols[a->next];
        a->id = find(b, a->id, gone->id)->id;
        gone->id = -1;
        a->next = gone->next;
        if (a->next != NONE) s->symbols[a->next].previous = i;
        KR_TRY(renew(b, s, i, e));
        if (a->previous != NONE) KR_TRY(renew(b, s, a->previous, e));
    }
    return 0;
}

static int long_word(const kr_bpe *b, kr_bpe_scratch *s, const char *word, size_t size, kr_ids *out,
                     krait_error *e) {
    if (size >= INT32_MAX) return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "a word of more than 2 GiB");
    if (kr_grow((void **)&s->symbols, &s->symbols_capacity, size, sizeof *s->symbols) < 0)
        return kr_fail_memory(e, "a long word");
    for (size_t i = 0; i < size; i++)
        s->symbols[i] = (symbol){b->byte_id[(unsigned char)word[i]], NONE,
                                 i ? (uint32_t)i - 1 : NONE, i + 1 < size ? (uint32_t)i + 1 : NONE};
    KR_TRY(merge_long(b, s, size, e));
    for (uint32_t i = 0; i != NONE; i = s->symbols[i].next)
        KR_TRY(kr_ids_push(out, s->symbols[i].id, e));
    return 0;
}

/* ---- any word -------------------- */

static uint64_t hash_word(const char *word, size_t size) {
    uint64_t h = size, part = 0;
    for (; size >= 8; word += 8, size -= 8) {
        memcpy(&part, word, 8);
        h = mix(h ^ part);
    }
    part = 0;
    for (size_t i = 0; i < size; i++) part = part << 8 | (unsigned char)word[i];
    return mix(h ^ part);
}

static int check_bytes(const kr_bpe *b, const char *word, size_t size, krait_error *e) {
    for (size_t i = 0; i < size; i++)
        if (b->byte_id[(unsigned char)word[i]] < 0)
            return kr_fail(e, KRAIT_ERR_FORMAT, "the vocabulary has no token for byte 0x%02X",
                           (unsigned char)word[i]);
    return 0;
}

static int short_word(const kr_bpe *b, entry *slot, uint64_t hash, const char *word, size_t size,
                      kr_ids *out, krait_error *e) {
    KR_TRY(kr_ids_reserve(out, size, e));
    int32_t *ids = out->data + out->count;
    for (size_t i = 0; i < size; i++) ids[i] = b->byte_id[(unsigned char)word[i]];
    size_t n = merge_short(b, ids, size);
    out->count += n;
    if (size > CACHED_BYTES || n > CACHED_IDS) return 0;
    slot->size = (uint8_t)size;
    slot->count = (uint8_t)n;
    slot->hash = hash;
    memcpy(slot->word, word, size);
    memcpy(slot->ids, ids, n * sizeof *ids);
    return 0;
}

int kr_bpe_word(const kr_bpe *b, kr_bpe_scratch *s, const char *word, size_t size, kr_ids *out,
                krait_error *e) {
    if (size == 0) return 0;
    uint64_t hash = size <= CACHED_BYTES ? hash_word(word, size) : 0;
    entry *slot = &s->cache[hash & (s->slots - 1)];
    if (size <= CACHED_BYTES && slot->hash == hash && slot->size == size &&
        memcmp(slot->word, word, size) == 0) {
        KR_TRY(kr_ids_reserve(out, CACHED_IDS, e));
        memcpy(out->data + out->count, slot->ids, sizeof slot->ids);
        out->count += slot->count;
        return 0;
    }
    KR_TRY(check_bytes(b, word, size, e));
    return size > SHORT ? long_word(b, s, word, size, out, e)
                        : short_word(b, slot, hash, word, size, out, e);
}
