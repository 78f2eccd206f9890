/* linear_cross_entropy.cu - head and loss in one on the GPU. linear_cross_entropy.h has the
 * equations.
 *
 * A chunk of rows at a time: its logits by the kernels of linear; one block a row turns them into
 * the loss, or in place into dlogits, from which linear_dx and linear_dw make the gradients. The
 * gradient's logits are of x's type: beside bf16 numbers they are rounded once, as every activation
 * is, and half as many bytes pass three times through memory. A loss alone has them in f32. */
#include "ops/linear/linear.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include "device/cuda/pack.cuh"

enum { THREADS = 512, EACH = 8, AHEAD = 4, HELD_BYTES = 224 << 10 };

#define LOG2E 1.44269504f

static __device__ __forceinline__ float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* Logits as they are on the way to the softmax: -inf beyond the row. Rows are padded to a multiple
 * of EACH. */
template <typename T>
static __device__ __forceinline__ void logits_at(const kr_pack<T, EACH> &pack, int64_t i, int64_t V,
                                                 float (&x)[EACH]) {
    kr_unpack(pack, x);
    if (i + EACH <= V) return;
#pragma unroll
    for (int j = 0; j < EACH; j++) x[j] = i + j < V ? x[j] : -INFINITY;
}

/* x joins *sum, the sum of exp(x - *most) over all before. */
static __device__ __forceinline__ void join(const float (&x)[EACH], float *most, float *sum) {
    float top = *most;
#pragma unroll
    for (int j = 0; j < EACH; j++) top = fmaxf(top, x[j]);
    if (top == -INFINITY) { /* masked logits add nothing; fmaxf passes over a NaN */
#pragma unroll
        for (int j = 0; j < EACH; j++)
            if (isnan(x[j])) *sum = x[j];
        return;
    }
    float base = top * LOG2E;
    *sum *= exp2_of(*most * LOG2E - base);
    *most = top;
#pragma unroll
    for (int j = 0; j < EACH; j++) *sum += exp2_of(fmaf(x[j], LOG2E, -base));
}

/* ln(sum over V of exp(row)) in every thread, in parts: *most + ln(returned sum). held: NULL, or
 * where the row is kept. */
template <typename T>
static __device__ __forceinline__ float sum_exp(const T *row, int64_t V, T *held, float *most) {
    constexpr int WARPS = THREADS / 32, STEP = THREADS * EACH;
    __shared__ float maxima[WARPS], sums[WARPS];
    float m = -INFINITY, sum = 0, x[EACH];
    for (int64_t i = (int64_t)threadIdx.x * EACH; i < V; i += AHEAD * STEP) {
        kr_pack<T, EACH> packs[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
            if (i + a * STEP < V) packs[a] = kr_fetch<EACH>(row + i + a * STEP);
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            if (i + a * STEP >= V) break;
            if (held) *(kr_pack<T, EACH> *)(held + i + a * STEP) = packs[a];
            logits_at(packs[a], i + a * STEP, V, x);
            join(x, &m, &sum);
        }
    }
    float top = kr_warp_max(m);
    if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = top;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, maxima[w]);
    sum = kr_warp_sum(m == -INFINITY ? sum : sum * exp2_of((m - top) * LOG2E));
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < WARPS; w++) sum += sums[w];
    *most = top;
    return sum;
}

static __global__ void __launch_bounds__(THREADS)
    losses(const float *logits, int64_t stride, int64_t V, const int32_t *targets, float *nll,
           float *lse) {
    int64_t r = blockIdx.x;
    int32_t target = targets[r];
    bool loss = target >= 0 && target < V;
    const float *row = logits + r * stride;
    float most = 0, rest = 0;
    if (loss) rest = logf(sum_exp<float>(row, V, NULL, &most));
    if (threadIdx.x) return;
    nll[r] = loss ? rest + (most - row[target]) : 0;
    if (lse) lse[r] = rest + most;
}

struct turn_args {
    void *logits; /* [rows, stride] of the kernel's T: dlogits afterwards */
    int64_t stride, V;
    const int32_t *targets;
    const float *lse, *dnll; /* lse NULL: found here */
    float *nll;              /* or NULL */
};

/* dlogits from column i on, of those logits. */
static __device__ __forceinline__ void differentiate(float (&x)[EACH], int64_t i, int32_t target,
                                                     float lse, float scale) {
    float base = lse * LOG2E;
#pragma unroll
    for (int j = 0; j < EACH; j++) x[j] = exp2_of(fmaf(x[j], LOG2E, -base)) * scale;
    if (target < i || target >= i + EACH) return;
#pragma unroll
    for (int j = 0; j < EACH; j++) x[j] -= i + j == target ? scale : 0;
}

/* HELD: the row waits in shared memory between its two uses, and is read once. */
template <typename T, bool HELD>
static __global__ void __launch_bounds__(THREADS, 2) turn(turn_args a) {
    extern __shared__ uint4 memory[];
    T *row = (T *)a.logits + blockIdx.x * a.stride, *held = HELD ? (T *)memory : NULL;
    int64_t r = blockIdx.x;
    int32_t target = a.targets[r];
    bool loss = target >= 0 && target < a.V;
    float scale = loss ? a.dnll[r] : 0, most = 0, rest = 0, x[EACH];
    if (a.lse)
        rest = a.lse[r];
    else if (loss)
        rest = logf(sum_exp<T>(row, a.V, held, &most));
    if (a.nll && threadIdx.x == 0) a.nll[r] = loss ? rest + (most - kr_load(row + target)) : 0;
    __syncthreads(); /* row[target] has been read */
#pragma unroll 2
    for (int64_t i = (int64_t)threadIdx.x * EACH; i < a.V; i += THREADS * EACH) {
#pragma unroll
        for (int j = 0; j < EACH; j++) x[j] = 0;
        if (loss) {
            logits_at(kr_fetch<EACH>((HELD ? held : row) + i), i, a.V, x);
            differentiate(x, i, target, rest + most, scale);
        }
        kr_store_pack<EACH>(row + i, x);
    }
}

/* ---- chunks ---------------------------------------------------------------------------------- */

typedef struct chunk {
    int64_t first, rows, stride;
    void *logits; /* [rows, stride] of `type` */
    kr_dtype type;
    void *scratch; /* of the products */
} chunk;

/* Rows of the chunk out of a tensor of all rows. */
static kr_tensor rows_of(const kr_tensor *t, const chunk *k) {
    kr_tensor part = *t;
    part.shape[0] = k->rows;
    part.data = (char *)t->data + (size_t)(k->first * t->stride[0]) * kr_dtype_size(t->dtype);
    return part;
}

static kr_tensor logits_of(const chunk *k, int64_t V) {
    int64_t shape[2] = {k->rows, V};
    kr_tensor t = kr_tensor_make(k->logits, k->type, 2, shape);
    t.stride[0] = k->stride;
    return t;
}

static chunk first_chunk(const kr_call *c, kr_dtype type) {
    int64_t R = c->in[0].shape[0], V = c->in[1].shape[0];
    chunk k = {0,
               kr_linear_cross_entropy_rows(R, V, type),
               kr_linear_cross_entropy_stride(V),
               c->scratch,
               type,
               NULL};
    size_t bytes = (size_t)(k.rows * k.stride) * kr_dtype_size(type);
    k.scratch = (char *)c->scratch + (bytes + 255) / 256 * 256;
    return k;
}

/* In parts of at most PART rows: with more, what is read again has left the cache (measured: 721
 * instead of 660 TFLOP/s at 2,816 x 50,280 x 768). */
static void make_logits(const kr_call *c, const chunk *k) {
    enum { PART = 1408 };
    chunk part = *k;
    for (int64_t first = 0; first < k->rows; first += PART) {
        kr_call p = {};
        part.first = k->first + first;
        part.rows = k->rows - first < PART ? k->rows - first : PART;
        part.logits = (char *)k->logits + (size_t)(first * k->stride) * kr_dtype_size(k->type);
        p.in[0] = rows_of(&c->in[0], &part);
        p.in[1] = c->in[1];
        p.in[3] = c->in[3];
        p.out[0] = logits_of(&part, c->in[1].shape[0]);
        p.n_in = 4;
        p.n_out = 1;
        p.scratch = k->scratch;
        kr_op_linear.kernel[KR_LEVEL_CUDA](&p);
    }
}

extern "C" void kr_linear_cross_entropy_cuda(const kr_call *c) {
    const kr_linear_cross_entropy_attr *attr = (const kr_linear_cross_entropy_attr *)c->attr;
    int64_t R = c->in[0].shape[0], V = c->in[1].shape[0];
    chunk k = first_chunk(c, KR_F32);
    float *nll = (float *)c->out[0].data, *lse = (float *)c->out[1].data;
    if (attr && attr->with_gradient) return;
    for (int64_t rows = k.rows; k.first < R; k.first += rows) {
        k.rows = R - k.first < rows ? R - k.first : rows;
        make_logits(c, &k);
        losses<<<(unsigned)k.rows, THREADS, 0, kr_cuda_stream()>>>(
            (const float *)k.logits, k.stride, V, (const int32_t *)c->in[2].data + k.first,
            nll + k.first, lse ? lse + k.first : NULL);
    }
}

template <typename T>
static void launch_turn(const turn_args &a, int64_t rows) {
    size_t bytes = (size_t)a.stride * sizeof(T);
    bool held = !a.lse && bytes <= HELD_BYTES;
    if (held && cudaFuncSetAttribute(turn<T, true>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)bytes) != cudaSuccess) {
        cudaGetLastError(); /* blocks of this card have less */
        held = false;
    }
    if (held)
        turn<T, true><<<(unsigned)rows, THREADS, bytes, kr_cuda_stream()>>>(a);
    else
        turn<T, false><<<(unsigned)rows, THREADS, 0, kr_cuda_stream()>>>(a);
}

static void make_dlogits(const kr_call *c, const chunk *k) {
    const float *lse = (const float *)c->in[4].data;
    float *nll = (float *)c->out[2].data;
    turn_args a = {k->logits,
                   k->stride,
                   c->in[1].shape[0],
                   (const int32_t *)c->in[2].data + k->first,
                   lse ? lse + k->first : NULL,
                   (const float *)c->in[5].data + k->first,
                   nll ? nll + k->first : NULL};
    if (k->type == KR_F32)
        launch_turn<float>(a, k->rows);
    else
        launch_turn<bf16>(a, k->rows);
}

static void make_dx(const kr_call *c, const chunk *k, const kr_tensor *dlogits) {
    kr_call p = {};
    p.in[0] = *dlogits;
    p.in[1] = c->in[1];
    p.in[2] = c->in[3];
    p.out[0] = rows_of(&c->out[0], k);
    p.n_in = 3;
    p.n_out = 1;
    p.accumulate = KR_ACC(c, 0);
    p.scratch = k->scratch;
    kr_op_linear_dx.kernel[KR_LEVEL_CUDA](&p);
}

static void make_dweight(const kr_call *c, const chunk *k, const kr_tensor *dlogits) {
    kr_call p = {};
    p.in[0] = *dlogits;
    p.in[1] = rows_of(&c->in[0], k);
    p.out[0] = c->out[1];
    p.n_in = 2;
    p.n_out = 2;
    p.accumulate = KR_ACC(c, 1) || k->first > 0;
    kr_op_linear_dw.kernel[KR_LEVEL_CUDA](&p);
}

extern "C" void kr_linear_cross_entropy_grad_cuda(const kr_call *c) {
    int64_t R = c->in[0].shape[0], V = c->in[1].shape[0];
    chunk k = first_chunk(c, c->in[0].dtype);
    if (R == 0) k.rows = 0;
    if (R == 0 && c->out[1].data) {
        kr_tensor none = logits_of(&k, V);
        make_dweight(c, &k, &none);
    }
    for (int64_t rows = k.rows; k.first < R; k.first += rows) {
        k.rows = R - k.first < rows ? R - k.first : rows;
        kr_tensor dlogits = logits_of(&k, V);
        make_logits(c, &k);
        make_dlogits(c, &k);
        if (c->out[0].data) make_dx(c, &k, &dlogits);
        if (c->out[1].data) make_dweight(c, &k, &dlogits);
    }
}
