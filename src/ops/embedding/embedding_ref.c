/* embedding_ref.c - the vector of each token, scalar. embedding.h has the contract. */
#include "ops/op_ref.h"

#include "ops/embedding/embedding.h"

void KR_FN(kr_embedding)(const kr_call *c) {
    const kr_tensor *weight = &c->in[1], *y = &c->out[0];
    const int32_t *ids = c->in[0].data;
    int64_t size = (int64_t)kr_dtype_size(weight->dtype), D = y->shape[1];
    for (int64_t m = 0; m < y->shape[0]; m++) {
        real *to = (real *)y->data + m * y->stride[0];
        if (ids[m] >= 0 && ids[m] < weight->shape[0])
            kr_convert(to, y->dtype, (const char *)weight->data + ids[m] * weight->stride[0] * size,
                       weight->dtype, D);
        else
            for (int64_t d = 0; d < D; d++) to[d] = 0;
    }
}

void KR_FN(kr_embedding_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *dw = &c->out[0];
    const int32_t *ids = c->in[1].data;
    for (int64_t v = 0; !KR_ACC(c, 0) && v < dw->shape[0]; v++)
        for (int64_t d = 0; d < dw->shape[1]; d++) ((real *)dw->data)[v * dw->stride[0] + d] = 0;
    for (int64_t m = 0; m < dy->shape[0]; m++) {
        if (ids[m] < 0 || ids[m] >= dw->shape[0]) continue;
        real *to = (real *)dw->data + ids[m] * dw->stride[0];
        for (int64_t d = 0; d < dw->shape[1]; d++)
            kr_put(&to[d], (double)((const real *)dy->data)[m * dy->stride[0] + d], 1);
    }
}
