/* fill_vec.c - a constant, over vectors. fill.h has the contract. */
#include "ops/fill/fill.h"

#include "ops/rows.h"
#include "ops/threads.h"
#include "vec/vec.h"

/* y[0..n) = or += value */
static void fill(float *y, float value, int64_t n, bool add) {
    for (int64_t i = 0; i < n; i += KR_W) {
        kr_vf v = kr_vset(value);
        kr_vstore_n(y + i, n - i, add ? v + kr_vload_n(y + i, n - i) : v);
    }
}

void KR_FN(kr_fill)(const kr_call *c) {
    const kr_tensor *y = &c->out[0];
    float value = (float)((const kr_fill_attr *)c->attr)->value;
    kr_rows rows = kr_rows_of(y, y, y);
    int threads = kr_threads_for(c, rows.count * rows.width * 4);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        kr_part p = kr_my_part(rows.width, KR_W);
        for (int64_t m = 0; m < rows.count; m++)
            fill((float *)y->data + m * y->stride[0] + p.begin, value, p.end - p.begin,
                 c->accumulate & 1);
    }
}
