/* discretise_dense.cu - the discretisation of a whole matrix on the GPU; discretise_dense.h has the
 * contract, discretise_dense_ref.c the gradient and its names. In double, as the reference.
 *
 * A block takes channels in turn, with W = (I - g A)^-1 in its shared memory, or in scratch where
 * that has no room. Rows are padded to an odd length, so that neither rows nor columns meet in a
 * bank. Backward each block leaves the sums over its own channels, which are added in order. */
#include "device/cuda/cplx.cuh"
#include "ops/discretise/discretise_rows.cuh"
#include "ops/discretise_dense/discretise_dense.h"

namespace {

enum { THREADS = 256, WARPS = THREADS / 32 };

struct system_of {
    const float *dt, *A, *B, *ddecay, *db; /* ddecay, db: NULL where absent */
    int64_t A_row, ddecay_row, db_row, H, N, ld;
    double length;
    double *scratch; /* NULL: matrices lie in shared memory */
    int64_t room;    /* of a block, in it */
};

/* What a block has: matrices [N,ld], vectors [N]. */
struct block {
    int64_t N, ld;
    double *W, *T, *v, *db, *column; /* T: backward only */
    int64_t *swaps;
};

__device__ block open(const system_of &g, double *shared, bool backward) {
    int64_t size = g.N * g.ld;
    double *at = g.scratch ? g.scratch + blockIdx.x * g.room : shared;
    block b;
    b.N = g.N;
    b.ld = g.ld;
    b.W = at;
    b.T = at + size;
    b.v = at + (backward ? 2 : 1) * size;
    b.db = b.v + g.N;
    b.column = b.db + g.N;
    b.swaps = (int64_t *)(b.column + g.N);
    return b;
}

/* f(i, j) for each element of a matrix: a warp a row. */
template <typename F>
__device__ void each(int64_t N, F f) {
    for (int64_t i = threadIdx.x / 32; i < N; i += WARPS)
        for (int64_t j = threadIdx.x % 32; j < N; j += 32) f(i, j);
}

/* The first row from j on with the largest element in column j; by a warp. */
__device__ int64_t pivot_of(const block &b, int64_t j) {
    double most = -1;
    int64_t best = j;
    for (int64_t i = j + threadIdx.x % 32; i < b.N; i += 32)
        if (fabs(b.W[i * b.ld + j]) > most) most = fabs(b.W[i * b.ld + j]), best = i;
    for (int d = 16; d > 0; d /= 2) {
        double other = __shfl_xor_sync(0xffffffffu, most, d);
        int64_t row = __shfl_xor_sync(0xffffffffu, best, d);
        if (other > most || (other == most && row < best)) most = other, best = row;
    }
    return best;
}

/* W becomes its inverse, by elimination with pivots, in place; a singular one nothing finite. */
__device__ void invert(const block &b) {
    const int64_t N = b.N, ld = b.ld;
    for (int64_t j = 0; j < N; j++) {
        if (threadIdx.x < 32) {
            int64_t best = pivot_of(b, j);
            if (threadIdx.x == 0) b.swaps[j] = best;
        }
        __syncthreads();
        const int64_t best = b.swaps[j];
        const double pivot = 1 / b.W[best * ld + j];
        __syncthreads();
        for (int64_t k = threadIdx.x; k < N; k += THREADS) {
            double from = b.W[best * ld + k];
            b.W[best * ld + k] = b.W[j * ld + k];
            b.W[j * ld + k] = (k == j ? 1 : from) * pivot;
        }
        __syncthreads();
        for (int64_t i = threadIdx.x; i < N; i += THREADS) b.column[i] = b.W[i * ld + j];
        __syncthreads();
        each(N, [&](int64_t i, int64_t k) {
            if (i != j)
                b.W[i * ld + k] = (k == j ? 0 : b.W[i * ld + k]) - b.column[i] * b.W[j * ld + k];
        });
        __syncthreads();
    }
    for (int64_t i = threadIdx.x; i < N; i += THREADS) /* columns back, each row by itself */
        for (int64_t j = N - 1; j >= 0; j--) {
            double keep = b.W[i * ld + j];
            b.W[i * ld + j] = b.W[i * ld + b.swaps[j]];
            b.W[i * ld + b.swaps[j]] = keep;
        }
    __syncthreads();
}

/* W and v of channel h; returns delta. */
__device__ double make(const system_of &g, const block &b, int64_t h) {
    const double delta = g.length * exp((double)g.dt[h]);
    __syncthreads();
    each(b.N, [&](int64_t i, int64_t j) {
        b.W[i * b.ld + j] = (i == j) - delta / 2 * (double)g.A[i * g.A_row + j];
    });
    __syncthreads();
    invert(b);
    for (int64_t i = threadIdx.x / 32; i < b.N; i += WARPS) {
        double sum = 0;
        for (int64_t j = threadIdx.x % 32; j < b.N; j += 32)
            sum += b.W[i * b.ld + j] * (double)g.B[j];
        sum = kr_warp_sum(sum);
        if (threadIdx.x % 32 == 0) b.v[i] = sum;
    }
    __syncthreads();
    return delta;
}

typedef kr_discretise_rows rows;

__global__ void __launch_bounds__(THREADS)
    forward(const system_of g, const rows decay, const rows input) {
    extern __shared__ double memory[];
    block b = open(g, memory, false);
    for (int64_t h = blockIdx.x; h < g.H; h += gridDim.x) {
        const double delta = make(g, b, h);
        const int64_t N = b.N;
        float *to = decay.p ? decay.p + h * decay.row : NULL;
        for (int64_t n = threadIdx.x; n < N; n += THREADS) {
            if (to) kr_put(to + n, 0, decay.add);
            if (input.p) kr_put(input.p + h * input.row + n, (float)(delta * b.v[n]), input.add);
        }
        if (to)
            each(N, [&](int64_t i, int64_t j) {
                kr_put(to + (1 + i) * N + j, i == j ? -1 : 0, decay.add);
                kr_put(to + (1 + N + i) * N + j, (float)(2 * b.W[i * b.ld + j] - (i == j)),
                       decay.add);
            });
    }
}

/* ---- backward ---- */

/* F = W^T dW W^T of channel h into the sums over channels; returns the thread's part of delta's
 * gradient. */
__device__ double back(const system_of &g, const block &b, int64_t h, double delta, double *sum_A,
                       double *sum_B) {
    const int64_t N = b.N, ld = b.ld;
    const float *dAb = g.ddecay ? g.ddecay + h * g.ddecay_row + (1 + N) * N : NULL;
    double part = 0;
    for (int64_t n = threadIdx.x; n < N; n += THREADS)
        b.db[n] = g.db ? (double)g.db[h * g.db_row + n] : 0;
    __syncthreads();
    each(N, [&](int64_t i, int64_t j) {
        double sum = 0, B = delta * (double)g.B[j];
        for (int64_t k = 0; k < N; k++)
            sum += b.W[k * ld + i] * ((dAb ? 2 * (double)dAb[k * N + j] : 0) + b.db[k] * B);
        b.T[i * ld + j] = sum;
    });
    __syncthreads();
    each(N, [&](int64_t i, int64_t j) {
        double sum = 0;
        for (int64_t k = 0; k < N; k++) sum += b.T[i * ld + k] * b.W[j * ld + k];
        sum_A[i * N + j] += delta / 2 * sum;
        part += sum * (double)g.A[i * g.A_row + j] / 2;
    });
    for (int64_t n = threadIdx.x; n < N; n += THREADS) {
        double sum = 0;
        for (int64_t k = 0; k < N; k++) sum += b.W[k * ld + n] * b.db[k];
        sum_B[n] += delta * sum;
        part += b.db[n] * b.v[n];
    }
    return part;
}

/* The block's sum, in thread 0. */
__device__ double block_sum(double x) {
    __shared__ double of[WARPS];
    x = kr_warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) of[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 1; threadIdx.x == 0 && i < WARPS; i++) x += of[i];
    return x;
}

/* sums: [blocks][N N + N] of A and B. */
__global__ void __launch_bounds__(THREADS)
    backward(const system_of g, const rows dt, double *sums) {
    extern __shared__ double memory[];
    block b = open(g, memory, true);
    double *sum_A = sums + blockIdx.x * (g.N * g.N + g.N), *sum_B = sum_A + g.N * g.N;
    each(g.N, [&](int64_t i, int64_t j) { sum_A[i * g.N + j] = 0; });
    for (int64_t n = threadIdx.x; n < g.N; n += THREADS) sum_B[n] = 0;
    for (int64_t h = blockIdx.x; h < g.H; h += gridDim.x) {
        const double delta = make(g, b, h);
        double all = block_sum(back(g, b, h, delta, sum_A, sum_B));
        if (dt.p && threadIdx.x == 0) kr_put(dt.p + h, (float)(delta * all), dt.add);
    }
}

/* Number i of A and B: over the blocks. */
__global__ void gather(const double *sums, int64_t blocks, int64_t N, const rows A, const rows B) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, all = N * N + N;
    double sum = 0;
    if (i >= all) return;
    for (int64_t k = 0; k < blocks; k++) sum += sums[k * all + i];
    if (i < N * N) {
        if (A.p) kr_put(A.p + i / N * A.row + i % N, (float)sum, A.add);
    } else if (B.p) {
        kr_put(B.p + i - N * N, (float)sum, B.add);
    }
}

/* ---- calls ---- */

system_of read(const kr_call *c, bool backward) {
    int64_t one;
    system_of g = {};
    g.dt = kr_discretise_in(c, KR_DENSE_DT, &one);
    g.A = kr_discretise_in(c, KR_DENSE_A, &g.A_row);
    g.B = kr_discretise_in(c, KR_DENSE_B, &one);
    g.ddecay = kr_discretise_in(c, KR_DENSE_INS, &g.ddecay_row);
    g.db = kr_discretise_in(c, KR_DENSE_INS + 1, &g.db_row);
    g.H = c->in[KR_DENSE_DT].shape[0];
    g.N = c->in[KR_DENSE_A].shape[1];
    g.length = ((const kr_discretise_dense_attr *)c->attr)->rate;
    g.ld = kr_dense_row(g.N);
    g.room = kr_dense_work(g.N, backward);
    if (g.N > KR_DENSE_SHARED) g.scratch = (double *)c->scratch;
    return g;
}

size_t shared_bytes(const system_of &g) { return g.scratch ? 0 : (size_t)g.room * sizeof(double); }

} // namespace

extern "C" void kr_discretise_dense_cuda(const kr_call *c) {
    system_of g = read(c, false);
    size_t shared = shared_bytes(g);
    if (g.H == 0) return;
    cudaFuncSetAttribute(forward, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    forward<<<(unsigned)kr_dense_blocks(g.H, g.N), THREADS, shared, kr_cuda_stream()>>>(
        g, kr_discretise_out(c, 0), kr_discretise_out(c, 1));
}

extern "C" void kr_discretise_dense_grad_cuda(const kr_call *c) {
    system_of g = read(c, true);
    int64_t blocks = kr_dense_blocks(g.H, g.N), all = g.N * g.N + g.N;
    size_t shared = shared_bytes(g);
    double *sums = (double *)c->scratch;
    if (g.scratch) g.scratch += blocks * all;
    cudaFuncSetAttribute(backward, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (blocks > 0)
        backward<<<(unsigned)blocks, THREADS, shared, kr_cuda_stream()>>>(
            g, kr_discretise_out(c, KR_DENSE_DT), sums);
    gather<<<kr_blocks(all, THREADS), THREADS, 0, kr_cuda_stream()>>>(
        sums, blocks, g.N, kr_discretise_out(c, KR_DENSE_A), kr_discretise_out(c, KR_DENSE_B));
}
