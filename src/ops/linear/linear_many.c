/* linear_many.c - matrix products of many rows, by the library behind cpu_gemm.h.
 *
 * Half weights are widened a block of rows at a time, small enough to stay in cache until the
 * product has used it. linear.h has the equations. */
#include "device/cpu/cpu_gemm.h"
#include "ops/linear/linear.h"

enum { BLOCK_ELEMENTS = 1 << 19, BLOCK_UNIT = 48 };

static bool is_half(const kr_tensor *w) { return w->dtype == KR_BF16 || w->dtype == KR_F16; }

/* Rows of `weight` widened at once. */
static int64_t block_rows(const kr_tensor *weight) {
    int64_t N = weight->shape[0], K = weight->shape[1] > 0 ? weight->shape[1] : 1;
    int64_t rows = BLOCK_ELEMENTS / K / BLOCK_UNIT * BLOCK_UNIT;
    if (rows < BLOCK_UNIT) rows = BLOCK_UNIT;
    return rows < N ? rows : N;
}

size_t kr_linear_many_scratch(const kr_tensor *weight) {
    if (!is_half(weight)) return 0;
    return (size_t)(block_rows(weight) * weight->shape[1]) * sizeof(float);
}

/* Elements from row to row. A single row may come with any stride; the library wants at least the
 * width. */
static int64_t leading(const kr_tensor *t) {
    return t->stride[0] > t->shape[1] ? t->stride[0] : t->shape[1] > 1 ? t->shape[1] : 1;
}

/* Rows [first, first + count) of a half weight as f32 in `to`, contiguous. */
static void widen_rows(const kr_call *c, const kr_tensor *w, kr_widen *widen, int64_t first,
                       int64_t count) {
    float *to = c->scratch;
    int64_t K = w->shape[1];
#pragma omp parallel for schedule(static) num_threads(c->threads)
    for (int64_t i = 0; i < count; i++)
        widen(to + i * K, (const uint16_t *)w->data + (first + i) * w->stride[0], w->dtype, K);
}

static void add_bias(const kr_call *c) {
    const kr_tensor *y = &c->out[0];
    const float *bias = c->in[2].data;
    if (!bias) return;
#pragma omp parallel for schedule(static) num_threads(c->threads)
    for (int64_t m = 0; m < y->shape[0]; m++) {
        float *ym = (float *)y->data + m * y->stride[0];
        for (int64_t n = 0; n < y->shape[1]; n++) ym[n] += bias[n];
    }
}

void kr_linear_many(const kr_call *c, kr_widen *widen) {
    const kr_tensor *x = &c->in[0], *w = kr_linear_weight(c, 3), *y = &c->out[0];
    int64_t N = w->shape[0], K = w->shape[1];
    kr_gemm g = {.b_transposed = true,
                 .accumulate = c->accumulate & 1,
                 .m = x->shape[0],
                 .n = N,
                 .k = K,
                 .a = x->data,
                 .lda = leading(x),
                 .b = w->data,
                 .ldb = leading(w),
                 .c = y->data,
                 .ldc = leading(y)};
    if (!is_half(w)) kr_gemm_run(&g, c->threads);
    int64_t rows = is_half(w) ? block_rows(w) : N;
    for (int64_t first = 0; is_half(w) && first < N; first += rows) {
        int64_t count = N - first < rows ? N - first : rows;
        widen_rows(c, w, widen, first, count);
        g.n = count;
        g.b = c->scratch;
        g.ldb = K > 1 ? K : 1;
        g.c = (float *)y->data + first;
        kr_gemm_run(&g, c->threads);
    }
    add_bias(c);
}

void kr_linear_dx_many(const kr_call *c, kr_widen *widen) {
    const kr_tensor *dy = &c->in[0], *w = kr_linear_weight(c, 2), *dx = &c->out[0];
    int64_t N = w->shape[0], K = w->shape[1];
    kr_gemm g = {.accumulate = c->accumulate & 1,
                 .m = dy->shape[0],
                 .n = K,
                 .k = N,
                 .a = dy->data,
                 .lda = leading(dy),
                 .b = w->data,
                 .ldb = leading(w),
                 .c = dx->data,
                 .ldc = leading(dx)};
    if (!is_half(w)) kr_gemm_run(&g, c->threads);
    int64_t rows = is_half(w) ? block_rows(w) : N;
    for (int64_t first = 0; is_half(w) && first < N; first += rows) {
        g.k = N - first < rows ? N - first : rows;
        widen_rows(c, w, widen, first, g.k);
        g.a = (const float *)dy->data + first;
        g.b = c->scratch;
        g.ldb = K > 1 ? K : 1;
        kr_gemm_run(&g, c->threads);
        g.accumulate = true;
    }
}

/* dbias: columns in groups that fit in registers, rows in order, sums in double. */
static void bias_gradient(const kr_call *c) {
    enum { GROUP = 16 };
    const kr_tensor *dy = &c->in[0];
    float *dbias = c->out[1].data;
    int64_t N = dy->shape[1];
    if (!dbias) return;
#pragma omp parallel for schedule(static) num_threads(c->threads)
    for (int64_t first = 0; first < N; first += GROUP) {
        int64_t count = N - first < GROUP ? N - first : GROUP;
        double sum[GROUP] = {0};
        for (int64_t m = 0; m < dy->shape[0]; m++) {
            const float *row = (const float *)dy->data + m * dy->stride[0] + first;
            for (int64_t i = 0; i < count; i++) sum[i] += (double)row[i];
        }
        for (int64_t i = 0; i < count; i++) {
            float *to = &dbias[first + i];
            *to = (float)(c->accumulate & 2 ? (double)*to + sum[i] : sum[i]);
        }
    }
}

void kr_linear_dw_many(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *x = &c->in[1], *dw = &c->out[0];
    kr_gemm g = {.a_transposed = true,
                 .accumulate = c->accumulate & 1,
                 .m = dy->shape[1],
                 .n = x->shape[1],
                 .k = x->shape[0],
                 .a = dy->data,
                 .lda = leading(dy),
                 .b = x->data,
                 .ldb = leading(x),
                 .c = dw->data,
                 .ldc = leading(dw)};
    if (dw->data) kr_gemm_run(&g, c->threads);
    bias_gradient(c);
}
