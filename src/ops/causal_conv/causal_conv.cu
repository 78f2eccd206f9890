/* causal_conv.cu - the causal convolution forward on the GPU. causal_conv.h has the contract.
 *
 * A warp goes down a run of rows, the window of inputs in registers, so that each input is loaded
 * once (and those of KK rows before the run again). Runs are cut without regard to sequences: the
 * block first writes down what each of its rows is (conv_rows.cuh); batches of rows that just go on
 * take a path without questions. Where sequences are short (a decode step) a thread takes one
 * sequence from its state to its state instead. Kernels know 4 taps or 8; fewer are those with
 * zeros in front. */
#include "ops/causal_conv/conv_rows.cuh"

enum { SHORT = 4 };

typedef struct conv {
    conv_seqs q;
    conv_taps taps;
    conv_state state, next;
    const void *x; /* [M,E] of the kernel's T, and so is y */
    void *y;
    int64_t x_row, y_row;
    int run; /* rows a warp */
    bool early;
} conv;

/* y of one row, to `to`. */
template <bool SILU, typename T, int KK, int V>
static __device__ __forceinline__ void put_y(T *to, const float (&w)[KK][V], const float (&b)[V],
                                             const float (&window)[KK - 1][V],
                                             const float (&x)[V]) {
    float p[V];
    conv_sum<KK>(w, b, window, x, p);
#pragma unroll
    for (int i = 0; i < V; i++)
        if (SILU) p[i] *= conv_sigmoid(p[i]);
    kr_store_pack<V>(to, p);
}

/* The window before a row that does not go on. */
template <int KK, int V>
static __device__ __forceinline__ void enter(const conv &v, int64_t e, int kind,
                                             float (&window)[KK - 1][V]) {
    int64_t slot = kind < 0 ? 0 : v.q.seqs[3 * (int64_t)kind + 2];
    conv_load_window<KK>(v.state, slot, v.q.K, e, kind >= 0, window);
}

template <typename T, int KK, int V, bool SILU>
static __global__ void __launch_bounds__(32 * CONV_WARPS, sizeof(T) == 2 ? 7 : 6) runs(conv v) {
    extern __shared__ int4 aligned[];
    int *kinds = (int *)aligned, rows = CONV_WARPS * v.run + KK, n = v.run + KK;
    int64_t first = (int64_t)blockIdx.x * CONV_WARPS * v.run - KK, mine = threadIdx.y * v.run;
    int64_t e = ((int64_t)blockIdx.y * 32 + threadIdx.x) * V;
    bool idle = e >= v.q.E || first + mine + KK >= v.q.M;
    conv_stream<T, V> in =
        conv_open<T, V>(v.x, v.x_row, first + mine, idle ? 0 : n, v.q.M, idle ? 0 : e);
    kr_pack<T, V> packs[CONV_AHEAD];
#pragma unroll
    for (int i = 0; i < CONV_AHEAD; i++) in.fetch(i, packs[i]);
    conv_kinds(v.q, v.state.data != NULL, first, rows, kinds, NULL);
    if (idle) return;
    kinds += mine;
    T *y = (T *)v.y + (first + mine) * v.y_row + e;
    float w[KK][V], b[V], window[KK - 1][V] = {}, x[V];
    conv_load_taps<KK>(v.taps, v.q.K, e, w, b);
#pragma unroll 1
    for (int part = 0; part < n; part += CONV_AHEAD) {
        if (part >= KK && conv_plain(kinds + part)) {
#pragma unroll
            for (int i = 0; i < CONV_AHEAD; i++, y += v.y_row) {
                kr_unpack(packs[i], x);
                in.fetch(part + i + CONV_AHEAD, packs[i]);
                put_y<SILU>(y, w, b, window, x);
                conv_shift<KK>(window, x);
            }
        } else {
#pragma unroll
            for (int i = 0; i < CONV_AHEAD; i++, y += v.y_row) {
                int kind = kinds[part + i];
                kr_unpack(packs[i], x);
                in.fetch(part + i + CONV_AHEAD, packs[i]);
                if (kind != ROW_GOES_ON) enter<KK>(v, e, kind, window);
                if (part >= KK && kind != ROW_IS_OUTSIDE) put_y<SILU>(y, w, b, window, x);
                conv_shift<KK>(window, x);
            }
        }
    }
}

/* Block column s: sequence s from its state to its state. Only this thread touches its channels of
 * the slot, so the two may be one memory. */
template <typename T, int KK, int V, bool SILU>
static __global__ void sequences(conv v) {
    int64_t s = blockIdx.x, e = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (e >= v.q.E) return;
    int64_t first = v.q.seqs[3 * s], count = v.q.seqs[3 * s + 1], slot = v.q.seqs[3 * s + 2];
    float w[KK][V], b[V], window[KK - 1][V], x[V];
    kr_go_on();
    conv_load_taps<KK>(v.taps, v.q.K, e, w, b);
    conv_load_window<KK>(v.state, slot, v.q.K, e, v.state.data != NULL, window);
    kr_after();
    for (int64_t r = first; r < first + count; r++) {
        kr_load_pack<V>((const T *)v.x + r * v.x_row + e, x);
        if (v.q.reset && v.q.reset[r]) enter<KK>(v, e, ROW_IS_FRESH, window);
        put_y<SILU>((T *)v.y + r * v.y_row + e, w, b, window, x);
        conv_shift<KK>(window, x);
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
    float window[CONV_TAPS - 1]; /* the input j + 1 rows before the end */
    bool seen = true;
#pragma unroll
    for (int j = 0; j < CONV_TAPS - 1; j++) {
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
    for (int j = 0; j < CONV_TAPS - 1; j++)
        if (j < v.q.K - 1)
            v.next.data[slot * v.next.slot + (v.q.K - 2 - j) * v.next.row + e] = window[j];
}

template <typename T, int KK, int V, bool SILU>
static void launch(conv v) {
    if (v.q.M <= SHORT * v.q.S) {
        dim3 grid((unsigned)v.q.S, kr_blocks(v.q.E, 64 * V));
        kr_launch_early(sequences<T, KK, V, SILU>, v.early, grid, 64, 0, v);
        return;
    }
    v.run = kr_causal_conv_run(v.q.M, v.q.E, KR_CAUSAL_CONV_WARPS);
    dim3 grid(kr_blocks(v.q.M, CONV_WARPS * v.run), kr_blocks(v.q.E, 32 * V));
    size_t shared = (size_t)(CONV_WARPS * v.run + KK) * sizeof(int);
    runs<T, KK, V, SILU><<<grid, dim3(32, CONV_WARPS), shared, kr_cuda_stream()>>>(v);
    if (v.next.data && v.q.K > 1)
        states<T><<<dim3((unsigned)v.q.S, kr_blocks(v.q.E, 128)), 128, 0, kr_cuda_stream()>>>(v);
}

template <typename T, bool SILU>
static void launch_type(const conv &v, bool packs) {
    if (v.q.K > 4)
        launch<T, CONV_TAPS, 1, SILU>(v);
    else if (packs)
        launch<T, 4, 4, SILU>(v);
    else
        launch<T, 4, 1, SILU>(v);
}

extern "C" void kr_causal_conv_cuda(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *weight = &c->in[1], *y = &c->out[0];
    const kr_tensor *state = &c->in[5], *next = &c->out[1];
    const kr_causal_conv_attr *attr = (const kr_causal_conv_attr *)c->attr;
    conv v = {{(const int64_t *)c->in[3].data, (const uint8_t *)c->in[4].data, c->in[3].shape[0],
               x->shape[0], x->shape[1], (int)weight->shape[2]},
              conv_taps_of(weight, &c->in[2]),
              conv_state_of(state),
              conv_state_of(next),
              x->data,
              y->data,
              x->stride[0],
              y->stride[0],
              0,
              attr->early != 0};
    bool silu = attr->silu != 0;
    if (v.q.E == 0 || v.q.S == 0) return;
    bool packs = kr_packs(x, 4) && kr_packs(y, 4) && kr_packs(state, 4) && kr_packs(next, 4);
    if (x->dtype == KR_BF16 && silu) launch_type<bf16, true>(v, packs);
    if (x->dtype == KR_BF16 && !silu) launch_type<bf16, false>(v, packs);
    if (x->dtype == KR_F32 && silu) launch_type<float, true>(v, packs);
    if (x->dtype == KR_F32 && !silu) launch_type<float, false>(v, packs);
}
