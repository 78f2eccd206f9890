/* previous_vec.c - rows beside those before them over vectors. previous.h has the contract.
 *
 * Threads take sequences: the state in may be the memory of the state out. */
#include "ops/previous/previous.h"

#include "ops/seqs.h"
#include "ops/threads.h"
#include "vec/vec.h"

static float *row(const kr_tensor *t, int64_t m) { return (float *)t->data + m * t->stride[0]; }

/* to = or += a + b; NULL: zeros. */
static void sum(float *to, const float *a, const float *b, int64_t W, bool add) {
    for (int64_t j = 0; j < W; j += KR_W) {
        kr_vf v = add ? kr_vload_n(to + j, W - j) : kr_vzero();
        if (a) v += kr_vload_n(a + j, W - j);
        if (b) v += kr_vload_n(b + j, W - j);
        kr_vstore_n(to + j, W - j, v);
    }
}

static void forward_seq(const kr_call *c, kr_seq q) {
    int64_t W = c->in[0].shape[1];
    const uint8_t *reset = c->in[2].data;
    const float *last = c->in[3].data ? row(&c->in[3], q.slot) : NULL;
    for (int64_t t = q.first; t < q.first + q.count; t++) {
        const float *x = row(&c->in[0], t);
        sum(row(&c->out[0], t), x, NULL, W, false);
        sum(row(&c->out[0], t) + W, reset && reset[t] ? NULL : last, NULL, W, false);
        last = x;
    }
    if (c->n_out > 1 && c->out[1].data) sum(row(&c->out[1], q.slot), last, NULL, W, false);
}

void KR_FN(kr_previous)(const kr_call *c) {
    int64_t n = c->in[1].shape[0];
    int threads = kr_threads_for(c, kr_tensor_count(&c->in[0]) * 12);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t s = 0; s < n; s++) forward_seq(c, kr_seq_of(&c->in[1], s));
}

/* What the row behind row t of a sequence, or the state behind the last, gives; NULL: zeros. */
static const float *given(const kr_call *c, kr_seq q, int64_t t) {
    const uint8_t *reset = c->in[3].data;
    if (t + 1 == q.first + q.count) return c->in[5].data ? row(&c->in[5], q.slot) : NULL;
    if (!c->in[0].data || (reset && reset[t + 1])) return NULL;
    return row(&c->in[0], t + 1) + c->in[1].shape[1];
}

static void backward_seq(const kr_call *c, kr_seq q) {
    int64_t W = c->in[1].shape[1];
    for (int64_t t = q.first; c->out[0].data && t < q.first + q.count; t++)
        sum(row(&c->out[0], t), c->in[0].data ? row(&c->in[0], t) : NULL, given(c, q, t), W,
            c->accumulate & 1);
    if (c->n_out > 1 && c->out[1].data)
        sum(row(&c->out[1], q.slot), given(c, q, q.first - 1), NULL, W, c->accumulate & 2);
}

void KR_FN(kr_previous_grad)(const kr_call *c) {
    const kr_tensor *dstate = &c->out[1];
    int64_t n = c->in[2].shape[0], W = c->in[1].shape[1];
    bool clear = c->n_out > 1 && dstate->data && !(c->accumulate & 2);
    for (int64_t i = 0; clear && i < dstate->shape[0]; i++)
        memset(row(dstate, i), 0, (size_t)W * sizeof(float));
    int threads = kr_threads_for(c, kr_tensor_count(&c->in[1]) * 12);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t s = 0; s < n; s++) backward_seq(c, kr_seq_of(&c->in[2], s));
}
