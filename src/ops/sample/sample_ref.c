/* sample_ref.c - drawing tokens, scalar: sorts the row and walks down. sample.h has the contract;
 * logits are compared as f32 at every level. */
#include "ops/op_ref.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "ops/sample/sample.h"

typedef struct candidate {
    float logit;
    int32_t id;
    double mass; /* of it and all before it */
} candidate;

static int by_probability(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static double real_at(const kr_call *c, int in, int64_t lane) {
    return (double)((const real *)c->in[in].data)[lane];
}

/* Fills list [V] in falling order; false when there is nothing to draw from. */
static bool sort_row(const kr_call *c, int64_t r, int64_t lane, candidate *list) {
    const kr_tensor *logits = &c->in[KR_SAMPLE_LOGITS], *seen = &c->in[KR_SAMPLE_SEEN];
    float penalty = (float)real_at(c, KR_SAMPLE_PENALTY, lane);
    int64_t V = logits->shape[1];
    for (int64_t i = 0; i < V; i++) {
        float l = (float)((const real *)logits->data)[r * logits->stride[0] + i];
        if (isnan(l) || l == INFINITY) return false;
        if (seen->data && ((const uint8_t *)seen->data)[lane * seen->stride[0] + i])
            l = l < 0 ? l * penalty : l / penalty;
        list[i] = (candidate){l, (int32_t)i, 0};
    }
    qsort(list, (size_t)V, sizeof *list, by_probability);
    return list[0].logit > -INFINITY;
}

/* Places in the sorted list: the run that all rules leave, and the token drawn from it. */
static int64_t draw(const kr_call *c, int64_t lane, candidate *list, double u) {
    double T = real_at(c, KR_SAMPLE_TEMPERATURE, lane), p = real_at(c, KR_SAMPLE_TOP_P, lane);
    double least = real_at(c, KR_SAMPLE_MIN_P, lane), total = 0;
    int64_t V = c->in[KR_SAMPLE_LOGITS].shape[1], n = 0, k = 0;
    int64_t limit = ((const int64_t *)c->in[KR_SAMPLE_TOP_K].data)[lane];
    if (limit < 1 || limit > V) limit = V;
    for (int64_t i = 0; i < limit; i++) {
        total += exp(((double)list[i].logit - (double)list[0].logit) / T);
        list[i].mass = total;
    }
    while (n < limit && (n == 0 || p == 1 || list[n - 1].mass < p * total)) {
        double w = exp(((double)list[n].logit - (double)list[0].logit) / T);
        if (w == 0 || (n > 0 && w < least)) break;
        n++;
    }
    while (k < n - 1 && list[k].mass < u * list[n - 1].mass) k++;
    return k;
}

static int32_t sample_row(const kr_call *c, int64_t r, int64_t lane) {
    candidate *list = c->scratch;
    const int64_t *random = (const int64_t *)c->in[KR_SAMPLE_RANDOM].data + 2 * lane;
    int64_t *drawn = c->out[KR_SAMPLE_RANDOM_OUT].data;
    kr_rng rng = kr_rng_make((uint64_t)random[0], kr_hash_string("sampler"));
    rng.counter = (uint64_t)random[1];
    if (!sort_row(c, r, lane, list)) return -1;
    if (real_at(c, KR_SAMPLE_TEMPERATURE, lane) == 0 ||
        ((const int64_t *)c->in[KR_SAMPLE_TOP_K].data)[lane] == 1)
        return list[0].id;
    double u = kr_rng_uniform(&rng);
    if (drawn) drawn[2 * lane + 1] = (int64_t)rng.counter;
    return list[draw(c, lane, list, u)].id;
}

void KR_FN(kr_sample)(const kr_call *c) {
    const kr_tensor *seen = &c->out[KR_SAMPLE_SEEN_OUT];
    const int64_t *lanes = c->in[KR_SAMPLE_LANES].data;
    int32_t *ids = c->out[KR_SAMPLE_ID].data;
    int64_t L = c->in[KR_SAMPLE_TEMPERATURE].shape[0];
    for (int64_t r = 0; r < c->out[KR_SAMPLE_ID].shape[0]; r++) {
        bool drawn = lanes[r] >= 0 && lanes[r] < L;
        ids[r] = drawn ? sample_row(c, r, lanes[r]) : -1;
        if (ids[r] >= 0 && seen->data)
            ((uint8_t *)seen->data)[lanes[r] * seen->stride[0] + ids[r]] = 1;
    }
}
