/* mamba_layer.cu - decode steps of few rows: all layers of a model in one kernel. mamba_layer.h has
 * the equations.
 *
 * Reading the weights is the cost, so they never wait: one warp of every block does nothing but
 * copy the rows of the weights that are the block's, of one layer after the other, into a ring of
 * shared memory, as far ahead as the ring is long. Eight warps multiply what has arrived. A block
 * has the same share of the channels in in_proj, convolution and recurrence, and a share of the
 * rows of x_proj and out_proj; four times a layer (u, xp, y, the residual stream) all need what
 * each has made, and exchange it by dated words (mamba_layer_block.cuh). All blocks have to run at
 * the same time; there is at most one for each multiprocessor. */
#include "ops/mamba_layer/mamba_layer_block.cuh"

/* ---- norm, in_proj, convolution -------------------------------------------------------------- */

/* Two numbers of the residual stream: from the tensor in front of the first layer, or posted. */
template <int R>
static __device__ __forceinline__ ulonglong2 peek_stream(const arguments &a, int m, int i,
                                                         bool first) {
    if (!first) return peek<R>(all_x, m * a.s.D + i);
    const float *x = a.x + m * a.s.ld_from + i;
    return make_ulonglong2(__float_as_uint(x[0]), __float_as_uint(x[1]));
}

/* Brings the next layer's norm near; the blocks share the lines. */
static __device__ __forceinline__ void prefetch_norm(const float *norm, int D) {
    int i = (threadIdx.x * gridDim.x + blockIdx.x) * 32;
    if (i < D) asm volatile("prefetch.global.L2 [%0];" ::"l"(norm + i));
}

/* rows = norm * x, unscaled; squares: the warps' sums of x^2. */
template <typename T, int R>
static __device__ __forceinline__ void take_stream(const arguments &a, const layer &l,
                                                   uint32_t date, bool is_first, const block &b) {
    constexpr int STEP = turn<R>::STEP, BATCH = turn<R>::BATCH;
    int m = threadIdx.x / turn<R>::WIDTH, first = threadIdx.x % turn<R>::WIDTH * 2;
    int D = a.s.D, end = m < b.M ? D : 0;
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
            if (i + k * STEP < D) v[k] = peek_stream<R>(a, m, i + k * STEP, is_first);
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
    sum = kr_warp_sum(sum);
    if (threadIdx.x % 32 == 0) b.squares[threadIdx.x / 32] = sum;
    sync_workers();
}

template <int R>
static __device__ __forceinline__ float scale_of(const sizes &s, const block &b, int m) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS / R; i++) sum += b.squares[m * (WARPS / R) + i];
    return rsqrtf(sum * s.one_of_D + s.eps);
}

/* What an output of in_proj needs besides the product: of x its way through the convolution. */
struct finish {
    float bias, conv_bias, tap[TAPS], past[TAPS]; /* of past one less is used */
    float *window;                                /* NULL: no one's */
};

static __device__ __forceinline__ finish fetch_finish(const arguments &a, const layer &l,
                                                      const block &b, const output &o, int c) {
    finish f = {};
    bool of_z = o.j >= b.in.half;
    int64_t slot = b.slot[o.m];
    if (l.in_bias) f.bias = l.in_bias[of_z ? a.s.E + c : c];
    if (of_z) return f;
    if (l.conv_bias) f.conv_bias = l.conv_bias[c];
    const float *window = l.window + slot * a.s.from_slot + c;
#pragma unroll
    for (int w = 0; w < TAPS; w++) {
        if (w < a.s.K) f.tap[w] = l.conv[c * a.s.K + w];
        if (w < a.s.K - 1 && slot >= 0) f.past[w] = window[w * a.s.from_tap];
    }
    if (slot >= 0) f.window = l.window_out + slot * a.s.to_slot + c;
    return f;
}

/* u of a channel. */
static __device__ __forceinline__ float convolved(const sizes &s, const finish &f, float x) {
    float u = f.conv_bias;
#pragma unroll
    for (int w = 0; w < TAPS; w++)
        if (w < s.K) u += f.tap[w] * (w < s.K - 1 ? f.past[w] : x);
    return f.window ? fast_silu(u) : 0;
}

/* Moves the window of a channel on. */
static __device__ __forceinline__ void move_window(const sizes &s, const finish &f, float x) {
#pragma unroll
    for (int w = 1; w < TAPS; w++)
        if (f.window && w < s.K) f.window[(w - 1) * s.to_tap] = w < s.K - 1 ? f.past[w] : x;
}

/* This thread's output of in_proj in its i-th turn, and the channel (of the block's) it is of;
 * false: there is none. */
template <int R>
static __device__ __forceinline__ bool output_of_in(const block &b, int i, output *o, int *c) {
    *o = output_at<R>(i);
    *c = o->t * b.in.half + o->j % b.in.half;
    return o->m < b.M && *c < b.in.mine.count;
}

template <int R>
static __device__ __forceinline__ finish fetch_first(const arguments &a, const layer &l,
                                                     const block &b) {
    output o;
    int c;
    finish f = {};
    if (output_of_in<R>(b, threadIdx.x, &o, &c)) f = fetch_finish(a, l, b, o, b.in.mine.first + c);
    return f;
}

/* f: what fetch_first gave, earlier than it is needed. */
template <typename T, int R>
static __device__ __forceinline__ void make_u(const arguments &a, const layer &l, uint32_t date,
                                              bool first, finish f, const block &b, ring &from) {
    const T *type = NULL;
    int n = b.in.tiles * TILE * R;
    take_stream<T, R>(a, l, date - 1, first, b);
    float scale = scale_of<R>(a.s, b, threadIdx.x / TILE % R); /* the same m in all turns */
    product<T, R>(b, b.in, from);
    for (int i = threadIdx.x; (i & ~31) < n; i += THREADS) {
        output o;
        int c;
        bool alive = output_of_in<R>(b, i, &o, &c), of_u = o.j < b.in.half;
        if (i >= THREADS && alive) f = fetch_finish(a, l, b, o, b.in.mine.first + c);
        float x = alive ? get_sum<R>(b, o) * scale + f.bias : 0;
        float u = rounded(convolved(a.s, f, x), type);
        float following = __shfl_down_sync(0xffffffffu, u, 1);
        if (!alive) continue;
        if (of_u) {
            post_number<R>(all_u, o.m, a.s.E, b.in.mine.first + c, u, following, date, type);
            b.u[o.m * b.in.mine.count + c] = u;
            move_window(a.s, f, x);
        } else {
            b.gate[o.m * b.in.mine.count + c] = fast_silu(rounded(x, type));
        }
    }
}

/* ---- x_proj ---------------------------------------------------------------------------------- */

template <typename T, int R>
static __device__ __forceinline__ void make_xp(const arguments &a, uint32_t date, const block &b,
                                               ring &from) {
    const strip &s = b.xp_rows;
    if (s.tiles == 0) return;
    take_rows<T, R>(b, all_u, a.s.E * (int)sizeof(T) / 4, date);
    product<T, R>(b, s, from);
    for (int i = threadIdx.x; i < s.tiles * TILE * R; i += THREADS) {
        output o = output_at<R>(i);
        int row = s.row(o.t, o.j, 0);
        if (row >= 0 && o.m < b.M)
            post<R>(all_xp, o.m * (a.s.r + 2 * a.s.N) + row, __float_as_uint(get_sum<R>(b, o)),
                    date);
    }
}

/* ---- dt_proj and the recurrence -------------------------------------------------------------- */

/* Four lanes take a channel of a row: each has a quarter of dt_proj's row and every fourth quad of
 * the states. This is what a lane can load before xp is there. */
struct quarter {
    uint4 w[LOADS];
    float A[4], h[4], bias, D;
    const float *state; /* NULL: no one's */
    float *state_out;
    int c, i, m; /* c: of all channels, i: of the block's */
    bool alive;
};

static __device__ __forceinline__ void fetch_quad(const float *p, int n, int N, bool whole,
                                                  float (&to)[4]) {
    if (whole) {
        float4 v = *(const float4 *)(p + n);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] = n + i < N ? p[n + i] : 0;
    }
}

/* Item: row m, channel i; each row has 2^log of them, of which the block has some. */
template <typename T>
static __device__ __forceinline__ quarter fetch_quarter(const arguments &a, const layer &l,
                                                        const block &b, int item, int log) {
    constexpr int SIZE = 16 / sizeof(T);
    quarter q = {};
    int lane = threadIdx.x % 4, n = lane * 4, N = a.s.N;
    q.m = item >> log;
    q.i = item & ((1 << log) - 1);
    q.alive = q.m < b.M && q.i < b.in.mine.count;
    if (!q.alive) q.m = q.i = 0;
    q.c = b.in.mine.first + q.i;
    int64_t slot = b.slot[q.m];
    const T *w = (const T *)l.w_dt + q.c * a.s.ld_dt;
#pragma unroll
    for (int k = 0; k < LOADS; k++)
        if (a.whole && (k * 4 + lane) * SIZE < a.s.r)
            q.w[k] = *(const uint4 *)(w + (k * 4 + lane) * SIZE);
    if (n < N) fetch_quad(l.A + q.c * a.s.ld_A, n, N, a.whole, q.A);
    q.bias = l.dt_bias[q.c];
    q.D = l.D[q.c];
    if (slot < 0 || !q.alive) return q;
    q.state = l.state + slot * a.s.from_h + q.c * N;
    q.state_out = l.state_out + slot * a.s.to_h + q.c * N;
    if (n < N) fetch_quad(q.state, n, N, a.whole, q.h);
    return q;
}

template <typename T>
static __device__ __forceinline__ float dot(const uint4 &w, const float *x) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < (int)(16 / sizeof(T)); i += 4) {
        float4 v = *(const float4 *)(x + i);
        const T *p = (const T *)&w + i;
        sum +=
            kr_load(p) * v.x + kr_load(p + 1) * v.y + kr_load(p + 2) * v.z + kr_load(p + 3) * v.w;
    }
    return sum;
}

/* The raw step, in the 4 lanes of the channel. */
template <typename T>
static __device__ __forceinline__ float project(const arguments &a, const layer &l,
                                                const quarter &q, const float *x) {
    constexpr int SIZE = 16 / sizeof(T);
    int lane = threadIdx.x % 4, r = a.s.r;
    float sum = 0;
    if (a.whole) {
#pragma unroll
        for (int k = 0; k < LOADS; k++)
            if ((k * 4 + lane) * SIZE < r) sum += dot<T>(q.w[k], x + (k * 4 + lane) * SIZE);
    }
    const T *w = (const T *)l.w_dt + q.c * a.s.ld_dt;
    for (int k = a.whole ? LOADS * 4 * SIZE + lane : lane; k < r; k += 4)
        sum += kr_load(w + k) * x[k];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    return sum + __shfl_xor_sync(0xffffffffu, sum, 2);
}

static __device__ __forceinline__ float softplus(float x) { return x > 20 ? x : log1pf(__expf(x)); }

static __device__ __forceinline__ float power_of_2(float x) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}

/* Moves this lane's states on; returns what they add to the read. */
static __device__ __forceinline__ float move(const arguments &a, const layer &l, quarter &q,
                                             const float *B, float delta, float du) {
    int N = a.s.N;
    float read = 0, rate = delta * 1.44269504f;
    float in[4], out[4];
    for (int n = threadIdx.x % 4 * 4; n < N; n += 16) {
        if (n >= 16) {
            fetch_quad(l.A + q.c * a.s.ld_A, n, N, a.whole, q.A);
            fetch_quad(q.state, n, N, a.whole, q.h);
        }
        fetch_quad(B, n, N, a.whole, in);
        fetch_quad(B + N, n, N, a.whole, out);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (!a.whole && n + i >= N) break;
            q.h[i] = power_of_2(rate * q.A[i]) * q.h[i] + du * in[i];
            read += q.h[i] * out[i];
            if (!a.whole) q.state_out[n + i] = q.h[i];
        }
        if (a.whole) *(float4 *)(q.state_out + n) = make_float4(q.h[0], q.h[1], q.h[2], q.h[3]);
    }
    return read;
}

template <typename T>
static __device__ __forceinline__ float step_channel(const arguments &a, const layer &l,
                                                     const block &b, quarter &q) {
    const float *x = b.xp + q.m * (a.s.r + 2 * a.s.N);
    int at = q.m * b.in.mine.count + q.i;
    float u = b.u[at], gate = b.gate[at];
    float delta = softplus(project<T>(a, l, q, x) + q.bias);
    float read = q.state ? move(a, l, q, x + a.s.r, delta, delta * u) : 0;
    read += __shfl_xor_sync(0xffffffffu, read, 1);
    read += __shfl_xor_sync(0xffffffffu, read, 2);
    return q.state ? (read + q.D * u) * gate : 0;
}

/* Gathers xp of all rows, which follow each other. */
template <int R>
static __device__ __forceinline__ void take_xp(const block &b, int words, uint32_t date) {
    int first = threadIdx.x * 2;
    unsigned lanes = __ballot_sync(0xffffffffu, first < words);
    if (first < words) wait_for_first<R>(all_xp, first, date, lanes);
    for (int i = first; i < words; i += THREADS * 2) {
        ulonglong2 v = peek<R>(all_xp, i);
        wait_for<R>(v, all_xp, i, date);
        *(uint2 *)(b.xp + i) = make_uint2((uint32_t)v.x, (uint32_t)v.y);
    }
    sync_workers();
}

/* FalconMamba's norms on the three parts of each row of xp. */
static __device__ __forceinline__ void norm_xp(const sizes &s, const block &b) {
    int m = threadIdx.x / 32, r = s.r, N = s.N;
    for (int part = 0; part < 3 && m < b.M; part++) {
        float *x = b.xp + m * (r + 2 * N) + (part > 0 ? r : 0) + (part > 1 ? N : 0);
        int n = part > 0 ? N : r;
        float sum = 0;
        for (int i = threadIdx.x % 32; i < n; i += 32) sum += x[i] * x[i];
        float scale = rsqrtf(kr_warp_sum(sum) / (float)n + s.mixer_eps);
        for (int i = threadIdx.x % 32; i < n; i += 32) x[i] *= scale;
    }
    sync_workers();
}

template <typename T, int R>
static __device__ __forceinline__ void make_y(const arguments &a, const layer &l, uint32_t date,
                                              const block &b) {
    constexpr int TOGETHER = THREADS / 4;
    int log = 32 - __clz(b.in.mine.count - 1), end = b.M << log, at = threadIdx.x / 4;
    quarter q = fetch_quarter<T>(a, l, b, at, log);
    take_xp<R>(b, b.M * (a.s.r + 2 * a.s.N), date);
    if (a.s.mixer_eps > 0) norm_xp(a.s, b);
    for (; at / 8 * 8 < end; at += TOGETHER) { /* 8 in a warp */
        if (at >= TOGETHER) q = fetch_quarter<T>(a, l, b, at, log);
        float y = step_channel<T>(a, l, b, q);
        float following = __shfl_down_sync(0xffffffffu, y, 4);
        if (q.alive && threadIdx.x % 4 == 0)
            post_number<R>(all_y, q.m, a.s.E, q.c, y, following, date, (const T *)NULL);
    }
}

/* ---- out_proj -------------------------------------------------------------------------------- */

/* What this block's share of the residual stream was: its word is there since the layer began. */
template <int R>
static __device__ __forceinline__ float old_stream(const arguments &a, int m, int row, bool first) {
    if (first) return a.x[m * a.s.ld_from + row];
    int i = m * a.s.D + row;
    ulonglong2 two = peek<R>(all_x, i / 2 * 2);
    return __uint_as_float((uint32_t)(i % 2 ? two.y : two.x));
}

template <typename T, int R>
static __device__ __forceinline__ void make_stream(const arguments &a, const layer &l,
                                                   uint32_t date, bool first, const block &b,
                                                   ring &from) {
    const strip &s = b.out;
    int n = s.tiles * TILE * R;
    output o = output_at<R>(threadIdx.x);
    int row = s.row(o.t, o.j, 0);
    float x = 0, bias = 0;
    if (o.m < b.M && row >= 0) {
        x = old_stream<R>(a, o.m, row, first);
        if (l.out_bias) bias = l.out_bias[row];
    }
    take_rows<T, R>(b, all_y, a.s.E * (int)sizeof(T) / 4, date);
    product<T, R>(b, s, from);
    for (int i = threadIdx.x; i < n; i += THREADS) {
        if (i >= THREADS) {
            o = output_at<R>(i);
            row = s.row(o.t, o.j, 0);
            if (o.m >= b.M || row < 0) continue;
            x = old_stream<R>(a, o.m, row, first);
            if (l.out_bias) bias = l.out_bias[row];
        }
        if (o.m >= b.M || row < 0) continue;
        float y = x + rounded(get_sum<R>(b, o) + bias, (const T *)NULL);
        post<R>(all_x, o.m * a.s.D + row, __float_as_uint(y), date);
        l.y[o.m * a.s.ld_y + row] = y;
    }
}

/* ---- the kernel ------------------------------------------------------------------------------ */

/* What the kernels in front may have changed. */
static __device__ uint32_t begin(const arguments &a, int64_t *slot) {
    __shared__ uint32_t before;
    int m = threadIdx.x;
    kr_after();
    if (m < a.s.M) slot[m] = a.seqs[3 * m + 1] > 0 ? a.seqs[3 * m + 2] : -1;
    if (m == 0) before = layers_run;
    sync_workers();
    return before;
}

template <typename T, int R>
static __device__ void run_layers(const arguments &a, const block &b, uint32_t before, ring from) {
    finish f = fetch_first<R>(a, b.layers[0], b);
    word goal = arrivals_before;
    for (int i = 0; i < a.n; i++) {
        const layer &l = b.layers[i];
        uint32_t date = before + i + 1;
        if (i + 1 < a.n) prefetch_norm(b.layers[i + 1].norm, a.s.D);
        make_u<T, R>(a, l, date, i == 0, f, b, from);
        meet<R>(goal);
        make_xp<T, R>(a, date, b, from);
        meet<R>(goal);
        make_y<T, R>(a, l, date, b);
        meet<R>(goal);
        if (i + 1 < a.n) f = fetch_first<R>(a, b.layers[i + 1], b);
        make_stream<T, R>(a, l, date, i == 0, b, from);
        if (i + 1 < a.n) meet<R>(goal);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        layers_run = before + a.n;
        arrivals_before = goal;
    }
}

/* The layers' addresses: in constant memory each would be new to the block's cache. */
static __device__ __forceinline__ void copy_layers(const arguments &a, layer *to) {
    const word *from = (const word *)a.layers;
    for (int i = threadIdx.x; i < a.n * (int)(sizeof(layer) / sizeof(word)); i += THREADS)
        ((word *)to)[i] = from[i];
}

static __device__ __forceinline__ void make_signals(signals *of, int n, bool plain) {
    if (threadIdx.x == 0)
        for (int i = 0; i < n; i++) {
            make_signal(&of->full[i], plain ? 32 : 1);
            make_signal(&of->empty[i], plain ? THREADS : WARPS);
        }
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
    __syncthreads();
}

template <typename T, int R>
static __global__ void __launch_bounds__(THREADS + 32, 1)
    step(const __grid_constant__ arguments a) {
    extern __shared__ uint4 shared[];
    __shared__ signals of;
    __shared__ float squares[WARPS];
    __shared__ int64_t slot[R];
    char *bytes = (char *)shared;
    ring r = {bytes, &of, a.at.slots, 0, 0, !by_engine(a)};
    kr_go_on();
    make_signals(&of, r.n, r.plain);
    if (threadIdx.x >= THREADS) {
        fill_ring<T>(a, r);
        return;
    }
    layer *layers = (layer *)(bytes + a.at.layers);
    copy_layers(a, layers);
    block b = {layers,
               strip_of<T>(a.s, IN),
               strip_of<T>(a.s, XP),
               strip_of<T>(a.s, OUT),
               bytes + a.at.rows,
               (float *)(bytes + a.at.parts),
               (float *)(bytes + a.at.xp),
               (float *)(bytes + a.at.u),
               (float *)(bytes + a.at.gate),
               squares,
               slot,
               a.at.ld_rows,
               a.s.M};
    run_layers<T, R>(a, b, begin(a, slot), r);
}

/* ---- launching ------------------------------------------------------------------------------- */

static int up(int64_t bytes) { return (int)((bytes + 127) / 128 * 128); }

static int larger(int a, int b) { return a > b ? a : b; }

/* As many slots as there is memory for. */
static places places_of(const sizes &s, int n, int size, int blocks, int most) {
    int channels = (s.E / KR_LAYER_UNIT / blocks + 1) * KR_LAYER_UNIT, rows = s.D / blocks + 1;
    int most_rows = larger(2 * channels, larger(rows, (s.r + 2 * s.N) / blocks + 1));
    int tiles = most_rows / TILE + 1, widest = larger(s.E, s.D) * size;
    int R = s.M <= 1 ? 1 : s.M <= 2 ? 2 : s.M <= 4 ? 4 : 8;
    places p = {};
    p.ld_rows = (widest + 63) / 64 * 64 | 64;
    p.parts = up((int64_t)p.ld_rows * R);
    p.xp = p.parts + up((int64_t)tiles * WARPS * R * TILE * 4);
    p.u = p.xp + up((int64_t)s.M * (s.r + 2 * s.N) * 4);
    p.gate = p.u + up((int64_t)s.M * channels * 4);
    p.layers = p.gate + up((int64_t)s.M * channels * 4);
    p.end = p.layers + up((int64_t)n * (int64_t)sizeof(layer));
    p.slots = (most - 1024 - p.end) / SLOT;
    if (p.slots > MOST_SLOTS) p.slots = MOST_SLOTS;
    int ring = p.slots * SLOT;
    p.rows += ring, p.parts += ring, p.xp += ring, p.u += ring, p.gate += ring;
    p.layers += ring;
    p.end += ring;
    return p;
}

static int blocks_of(const sizes &s) {
    int blocks = kr_cuda_processors(), units = s.E / KR_LAYER_UNIT;
    blocks = blocks < units ? blocks : units;
    return blocks < s.D ? blocks : s.D;
}

static places most_places(const kr_mamba_layer_sizes *of, bool half) {
    sizes s = {};
    s.M = (int)of->M, s.D = (int)of->D, s.E = (int)of->E, s.N = (int)of->N, s.r = (int)of->r;
    int size = half ? 2 : 4;
    return places_of(s, KR_LAYER_LAYERS, size, blocks_of(s), kr_cuda_shared());
}

extern "C" int kr_mamba_layer_slots(const kr_mamba_layer_sizes *of, bool half) {
    return most_places(of, half).slots;
}

/* There are no more blocks than multiprocessors: one on each is enough. */
template <typename T, int R>
static bool resident(int shared) {
    int each = 0;
    bool known = cudaFuncSetAttribute(step<T, R>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      shared) == cudaSuccess &&
                 cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, step<T, R>, THREADS + 32,
                                                               (size_t)shared) == cudaSuccess;
    if (!known) cudaGetLastError();
    return known && each >= 1;
}

template <typename T>
static bool rows_resident(int64_t M, int shared) {
    if (M <= 1) return resident<T, 1>(shared);
    if (M <= 2) return resident<T, 2>(shared);
    return M <= 4 ? resident<T, 4>(shared) : resident<T, 8>(shared);
}

extern "C" bool kr_mamba_layer_resident(const kr_mamba_layer_sizes *of, bool half) {
    int shared = most_places(of, half).end;
    return half ? rows_resident<bf16>(of->M, shared) : rows_resident<float>(of->M, shared);
}

static bool aligned(const void *p, int64_t bytes) {
    return (((uintptr_t)p | (uintptr_t)bytes) & 15) == 0;
}

static layer layer_of(const kr_call *c) {
    const kr_tensor *in = c->in, *out = c->out;
    layer l = {};
    l.w_in = in[KR_LAYER_IN].data;
    l.w_x = in[KR_LAYER_X_PROJ].data;
    l.w_dt = in[KR_LAYER_DT].data;
    l.w_out = in[KR_LAYER_OUT].data;
    l.norm = (const float *)in[KR_LAYER_NORM].data;
    l.in_bias = (const float *)in[KR_LAYER_IN_BIAS].data;
    l.conv = (const float *)in[KR_LAYER_CONV].data;
    l.conv_bias = (const float *)in[KR_LAYER_CONV_BIAS].data;
    l.dt_bias = (const float *)in[KR_LAYER_DT_BIAS].data;
    l.A = (const float *)in[KR_LAYER_A].data;
    l.D = (const float *)in[KR_LAYER_D].data;
    l.out_bias = (const float *)in[KR_LAYER_OUT_BIAS].data;
    l.window = (const float *)in[KR_LAYER_WINDOW].data;
    l.state = (const float *)in[KR_LAYER_STATE].data;
    l.window_out = (float *)out[KR_LAYER_WINDOW_OUT].data;
    l.state_out = (float *)out[KR_LAYER_STATE_OUT].data;
    l.y = (float *)out[KR_LAYER_Y].data;
    return l;
}

static sizes sizes_of(const kr_call *c) {
    const kr_tensor *in = c->in, *out = c->out;
    const kr_mamba_layer_attr *attr = (const kr_mamba_layer_attr *)c->attr;
    sizes s = {};
    s.ld_in = in[KR_LAYER_IN].stride[0];
    s.ld_x = in[KR_LAYER_X_PROJ].stride[0];
    s.ld_dt = in[KR_LAYER_DT].stride[0];
    s.ld_out = in[KR_LAYER_OUT].stride[0];
    s.ld_A = in[KR_LAYER_A].stride[0];
    s.ld_y = out[KR_LAYER_Y].stride[0];
    s.ld_from = in[KR_LAYER_X].stride[0];
    s.from_slot = in[KR_LAYER_WINDOW].stride[0];
    s.from_tap = in[KR_LAYER_WINDOW].stride[1];
    s.to_slot = out[KR_LAYER_WINDOW_OUT].stride[0];
    s.to_tap = out[KR_LAYER_WINDOW_OUT].stride[1];
    s.from_h = in[KR_LAYER_STATE].stride[0];
    s.to_h = out[KR_LAYER_STATE_OUT].stride[0];
    s.D = (int)in[KR_LAYER_X].shape[1];
    s.E = (int)in[KR_LAYER_OUT].shape[1];
    s.N = (int)in[KR_LAYER_A].shape[1];
    s.r = (int)in[KR_LAYER_DT].shape[1];
    s.M = (int)in[KR_LAYER_X].shape[0];
    s.K = (int)in[KR_LAYER_CONV].shape[2];
    s.eps = (float)attr->eps;
    s.mixer_eps = (float)attr->mixer_eps;
    s.one_of_D = 1 / (float)s.D;
    return s;
}

/* Whether every row of weights, A and the states is made of 16-byte vectors. */
static bool is_whole(const sizes &s, const layer &l, int size) {
    return aligned(l.w_in, s.ld_in * size) && aligned(l.w_x, s.ld_x * size) &&
           aligned(l.w_dt, s.ld_dt * size) && aligned(l.w_out, s.ld_out * size) &&
           aligned(l.A, s.ld_A * 4) && aligned(l.state, s.from_h * 4) &&
           aligned(l.state_out, s.to_h * 4) && aligned(NULL, s.r * size) && aligned(NULL, s.N * 4);
}

template <typename T, int R>
static void launch(arguments &a) {
    a.at = places_of(a.s, a.n, sizeof(T), blocks_of(a.s), kr_cuda_shared());
    int piece = piece_of(a.s.D * (int)sizeof(T)) * TILE;
    a.ahead = (UNDER_WAY + piece / 2) / piece;
    if (a.ahead > a.at.slots) a.ahead = a.at.slots;
    cudaFuncSetAttribute(step<T, R>, cudaFuncAttributeMaxDynamicSharedMemorySize, a.at.end);
    kr_launch_early(step<T, R>, true, dim3(blocks_of(a.s)), THREADS + 32, (size_t)a.at.end, a);
}

template <typename T>
static void launch_rows(arguments &a) {
    if (a.s.M <= 1)
        launch<T, 1>(a);
    else if (a.s.M <= 2)
        launch<T, 2>(a);
    else if (a.s.M <= 4)
        launch<T, 4>(a);
    else
        launch<T, 8>(a);
}

/* How many of the calls one kernel can do. */
static int gather(const kr_call *const *calls, int n, int size, arguments *a) {
    a->s = sizes_of(calls[0]);
    a->x = (const float *)calls[0]->in[KR_LAYER_X].data;
    a->seqs = (const int64_t *)calls[0]->in[KR_LAYER_SEQS].data;
    a->whole = true;
    for (a->n = 0; a->n < n && a->n < KR_LAYER_LAYERS; a->n++) {
        const kr_call *c = calls[a->n];
        sizes s = sizes_of(c);
        if (a->n > 0) s.ld_from = a->s.ld_from;
        if (memcmp(&s, &a->s, sizeof s) != 0 || c->in[KR_LAYER_SEQS].data != a->seqs) break;
        a->layers[a->n] = layer_of(c);
        a->whole = a->whole && is_whole(s, a->layers[a->n], size);
    }
    return a->n;
}

extern "C" void kr_mamba_layer_chain_cuda(const kr_call *const *calls, int n) {
    bool half = calls[0]->in[KR_LAYER_IN].dtype == KR_BF16;
    if (calls[0]->in[KR_LAYER_X].shape[0] == 0) return;
    for (int done = 0; done < n;) {
        arguments a;
        done += gather(calls + done, n - done, half ? 2 : 4, &a);
        if (half)
            launch_rows<bf16>(a);
        else
            launch_rows<float>(a);
    }
}

extern "C" void kr_mamba_layer_cuda(const kr_call *c) { kr_mamba_layer_chain_cuda(&c, 1); }
