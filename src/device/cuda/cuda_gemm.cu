/* cuda_gemm.cu - matrix products of any size, stride and alignment: by cuBLASLt where it can, else
 * by one plain tiled kernel. cuda.h has the contract.
 *
 * The kernel: a block makes 64 x 64 of C from slices of 16 along k in shared memory, a thread 4 x 4
 * in registers, k in order. */
#include "device/cuda/kernel.cuh"

enum { TILE = 64, SLICE = 16, THREADS = 256, EACH = 4 };

/* m x k and k x n in elements: value (i, p) of A is a[i * a_row + p * a_col]. */
template <typename T, typename C>
struct product {
    const T *a, *b;
    C *c;
    const C *bias;
    int64_t m, n, k, a_row, a_col, b_row, b_col, ldc;
    bool accumulate;
};

/* The slice of A or B from (outer, p) on, as [SLICE][TILE]; the side that is contiguous in memory
 * goes along the threads. */
template <typename T>
static __device__ void fetch(float (*to)[TILE + 1], const T *from, int64_t outer, int64_t outers,
                             int64_t outer_step, int64_t p, int64_t k, int64_t p_step) {
    for (int i = threadIdx.x; i < TILE * SLICE; i += THREADS) {
        int o = p_step == 1 ? i / SLICE : i % TILE, s = p_step == 1 ? i % SLICE : i / TILE;
        bool inside = outer + o < outers && p + s < k;
        to[s][o] = inside ? kr_load(from + (outer + o) * outer_step + (p + s) * p_step) : 0;
    }
}

template <typename T, typename C>
static __global__ void __launch_bounds__(THREADS) tiled(product<T, C> g) {
    __shared__ float a[SLICE][TILE + 1], b[SLICE][TILE + 1];
    int64_t columns = (g.n + TILE - 1) / TILE;
    int64_t row = blockIdx.x / columns * TILE, column = blockIdx.x % columns * TILE;
    int x = threadIdx.x % (TILE / EACH), y = threadIdx.x / (TILE / EACH);
    float sum[EACH][EACH] = {};
    for (int64_t p = 0; p < g.k; p += SLICE) {
        fetch(a, g.a, row, g.m, g.a_row, p, g.k, g.a_col);
        fetch(b, g.b, column, g.n, g.b_col, p, g.k, g.b_row);
        __syncthreads();
#pragma unroll
        for (int s = 0; s < SLICE; s++)
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < EACH; j++)
                    sum[i][j] += a[s][y + i * (TILE / EACH)] * b[s][x + j * (TILE / EACH)];
        __syncthreads();
    }
    for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++) {
            int64_t m = row + y + i * (TILE / EACH), n = column + x + j * (TILE / EACH);
            if (m >= g.m || n >= g.n) continue;
            float add = g.bias ? kr_load(g.bias + n) : 0;
            kr_put(g.c + m * g.ldc + n, sum[i][j] + add, g.accumulate);
        }
}

template <typename T, typename C>
static void launch(const kr_cuda_gemm *g) {
    product<T, C> p = {(const T *)g->a,
                       (const T *)g->b,
                       (C *)g->c,
                       (const C *)g->bias,
                       g->m,
                       g->n,
                       g->k,
                       g->a_transposed ? 1 : g->lda,
                       g->a_transposed ? g->lda : 1,
                       g->b_transposed ? 1 : g->ldb,
                       g->b_transposed ? g->ldb : 1,
                       g->ldc,
                       g->accumulate};
    unsigned blocks = kr_blocks(g->m, TILE) * kr_blocks(g->n, TILE);
    tiled<<<blocks, THREADS, 0, kr_cuda_stream()>>>(p);
}

void kr_cuda_gemm_run(const kr_cuda_gemm *g) {
    if (g->m == 0 || g->n == 0) return;
    if (g->k > 0 && kr_cuda_blas_run(g)) return;
    if (g->in == KR_F32)
        launch<float, float>(g);
    else if (g->out == KR_F32)
        launch<bf16, float>(g);
    else
        launch<bf16, bf16>(g);
}
