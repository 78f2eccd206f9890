/* elementwise.cu - functions over every element on the GPU. elementwise.h has the contract. */
#include "ops/elements.cuh"
#include "ops/elementwise/elementwise.h"

/* ---- the functions and their derivatives ---- */

struct kr_identity {
    static __device__ float f(float x) { return x; }
    static __device__ float slope(float) { return 1; }
};

struct kr_exp {
    static __device__ float f(float x) { return expf(x); }
    static __device__ float slope(float x) { return expf(x); }
};

struct kr_sigmoid {
    static __device__ float f(float x) { return 1 / (1 + expf(-x)); }
    static __device__ float slope(float x) { return f(x) * f(-x); }
};

struct kr_tanh {
    static __device__ float f(float x) { return tanhf(x); }
    static __device__ float slope(float x) { return 4 * kr_sigmoid::slope(x + x); }
};

struct kr_relu {
    static __device__ float f(float x) { return x > 0 ? x : x == x ? 0 : x; }
    static __device__ float slope(float x) { return x > 0; }
};

struct kr_silu {
    static __device__ float f(float x) { return x * kr_sigmoid::f(x); }
    static __device__ float slope(float x) {
        return kr_sigmoid::f(x) * (1 + x * kr_sigmoid::f(-x));
    }
};

struct kr_gelu {
    static __device__ float inner(float x) { return 1.5957691f * (x + 0.044715f * x * x * x); }
    static __device__ float f(float x) { return x * kr_sigmoid::f(inner(x)); }
    static __device__ float slope(float x) {
        float s = kr_sigmoid::f(inner(x));
        return s + x * s * (1 - s) * 1.5957691f * (1 + 3 * 0.044715f * x * x);
    }
};

struct kr_gelu_erf {
    static __device__ float f(float x) { return 0.5f * x * erfcf(-0.70710678f * x); }
    static __device__ float slope(float x) {
        return 0.5f * erfcf(-0.70710678f * x) + 0.39894228f * x * expf(-0.5f * x * x);
    }
};

struct kr_softplus {
    static __device__ float f(float x) { return fmaxf(x, 0) + log1pf(expf(-fabsf(x))); }
    static __device__ float slope(float x) { return kr_sigmoid::f(x); }
};

struct kr_logsigmoid {
    static __device__ float f(float x) { return -kr_softplus::f(-x); }
    static __device__ float slope(float x) { return kr_sigmoid::f(-x); }
};

struct kr_elu1 {
    static __device__ float f(float x) { return x > 0 ? x + 1 : expf(x); }
    static __device__ float slope(float x) { return x > 0 ? 1 : expf(x); }
};

/* ---- what is done with one of them ---- */

template <typename F>
struct map_of {
    __device__ float operator()(float x, float) const { return F::f(x); }
};

template <typename F>
struct map_back {
    __device__ float operator()(float dy, float x) const { return dy * F::slope(x); }
};

template <typename F>
struct gate_of { /* also da of dy and b */
    __device__ float operator()(float a, float b) const { return a * F::f(b); }
};

/* db = or += dy a f'(b): three inputs. */
template <typename T, typename F>
static __global__ void gate_back(const T *dy, int64_t dy_row, const T *a, int64_t a_row, const T *b,
                                 int64_t b_row, T *db, int64_t db_row, int64_t count, int64_t width,
                                 bool add) {
    int64_t i = (int64_t)blockIdx.x * KR_ELEMENTS_THREADS + threadIdx.x;
    if (i >= width) return;
    for (int64_t m = blockIdx.y; m < count; m += gridDim.y)
        kr_put(db + m * db_row + i,
               kr_load(dy + m * dy_row + i) * kr_load(a + m * a_row + i) *
                   F::slope(kr_load(b + m * b_row + i)),
               add);
}

template <typename T, typename F>
static void launch_gate_back(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *a = &c->in[1], *b = &c->in[2], *db = &c->out[1];
    if (c->out[0].data) kr_elements_launch<T, T>(dy, b, &c->out[0], KR_ACC(c, 0), gate_of<F>());
    if (!db->data) return;
    kr_rows some = kr_rows_of(dy, a, b), rows = kr_rows_of(dy, db, db);
    if (some.count > rows.count) rows = some;
    if (rows.count == 0 || rows.width == 0) return;
    unsigned high = rows.count < 32768 ? (unsigned)rows.count : 32768;
    dim3 grid(kr_blocks(rows.width, KR_ELEMENTS_THREADS), high);
    gate_back<T, F><<<grid, KR_ELEMENTS_THREADS, 0, kr_cuda_stream()>>>(
        (const T *)dy->data, dy->stride[0], (const T *)a->data, a->stride[0], (const T *)b->data,
        b->stride[0], (T *)db->data, db->stride[0], rows.count, rows.width, KR_ACC(c, 1));
}

/* Calls what(type, function) with the types of this call. */
#define CASE_OF(NAME, name, WHAT)                                                                  \
    case KR_FUNCTION_##NAME:                                                                       \
        if (c->in[0].dtype == KR_BF16)                                                             \
            WHAT(bf16, kr_##name);                                                                 \
        else                                                                                       \
            WHAT(float, kr_##name);                                                                \
        break;

#define MAP(T, F) kr_elements_launch<T, T>(&c->in[0], NULL, &c->out[0], KR_ACC(c, 0), map_of<F>())
#define MAP_GRAD(T, F)                                                                             \
    kr_elements_launch<T, T>(&c->in[0], &c->in[1], &c->out[0], KR_ACC(c, 0), map_back<F>())
#define GATE(T, F)                                                                                 \
    kr_elements_launch<T, T>(&c->in[0], &c->in[1], &c->out[0], KR_ACC(c, 0), gate_of<F>())
#define GATE_GRAD(T, F) launch_gate_back<T, F>(c)

extern "C" void kr_map_cuda(const kr_call *c) {
    switch (((const kr_elementwise_attr *)c->attr)->f) {
#define KR_FUNCTION(NAME, name) CASE_OF(NAME, name, MAP)
#include "ops/elementwise/functions.def"
#undef KR_FUNCTION
    case KR_FUNCTIONS: break;
    }
}

extern "C" void kr_map_grad_cuda(const kr_call *c) {
    switch (((const kr_elementwise_attr *)c->attr)->f) {
#define KR_FUNCTION(NAME, name) CASE_OF(NAME, name, MAP_GRAD)
#include "ops/elementwise/functions.def"
#undef KR_FUNCTION
    case KR_FUNCTIONS: break;
    }
}

extern "C" void kr_gate_cuda(const kr_call *c) {
    switch (((const kr_elementwise_attr *)c->attr)->f) {
#define KR_FUNCTION(NAME, name) CASE_OF(NAME, name, GATE)
#include "ops/elementwise/functions.def"
#undef KR_FUNCTION
    case KR_FUNCTIONS: break;
    }
}

extern "C" void kr_gate_grad_cuda(const kr_call *c) {
    switch (((const kr_elementwise_attr *)c->attr)->f) {
#define KR_FUNCTION(NAME, name) CASE_OF(NAME, name, GATE_GRAD)
#include "ops/elementwise/functions.def"
#undef KR_FUNCTION
    case KR_FUNCTIONS: break;
    }
}
