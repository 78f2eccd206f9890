/* neg_exp.cu - y = -exp(x) and its gradient on the GPU. neg_exp.h has the equations. */
#include "ops/elements.cuh"

struct minus_exp {
    __device__ float operator()(float x, float) const { return -expf(x); }
};

struct times {
    __device__ float operator()(float dy, float y) const { return dy * y; }
};

extern "C" void kr_neg_exp_cuda(const kr_call *c) {
    kr_elements_launch<float, float>(&c->in[0], NULL, &c->out[0], KR_ACC(c, 0), minus_exp());
}

extern "C" void kr_neg_exp_grad_cuda(const kr_call *c) {
    kr_elements_launch<float, float>(&c->in[0], &c->in[1], &c->out[0], KR_ACC(c, 0), times());
}
