/* mqar.c - associative recall of many pairs (MQAR).
 *
 * Ids [1, A/2) are keys, [A/2, A) values. Rows 0 .. 2K-1 hold K pairs key, value, all keys and all
 * values distinct. Of the (T - 2K)/2 slots that follow (slot j is row 2K + 2j) K are drawn one
 * after another with chances proportional to (j+1)^(power-1): most queries come early. Key i is
 * asked in the i-th slot drawn, and its value is to be said in that same row. Every other row
 * after the pairs is 0, or with `fill` a uniform id that may look like a key. K is `pairs`, or with
 * `fewest` uniform in [fewest, pairs]: easy examples among the hard ones.
 * Source: Arora et al. 2023 (Zoology), data/multiquery_ar.py. */
#include <math.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/tasks/task.h"

typedef struct mqar {
    int64_t length, pairs, fewest, symbols;
    double power;
    bool fill;
} mqar;

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(mqar, length, 64, 4, 1 << 22, "rows of an example"),
    KR_SETTING_INT_OF(mqar, pairs, 4, 1, 4096, "pairs of key and value, each asked for once"),
    KR_SETTING_INT_OF(mqar, fewest, 0, 0, 4096,
                      "pairs of the easiest examples, up to `pairs` of others; 0: always `pairs`",
                      .later = true),
    KR_SETTING_INT_OF(mqar, symbols, 8192, 6, 1 << 20,
                      "size of the alphabet: half are keys, half are values"),
    KR_SETTING_REAL_OF(mqar, power, 0.01, 1e-6, 100,
                       "of the chance of a query's place: below 1, queries come early"),
    KR_SETTING_BOOL_OF(mqar, fill, true, "rows that ask nothing hold random ids, else 0"),
    {.name = NULL}};

static int64_t slots_of(const mqar *c) { return (c->length - 2 * c->pairs) / 2; }

static int open_task(kr_task_source *s, krait_error *e) {
    const mqar *c = (const mqar *)s->settings;
    if (c->length % 2 || 4 * c->pairs > c->length)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "length is %lld, must be even and at least 4 * pairs = %lld",
                       (long long)c->length, (long long)(4 * c->pairs));
    if (c->symbols / 2 - 1 < c->pairs)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "symbols is %lld, %lld pairs need at least %lld",
                       (long long)c->symbols, (long long)c->pairs, (long long)(2 * c->pairs + 2));
    if (c->fewest > c->pairs)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "fewest (%lld) is above pairs (%lld)",
                       (long long)c->fewest, (long long)c->pairs);
    s->vocabulary = c->symbols;
    s->longest = c->length;
    s->answers = c->pairs;
    return 0;
}

/* `count` distinct numbers of [low, low + range), each choice and order as likely: Floyd's
 * sampling into out, then a shuffle. drawn [range] is zeros, and holds 1 where a number was taken.
 */
static void draw_distinct(kr_rng *r, int64_t low, int64_t range, int64_t count, char *drawn,
                          int64_t *out) {
    for (int64_t i = 0; i < count; i++) {
        int64_t top = range - count + i, v = (int64_t)kr_rng_below(r, (uint64_t)top + 1);
        if (drawn[v]) v = top; /* is not there yet */
        drawn[v] = 1;
        out[i] = low + v;
    }
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t k = (int64_t)kr_rng_below(r, (uint64_t)i + 1), v = out[i];
        out[i] = out[k];
        out[k] = v;
    }
}

typedef struct slot {
    double key;
    int64_t at;
} slot;

static bool is_later(const slot *a, const slot *b) {
    return a->key < b->key || (a->key == b->key && a->at > b->at);
}

static void swap(slot *a, slot *b) {
    slot keep = *a;
    *a = *b;
    *b = keep;
}

/* Puts heap[at], whose children are heaps, in its place: the latest of n is on top. */
static void sink(slot *heap, int64_t n, int64_t at) {
    for (int64_t k; (k = 2 * at + 1) < n; at = k) {
        if (k + 1 < n && is_later(&heap[k + 1], &heap[k])) k++;
        if (!is_later(&heap[k], &heap[at])) return;
        swap(&heap[k], &heap[at]);
    }
}

/* Successive draws with weights, without replacement, are the order of u^(1/w) from above
 * (Efraimidis & Spirakis 2006): here of ln(u)/w, the largest K of which are kept, then put in
 * order. */
static void draw_slots(kr_rng *r, const mqar *c, slot *slots) {
    int64_t K = c->pairs;
    for (int64_t j = 0; j < slots_of(c); j++) {
        slot s = {log(kr_rng_uniform(r)) * pow((double)(j + 1), 1 - c->power), j};
        if (j < K) slots[j] = s;
        for (int64_t i = j == K - 1 ? K / 2 : 0; i > 0; i--) sink(slots, K, i - 1);
        if (j < K || !is_later(&slots[0], &s)) continue;
        slots[0] = s;
        sink(slots, K, 0);
    }
    for (int64_t n = K - 1; n > 0; n--) {
        swap(&slots[0], &slots[n]);
        sink(slots, n, 0);
    }
}

static void write_rows(const mqar *c, kr_rng *r, const int64_t *keys, const int64_t *values,
                       const slot *slots, kr_example *x) {
    for (int64_t i = 2 * c->pairs; i < c->length; i++)
        x->ids[i] = c->fill ? (int32_t)kr_rng_below(r, (uint64_t)c->symbols) : 0;
    for (int64_t i = 0; i < c->pairs; i++) {
        int64_t row = 2 * c->pairs + 2 * slots[i].at;
        x->ids[2 * i] = x->ids[row] = (int32_t)keys[i];
        x->ids[2 * i + 1] = x->targets[row] = (int32_t)values[i];
    }
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    mqar own = *(const mqar *)s->settings, *c = &own;
    (void)part, (void)index;
    if (c->fewest) c->pairs = kr_task_between(r, c->fewest, c->pairs);
    KR_TRY(kr_example_size(x, s, c->length, e));
    int64_t n = c->pairs, half = c->symbols / 2;
    slot *slots = kr_malloc((size_t)n * (sizeof *slots + 2 * sizeof(int64_t)));
    char *drawn = kr_calloc((size_t)c->symbols, 1);
    int64_t *keys = slots ? (int64_t *)(slots + n) : NULL;
    if (keys && drawn) {
        draw_distinct(r, 1, half - 1, n, drawn, keys);
        draw_distinct(r, half, c->symbols - half, n, drawn + half, keys + n);
        draw_slots(r, c, slots);
        write_rows(c, r, keys, keys + n, slots, x);
    }
    kr_free(slots);
    kr_free(drawn);
    return keys && drawn ? 0 : kr_fail_memory(e, "an example");
}

const kr_task kr_task_mqar = {
    .name = "mqar",
    .about = "associative recall: say the value that stood behind each key",
    .settings = settings,
    .settings_size = sizeof(mqar),
    .open = open_task,
    .make = make,
};
