/* previous_ref.c - rows beside those before them, scalar. previous.h has the contract. */
#include "ops/op_ref.h"

#include "ops/previous/previous.h"
#include "ops/seqs.h"

static real *row(const kr_tensor *t, int64_t m) { return (real *)t->data + m * t->stride[0]; }

/* The row in front of row t of a sequence; NULL: zeros. */
static const real *before(const kr_call *c, kr_seq q, int64_t t) {
    const uint8_t *reset = c->in[2].data;
    if (reset && reset[t]) return NULL;
    if (t > q.first) return row(&c->in[0], t - 1);
    return c->in[3].data ? row(&c->in[3], q.slot) : NULL;
}

void KR_FN(kr_previous)(const kr_call *c) {
    int64_t W = c->in[0].shape[1];
    bool keeps = c->n_out > 1 && c->out[1].data;
    for (int64_t s = 0; s < c->in[1].shape[0]; s++) {
        kr_seq q = kr_seq_of(&c->in[1], s);
        const real *last = c->in[3].data ? row(&c->in[3], q.slot) : NULL;
        for (int64_t t = q.first; t < q.first + q.count; t++) {
            const real *old = before(c, q, t);
            last = row(&c->in[0], t);
            for (int64_t j = 0; j < W; j++) {
                row(&c->out[0], t)[j] = last[j];
                row(&c->out[0], t)[W + j] = old ? old[j] : 0;
            }
        }
        for (int64_t j = 0; keeps && j < W; j++) row(&c->out[1], q.slot)[j] = last ? last[j] : 0;
    }
}

/* What row t of a sequence, or (t one in front of the first) its state, gives to what follows. */
static double given(const kr_call *c, kr_seq q, int64_t t, int64_t j) {
    const kr_tensor *dy = &c->in[0], *dstate = &c->in[5];
    const uint8_t *reset = c->in[3].data;
    if (t + 1 == q.first + q.count) return dstate->data ? (double)row(dstate, q.slot)[j] : 0;
    if (!dy->data || (reset && reset[t + 1])) return 0;
    return (double)row(dy, t + 1)[c->in[1].shape[1] + j];
}

void KR_FN(kr_previous_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *dx = &c->out[0], *dstate = &c->out[1];
    int64_t W = c->in[1].shape[1];
    bool wanted = c->n_out > 1 && dstate->data;
    for (int64_t i = 0; wanted && !KR_ACC(c, 1) && i < dstate->shape[0]; i++)
        for (int64_t j = 0; j < W; j++) row(dstate, i)[j] = 0;
    for (int64_t s = 0; s < c->in[2].shape[0]; s++) {
        kr_seq q = kr_seq_of(&c->in[2], s);
        for (int64_t t = q.first; dx->data && t < q.first + q.count; t++)
            for (int64_t j = 0; j < W; j++)
                kr_put(row(dx, t) + j, (dy->data ? (double)row(dy, t)[j] : 0) + given(c, q, t, j),
                       KR_ACC(c, 0));
        for (int64_t j = 0; wanted && j < W; j++)
            kr_put(row(dstate, q.slot) + j, given(c, q, q.first - 1, j), KR_ACC(c, 1));
    }
}
