/* previous.cu - rows beside those before them, on the GPU. previous.h has the contract.
 *
 * A block takes rows of a sequence in turn, its threads their columns, 16 bytes of them where rows
 * begin on that; sequences go round the blocks of y. Bound by bytes: x is read and written twice.
 */
#include "device/cuda/kernel.cuh"
#include "ops/previous/previous.h"

namespace {

enum { THREADS = 128, BLOCKS = 2048, HIGH = 32768 };

struct sequences {
    const int64_t *seqs;
    int64_t seqs_row, S, W;
    const uint8_t *reset;
};

struct states {
    float *p; /* NULL: absent */
    int64_t slot;
};

template <typename T>
struct rows {
    T *p; /* NULL: absent */
    int64_t row;
};

/* Columns of a row that a thread takes at once: 16 bytes, or one. */
template <typename T, bool WIDE>
struct columns {
    static const int V = WIDE ? 16 / (int)sizeof(T) : 1;
    struct alignas(V * sizeof(T)) pack {
        T x[V];
    };
};

template <typename T, bool WIDE>
__device__ void pass(const sequences &g, const int64_t *q, const rows<T> &x, const states &from,
                     const rows<T> &y, const states &to) {
    typedef typename columns<T, WIDE>::pack pack;
    const int V = columns<T, WIDE>::V;
    const float *state = from.p ? from.p + q[2] * from.slot : NULL;
    for (int64_t t = blockIdx.x; t < q[1]; t += gridDim.x) {
        const T *now = x.p + (q[0] + t) * x.row;
        T *out = y.p + (q[0] + t) * y.row;
        bool fresh = g.reset && g.reset[q[0] + t];
        for (int64_t j = threadIdx.x * V; j < g.W; j += THREADS * V) {
            pack old;
            *(pack *)(out + j) = *(const pack *)(now + j);
            if (t > 0) old = *(const pack *)(now - x.row + j);
#pragma unroll
            for (int i = 0; i < V; i++)
                if (fresh || t == 0) kr_store(old.x + i, !fresh && state ? state[j + i] : 0);
            *(pack *)(out + g.W + j) = old;
        }
    }
    if (!to.p || blockIdx.x) return;
    __syncthreads(); /* the state may be written where it is read */
    for (int64_t j = threadIdx.x; j < g.W; j += THREADS) {
        float last = state ? state[j] : 0;
        if (q[1] > 0) last = kr_load(x.p + (q[0] + q[1] - 1) * x.row + j);
        to.p[q[2] * to.slot + j] = last;
    }
}

template <typename T, bool WIDE>
__global__ void forward(const sequences g, const rows<T> x, const states from, const rows<T> y,
                        const states to) {
    for (int64_t s = blockIdx.y; s < g.S; s += gridDim.y)
        pass<T, WIDE>(g, g.seqs + s * g.seqs_row, x, from, y, to);
}

/* What row t of a sequence, or (-1) its state, gives to what follows. */
template <typename T>
__device__ __forceinline__ float given(const sequences &g, const int64_t *q, const rows<T> &dy,
                                       const states &behind, int64_t t, int64_t j) {
    if (t + 1 == q[1]) return behind.p ? behind.p[q[2] * behind.slot + j] : 0;
    if (!dy.p || (g.reset && g.reset[q[0] + t + 1])) return 0;
    return kr_load(dy.p + (q[0] + t + 1) * dy.row + g.W + j);
}

template <typename T, bool WIDE>
__device__ void pass_back(const sequences &g, const int64_t *q, const rows<T> &dy,
                          const states &behind, const rows<T> &dx, bool add, const states &to) {
    typedef typename columns<T, WIDE>::pack pack;
    const int V = columns<T, WIDE>::V;
    for (int64_t t = blockIdx.x; dx.p && t < q[1]; t += gridDim.x)
        for (int64_t j = threadIdx.x * V; j < g.W; j += THREADS * V) {
            pack *out = (pack *)(dx.p + (q[0] + t) * dx.row + j), own = {}, next = {}, sum = {};
            const T *now = dy.p + (q[0] + t) * dy.row + j;
            bool last = t + 1 == q[1], from_next = !last && !(g.reset && g.reset[q[0] + t + 1]);
            if (dy.p) own = *(const pack *)now;
            if (dy.p && from_next) next = *(const pack *)(now + dy.row + g.W);
            if (add) sum = *out;
#pragma unroll
            for (int i = 0; i < V; i++) {
                float v = last && behind.p ? behind.p[q[2] * behind.slot + j + i] : 0;
                if (from_next) v = kr_load(next.x + i);
                kr_put(sum.x + i, kr_load(own.x + i) + v, add);
            }
            *out = sum;
        }
    for (int64_t j = threadIdx.x; to.p && blockIdx.x == 0 && j < g.W; j += THREADS)
        to.p[q[2] * to.slot + j] += given(g, q, dy, behind, -1, j);
}

template <typename T, bool WIDE>
__global__ void backward(const sequences g, const rows<T> dy, const states behind, const rows<T> dx,
                         bool add, const states to) {
    for (int64_t s = blockIdx.y; s < g.S; s += gridDim.y)
        pass_back<T, WIDE>(g, g.seqs + s * g.seqs_row, dy, behind, dx, add, to);
}

__global__ void clear(const states to, int64_t W) {
    for (int64_t j = threadIdx.x; j < W; j += THREADS) to.p[blockIdx.x * to.slot + j] = 0;
}

template <typename T>
rows<T> rows_of(const kr_tensor *t) {
    return {(T *)t->data, t->data ? t->stride[0] : 0};
}
states states_of(const kr_tensor *t) { return {(float *)t->data, t->data ? t->stride[0] : 0}; }

sequences sequences_of(const kr_call *c, int i, int64_t W) {
    return {(const int64_t *)c->in[i].data, c->in[i].stride[0], c->in[i].shape[0], W,
            (const uint8_t *)c->in[i + 1].data};
}

/* Whether rows of W columns, and of 2 W, begin on 16 bytes. */
template <typename T>
bool wide(const rows<T> &x, int64_t W) {
    return (uintptr_t)x.p % 16 == 0 && x.row * sizeof(T) % 16 == 0 && W * sizeof(T) % 16 == 0;
}

/* Blocks for the rows of a sequence, and sequences. */
dim3 grid_of(int64_t M, int64_t S) {
    int64_t each = (M + S - 1) / S;
    return dim3((unsigned)(each < 1        ? 1
                           : each < BLOCKS ? each
                                           : BLOCKS),
                (unsigned)(S < HIGH ? S : HIGH));
}

template <typename T>
void run_forward(const kr_call *c) {
    const kr_tensor *x = &c->in[0];
    int64_t S = c->in[1].shape[0];
    states none = {NULL, 0}, to = c->n_out > 1 ? states_of(&c->out[1]) : none;
    rows<T> in = rows_of<T>(x), out = rows_of<T>(&c->out[0]);
    bool vectors = wide(in, x->shape[1]) && wide(out, x->shape[1]);
    auto kernel = vectors ? forward<T, true> : forward<T, false>;
    if (S > 0)
        kernel<<<grid_of(x->shape[0], S), THREADS, 0, kr_cuda_stream()>>>(
            sequences_of(c, 1, x->shape[1]), in, states_of(&c->in[3]), out, to);
}

template <typename T>
void run_backward(const kr_call *c) {
    const kr_tensor *x = &c->in[1];
    int64_t S = c->in[2].shape[0], W = x->shape[1];
    states none = {NULL, 0}, to = c->n_out > 1 ? states_of(&c->out[1]) : none;
    if (to.p && !KR_ACC(c, 1))
        clear<<<(unsigned)c->out[1].shape[0], THREADS, 0, kr_cuda_stream()>>>(to, W);
    rows<T> dy = rows_of<T>(&c->in[0]), dx = rows_of<T>(&c->out[0]);
    bool vectors = wide(dy, W) && wide(dx, W);
    auto kernel = vectors ? backward<T, true> : backward<T, false>;
    if (S > 0)
        kernel<<<grid_of(x->shape[0], S), THREADS, 0, kr_cuda_stream()>>>(sequences_of(c, 2, W), dy,
                                                                          states_of(&c->in[5]), dx,
                                                                          KR_ACC(c, 0) != 0, to);
}

} // namespace

extern "C" void kr_previous_cuda(const kr_call *c) {
    c->in[0].dtype == KR_BF16 ? run_forward<bf16>(c) : run_forward<float>(c);
}
extern "C" void kr_previous_grad_cuda(const kr_call *c) {
    c->in[1].dtype == KR_BF16 ? run_backward<bf16>(c) : run_backward<float>(c);
}
