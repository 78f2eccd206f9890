/* add_ref.c - the elementwise sum, scalar. add.h has the contract. */
#include "ops/op_ref.h"

#include "ops/add/add.h"
#include "ops/rows.h"

void KR_FN(kr_add)(const kr_call *c) {
    const kr_tensor *a = &c->in[0], *b = &c->in[1], *sum = &c->out[0];
    kr_rows rows = kr_rows_of(a, b, sum);
    for (int64_t m = 0; m < rows.count; m++) {
        const real *am = (const real *)a->data + m * a->stride[0];
        const real *bm = b->data ? (const real *)b->data + m * b->stride[0] : NULL;
        real *to = (real *)sum->data + m * sum->stride[0];
        for (int64_t i = 0; i < rows.width; i++)
            kr_put(&to[i], (double)am[i] + (bm ? (double)bm[i] : 0), KR_ACC(c, 0));
    }
}
