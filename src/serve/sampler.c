/* sampler.c - from logits to a token.
 *
 *   l_i  <- l_i < 0 ? l_i * r : l_i / r            for every token already seen (repetition penalty
 * r) keep the k largest l_i                          (top-k) p_i  =  exp((l_i - max l) / T) / Z
 * (temperature; T = 0 takes the largest l_i) keep the shortest run of largest p_i whose sum reaches
 * top_p keep p_i >= min_p * max p, and draw in proportion to what is left
 *
 * Every rule keeps a prefix of the tokens in order of falling probability, so one heap serves them
 * all: tokens leave it in order until the prefix is known, and 50,000 logits are never sorted.
 * Equal logits are ordered by id; sums are in double. The numbers are those of base/rng.h, so a
 * seed gives the same text on every machine with the same logits. */
#include <krait/krait.h>
#include <math.h>
#include <stdbool.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/rng.h"

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

struct krait_sampler {
    krait_sampler_options options;
    int64_t vocabulary;
    kr_rng rng;
    unsigned char *seen; /* [V] 1: the repetition penalty applies */
    candidate *heap;     /* [V] heap in front, what has left it behind */
    double *mass;        /* [V] running sum of exp((l - max) / T) along the prefix */
};

static int check_options(const krait_sampler_options *o, int64_t vocabulary, krait_error *e) {
    if (vocabulary < 1 || vocabulary > INT32_MAX)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "sampler: a vocabulary of %lld tokens is impossible",
                       (long long)vocabulary);
    if (!(o->temperature >= 0) || isinf(o->temperature))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "sampler: temperature is %g; 0 or more is needed",
                       o->temperature);
    if (o->top_k < 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "sampler: top_k is %lld; 0 (off) or more is needed",
                       (long long)o->top_k);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "sampler: top_p is %g; above 0, up to 1 (off) is needed", o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "sampler: min_p is %g; 0 (off) to 1 is needed",
                       o->min_p);
    if (!(o->repeat_penalty > 0) || isinf(o->repeat_penalty))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "sampler: repeat_penalty is %g; above 0 is needed",
                       o->repeat_penalty);
    return 0;
}

int krait_sampler_create(krait_sampler **out, int64_t vocabulary,
                         const krait_sampler_options *options, krait_error *e) {
    krait_sampler_options o = KRAIT_SAMPLER_OPTIONS_INIT;
    if (!out) return kr_fail_null(e, "krait_sampler_create");
    *out = NULL;
    KR_TRY(kr_options_read(&o, sizeof o, options, "krait_sampler_options", e));
    KR_TRY(check_options(&o, vocabulary, e));
    krait_sampler *s = kr_calloc(1, sizeof *s);
    if (!s) return kr_fail_memory(e, "a sampler");
    size_t n = (size_t)vocabulary;
    s->options = o;
    s->vocabulary = vocabulary;
    s->rng = kr_rng_make(o.seed, kr_hash_string("sampler"));
    s->seen = kr_calloc(n, 1);
    s->heap = kr_calloc(n, sizeof *s->heap);
    s->mass = kr_calloc(n, sizeof *s->mass);
    if (s->seen && s->heap && s->mass) {
        *out = s;
        return 0;
    }
    krait_sampler_close(&s);
    return kr_fail_memory(e, "a sampler");
}

void krait_sampler_close(krait_sampler **s) {
    if (!s || !*s) return;
    kr_free((*s)->seen);
    kr_free((*s)->heap);
    kr_free((*s)->mass);
    kr_free(*s);
    *s = NULL;
}

void krait_sampler_accept(krait_sampler *s, int32_t id) {
    if (s && id >= 0 && id < s->vocabulary) s->seen[id] = 1;
}

static bool before(candidate a, candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(candidate *heap, int64_t n, int64_t i) {
    candidate moving = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], moving)) break;
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

/* Moves the largest of heap[0..n) to heap[n - 1] and returns it: what has left the heap lies behind
 * it, in rising order. */
static candidate pop(candidate *heap, int64_t n) {
    candidate top = heap[0];
    heap[0] = heap[n - 1];
    sift_down(heap, n - 1, 0);
    heap[n - 1] = top;
    return top;
}

/* Copies the logits with the penalty; refuses what no softmax can take. Returns the largest, or NaN
 * after an error. */
static float take_logits(krait_sampler *s, const float *logits, krait_error *e) {
    float penalty = (float)s->options.repeat_penalty, largest = -INFINITY;
    for (int64_t i = 0; i < s->vocabulary; i++) {
        float l = logits[i];
        if (isnan(l) || l == INFINITY) {
            kr_fail(e, KRAIT_ERR_NUMERIC,
                    "the logit of token %lld is %s: the model's weights are damaged", (long long)i,
                    isnan(l) ? "not a number" : "infinite");
            return NAN;
        }
        if (s->seen[i]) l = l < 0 ? l * penalty : l / penalty;
        s->heap[i] = (candidate){l, (int32_t)i};
        if (l > largest) largest = l;
    }
    if (largest > -INFINITY) return largest;
    kr_fail(e, KRAIT_ERR_NUMERIC, "every logit is minus infinity: there is no token to draw");
    return NAN;
}

static int32_t most_likely(const krait_sampler *s) {
    candidate best = s->heap[0];
    for (int64_t i = 1; i < s->vocabulary; i++)
        if (before(s->heap[i], best)) best = s->heap[i];
    return best.id;
}

static double weight(const krait_sampler *s, candidate c, float largest) {
    return exp(((double)c.logit - (double)largest) / s->options.temperature);
}

/* The sum of the weights among which top-p counts: of the k largest, or of all. */
static double total_weight(krait_sampler *s, int64_t kept, float largest) {
    double total = 0;
    int64_t n = s->vocabulary;
    for (int64_t i = 0; i < kept; i++) total += weight(s, s->heap[n - 1 - i], largest);
    for (int64_t i = 0; kept == 0 && i < n; i++) total += weight(s, s->heap[i], largest);
    return total;
}

/* Walks down the tokens to the end of the prefix that top-p and min-p leave, or (when neither cuts)
 * to the drawn one. */
static int32_t draw_prefix(krait_sampler *s, float largest, double u) {
    const krait_sampler_options *o = &s->options;
    int64_t n = s->vocabulary, limit = o->top_k > 0 && o->top_k < n ? o->top_k : n, kept = 0;
    bool cuts = o->top_p < 1 || o->min_p > 0;
    for (int64_t i = 0; limit < n && i < limit; i++) pop(s->heap, n - i);
    double total = total_weight(s, limit < n ? limit : 0, largest), sum = 0;
    double enough = cuts ? o->top_p * total : u * total;
    while (kept < limit && (sum < enough || kept == 0)) {
        candidate c = limit < n ? s->heap[n - 1 - kept] : pop(s->heap, n - kept);
        double w = weight(s, c, largest);
        if (w == 0 || (kept > 0 && w < o->min_p)) break; /* the largest weight is 1 */
        s->mass[kept++] = sum += w;
    }
    int64_t drawn = cuts ? 0 : kept - 1;
    while (cuts && drawn < kept - 1 && s->mass[drawn] < u * sum) drawn++;
    return s->heap[n - 1 - drawn].id;
}

int32_t krait_sampler_draw(krait_sampler *s, const float *logits, krait_error *e) {
    if (!s || !logits) return kr_fail_null(e, "krait_sampler_draw");
    float largest = take_logits(s, logits, e);
    if (isnan(largest)) return KRAIT_ERR_NUMERIC;
    int32_t id;
    if (s->options.temperature == 0 || s->options.top_k == 1) {
        id = most_likely(s);
    } else {
        for (int64_t i = s->vocabulary / 2; i-- > 0;) sift_down(s->heap, s->vocabulary, i);
        id = draw_prefix(s, largest, kr_rng_uniform(&s->rng));
    }
    krait_sampler_accept(s, id);
    return id;
}
