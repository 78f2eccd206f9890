/* add_vec.c - the elementwise sum over vectors. add.h has the contract. */
#include "ops/add/add.h"

#include "ops/rows.h"
#include "ops/threads.h"
#include "vec/vec.h"

/* to[0..n) = or += a + b, or a alone when b is NULL; to may be a. */
static void add(const float *a, const float *b, float *to, int64_t n, bool accumulate) {
    for (int64_t i = 0; i < n; i += KR_W) {
        kr_vf v = kr_vload_n(a + i, n - i);
        if (b) v += kr_vload_n(b + i, n - i);
        kr_vstore_n(to + i, n - i, accumulate ? v + kr_vload_n(to + i, n - i) : v);
    }
}

void KR_FN(kr_add)(const kr_call *c) {
    const kr_tensor *a = &c->in[0], *b = &c->in[1], *sum = &c->out[0];
    kr_rows rows = kr_rows_of(a, b->data ? b : a, sum);
    int threads = kr_threads_for(c, rows.count * rows.width * 12);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        kr_part p = kr_my_part(rows.width, KR_W);
        for (int64_t m = 0; m < rows.count; m++)
            add((const float *)a->data + m * a->stride[0] + p.begin,
                b->data ? (const float *)b->data + m * b->stride[0] + p.begin : NULL,
                (float *)sum->data + m * sum->stride[0] + p.begin, p.end - p.begin,
                c->accumulate & 1);
    }
}
