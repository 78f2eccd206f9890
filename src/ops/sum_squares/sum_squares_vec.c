/* sum_squares_vec.c - the squared norm over vectors, summed in double. sum_squares.h has the
 * equation. */
#include "ops/sum_squares/sum_squares.h"
#include "vec/vec.h"

typedef double vd __attribute__((vector_size(KR_W * 8)));

static double block_sum(const float *x, int64_t n) {
    vd sum = {0};
    for (int64_t i = 0; i < n; i += KR_W) {
        vd xi = __builtin_convertvector(kr_vload_n(x + i, n - i), vd);
        sum += xi * xi;
    }
    double total = 0;
    for (int lane = 0; lane < KR_W; lane++) total += sum[lane];
    return total;
}

void KR_FN(kr_sum_squares)(const kr_call *c) {
    const float *x = c->in[0].data;
    int64_t n = c->in[0].shape[0], blocks = (n + KR_SUM_BLOCK - 1) / KR_SUM_BLOCK;
    double *part = c->scratch, total = 0;
#pragma omp parallel for schedule(static) num_threads(c->threads) if (blocks > 1)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t first = b * KR_SUM_BLOCK, left = n - first;
        part[b] = block_sum(x + first, left < KR_SUM_BLOCK ? left : KR_SUM_BLOCK);
    }
    for (int64_t b = 0; b < blocks; b++) total += part[b];
    *(double *)c->out[0].data = total;
}
