/* dropout_ref.c - leaving out at random, scalar. dropout.h has the contract. */
#include "ops/op_ref.h"

#include "base/rng.h"
#include "ops/dropout/dropout.h"

/* Row m, by the numbers of row or sequence `of`. */
static void drop(const kr_call *c, int64_t m, int64_t of) {
    const kr_dropout_attr *a = c->attr;
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    const int64_t *draw = c->in[1].data;
    int64_t D = x->shape[1], Q = (D + 3) / 4;
    for (int64_t d = 0; d < D; d++) {
        uint32_t words[4] = {(uint32_t)(d % Q), (uint32_t)of, (uint32_t)draw[1], (uint32_t)a->site};
        kr_philox((uint64_t)draw[0], words);
        double v = (double)((const real *)x->data)[m * x->stride[0] + d] / (1 - a->share);
        bool kept = words[d / Q] >= kr_dropout_limit(a);
        kr_put((real *)y->data + m * y->stride[0] + d, kept ? v : 0, KR_ACC(c, 0));
    }
}

void KR_FN(kr_dropout)(const kr_call *c) {
    const kr_tensor *seqs = &c->in[2];
    const int64_t *cut = seqs->data;
    for (int64_t m = 0; !cut && m < c->in[0].shape[0]; m++) drop(c, m, m);
    for (int64_t s = 0; cut && s < seqs->shape[0]; s++)
        for (int64_t i = 0; i < cut[3 * s + 1]; i++) drop(c, cut[3 * s] + i, s);
}
