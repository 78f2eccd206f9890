/* cross_entropy_vec.c - the loss and its gradient over vectors. cross_entropy.h has the equations.
 *
 * Forward, one exp a logit: a block is read for its maximum and, still in the cache, for its sum of
 * exp(x - m); the sum so far is scaled whenever a block raises m. Threads take rows. */
#include "ops/cross_entropy/cross_entropy.h"

#include <math.h>

#include "ops/threads.h"
#include "vec/vec_math.h"

enum { BLOCK = 2048 };

static float largest_of(const float *x, int64_t n) {
    kr_vf most = kr_vset(-HUGE_VALF), more = most;
    int64_t v = 0;
    for (; v + 2 * KR_W <= n; v += 2 * KR_W) {
        most = kr_vmax(most, kr_vload(x + v));
        more = kr_vmax(more, kr_vload(x + v + KR_W));
    }
    float m = kr_vmax_lane(kr_vmax(most, more));
    for (; v < n; v++) m = m > x[v] ? m : x[v];
    return m;
}

/* sum of exp(x - m) */
static float sum_of(const float *x, int64_t n, float m) {
    kr_vf sum = kr_vzero(), more = kr_vzero();
    int64_t v = 0;
    for (; v + 2 * KR_W <= n; v += 2 * KR_W) {
        sum += kr_vexp(kr_vload(x + v) - m);
        more += kr_vexp(kr_vload(x + v + KR_W) - m);
    }
    for (; v < n; v += KR_W) sum += kr_vkeep_n(kr_vexp(kr_vload_n(x + v, n - v) - m), n - v);
    return kr_vsum(sum + more);
}

/* ln(sum of exp(x)) = m + ln(sum); the parts stay apart until the target is taken off. */
static double log_sum(const float *x, int64_t V, float *m) {
    double sum = 0;
    *m = -HUGE_VALF;
    for (int64_t v = 0; v < V; v += BLOCK) {
        int64_t n = V - v < BLOCK ? V - v : BLOCK;
        float top = largest_of(x + v, n);
        if (top == -HUGE_VALF) continue; /* masked logits add nothing */
        if (top > *m) {
            sum *= exp((double)*m - (double)top);
            *m = top;
        }
        sum += (double)sum_of(x + v, n, *m);
    }
    return log(sum);
}

void KR_FN(kr_cross_entropy)(const kr_call *c) {
    const kr_tensor *logits = &c->in[0];
    const int32_t *targets = c->in[1].data;
    float *nll = c->out[0].data, *lse = c->out[1].data;
    int64_t M = logits->shape[0], V = logits->shape[1];
    int threads = kr_threads_for(c, M * V * 8);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < M; i++) {
        const float *x = (const float *)logits->data + i * logits->stride[0];
        bool loss = targets[i] >= 0 && targets[i] < V;
        float m = 0;
        double rest = loss ? log_sum(x, V, &m) : 0;
        nll[i] = loss ? (float)(rest + ((double)m - (double)x[targets[i]])) : 0;
        if (lse) lse[i] = (float)(rest + (double)m);
    }
}

/* to[V] = or += exp(x - lse) * scale */
static void put_softmax(const float *x, float lse, float scale, float *to, bool add, int64_t V) {
    for (int64_t v = 0; v < V; v += KR_W) {
        kr_vf p = kr_vexp(kr_vload_n(x + v, V - v) - lse) * scale;
        kr_vstore_n(to + v, V - v, add ? p + kr_vload_n(to + v, V - v) : p);
    }
}

void KR_FN(kr_cross_entropy_grad)(const kr_call *c) {
    const kr_tensor *logits = &c->in[0], *d = &c->out[0];
    const int32_t *targets = c->in[1].data;
    const float *lse = c->in[2].data, *dnll = c->in[3].data;
    int64_t M = logits->shape[0], V = logits->shape[1];
    bool add = c->accumulate & 1;
    int threads = kr_threads_for(c, M * V * 8);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < M; i++) {
        const float *x = (const float *)logits->data + i * logits->stride[0];
        float *to = (float *)d->data + i * d->stride[0];
        bool loss = targets[i] >= 0 && targets[i] < V;
        if (loss) {
            put_softmax(x, lse[i], dnll[i], to, add, V);
            to[targets[i]] -= dnll[i];
        } else if (!add) {
            memset(to, 0, (size_t)V * sizeof *to);
        }
    }
}
