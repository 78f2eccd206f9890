/* retention.cu - retention's decays on the GPU. retention.h has the equation. */
#include "device/cuda/kernel.cuh"

static __global__ void decays(float *y, int64_t heads, bool add) {
    int64_t h = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (h < heads) kr_put(y + h, log1pf(-exp2f(-5 - (float)h)), add);
}

extern "C" void kr_retention_cuda(const kr_call *c) {
    int64_t heads = c->out[0].shape[0];
    decays<<<kr_blocks(heads, 128), 128, 0, kr_cuda_stream()>>>((float *)c->out[0].data, heads,
                                                                KR_ACC(c, 0) != 0);
}
