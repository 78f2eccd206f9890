/* rnn.cu - the nonlinear recurrences on the GPU, both directions. rnn.h has the equations.
 *
 * A block takes up to KR_RNN_CUDA_ROWS neighbouring sequences from their first row to their last:
 * their states stay in shared memory, and nothing waits for another block. A step's product reads
 * all of W, from the second cache, coalesced: forward W transposed (made in scratch first), back W
 * as it lies. Its sum is cut among groups of threads and added in order. The gradient of W is one
 * product over all rows behind it all. */
#include "ops/parts.cuh"
#include "ops/rnn/rnn.h"

namespace {

enum { ROWS = KR_RNN_CUDA_ROWS, THREADS = 1024 };

template <typename T>
struct view {
    const T *x, *y, *dy;
    int64_t x_row, y_row, dy_row, w_row, gates_row, memory_row;
    const float *w, *bias, *state, *dstate, *gates, *memory;
    int64_t state_slot, dstate_slot;
    const int64_t *seqs;
    int64_t seqs_row, S, M, H, G, GH;
    int rows; /* sequences of a block */
    const uint8_t *reset;
    kr_rnn_cell cell;
};

__device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

struct sequence {
    int64_t first, T, slot;
};

template <typename T>
__device__ __forceinline__ sequence sequence_of(const view<T> &g, int r) {
    int64_t s = (int64_t)blockIdx.x * g.rows + r;
    if (r >= g.rows || s >= g.S) return {0, 0, -1};
    const int64_t *q = g.seqs + s * g.seqs_row;
    return {q[0], q[1], q[2]};
}

template <typename T>
__device__ __forceinline__ bool starts(const view<T> &g, int64_t m) {
    return g.reset && g.reset[m];
}

/* [GH,H] to [H,GH], 32 x 32 at a time. */
__global__ void transpose(const float *w, int64_t w_row, float *to, int64_t GH, int64_t H) {
    __shared__ float tile[32][33];
    int64_t j0 = (int64_t)blockIdx.x * 32, k0 = (int64_t)blockIdx.y * 32;
    for (int i = threadIdx.y; i < 32; i += 8)
        if (j0 + i < GH && k0 + threadIdx.x < H)
            tile[i][threadIdx.x] = w[(j0 + i) * w_row + k0 + threadIdx.x];
    __syncthreads();
    for (int i = threadIdx.y; i < 32; i += 8)
        if (k0 + i < H && j0 + threadIdx.x < GH)
            to[(k0 + i) * GH + j0 + threadIdx.x] = tile[threadIdx.x][i];
}

/* Groups of threads that a sum over K is cut among, where there are J columns. */
__device__ __forceinline__ int groups_for(int64_t J) {
    int64_t columns = (J + 31) / 32 * 32;
    return columns >= THREADS ? 1 : (int)(THREADS / columns);
}

/* parts[group,r,j] = sum over the group's k of from[r,k] w[k,j]; from [ROWS,K] in shared memory. */
__device__ void product(const float *w, int64_t w_row, int64_t K, int64_t J, const float *from,
                        float *parts) {
    int groups = groups_for(J);
    int64_t columns = groups == 1 ? THREADS : (J + 31) / 32 * 32;
    int64_t group = threadIdx.x / columns, share = (K + groups - 1) / groups;
    int64_t begin = group * share, end = min(K, begin + share);
    if (group >= groups) return;
    for (int64_t j = threadIdx.x % columns; j < J; j += columns) {
        float sum[ROWS] = {};
#pragma unroll 8
        for (int64_t k = begin; k < end; k++) {
            float wk = w[k * w_row + j];
#pragma unroll
            for (int r = 0; r < ROWS; r++) sum[r] = fmaf(from[r * K + k], wk, sum[r]);
        }
        for (int r = 0; r < ROWS; r++) parts[(group * ROWS + r) * J + j] = sum[r];
    }
}

__device__ __forceinline__ float summed(const float *parts, int64_t J, int r, int64_t j) {
    int groups = groups_for(J);
    float sum = 0;
    for (int g = 0; g < groups; g++) sum += parts[(g * ROWS + r) * J + j];
    return sum;
}

/* State k of every sequence of the block to shared memory [ROWS,H]; zeros without. */
template <typename T>
__device__ void load_states(const view<T> &g, const float *states, int64_t slot_size, int k,
                            float *to) {
    for (int64_t i = threadIdx.x; i < ROWS * g.H; i += THREADS) {
        sequence q = sequence_of(g, (int)(i / g.H));
        bool there = states && q.slot >= 0;
        to[i] = there ? states[q.slot * slot_size + k * g.H + i % g.H] : 0;
    }
}

template <typename T>
__device__ int64_t longest_of(const view<T> &g) {
    int64_t longest = 0;
    for (int r = 0; r < g.rows; r++) longest = max(longest, sequence_of(g, r).T);
    return longest;
}

/* ---- forward ---- */

template <typename T>
struct forward_out {
    T *y;
    float *state, *gates, *memory;
    int64_t y_row, state_slot, gates_row, memory_row;
    bool add;
};

/* Number j of a row: the new h. p: gates' products. */
template <typename T>
__device__ float cell(const view<T> &g, const forward_out<T> &out, int64_t m, int64_t j,
                      const float (&p)[4], float before, float *memory) {
    const T *x = g.x + m * g.x_row + j;
    float a[4];
    for (int k = 0; k < g.G; k++) a[k] = kr_load(x + k * g.H);
    if (g.cell == KR_RNN_TANH) return tanhf(a[0] + p[0]);
    if (g.cell == KR_RNN_RELU) return a[0] + p[0] > 0 ? a[0] + p[0] : 0;
    float *gates = out.gates ? out.gates + m * out.gates_row + j : NULL, h, kept;
    a[0] = sigmoid(a[0] + p[0]);
    a[1] = sigmoid(a[1] + p[1]);
    if (g.cell == KR_RNN_GRU) {
        a[2] = tanhf(a[2] + a[0] * p[2]);
        h = (1 - a[1]) * a[2] + a[1] * before;
        kept = p[2];
    } else {
        a[2] = tanhf(a[2] + p[2]);
        a[3] = sigmoid(a[3] + p[3]);
        kept = *memory = a[1] * *memory + a[0] * a[2];
        h = a[3] * tanhf(kept);
    }
    for (int k = 0; gates && k < g.G; k++) gates[k * g.H] = a[k];
    if (out.memory) out.memory[m * out.memory_row + j] = kept;
    return h;
}

template <typename T>
__global__ void __launch_bounds__(THREADS) forward(const view<T> g, const forward_out<T> out) {
    extern __shared__ float shared[];
    float *h = shared, *memory = h + ROWS * g.H, *parts = memory + ROWS * g.H;
    int64_t longest = longest_of(g);
    load_states(g, g.state, g.state_slot, 0, h);
    load_states(g, g.cell == KR_RNN_LSTM ? g.state : NULL, g.state_slot, 1, memory);
    for (int64_t t = 0; t < longest; t++) {
        __syncthreads();
        for (int64_t i = threadIdx.x; g.reset && i < ROWS * g.H; i += THREADS) {
            sequence q = sequence_of(g, (int)(i / g.H));
            if (t < q.T && starts(g, q.first + t)) h[i] = memory[i] = 0;
        }
        __syncthreads();
        product(g.w, g.GH, g.H, g.GH, h, parts);
        __syncthreads();
        for (int64_t i = threadIdx.x; i < ROWS * g.H; i += THREADS) {
            int r = (int)(i / g.H);
            int64_t j = i % g.H;
            sequence q = sequence_of(g, r);
            float p[4];
            if (t >= q.T) continue;
            for (int k = 0; k < g.G; k++)
                p[k] = summed(parts, g.GH, r, k * g.H + j) + (g.bias ? g.bias[k * g.H + j] : 0);
            h[i] = cell(g, out, q.first + t, j, p, h[i], &memory[i]);
            kr_put(out.y + (q.first + t) * out.y_row + j, h[i], out.add);
        }
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; out.state && i < ROWS * g.H; i += THREADS) {
        sequence q = sequence_of(g, (int)(i / g.H));
        if (q.slot < 0) continue;
        float *to = out.state + q.slot * out.state_slot + i % g.H;
        to[0] = h[i];
        if (g.cell == KR_RNN_LSTM) to[g.H] = memory[i];
    }
}

/* ---- backward ---- */

template <typename T>
struct back_out {
    T *dx;
    float *dstate, *dp, *before; /* dp [M,GH], before [M,H]: for dW */
    int64_t dx_row, dstate_slot;
    bool add;
};

/* h (k 0) or c (k 1) in front of row m. */
template <typename T>
__device__ float state_before(const view<T> &g, const sequence &q, int64_t m, int k, int64_t j) {
    if (starts(g, m)) return 0;
    if (m == q.first) return g.state ? g.state[q.slot * g.state_slot + k * g.H + j] : 0;
    return k ? g.memory[(m - 1) * g.memory_row + j] : kr_load(g.y + (m - 1) * g.y_row + j);
}

/* Gradients d of what is in front of the gates; returns what reaches the h before past the product,
 * and moves *memory to the c before. */
template <typename T>
__device__ float cell_back(const view<T> &g, const sequence &q, int64_t m, int64_t j, float dh,
                           float *memory, float (&d)[4]) {
    float y = kr_load(g.y + m * g.y_row + j), a[4];
    if (g.cell == KR_RNN_TANH) d[0] = dh * (1 - y * y);
    if (g.cell == KR_RNN_RELU) d[0] = y > 0 ? dh : 0;
    if (!g.gates) return 0;
    for (int k = 0; k < g.G; k++) a[k] = g.gates[m * g.gates_row + k * g.H + j];
    float kept = g.memory[m * g.memory_row + j];
    if (g.cell == KR_RNN_GRU) {
        d[2] = dh * (1 - a[1]) * (1 - a[2] * a[2]);
        d[1] = dh * (state_before(g, q, m, 0, j) - a[2]) * a[1] * (1 - a[1]);
        d[0] = d[2] * kept * a[0] * (1 - a[0]);
        d[3] = d[2] * a[0]; /* of p_n */
        return dh * a[1];
    }
    float c = tanhf(kept), dc = *memory + dh * a[3] * (1 - c * c);
    d[0] = dc * a[2] * a[0] * (1 - a[0]);
    d[1] = dc * state_before(g, q, m, 1, j) * a[1] * (1 - a[1]);
    d[2] = dc * a[0] * (1 - a[2] * a[2]);
    d[3] = dh * c * a[3] * (1 - a[3]);
    *memory = dc * a[1];
    return 0;
}

template <typename T>
__device__ void row_back(const view<T> &g, const back_out<T> &out, const sequence &q, int64_t m,
                         int r, int64_t j, float *dh, float *memory, float *past, float *dp) {
    float d[4] = {}, in = *dh + (g.dy ? kr_load(g.dy + m * g.dy_row + j) : 0);
    *past = cell_back(g, q, m, j, in, memory, d);
    for (int k = 0; k < g.G; k++) {
        float of_p = g.cell == KR_RNN_GRU && k == 2 ? d[3] : d[k];
        if (out.dx) kr_put(out.dx + m * out.dx_row + k * g.H + j, d[k], out.add);
        dp[r * g.GH + k * g.H + j] = of_p;
        out.dp[m * g.GH + k * g.H + j] = of_p;
    }
    out.before[m * g.H + j] = state_before(g, q, m, 0, j);
}

template <typename T>
__global__ void __launch_bounds__(THREADS) backward(const view<T> g, const back_out<T> out) {
    extern __shared__ float shared[];
    float *h = shared, *memory = h + ROWS * g.H, *past = memory + ROWS * g.H;
    float *dp = past + ROWS * g.H, *parts = dp + ROWS * g.GH;
    int64_t longest = longest_of(g);
    load_states(g, g.dstate, g.dstate_slot, 0, h);
    load_states(g, g.cell == KR_RNN_LSTM ? g.dstate : NULL, g.dstate_slot, 1, memory);
    for (int64_t i = threadIdx.x; i < ROWS * g.GH; i += THREADS) dp[i] = 0;
    for (int64_t t = longest - 1; t >= 0; t--) {
        __syncthreads();
        for (int64_t i = threadIdx.x; i < ROWS * g.H; i += THREADS) {
            int r = (int)(i / g.H);
            sequence q = sequence_of(g, r);
            if (t < q.T)
                row_back(g, out, q, q.first + t, r, i % g.H, &h[i], &memory[i], &past[i], dp);
        }
        __syncthreads();
        product(g.w, g.w_row, g.GH, g.H, dp, parts);
        __syncthreads();
        for (int64_t i = threadIdx.x; i < ROWS * g.H; i += THREADS) {
            int r = (int)(i / g.H);
            sequence q = sequence_of(g, r);
            if (t >= q.T) continue;
            bool cut = starts(g, q.first + t);
            h[i] = cut ? 0 : past[i] + summed(parts, g.H, r, i % g.H);
            if (cut) memory[i] = 0;
        }
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; out.dstate && i < ROWS * g.H; i += THREADS) {
        sequence q = sequence_of(g, (int)(i / g.H));
        if (q.slot < 0) continue;
        float *to = out.dstate + q.slot * out.dstate_slot + i % g.H;
        to[0] += h[i];
        if (g.cell == KR_RNN_LSTM) to[g.H] += memory[i];
    }
}

/* Partial sums over a share of the rows of dp. */
__global__ void column_sums(const float *dp, int64_t M, int64_t width, int64_t share,
                            float *parts) {
    int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, first = blockIdx.y * share;
    float sum = 0;
    if (j >= width) return;
    for (int64_t m = first; m < M && m < first + share; m++) sum += dp[m * width + j];
    parts[blockIdx.y * width + j] = sum;
}

struct put_bias {
    float *to;
    bool add;
    __device__ void operator()(int64_t i, float sum) const { kr_put(to + i, sum, add); }
};

/* ---- calls ---- */

template <typename P>
void take(const kr_call *c, int i, P **data, int64_t *row) {
    bool there = i < c->n_in && c->in[i].data;
    *data = there ? (P *)c->in[i].data : NULL;
    if (row) *row = there ? c->in[i].stride[0] : 0;
}

template <typename T>
view<T> view_of(const kr_call *c) {
    view<T> g = {};
    g.cell = ((const kr_rnn_attr *)c->attr)->cell;
    take(c, KR_RNN_X, &g.x, &g.x_row);
    take(c, KR_RNN_W, &g.w, &g.w_row);
    take(c, KR_RNN_BIAS, &g.bias, NULL);
    take(c, KR_RNN_SEQS, &g.seqs, &g.seqs_row);
    take(c, KR_RNN_RESET, &g.reset, NULL);
    take(c, KR_RNN_STATE, &g.state, &g.state_slot);
    g.S = c->in[KR_RNN_SEQS].shape[0];
    g.M = c->in[KR_RNN_X].shape[0];
    g.H = c->in[KR_RNN_W].shape[1];
    g.G = kr_rnn_gates(g.cell);
    g.GH = g.G * g.H;
    g.rows = 1;
    while (g.rows < ROWS && kr_blocks(g.S, g.rows) > (unsigned)kr_cuda_processors()) g.rows++;
    return g;
}

/* Shared memory of a block, in floats, beside partial sums of J columns. */
int64_t part_floats(int64_t J) {
    int64_t columns = (J + 31) / 32 * 32;
    return (columns >= THREADS ? 1 : THREADS / columns) * ROWS * J;
}

/* All of a block's, in bytes; h has H numbers, and G gates have as many each. */
size_t shared_forward(int64_t H, int64_t G) {
    return (size_t)(2 * ROWS * H + part_floats(G * H)) * sizeof(float);
}
size_t shared_backward(int64_t H, int64_t G) {
    return (size_t)(ROWS * (3 + G) * H + part_floats(H)) * sizeof(float);
}

template <typename T>
void run_forward(const kr_call *c) {
    view<T> g = view_of<T>(c);
    forward_out<T> out = {};
    const kr_tensor *y = &c->out[KR_RNN_Y];
    out.y = (T *)y->data;
    out.y_row = y->stride[0];
    out.add = KR_ACC(c, KR_RNN_Y) != 0;
    float **to[] = {&out.state, &out.gates, &out.memory};
    int64_t *rows[] = {&out.state_slot, &out.gates_row, &out.memory_row};
    for (int i = 0; i < 3; i++) {
        const kr_tensor *t = &c->out[KR_RNN_STATE_OUT + i];
        if (KR_RNN_STATE_OUT + i >= c->n_out || !t->data) continue;
        *to[i] = (float *)t->data;
        *rows[i] = t->stride[0];
    }
    if (g.S == 0 || g.H == 0) return;
    float *turned = (float *)c->scratch;
    transpose<<<dim3(kr_blocks(g.GH, 32), kr_blocks(g.H, 32)), dim3(32, 8), 0, kr_cuda_stream()>>>(
        g.w, g.w_row, turned, g.GH, g.H);
    g.w = turned;
    size_t bytes = shared_forward(g.H, g.G);
    cudaFuncSetAttribute(forward<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    forward<T><<<kr_blocks(g.S, g.rows), THREADS, bytes, kr_cuda_stream()>>>(g, out);
}

void weight_gradient(const kr_call *c, const float *dp, const float *before, int64_t M, int64_t GH,
                     int64_t H) {
    const kr_tensor *dw = &c->out[KR_RNN_DW];
    kr_cuda_gemm g = {};
    g.a_transposed = true;
    g.accumulate = KR_ACC(c, KR_RNN_DW);
    g.m = GH;
    g.n = H;
    g.k = M;
    g.a = dp;
    g.lda = GH;
    g.b = before;
    g.ldb = H;
    g.c = dw->data;
    g.ldc = dw->stride[0];
    g.in = g.out = KR_F32;
    if (dw->data) kr_cuda_gemm_run(&g);
}

void bias_gradient(const kr_call *c, const float *dp, int64_t M, int64_t GH, float *parts) {
    const kr_tensor *db = &c->out[KR_RNN_DBIAS];
    int64_t share = kr_rnn_cuda_share(M);
    unsigned n = kr_blocks(M, share);
    if (!db->data) return;
    if (n)
        column_sums<<<dim3(kr_blocks(GH, 128), n), 128, 0, kr_cuda_stream()>>>(dp, M, GH, share,
                                                                               parts);
    kr_sum_parts_launch(parts, n, GH, put_bias{(float *)db->data, KR_ACC(c, KR_RNN_DBIAS) != 0});
}

template <typename T>
void run_backward(const kr_call *c) {
    view<T> g = view_of<T>(c);
    const kr_tensor *dx = &c->out[KR_RNN_DX], *dstate = &c->out[KR_RNN_DSTATE_IN];
    take(c, KR_RNN_IN_Y, &g.y, &g.y_row);
    take(c, KR_RNN_DY, &g.dy, &g.dy_row);
    take(c, KR_RNN_IN_GATES, &g.gates, &g.gates_row);
    take(c, KR_RNN_IN_MEMORY, &g.memory, &g.memory_row);
    take(c, KR_RNN_DSTATE, &g.dstate, &g.dstate_slot);
    float *dp = (float *)c->scratch, *before = dp + g.M * g.GH, *parts = before + g.M * g.H;
    back_out<T> out = {(T *)dx->data,
                       (float *)dstate->data,
                       dp,
                       before,
                       dx->data ? dx->stride[0] : 0,
                       dstate->data ? dstate->stride[0] : 0,
                       KR_ACC(c, KR_RNN_DX) != 0};
    if (dstate->data && !KR_ACC(c, KR_RNN_DSTATE_IN)) /* slots that no sequence names */
        cudaMemsetAsync(dstate->data, 0, kr_tensor_bytes(dstate), kr_cuda_stream());
    if (g.H == 0) return;
    size_t bytes = shared_backward(g.H, g.G);
    cudaFuncSetAttribute(backward<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (g.S > 0) backward<T><<<kr_blocks(g.S, g.rows), THREADS, bytes, kr_cuda_stream()>>>(g, out);
    weight_gradient(c, dp, before, g.M, g.GH, g.H);
    bias_gradient(c, dp, g.M, g.GH, parts);
}

} // namespace

extern "C" int64_t kr_rnn_cuda_most(kr_rnn_cell cell, bool backward) {
    int64_t G = kr_rnn_gates(cell), H = KR_RNN_CUDA_MOST;
    size_t (*shared)(int64_t, int64_t) = backward ? shared_backward : shared_forward;
    while (H > 0 && shared(H, G) > (size_t)kr_cuda_shared()) H--;
    return H;
}

extern "C" void kr_rnn_cuda(const kr_call *c) {
    if (c->in[KR_RNN_X].dtype == KR_BF16)
        run_forward<bf16>(c);
    else
        run_forward<float>(c);
}

extern "C" void kr_rnn_grad_cuda(const kr_call *c) {
    if (c->in[KR_RNN_X].dtype == KR_BF16)
        run_backward<bf16>(c);
    else
        run_backward<float>(c);
}
