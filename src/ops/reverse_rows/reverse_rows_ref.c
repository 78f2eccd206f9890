/* reverse_rows_ref.c - sequences turned round, scalar. reverse_rows.h has the contract. */
#include "ops/op_ref.h"

#include "ops/reverse_rows/reverse_rows.h"

void KR_FN(kr_reverse_rows)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0], *seqs = &c->in[1];
    const int64_t *cut = seqs->data;
    for (int64_t s = 0; s < seqs->shape[0]; s++) {
        int64_t first = cut[3 * s], n = cut[3 * s + 1];
        for (int64_t i = 0; i < n; i++) {
            const real *from = (const real *)x->data + (first + n - 1 - i) * x->stride[0];
            real *to = (real *)y->data + (first + i) * y->stride[0];
            for (int64_t d = 0; d < x->shape[1]; d++) kr_put(&to[d], (double)from[d], KR_ACC(c, 0));
        }
    }
}
