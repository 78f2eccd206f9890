/* linear_cross_entropy.cu - head and loss in one on the GPU. linear_cross_entropy.h has the
 * equations.
 *
 * A chunk of rows at a time: its logits in f32, by the kernels of linear; one block a row turns
 * them into the loss, or in place into dlogits of x's type, from which linear_dx and linear_dw make
 * the gradients. dlogits of bf16 fill the first half of each row. */
#include "ops/linear/linear.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include "device/cuda/kernel.cuh"

enum { THREADS = 512, EACH = 8, HELD_THREADS = 1024, HELD_BYTES = 224 << 10 };

#define LOG2E 1.44269504f
#define LN2 0.693147181f

static __device__ __forceinline__ float exp_of(float x) { return exp2f(x * LOG2E); }

/* ---- rows ------------------------------------------------------------------------------------ */

/* EACH logits from i on; beyond the row -inf. Rows are padded to a multiple of EACH. */
static __device__ __forceinline__ void read(float *x, const float *row, int64_t i, int64_t V) {
    float4 low = {}, high = {};
    if (i < V) {
        low = *(const float4 *)(row + i);
        high = *(const float4 *)(row + i + 4);
    }
    float all[EACH] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int j = 0; j < EACH; j++) x[j] = i + j < V ? all[j] : -INFINITY;
}

static __device__ __forceinline__ void write(float *to, const float *x) {
    ((float4 *)to)[0] = make_float4(x[0], x[1], x[2], x[3]);
    ((float4 *)to)[1] = make_float4(x[4], x[5], x[6], x[7]);
}

static __device__ __forceinline__ void write(bf16 *to, const float *x) {
    __nv_bfloat162 pairs[EACH / 2];
#pragma unroll
    for (int j = 0; j < EACH / 2; j++) pairs[j] = __floats2bfloat162_rn(x[2 * j], x[2 * j + 1]);
    *(uint4 *)to = *(const uint4 *)pairs;
}

static __device__ __forceinline__ void clear(float *x) {
#pragma unroll
    for (int j = 0; j < EACH; j++) x[j] = 0;
}

/* ln(sum over V of exp(row)) in every thread, in parts: *most + ln(returned sum). held: NULL, or
 * where the row is kept. */
template <int BLOCK>
static __device__ __forceinline__ float sum_exp(const float *row, int64_t V, float *held,
                                                float *most) {
    constexpr int WARPS = BLOCK / 32;
    __shared__ float maxima[WARPS], sums[WARPS];
    float m = -INFINITY, sum = 0, x[EACH];
#pragma unroll 2
    for (int64_t i = (int64_t)threadIdx.x * EACH; i < V; i += BLOCK * EACH) {
        read(x, row, i, V);
        if (held) write(held + i, x);
        float top = m;
#pragma unroll
        for (int j = 0; j < EACH; j++) top = fmaxf(top, x[j]);
        if (top == -INFINITY) continue; /* masked logits add nothing */
        sum *= exp_of(m - top);
        m = top;
#pragma unroll
        for (int j = 0; j < EACH; j++) sum += exp_of(x[j] - m);
    }
    float top = kr_warp_max(m);
    if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = top;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, maxima[w]);
    sum = kr_warp_sum(m == -INFINITY ? 0 : sum * exp_of(m - top));
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
    if (loss) rest = logf(sum_exp<THREADS>(row, V, NULL, &most));
    if (threadIdx.x) return;
    nll[r] = loss ? rest + (most - row[target]) : 0;
    if (lse) lse[r] = rest + most;
}

struct turn_args {
    float *logits; /* [rows, stride]: dlogits of T afterwards */
    int64_t stride, V;
    const int32_t *targets;
    const float *lse, *dnll; /* lse NULL: found here */
    float *nll;              /* or NULL */
};

/* x = dlogits of those logits, from column i on. */
static __device__ __forceinline__ void differentiate(float *x, int64_t i, int32_t target, float lse,
                                                     float scale) {
#pragma unroll
    for (int j = 0; j < EACH; j++)
        x[j] = (exp_of(x[j] - lse) - (i + j == target ? 1.0f : 0.0f)) * scale;
}

/* A thread writes no farther into the row than all of the block have read: what it writes lies
 * where this or an earlier step has read. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) turn(turn_args a) {
    int64_t r = blockIdx.x;
    int32_t target = a.targets[r];
    bool loss = target >= 0 && target < a.V;
    float *row = a.logits + r * a.stride, scale = loss ? a.dnll[r] : 0, most = 0, rest = 0;
    if (a.lse)
        rest = a.lse[r];
    else if (loss)
        rest = logf(sum_exp<THREADS>(row, a.V, NULL, &most));
    if (a.nll && threadIdx.x == 0) a.nll[r] = loss ? rest + (most - row[target]) : 0;
    float x[EACH];
    for (int64_t base = 0; base < a.V; base += THREADS * EACH) {
        int64_t i = base + (int64_t)threadIdx.x * EACH;
        read(x, row, i, a.V);
        differentiate(x, i, target, rest + most, scale);
        if (!loss) clear(x);
        __syncthreads();
        if (i < a.V) write((T *)row + i, x);
    }
}

/* The same without lse, for rows that a block's shared memory holds: each is read once. */
template <typename T>
static __global__ void __launch_bounds__(HELD_THREADS) turn_held(turn_args a) {
    extern __shared__ float4 memory[];
    float *held = (float *)memory; /* [stride] */
    int64_t r = blockIdx.x;
    int32_t target = a.targets[r];
    bool loss = target >= 0 && target < a.V;
    float *row = a.logits + r * a.stride, scale = loss ? a.dnll[r] : 0, most = 0, rest = 0;
    if (loss) rest = logf(sum_exp<HELD_THREADS>(row, a.V, held, &most));
    if (a.nll && threadIdx.x == 0) a.nll[r] = loss ? rest + (most - held[target]) : 0;
    for (int64_t i = (int64_t)threadIdx.x * EACH; i < a.V; i += HELD_THREADS * EACH) {
        float x[EACH];
        clear(x);
        if (loss) read(x, held, i, a.V);
        if (loss) differentiate(x, i, target, rest + most, scale);
        write((T *)row + i, x);
    }
}

/* ---- chunks ---------------------------------------------------------------------------------- */

typedef struct chunk {
    int64_t first, rows, stride;
    float *logits;
    void *scratch; /* of the products */
} chunk;

/* Rows of the chunk out of a tensor of all rows. */
static kr_tensor rows_of(const kr_tensor *t, const chunk *k) {
    kr_tensor part = *t;
    part.shape[0] = k->rows;
    part.data = (char *)t->data + (size_t)(k->first * t->stride[0]) * kr_dtype_size(t->dtype);
    return part;
}

static kr_tensor logits_of(const chunk *k, kr_dtype type, int64_t V) {
    int64_t shape[2] = {k->rows, V};
    kr_tensor t = kr_tensor_make(k->logits, type, 2, shape);
    t.stride[0] = type == KR_F32 ? k->stride : 2 * k->stride;
    return t;
}

static chunk first_chunk(const kr_call *c) {
    int64_t R = c->in[0].shape[0], V = c->in[1].shape[0];
    chunk k = {0, kr_linear_cross_entropy_rows(R, V), kr_linear_cross_entropy_stride(V),
               (float *)c->scratch, NULL};
    size_t bytes = (size_t)(k.rows * k.stride) * sizeof(float);
    k.scratch = (char *)c->scratch + (bytes + 255) / 256 * 256;
    return k;
}

static void make_logits(const kr_call *c, const chunk *k) {
    kr_call p = {};
    p.in[0] = rows_of(&c->in[0], k);
    p.in[1] = c->in[1];
    p.in[3] = c->in[3];
    p.out[0] = logits_of(k, KR_F32, c->in[1].shape[0]);
    p.n_in = 4;
    p.n_out = 1;
    p.scratch = k->scratch;
    kr_op_linear.kernel[KR_LEVEL_CUDA](&p);
}

extern "C" void kr_linear_cross_entropy_cuda(const kr_call *c) {
    const kr_linear_cross_entropy_attr *attr = (const kr_linear_cross_entropy_attr *)c->attr;
    int64_t R = c->in[0].shape[0], V = c->in[1].shape[0];
    chunk k = first_chunk(c);
    float *nll = (float *)c->out[0].data, *lse = (float *)c->out[1].data;
    if (attr && attr->with_gradient) return;
    for (int64_t rows = k.rows; k.first < R; k.first += rows) {
        k.rows = R - k.first < rows ? R - k.first : rows;
        make_logits(c, &k);
        losses<<<(unsigned)k.rows, THREADS, 0, kr_cuda_stream()>>>(k.logits, k.stride, V,
                                                                   (const int32_t *)c->in[2].data +
                                                                       k.first,
                                                                   nll + k.first,
                                                                   lse ? lse + k.first : NULL);
    }
}

template <typename T>
static void launch_turn(const turn_args &a, int64_t rows) {
    size_t bytes = (size_t)a.stride * sizeof(float);
    bool held = !a.lse && bytes <= HELD_BYTES;
    if (held && cudaFuncSetAttribute(turn_held<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)bytes) != cudaSuccess) {
        cudaGetLastError(); /* blocks of this card have less */
        held = false;
    }
    if (held) {
        turn_held<T><<<(unsigned)rows, HELD_THREADS, bytes, kr_cuda_stream()>>>(a);
        return;
    }
    turn<T><<<(unsigned)rows, THREADS, 0, kr_cuda_stream()>>>(a);
}

static void make_dlogits(const kr_call *c, const chunk *k, kr_dtype type) {
    const float *lse = (const float *)c->in[4].data;
    float *nll = (float *)c->out[2].data;
    turn_args a = {k->logits,
                   k->stride,
                   c->in[1].shape[0],
                   (const int32_t *)c->in[2].data + k->first,
                   lse ? lse + k->first : NULL,
                   (const float *)c->in[5].data + k->first,
                   nll ? nll + k->first : NULL};
    if (type == KR_F32)
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
    kr_dtype type = c->in[0].dtype;
    chunk k = first_chunk(c);
    if (R == 0) k.rows = 0;
    if (R == 0 && c->out[1].data) {
        kr_tensor none = logits_of(&k, type, V);
        make_dweight(c, &k, &none);
    }
    for (int64_t rows = k.rows; k.first < R; k.first += rows) {
        k.rows = R - k.first < rows ? R - k.first : rows;
        kr_tensor dlogits = logits_of(&k, type, V);
        make_logits(c, &k);
        make_dlogits(c, &k, type);
        if (c->out[0].data) make_dx(c, &k, &dlogits);
        if (c->out[1].data) make_dweight(c, &k, &dlogits);
    }
}
