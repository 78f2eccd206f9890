/* phase.cu - angles through time on the GPU. phase.h has the equations.
 *
 * A block takes 32 angles of heads through their sequence (sequences go round the blocks of y), 256
 * rows at once. Sums are double: angles are whole turns apart. Backward: the same from behind
 * leaves G in each row; then a thread sums a row's. */
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

/* ---- through time ----
 *
 * A block has 32 lanes of a sequence, and takes RUNS x EACH rows at once: a thread sums EACH rows
 * of a lane, the runs' sums are chained, and what comes in is added to each row. */
enum { LANES = 32, RUNS = 16, EACH = 16, TOGETHER = RUNS * EACH };

struct ends {
    double sum[RUNS][LANES]; /* of a run, from its last segment start on */
    bool cut[RUNS];          /* whether it has one */
};

/* What comes into run `run`; carry: into the first run, and then out of the last. */
__device__ __forceinline__ double chain(const ends &e, int run, double &carry) {
    double sum = carry, mine = carry;
    int lane = threadIdx.x;
    for (int k = 0; k < RUNS; k++) {
        if (k == run) mine = sum;
        sum = e.cut[k] ? e.sum[k][lane] : sum + e.sum[k][lane];
    }
    carry = sum;
    return mine;
}

__device__ __forceinline__ double wrapped(double phi) {
    return phi - 2 * KR_PI * floor(phi / (2 * KR_PI) + 0.5);
}

template <typename T>
__device__ void pass(const lanes<T> &g, const int64_t *q, int64_t j, ends &e, const states &from,
                     T *phi_out, int64_t row, const states &to) {
    bool there = j < g.H * g.S;
    int run = threadIdx.y;
    double phi = there && from.p ? (double)from.p[q[2] * from.slot + j] : 0;
    for (int64_t t0 = 0; t0 < q[1]; t0 += TOGETHER) {
        double local[EACH], sum = 0;
        uint32_t cut = 0; /* rows behind a segment start of the run */
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int64_t t = t0 + run * EACH + i, m = q[0] + t;
            bool row_there = t < q[1];
            if (row_there && g.reset && g.reset[m]) sum = 0, cut |= ~0u << i;
            if (row_there && there)
                sum += KR_PI * (double)tanhf(kr_load(g.angle + m * g.angle_row + j % g.S)) *
                       (double)kr_load(g.delta + m * g.delta_row + j / g.S);
            local[i] = sum;
        }
        e.sum[run][threadIdx.x] = sum;
        if (threadIdx.x == 0) e.cut[run] = cut != 0;
        __syncthreads();
        double in = chain(e, run, phi);
        phi = wrapped(phi);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int64_t t = t0 + run * EACH + i;
            if (there && t < q[1])
                kr_store(phi_out + (q[0] + t) * row + j,
                         (float)wrapped(cut >> i & 1 ? local[i] : in + local[i]));
        }
        __syncthreads();
    }
    if (there && to.p && run == 0) to.p[q[2] * to.slot + j] = (float)phi;
}

template <typename T>
__global__ void __launch_bounds__(LANES *RUNS)
    forward(const lanes<T> g, const states from, T *phi_out, int64_t row, const states to) {
    __shared__ ends e;
    int64_t j = (int64_t)blockIdx.x * LANES + threadIdx.x;
    for (int64_t s = blockIdx.y; s < g.n; s += gridDim.y)
        pass(g, g.seqs + s * g.seqs_row, j, e, from, phi_out, row, to);
}

/* G [M,H S]: the same from the last row to the first, where a segment start cuts behind itself. */
template <typename T>
__device__ void pass_back(const lanes<T> &g, const int64_t *q, int64_t j, ends &e, const T *dphi,
                          int64_t row, const states &behind, float *G, const states &to) {
    bool there = j < g.H * g.S;
    int run = threadIdx.y;
    double all = there && behind.p ? (double)behind.p[q[2] * behind.slot + j] : 0;
    for (int64_t t0 = 0; t0 < q[1]; t0 += TOGETHER) {
        double local[EACH], sum = 0;
        uint32_t cut = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int64_t t = t0 + run * EACH + i, m = q[0] + q[1] - 1 - t;
            bool row_there = t < q[1];
            if (row_there && there && dphi) sum += (double)kr_load(dphi + m * row + j);
            local[i] = sum;
            if (row_there && g.reset && g.reset[m]) sum = 0, cut |= ~1u << i;
        }
        e.sum[run][threadIdx.x] = sum;
        if (threadIdx.x == 0) e.cut[run] = cut != 0;
        __syncthreads();
        double in = chain(e, run, all);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int64_t t = t0 + run * EACH + i, m = q[0] + q[1] - 1 - t;
            if (there && t < q[1])
                G[m * g.H * g.S + j] = (float)(cut >> i & 1 ? local[i] : in + local[i]);
        }
        __syncthreads();
    }
    if (there && to.p && run == 0) to.p[q[2] * to.slot + j] += (float)all;
}

template <typename T>
__global__ void __launch_bounds__(LANES *RUNS)
    gather_back(const lanes<T> g, const T *dphi, int64_t row, const states behind, float *G,
                const states to) {
    __shared__ ends e;
    int64_t j = (int64_t)blockIdx.x * LANES + threadIdx.x;
    for (int64_t s = blockIdx.y; s < g.n; s += gridDim.y)
        pass_back(g, g.seqs + s * g.seqs_row, j, e, dphi, row, behind, G, to);
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

dim3 grid_of(int64_t width, int64_t each, int64_t high) {
    return dim3(kr_blocks(width, each), (unsigned)(high < HIGH ? high : HIGH));
}

template <typename T>
void run_forward(const kr_call *c) {
    lanes<T> g = lanes_of<T>(c->in);
    states none = {NULL, 0}, to = c->n_out > 1 ? states_of(&c->out[1]) : none;
    dim3 grid = grid_of(g.H * g.S, LANES, g.n);
    if (g.n > 0)
        forward<T><<<grid, dim3(LANES, RUNS), 0, kr_cuda_stream()>>>(g, states_of(&c->in[4]),
                                                                     (T *)c->out[0].data,
                                                                     c->out[0].stride[0], to);
}

template <typename T>
void run_backward(const kr_call *c) {
    lanes<T> g = lanes_of<T>(c->in + 1);
    states none = {NULL, 0}, to = c->n_out > 2 ? states_of(&c->out[2]) : none;
    float *G = (float *)c->scratch;
    int64_t width = g.H * g.S, slots = c->n_out > 2 ? c->out[2].shape[0] : 0;
    dim3 grid = grid_of(width, LANES, g.n);
    if (to.p && !KR_ACC(c, 2) && slots > 0)
        clear<<<grid_of(width, THREADS, slots), THREADS, 0, kr_cuda_stream()>>>(to, slots, width);
    if (g.n > 0)
        gather_back<T>
            <<<grid, dim3(LANES, RUNS), 0, kr_cuda_stream()>>>(g, (const T *)c->in[0].data,
                                                               c->in[0].data ? c->in[0].stride[0]
                                                                             : 0,
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
