/* cross_entropy_ref.c - the loss and its gradient, scalar. cross_entropy.h has the contract. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/cross_entropy/cross_entropy.h"

void KR_FN(kr_cross_entropy)(const kr_call *c) {
    const kr_tensor *logits = &c->in[0];
    const int32_t *targets = c->in[1].data;
    int64_t V = logits->shape[1];
    for (int64_t m = 0; m < logits->shape[0]; m++) {
        const real *x = (const real *)logits->data + m * logits->stride[0];
        bool loss = targets[m] >= 0 && targets[m] < V;
        double largest = -HUGE_VAL, sum = 0, lse = 0;
        for (int64_t v = 0; v < V; v++) largest = fmax(largest, (double)x[v]);
        for (int64_t v = 0; v < V; v++) sum += exp((double)x[v] - largest);
        if (loss) lse = largest + log(sum);
        ((real *)c->out[0].data)[m] = (real)(loss ? lse - (double)x[targets[m]] : 0);
        if (c->out[1].data) ((real *)c->out[1].data)[m] = (real)lse;
    }
}

void KR_FN(kr_cross_entropy_grad)(const kr_call *c) {
    const kr_tensor *logits = &c->in[0], *d = &c->out[0];
    const int32_t *targets = c->in[1].data;
    const real *lse = c->in[2].data, *dnll = c->in[3].data;
    int64_t V = logits->shape[1];
    for (int64_t m = 0; m < logits->shape[0]; m++) {
        const real *x = (const real *)logits->data + m * logits->stride[0];
        real *to = (real *)d->data + m * d->stride[0];
        bool loss = targets[m] >= 0 && targets[m] < V;
        for (int64_t v = 0; v < V; v++) {
            double p = exp((double)x[v] - (double)lse[m]) - (v == targets[m] ? 1 : 0);
            kr_put(&to[v], loss ? p * (double)dnll[m] : 0, KR_ACC(c, 0));
        }
    }
}
