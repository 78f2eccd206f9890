/* word_count.c - how often each word occurs; word_count.h says what is dropped when. */
#include "data/tokenizer/word_count.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"

int kr_word_count_make(kr_word_count *w, size_t most_words, size_t most_bytes, krait_error *e) {
    *w = (kr_word_count){0};
    w->most_words = most_words ? most_words : (size_t)8 << 20;
    w->most_bytes = most_bytes ? most_bytes : (size_t)128 << 20;
    w->mask = 1023;
    w->slots = kr_calloc(w->mask + 1, sizeof *w->slots);
    return w->slots ? 0 : kr_fail_memory(e, "counting words");
}

void kr_word_count_free(kr_word_count *w) {
    kr_free(w->words);
    kr_free(w->bytes);
    kr_free(w->slots);
    *w = (kr_word_count){0};
}

static uint64_t hash_of(const char *word, size_t size) {
    uint64_t h = size;
    for (; size; word += size < 8 ? size : 8, size -= size < 8 ? size : 8) {
        uint64_t part = 0;
        memcpy(&part, word, size < 8 ? size : 8);
        h = (h ^ part) * 0x9E3779B97F4A7C15u;
        h ^= h >> 32;
    }
    return h;
}

/* The slot of a word, or the empty one where it belongs. */
static uint32_t *slot_of(const kr_word_count *w, uint64_t hash, const char *word, size_t size) {
    for (uint64_t i = hash & w->mask;; i = (i + 1) & w->mask) {
        uint32_t at = w->slots[i];
        if (!at) return &w->slots[i];
        const kr_word *k = &w->words[at - 1];
        if (k->hash == hash && k->size == size && !memcmp(w->bytes + k->start, word, size))
            return &w->slots[i];
    }
}

/* Puts all words into a table of mask + 1 slots. */
static int rebuild(kr_word_count *w, uint64_t mask, krait_error *e) {
    uint32_t *slots = kr_calloc(mask + 1, sizeof *slots);
    if (!slots) return kr_fail_memory(e, "counting words");
    kr_free(w->slots);
    w->slots = slots;
    w->mask = mask;
    for (size_t i = 0; i < w->count; i++) {
        const kr_word *k = &w->words[i];
        *slot_of(w, k->hash, w->bytes + k->start, k->size) = (uint32_t)i + 1;
    }
    return 0;
}

static void drop_rare(kr_word_count *w, int64_t least) {
    size_t kept = 0, used = 0;
    for (size_t i = 0; i < w->count; i++) {
        kr_word k = w->words[i];
        if (k.count < least) continue;
        memmove(w->bytes + used, w->bytes + k.start, k.size);
        k.start = (uint32_t)used;
        used += k.size;
        w->words[kept++] = k;
    }
    w->count = kept;
    w->bytes_count = used;
}

static int make_room(kr_word_count *w, size_t size, krait_error *e) {
    if (w->count < w->most_words && w->bytes_count + size <= w->most_bytes) {
        if ((w->count + 1) * 2 <= w->mask) return 0;
        return rebuild(w, w->mask * 2 + 1, e);
    }
    int64_t least = 2;
    do {
        drop_rare(w, least++);
    } while (w->count * 2 > w->most_words || w->bytes_count * 2 > w->most_bytes);
    return rebuild(w, w->mask, e);
}

int kr_word_count_get(kr_word_count *w, const char *word, size_t size, kr_word **entry,
                      krait_error *e) {
    uint64_t hash = hash_of(word, size);
    uint32_t *slot = slot_of(w, hash, word, size);
    if (!*slot) {
        KR_TRY(make_room(w, size, e));
        slot = slot_of(w, hash, word, size);
        if (kr_grow((void **)&w->words, &w->capacity, w->count + 1, sizeof *w->words) < 0 ||
            kr_grow((void **)&w->bytes, &w->bytes_capacity, w->bytes_count + size, 1) < 0)
            return kr_fail_memory(e, "counting words");
        memcpy(w->bytes + w->bytes_count, word, size);
        w->words[w->count++] = (kr_word){hash, 0, (uint32_t)w->bytes_count, (uint32_t)size};
        w->bytes_count += size;
        *slot = (uint32_t)w->count;
    }
    *entry = &w->words[*slot - 1];
    return 0;
}
