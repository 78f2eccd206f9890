/* vec_row_sums.h - gradients of rows, and those of weights as sums over them, over vectors.
 *
 * Threads take chunks of rows; each chunk has its own sums, and they are added in order: the same
 * bytes for any number of threads. Included by *_vec.c only. */
#ifndef KR_VEC_ROW_SUMS_H
#define KR_VEC_ROW_SUMS_H

#include <string.h>

#include "ops/row_sums.h"
#include "ops/threads.h"
#include "vec/vec.h"

/* The gradients of some rows; adds to sums [n,D] (NULL: not wanted) what they give the weights. */
typedef void kr_rows_grad(const kr_call *c, kr_part rows, float *sums);

/* Columns of to [D]: the chunks' sums in order, `stride` numbers from chunk to chunk, added to what
 * is there where `add`. */
KR_VINLINE void kr_row_sums_put(float *to, bool add, const float *sums, int chunks, int64_t stride,
                                kr_part columns) {
    for (int64_t d = columns.begin; d < columns.end; d += KR_W) {
        int64_t left = columns.end - d;
        kr_vf sum = kr_vzero();
        for (int i = 0; i < chunks; i++) sum += kr_vload_n(sums + i * stride + d, left);
        if (add) sum += kr_vload_n(to + d, left);
        kr_vstore_n(to + d, left, sum);
    }
}

/* All M rows of D columns of a call whose outputs i to i + n - 1, each [D], are weights' gradients,
 * or absent; c->scratch has kr_row_sums_scratch(M, n D) bytes. `bytes`: moved for an element. */
KR_VINLINE void kr_row_sums_run(const kr_call *c, int i, int n, int64_t M, int64_t D, int64_t bytes,
                                kr_rows_grad *grad) {
    int chunks = kr_row_chunks(M), threads = kr_threads_for(c, M * D * bytes);
    bool wanted = false;
    for (int k = 0; k < n; k++) wanted |= c->out[i + k].data != NULL;
    float *sums = wanted ? c->scratch : NULL;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for
        for (int k = 0; k < chunks; k++) {
            if (sums) memset(sums + k * n * D, 0, (size_t)(n * D) * sizeof *sums);
            grad(c, kr_part_of(M, 1, k, chunks), sums ? sums + k * n * D : NULL);
        }
        for (int k = 0; k < n; k++)
            if (c->out[i + k].data)
                kr_row_sums_put(c->out[i + k].data, c->accumulate >> (i + k) & 1, sums + k * D,
                                chunks, n * D, kr_my_part(D, KR_W));
    }
}

#endif
