/* segment_mean_vec.c - means over sequences, over vectors. segment_mean.h has the contract.
 *
 * Threads take columns: each adds the rows of a sequence in order, in blocks whose sums are added
 * afterwards, so that long sequences lose no digits. */
#include "ops/segment_mean/segment_mean.h"

#include "ops/threads.h"
#include "vec/vec.h"

enum { BLOCK = 64 };

/* The sum of n rows at x, of `left` columns. */
KR_VINLINE kr_vf sum_rows(const float *x, int64_t stride, int64_t n, int64_t left) {
    kr_vf all = kr_vset(0);
    for (int64_t i = 0; i < n; i += BLOCK) {
        kr_vf sum = kr_vset(0);
        for (int64_t k = i; k < n && k < i + BLOCK; k++) sum += kr_vload_n(x + k * stride, left);
        all += sum;
    }
    return all;
}

static void mean_columns(const kr_call *c, kr_part columns) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    const int64_t *seqs = c->in[1].data;
    for (int64_t s = 0; s < y->shape[0]; s++) {
        int64_t n = seqs[3 * s + 1];
        const float *from = (const float *)x->data + seqs[3 * s] * x->stride[0];
        for (int64_t d = columns.begin; d < columns.end; d += KR_W) {
            kr_vf sum = sum_rows(from + d, x->stride[0], n, columns.end - d);
            kr_vstore_n((float *)y->data + s * y->stride[0] + d, columns.end - d,
                        sum * kr_vset(n > 0 ? 1 / (float)n : 0));
        }
    }
}

void KR_FN(kr_segment_mean)(const kr_call *c) {
    int threads = kr_threads_for(c, kr_tensor_count(&c->in[0]) * 4);
#pragma omp parallel num_threads(threads) if (threads > 1)
    mean_columns(c, kr_my_part(c->out[0].shape[1], 64));
}

static void spread_columns(const kr_call *c, kr_part columns) {
    const kr_tensor *dy = &c->in[0], *dx = &c->out[0];
    const int64_t *seqs = c->in[1].data;
    int64_t width = columns.end - columns.begin;
    float *to = (float *)dx->data + columns.begin;
    for (int64_t m = 0; !(c->accumulate & 1) && m < dx->shape[0]; m++)
        memset(to + m * dx->stride[0], 0, (size_t)width * sizeof *to);
    for (int64_t s = 0; s < dy->shape[0]; s++) {
        const float *from = (const float *)dy->data + s * dy->stride[0] + columns.begin;
        kr_vf scale = kr_vset(1 / (float)(seqs[3 * s + 1] > 0 ? seqs[3 * s + 1] : 1));
        for (int64_t i = 0; i < seqs[3 * s + 1]; i++) {
            float *p = to + (seqs[3 * s] + i) * dx->stride[0];
            for (int64_t d = 0; d < width; d += KR_W)
                kr_vstore_n(p + d, width - d,
                            kr_vload_n(p + d, width - d) + kr_vload_n(from + d, width - d) * scale);
        }
    }
}

void KR_FN(kr_segment_mean_grad)(const kr_call *c) {
    int threads = kr_threads_for(c, kr_tensor_count(&c->out[0]) * 8);
#pragma omp parallel num_threads(threads) if (threads > 1)
    spread_columns(c, kr_my_part(c->out[0].shape[1], 64));
}
