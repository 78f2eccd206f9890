/* trapezoid.cu - the trapezoidal rule on the GPU, a thread a step of a head. trapezoid.h has the
 * equations, trapezoid_ref.c those of the gradient. */
#include "ops/parts.cuh"
#include "ops/trapezoid/trapezoid.h"

namespace {

enum { THREADS = 128 };

template <typename T>
struct array {
    T *p; /* NULL: absent */
    int64_t row;
    bool add;
};

template <typename T>
__device__ __forceinline__ float at(const array<T> &a, int64_t m, int64_t j) {
    return a.p ? kr_load(a.p + m * a.row + j) : 0;
}
template <typename T>
__device__ __forceinline__ void put(const array<T> &a, int64_t m, int64_t j, float v) {
    if (a.p) kr_put(a.p + m * a.row + j, v, a.add);
}

template <typename T>
struct steps {
    array<T> dt, rate, mix;
    const float *bias;
    int64_t M, H, R;
    float floor;
    bool softplus;
};

__device__ __forceinline__ float sigmoid(float v) { return 1 / (1 + expf(-v)); }
__device__ __forceinline__ float softplus(float v) { return fmaxf(v, 0) + log1pf(expf(-fabsf(v))); }

struct step {
    float delta, A, lambda, decay, delta_slope, A_slope;
};

template <typename T>
__device__ step step_of(const steps<T> &g, int64_t m, int64_t h) {
    float raw = at(g.dt, m, h) + g.bias[h], v = at(g.rate, m, h), f, slope;
    if (g.softplus) {
        f = softplus(v);
        slope = sigmoid(v);
    } else {
        f = v >= 0 ? 1 + v : 1 / (1 - v);
        slope = v >= 0 ? 1 : f * f;
    }
    step s;
    s.delta = softplus(raw);
    s.delta_slope = sigmoid(raw);
    s.A = f < g.floor ? -g.floor : -f;
    s.A_slope = f < g.floor ? 0 : -slope;
    s.lambda = sigmoid(at(g.mix, m, h));
    s.decay = expf(s.A * s.delta);
    return s;
}

template <typename T>
__global__ void forward(const steps<T> g, const array<T> delta, const array<T> log,
                        const array<T> gain) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, m = i / g.H, h = i % g.H;
    if (m >= g.M) return;
    step s = step_of(g, m, h);
    put(delta, m, h, s.delta);
    put(log, m, h, s.A * s.delta);
    for (int64_t r = 0; r < 2 * g.R; r++)
        put(gain, m, r * g.H + h, s.delta * (r < g.R ? s.lambda : (1 - s.lambda) * s.decay));
}

template <typename T>
struct results {
    array<T> ddelta, dlog, dgain, ddt, drate, dmix;
    float *raw; /* [M,H]: for the bias */
};

template <typename T>
__global__ void backward(const steps<T> g, const results<T> o) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, m = i / g.H, h = i % g.H;
    if (m >= g.M) return;
    step s = step_of(g, m, h);
    float now = 0, before = 0, part = (1 - s.lambda) * s.decay;
    for (int64_t r = 0; r < g.R; r++) {
        now += at(o.dgain, m, r * g.H + h);
        before += at(o.dgain, m, (g.R + r) * g.H + h);
    }
    float e = at(o.dlog, m, h) + before * part * s.delta;
    float draw = (at(o.ddelta, m, h) + s.A * e + s.lambda * now + part * before) * s.delta_slope;
    put(o.ddt, m, h, draw);
    put(o.drate, m, h, s.delta * e * s.A_slope);
    put(o.dmix, m, h, s.delta * (now - s.decay * before) * s.lambda * (1 - s.lambda));
    o.raw[i] = draw;
}

struct put_bias {
    float *to;
    bool add;
    __device__ void operator()(int64_t i, float v) const { kr_put(to + i, v, add); }
};

template <typename T>
array<T> array_of(const kr_tensor *t, bool add) {
    return {(T *)t->data, t->data ? t->stride[0] : 0, add};
}

template <typename T>
steps<T> steps_of(const kr_call *c, int i) {
    const kr_trapezoid_attr *a = (const kr_trapezoid_attr *)c->attr;
    const kr_tensor *in = c->in + i;
    return {array_of<T>(&in[0], false),
            array_of<T>(&in[1], false),
            array_of<T>(&in[2], false),
            (const float *)in[3].data,
            in[0].shape[0],
            in[0].shape[1],
            a->ranks,
            (float)a->floor,
            a->f == KR_RATE_SOFTPLUS};
}

template <typename T>
void run_forward(const kr_call *c) {
    steps<T> g = steps_of<T>(c, 0);
    if (g.M * g.H > 0)
        forward<T><<<kr_blocks(g.M * g.H, THREADS), THREADS, 0, kr_cuda_stream()>>>(
            g, array_of<T>(&c->out[0], false), array_of<T>(&c->out[1], false),
            array_of<T>(&c->out[2], false));
}

template <typename T>
void run_backward(const kr_call *c) {
    steps<T> g = steps_of<T>(c, 3);
    results<T> o = {array_of<T>(&c->in[0], false),
                    array_of<T>(&c->in[1], false),
                    array_of<T>(&c->in[2], false),
                    array_of<T>(&c->out[0], KR_ACC(c, 0) != 0),
                    array_of<T>(&c->out[1], KR_ACC(c, 1) != 0),
                    array_of<T>(&c->out[2], KR_ACC(c, 2) != 0),
                    (float *)c->scratch};
    put_bias bias = {(float *)c->out[3].data, KR_ACC(c, 3) != 0};
    if (g.M * g.H > 0)
        backward<T><<<kr_blocks(g.M * g.H, THREADS), THREADS, 0, kr_cuda_stream()>>>(g, o);
    if (bias.to && g.H > 0) kr_sum_parts_launch(o.raw, g.M, g.H, bias);
}

} // namespace

extern "C" void kr_trapezoid_cuda(const kr_call *c) {
    c->in[0].dtype == KR_BF16 ? run_forward<bf16>(c) : run_forward<float>(c);
}
extern "C" void kr_trapezoid_grad_cuda(const kr_call *c) {
    c->in[3].dtype == KR_BF16 ? run_backward<bf16>(c) : run_backward<float>(c);
}
