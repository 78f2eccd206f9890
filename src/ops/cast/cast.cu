/* cast.cu - numbers rounded to bf16 on the GPU. cast.h has the contract. */
#include "ops/elements.cuh"

struct same {
    __device__ float operator()(float a, float) const { return a; }
};

extern "C" void kr_cast_cuda(const kr_call *c) {
    kr_elements_launch<float, bf16>(&c->in[0], NULL, &c->out[0], KR_ACC(c, 0), same());
}
