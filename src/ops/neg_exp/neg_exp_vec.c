/* neg_exp_vec.c - the negative exponential over vectors. neg_exp.h has the contract. */
#include "ops/neg_exp/neg_exp.h"

#include "ops/rows.h"
#include "ops/threads.h"
#include "vec/vec_math.h"

/* y[0..n) = or += -exp(x) */
static void forward(const float *x, float *y, int64_t n, bool add) {
    for (int64_t i = 0; i < n; i += KR_W) {
        kr_vf v = -kr_vexp(kr_vload_n(x + i, n - i));
        kr_vstore_n(y + i, n - i, add ? v + kr_vload_n(y + i, n - i) : v);
    }
}

/* dx[0..n) = or += dy * y */
static void backward(const float *dy, const float *y, float *dx, int64_t n, bool add) {
    for (int64_t i = 0; i < n; i += KR_W) {
        kr_vf v = kr_vload_n(dy + i, n - i) * kr_vload_n(y + i, n - i);
        kr_vstore_n(dx + i, n - i, add ? v + kr_vload_n(dx + i, n - i) : v);
    }
}

void KR_FN(kr_neg_exp)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    kr_rows rows = kr_rows_of(x, y, y);
    int threads = kr_threads_for(c, rows.count * rows.width * 8);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        kr_part p = kr_my_part(rows.width, KR_W);
        for (int64_t m = 0; m < rows.count; m++)
            forward((const float *)x->data + m * x->stride[0] + p.begin,
                    (float *)y->data + m * y->stride[0] + p.begin, p.end - p.begin,
                    c->accumulate & 1);
    }
}

void KR_FN(kr_neg_exp_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *y = &c->in[1], *dx = &c->out[0];
    kr_rows rows = kr_rows_of(dy, y, dx);
    int threads = kr_threads_for(c, rows.count * rows.width * 12);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        kr_part p = kr_my_part(rows.width, KR_W);
        for (int64_t m = 0; m < rows.count; m++)
            backward((const float *)dy->data + m * dy->stride[0] + p.begin,
                     (const float *)y->data + m * y->stride[0] + p.begin,
                     (float *)dx->data + m * dx->stride[0] + p.begin, p.end - p.begin,
                     c->accumulate & 1);
    }
}
