/* linear.cu - matrix products of many rows on the GPU, by cuda_gemm.cu. linear.h has the equations.
 *
 * A weight of another type than x is brought into that type a block of rows at a time. Few rows are
 * linear_few.cu's. */
#include "ops/linear/linear_gpu.cuh"

/* ---- other types ----------------------------------------------------------------------------- */

template <typename F, typename T>
static __global__ void convert(const F *from, int64_t stride, T *to, int64_t count, int64_t width) {
    int64_t n = count * width, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        kr_store(to + i, kr_load(from + i / width * stride + i % width));
}

template <typename F, typename T>
static void launch_convert(const kr_tensor *from, int64_t first, int64_t count, T *to) {
    int64_t width = from->shape[1];
    if (count * width == 0) return;
    unsigned blocks = kr_blocks(count * width, 1024), most = (unsigned)kr_cuda_processors() * 8;
    if (blocks > most) blocks = most;
    convert<<<blocks, 256, 0, kr_cuda_stream()>>>((const F *)from->data + first * from->stride[0],
                                                  from->stride[0], to, count, width);
}

template <typename T>
static void convert_to(T *to, const kr_tensor *from, int64_t first, int64_t count) {
    if (from->dtype == KR_F32)
        launch_convert<float>(from, first, count, to);
    else if (from->dtype == KR_BF16)
        launch_convert<bf16>(from, first, count, to);
    else
        launch_convert<__half>(from, first, count, to);
}

void kr_linear_convert_cuda(void *to, kr_dtype type, const kr_tensor *from, int64_t first,
                            int64_t count) {
    if (type == KR_F32)
        convert_to((float *)to, from, first, count);
    else
        convert_to((bf16 *)to, from, first, count);
}

/* ---- y --------------------------------------------------------------------------------------- */

template <typename T>
static __global__ void copy_bias(const float *from, T *to, int64_t n) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) kr_store(to + i, from[i]);
}

/* The bias in the type of y and aligned, as the library takes it: itself or a copy in `room`. */
static const void *bias_like(const kr_tensor *bias, const kr_tensor *y, void *room) {
    int64_t n = y->shape[1];
    const float *from = (const float *)bias->data;
    if (!from || (y->dtype == KR_F32 && (uintptr_t)from % 16 == 0)) return from;
    if (y->dtype == KR_F32)
        copy_bias<<<kr_blocks(n, 256), 256, 0, kr_cuda_stream()>>>(from, (float *)room, n);
    else
        copy_bias<<<kr_blocks(n, 256), 256, 0, kr_cuda_stream()>>>(from, (bf16 *)room, n);
    return room;
}

static void many_rows(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *w = kr_linear_weight(c, 3), *y = &c->out[0];
    int64_t N = w->shape[0], K = w->shape[1], rows = kr_linear_cuda_rows(w, x->dtype);
    size_t unit = kr_dtype_size(y->dtype);
    const char *bias = (const char *)bias_like(&c->in[2], y, c->scratch);
    char *block = (char *)c->scratch + (c->in[2].data ? kr_linear_cuda_bias_bytes(N) : 0);
    kr_cuda_gemm g = {};
    g.b_transposed = true;
    g.accumulate = KR_ACC(c, 0);
    g.m = x->shape[0];
    g.k = K;
    g.a = x->data;
    g.lda = kr_leading(x);
    g.ldc = kr_leading(y);
    g.in = x->dtype;
    g.out = y->dtype;
    for (int64_t first = 0; first < N; first += g.n) {
        g.n = rows && N - first > rows ? rows : N - first;
        if (rows) kr_linear_convert_cuda(block, x->dtype, w, first, g.n);
        g.b = rows ? block : w->data;
        g.ldb = rows ? (K > 1 ? K : 1) : kr_leading(w);
        g.c = kr_column(y, first);
        g.bias = bias ? bias + (size_t)first * unit : NULL;
        kr_cuda_gemm_run(&g);
    }
}

/* In a chain of a step's kernels, where the library's cannot begin early. */
static bool step_rows(const kr_call *c) {
    const kr_linear_attr *attr = (const kr_linear_attr *)c->attr;
    const kr_tensor *x = &c->in[0], *w = kr_linear_weight(c, 3), *y = &c->out[0];
    enum { HEAD = 16384 }; /* a wider weight takes so long that the beginning does not matter */
    if (!attr || !attr->early || x->shape[0] > KR_LINEAR_MID_CUDA || w->shape[0] > HEAD ||
        x->dtype != KR_BF16 || w->dtype != KR_BF16)
        return false;
    kr_linear_mid l = {(const bf16 *)x->data,
                       (const bf16 *)w->data,
                       (const float *)c->in[2].data,
                       y->data,
                       x->shape[0],
                       w->shape[0],
                       w->shape[1],
                       kr_leading(x),
                       kr_leading(w),
                       kr_leading(y),
                       1,
                       y->dtype == KR_BF16,
                       (bool)KR_ACC(c, 0),
                       true};
    return kr_linear_mid_run(&l);
}

extern "C" void kr_linear_cuda(const kr_call *c) {
    if (c->in[0].shape[0] <= KR_LINEAR_FEW_CUDA)
        kr_linear_few_cuda(c);
    else if (!step_rows(c))
        many_rows(c);
}

/* ---- dx -------------------------------------------------------------------------------------- */

extern "C" void kr_linear_dx_cuda(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *w = kr_linear_weight(c, 2), *dx = &c->out[0];
    int64_t N = w->shape[0], K = w->shape[1], rows = kr_linear_cuda_rows(w, dy->dtype);
    kr_cuda_gemm g = {};
    g.accumulate = KR_ACC(c, 0);
    g.m = dy->shape[0];
    g.n = K;
    g.lda = kr_leading(dy);
    g.c = dx->data;
    g.ldc = kr_leading(dx);
    g.in = dy->dtype;
    g.out = dx->dtype;
    for (int64_t first = 0; first < N; first += g.k) {
        g.k = rows && N - first > rows ? rows : N - first;
        if (rows) kr_linear_convert_cuda(c->scratch, dy->dtype, w, first, g.k);
        g.a = kr_column(dy, first);
        g.b = rows ? c->scratch : w->data;
        g.ldb = rows ? (K > 1 ? K : 1) : kr_leading(w);
        kr_cuda_gemm_run(&g);
        g.accumulate = true;
    }
}

/* ---- dweight and dbias ----------------------------------------------------------------------- */

/* Part blockIdx.y of the rows of dy, summed in order: a warp a row at a time, then the warps. */
template <typename T>
static __global__ void __launch_bounds__(256)
    part_sums(const T *dy, int64_t stride, int64_t M, int64_t N, float *sums) {
    __shared__ float all[8][32];
    int64_t n = (int64_t)blockIdx.x * 32 + threadIdx.x % 32;
    int64_t m = M * blockIdx.y / gridDim.y + threadIdx.x / 32,
            end = M * (blockIdx.y + 1) / gridDim.y;
    float sum = 0;
    for (; n < N && m < end; m += 8) sum += kr_load(dy + m * stride + n);
    all[threadIdx.x / 32][threadIdx.x % 32] = sum;
    __syncthreads();
    if (threadIdx.x >= 32 || n >= N) return;
    for (int i = 1; i < 8; i++) sum += all[i][threadIdx.x];
    sums[(int64_t)blockIdx.y * N + n] = sum;
}

static __global__ void add_parts(const float *sums, int64_t parts, int64_t N, float *dbias,
                                 bool accumulate) {
    int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N) return;
    float sum = 0;
    for (int64_t i = 0; i < parts; i++) sum += sums[i * N + n];
    kr_put(dbias + n, sum, accumulate);
}

static void bias_gradient(const kr_call *c) {
    const kr_tensor *dy = &c->in[0];
    int64_t M = dy->shape[0], N = dy->shape[1], parts = kr_linear_cuda_parts(M);
    float *sums = (float *)c->scratch;
    dim3 grid(kr_blocks(N, 32), (unsigned)parts);
    if (N == 0) return;
    if (dy->dtype == KR_F32)
        part_sums<<<grid, 256, 0, kr_cuda_stream()>>>((const float *)dy->data, dy->stride[0], M, N,
                                                      sums);
    else
        part_sums<<<grid, 256, 0, kr_cuda_stream()>>>((const bf16 *)dy->data, dy->stride[0], M, N,
                                                      sums);
    add_parts<<<kr_blocks(N, 256), 256, 0, kr_cuda_stream()>>>(sums, parts, N,
                                                               (float *)c->out[1].data,
                                                               KR_ACC(c, 1));
}

extern "C" void kr_linear_dw_cuda(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *x = &c->in[1], *dw = &c->out[0];
    kr_cuda_gemm g = {};
    g.a_transposed = true;
    g.accumulate = KR_ACC(c, 0);
    g.m = dy->shape[1];
    g.n = x->shape[1];
    g.k = x->shape[0];
    g.a = dy->data;
    g.lda = kr_leading(dy);
    g.b = x->data;
    g.ldb = kr_leading(x);
    g.c = dw->data;
    g.ldc = kr_leading(dw);
    g.in = dy->dtype;
    g.out = KR_F32;
    if (dw->data) kr_cuda_gemm_run(&g);
    if (c->out[1].data) bias_gradient(c);
}
