/* mamba2_layer.cu - decode steps of few rows of Mamba-2: all layers of a model in one kernel.
 * mamba2_layer.h has the equations.
 *
 * As mamba_layer.cu: one warp of every block copies the block's rows of the weights into a ring,
 * eight warps multiply what has arrived, and blocks exchange numbers. A block has the same share of
 * the channels in in_proj, convolution and recurrence, and a share of the rows of in_proj that make
 * B, C and the steps, which come first: all need them. Three times a layer (those, g, the residual
 * stream) all need what each has made. */
#include "ops/mamba_layer/mamba2_layer.h"

#include <type_traits>

#include "ops/mamba_layer/mamba_layer_ends.cuh"
#include "ops/mamba_layer/mamba_layer_launch.cuh"

enum { LANES = 8 /* of a channel */, QUADS = 4 /* of states, that a lane asks for at once */ };
enum { MOST_BLOCKS = 512 };

static __device__ __align__(16) word all_squares[DATED + ROWS * MOST_BLOCKS];

struct layer : layer_parts {
    const float *gate_norm;
};

struct sizes : layer_sizes {
    int H, P, keys, skip; /* keys: 2N; channels that share an element of D */
    float one_of_E, dt_min, dt_max, unused;
};

typedef arguments_of<sizes, layer> arguments;

/* keys: rows of in_proj that make B, C and the raw steps; of_all [M,2N+H]: these of all blocks. */
struct mamba2_block : block {
    const layer *layers;
    strip keys, in, out;
    float *of_all, *u, *gate;
    float *sums; /* [R][WARPS] of g^2 */
};

template <typename T>
static __device__ __forceinline__ strip strip_keys(const sizes &s) {
    strip p = cut_strip<T>(other_share(s.keys + s.H), s.D, 0);
    p.base = 2 * s.E;
    return p;
}

/* The warp that copies. */
template <typename T>
static __device__ void fill_ring(const arguments &a, ring to) {
    const strip keys = strip_keys<T>(a.s), in = strip_in<T>(a.s), out = strip_out<T>(a.s);
    for (int i = 0; i < a.n; i++) {
        const layer &l = a.layers[i];
        fill_strip<T>(keys, l.w_in, a.s.ld_in, to);
        fill_strip<T>(in, l.w_in, a.s.ld_in, to);
        fill_strip<T>(out, l.w_out, a.s.ld_out, to);
    }
}

/* ---- B, C and the raw steps ------------------------------------------------------------------ */

/* This thread's output in its i-th turn: which of the 2N + H numbers it is; false: there is none.
 */
template <int R>
static __device__ __forceinline__ bool output_of_keys(const mamba2_block &b, int i, output *o,
                                                      int *which) {
    *o = output_at<R>(i);
    int row = b.keys.row(o->t, o->j);
    *which = row - b.keys.base;
    return o->m < b.M && row >= 0;
}

static __device__ __forceinline__ finish fetch_key(const arguments &a, const layer &l,
                                                   const mamba2_block &b, const output &o,
                                                   int which) {
    return fetch_finish(a.s, l, b.slot[o.m], b.keys.base + which,
                        which < a.s.keys ? a.s.E + which : -1);
}

template <int R>
static __device__ __forceinline__ finish fetch_first_key(const arguments &a, const layer &l,
                                                         const mamba2_block &b) {
    output o;
    int which;
    finish f = {};
    if (output_of_keys<R>(b, threadIdx.x, &o, &which)) f = fetch_key(a, l, b, o, which);
    return f;
}

/* f: what fetch_first_key gave. The sums lie behind those of the channels. */
template <typename T, int R>
static __device__ __forceinline__ void make_keys(const arguments &a, const layer &l, uint32_t date,
                                                 finish f, float scale, const mamba2_block &b,
                                                 ring &from) {
    product<T, R>(b, b.keys, from, b.in.tiles);
    for (int i = threadIdx.x; i < b.keys.tiles * TILE * R; i += THREADS) {
        output o;
        int which;
        if (!output_of_keys<R>(b, i, &o, &which)) continue;
        if (i >= THREADS) f = fetch_key(a, l, b, o, which);
        bool is_key = which < a.s.keys;
        int at = o.m * (a.s.keys + a.s.H) + which;
        o.t += b.in.tiles;
        float x = get_sum<R>(b, o) * scale + f.bias;
        post<R>(all_xp, at, __float_as_uint(is_key ? convolved(a.s, f, x) : x), date);
        if (is_key) move_window(a.s, f, x);
    }
}

/* ---- the recurrence -------------------------------------------------------------------------- */

/* Four states as they lie in memory, floats or halves. */
template <typename S>
union quad {
    typename std::conditional<sizeof(S) == 4, uint4, uint2>::type bits;
    S of[4];
    __device__ quad() {}
};

/* From state n on, and the way back. */
template <typename S>
static __device__ __forceinline__ void fetch_states(const S *state, int n, int N, bool whole,
                                                    quad<S> &to) {
    if (whole) {
        to.bits = *(const decltype(to.bits) *)(state + n);
    } else {
        to.bits = {};
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (n + j < N) to.of[j] = state[n + j];
    }
}
template <typename S>
static __device__ __forceinline__ void put_states(S *state, int n, int N, bool whole,
                                                  const float (&h)[4]) {
    quad<S> from;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        kr_store(&from.of[j], h[j]);
        if (!whole && n + j < N) state[n + j] = from.of[j];
    }
    if (whole) *(decltype(from.bits) *)(state + n) = from.bits;
}

/* Eight lanes take a channel of a row, each every eighth quad of the states. This is what a lane
 * can load before B and C are there. */
template <typename S>
struct eighth {
    quad<S> lain[QUADS];
    float rate, bias, D, weight; /* weight: the gated norm's */
    const S *state;              /* NULL: no one's */
    S *state_out;
    int c, i, m; /* c: of all channels, i: of the block's */
    bool alive;

    /* The lane's quads from state n on. */
    __device__ __forceinline__ void fetch(const arguments &a, int n) {
#pragma unroll
        for (int k = 0; k < QUADS; k++, n += LANES * 4)
            if (n < a.s.N) fetch_states(state, n, a.s.N, a.whole, lain[k]);
    }
};

/* Item: row m, channel i; each row has 2^log of them, of which the block has some. */
template <typename S>
static __device__ __forceinline__ eighth<S> fetch_eighth(const arguments &a, const layer &l,
                                                         const mamba2_block &b, int item, int log) {
    eighth<S> q = {};
    q.m = item >> log;
    q.i = item & ((1 << log) - 1);
    q.alive = q.m < b.M && q.i < b.in.mine.count;
    if (!q.alive) q.m = q.i = 0;
    q.c = b.in.mine.first + q.i;
    int64_t slot = b.slot[q.m];
    q.rate = l.A[q.c / a.s.P]; /* not used here: nobody waits for it yet */
    q.bias = l.dt_bias[q.c / a.s.P];
    q.D = l.D[q.c / a.s.skip];
    q.weight = l.gate_norm[q.c];
    if (slot < 0 || !q.alive) return q;
    q.state = (const S *)l.state + slot * a.s.from_h + (int64_t)q.c * a.s.N;
    q.state_out = (S *)l.state_out + slot * a.s.to_h + (int64_t)q.c * a.s.N;
    q.fetch(a, threadIdx.x % LANES * 4);
    return q;
}

static __device__ __forceinline__ float step_size(const sizes &s, float raw) {
    float delta = fmaxf(softplus(raw), s.dt_min);
    return s.dt_max > 0 ? fminf(delta, s.dt_max) : delta;
}

/* Moves this lane's states on; returns what they add to the read. */
template <typename S>
static __device__ __forceinline__ float move(const arguments &a, eighth<S> &q, const float *B,
                                             float decay, float du) {
    int N = a.s.N;
    float read = 0, in[4], out[4], h[4];
    for (int first = threadIdx.x % LANES * 4, at = first; at < N; at += QUADS * LANES * 4) {
        if (at > first) q.fetch(a, at);
#pragma unroll
        for (int k = 0; k < QUADS; k++) {
            int n = at + k * LANES * 4;
            if (n >= N) break;
            fetch_quad(B, n, N, a.whole, in);
            fetch_quad(B + N, n, N, a.whole, out);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                h[j] = decay * kr_load(&q.lain[k].of[j]) + du * in[j];
                read += h[j] * out[j];
            }
            put_states(q.state_out, n, N, a.whole, h);
        }
    }
    return read;
}

template <typename S>
static __device__ __forceinline__ float step_channel(const arguments &a, const mamba2_block &b,
                                                     eighth<S> &q) {
    const float *x = b.of_all + q.m * (a.s.keys + a.s.H);
    int at = q.m * b.in.mine.count + q.i;
    float u = b.u[at], gate = b.gate[at];
    float delta = step_size(a.s, x[a.s.keys + q.c / a.s.P] + q.bias);
    float read = q.state ? move(a, q, x, power_of_2(delta * (q.rate * 1.44269504f)), delta * u) : 0;
#pragma unroll
    for (int lanes = 1; lanes < LANES; lanes *= 2)
        read += __shfl_xor_sync(0xffffffffu, read, lanes);
    return q.state ? (read + q.D * u) * gate : 0;
}

/* q: what fetch_eighth gave for the thread's first item. Posts gate_norm * g, and of each row the
 * block's sum of g^2. */
template <typename T, int R, typename S>
static __device__ __forceinline__ void make_g(const arguments &a, const layer &l, uint32_t date,
                                              const mamba2_block &b, eighth<S> q, int log) {
    constexpr int TOGETHER = THREADS / LANES;
    int end = b.M << log, at = threadIdx.x / LANES, warp = threadIdx.x / 32;
    if (threadIdx.x < R * WARPS) b.sums[threadIdx.x] = 0;
    take_words<R>(all_xp, b.of_all, b.M * (a.s.keys + a.s.H), date);
    while (at / 4 * 4 < end) { /* 4 in a warp, of one row */
        at += TOGETHER;
        eighth<S> next = {};
        if (at / 4 * 4 < end) next = fetch_eighth<S>(a, l, b, at, log);
        float g = step_channel(a, b, q), y = g * q.weight, square = q.alive ? g * g : 0;
        float following = __shfl_down_sync(0xffffffffu, y, LANES);
        square += __shfl_xor_sync(0xffffffffu, square, LANES);
        square += __shfl_xor_sync(0xffffffffu, square, 2 * LANES);
        if (q.alive && threadIdx.x % LANES == 0)
            post_number<R>(all_y, q.m, a.s.E, q.c, y, following, date, (const T *)NULL);
        if (q.alive && threadIdx.x % 32 == 0) b.sums[q.m * WARPS + warp] += square;
        q = next;
    }
    sync_workers();
    if (threadIdx.x >= b.M) return;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += b.sums[threadIdx.x * WARPS + w];
    post<R>(all_squares, threadIdx.x * MOST_BLOCKS + blockIdx.x, __float_as_uint(sum), date);
}

/* ---- the gated norm -------------------------------------------------------------------------- */

/* squares: the sums of g^2 of all blocks. */
template <int R>
static __device__ __forceinline__ void take_squares(const mamba2_block &b, uint32_t date) {
    int m = threadIdx.x / turn<R>::WIDTH, end = m < b.M ? gridDim.x : 0;
    float sum = 0;
    for (int i = threadIdx.x % turn<R>::WIDTH; i < end; i += turn<R>::WIDTH) {
        int at = m * MOST_BLOCKS + i;
        ulonglong2 v = peek<R>(all_squares, at & ~1);
        while (R == 1 && (uint32_t)((at & 1 ? v.y : v.x) >> 32) != date)
            v = peek<R>(all_squares, at & ~1);
        sum += __uint_as_float((uint32_t)(at & 1 ? v.y : v.x));
    }
    put_squares(b, sum);
}

/* ---- the kernel ------------------------------------------------------------------------------ */

template <typename T, typename S, int R>
static __device__ __forceinline__ void run_layer(const arguments &a, const mamba2_block &b, int i,
                                                 uint32_t date, word &goal, finish of_key,
                                                 finish of_channel, ring &from) {
    const layer &l = b.layers[i];
    bool first = i == 0;
    int log = max(2, 32 - __clz(b.in.mine.count - 1)),
        row = threadIdx.x / TILE % R; /* in all turns */
    eighth<S> q;
    if (R == 1) q = fetch_eighth<S>(a, l, b, threadIdx.x / LANES, log);
    take_stream<T, R>(a.x, a.s, l, date - 1, first, b);
    float scale = scale_of<R>(b, row, a.s.one_of_D, a.s.eps);
    if (R > 1) of_key = fetch_first_key<R>(a, l, b);
    make_keys<T, R>(a, l, date, of_key, scale, b, from);
    if (R > 1) of_channel = fetch_first<R>(a.s, l, b, b.in);
    product<T, R>(b, b.in, from);
    make_channels<T, R>(a.s, l, b, b.in, of_channel, scale, b.u, b.gate,
                        [](int, int, float, float) {});
    if (R > 1) q = fetch_eighth<S>(a, l, b, threadIdx.x / LANES, log); /* registers are short */
    meet<R>(goal);
    make_g<T, R>(a, l, date, b, q, log);
    meet<R>(goal);
}

template <typename T, typename S, int R>
static __device__ void run_layers(const arguments &a, const mamba2_block &b, uint32_t before,
                                  ring from) {
    finish of_key, of_channel;
    if (R == 1) of_key = fetch_first_key<R>(a, b.layers[0], b);
    if (R == 1) of_channel = fetch_first<R>(a.s, b.layers[0], b, b.in);
    word goal = arrivals_before;
    for (int i = 0; i < a.n; i++) {
        const layer &l = b.layers[i];
        uint32_t date = before + i + 1;
        bool last = i + 1 == a.n;
        if (!last) prefetch_norm(b.layers[i + 1].norm, a.s.D);
        run_layer<T, S, R>(a, b, i, date, goal, of_key, of_channel, from);
        if (R == 1 && !last) of_key = fetch_first_key<R>(a, b.layers[i + 1], b);
        if (R == 1 && !last) of_channel = fetch_first<R>(a.s, b.layers[i + 1], b, b.in);
        make_stream<T, R>(a.x, a.s, l, date, i == 0, b, b.out, from, [&] {
            take_rows<T, R>(b, all_y, a.s.E * (int)sizeof(T) / 4, date);
            take_squares<R>(b, date);
            return scale_of<R>(b, threadIdx.x / TILE % R, a.s.one_of_E, a.s.eps);
        });
        if (!last) meet<R>(goal);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        layers_run = before + a.n;
        arrivals_before = goal;
    }
}

template <typename T, typename S, int R>
static __global__ void __launch_bounds__(THREADS + 32, 1)
    step(const __grid_constant__ arguments a) {
    extern __shared__ uint4 shared[];
    __shared__ signals of;
    __shared__ float squares[WARPS], sums[R * WARPS];
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
    mamba2_block b = {{bytes + a.at.rows, (float *)(bytes + a.at.parts), squares, slot,
                       a.at.ld_rows, a.s.M},
                      layers,
                      strip_keys<T>(a.s),
                      strip_in<T>(a.s),
                      strip_out<T>(a.s),
                      (float *)(bytes + a.at.words),
                      (float *)(bytes + a.at.u),
                      (float *)(bytes + a.at.gate),
                      sums};
    run_layers<T, S, R>(a, b, begin(a.seqs, a.s.M, slot), r);
}

/* ---- launching ------------------------------------------------------------------------------- */

/* As mamba_layer_launch.cuh wants it; S: type of the states. */
template <typename S>
struct mamba2 {
    typedef ::sizes sizes;
    typedef ::layer layer;

    template <typename T, int R>
    static auto kernel() {
        return step<T, S, R>;
    }
    static int words(const sizes &s) { return s.keys + s.H; }
    static int tiles(const sizes &s, int channels, int blocks) {
        int made = 2 * channels / TILE + words(s) / blocks / TILE + 3;
        return larger(made, s.D / blocks / TILE + 2);
    }
    static layer layer_of(const kr_call *c) {
        layer l = {};
        fill_parts(c, &l);
        l.gate_norm = (const float *)c->in[KR_LAYER2_GATE_NORM].data;
        return l;
    }
    static sizes sizes_of(const kr_call *c) {
        const kr_mamba2_layer_attr *attr = (const kr_mamba2_layer_attr *)c->attr;
        sizes s = {};
        fill_sizes(c, &s);
        s.H = (int)c->in[KR_LAYER2_A].shape[0];
        s.x_row = s.E;
        s.P = s.E / s.H;
        s.keys = 2 * s.N;
        s.skip = s.E / (int)c->in[KR_LAYER2_D].shape[0];
        s.eps = (float)attr->eps;
        s.one_of_E = 1 / (float)s.E;
        s.dt_min = (float)attr->dt_min;
        s.dt_max = (float)attr->dt_max;
        return s;
    }
    static bool is_whole(const sizes &s, const layer &l, int size) {
        return parts_whole(s, l, size) && aligned(NULL, words(s) * 4);
    }
};

extern "C" bool kr_mamba2_layer_has_room(const kr_mamba2_layer_sizes *of, bool half) {
    sizes s = {};
    s.M = (int)of->M, s.D = (int)of->D, s.E = (int)of->E, s.N = (int)of->N, s.H = (int)of->H;
    s.keys = 2 * s.N;
    if (kr_cuda_processors() > MOST_BLOCKS) return false;
    return half ? has_room<mamba2<float>, bf16>(s) : has_room<mamba2<float>, float>(s);
}

extern "C" void kr_mamba2_layer_chain_cuda(const kr_call *const *calls, int n) {
    launch_all(calls, n, [](const kr_call *const *some, int left) {
        if (in_halves(some[0], KR_LAYER2_STATE)) return launch<mamba2<bf16>, bf16>(some, left);
        if (in_halves(some[0], KR_LAYER2_IN)) return launch<mamba2<float>, bf16>(some, left);
        return launch<mamba2<float>, float>(some, left);
    });
}

extern "C" void kr_mamba2_layer_cuda(const kr_call *c) { kr_mamba2_layer_chain_cuda(&c, 1); }
