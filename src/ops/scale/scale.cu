/* scale.cu - scaling rows and columns on the GPU. scale.h has the contract. */
#include "ops/parts.cuh"
#include "ops/scale/scale.h"

enum { THREADS = 256 };

static unsigned rows_high(int64_t rows) { return rows < 32768 ? (unsigned)rows : 32768; }

static __global__ void row_scale(const float *x, int64_t x_row, const float *e, int64_t n, float *y,
                                 int64_t y_row, int64_t rows, int64_t width, bool add) {
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (j >= width) return;
    for (int64_t i = blockIdx.y; i < rows; i += gridDim.y)
        kr_put(y + i * y_row + j, x[i * x_row + j] * e[i % n], add);
}

/* A warp has the rows k, k + n, ...: their products with dy. */
static __global__ void row_sums(const float *dy, int64_t dy_row, const float *x, int64_t x_row,
                                float *de, int64_t n, int64_t rows, int64_t width, bool add) {
    int64_t k = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    float sum = 0;
    if (k >= n) return;
    for (int64_t i = k; i < rows; i += n)
        for (int64_t j = threadIdx.x % 32; j < width; j += 32)
            sum += dy[i * dy_row + j] * x[i * x_row + j];
    sum = kr_warp_sum(sum);
    if (threadIdx.x % 32 == 0) kr_put(de + k, sum, add);
}

static void launch_row_scale(const kr_tensor *x, const kr_tensor *e, const kr_tensor *y, bool add) {
    int64_t rows = x->shape[0], width = x->shape[1];
    if (rows == 0 || width == 0) return;
    row_scale<<<dim3(kr_blocks(width, THREADS), rows_high(rows)), THREADS, 0, kr_cuda_stream()>>>(
        (const float *)x->data, x->stride[0], (const float *)e->data, e->shape[0], (float *)y->data,
        y->stride[0], rows, width, add);
}

extern "C" void kr_row_scale_cuda(const kr_call *c) {
    launch_row_scale(&c->in[0], &c->in[1], &c->out[0], KR_ACC(c, 0));
}

extern "C" void kr_row_scale_grad_cuda(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *x = &c->in[1], *e = &c->in[2];
    if (c->out[0].data) launch_row_scale(dy, e, &c->out[0], KR_ACC(c, 0));
    if (!c->out[1].data) return;
    row_sums<<<kr_blocks(e->shape[0], THREADS / 32), THREADS, 0, kr_cuda_stream()>>>(
        (const float *)dy->data, dy->stride[0], (const float *)x->data, x->stride[0],
        (float *)c->out[1].data, e->shape[0], x->shape[0], x->shape[1], KR_ACC(c, 1));
}

template <typename T>
static __global__ void skip(const T *x, int64_t x_row, const T *u, int64_t u_row, const float *w,
                            T *y, int64_t y_row, int64_t rows, int64_t width, bool add) {
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (j >= width) return;
    for (int64_t m = blockIdx.y; m < rows; m += gridDim.y)
        kr_put(y + m * y_row + j, kr_load(x + m * x_row + j) + w[j] * kr_load(u + m * u_row + j),
               add);
}

template <typename T>
static void launch_skip(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *u = &c->in[1], *w = &c->in[2], *y = &c->out[0];
    int64_t rows = x->shape[0], width = x->shape[1];
    if (rows == 0 || width == 0) return;
    skip<T><<<dim3(kr_blocks(width, THREADS), rows_high(rows)), THREADS, 0, kr_cuda_stream()>>>(
        (const T *)x->data, x->stride[0], (const T *)u->data, u->stride[0], (const float *)w->data,
        (T *)y->data, y->stride[0], rows, width, KR_ACC(c, 0));
}

extern "C" void kr_skip_cuda(const kr_call *c) {
    if (c->in[0].dtype == KR_BF16)
        launch_skip<bf16>(c);
    else
        launch_skip<float>(c);
}

/* A block takes THREADS columns of its share of the rows: their du, and a partial sum of dw. */
template <typename T>
static __global__ void skip_back(const T *dy, int64_t dy_row, const T *u, int64_t u_row,
                                 const float *w, T *du, int64_t du_row, float *parts, int64_t rows,
                                 int64_t width, int64_t share, bool add) {
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x, first = blockIdx.y * share;
    float sum = 0;
    if (j >= width) return;
    for (int64_t m = first; m < rows && m < first + share; m++) {
        float d = kr_load(dy + m * dy_row + j);
        sum += d * kr_load(u + m * u_row + j);
        if (du) kr_put(du + m * du_row + j, d * w[j], add);
    }
    parts[blockIdx.y * width + j] = sum;
}

struct put_dw {
    float *dw;
    bool add;
    __device__ void operator()(int64_t i, float sum) const { kr_put(dw + i, sum, add); }
};

template <typename T>
static void launch_skip_back(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *u = &c->in[1], *du = &c->out[0];
    int64_t rows = u->shape[0], width = u->shape[1], share = kr_skip_rows(rows);
    unsigned n = kr_blocks(rows, share);
    if (width == 0) return;
    if (rows > 0)
        skip_back<T><<<dim3(kr_blocks(width, THREADS), n), THREADS, 0, kr_cuda_stream()>>>(
            (const T *)dy->data, dy->stride[0], (const T *)u->data, u->stride[0],
            (const float *)c->in[2].data, (T *)du->data, du->data ? du->stride[0] : 0,
            (float *)c->scratch, rows, width, share, KR_ACC(c, 0));
    if (c->out[1].data)
        kr_sum_parts_launch((const float *)c->scratch, n, width,
                            put_dw{(float *)c->out[1].data, (bool)KR_ACC(c, 1)});
}

extern "C" void kr_skip_grad_cuda(const kr_call *c) {
    if (c->in[0].dtype == KR_BF16)
        launch_skip_back<bf16>(c);
    else
        launch_skip_back<float>(c);
}
