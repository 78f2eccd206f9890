/* head_divide.cu - the division of heads on the GPU. head_divide.h has the equations.
 *
 * Forward: a thread a channel. Backward: a warp a head of a row. */
#include "device/cuda/kernel.cuh"
#include "ops/head_divide/head_divide.h"

namespace {

enum { THREADS = 256, WARPS = THREADS / 32 };

/* Rows of x, s, dy and the results; y or dx, and ds (NULL: not wanted). */
template <typename T>
struct heads {
    const T *x, *s, *dy;
    T *y, *ds;
    int64_t x_row, s_row, dy_row, y_row, ds_row;
    int64_t M, H, P;
    float eps;
    bool add, add_ds;
};

template <typename T>
__global__ void forward(const heads<T> g) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, C = g.H * g.P, m = i / C;
    i %= C;
    if (m >= g.M) return;
    float by = kr_load(g.s + m * g.s_row + i / g.P) + g.eps;
    kr_put(g.y + m * g.y_row + i, kr_load(g.x + m * g.x_row + i) / by, g.add);
}

template <typename T>
__global__ void backward(const heads<T> g) {
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, m = i / g.H, h = i % g.H;
    if (m >= g.M) return;
    float by = kr_load(g.s + m * g.s_row + h) + g.eps, sum = 0;
    for (int64_t p = h * g.P + threadIdx.x % 32; p < (h + 1) * g.P; p += 32) {
        float d = kr_load(g.dy + m * g.dy_row + p);
        sum += d * kr_load(g.x + m * g.x_row + p);
        if (g.y) kr_put(g.y + m * g.y_row + p, d / by, g.add);
    }
    sum = kr_warp_sum(sum);
    if (g.ds && threadIdx.x % 32 == 0) kr_put(g.ds + m * g.ds_row + h, -(sum / by) / by, g.add_ds);
}

/* x and s are inputs `at` and `at` + 1. */
template <typename T>
heads<T> heads_of(const kr_call *c, int at) {
    const kr_tensor *x = &c->in[at], *s = &c->in[at + 1], *y = &c->out[0];
    heads<T> g = {};
    g.x = (const T *)x->data;
    g.s = (const T *)s->data;
    g.y = (T *)y->data;
    g.x_row = x->stride[0];
    g.s_row = s->stride[0];
    g.y_row = y->stride[0];
    g.M = x->shape[0];
    g.H = s->shape[1];
    g.P = x->shape[1] / g.H;
    g.eps = (float)((const kr_head_divide_attr *)c->attr)->eps;
    g.add = KR_ACC(c, 0) != 0;
    return g;
}

template <typename T>
void run_forward(const kr_call *c) {
    heads<T> g = heads_of<T>(c, 0);
    int64_t count = g.M * g.H * g.P;
    if (count > 0) forward<T><<<kr_blocks(count, THREADS), THREADS, 0, kr_cuda_stream()>>>(g);
}

template <typename T>
void run_backward(const kr_call *c) {
    heads<T> g = heads_of<T>(c, 1);
    g.dy = (const T *)c->in[0].data;
    g.dy_row = c->in[0].stride[0];
    g.ds = (T *)c->out[1].data;
    g.ds_row = c->out[1].stride[0];
    g.add_ds = KR_ACC(c, 1) != 0;
    int64_t count = g.M * g.H;
    if (count > 0) backward<T><<<kr_blocks(count, WARPS), THREADS, 0, kr_cuda_stream()>>>(g);
}

} // namespace

extern "C" void kr_head_divide_cuda(const kr_call *c) {
    if (c->in[0].dtype == KR_BF16)
        run_forward<bf16>(c);
    else
        run_forward<float>(c);
}

extern "C" void kr_head_divide_grad_cuda(const kr_call *c) {
    if (c->in[0].dtype == KR_BF16)
        run_backward<bf16>(c);
    else
        run_backward<float>(c);
}
