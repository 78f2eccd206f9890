/* phase.cu - angles through time on the GPU. phase.h has the equations.
 *
 * Forward: a thread an angle of a head, through its sequence (they go round the blocks of y), in
 * double: angles are whole turns apart. Backward: the same from behind leaves G in each row; then a
 * thread sums a row's. */
#include "device/cuda/kernel.cuh"
#include "ops/phase/phase.h"

namespace {

enum { THREADS = 128, HIGH = 32768 };
#define KR_PI 3.14159265358979323846

template <typename T>
struct lanes {
    const T *angle, *delta;
    int64_t angle_row, delta_row, seqs_row, S, H, M, n; /* S angles, n sequences */
    const int64_t *seqs;
    const uint8_t *reset;
};

/* A state [slots,H,S]; NULL: absent. */
struct states {
    float *p;
    int64_t slot;
};

template <typename T>
__device__ void pass(const lanes<T> &g, const int64_t *q, int64_t j, const states &from, T *phi_out,
                     int64_t row, const states &to) {
    double phi = from.p ? (double)from.p[q[2] * from.slot + j] : 0;
    for (int64_t t = q[0]; t < q[0] + q[1]; t++) {
        double turn = KR_PI * tanh((double)kr_load(g.angle + t * g.angle_row + j % g.S));
        if (g.reset && g.reset[t]) phi = 0;
        phi += turn * (double)kr_load(g.delta + t * g.delta_row + j / g.S);
        phi -= 2 * KR_PI * floor(phi / (2 * KR_PI) + 0.5);
        kr_store(phi_out + t * row + j, (float)phi);
    }
    if (to.p) to.p[q[2] * to.slot + j] = (float)phi;
}

template <typename T>
__global__ void forward(const lanes<T> g, const states from, T *phi_out, int64_t row,
                        const states to) {
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    for (int64_t s = blockIdx.y; j < g.H * g.S && s < g.n; s += gridDim.y)
        pass(g, g.seqs + s * g.seqs_row, j, from, phi_out, row, to);
}

/* G [M,H S] */
template <typename T>
__device__ void pass_back(const lanes<T> &g, const int64_t *q, int64_t j, const T *dphi,
                          int64_t row, const states &behind, float *G, const states &to) {
    float sum = behind.p ? behind.p[q[2] * behind.slot + j] : 0;
    for (int64_t t = q[0] + q[1] - 1; t >= q[0]; t--) {
        if (dphi) sum += kr_load(dphi + t * row + j);
        G[t * g.H * g.S + j] = sum;
        if (g.reset && g.reset[t]) sum = 0;
    }
    if (to.p) to.p[q[2] * to.slot + j] += sum;
}

template <typename T>
__global__ void gather_back(const lanes<T> g, const T *dphi, int64_t row, const states behind,
                            float *G, const states to) {
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    for (int64_t s = blockIdx.y; j < g.H * g.S && s < g.n; s += gridDim.y)
        pass_back(g, g.seqs + s * g.seqs_row, j, dphi, row, behind, G, to);
}

__global__ void clear(const states to, int64_t slots, int64_t width) {
    int64_t j = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    for (int64_t i = blockIdx.y; j < width && i < slots; i += gridDim.y) to.p[i * to.slot + j] = 0;
}

template <typename T>
struct result {
    T *p; /* NULL: not wanted */
    int64_t row;
    bool add;
};

/* A thread an angle, or (behind those) a head, of a row. */
template <typename T>
__global__ void rows_back(const lanes<T> g, const float *G, const result<T> dangle,
                          const result<T> ddelta) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, m = i / (g.S + g.H);
    int64_t k = i % (g.S + g.H);
    float sum = 0;
    if (m >= g.M) return;
    const T *angle = g.angle + m * g.angle_row, *delta = g.delta + m * g.delta_row;
    const float *own = G + m * g.H * g.S;
    if (k < g.S) {
        float w = tanhf(kr_load(angle + k));
        for (int64_t h = 0; h < g.H; h++) sum += own[h * g.S + k] * kr_load(delta + h);
        if (dangle.p)
            kr_put(dangle.p + m * dangle.row + k, (float)KR_PI * (1 - w * w) * sum, dangle.add);
        return;
    }
    for (int64_t s = 0; s < g.S; s++) sum += own[(k - g.S) * g.S + s] * tanhf(kr_load(angle + s));
    if (ddelta.p) kr_put(ddelta.p + m * ddelta.row + k - g.S, (float)KR_PI * sum, ddelta.add);
}

states states_of(const kr_tensor *t) { return {(float *)t->data, t->data ? t->stride[0] : 0}; }

template <typename T>
result<T> result_of(const kr_call *c, int i) {
    const kr_tensor *t = &c->out[i];
    return {(T *)t->data, t->data ? t->stride[0] : 0, KR_ACC(c, i) != 0};
}

template <typename T>
lanes<T> lanes_of(const kr_tensor *in) {
    return {(const T *)in[0].data,
            (const T *)in[1].data,
            in[0].stride[0],
            in[1].stride[0],
            in[2].stride[0],
            in[0].shape[1],
            in[1].shape[1],
            in[0].shape[0],
            in[2].shape[0],
            (const int64_t *)in[2].data,
            (const uint8_t *)in[3].data};
}

dim3 grid_of(int64_t width, int64_t high) {
    return dim3(kr_blocks(width, THREADS), (unsigned)(high < HIGH ? high : HIGH));
}

template <typename T>
void run_forward(const kr_call *c) {
    lanes<T> g = lanes_of<T>(c->in);
    states none = {NULL, 0}, to = c->n_out > 1 ? states_of(&c->out[1]) : none;
    dim3 grid = grid_of(g.H * g.S, g.n);
    if (g.n > 0)
        forward<T><<<grid, THREADS, 0, kr_cuda_stream()>>>(g, states_of(&c->in[4]),
                                                           (T *)c->out[0].data, c->out[0].stride[0],
                                                           to);
}

template <typename T>
void run_backward(const kr_call *c) {
    lanes<T> g = lanes_of<T>(c->in + 1);
    states none = {NULL, 0}, to = c->n_out > 2 ? states_of(&c->out[2]) : none;
    float *G = (float *)c->scratch;
    int64_t width = g.H * g.S, slots = c->n_out > 2 ? c->out[2].shape[0] : 0;
    dim3 grid = grid_of(width, g.n);
    if (to.p && !KR_ACC(c, 2) && slots > 0)
        clear<<<grid_of(width, slots), THREADS, 0, kr_cuda_stream()>>>(to, slots, width);
    if (g.n > 0)
        gather_back<T>
            <<<grid, THREADS, 0, kr_cuda_stream()>>>(g, (const T *)c->in[0].data,
                                                     c->in[0].data ? c->in[0].stride[0] : 0,
                                                     states_of(&c->in[6]), G, to);
    if (g.M > 0)
        rows_back<T><<<kr_blocks(g.M * (g.S + g.H), THREADS), THREADS, 0, kr_cuda_stream()>>>(
            g, G, result_of<T>(c, 0), result_of<T>(c, 1));
}

} // namespace

extern "C" void kr_phase_cuda(const kr_call *c) {
    c->in[0].dtype == KR_BF16 ? run_forward<bf16>(c) : run_forward<float>(c);
}
extern "C" void kr_phase_grad_cuda(const kr_call *c) {
    c->in[1].dtype == KR_BF16 ? run_backward<bf16>(c) : run_backward<float>(c);
}
