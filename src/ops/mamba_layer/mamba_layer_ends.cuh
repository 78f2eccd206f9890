/* mamba_layer_ends.cuh - what the kernels of mamba_layer.cu and mamba2_layer.cu do alike at the
 * ends of a layer: the residual stream and its norm, the convolution behind in_proj, out_proj. */
#ifndef KR_MAMBA_LAYER_ENDS_CUH
#define KR_MAMBA_LAYER_ENDS_CUH

#include "ops/mamba_layer/mamba_layer_block.cuh"

/* ---- the stream and its norm ----------------------------------------------------------------- */

/* Two numbers of the residual stream: from the tensor in front of the first layer, or posted. */
template <int R>
static __device__ __forceinline__ ulonglong2 peek_stream(const float *x, const layer_sizes &s,
                                                         int m, int i, bool first) {
    if (!first) return peek<R>(all_x, m * s.D + i);
    x += m * s.ld_from + i;
    return make_ulonglong2(__float_as_uint(x[0]), __float_as_uint(x[1]));
}

/* Brings the next layer's norm near; the blocks share the lines. */
static __device__ __forceinline__ void prefetch_norm(const float *norm, int D) {
    int i = (threadIdx.x * gridDim.x + blockIdx.x) * 32;
    if (i < D) asm volatile("prefetch.global.L2 [%0];" ::"l"(norm + i));
}

/* rows = norm * x, unscaled; squares: the warps' sums of x^2. */
template <typename T, int R>
static __device__ __forceinline__ void take_stream(const float *x0, const layer_sizes &s,
                                                   const layer_parts &l, uint32_t date,
                                                   bool is_first, const block &b) {
    constexpr int STEP = turn<R>::STEP, BATCH = turn<R>::BATCH;
    int m = threadIdx.x / turn<R>::WIDTH, first = threadIdx.x % turn<R>::WIDTH * 2;
    int D = s.D, end = m < b.M ? D : 0;
    float sum = 0;
    char *row = b.rows + m * b.ld;
    unsigned lanes = __ballot_sync(0xffffffffu, first < end);
    for (int i = first; i < end; i += BATCH * STEP) {
        ulonglong2 v[BATCH];
        float w[BATCH][2];
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            int at = i + k * STEP;
            if (at < D) w[k][0] = l.norm[at], w[k][1] = l.norm[at + 1];
        }
        if (i == first && !is_first) wait_for_first<R>(all_x, m * D + first, date, lanes);
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            if (i + k * STEP < D) v[k] = peek_stream<R>(x0, s, m, i + k * STEP, is_first);
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            int at = i + k * STEP;
            if (at >= D) break;
            if (!is_first) wait_for<R>(v[k], all_x, m * D + at, date);
            float x = __uint_as_float((uint32_t)v[k].x), y = __uint_as_float((uint32_t)v[k].y);
            sum += x * x + y * y;
            put_numbers(row, at, x * w[k][0], y * w[k][1], (const T *)NULL);
        }
    }
    put_squares(b, sum);
}

/* 1 over the root of the mean square of the n numbers of row m. */
template <int R>
static __device__ __forceinline__ float scale_of(const block &b, int m, float one_of_n, float eps) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS / R; i++) sum += b.squares[m * (WARPS / R) + i];
    return rsqrtf(sum * one_of_n + eps);
}

/* ---- the convolution ------------------------------------------------------------------------- */

/* What an output of in_proj needs besides the product: maybe its way through the convolution. */
struct finish {
    float bias, conv_bias, tap[TAPS], past[TAPS]; /* of past one less is used */
    float *window;                                /* NULL: no one's */
};

/* Of a row of in_proj; c: which channel of the convolution it is, or -1. */
static __device__ __forceinline__ finish fetch_finish(const layer_sizes &s, const layer_parts &l,
                                                      int64_t slot, int row, int c) {
    finish f = {};
    if (l.in_bias) f.bias = l.in_bias[row];
    if (c < 0) return f;
    if (l.conv_bias) f.conv_bias = l.conv_bias[c];
    const float *window = l.window + slot * s.from_slot + c;
#pragma unroll
    for (int w = 0; w < TAPS; w++) {
        if (w < s.K) f.tap[w] = l.conv[c * s.K + w];
        if (w < s.K - 1 && slot >= 0) f.past[w] = window[w * s.from_tap];
    }
    if (slot >= 0) f.window = l.window_out + slot * s.to_slot + c;
    return f;
}

/* u of a channel. */
static __device__ __forceinline__ float convolved(const layer_sizes &s, const finish &f, float x) {
    float u = f.conv_bias;
#pragma unroll
    for (int w = 0; w < TAPS; w++)
        if (w < s.K) u += f.tap[w] * (w < s.K - 1 ? f.past[w] : x);
    return f.window ? fast_silu(u) : 0;
}

/* Moves the window of a channel on. */
static __device__ __forceinline__ void move_window(const layer_sizes &s, const finish &f, float x) {
#pragma unroll
    for (int w = 1; w < TAPS; w++)
        if (f.window && w < s.K) f.window[(w - 1) * s.to_tap] = w < s.K - 1 ? f.past[w] : x;
}

/* This thread's output of in_proj in its i-th turn, and the channel (of the block's) it is of;
 * false: there is none. */
template <int R>
static __device__ __forceinline__ bool output_of_in(const block &b, const strip &in, int i,
                                                    output *o, int *c) {
    *o = output_at<R>(i);
    *c = o->t * in.half + o->j % in.half;
    return o->m < b.M && *c < in.mine.count;
}

static __device__ __forceinline__ finish fetch_channel(const layer_sizes &s, const layer_parts &l,
                                                       const block &b, const strip &in,
                                                       const output &o, int c) {
    bool of_x = o.j < in.half;
    return fetch_finish(s, l, b.slot[o.m], in.row(o.t, o.j), of_x ? in.mine.first + c : -1);
}

/* Of the first turn, for make_channels, earlier than it is needed. */
template <int R>
static __device__ __forceinline__ finish fetch_first(const layer_sizes &s, const layer_parts &l,
                                                     const block &b, const strip &in) {
    output o;
    int c;
    finish f = {};
    if (output_of_in<R>(b, in, threadIdx.x, &o, &c)) f = fetch_channel(s, l, b, in, o, c);
    return f;
}

/* Behind the product of the strip: u = silu(convolution of x) and silu(z) of the block's channels,
 * [M,count]. put(m, c, u, u of the channel behind it) hands on what others need. */
template <typename T, int R, typename P>
static __device__ __forceinline__ void make_channels(const layer_sizes &s, const layer_parts &l,
                                                     const block &b, const strip &in, finish f,
                                                     float scale, float *u_of, float *gate_of,
                                                     P put) {
    for (int i = threadIdx.x; (i & ~31) < in.tiles * TILE * R; i += THREADS) {
        output o;
        int c;
        bool alive = output_of_in<R>(b, in, i, &o, &c);
        if (i >= THREADS && alive) f = fetch_channel(s, l, b, in, o, c);
        float x = alive ? get_sum<R>(b, o) * scale + f.bias : 0;
        float u = rounded(convolved(s, f, x), (const T *)NULL);
        float following = __shfl_down_sync(0xffffffffu, u, 1);
        if (!alive) continue;
        if (o.j < in.half) {
            put(o.m, in.mine.first + c, u, following);
            u_of[o.m * in.mine.count + c] = u;
            move_window(s, f, x);
        } else {
            gate_of[o.m * in.mine.count + c] = fast_silu(rounded(x, (const T *)NULL));
        }
    }
}

/* ---- out_proj -------------------------------------------------------------------------------- */

/* What this block's share of the residual stream was: its word is there since the layer began. */
template <int R>
static __device__ __forceinline__ float old_stream(const float *x, const layer_sizes &s, int m,
                                                   int row, bool first) {
    if (first) return x[m * s.ld_from + row];
    int i = m * s.D + row;
    ulonglong2 two = peek<R>(all_x, i / 2 * 2);
    return __uint_as_float((uint32_t)(i % 2 ? two.y : two.x));
}

/* take() brings y into the rows, and returns the scale of what this thread makes of it. */
template <typename T, int R, typename F>
static __device__ __forceinline__ void make_stream(const float *x0, const layer_sizes &s,
                                                   const layer_parts &l, uint32_t date, bool first,
                                                   const block &b, const strip &out, ring &from,
                                                   F take) {
    int n = out.tiles * TILE * R;
    output o = output_at<R>(threadIdx.x);
    int row = out.row(o.t, o.j);
    float x = 0, bias = 0;
    if (o.m < b.M && row >= 0) {
        x = old_stream<R>(x0, s, o.m, row, first);
        if (l.out_bias) bias = l.out_bias[row];
    }
    float scale = take();
    product<T, R>(b, out, from);
    for (int i = threadIdx.x; i < n; i += THREADS) {
        if (i >= THREADS) {
            o = output_at<R>(i);
            row = out.row(o.t, o.j);
            if (o.m >= b.M || row < 0) continue;
            x = old_stream<R>(x0, s, o.m, row, first);
            if (l.out_bias) bias = l.out_bias[row];
        }
        if (o.m >= b.M || row < 0) continue;
        float y = x + rounded(get_sum<R>(b, o) * scale + bias, (const T *)NULL);
        post<R>(all_x, o.m * s.D + row, __float_as_uint(y), date);
        l.y[o.m * s.ld_y + row] = y;
    }
}

/* ---- a kernel's beginning -------------------------------------------------------------------- */

/* What the kernels in front may have changed. */
static __device__ uint32_t begin(const int64_t *seqs, int M, int64_t *slot) {
    __shared__ uint32_t before;
    int m = threadIdx.x;
    kr_after();
    if (m < M) slot[m] = seqs[3 * m + 1] > 0 ? seqs[3 * m + 2] : -1;
    if (m == 0) before = layers_run;
    sync_workers();
    return before;
}

/* The layers' addresses: in constant memory each would be new to the block's cache. */
template <typename L>
static __device__ __forceinline__ void copy_layers(const L *layers, int n, L *to) {
    const word *from = (const word *)layers;
    for (int i = threadIdx.x; i < n * (int)(sizeof(L) / sizeof(word)); i += THREADS)
        ((word *)to)[i] = from[i];
}

static __device__ __forceinline__ void make_signals(const ring &r) {
    if (threadIdx.x == 0)
        for (int i = 0; i < r.n; i++) {
            make_signal(&r.of->full[i], r.by_engine() ? 1 : 32);
            make_signal(&r.of->empty[i], r.every_lane() ? THREADS : WARPS);
        }
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
    __syncthreads();
}

#endif
