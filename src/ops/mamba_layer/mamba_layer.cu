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

enum { LOADS = 6 };

struct layer : layer_parts {
    const void *w_x, *w_dt;
};

struct sizes : layer_sizes {
    int64_t ld_x, ld_dt, ld_A;
    int r;
    float mixer_eps;
};

/* Where things lie in shared memory behind the ring, in bytes. */
struct places {
    int slots, ld_rows, rows, parts, xp, u, gate, layers, end;
};

struct arguments {
    sizes s;
    places at;
    const float *x;
    const int64_t *seqs;
    int n, ahead;
    bool whole; /* rows of weights are 16-byte vectors */
    layer layers[KR_LAYER_LAYERS];
};

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
                     (float *)(bytes + a.at.xp),
                     (float *)(bytes + a.at.u),
                     (float *)(bytes + a.at.gate)};
    run_layers<T, R>(a, b, begin(a.seqs, a.s.M, slot), r);
}

/* ---- launching ------------------------------------------------------------------------------- */

/* As many slots as there is memory for. */
static places places_of(const sizes &s, int n, int size, int blocks, int most) {
    int channels = (s.E / KR_LAYER_UNIT / blocks + 1) * KR_LAYER_UNIT, rows = s.D / blocks + 1;
    int most_rows = larger(2 * channels, larger(rows, (s.r + 2 * s.N) / blocks + 1));
    int tiles = most_rows / TILE + 1, R = rows_made(s.M);
    places p = {};
    p.ld_rows = row_bytes(s, size);
    p.parts = up((int64_t)p.ld_rows * R);
    p.xp = p.parts + up((int64_t)tiles * WARPS * R * TILE * 4);
    p.u = p.xp + up((int64_t)s.M * (s.r + 2 * s.N) * 4);
    p.gate = p.u + up((int64_t)s.M * channels * 4);
    p.layers = p.gate + up((int64_t)s.M * channels * 4);
    p.end = p.layers + up((int64_t)n * (int64_t)sizeof(layer));
    p.slots = slots_beside(p.end, most);
    int ring = p.slots * SLOT;
    p.rows += ring, p.parts += ring, p.xp += ring, p.u += ring, p.gate += ring;
    p.layers += ring;
    p.end += ring;
    return p;
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

template <typename T>
static bool rows_resident(int64_t M, int shared) {
    if (M <= 1) return resident(step<T, 1>, shared);
    if (M <= 2) return resident(step<T, 2>, shared);
    return M <= 4 ? resident(step<T, 4>, shared) : resident(step<T, 8>, shared);
}

extern "C" bool kr_mamba_layer_resident(const kr_mamba_layer_sizes *of, bool half) {
    int shared = most_places(of, half).end;
    return half ? rows_resident<bf16>(of->M, shared) : rows_resident<float>(of->M, shared);
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
    a.ahead = pieces_ahead(a.s, sizeof(T), a.at.slots);
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
