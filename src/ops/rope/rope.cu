/* rope.cu - rotary positions on the GPU. rope.h has the equations.
 *
 * A first pass tells each row where it stands: how many rows behind its segment's start, and from
 * which state it counts. A block does that for a sequence, 256 rows at a time: the last start in
 * front of a row is a running maximum. Then a thread turns a pair of columns in every head of a
 * row; rows of no sequence stay as they are. Angles are made in double, their cosines in float. */
#include "device/cuda/kernel.cuh"
#include "ops/rope/rope.h"

namespace {

enum { THREADS = 256 };

/* Where a row stands; slot < 0: it counts from 0, behind a segment start; rows < 0: nowhere. */
struct place {
    int64_t rows, slot;
};

struct sequences {
    const int64_t *seqs;
    int64_t seqs_row, S;
    const uint8_t *reset;
    const float *state; /* NULL: zeros */
    int64_t state_row;
    place *places; /* [M] */
    int64_t half;
    double log_base; /* log2 of the base, times -2 / N */
};

__global__ void find_places(const sequences g) {
    __shared__ int64_t start[2][THREADS];
    __shared__ int64_t carried;
    const int64_t *seq = g.seqs + blockIdx.x * g.seqs_row;
    if (threadIdx.x == 0) carried = -1;
    for (int64_t from = 0; from < seq[1]; from += THREADS) {
        int64_t t = from + threadIdx.x;
        bool starts = t < seq[1] && g.reset && g.reset[seq[0] + t];
        int now = 0;
        start[0][threadIdx.x] = starts ? t : -1;
        __syncthreads();
        for (int d = 1; d < THREADS; d *= 2, now ^= 1) {
            int64_t v = start[now][threadIdx.x];
            if (threadIdx.x >= d) v = max(v, start[now][threadIdx.x - d]);
            start[now ^ 1][threadIdx.x] = v;
            __syncthreads();
        }
        int64_t last = max(start[now][threadIdx.x], carried);
        if (t < seq[1]) g.places[seq[0] + t] = last < 0 ? place{t, seq[2]} : place{t - last, -1};
        __syncthreads();
        if (threadIdx.x == THREADS - 1) carried = last;
    }
}

/* phi[n] of a row, in [-pi, pi). */
__device__ double angle(const sequences &g, place at, int64_t n) {
    const double turn = 6.283185307179586476925286766559;
    double start = g.state && at.slot >= 0 ? (double)g.state[at.slot * g.state_row + n] : 0;
    double phi = start + (double)at.rows * exp2(g.log_base * (double)n);
    return phi - turn * floor(phi / turn + 0.5);
}

template <typename T>
struct columns {
    const T *x;
    T *y;
    int64_t x_row, y_row, M, heads;
    float sign; /* -1: turned back */
    bool add;
};

template <typename T>
__global__ void turn(const sequences g, const columns<T> c) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, m = i / g.half, n = i % g.half;
    float sine, cosine;
    if (m >= c.M) return;
    place at = g.places[m];
    if (at.rows < 0) return;
    sincosf(c.sign * (float)angle(g, at, n), &sine, &cosine);
    const T *x = c.x + m * c.x_row + n;
    T *y = c.y + m * c.y_row + n;
    for (int64_t h = 0; h < c.heads; h++, x += 2 * g.half, y += 2 * g.half) {
        float a = kr_load(x), b = kr_load(x + g.half);
        kr_put(y, a * cosine - b * sine, c.add);
        kr_put(y + g.half, a * sine + b * cosine, c.add);
    }
}

/* The angle behind the last row of a sequence. */
__global__ void state_behind(const sequences g, float *out, int64_t out_row) {
    const int64_t *seq = g.seqs + blockIdx.x * g.seqs_row;
    place at = {0, seq[2]};
    if (seq[1] > 0) at = g.places[seq[0] + seq[1] - 1];
    if (seq[1] > 0) at.rows++;
    for (int64_t n = threadIdx.x; n < g.half; n += blockDim.x)
        out[seq[2] * out_row + n] = (float)angle(g, at, n);
}

__global__ void clear(float *to, int64_t row, int64_t width) {
    for (int64_t n = threadIdx.x; n < width; n += blockDim.x) to[blockIdx.x * row + n] = 0;
}

struct state_out {
    const float *behind; /* gradient of the state behind; NULL: zeros */
    float *to;
    int64_t behind_row, to_row;
};

/* What the rows that count from a state give to its angle n. A warp. */
template <typename T>
__device__ void angle_gradient(const sequences &g, const columns<T> &dy, const T *x, int64_t x_row,
                               const state_out &out, int64_t n) {
    const int64_t *seq = g.seqs + blockIdx.x * g.seqs_row;
    double sum = 0;
    bool through = true; /* no segment starts */
    for (int64_t t = threadIdx.x; t < seq[1]; t += 32) {
        int64_t m = seq[0] + t;
        float sine, cosine;
        through = g.places[m].slot >= 0;
        if (!through) break;
        sincosf((float)angle(g, g.places[m], n), &sine, &cosine);
        for (int64_t h = 0; h < dy.heads; h++) {
            const T *d = dy.x + m * dy.x_row + 2 * h * g.half + n;
            const T *v = x + m * x_row + 2 * h * g.half + n;
            float d1 = kr_load(d), d2 = kr_load(d + g.half);
            sum += (double)(kr_load(v) * (d2 * cosine - d1 * sine)) -
                   (double)(kr_load(v + g.half) * (d1 * cosine + d2 * sine));
        }
    }
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    through = !__any_sync(0xffffffffu, !through);
    if (threadIdx.x) return;
    if (through && out.behind) sum += (double)out.behind[seq[2] * out.behind_row + n];
    kr_put(out.to + seq[2] * out.to_row + n, (float)sum, true);
}

template <typename T>
__global__ void state_gradient(const sequences g, const columns<T> dy, const T *x, int64_t x_row,
                               const state_out out) {
    for (int64_t n = blockIdx.y; n < g.half; n += gridDim.y)
        angle_gradient(g, dy, x, x_row, out, n);
}

/* seqs, reset and state are inputs `at` and what follows. */
sequences sequences_of(const kr_call *c, int at) {
    const kr_rope_attr *attr = (const kr_rope_attr *)c->attr;
    const kr_tensor *seqs = &c->in[at], *state = &c->in[at + 2];
    sequences g = {};
    g.seqs = (const int64_t *)seqs->data;
    g.seqs_row = seqs->stride[0];
    g.S = seqs->shape[0];
    g.reset = (const uint8_t *)c->in[at + 1].data;
    g.state = (const float *)state->data;
    g.state_row = state->data ? state->stride[0] : 0;
    g.places = (place *)c->scratch;
    g.half = attr->width / 2;
    g.log_base = -2 / (double)attr->width * log2(attr->base);
    return g;
}

template <typename T>
columns<T> columns_of(const kr_call *c, const sequences &g, float sign) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    return {(const T *)x->data,
            (T *)y->data,
            x->stride[0],
            y->data ? y->stride[0] : 0,
            x->shape[0],
            x->shape[1] / (2 * g.half),
            sign,
            KR_ACC(c, 0) != 0};
}

template <typename T>
void run(const sequences &g, const columns<T> &v) {
    cudaMemsetAsync(g.places, 0xff, (size_t)v.M * sizeof *g.places, kr_cuda_stream()); /* -1 */
    if (g.S > 0) find_places<<<(unsigned)g.S, THREADS, 0, kr_cuda_stream()>>>(g);
    if (v.y && v.M > 0)
        turn<T><<<kr_blocks(v.M * g.half, THREADS), THREADS, 0, kr_cuda_stream()>>>(g, v);
}

template <typename T>
void run_forward(const kr_call *c) {
    const kr_tensor *out = &c->out[1];
    sequences g = sequences_of(c, 1);
    run(g, columns_of<T>(c, g, 1));
    if (c->n_out > 1 && out->data && g.S > 0)
        state_behind<<<(unsigned)g.S, 32, 0, kr_cuda_stream()>>>(g, (float *)out->data,
                                                                 out->stride[0]);
}

template <typename T>
void run_backward(const kr_call *c) {
    const kr_tensor *x = &c->in[1], *behind = &c->in[5], *to = &c->out[1];
    sequences g = sequences_of(c, 2);
    columns<T> dy = columns_of<T>(c, g, -1);
    run(g, dy);
    if (c->n_out < 2 || !to->data) return;
    state_out out = {(const float *)behind->data, (float *)to->data,
                     behind->data ? behind->stride[0] : 0, to->stride[0]};
    if (!KR_ACC(c, 1) && to->shape[0] > 0)
        clear<<<(unsigned)to->shape[0], 32, 0, kr_cuda_stream()>>>(out.to, out.to_row, g.half);
    dim3 grid((unsigned)g.S, (unsigned)(g.half < 32768 ? g.half : 32768));
    if (g.S > 0)
        state_gradient<T>
            <<<grid, 32, 0, kr_cuda_stream()>>>(g, dy, (const T *)x->data, x->stride[0], out);
}

} // namespace

extern "C" void kr_rope_cuda(const kr_call *c) {
    if (c->in[0].dtype == KR_BF16)
        run_forward<bf16>(c);
    else
        run_forward<float>(c);
}

extern "C" void kr_rope_grad_cuda(const kr_call *c) {
    if (c->in[0].dtype == KR_BF16)
        run_backward<bf16>(c);
    else
        run_backward<float>(c);
}
