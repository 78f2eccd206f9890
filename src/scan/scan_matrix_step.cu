/* scan_matrix_step.cu - the recurrence with one decay a head on the GPU, few rows a sequence: the
 * decoding of a token.
 *
 * Bound by the states, which are read and written once. A block takes up to 64 channels of a head
 * of a sequence; eight lanes take a channel, each every eighth 16 bytes of its states, all of them
 * on their way before the first is used. The 32 KB of a block (floats; halves: 16) have to be that
 * many: blocks wait for little else, and a multiprocessor holds three of them (five). */
#include "scan/scan_matrix.cuh"

enum { LANES = 8 /* of a channel */, TOGETHER = 32 };
static_assert(LANES * TOGETHER == KR_MATRIX_THREADS, "a block takes 32 channels at a time");

/* Of a row, in shared memory; two rows in turn. */
struct step_row {
    float b[KR_MATRIX_N], c[KR_MATRIX_N];
};

/* States as they lie in memory, floats or halves. */
template <typename S>
union pack {
    enum { SIZE = 16 / sizeof(S), PACKS = KR_MATRIX_N / SIZE / LANES /* of a lane, a channel */ };
    uint4 bits;
    __nv_bfloat162 two[4];
    S of[SIZE];
    __device__ pack() {}
};

/* The k-th pack of this lane. */
template <typename S>
static __device__ __forceinline__ int pack_at(int k) {
    return (k * LANES + (int)threadIdx.x % LANES) * pack<S>::SIZE;
}

template <bool WIDE, typename S>
static __device__ __forceinline__ void load_pack(const S *from, int N, int n, pack<S> &p) {
    p.bits = make_uint4(0, 0, 0, 0);
    if constexpr (WIDE) {
        if (n < N) p.bits = __ldcs((const uint4 *)(from + n));
    } else {
#pragma unroll
        for (int j = 0; j < pack<S>::SIZE; j++)
            if (n + j < N) p.of[j] = from[n + j];
    }
}

template <bool WIDE, typename S>
static __device__ __forceinline__ void store_pack(S *to, int N, int n, const pack<S> &p) {
    if constexpr (WIDE) {
        if (n < N) __stcs((uint4 *)(to + n), p.bits);
    } else {
#pragma unroll
        for (int j = 0; j < pack<S>::SIZE; j++)
            if (n + j < N) to[n + j] = p.of[j];
    }
}

/* Four states of a pack, from the first-th on, and the way back. */
static __device__ __forceinline__ void get_quad(const pack<float> &p, int, float (&h)[4]) {
#pragma unroll
    for (int j = 0; j < 4; j++) h[j] = p.of[j];
}
static __device__ __forceinline__ void get_quad(const pack<bf16> &p, int first, float (&h)[4]) {
    float2 x = __bfloat1622float2(p.two[first / 2]), y = __bfloat1622float2(p.two[first / 2 + 1]);
    h[0] = x.x, h[1] = x.y, h[2] = y.x, h[3] = y.y;
}
static __device__ __forceinline__ void put_quad(pack<float> &p, int, const float (&h)[4]) {
#pragma unroll
    for (int j = 0; j < 4; j++) p.of[j] = h[j];
}
static __device__ __forceinline__ void put_quad(pack<bf16> &p, int first, const float (&h)[4]) {
    p.two[first / 2] = __floats2bfloat162_rn(h[0], h[1]);
    p.two[first / 2 + 1] = __floats2bfloat162_rn(h[2], h[3]);
}

/* b and c of a row; zeros behind their end. */
template <typename T>
static __device__ __forceinline__ void share_row(const kr_matrix_in<T> &g, int64_t row,
                                                 int64_t head, step_row &to) {
    int i = threadIdx.x, n = i % KR_MATRIX_N;
    static_assert(KR_MATRIX_THREADS == 2 * KR_MATRIX_N, "a thread takes an element of b or of c");
    const kr_matrix_rows<T> &from = i < KR_MATRIX_N ? g.b : g.c;
    int64_t first = row * from.row + head / (g.H / g.G) * g.N;
    (i < KR_MATRIX_N ? to.b : to.c)[n] = n < g.N ? kr_load(from.p + first + n) : 0;
}

/* Decay and gain of a row. */
template <typename T>
static __device__ __forceinline__ float2 step_of(const kr_matrix_in<T> &g, int64_t row,
                                                 int64_t head, bool fresh) {
    float delta = 0, slope;
    kr_raw_step raw = kr_raw_step_of(g, row, head);
    if (g.dt.p) delta = kr_step_size(raw.dt, g.softplus, g.dt_min, g.dt_max, &slope);
    float way = g.log ? raw.A : raw.A * delta;
    return make_float2(fresh ? 0 : expf(way), kr_gain_of(g, row, head, 0, delta));
}

/* Moves this lane's states on by a row, of which its channels add x; sum: their reads, in all their
 * lanes. A decay of 0 forgets states whatever they are. */
template <typename S, int CHANNELS>
static __device__ __forceinline__ void move(pack<S> (&states)[CHANNELS][pack<S>::PACKS],
                                            const step_row &row, float2 step,
                                            const float (&x)[CHANNELS], float (&sum)[CHANNELS]) {
#pragma unroll
    for (int i = 0; i < CHANNELS; i++) sum[i] = 0;
#pragma unroll
    for (int q = 0; q < pack<S>::PACKS * pack<S>::SIZE / 4; q++) {
        int k = q * 4 / pack<S>::SIZE, first = q * 4 % pack<S>::SIZE, n = pack_at<S>(k) + first;
        float4 b = *(const float4 *)(row.b + n), c = *(const float4 *)(row.c + n);
        float bs[4] = {b.x, b.y, b.z, b.w}, cs[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
        for (int i = 0; i < CHANNELS; i++) {
            float h[4];
            get_quad(states[i][k], first, h);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float kept = step.x != 0 ? h[j] * step.x : 0;
                h[j] = fmaf(step.y * x[i], bs[j], kept);
                sum[i] = fmaf(h[j], cs[j], sum[i]);
            }
            put_quad(states[i][k], first, h);
        }
    }
#pragma unroll
    for (int i = 0; i < CHANNELS; i++)
#pragma unroll
        for (int lanes = 1; lanes < LANES; lanes *= 2)
            sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], lanes);
}

/* CHANNELS of a thread's eight lanes, 32 apart; WIDE: their states come by 16 bytes. */
template <typename T, typename S, int CHANNELS, bool WIDE>
static __global__ void __launch_bounds__(KR_MATRIX_THREADS, sizeof(S) == 2 ? 5 : 3)
    steps(kr_matrix_in<T> g, T *y, int64_t y_row, bool add, S *out, int64_t out_slot) {
    __shared__ __align__(16) step_row rows[2];
    int N = (int)g.N, first = (int)(blockIdx.x % g.parts) * CHANNELS * TOGETHER;
    int head = (int)(blockIdx.x / g.parts % g.H);
    first += threadIdx.x / LANES;
    int64_t place = (head * g.P + first) * N;
    kr_go_on();
    kr_after();
    kr_sequence q = kr_sequence_of(g, blockIdx.x / g.parts / g.H);
    const S *from = g.state ? (const S *)g.state + q.slot * g.state_slot + place : NULL;
    S *to = out ? out + q.slot * out_slot + place : NULL;
    if (q.count == 0 && from == to) return;   /* no one's */
    pack<S> states[CHANNELS][pack<S>::PACKS]; /* halves are rounded behind every row */
#pragma unroll
    for (int i = 0; i < CHANNELS; i++)
#pragma unroll
        for (int k = 0; k < pack<S>::PACKS; k++)
            load_pack<WIDE>(from + i * TOGETHER * N, from && first + i * TOGETHER < g.P ? N : 0,
                            pack_at<S>(k), states[i][k]);
    for (int64_t t = 0; t < q.count; t++) {
        int64_t row = kr_row_at(g, q, t), at = head * g.P + first;
        float2 step = step_of(g, row, head, kr_starts(g, q, t));
        share_row(g, row, head, rows[t % 2]);
        float x[CHANNELS], sum[CHANNELS];
#pragma unroll
        for (int i = 0; i < CHANNELS; i++) {
            x[i] = 0;
            if (first + i * TOGETHER < g.P)
                x[i] = kr_load(g.x.p + row * g.x.row + at + i * TOGETHER);
        }
        __syncthreads();
        move<S, CHANNELS>(states, rows[t % 2], step, x, sum);
#pragma unroll
        for (int i = 0; i < CHANNELS; i++) {
            if (threadIdx.x % LANES || first + i * TOGETHER >= g.P) continue;
            sum[i] *= g.kappa;
            if (g.D)
                sum[i] = fmaf(g.D[g.skip_per_channel ? at + i * TOGETHER : head], x[i], sum[i]);
            float slope;
            if (g.z.p)
                sum[i] *= kr_gate(kr_load(g.z.p + row * g.z.row + at + i * TOGETHER), &slope);
            kr_put(y + row * y_row + at + i * TOGETHER, sum[i], add);
        }
    }
#pragma unroll
    for (int i = 0; i < CHANNELS; i++)
#pragma unroll
        for (int k = 0; k < pack<S>::PACKS; k++)
            if (to && first + i * TOGETHER < g.P)
                store_pack<WIDE>(to + i * TOGETHER * N, N, pack_at<S>(k), states[i][k]);
}

template <typename T, typename S, int CHANNELS, bool WIDE>
static void launch(const kr_call *c, kr_matrix_in<T> &g) {
    const kr_tensor *y = &c->out[KR_SCAN_OUT_Y], *out = &c->out[KR_SCAN_OUT_STATE];
    S *keep = c->n_out > KR_SCAN_OUT_STATE ? (S *)out->data : NULL;
    g.parts = (int)((g.P + CHANNELS * TOGETHER - 1) / (CHANNELS * TOGETHER));
    kr_launch_early(steps<T, S, CHANNELS, WIDE>, true, dim3((unsigned)(g.S * g.H * g.parts)),
                    KR_MATRIX_THREADS, 0, g, (T *)y->data, (int64_t)y->stride[0],
                    KR_ACC(c, KR_SCAN_OUT_Y) != 0, keep, keep ? (int64_t)out->stride[0] : 0);
}

template <typename T, typename S>
static void run(const kr_call *c, kr_matrix_in<T> &g) {
    const void *out = c->n_out > KR_SCAN_OUT_STATE ? c->out[KR_SCAN_OUT_STATE].data : NULL;
    bool wide =
        g.N % pack<S>::SIZE == 0 && (uintptr_t)g.state % 16 == 0 && (uintptr_t)out % 16 == 0;
    if (g.S * g.H == 0) return;
    if (g.P <= TOGETHER)
        (wide ? launch<T, S, 1, true> : launch<T, S, 1, false>)(c, g);
    else
        (wide ? launch<T, S, 2, true> : launch<T, S, 2, false>)(c, g);
}

extern "C" void kr_scan_matrix_step_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype != KR_BF16) {
        kr_matrix_in<float> g = kr_matrix_unpack<float>(c);
        return run<float, float>(c, g);
    }
    kr_matrix_in<bf16> g = kr_matrix_unpack<bf16>(c);
    (g.half_states ? run<bf16, bf16> : run<bf16, float>)(c, g);
}
