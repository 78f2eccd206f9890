/* sum_squares_ref.c - the squared norm, scalar. sum_squares.h has the equation. */
#include "ops/op_ref.h"

#include "ops/sum_squares/sum_squares.h"

void KR_FN(kr_sum_squares)(const kr_call *c) {
    const real *x = c->in[0].data;
    double sum = 0;
    for (int64_t i = 0; i < c->in[0].shape[0]; i++) sum += (double)x[i] * (double)x[i];
    *(double *)c->out[0].data = sum;
}
