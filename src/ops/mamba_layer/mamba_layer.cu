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
#include "ops/mamba_layer/mamba_layer_ends.cuh"
#include "ops/mamba_layer/mamba_layer_launch.cuh"

enum { LOADS = 6 };

struct layer : layer_parts {
    const void *w_x, *w_dt;
};

struct sizes : layer_sizes {
    int64_t ld_x, ld_dt, ld_A;
    int r;
    float mixer_eps;
};

typedef arguments_of<sizes, layer> arguments;

struct mamba_block : block {
    const layer *layers;
    strip in, xp_rows, out;
    float *xp, *u, *gate;
};

/* The warp that copies. */
template <typename T>
static __device__ void fill_ring(const arguments &a, ring to) {
    const strip in = strip_in<T>(a.s), out = strip_out<T>(a.s);
    const strip xp = cut_strip<T>(other_share(a.s.r + 2 * a.s.N), a.s.E, 0);
    for (int i = 0; i < a.n; i++) {
        const layer &l = a.layers[i];
        fill_strip<T>(in, l.w_in, a.s.ld_in, to);
        fill_strip<T>(xp, l.w_x, a.s.ld_x, to);
        fill_strip<T>(out, l.w_out, a.s.ld_out, to);
    }
}

/* ---- norm, in_proj, convolution -------------------------------------------------------------- */

/* f: what fetch_first gave, earlier than it is needed. */
template <typename T, int R>
static __device__ __forceinline__ void make_u(const arguments &a, const layer &l, uint32_t date,
                                              bool first, finish f, const mamba_block &b,
                                              ring &from) {
    take_stream<T, R>(a.x, a.s, l, date - 1, first, b);
    /* the same row in all turns */
    float scale = scale_of<R>(b, threadIdx.x / TILE % R, a.s.one_of_D, a.s.eps);
    product<T, R>(b, b.in, from);
    make_channels<T, R>(a.s, l, b, b.in, f, scale, b.u, b.gate,
                        [&](int m, int c, float u, float following) {
                            post_number<R>(all_u, m, a.s.E, c, u, following, date, (const T *)NULL);
                        });
}

/* ---- x_proj ---------------------------------------------------------------------------------- */

template <typename T, int R>
static __device__ __forceinline__ void make_xp(const arguments &a, uint32_t date,
                                               const mamba_block &b, ring &from) {
    const strip &s = b.xp_rows;
    if (s.tiles == 0) return;
    take_rows<T, R>(b, all_u, a.s.E * (int)sizeof(T) / 4, date);
    product<T, R>(b, s, from);
    for (int i = threadIdx.x; i < s.tiles * TILE * R; i += THREADS) {
        output o = output_at<R>(i);
        int row = s.row(o.t, o.j);
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

/* Item: row m, channel i; each row has 2^log of them, of which the block has some. */
template <typename T>
static __device__ __forceinline__ quarter fetch_quarter(const arguments &a, const layer &l,
                                                        const mamba_block &b, int item, int log) {
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
                                                     const mamba_block &b, quarter &q) {
    const float *x = b.xp + q.m * (a.s.r + 2 * a.s.N);
    int at = q.m * b.in.mine.count + q.i;
    float u = b.u[at], gate = b.gate[at];
    float delta = softplus(project<T>(a, l, q, x) + q.bias);
    float read = q.state ? move(a, l, q, x + a.s.r, delta, delta * u) : 0;
    read += __shfl_xor_sync(0xffffffffu, read, 1);
    read += __shfl_xor_sync(0xffffffffu, read, 2);
    return q.state ? (read + q.D * u) * gate : 0;
}

/* FalconMamba's norms on the three parts of each row of xp. */
static __device__ __forceinline__ void norm_xp(const sizes &s, const mamba_block &b) {
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
                                              const mamba_block &b) {
    constexpr int TOGETHER = THREADS / 4;
    int log = 32 - __clz(b.in.mine.count - 1), end = b.M << log, at = threadIdx.x / 4;
    quarter q = fetch_quarter<T>(a, l, b, at, log);
    take_words<R>(all_xp, b.xp, b.M * (a.s.r + 2 * a.s.N), date);
    if (a.s.mixer_eps > 0) norm_xp(a.s, b);
    for (; at / 8 * 8 < end; at += TOGETHER) { /* 8 in a warp */
        if (at >= TOGETHER) q = fetch_quarter<T>(a, l, b, at, log);
        float y = step_channel<T>(a, l, b, q);
        float following = __shfl_down_sync(0xffffffffu, y, 4);
        if (q.alive && threadIdx.x % 4 == 0)
            post_number<R>(all_y, q.m, a.s.E, q.c, y, following, date, (const T *)NULL);
    }
}

/* ---- the kernel ------------------------------------------------------------------------------ */

template <typename T, int R>
static __device__ void run_layers(const arguments &a, const mamba_block &b, uint32_t before,
                                  ring from) {
    finish f = fetch_first<R>(a.s, b.layers[0], b, b.in);
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
        if (i + 1 < a.n) f = fetch_first<R>(a.s, b.layers[i + 1], b, b.in);
        make_stream<T, R>(a.x, a.s, l, date, i == 0, b, b.out, from, [&] {
            take_rows<T, R>(b, all_y, a.s.E * (int)sizeof(T) / 4, date);
            return 1.0f;
        });
        if (i + 1 < a.n) meet<R>(goal);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        layers_run = before + a.n;
        arrivals_before = goal;
    }
}

template <typename T, int R>
static __global__ void __launch_bounds__(THREADS + 32, 1)
    step(const __grid_constant__ arguments a) {
    extern __shared__ uint4 shared[];
    __shared__ signals of;
    __shared__ float squares[WARPS];
    __shared__ int64_t slot[R];
    char *bytes = (char *)shared;
    ring r = {bytes, &of, a.at.slots, a.ahead, a.whole, 0, 0};
    kr_go_on();
    make_signals(r);
    if (threadIdx.x >= THREADS) {
        fill_ring<T>(a, r);
        return;
    }
    layer *layers = (layer *)(bytes + a.at.layers);
    copy_layers(a.layers, a.n, layers);
    mamba_block b = {{bytes + a.at.rows, (float *)(bytes + a.at.parts), squares, slot, a.at.ld_rows,
                      a.s.M},
                     layers,
                     strip_in<T>(a.s),
                     cut_strip<T>(other_share(a.s.r + 2 * a.s.N), a.s.E, 0),
                     strip_out<T>(a.s),
                     (float *)(bytes + a.at.words),
                     (float *)(bytes + a.at.u),
                     (float *)(bytes + a.at.gate)};
    run_layers<T, R>(a, b, begin(a.seqs, a.s.M, slot), r);
}

/* ---- launching ------------------------------------------------------------------------------- */

/* As mamba_layer_launch.cuh wants it. */
struct mamba {
    typedef ::sizes sizes;
    typedef ::layer layer;

    template <typename T, int R>
    static auto kernel() {
        return step<T, R>;
    }
    static int words(const sizes &s) { return s.r + 2 * s.N; }
    static int tiles(const sizes &s, int channels, int blocks) {
        int rows = larger(s.D / blocks + 1, words(s) / blocks + 1);
        return larger(2 * channels, rows) / TILE + 1;
    }
    static layer layer_of(const kr_call *c) {
        layer l = {};
        fill_parts(c, &l);
        l.w_x = c->in[KR_LAYER_X_PROJ].data;
        l.w_dt = c->in[KR_LAYER_DT].data;
        return l;
    }
    static sizes sizes_of(const kr_call *c) {
        const kr_mamba_layer_attr *attr = (const kr_mamba_layer_attr *)c->attr;
        sizes s = {};
        fill_sizes(c, &s);
        s.ld_x = c->in[KR_LAYER_X_PROJ].stride[0];
        s.ld_dt = c->in[KR_LAYER_DT].stride[0];
        s.ld_A = c->in[KR_LAYER_A].stride[0];
        s.r = (int)c->in[KR_LAYER_DT].shape[1];
        s.eps = (float)attr->eps;
        s.mixer_eps = (float)attr->mixer_eps;
        return s;
    }
    static bool is_whole(const sizes &s, const layer &l, int size) {
        return parts_whole(s, l, size) && aligned(l.w_x, s.ld_x * size) &&
               aligned(l.w_dt, s.ld_dt * size) && aligned(l.A, s.ld_A * 4) &&
               aligned(NULL, s.r * size);
    }
};

extern "C" bool kr_mamba_layer_has_room(const kr_mamba_layer_sizes *of, bool half) {
    sizes s = {};
    s.M = (int)of->M, s.D = (int)of->D, s.E = (int)of->E, s.N = (int)of->N, s.r = (int)of->r;
    return half ? has_room<mamba, bf16>(s) : has_room<mamba, float>(s);
}

extern "C" void kr_mamba_layer_chain_cuda(const kr_call *const *calls, int n) {
    launch_all(calls, n, [](const kr_call *const *some, int left) {
        if (in_halves(some[0], KR_LAYER_IN)) return launch<mamba, bf16>(some, left);
        return launch<mamba, float>(some, left);
    });
}

extern "C" void kr_mamba_layer_cuda(const kr_call *c) { kr_mamba_layer_chain_cuda(&c, 1); }
