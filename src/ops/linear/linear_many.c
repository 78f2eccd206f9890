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

static size_t widened_bytes(const kr_tensor *weight) {
    if (!is_half(weight)) return 0;
    return (size_t)(block_rows(weight) * weight->shape[1]) * sizeof(float);
}

/* Whether to transpose the weight first, so that it lies as the library likes it: a product is a
 * tenth faster then, which pays for few weights beside many rows. */
static bool turns(const kr_call *c, const kr_tensor *weight) {
    enum { FEW = 1 << 17, MANY = 1024 };
    return weight->dtype == KR_F32 && kr_tensor_count(weight) <= FEW && c->in[0].shape[0] >= MANY;
}

/* to [K,N] = the transpose of an f32 weight, a line of each row of `to` at once. */
static void turn(const kr_tensor *weight, float *to) {
    enum { LINE = 16 };
    int64_t N = weight->shape[0], K = weight->shape[1];
    const float *w = weight->data;
    for (int64_t first = 0; first < N; first += LINE) {
        int64_t end = first + LINE < N ? first + LINE : N;
        for (int64_t k = 0; k < K; k++)
            for (int64_t n = first; n < end; n++) to[k * N + n] = w[n * weight->stride[0] + k];
    }
}

size_t kr_linear_many_scratch(const kr_call *c) {
    const kr_tensor *weight = kr_linear_weight(c, 3);
    if (turns(c, weight)) return (size_t)kr_tensor_count(weight) * sizeof(float);
    return widened_bytes(weight);
}

size_t kr_linear_dx_many_scratch(const kr_call *c) { return widened_bytes(kr_linear_weight(c, 2)); }

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

void kr_linear_many(const kr_call *c, kr_widen *widen) {
    const kr_tensor *x = &c->in[0], *w = kr_linear_weight(c, 3), *y = &c->out[0];
    const float *bias = c->in[2].data;
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
                 .ldc = leading(y),
                 .bias = bias};
    if (turns(c, w)) {
        turn(w, c->scratch);
        g.b_transposed = false;
        g.b = c->scratch;
        g.ldb = N;
    }
    if (!is_half(w)) kr_gemm_run(&g, c->threads);
    int64_t rows = is_half(w) ? block_rows(w) : N;
    for (int64_t first = 0; is_half(w) && first < N; first += rows) {
        int64_t count = N - first < rows ? N - first : rows;
        widen_rows(c, w, widen, first, count);
        g.n = count;
        g.b = c->scratch;
        g.ldb = K > 1 ? K : 1;
        g.bias = bias ? bias + first : NULL;
        g.c = (float *)y->data + first;
        kr_gemm_run(&g, c->threads);
    }
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
}
