/* linear_vec.c - matrix products of few rows, where reading the weights is the whole cost.
 *
 * Every weight is read once, several of its rows side by side, so that the memory works on several
 * streams. Two forms of the same product: dots   few rows of x (a decode step): lanes run along K;
 * ROWS weight rows against up to 4 rows of x tile   up to some dozens of rows of x: x is turned so
 * that lanes run along M, and each weight is broadcast More rows than that go to linear_many.c.
 * linear.h has the equations. */
#include "ops/linear/linear.h"

#include "vec/vec.h"

/* Up to DOT_M rows of x go to dots, up to KR_LINEAR_FEW to tile: where the measured times cross. */
enum { DOT_ROWS = 4, DOT_COLUMNS = 4, DOT_M = 6 };
/* A tile is TILE_ROWS weight rows against LANES rows of x; halves are widened CHUNK columns at a
 * time. */
enum { VECTORS = 2, LANES = VECTORS * KR_W, TILE_ROWS = KR_W == 16 ? 12 : 6, CHUNK = 256 };
enum { AHEAD = 512 }; /* bytes by which prefetching runs ahead in each stream */

static bool few(const kr_call *c) { return c->in[0].shape[0] <= KR_LINEAR_FEW; }

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

/* ---- dots ---- */

/* y[m .. m + columns, n .. n + rows): rows, columns and type are constants where this is inlined.
 */
KR_VINLINE void dot_block(const kr_call *c, int64_t n, int rows, int64_t m, int columns,
                          kr_dtype type) {
    const kr_tensor *x = &c->in[0], *w = &c->in[1];
    const float *xs = (const float *)x->data + m * x->stride[0];
    const char *ws = weight_row(w, n, type);
    int64_t K = x->shape[1], x_row = x->stride[0], w_row = weight_row(w, n + 1, type) - ws;
    kr_vf sum[DOT_ROWS][DOT_COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < columns; i++) sum[r][i] = kr_vzero();
    for (int64_t k = 0; k < K; k += KR_W) {
        for (int r = 0; r < rows; r++) {
            __builtin_prefetch(ws + r * w_row + k * element_size(type) + AHEAD, 0, 3);
            kr_vf v = load_weights(ws + r * w_row, k, K - k, type);
            for (int i = 0; i < columns; i++)
                sum[r][i] = kr_vfma(v, kr_vload_n(xs + i * x_row + k, K - k), sum[r][i]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < columns; i++) put(c, m + i, n + r, kr_vsum(sum[r][i]));
}

/* All rows of x against weight rows [n, n + rows): those come from memory the first time, from
 * cache after it. */
KR_VINLINE void dot_rows(const kr_call *c, int64_t n, int rows, kr_dtype type) {
    int64_t M = c->in[0].shape[0], m = 0;
    for (; m + 4 <= M; m += 4) dot_block(c, n, rows, m, 4, type);
    switch (M - m) {
    case 3: dot_block(c, n, rows, m, 3, type); break;
    case 2: dot_block(c, n, rows, m, 2, type); break;
    case 1: dot_block(c, n, rows, m, 1, type); break;
    default: break;
    }
}

KR_VINLINE void dots(const kr_call *c, kr_dtype type) {
    int64_t N = c->in[1].shape[0], groups = N / DOT_ROWS;
#pragma omp parallel for schedule(static) num_threads(c->threads)
    for (int64_t g = 0; g <= groups; g++) {
        if (g < groups) dot_rows(c, g * DOT_ROWS, DOT_ROWS, type);
        for (int64_t n = g * DOT_ROWS; g == groups && n < N; n++) dot_rows(c, n, 1, type);
    }
}

/* ---- tile ---- */

/* x turned: block b of LANES rows becomes [K][LANES], rows beyond M zero. */
static void turn(const kr_call *c, float *turned) {
    const kr_tensor *x = &c->in[0];
    int64_t M = x->shape[0], K = x->shape[1], blocks = (M + LANES - 1) / LANES;
#pragma omp parallel for schedule(static) num_threads(c->threads)
    for (int64_t k = 0; k < K; k++)
        for (int64_t m = 0; m < blocks * LANES; m++)
            turned[(m / LANES * K + k) * LANES + m % LANES] =
                m < M ? ((const float *)x->data)[m * x->stride[0] + k] : 0;
}

/* sum[r] += w[r][0..count) . turned[0..count), for `vectors` vectors of lanes; w is f32, `w_row`
 * apart. */
KR_VINLINE void tile_sums(kr_vf sum[TILE_ROWS][VECTORS], const float *w, int64_t w_row,
                          const float *turned, int64_t count, int rows, int vectors) {
    kr_vf s[TILE_ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) s[r][v] = sum[r][v];
    for (int64_t k = 0; k < count; k++) {
        kr_vf x[VECTORS];
        for (int v = 0; v < vectors; v++) x[v] = kr_vload(turned + k * LANES + v * KR_W);
        for (int r = 0; r < rows; r++) {
            kr_vf weight = kr_vset(w[r * w_row + k]);
            for (int v = 0; v < vectors; v++) s[r][v] = kr_vfma(weight, x[v], s[r][v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sum[r][v] = s[r][v];
}

/* Weight rows [n, n + rows) against lanes [m, m + vectors * KR_W) of the turned x. */
KR_VINLINE void tile(const kr_call *c, const float *turned, int64_t n, int rows, int64_t m,
                     int vectors) {
    const kr_tensor *w = &c->in[1];
    int64_t M = c->in[0].shape[0], K = w->shape[1];
    float wide[TILE_ROWS * CHUNK];
    kr_vf sum[TILE_ROWS][VECTORS];
    memset(sum, 0, sizeof sum);
    for (int64_t k = 0; k < K; k += CHUNK) {
        int64_t count = K - k < CHUNK ? K - k : CHUNK, w_row = w->stride[0];
        const float *from = (const float *)w->data + n * w_row + k;
        if (w->dtype != KR_F32) {
            for (int r = 0; r < rows; r++)
                widen(wide + r * CHUNK, (const uint16_t *)w->data + (n + r) * w->stride[0] + k,
                      w->dtype, count);
            from = wide;
            w_row = CHUNK;
        }
        tile_sums(sum, from, w_row, turned + k * LANES, count, rows, vectors);
    }
    for (int v = 0; v < vectors; v++)
        for (int i = 0; i < KR_W && m + v * KR_W + i < M; i++)
            for (int r = 0; r < rows; r++) put(c, m + v * KR_W + i, n + r, sum[r][v][i]);
}

KR_VINLINE void tile_rows(const kr_call *c, int64_t n, int rows) {
    int64_t M = c->in[0].shape[0], K = c->in[0].shape[1];
    for (int64_t m = 0; m < M; m += LANES) {
        const float *turned = (const float *)c->scratch + m * K;
        if (M - m > KR_W)
            tile(c, turned, n, rows, m, VECTORS);
        else
            tile(c, turned, n, rows, m, 1);
    }
}

static void tiles(const kr_call *c) {
    int64_t N = c->in[1].shape[0], groups = N / TILE_ROWS;
    turn(c, c->scratch);
#pragma omp parallel for schedule(static) num_threads(c->threads)
    for (int64_t g = 0; g <= groups; g++) {
        if (g < groups) tile_rows(c, g * TILE_ROWS, TILE_ROWS);
        for (int64_t n = g * TILE_ROWS; g == groups && n < N; n++) tile_rows(c, n, 1);
    }
}

void KR_FN(kr_linear)(const kr_call *c) {
    if (!few(c)) {
        kr_linear_many(c, widen);
    } else if (c->in[0].shape[0] > DOT_M) {
        tiles(c);
    } else {
        switch (c->in[1].dtype) {
        case KR_BF16: dots(c, KR_BF16); break;
        case KR_F16: dots(c, KR_F16); break;
        default: dots(c, KR_F32);
        }
    }
}

void KR_FN(kr_linear_dx)(const kr_call *c) { kr_linear_dx_many(c, widen); }

void KR_FN(kr_linear_dw)(const kr_call *c) { kr_linear_dw_many(c); }
