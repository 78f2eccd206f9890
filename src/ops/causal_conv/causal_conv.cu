/* causal_conv.cu - the causal convolution forward on the GPU. causal_conv.h has the contract.
 *
 * A thread takes V neighbouring channels down a run of rows, the window of inputs in registers, so
 * that each input is loaded once (and the K-1 before the run again). Runs are cut without regard
 * to sequences: the block first writes down what each of its rows is (conv_rows.cuh). Where
 * sequences are short (a decode step) a thread takes one sequence from its state to its state
 * instead. Kernels know 4 taps or 8; fewer are those with zeros in front. */
#include "ops/causal_conv/conv_rows.cuh"

enum { RUN = 16, AHEAD = 8, MOST_THREADS = 256, SHORT = 4, MOST_TAPS = 8 };

typedef struct conv {
    conv_seqs q;
    conv_taps taps;
    conv_state state, next;
    const void *x; /* [M,E] of the kernel's T, and so is y */
    void *y;
    int64_t x_row, y_row;
    bool silu;
} conv;

template <typename T, int V>
static __device__ __forceinline__ void put_y(const conv &v, int64_t r, int64_t e, float (&p)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++)
        if (v.silu) p[i] *= conv_sigmoid(p[i]);
    kr_store_pack<V>((T *)v.y + r * v.y_row + e, p);
}

/* Row r, which is x: the window before it, its output, the window after it. */
template <typename T, int KK, int V>
static __device__ __forceinline__ void row(const conv &v, int64_t r, int64_t e, int kind,
                                           bool output, const kr_pack<T, V> &pack,
                                           const float (&w)[KK][V], const float (&b)[V],
                                           float (&window)[KK - 1][V]) {
    float x[V], p[V];
    if (kind != ROW_GOES_ON) {
        int64_t slot = kind < 0 ? 0 : v.q.seqs[3 * (int64_t)kind + 2];
        conv_load_window<KK>(v.state, slot, v.q.K, e, kind >= 0, window);
    }
    kr_unpack(pack, x);
    if (output && kind != ROW_IS_OUTSIDE) {
        conv_sum<KK>(w, b, window, x, p);
        put_y<T>(v, r, e, p);
    }
    conv_shift<KK>(window, x);
}

template <typename T, int V>
static __device__ __forceinline__ void fetch(const conv &v, int64_t r, int64_t e,
                                             kr_pack<T, V> &pack) {
    if (r >= 0 && r < v.q.M && e < v.q.E)
        pack = kr_fetch<V>((const T *)v.x + r * v.x_row + e);
    else
        pack = kr_pack<T, V>();
}

template <typename T, int KK, int V>
static __global__ void __launch_bounds__(MOST_THREADS) runs(conv v) {
    __shared__ int kinds[RUN + KK - 1];
    int64_t first = (int64_t)blockIdx.x * RUN;
    int64_t e = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * V;
    kr_pack<T, V> before[KK - 1], packs[AHEAD];
    float w[KK][V], b[V], window[KK - 1][V] = {};
#pragma unroll
    for (int i = 0; i < KK - 1; i++) fetch(v, first - (KK - 1) + i, e, before[i]);
#pragma unroll
    for (int i = 0; i < AHEAD; i++) fetch(v, first + i, e, packs[i]);
    conv_kinds(v.q, v.state.data != NULL, first - (KK - 1), RUN + KK - 1, kinds, NULL);
    if (e >= v.q.E) return;
    conv_load_taps<KK>(v.taps, v.q.K, e, w, b);
#pragma unroll
    for (int i = 0; i < KK - 1; i++)
        row<T, KK, V>(v, first - (KK - 1) + i, e, kinds[i], false, before[i], w, b, window);
#pragma unroll 1
    for (int part = 0; part < RUN; part += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            row<T, KK, V>(v, first + part + i, e, kinds[KK - 1 + part + i], true, packs[i], w, b,
                          window);
            if (part + AHEAD < RUN) fetch(v, first + part + AHEAD + i, e, packs[i]);
        }
    }
}

/* Block column s: sequence s from its state to its state. Only this thread touches its channels of
 * the slot, so the two may be one memory. */
template <typename T, int KK, int V>
static __global__ void __launch_bounds__(MOST_THREADS) sequences(conv v) {
    int64_t s = blockIdx.x, e = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (e >= v.q.E) return;
    int64_t first = v.q.seqs[3 * s], count = v.q.seqs[3 * s + 1], slot = v.q.seqs[3 * s + 2];
    float w[KK][V], b[V], window[KK - 1][V];
    conv_load_taps<KK>(v.taps, v.q.K, e, w, b);
    conv_load_window<KK>(v.state, slot, v.q.K, e, v.state.data != NULL, window);
    for (int64_t r = first; r < first + count; r++) {
        kr_pack<T, V> pack;
        fetch(v, r, e, pack);
        int kind = v.q.reset && v.q.reset[r] ? ROW_IS_FRESH : ROW_GOES_ON;
        row<T, KK, V>(v, r, e, kind, true, pack, w, b, window);
    }
    if (!v.next.data) return;
#pragma unroll
    for (int j = 0; j < KK - 1; j++) {
        float *to = v.next.data + slot * v.next.slot + (v.q.K - 2 - j) * v.next.row + e;
        if (j < v.q.K - 1) kr_store_pack<V>(to, window[j]);
    }
}

/* The states behind the runs: block column s is sequence s, a thread one channel. All is read
 * before any is written. */
template <typename T>
static __global__ void states(conv v) {
    int64_t s = blockIdx.x, e = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
    if (e >= v.q.E) return;
    int64_t first = v.q.seqs[3 * s], count = v.q.seqs[3 * s + 1], slot = v.q.seqs[3 * s + 2];
    float window[MOST_TAPS - 1]; /* the input j + 1 rows before the end */
    bool seen = true;
#pragma unroll
    for (int j = 0; j < MOST_TAPS - 1; j++) {
        int64_t t = count - 1 - j;
        window[j] = 0;
        if (j >= v.q.K - 1 || !seen) continue;
        if (t >= 0)
            window[j] = kr_load((const T *)v.x + (first + t) * v.x_row + e);
        else if (v.state.data)
            window[j] = v.state.data[slot * v.state.slot + (v.q.K - 1 + t) * v.state.row + e];
        if (t >= 0 && v.q.reset && v.q.reset[first + t]) seen = false;
    }
#pragma unroll
    for (int j = 0; j < MOST_TAPS - 1; j++)
        if (j < v.q.K - 1)
            v.next.data[slot * v.next.slot + (v.q.K - 2 - j) * v.next.row + e] = window[j];
}

/* Threads of a block and blocks, over the packs of a row. */
static unsigned threads_for(int64_t E, int V, unsigned *blocks) {
    int64_t packs = (E + V - 1) / V;
    *blocks = kr_blocks(packs, MOST_THREADS);
    return (kr_blocks(packs, *blocks) + 31) / 32 * 32;
}

template <typename T, int KK, int V>
static void launch(const conv &v) {
    unsigned columns, threads = threads_for(v.q.E, V, &columns);
    if (v.q.M <= SHORT * v.q.S) {
        sequences<T, KK, V><<<dim3((unsigned)v.q.S, columns), threads, 0, kr_cuda_stream()>>>(v);
        return;
    }
    runs<T, KK, V><<<dim3(kr_blocks(v.q.M, RUN), columns), threads, 0, kr_cuda_stream()>>>(v);
    if (v.next.data && v.q.K > 1)
        states<T><<<dim3((unsigned)v.q.S, kr_blocks(v.q.E, 128)), 128, 0, kr_cuda_stream()>>>(v);
}

template <typename T, int WIDE>
static void launch_type(const conv &v, bool packs) {
    if (v.q.K > 4)
        launch<T, MOST_TAPS, 1>(v);
    else if (packs)
        launch<T, 4, WIDE>(v);
    else
        launch<T, 4, 1>(v);
}

extern "C" void kr_causal_conv_cuda(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *weight = &c->in[1], *y = &c->out[0];
    const kr_tensor *state = &c->in[5], *next = &c->out[1];
    conv v = {{(const int64_t *)c->in[3].data, (const uint8_t *)c->in[4].data, c->in[3].shape[0],
               x->shape[0], x->shape[1], (int)weight->shape[2]},
              {(const float *)weight->data, (const float *)c->in[2].data},
              conv_state_of(state),
              conv_state_of(next),
              x->data,
              y->data,
              x->stride[0],
              y->stride[0],
              ((const kr_causal_conv_attr *)c->attr)->silu != 0};
    if (weight->shape[2] > MOST_TAPS) {
        kr_cuda_fault("more than 8 taps: use --device cpu");
        return;
    }
    if (v.q.E == 0 || v.q.S == 0) return;
    int wide = x->dtype == KR_BF16 ? 8 : 4;
    bool packs = kr_packs(x, wide) && kr_packs(y, wide) && kr_packs(state, 4) && kr_packs(next, 4);
    if (x->dtype == KR_BF16)
        launch_type<bf16, 8>(v, packs);
    else
        launch_type<float, 4>(v, packs);
}
