/* squared_error_ref.c - the loss of telling numbers, scalar. squared_error.h has the contract. */
#include "ops/op_ref.h"

#include "ops/squared_error/squared_error.h"

static double off(const kr_call *c, int64_t m, int64_t k) {
    const kr_tensor *y = &c->in[0], *w = &c->in[1];
    return (double)((const real *)y->data)[m * y->stride[0] + k] -
           (double)((const real *)w->data)[m * w->stride[0] + k];
}

void KR_FN(kr_squared_error)(const kr_call *c) {
    int64_t M = c->in[0].shape[0], K = c->in[0].shape[1];
    for (int64_t m = 0; m < M; m++) {
        double sum = 0;
        for (int64_t k = 0; k < K; k++) sum += off(c, m, k) * off(c, m, k);
        ((real *)c->out[0].data)[m] = (real)(sum / (double)K);
    }
}

void KR_FN(kr_squared_error_grad)(const kr_call *c) {
    int64_t M = c->in[0].shape[0], K = c->in[0].shape[1];
    for (int64_t m = 0; m < M; m++)
        for (int64_t k = 0; k < K; k++) {
            double g = 2 / (double)K * off(c, m, k) * (double)((const real *)c->in[2].data)[m];
            for (int i = 0; i < 2; i++)
                if (c->out[i].data)
                    kr_put((real *)c->out[i].data + m * c->out[i].stride[0] + k, i ? -g : g,
                           KR_ACC(c, i));
        }
}
