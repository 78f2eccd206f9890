/* concat_ref.c - tensors below each other, scalar: nothing but copies. concat.h has the contract.
 */
#include "ops/op_ref.h"

#include "ops/concat/concat.h"

static void copy(const real *from, int64_t from_row, real *to, int64_t to_row, kr_rows rows,
                 int accumulate) {
    for (int64_t m = 0; m < rows.count; m++)
        for (int64_t k = 0; k < rows.width; k++)
            kr_put(to + m * to_row + k, (double)from[m * from_row + k], accumulate);
}

void KR_FN(kr_concat)(const kr_call *c) {
    const kr_tensor *y = &c->out[0];
    int64_t first = 0;
    for (int i = 0; i < c->n_in; first += c->in[i++].shape[0])
        copy(c->in[i].data, c->in[i].stride[0], (real *)y->data + kr_concat_at(y, first),
             y->stride[0], kr_concat_rows(&c->in[i]), KR_ACC(c, 0));
}

void KR_FN(kr_concat_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0];
    int64_t first = 0;
    for (int i = 0; i < c->n_out; first += c->in[++i].shape[0])
        if (c->out[i].data)
            copy((const real *)dy->data + kr_concat_at(dy, first), dy->stride[0], c->out[i].data,
                 c->out[i].stride[0], kr_concat_rows(&c->in[i + 1]), KR_ACC(c, i));
}
