/* causal_conv_grad.cu - the gradient of the causal convolution on the GPU. causal_conv.h has the
 * equations.
 *
 * A warp goes down a run of rows, KK rows before it and KK behind it: at row t the pre-activation
 * and g[t] are formed from the window of inputs, g[t] x[t-k] joins the sums of dweight, weight g[t]
 * the gradients of the last rows, which wait in registers until complete. Batches of rows that just
 * go on take a path without questions. Each warp leaves its sums to its block, each block to
 * scratch, where parts.cuh adds them. The gradients of states, a few rows a sequence, are a kernel
 * of their own. */
#include "ops/causal_conv/conv_rows.cuh"
#include "ops/parts.cuh"

typedef struct conv_back {
    conv_seqs q;
    conv_taps taps;
    conv_state state, dnext, dstate;
    const void *x, *dy; /* [M,E] of the kernel's T; dy may be NULL */
    void *dx;           /* of T, or NULL */
    float *parts;       /* [blocks, K+1, E]: dweight by tap, dbias */
    int64_t x_row, dy_row, dx_row;
    int run; /* rows a warp */
    bool add_dx, add_dstate;
} conv_back;

/* ---- places of a sequence -------------------------------------------------------------------- */

/* One sequence, one channel of it; places count from its first row, those below 0 lie in the state
 */
typedef struct place_of {
    int64_t first, count, slot, e;
} place_of;

static __device__ __forceinline__ place_of place_in(const conv_back &v, int64_t s, int64_t e) {
    place_of p = {v.q.seqs[3 * s], v.q.seqs[3 * s + 1], v.q.seqs[3 * s + 2], e};
    return p;
}

/* Whether place q is seen from place p >= q: no reset in (q, p]. */
static __device__ bool seen(const conv_back &v, place_of s, int64_t q, int64_t p) {
    for (int64_t i = q < 0 ? 0 : q + 1; v.q.reset && i <= p; i++)
        if (v.q.reset[s.first + i]) return false;
    return true;
}

/* What state_out's gradient says of place q. */
static __device__ float from_next(const conv_back &v, place_of s, int64_t q) {
    int64_t j = q - (s.count - (v.q.K - 1));
    if (!v.dnext.data || j < 0 || !seen(v, s, q, s.count - 1)) return 0;
    return v.dnext.data[s.slot * v.dnext.slot + j * v.dnext.row + s.e];
}

/* ---- the walk -------------------------------------------------------------------------------- */

/* g = dy * silu'(p) */
template <bool SILU>
static __device__ __forceinline__ float slope(float dy, float p) {
    if (!SILU) return dy;
    float s = conv_sigmoid(p);
    return dy * (s * fmaf(p, 1 - s, 1));
}

/* What a thread carries down its rows. */
template <int KK, int V>
struct walk {
    float w[KK][V], b[V];
    float window[KK - 1][V];  /* the inputs 1, 2, .. rows ago */
    float pending[KK - 1][V]; /* the gradients of x 1, 2, .. rows ago, as far as they are known */
    float sums[KK + 1][V];
    int since; /* rows since the last one that sees nothing before it; below 0: in no sequence */
};

/* One row: its g joins the gradients of the rows it sees (all of them: FULL), of which the oldest
 * comes out as done. */
template <int KK, int V, bool FULL>
static __device__ __forceinline__ void spread(walk<KK, V> &k, const float (&g)[V],
                                              float (&done)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) {
        done[i] = k.pending[KK - 2][i];
        if (FULL || k.since >= KK - 1) done[i] = fmaf(k.w[0][i], g[i], done[i]);
#pragma unroll
        for (int j = KK - 2; j > 0; j--) {
            k.pending[j][i] = k.pending[j - 1][i];
            if (FULL || k.since >= j)
                k.pending[j][i] = fmaf(k.w[KK - 1 - j][i], g[i], k.pending[j][i]);
        }
        k.pending[0][i] = k.w[KK - 1][i] * g[i];
    }
}

template <int KK, int V>
static __device__ __forceinline__ void add_sums(walk<KK, V> &k, const float (&g)[V],
                                                const float (&x)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) {
        k.sums[KK][i] += g[i];
        k.sums[KK - 1][i] = fmaf(g[i], x[i], k.sums[KK - 1][i]);
#pragma unroll
        for (int j = 0; j < KK - 1; j++)
            k.sums[KK - 2 - j][i] = fmaf(g[i], k.window[j][i], k.sums[KK - 2 - j][i]);
    }
}

/* The window before a row that does not go on. */
template <int KK, int V>
static __device__ __forceinline__ void enter(const conv_back &v, int64_t e, int kind,
                                             walk<KK, V> &k) {
    int64_t slot = kind < 0 ? 0 : v.q.seqs[3 * (int64_t)kind + 2];
    conv_load_window<KK>(v.state, slot, v.q.K, e, kind >= 0, k.window);
    k.since = kind == ROW_IS_OUTSIDE ? -1 : 0;
}

/* What the state after sequence s says of row r, one of its last. */
template <int V>
static __device__ __forceinline__ void add_next(const conv_back &v, int64_t r, int64_t e, int s,
                                                float (&done)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) {
        place_of p = place_in(v, s, e + i);
        done[i] += from_next(v, p, r - p.first);
    }
}

/* g of a row, in place of its dy. */
template <bool SILU, int KK, int V>
static __device__ __forceinline__ void form_g(const walk<KK, V> &k, const float (&x)[V],
                                              float (&g)[V]) {
    float p[V];
    conv_sum<KK>(k.w, k.b, k.window, x, p);
#pragma unroll
    for (int i = 0; i < V; i++) g[i] = slope<SILU>(g[i], p[i]);
}

/* Row i of the walk, whatever it is. The run begins at row KK of it. */
template <typename T, int KK, int V, bool SILU>
static __device__ __forceinline__ void any_row(const conv_back &v, int i, const int *kinds,
                                               const int *last, int64_t first, int64_t e,
                                               const float (&x)[V], float (&g)[V], walk<KK, V> &k) {
    float done[V];
    int kind = kinds[i], of = i - (KK - 1); /* the row whose gradient is done */
    if (kind == ROW_GOES_ON)
        k.since++;
    else
        enter<KK>(v, e, kind, k);
    if (i >= KK) {
        form_g<SILU>(k, x, g);
#pragma unroll
        for (int c = 0; c < V; c++) g[c] = k.since < 0 ? 0 : g[c];
        if (i < KK + v.run && k.since >= 0) add_sums(k, g, x);
        spread<KK, V, false>(k, g, done);
        if (of >= KK && of < KK + v.run && v.dx && kinds[of] != ROW_IS_OUTSIDE) {
            if (last && last[of] >= 0) add_next(v, first + of, e, last[of], done);
            kr_put_pack<V>((T *)v.dx + (first + of) * v.dx_row + e, done, v.add_dx);
        }
    }
    conv_shift<KK>(k.window, x);
}

/* All of a warp's rows; first is the first of the walk. */
template <typename T, int KK, int V, bool SILU>
static __device__ __forceinline__ void go(const conv_back &v, const int *kinds, const int *last,
                                          int64_t first, int64_t e, conv_stream<T, V> &xs,
                                          conv_stream<T, V> &dys, kr_pack<T, V> (&x_ahead)[4],
                                          kr_pack<T, V> (&dy_ahead)[4], walk<KK, V> &k) {
    T *dx = (T *)v.dx + (first - (KK - 1)) * v.dx_row + e; /* of the row that is done */
    float x[V], g[V], done[V];
    bool simple = !last && v.dx && !v.add_dx;
#pragma unroll 1
    for (int part = 0; part < v.run + 2 * KK; part += CONV_AHEAD) {
        if (simple && part >= 2 * KK && part < v.run + KK && k.since >= KK - 2 &&
            conv_plain(kinds + part)) {
#pragma unroll
            for (int i = 0; i < CONV_AHEAD; i++, dx += v.dx_row) {
                kr_unpack(x_ahead[i], x);
                kr_unpack(dy_ahead[i], g);
                xs.fetch(part + i + CONV_AHEAD, x_ahead[i]);
                dys.fetch(part + i + CONV_AHEAD, dy_ahead[i]);
                form_g<SILU>(k, x, g);
                add_sums(k, g, x);
                spread<KK, V, true>(k, g, done);
                kr_store_pack<V>(dx, done);
                conv_shift<KK>(k.window, x);
            }
            k.since += CONV_AHEAD;
        } else {
#pragma unroll
            for (int i = 0; i < CONV_AHEAD; i++, dx += v.dx_row) {
                kr_unpack(x_ahead[i], x);
                kr_unpack(dy_ahead[i], g);
                xs.fetch(part + i + CONV_AHEAD, x_ahead[i]);
                dys.fetch(part + i + CONV_AHEAD, dy_ahead[i]);
                any_row<T, KK, V, SILU>(v, part + i, kinds, last, first, e, x, g, k);
            }
        }
    }
}

/* The block's warps' sums in order, to its part. */
template <int KK, int V>
static __device__ __forceinline__ void put_sums(const conv_back &v, const walk<KK, V> &k) {
    __shared__ float all[CONV_WARPS][KK + 1][32 * V];
#pragma unroll
    for (int w = 0; w <= KK; w++)
#pragma unroll
        for (int i = 0; i < V; i++) all[threadIdx.y][w][threadIdx.x * V + i] = k.sums[w][i];
    __syncthreads();
    int skip = KK - v.q.K;
    for (int w = skip + threadIdx.y; w <= KK; w += CONV_WARPS)
        for (int i = threadIdx.x; i < 32 * V; i += 32) {
            int64_t e = (int64_t)blockIdx.y * 32 * V + i;
            float sum = 0;
            for (int j = 0; j < CONV_WARPS; j++) sum += all[j][w][i];
            if (e < v.q.E)
                v.parts[((int64_t)blockIdx.x * (v.q.K + 1) + w - skip) * v.q.E + e] = sum;
        }
}

template <typename T, int KK, int V, bool SILU>
static __global__ void __launch_bounds__(32 * CONV_WARPS, sizeof(T) == 2 ? 4 : 3)
    runs(conv_back v) {
    extern __shared__ int4 aligned[];
    int rows = CONV_WARPS * v.run + 2 * KK, n = v.run + 2 * KK, mine = threadIdx.y * v.run;
    int *kinds = (int *)aligned, *last = v.dnext.data ? kinds + rows : NULL;
    int64_t top = (int64_t)blockIdx.x * CONV_WARPS * v.run - KK, first = top + mine;
    int64_t e = ((int64_t)blockIdx.y * 32 + threadIdx.x) * V;
    bool idle = e >= v.q.E || first + KK >= v.q.M;
    if (idle) e = n = 0;
    conv_stream<T, V> x = conv_open<T, V>(v.x, v.x_row, first, n, v.q.M, e);
    conv_stream<T, V> dy = conv_open<T, V>(v.dy, v.dy_row, first, n, v.q.M, e);
    kr_pack<T, V> x_ahead[CONV_AHEAD], dy_ahead[CONV_AHEAD];
    walk<KK, V> k = {};
#pragma unroll
    for (int i = 0; i < CONV_AHEAD; i++) {
        x.fetch(i, x_ahead[i]);
        dy.fetch(i, dy_ahead[i]);
    }
    conv_kinds(v.q, v.state.data != NULL, top, rows, kinds, last);
    if (!idle) {
        k.since = -1;
        conv_load_taps<KK>(v.taps, v.q.K, e, k.w, k.b);
        go<T, KK, V, SILU>(v, kinds + mine, last ? last + mine : NULL, first, e, x, dy, x_ahead,
                           dy_ahead, k);
    }
    put_sums(v, k);
}

/* ---- states ---------------------------------------------------------------------------------- */

template <typename T>
static __device__ float input(const conv_back &v, place_of s, int64_t q) {
    if (q >= 0) return kr_load((const T *)v.x + (s.first + q) * v.x_row + s.e);
    if (!v.state.data) return 0;
    return v.state.data[s.slot * v.state.slot + (v.q.K - 1 + q) * v.state.row + s.e];
}

/* g[t] */
template <typename T, bool SILU>
static __device__ float slope_at(const conv_back &v, place_of s, int64_t t) {
    if (!v.dy) return 0;
    float p = v.taps.bias ? v.taps.bias[s.e] : 0;
    for (int w = 0; w < v.q.K; w++) {
        int64_t q = t - (v.q.K - 1 - w);
        if (seen(v, s, q, t)) p = fmaf(v.taps.weight[s.e * v.q.K + w], input<T>(v, s, q), p);
    }
    return slope<SILU>(kr_load((const T *)v.dy + (s.first + t) * v.dy_row + s.e), p);
}

/* Block column i is sequence i: the gradient of its state. */
template <typename T, bool SILU>
static __global__ void states(conv_back v) {
    place_of s = place_in(v, blockIdx.x, (int64_t)blockIdx.y * blockDim.x + threadIdx.x);
    if (s.e >= v.q.E) return;
    for (int64_t q = 1 - v.q.K; q < 0; q++) {
        float sum = from_next(v, s, q);
        for (int w = 0; w < v.q.K; w++) {
            int64_t t = q + v.q.K - 1 - w;
            if (t >= 0 && t < s.count && seen(v, s, q, t))
                sum = fmaf(v.taps.weight[s.e * v.q.K + w], slope_at<T, SILU>(v, s, t), sum);
        }
        /* cleared before, or added to */
        v.dstate.data[s.slot * v.dstate.slot + (v.q.K - 1 + q) * v.dstate.row + s.e] += sum;
    }
}

static __global__ void clear(conv_state to, int64_t rows, int64_t E) {
    int64_t e = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
    for (int64_t j = 0; e < E && j < rows; j++) to.data[blockIdx.x * to.slot + j * to.row + e] = 0;
}

/* ---- launches -------------------------------------------------------------------------------- */

/* dweight [E,1,K] and dbias [E] from the sums [K+1,E]. */
struct put_weights {
    float *dweight, *dbias;
    int64_t E;
    int K;
    bool add_weight, add_bias;
    __device__ void operator()(int64_t i, float x) const {
        int64_t w = i / E, e = i - w * E;
        if (w < K && dweight) kr_put(dweight + e * K + w, x, add_weight);
        if (w == K && dbias) kr_put(dbias + e, x, add_bias);
    }
};

template <typename T, int KK, int V, bool SILU>
static void launch(const conv_back &v, const put_weights &put) {
    dim3 grid((unsigned)kr_causal_conv_parts(v.q.M, v.q.E), kr_blocks(v.q.E, 32 * V));
    size_t shared = (size_t)(CONV_WARPS * v.run + 2 * KK) * sizeof(int) * (v.dnext.data ? 2 : 1);
    runs<T, KK, V, SILU><<<grid, dim3(32, CONV_WARPS), shared, kr_cuda_stream()>>>(v);
    if (put.dweight || put.dbias) kr_sum_parts_launch(v.parts, grid.x, (v.q.K + 1) * v.q.E, put);
}

template <typename T, bool SILU>
static void launch_type(const conv_back &v, int64_t slots, const put_weights &put, bool packs) {
    if (v.q.M > 0) {
        if (v.q.K > 4)
            launch<T, CONV_TAPS, 1, SILU>(v, put);
        else if (packs)
            launch<T, 4, 4, SILU>(v, put);
        else
            launch<T, 4, 1, SILU>(v, put);
    }
    unsigned columns = kr_blocks(v.q.E, 128);
    if (v.dstate.data && !v.add_dstate && slots > 0)
        clear<<<dim3((unsigned)slots, columns), 128, 0, kr_cuda_stream()>>>(v.dstate, v.q.K - 1,
                                                                            v.q.E);
    if (v.dstate.data && v.q.S > 0)
        states<T, SILU><<<dim3((unsigned)v.q.S, columns), 128, 0, kr_cuda_stream()>>>(v);
}

extern "C" void kr_causal_conv_grad_cuda(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *x = &c->in[1], *weight = &c->in[2], *dx = &c->out[0];
    conv_back v = {};
    v.q = {(const int64_t *)c->in[4].data,
           (const uint8_t *)c->in[5].data,
           c->in[4].shape[0],
           x->shape[0],
           x->shape[1],
           (int)weight->shape[2]};
    v.taps = conv_taps_of(weight, &c->in[3]);
    v.state = conv_state_of(&c->in[6]);
    v.dnext = conv_state_of(&c->in[7]);
    v.dstate = conv_state_of(&c->out[3]);
    v.x = x->data, v.x_row = x->stride[0];
    v.dy = dy->data, v.dy_row = dy->stride[0];
    v.dx = dx->data, v.dx_row = dx->stride[0];
    v.parts = (float *)c->scratch;
    v.run = kr_causal_conv_run(v.q.M, v.q.E, KR_CAUSAL_CONV_GRAD_WARPS);
    bool silu = ((const kr_causal_conv_attr *)c->attr)->silu != 0;
    int64_t slots = c->out[3].shape[0];
    v.add_dx = KR_ACC(c, 0), v.add_dstate = KR_ACC(c, 3);
    put_weights put = {(float *)c->out[1].data, (float *)c->out[2].data, v.q.E, v.q.K,
                       KR_ACC(c, 1) != 0,       KR_ACC(c, 2) != 0};
    if (v.q.E == 0) return;
    bool packs = kr_packs(x, 4) && kr_packs(dy, 4) && kr_packs(dx, 4);
    if (x->dtype == KR_BF16 && silu) launch_type<bf16, true>(v, slots, put, packs);
    if (x->dtype == KR_BF16 && !silu) launch_type<bf16, false>(v, slots, put, packs);
    if (x->dtype == KR_F32 && silu) launch_type<float, true>(v, slots, put, packs);
    if (x->dtype == KR_F32 && !silu) launch_type<float, false>(v, slots, put, packs);
}
