/* bpe_learn.c - choosing the merges of a vocabulary; bpe_learn.h has the rule. */
#include "data/tokenizer/bpe_learn.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"

typedef struct pair {
    int32_t left, right;
    int64_t count;
    uint32_t *words; /* where it was seen; some may have lost it since */
    size_t n_words, capacity;
    bool merged; /* it is in the list of merges */
} pair;

typedef struct candidate { /* in the heap: a pair with the count it had when it was pushed */
    int64_t count;
    uint32_t pair;
} candidate;

typedef struct learner {
    krait_tokenizer *t;
    const kr_word_count *counted;
    int32_t *ids;      /* of all words, one after the other */
    uint32_t *lengths; /* [words]: ids left in each; word i begins at counted->words[i].start */
    pair *pairs;
    size_t n_pairs, pairs_capacity;
    uint32_t *slots; /* [mask + 1]: index + 1 of a pair */
    uint64_t mask;
    candidate *heap;
    size_t n_heap, heap_capacity;
    kr_word_count names; /* the strings of merged tokens, with id + 1 as count */
    kr_merge_pair *merges;
    size_t n_merges, merges_capacity;
} learner;

static int no_memory(krait_error *e) { return kr_fail_memory(e, "learning a vocabulary"); }

/* ---- pairs -------------------- */

static uint64_t hash_pair(int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 32;
}

static uint32_t *slot_of(const learner *l, int32_t left, int32_t right) {
    for (uint64_t i = hash_pair(left, right) & l->mask;; i = (i + 1) & l->mask) {
        const pair *p = l->slots[i] ? &l->pairs[l->slots[i] - 1] : NULL;
        if (!p || (p->left == left && p->right == right)) return &l->slots[i];
    }
}

static int grow_slots(learner *l, krait_error *e) {
    uint64_t mask = l->mask ? l->mask * 2 + 1 : 4095;
    uint32_t *slots = kr_calloc(mask + 1, sizeof *slots);
    if (!slots) return no_memory(e);
    kr_free(l->slots);
    l->slots = slots;
    l->mask = mask;
    for (size_t i = 0; i < l->n_pairs; i++)
        *slot_of(l, l->pairs[i].left, l->pairs[i].right) = (uint32_t)i + 1;
    return 0;
}

/* The pair's index, made when it is new. */
static int pair_of(learner *l, int32_t left, int32_t right, uint32_t *index, krait_error *e) {
    uint32_t *slot = slot_of(l, left, right);
    if (!*slot) {
        if ((l->n_pairs + 1) * 2 > l->mask) {
            KR_TRY(grow_slots(l, e));
            slot = slot_of(l, left, right);
        }
        if (kr_grow((void **)&l->pairs, &l->pairs_capacity, l->n_pairs + 1, sizeof(pair)) < 0)
            return no_memory(e);
        l->pairs[l->n_pairs++] = (pair){.left = left, .right = right};
        *slot = (uint32_t)l->n_pairs;
    }
    *index = *slot - 1;
    return 0;
}

/* The pair occurs `change` times more, in this word. */
static int change_pair(learner *l, int32_t left, int32_t right, int64_t change, uint32_t word,
                       krait_error *e) {
    uint32_t index = 0;
    KR_TRY(pair_of(l, left, right, &index, e));
    pair *p = &l->pairs[index];
    p->count += change;
    if (change < 0 || (p->n_words && p->words[p->n_words - 1] == word)) return 0;
    if (kr_grow((void **)&p->words, &p->capacity, p->n_words + 1, sizeof *p->words) < 0)
        return no_memory(e);
    p->words[p->n_words++] = word;
    return 0;
}

/* ---- the heap: highest count first, of equals the lower ids -------------------- */

static bool before(const learner *l, const candidate *a, const candidate *b) {
    if (a->count != b->count) return a->count > b->count;
    const pair *x = &l->pairs[a->pair], *y = &l->pairs[b->pair];
    return x->left != y->left ? x->left < y->left : x->right < y->right;
}

static int push(learner *l, uint32_t index, krait_error *e) {
    if (kr_grow((void **)&l->heap, &l->heap_capacity, l->n_heap + 1, sizeof *l->heap) < 0)
        return no_memory(e);
    candidate c = {l->pairs[index].count, index}, *h = l->heap;
    size_t i = l->n_heap++;
    for (; i > 0 && before(l, &c, &h[(i - 1) / 2]); i = (i - 1) / 2) h[i] = h[(i - 1) / 2];
    h[i] = c;
    return 0;
}

static candidate pop(learner *l) {
    candidate *h = l->heap, top = h[0], last = h[--l->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < l->n_heap; i = child) {
        if (child + 1 < l->n_heap && before(l, &h[child + 1], &h[child])) child++;
        if (!before(l, &h[child], &last)) break;
        h[i] = h[child];
    }
    h[i] = last;
    return top;
}

/* The pair to merge next; false: none occurs often enough. */
static int best_pair(learner *l, int64_t least, uint32_t *index, krait_error *e) {
    while (l->n_heap) {
        candidate c = pop(l);
        int64_t now = l->pairs[c.pair].count;
        *index = c.pair;
        if (now == c.count) return now >= least;
        if (now >= least) KR_TRY(push(l, c.pair, e)); /* it changed since: back to its place */
    }
    return 0;
}

/* ---- words -------------------- */

/* Replaces the pair by `id` in one word, telling the neighbours' pairs. */
static int merge_in_word(learner *l, uint32_t word, int32_t left, int32_t right, int32_t id,
                         krait_error *e) {
    int32_t *ids = l->ids + l->counted->words[word].start;
    uint32_t n = l->lengths[word], out = 0;
    int64_t times = l->counted->words[word].count;
    for (uint32_t i = 0; i < n; i++, out++) {
        if (i + 1 == n || ids[i] != left || ids[i + 1] != right) {
            ids[out] = ids[i];
            continue;
        }
        if (out) {
            KR_TRY(change_pair(l, ids[out - 1], left, -times, word, e));
            KR_TRY(change_pair(l, ids[out - 1], id, times, word, e));
        }
        if (i + 2 < n) {
            KR_TRY(change_pair(l, right, ids[i + 2], -times, word, e));
            KR_TRY(change_pair(l, id, ids[i + 2], times, word, e));
        }
        ids[out] = id;
        i++;
    }
    l->lengths[word] = out;
    return 0;
}

/* The id of the joined string: a token that has it already, or a new one; -1: it is the end
 * token's, which no text may become. */
static int joined_id(learner *l, const pair *p, int32_t *id, krait_error *e) {
    const krait_tokenizer *t = l->t;
    struct kr_token_span a = t->spans[p->left], b = t->spans[p->right];
    size_t size = (size_t)a.size + b.size;
    char *text = kr_malloc(size);
    if (!text) return no_memory(e);
    memcpy(text, t->bytes + a.start, a.size);
    memcpy(text + a.size, t->bytes + b.start, b.size);
    kr_word *name;
    int rc = kr_word_count_get(&l->names, text, size, &name, e);
    if (rc == 0 && name->count == 0) {
        struct kr_token_span end = t->end < 0 ? (struct kr_token_span){0, 0} : t->spans[t->end];
        bool is_end = end.size == size && memcmp(t->bytes + end.start, text, size) == 0;
        name->count = is_end ? -1 : t->vocabulary + 1;
        if (!is_end) rc = kr_tokenizer_set(l->t, (int32_t)t->vocabulary, text, size, e);
    }
    if (rc == 0) *id = name->count < 0 ? -1 : (int32_t)(name->count - 1);
    kr_free(text);
    return rc;
}

/* Pushes the pairs whose count may have grown: new ones, and where the id was there before all that
 * hold it. */
static int push_grown(learner *l, size_t old, int32_t id, bool id_is_new, krait_error *e) {
    for (size_t i = id_is_new ? old : 0; i < l->n_pairs; i++)
        if (i >= old || l->pairs[i].left == id || l->pairs[i].right == id)
            KR_TRY(push(l, (uint32_t)i, e));
    return 0;
}

static int merge(learner *l, uint32_t index, krait_error *e) {
    pair p = l->pairs[index];
    int64_t vocabulary = l->t->vocabulary;
    size_t old = l->n_pairs;
    int32_t id = -1;
    KR_TRY(joined_id(l, &p, &id, e));
    l->pairs[index].words = NULL; /* p has them: merging adds to other pairs' lists */
    l->pairs[index].n_words = l->pairs[index].capacity = 0;
    int rc = 0;
    for (size_t i = 0; id >= 0 && rc == 0 && i < p.n_words; i++)
        rc = merge_in_word(l, p.words[i], p.left, p.right, id, e);
    kr_free(p.words);
    l->pairs[index].count = 0;
    if (rc < 0 || id < 0) return rc;
    KR_TRY(push_grown(l, old, id, id >= vocabulary, e));
    if (p.merged) return 0;
    l->pairs[index].merged = true;
    if (kr_grow((void **)&l->merges, &l->merges_capacity, l->n_merges + 1, sizeof *l->merges) < 0)
        return no_memory(e);
    l->merges[l->n_merges++] = (kr_merge_pair){p.left, p.right};
    return 0;
}

/* ---- all of it -------------------- */

static int begin(learner *l, int32_t first_byte, krait_error *e) {
    const kr_word_count *w = l->counted;
    l->ids = kr_calloc(w->bytes_count + 1, sizeof *l->ids);
    l->lengths = kr_calloc(w->count + 1, sizeof *l->lengths);
    if (!l->ids || !l->lengths) return no_memory(e);
    KR_TRY(kr_word_count_make(&l->names, SIZE_MAX, UINT32_MAX, e));
    KR_TRY(grow_slots(l, e));
    for (size_t i = 0; i < w->bytes_count; i++) l->ids[i] = first_byte + (unsigned char)w->bytes[i];
    for (uint32_t i = 0; i < w->count; i++) {
        const kr_word *k = &w->words[i];
        l->lengths[i] = k->size;
        for (uint32_t at = k->start; at + 1 < k->start + k->size; at++)
            KR_TRY(change_pair(l, l->ids[at], l->ids[at + 1], k->count, i, e));
    }
    return push_grown(l, 0, -1, true, e);
}

static int learn(learner *l, int32_t first_byte, const kr_learn_options *o, krait_error *e) {
    KR_TRY(begin(l, first_byte, e));
    int64_t least = o->min_frequency > 1 ? o->min_frequency : 1;
    int64_t from = l->t->vocabulary;
    while (l->t->vocabulary < o->vocabulary) {
        uint32_t index = 0;
        int got = best_pair(l, least, &index, e);
        if (got <= 0) return got;
        KR_TRY(merge(l, index, e));
        if (o->on_progress &&
            o->on_progress(o->user, l->t->vocabulary - from, o->vocabulary - from))
            return kr_fail(e, KRAIT_ERR_CANCELLED, "stopped while learning a vocabulary");
    }
    return 0;
}

int kr_bpe_learn(krait_tokenizer *t, int32_t first_byte, const kr_word_count *words,
                 const kr_learn_options *o, kr_merge_pair **merges, int64_t *count,
                 krait_error *e) {
    learner l = {.t = t, .counted = words};
    int rc = learn(&l, first_byte, o, e);
    *merges = rc < 0 ? NULL : l.merges;
    *count = rc < 0 ? 0 : (int64_t)l.n_merges;
    if (rc < 0) kr_free(l.merges);
    for (size_t i = 0; i < l.n_pairs; i++) kr_free(l.pairs[i].words);
    kr_free(l.pairs);
    kr_free(l.slots);
    kr_free(l.heap);
    kr_free(l.ids);
    kr_free(l.lengths);
    kr_word_count_free(&l.names);
    return rc;
}
