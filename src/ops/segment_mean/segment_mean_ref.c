/* segment_mean_ref.c - means over sequences, scalar. segment_mean.h has the contract. */
#include "ops/op_ref.h"

#include "ops/segment_mean/segment_mean.h"

void KR_FN(kr_segment_mean)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    const int64_t *seqs = c->in[1].data;
    for (int64_t s = 0; s < y->shape[0]; s++) {
        int64_t first = seqs[3 * s], n = seqs[3 * s + 1];
        for (int64_t d = 0; d < y->shape[1]; d++) {
            double sum = 0;
            for (int64_t i = 0; i < n; i++)
                sum += (double)((const real *)x->data)[(first + i) * x->stride[0] + d];
            ((real *)y->data)[s * y->stride[0] + d] = (real)(n > 0 ? sum / (double)n : 0);
        }
    }
}

void KR_FN(kr_segment_mean_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *dx = &c->out[0];
    const int64_t *seqs = c->in[1].data;
    for (int64_t m = 0; !KR_ACC(c, 0) && m < dx->shape[0]; m++)
        for (int64_t d = 0; d < dx->shape[1]; d++) ((real *)dx->data)[m * dx->stride[0] + d] = 0;
    for (int64_t s = 0; s < dy->shape[0]; s++)
        for (int64_t i = 0; i < seqs[3 * s + 1]; i++) {
            real *to = (real *)dx->data + (seqs[3 * s] + i) * dx->stride[0];
            for (int64_t d = 0; d < dx->shape[1]; d++)
                kr_put(&to[d],
                       (double)((const real *)dy->data)[s * dy->stride[0] + d] /
                           (double)seqs[3 * s + 1],
                       1);
        }
}
