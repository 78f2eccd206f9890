/* squared_error.cu - the loss of telling numbers on the GPU. squared_error.h has the contract.
 *
 * A warp takes a row: its lanes the numbers l, l + 32, ... */
#include "device/cuda/kernel.cuh"
#include "ops/squared_error/squared_error.h"

enum { WARPS = 8 };

typedef struct errors_of {
    const float *y, *wanted, *dloss; /* dloss NULL: forward */
    float *to;                       /* loss [M], or dy [M,K] */
    int64_t y_row, wanted_row, to_row, M, K;
    bool add;
} errors_of;

static __global__ void __launch_bounds__(32 * WARPS) errors_kernel(errors_of p) {
    int64_t m = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    if (m >= p.M) return;
    const float *y = p.y + m * p.y_row, *wanted = p.wanted + m * p.wanted_row;
    float sum = 0, scale = p.dloss ? 2 * p.dloss[m] / (float)p.K : 0;
    for (int64_t k = threadIdx.x; k < p.K; k += 32) {
        float off = y[k] - wanted[k];
        if (p.dloss)
            kr_put(p.to + m * p.to_row + k, off * scale, p.add);
        else
            sum = fmaf(off, off, sum);
    }
    if (p.dloss) return;
    sum = kr_warp_sum(sum);
    if (threadIdx.x == 0) p.to[m] = sum / (float)p.K;
}

/* Output i; of the gradient the second is the first with the other sign: y and wanted change
 * places. */
static void launch(const kr_call *c, bool back, int i) {
    const kr_tensor *y = &c->in[i], *wanted = &c->in[1 - i], *to = &c->out[i];
    errors_of p = {};
    p.y = (const float *)y->data, p.y_row = y->stride[0];
    p.wanted = (const float *)wanted->data, p.wanted_row = wanted->stride[0];
    p.dloss = back ? (const float *)c->in[2].data : NULL;
    p.to = (float *)to->data, p.to_row = to->stride[0], p.add = KR_ACC(c, i);
    p.M = y->shape[0], p.K = y->shape[1];
    if (p.M == 0 || p.K == 0 || !p.to) return;
    errors_kernel<<<kr_blocks(p.M, WARPS), dim3(32, WARPS), 0, kr_cuda_stream()>>>(p);
}

extern "C" void kr_squared_error_cuda(const kr_call *c) { launch(c, false, 0); }
extern "C" void kr_squared_error_grad_cuda(const kr_call *c) {
    for (int i = 0; i < 2; i++) launch(c, true, i);
}
