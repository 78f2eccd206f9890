/* discretise_rows.cuh - rows of numbers as the kernels of the three discretisations on the GPU take
 * and leave them. */
#ifndef KR_DISCRETISE_ROWS_CUH
#define KR_DISCRETISE_ROWS_CUH

#include "device/cuda/kernel.cuh"

/* Rows of results; NULL: not wanted. */
struct kr_discretise_rows {
    float *p;
    int64_t row;
    bool add;
};

/* Input i and how far its rows lie apart; NULL where it is absent. */
static inline const float *kr_discretise_in(const kr_call *c, int i, int64_t *row) {
    if (i >= c->n_in || !c->in[i].data) return NULL;
    *row = c->in[i].stride[0];
    return (const float *)c->in[i].data;
}

static inline kr_discretise_rows kr_discretise_out(const kr_call *c, int i) {
    const kr_tensor *t = &c->out[i];
    return {(float *)t->data, t->data ? t->stride[0] : 0, KR_ACC(c, i) != 0};
}

#endif
