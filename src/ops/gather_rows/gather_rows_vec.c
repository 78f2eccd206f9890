/* gather_rows_vec.c - rows picked and scattered. gather_rows.h has the contract. */
#include "ops/gather_rows/gather_rows.h"

#include "ops/scatter_vec.h"

void KR_FN(kr_gather_rows)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    const int64_t *rows = c->in[1].data;
    int64_t R = y->shape[0], D = y->shape[1];
    int threads = kr_threads_for(c, R * D * 8);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t r = 0; r < R; r++) {
        float *to = (float *)y->data + r * y->stride[0];
        if (rows[r] >= 0 && rows[r] < x->shape[0])
            memcpy(to, (const float *)x->data + rows[r] * x->stride[0], (size_t)D * sizeof *to);
        else
            memset(to, 0, (size_t)D * sizeof *to);
    }
}

KR_VINLINE int64_t row_at(const void *rows, int64_t r) { return ((const int64_t *)rows)[r]; }

void KR_FN(kr_gather_rows_grad)(const kr_call *c) {
    int threads = kr_scatter_threads(c);
#pragma omp parallel num_threads(threads) if (threads > 1)
    kr_scatter_part(c, row_at);
}
