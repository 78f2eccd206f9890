/* add.cu - the elementwise sum on the GPU. add.h has the contract. */
#include "ops/elements.cuh"

struct sum {
    __device__ float operator()(float a, float b) const { return a + b; }
};

extern "C" void kr_add_cuda(const kr_call *c) {
    const kr_tensor *a = &c->in[0], *b = &c->in[1], *y = &c->out[0];
    if (a->dtype == KR_BF16)
        kr_elements_launch<bf16, bf16>(a, b, y, KR_ACC(c, 0), sum());
    else
        kr_elements_launch<float, float>(a, b, y, KR_ACC(c, 0), sum());
}
