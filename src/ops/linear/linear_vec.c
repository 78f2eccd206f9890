/* linear_vec.c - matrix products of few rows, where reading the weights is most of the cost.
 *
 * Every weight is read once. Each thread owns a range of weight rows and walks it in 4 places at
 * once, far apart, so that each place is one long stream to the memory: in one run on a Zen 4 that
 * read about twice as fast as 4 neighbouring rows side by side. Lanes run along K; a block is 4
 * weight rows against some rows of x, all its sums in registers. More than a block of x takes the
 * same weights from cache again, and meanwhile the next ones are fetched. linear.h has the
 * equations; whole vectors of rows go to linear_tile_vec.c, more rows than KR_LINEAR_FEW to
 * linear_many.c. */
#include "ops/linear/linear.h"

#include "ops/vec_row_sums.h"

/* COLUMNS: rows of x in a block, as many as there are registers for. GROUP: vectors of columns
 * whose sums over rows are made at once. */
enum { ROWS = 4, COLUMNS = KR_W == 16 ? 6 : 3, GROUP = 64 / KR_W };

/* A few rows, and sums long enough that adding up the lanes at the end does not matter. */
static bool few(const kr_call *c) {
    enum { SHORT = 128, SHORT_FEW = 2 };
    return c->in[0].shape[0] <= (c->in[0].shape[1] < SHORT ? SHORT_FEW : KR_LINEAR_FEW);
}

KR_VINLINE int64_t element_size(kr_dtype type) { return type == KR_F32 ? 4 : 2; }

KR_VINLINE const char *weight_row(const kr_tensor *w, int64_t n, kr_dtype type) {
    return (const char *)w->data + n * w->stride[0] * element_size(type);
}

/* Elements [at, at + n) of a row, widened. */
KR_VINLINE kr_vf load_weights(const char *row, int64_t at, int64_t n, kr_dtype type) {
    const void *p = row + at * element_size(type);
    if (type == KR_F32) return kr_vload_n(p, n);
    return type == KR_BF16 ? kr_vload_bf16_n(p, n) : kr_vload_f16_n(p, n);
}

static void widen(float *to, const uint16_t *from, kr_dtype type, int64_t n) {
    for (int64_t i = 0; i < n; i += KR_W) {
        kr_vf v =
            type == KR_BF16 ? kr_vload_bf16_n(from + i, n - i) : kr_vload_f16_n(from + i, n - i);
        kr_vstore_n(to + i, n - i, v);
    }
}

/* y[m, n] (+)= value + bias[n] */
KR_VINLINE void put(const kr_call *c, int64_t m, int64_t n, float value) {
    const float *bias = c->in[2].data;
    float *y = (float *)c->out[0].data + m * c->out[0].stride[0] + n;
    if (bias) value += bias[n];
    *y = c->accumulate & 1 ? *y + value : value;
}

/* Weight rows n, n + step, n + 2 step ... `count` of them. */
typedef struct group {
    int64_t n, step;
    int count;
} group;

/* y of `columns` rows of x from m on and a group's weight rows; `fetch`: the rows behind those come
 * next. All but m and the group's n and step are constants where this is inlined. */
KR_VINLINE void block(const kr_call *c, group g, int64_t m, int columns, kr_dtype type,
                      bool fetch) {
    const kr_tensor *x = &c->in[0], *w = kr_linear_weight(c, 3);
    const float *xs[COLUMNS];
    const char *ws[ROWS];
    int64_t K = x->shape[1], k = 0, next = w->stride[0] * element_size(type);
    kr_vf sum[ROWS][COLUMNS];
    for (int i = 0; i < columns; i++) xs[i] = (const float *)x->data + (m + i) * x->stride[0];
    for (int r = 0; r < g.count; r++) {
        ws[r] = weight_row(w, g.n + r * g.step, type);
        for (int i = 0; i < columns; i++) sum[r][i] = kr_vzero();
    }
    for (; k + KR_W <= K; k += KR_W) {
        kr_vf xk[COLUMNS];
        for (int i = 0; i < columns; i++) xk[i] = kr_vload(xs[i] + k);
        for (int r = 0; r < g.count; r++) {
            if (fetch) __builtin_prefetch(ws[r] + next + k * element_size(type), 0, 2);
            kr_vf v = load_weights(ws[r], k, KR_W, type);
            for (int i = 0; i < columns; i++) sum[r][i] = kr_vfma(v, xk[i], sum[r][i]);
        }
    }
    for (int r = 0; k < K && r < g.count; r++) {
        kr_vf v = load_weights(ws[r], k, K - k, type);
        for (int i = 0; i < columns; i++)
            sum[r][i] = kr_vfma(v, kr_vload_n(xs[i] + k, K - k), sum[r][i]);
    }
    for (int r = 0; r < g.count; r++)
        for (int i = 0; i < columns; i++) put(c, m + i, g.n + r * g.step, kr_vsum(sum[r][i]));
}

/* The group against all rows of x, in blocks as equal as can be. */
KR_VINLINE void all_blocks(const kr_call *c, group g, kr_dtype type) {
    int64_t M = c->in[0].shape[0], blocks = (M + COLUMNS - 1) / COLUMNS;
    for (int64_t b = 0; b < blocks; b++) {
        int64_t m = M * b / blocks, columns = M * (b + 1) / blocks - m;
        bool fetch = M > 2 && b == (blocks > 1); /* while there is something to do meanwhile */
        switch (columns) {
        case 1: block(c, g, m, 1, type, fetch); break;
        case 2: block(c, g, m, 2, type, fetch); break;
        case 3: block(c, g, m, 3, type, fetch); break;
        case 4: block(c, g, m, COLUMNS < 4 ? COLUMNS : 4, type, fetch); break;
        case 5: block(c, g, m, COLUMNS < 5 ? COLUMNS : 5, type, fetch); break;
        default: block(c, g, m, COLUMNS, type, fetch); break;
        }
    }
}

KR_VINLINE void few_rows(const kr_call *c, kr_dtype type) {
    int64_t N = c->in[1].shape[0];
    int parts = c->threads;
#pragma omp parallel for schedule(static, 1) num_threads(parts)
    for (int part = 0; part < parts; part++) {
        int64_t n = N * part / parts, end = N * (part + 1) / parts;
        int64_t step = (end - n) / ROWS, last = n + step;
        for (; n < last; n++) all_blocks(c, (group){n, step, ROWS}, type);
        for (n += step * (ROWS - 1); n < end; n++) all_blocks(c, (group){n, 0, 1}, type);
    }
}

bool KR_FN(kr_linear_tile)(const kr_call *c);

void KR_FN(kr_linear)(const kr_call *c) {
    kr_dtype type = kr_linear_weight(c, 3)->dtype;
    if (KR_FN(kr_linear_tile)(c)) return;
    if (!few(c))
        kr_linear_many(c, widen);
    else if (type == KR_BF16)
        few_rows(c, KR_BF16);
    else if (type == KR_F16)
        few_rows(c, KR_F16);
    else
        few_rows(c, KR_F32);
}

void KR_FN(kr_linear_dx)(const kr_call *c) { kr_linear_dx_many(c, widen); }

/* Adds rows of dy to sums [N]. */
static void add_rows(const kr_call *c, kr_part rows, float *sums) {
    const kr_tensor *dy = &c->in[0];
    for (int64_t m = rows.begin; m < rows.end; m++) {
        const float *row = (const float *)dy->data + m * dy->stride[0];
        for (int64_t n = 0, N = dy->shape[1]; n < N; n += KR_W)
            kr_vstore_n(sums + n, N - n, kr_vload_n(sums + n, N - n) + kr_vload_n(row + n, N - n));
    }
}

void KR_FN(kr_linear_dw)(const kr_call *c) {
    kr_linear_dw_many(c);
    if (c->out[1].data) kr_row_sums_run(c, 1, 1, c->in[0].shape[0], c->in[0].shape[1], 4, add_rows);
}
