/* reverse_rows_vec.c - sequences turned round, row by row; reverse_rows.h has the contract. */
#include "ops/reverse_rows/reverse_rows.h"

#include "ops/threads.h"
#include "vec/vec.h"

static void copy(const float *from, float *to, int64_t D, bool add) {
    if (!add) memcpy(to, from, (size_t)D * sizeof *to);
    for (int64_t d = 0; add && d < D; d += KR_W)
        kr_vstore_n(to + d, D - d, kr_vload_n(to + d, D - d) + kr_vload_n(from + d, D - d));
}

void KR_FN(kr_reverse_rows)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0], *seqs = &c->in[1];
    const int64_t *cut = seqs->data;
    int64_t M = x->shape[0], D = x->shape[1];
    int threads = kr_threads_for(c, M * D * 8);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        kr_part rows = kr_my_part(M, 1);
        for (int64_t s = 0; s < seqs->shape[0]; s++) {
            int64_t first = cut[3 * s], end = first + cut[3 * s + 1];
            int64_t m = first > rows.begin ? first : rows.begin;
            for (; m < end && m < rows.end; m++)
                copy((const float *)x->data + (first + end - 1 - m) * x->stride[0],
                     (float *)y->data + m * y->stride[0], D, c->accumulate & 1);
        }
    }
}
