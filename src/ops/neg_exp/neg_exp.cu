/* neg_exp.cu - y = -exp(x) and its gradient on the GPU. neg_exp.h has the equations. */
#include "device/cuda/kernel.cuh"
#include "ops/rows.h"

static __global__ void forward(const float *x, int64_t x_stride, float *y, int64_t y_stride,
                               int64_t width, bool accumulate) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < width)
        kr_put(y + blockIdx.y * y_stride + i, -expf(x[blockIdx.y * x_stride + i]), accumulate);
}

static __global__ void backward(const float *dy, int64_t dy_stride, const float *y,
                                int64_t y_stride, float *dx, int64_t dx_stride, int64_t width,
                                bool accumulate) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < width)
        kr_put(dx + blockIdx.y * dx_stride + i,
               dy[blockIdx.y * dy_stride + i] * y[blockIdx.y * y_stride + i], accumulate);
}

extern "C" void kr_neg_exp_cuda(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    kr_rows rows = kr_rows_of(x, y, y);
    if (rows.count == 0 || rows.width == 0) return;
    dim3 grid(kr_blocks(rows.width, 256), (unsigned)rows.count);
    forward<<<grid, 256, 0, kr_cuda_stream()>>>((const float *)x->data, x->stride[0],
                                                (float *)y->data, y->stride[0], rows.width,
                                                KR_ACC(c, 0));
}

extern "C" void kr_neg_exp_grad_cuda(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *y = &c->in[1], *dx = &c->out[0];
    kr_rows rows = kr_rows_of(dy, y, dx);
    if (rows.count == 0 || rows.width == 0) return;
    dim3 grid(kr_blocks(rows.width, 256), (unsigned)rows.count);
    backward<<<grid, 256, 0, kr_cuda_stream()>>>((const float *)dy->data, dy->stride[0],
                                                 (const float *)y->data, y->stride[0],
                                                 (float *)dx->data, dx->stride[0], rows.width,
                                                 KR_ACC(c, 0));
}
