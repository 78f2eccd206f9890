/* ranks.cu - channels spread over ranks and gathered, on the GPU. ranks.h has the contract.
 *
 * A thread a number; the weights' gradients are summed over chunks of rows, which are added in
 * order. */
#include "ops/parts.cuh"
#include "ops/ranks/ranks.h"

namespace {

enum { THREADS = 256 };

struct sizes {
    int64_t M, K, H, R, P;
};

template <typename T>
struct rows {
    T *p;
    int64_t row;
};

/* y [M,K,R,H,P] = x w */
template <typename T>
__global__ void spread(const sizes s, const rows<T> x, const float *w, const rows<T> y, bool add) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, C = s.K * s.R * s.H * s.P;
    int64_t m = i / C, j = i % C, p = j % s.P, h = j / s.P % s.H, r = j / s.P / s.H % s.R;
    if (m >= s.M) return;
    int64_t k = j / s.P / s.H / s.R;
    float v = kr_load(x.p + m * x.row + (k * s.H + h) * s.P + p) * w[(h * s.R + r) * s.P + p];
    kr_put(y.p + m * y.row + j, v, add);
}

/* y [M,K,H,P] = sum over r of x w */
template <typename T>
__global__ void gather(const sizes s, const rows<T> x, const float *w, const rows<T> y, bool add) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, C = s.K * s.H * s.P;
    int64_t m = i / C, j = i % C, p = j % s.P, h = j / s.P % s.H, k = j / s.P / s.H;
    float sum = 0;
    if (m >= s.M) return;
    for (int64_t r = 0; r < s.R; r++)
        sum += kr_load(x.p + m * x.row + ((k * s.R + r) * s.H + h) * s.P + p) *
               w[(h * s.R + r) * s.P + p];
    kr_put(y.p + m * y.row + j, sum, add);
}

/* parts [chunks,H,R,P]: sums of few many over a chunk of rows. */
template <typename T>
__global__ void weights(const sizes s, const rows<T> few, const rows<T> many, int64_t chunk,
                        float *parts) {
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x, C = s.H * s.R * s.P;
    int64_t p = j % s.P, r = j / s.P % s.R, h = j / s.P / s.R;
    float sum = 0;
    if (j >= C) return;
    int64_t from = blockIdx.y * chunk, end = min(from + chunk, s.M);
    for (int64_t m = from; m < end; m++)
        for (int64_t k = 0; k < s.K; k++)
            sum += kr_load(few.p + m * few.row + (k * s.H + h) * s.P + p) *
                   kr_load(many.p + m * many.row + ((k * s.R + r) * s.H + h) * s.P + p);
    parts[blockIdx.y * C + j] = sum;
}

struct put_weight {
    float *to;
    bool add;
    __device__ void operator()(int64_t i, float v) const { kr_put(to + i, v, add); }
};

sizes sizes_of(const kr_tensor *few, const kr_tensor *w) {
    int64_t H = w->shape[0], P = w->shape[2];
    return {few->shape[0], few->shape[1] / (H * P), H, w->shape[1], P};
}

template <typename T>
rows<T> rows_of(const kr_tensor *t) {
    return {(T *)t->data, t->stride[0]};
}

template <typename T>
void spread_launch(const kr_call *c, const kr_tensor *few, const kr_tensor *w) {
    sizes s = sizes_of(few, w);
    int64_t count = s.M * s.K * s.R * s.H * s.P;
    if (c->out[0].data && count > 0)
        spread<T><<<kr_blocks(count, THREADS), THREADS, 0, kr_cuda_stream()>>>(
            s, rows_of<T>(few), (const float *)w->data, rows_of<T>(&c->out[0]), KR_ACC(c, 0) != 0);
}

template <typename T>
void gather_launch(const kr_call *c, const kr_tensor *many, const kr_tensor *w) {
    if (!c->out[0].data) return;
    sizes s = sizes_of(&c->out[0], w);
    int64_t count = s.M * s.K * s.H * s.P;
    if (count > 0)
        gather<T><<<kr_blocks(count, THREADS), THREADS, 0, kr_cuda_stream()>>>(
            s, rows_of<T>(many), (const float *)w->data, rows_of<T>(&c->out[0]), KR_ACC(c, 0) != 0);
}

template <typename T>
void weights_launch(const kr_call *c, const kr_tensor *few, const kr_tensor *many) {
    const kr_tensor *dw = &c->out[1];
    if (!dw->data) return;
    sizes s = sizes_of(few, dw);
    int64_t C = s.H * s.R * s.P, chunks = kr_ranks_chunks(s.M), chunk = (s.M + chunks - 1) / chunks;
    float *parts = (float *)c->scratch;
    put_weight put = {(float *)dw->data, KR_ACC(c, 1) != 0};
    dim3 grid(kr_blocks(C, THREADS), (unsigned)chunks);
    weights<T><<<grid, THREADS, 0, kr_cuda_stream()>>>(s, rows_of<T>(few), rows_of<T>(many), chunk,
                                                       parts);
    kr_sum_parts_launch(parts, chunks, C, put);
}

template <typename T>
void spread_back(const kr_call *c) {
    gather_launch<T>(c, &c->in[0], &c->in[2]);
    weights_launch<T>(c, &c->in[1], &c->in[0]);
}
template <typename T>
void gather_back(const kr_call *c) {
    spread_launch<T>(c, &c->in[0], &c->in[2]);
    weights_launch<T>(c, &c->in[0], &c->in[1]);
}

bool is_half(const kr_call *c) { return c->in[0].dtype == KR_BF16; }

} // namespace

extern "C" void kr_spread_cuda(const kr_call *c) {
    is_half(c) ? spread_launch<bf16>(c, &c->in[0], &c->in[1])
               : spread_launch<float>(c, &c->in[0], &c->in[1]);
}
extern "C" void kr_gather_cuda(const kr_call *c) {
    is_half(c) ? gather_launch<bf16>(c, &c->in[0], &c->in[1])
               : gather_launch<float>(c, &c->in[0], &c->in[1]);
}
extern "C" void kr_spread_grad_cuda(const kr_call *c) {
    is_half(c) ? spread_back<bf16>(c) : spread_back<float>(c);
}
extern "C" void kr_gather_grad_cuda(const kr_call *c) {
    is_half(c) ? gather_back<bf16>(c) : gather_back<float>(c);
}
