/* gather_rows_ref.c - rows picked and scattered, scalar. gather_rows.h has the contract. */
#include "ops/op_ref.h"

#include "ops/gather_rows/gather_rows.h"

void KR_FN(kr_gather_rows)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    const int64_t *rows = c->in[1].data;
    for (int64_t r = 0; r < y->shape[0]; r++) {
        bool inside = rows[r] >= 0 && rows[r] < x->shape[0];
        const real *from = (const real *)x->data + (inside ? rows[r] * x->stride[0] : 0);
        real *to = (real *)y->data + r * y->stride[0];
        for (int64_t d = 0; d < y->shape[1]; d++) to[d] = inside ? from[d] : 0;
    }
}

void KR_FN(kr_gather_rows_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *dx = &c->out[0];
    const int64_t *rows = c->in[1].data;
    for (int64_t m = 0; !KR_ACC(c, 0) && m < dx->shape[0]; m++)
        for (int64_t d = 0; d < dx->shape[1]; d++) ((real *)dx->data)[m * dx->stride[0] + d] = 0;
    for (int64_t r = 0; r < dy->shape[0]; r++) {
        if (rows[r] < 0 || rows[r] >= dx->shape[0]) continue;
        real *to = (real *)dx->data + rows[r] * dx->stride[0];
        for (int64_t d = 0; d < dx->shape[1]; d++)
            kr_put(&to[d], (double)((const real *)dy->data)[r * dy->stride[0] + d], 1);
    }
}
