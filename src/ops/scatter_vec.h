/* scatter_vec.h - rows added to the rows that an index names, over vectors: for the gradients of
 * embedding and gather_rows.
 *
 * Threads take columns: each adds all rows in order, so the sums are the same for any number of
 * threads, without atomics. Included by *_vec.c only. */
#ifndef KR_SCATTER_VEC_H
#define KR_SCATTER_VEC_H

#include "ops/threads.h"
#include "vec/vec.h"

typedef int64_t kr_index_fn(const void *ids, int64_t m);

/* to[ids[m], columns] += from[m, columns], for ids inside; to is cleared first unless `add`. */
KR_VINLINE void kr_scatter_columns(const kr_tensor *from, const void *ids, kr_index_fn *index,
                                   const kr_tensor *to, bool add, kr_part columns) {
    int64_t width = columns.end - columns.begin, rows = to->shape[0];
    for (int64_t i = 0; !add && i < rows; i++)
        memset((float *)to->data + i * to->stride[0] + columns.begin, 0, (size_t)width * 4);
    for (int64_t m = 0; m < from->shape[0]; m++) {
        int64_t i = index(ids, m);
        if (i < 0 || i >= rows) continue;
        float *p = (float *)to->data + i * to->stride[0] + columns.begin;
        const float *q = (const float *)from->data + m * from->stride[0] + columns.begin;
        for (int64_t d = 0; d < width; d += KR_W)
            kr_vstore_n(p + d, width - d,
                        kr_vload_n(p + d, width - d) + kr_vload_n(q + d, width - d));
    }
}

/* How many threads a call with in: dy [M,D], ids [M]   out: [rows,D] is worth. */
KR_VINLINE int kr_scatter_threads(const kr_call *c) {
    int64_t rows = 3 * c->in[0].shape[0] + (c->accumulate & 1 ? 0 : c->out[0].shape[0]);
    return kr_threads_for(c, rows * c->in[0].shape[1] * 4);
}

/* The calling thread's columns of such a call. */
KR_VINLINE void kr_scatter_part(const kr_call *c, kr_index_fn *index) {
    kr_scatter_columns(&c->in[0], c->in[1].data, index, &c->out[0], c->accumulate & 1,
                       kr_my_part(c->in[0].shape[1], 64));
}

#endif
