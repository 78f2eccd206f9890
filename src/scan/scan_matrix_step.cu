/* scan_matrix_step.cu - the recurrence with one decay a head on the GPU, few rows a sequence: the
 * decoding of a token.
 *
 * Bound by the states, which are read and written once. A block takes up to 64 channels of a head
 * of a sequence; eight lanes take a channel, each every eighth quad of its states, all of them on
 * their way before the first is used. The 32 KB of a block have to be that many: blocks wait for
 * little else, and a multiprocessor holds three of them. */
#include "scan/scan_matrix.cuh"

enum { LANES = 8 /* of a channel */, QUADS = KR_MATRIX_N / 4 / LANES, TOGETHER = 32 };
static_assert(LANES * TOGETHER == KR_MATRIX_THREADS, "a block takes 32 channels at a time");

/* Of a row, in shared memory; two rows in turn. */
struct step_row {
    float b[KR_MATRIX_N], c[KR_MATRIX_N];
};

/* Four states of a channel, from n on. */
template <bool WIDE>
static __device__ __forceinline__ void load_quad(const float *from, int N, int n, float (&h)[4]) {
    if constexpr (WIDE) {
        float4 v = n < N ? __ldcs((const float4 *)(from + n)) : make_float4(0, 0, 0, 0);
        h[0] = v.x, h[1] = v.y, h[2] = v.z, h[3] = v.w;
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) h[j] = n + j < N ? from[n + j] : 0;
    }
}

template <bool WIDE>
static __device__ __forceinline__ void store_quad(float *to, int N, int n, const float (&h)[4]) {
    if constexpr (WIDE) {
        if (n < N) __stcs((float4 *)(to + n), make_float4(h[0], h[1], h[2], h[3]));
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (n + j < N) to[n + j] = h[j];
    }
}

/* This lane's states of a channel. */
typedef float quads[QUADS][4];

static __device__ __forceinline__ int quad_at(int k) {
    return (k * LANES + (int)threadIdx.x % LANES) * 4;
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
    float delta = 0, slope, way = 0;
    if (g.dt.p) {
        float v = kr_load(g.dt.p + row * g.dt.row + head) + (g.bias ? g.bias[head] : 0);
        delta = kr_step_size(v, g.softplus, g.dt_min, g.dt_max, &slope);
    }
    if (g.decays && g.A) way = g.A[head] * delta;
    return make_float2(fresh ? 0 : expf(way), g.gain ? delta : 1);
}

/* Moves this lane's states on by a row, of which its channels add x; sum: their reads, in all their
 * lanes. A decay of 0 forgets states whatever they are. */
template <int CHANNELS>
static __device__ __forceinline__ void move(quads (&h)[CHANNELS], const step_row &row, float2 step,
                                            const float (&x)[CHANNELS], float (&sum)[CHANNELS]) {
#pragma unroll
    for (int i = 0; i < CHANNELS; i++) sum[i] = 0;
#pragma unroll
    for (int k = 0; k < QUADS; k++) {
        float4 b = *(const float4 *)(row.b + quad_at(k)), c = *(const float4 *)(row.c + quad_at(k));
        float bs[4] = {b.x, b.y, b.z, b.w}, cs[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
        for (int i = 0; i < CHANNELS; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float kept = step.x != 0 ? h[i][k][j] * step.x : 0;
                h[i][k][j] = fmaf(step.y * x[i], bs[j], kept);
                sum[i] = fmaf(h[i][k][j], cs[j], sum[i]);
            }
    }
#pragma unroll
    for (int i = 0; i < CHANNELS; i++)
#pragma unroll
        for (int lanes = 1; lanes < LANES; lanes *= 2)
            sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], lanes);
}

/* CHANNELS of a thread's eight lanes, 32 apart; WIDE: their states come by 16 bytes. */
template <typename T, int CHANNELS, bool WIDE>
static __global__ void __launch_bounds__(KR_MATRIX_THREADS, 3)
    steps(kr_matrix_in<T> g, T *y, int64_t y_row, bool add, float *out, int64_t out_slot) {
    __shared__ __align__(16) step_row rows[2];
    int N = (int)g.N, first = (int)(blockIdx.x % g.parts) * CHANNELS * TOGETHER;
    int head = (int)(blockIdx.x / g.parts % g.H);
    first += threadIdx.x / LANES;
    int64_t place = (head * g.P + first) * N;
    kr_go_on();
    kr_after();
    kr_sequence q = kr_sequence_of(g, blockIdx.x / g.parts / g.H);
    const float *from = g.state ? g.state + q.slot * g.state_slot + place : NULL;
    float *to = out ? out + q.slot * out_slot + place : NULL;
    if (q.count == 0 && from == to) return; /* no one's */
    quads h[CHANNELS];
#pragma unroll
    for (int i = 0; i < CHANNELS; i++)
#pragma unroll
        for (int k = 0; k < QUADS; k++) {
            h[i][k][0] = h[i][k][1] = h[i][k][2] = h[i][k][3] = 0;
            if (from && first + i * TOGETHER < g.P)
                load_quad<WIDE>(from + i * TOGETHER * N, N, quad_at(k), h[i][k]);
        }
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
        move<CHANNELS>(h, rows[t % 2], step, x, sum);
#pragma unroll
        for (int i = 0; i < CHANNELS; i++) {
            if (threadIdx.x % LANES || first + i * TOGETHER >= g.P) continue;
            if (g.D)
                sum[i] = fmaf(g.D[g.skip_per_channel ? at + i * TOGETHER : head], x[i], sum[i]);
            kr_put(y + row * y_row + at + i * TOGETHER, sum[i], add);
        }
    }
#pragma unroll
    for (int i = 0; i < CHANNELS; i++)
#pragma unroll
        for (int k = 0; k < QUADS; k++)
            if (to && first + i * TOGETHER < g.P)
                store_quad<WIDE>(to + i * TOGETHER * N, N, quad_at(k), h[i][k]);
}

template <typename T, int CHANNELS, bool WIDE>
static void launch(const kr_call *c, kr_matrix_in<T> &g) {
    const kr_tensor *y = &c->out[KR_SCAN_OUT_Y], *out = &c->out[KR_SCAN_OUT_STATE];
    float *keep = c->n_out > KR_SCAN_OUT_STATE ? (float *)out->data : NULL;
    g.parts = (int)((g.P + CHANNELS * TOGETHER - 1) / (CHANNELS * TOGETHER));
    kr_launch_early(steps<T, CHANNELS, WIDE>, true, dim3((unsigned)(g.S * g.H * g.parts)),
                    KR_MATRIX_THREADS, 0, g, (T *)y->data, (int64_t)y->stride[0],
                    KR_ACC(c, KR_SCAN_OUT_Y) != 0, keep, keep ? (int64_t)out->stride[0] : 0);
}

template <typename T>
static void run(const kr_call *c) {
    kr_matrix_in<T> g = kr_matrix_unpack<T>(c);
    const void *out = c->n_out > KR_SCAN_OUT_STATE ? c->out[KR_SCAN_OUT_STATE].data : NULL;
    bool wide = g.N % 4 == 0 && (uintptr_t)g.state % 16 == 0 && (uintptr_t)out % 16 == 0;
    if (g.S * g.H == 0) return;
    if (g.P <= TOGETHER)
        (wide ? launch<T, 1, true> : launch<T, 1, false>)(c, g);
    else
        (wide ? launch<T, 2, true> : launch<T, 2, false>)(c, g);
}

extern "C" void kr_scan_matrix_step_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
