/* linear_tile_vec.c - matrix products of f32 weights with some dozen rows of x: the decoding of
 * many sequences at once, where reading the weights and multiplying take about as long.
 *
 * x is transposed once a call, so that lanes run along M and a tile of y, ROWS weight rows against
 * two vectors of rows of x, is summed in registers, each weight spread over a vector as it is read:
 *
 *   y^T[n, m..m+2W) += w[n, k] * x^T[k, m..m+2W)     for k = 0, 1 ... K-1
 *
 * No sum runs across lanes, the weights lie as they come, each line of them is fetched while the
 * rows before are used. linear.h has the equations; other numbers of rows go to linear_vec.c. */
#include "ops/linear/linear.h"
#include "ops/threads.h"
#include "vec/vec.h"

/* ROWS: weight rows of a tile, as many as leave registers for x. LINE: floats of a cache line. */
enum { ROWS = KR_W == 16 ? 12 : 6, REST = 3, VECTORS = 2, LINE = 16 };

/* Rows of x, filled up to whole vectors. */
static int64_t padded(int64_t M) { return (M + KR_W - 1) / KR_W * KR_W; }

/* xt [K, P] = the transpose of x [M, K] for k in `part`, zeros beyond M: a line of each row at
 * once, so that what is written stays in the nearest cache. */
static void transpose(const kr_tensor *x, float *xt, kr_part part) {
    int64_t M = x->shape[0], P = padded(M);
    for (int64_t first = part.begin; first < part.end; first += LINE) {
        int64_t end = first + LINE < part.end ? first + LINE : part.end;
        for (int64_t m = 0; m < P; m++) {
            const float *row = (const float *)x->data + m * x->stride[0];
            for (int64_t k = first; k < end; k++) xt[k * P + m] = m < M ? row[k] : 0;
        }
    }
}

/* y (+)= tile [rows, VECTORS * W] + bias, transposed back. */
KR_VINLINE void put_tile(const kr_call *c, const float *tile, int64_t n, int64_t m, int rows,
                         int64_t columns) {
    const kr_tensor *y = &c->out[0];
    const float *bias = c->in[2].data;
    for (int64_t i = 0; i < columns; i++) {
        float *to = (float *)y->data + (m + i) * y->stride[0] + n;
        for (int r = 0; r < rows; r++) {
            float value = tile[r * VECTORS * KR_W + i] + (bias ? bias[n + r] : 0);
            to[r] = c->accumulate & 1 ? to[r] + value : value;
        }
    }
}

/* Weight rows [n, n + rows), a multiple of three, against rows [m, m + vectors * W) of x. `rows`
 * and `vectors` are constants where this is inlined. `fetch`: the rows behind those come next. */
KR_VINLINE void one_tile(const kr_call *c, const float *xt, int64_t n, int64_t m, int rows,
                         int vectors, bool fetch) {
    const kr_tensor *w = kr_linear_weight(c, 3);
    int64_t K = w->shape[1], step = w->stride[0], M = c->in[0].shape[0], P = padded(M);
    const float *first = (const float *)w->data + n * step, *threes[ROWS / 3];
    kr_vf sum[ROWS][VECTORS];
    _Alignas(64) float tile[ROWS * VECTORS * KR_W];
    for (int r = 0; r < rows; r++) {
        if (r % 3 == 0) threes[r / 3] = first + r * step;
        for (int v = 0; v < vectors; v++) sum[r][v] = kr_vzero();
    }
    for (int64_t at = 0; at < K; at += LINE) {
        int64_t end = at + LINE < K ? at + LINE : K;
        for (int r = 0; fetch && r < rows; r++)
            __builtin_prefetch(first + (rows + r) * step + at, 0, 2);
        for (int64_t k = at; k < end; k++) {
            kr_vf x[VECTORS];
            for (int v = 0; v < vectors; v++) x[v] = kr_vload(xt + k * P + m + v * KR_W);
            for (int r = 0; r < rows; r++) {
                kr_vf weight = kr_vset(threes[r / 3][k + r % 3 * step]);
                for (int v = 0; v < vectors; v++) sum[r][v] = kr_vfma(weight, x[v], sum[r][v]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) kr_vstore(tile + (r * VECTORS + v) * KR_W, sum[r][v]);
    put_tile(c, tile, n, m, rows, M - m < vectors * KR_W ? M - m : vectors * KR_W);
}

/* Weight rows [n, n + rows) against all of x: later tiles find the weights in cache. */
KR_VINLINE void all_tiles(const kr_call *c, const float *xt, int64_t n, int rows) {
    int64_t P = padded(c->in[0].shape[0]);
    for (int64_t m = 0; m < P; m += VECTORS * KR_W)
        if (P - m > KR_W)
            one_tile(c, xt, n, m, rows, VECTORS, m == 0);
        else
            one_tile(c, xt, n, m, rows, 1, m == 0);
}

static void some_rows(const kr_call *c, const float *xt, kr_part part) {
    int64_t n = part.begin;
    for (; n + ROWS <= part.end; n += ROWS) all_tiles(c, xt, n, ROWS);
    for (; n + REST <= part.end; n += REST) all_tiles(c, xt, n, REST);
    for (; n < part.end; n++) all_tiles(c, xt, n, 1);
}

/* Does the product if it is one for tiles: few enough rows of x, and at most a sixth of the lanes
 * filled up. */
bool KR_FN(kr_linear_tile)(const kr_call *c) {
    const kr_tensor *w = kr_linear_weight(c, 3);
    int64_t M = c->in[0].shape[0], K = w->shape[1], N = w->shape[0];
    float *xt = c->scratch;
    if (w->dtype != KR_F32 || M < 2 * KR_W / 3 || M > KR_LINEAR_FEW) return false;
    if (padded(M) * 5 > M * 6) return false;
#pragma omp parallel num_threads(c->threads)
    {
        transpose(&c->in[0], xt, kr_my_part(K, LINE));
#pragma omp barrier
        some_rows(c, xt, kr_my_part(N, REST));
    }
    return true;
}
