/* case.h - writing the checker's cases and the shape rules in few words. */
#ifndef KR_CASE_H
#define KR_CASE_H

#include "ops/op.h"

/* Input i of a case; absent ones keep their shape, so that one list serves both. */
static inline void kr_case_in(kr_case *k, int i, kr_dtype t, int rank, const int64_t *shape,
                              kr_fill fill, double a, double b) {
    k->in[i] = kr_tensor_make(NULL, t, rank, shape);
    k->fill[i].kind = fill;
    k->fill[i].a = a;
    k->fill[i].b = b;
    if (k->n_in <= i) k->n_in = i + 1;
}

static inline void kr_case_normal(kr_case *k, int i, int rank, const int64_t *shape) {
    kr_case_in(k, i, KR_F32, rank, shape, KR_FILL_NORMAL, 1, 0);
}

static inline void kr_case_without(kr_case *k, int i) { k->fill[i].kind = KR_FILL_ABSENT; }

/* Pulls the rows of the case's matrices of numbers so far apart that the last ones lie past 2^31
 * elements (the checker does so with the outputs). */
static inline void kr_case_far(kr_case *k) {
    k->name = "offsets past 2^31";
    k->large = true;
    for (int i = 0; i < k->n_in; i++) {
        kr_tensor *t = &k->in[i];
        if (t->rank == 2 && t->dtype <= KR_F16 && t->shape[0] > 1)
            t->stride[0] = ((int64_t)1 << 31) / (t->shape[0] - 1) + t->shape[1];
    }
}

/* The bytes of all inputs and outputs that are there: most ops' cost. */
static inline double kr_call_bytes(const kr_call *c) {
    double bytes = 0;
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i].data) bytes += (double)kr_tensor_bytes(&c->in[i]);
    for (int i = 0; i < c->n_out; i++)
        if (c->out[i].data) bytes += (double)kr_tensor_bytes(&c->out[i]);
    return bytes;
}

/* An output of the shape of t, in its own memory. */
static inline kr_tensor kr_out_like(const kr_tensor *t) {
    kr_tensor out = kr_tensor_make(NULL, t->dtype, t->rank, t->shape);
    out.dim0 = t->dim0;
    return out;
}

#endif
