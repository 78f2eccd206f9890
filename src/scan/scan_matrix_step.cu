/* scan_matrix_step.cu - the recurrence with one decay a head on the GPU, few rows a sequence: the
 * decoding of a token.
 *
 * Bound by the states, which are read and written once. A block takes 16 channels of a head of a
 * sequence; a warp has two of them, a lane four states of each, all on their way before the first
 * is used. Blocks are many and small, so that some load while others compute. */
#include "scan/scan_matrix.cuh"

enum { ROWS = 2, CHANNELS = ROWS * KR_MATRIX_WARPS, LANE = KR_MATRIX_N / 32 };

struct step_row {
    float b[LANE], c[LANE], gain, decay;
};

/* Lane's states of a channel. */
static __device__ __forceinline__ void load_states(const float *from, bool wide, int64_t N, int n,
                                                   float (&h)[LANE]) {
    if (wide) {
        float4 v = n < N ? __ldcs((const float4 *)(from + n)) : make_float4(0, 0, 0, 0);
        h[0] = v.x, h[1] = v.y, h[2] = v.z, h[3] = v.w;
        return;
    }
#pragma unroll
    for (int j = 0; j < LANE; j++) h[j] = n + j < N ? from[n + j] : 0;
}

static __device__ __forceinline__ void store_states(float *to, bool wide, int64_t N, int n,
                                                    const float (&h)[LANE]) {
    if (wide) {
        if (n < N) __stcs((float4 *)(to + n), make_float4(h[0], h[1], h[2], h[3]));
        return;
    }
#pragma unroll
    for (int j = 0; j < LANE; j++)
        if (n + j < N) to[n + j] = h[j];
}

template <typename T>
static __device__ __forceinline__ step_row load_row(const kr_matrix_in<T> &g, int64_t row,
                                                    int64_t head, int n, bool fresh) {
    int64_t first = head / (g.H / g.G) * g.N;
    step_row r;
    float delta = 0, slope, way = 0;
#pragma unroll
    for (int j = 0; j < LANE; j++) {
        bool there = n + j < g.N;
        r.b[j] = there ? kr_load(g.b.p + row * g.b.row + first + n + j) : 0;
        r.c[j] = there ? kr_load(g.c.p + row * g.c.row + first + n + j) : 0;
    }
    if (g.dt.p) {
        float v = kr_load(g.dt.p + row * g.dt.row + head) + (g.bias ? g.bias[head] : 0);
        delta = kr_step_size(v, g.softplus, g.dt_min, g.dt_max, &slope);
    }
    if (g.decays && g.A) way = g.A[head] * delta;
    r.gain = g.gain ? delta : 1;
    r.decay = fresh ? 0 : expf(way);
    return r;
}

template <typename T>
static __global__ void __launch_bounds__(KR_MATRIX_THREADS)
    steps(kr_matrix_in<T> g, T *y, int64_t y_row, bool add, float *out, int64_t out_slot,
          bool wide) {
    int64_t first = blockIdx.x % g.parts * CHANNELS + threadIdx.x / 32;
    int64_t head = blockIdx.x / g.parts % g.H, size = g.P * g.N;
    kr_sequence q = kr_sequence_of(g, blockIdx.x / g.parts / g.H);
    int n = (threadIdx.x & 31) * LANE;
    const float *from = g.state ? g.state + q.slot * g.state_slot + head * size : NULL;
    float h[ROWS][LANE];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        int64_t p = first + i * KR_MATRIX_WARPS;
#pragma unroll
        for (int j = 0; j < LANE; j++) h[i][j] = 0;
        if (from && p < g.P) load_states(from + p * g.N, wide, g.N, n, h[i]);
    }
    for (int64_t t = 0; t < q.count; t++) {
        int64_t row = kr_row_at(g, q, t);
        step_row r = load_row(g, row, head, n, kr_starts(g, q, t));
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            int64_t p = first + i * KR_MATRIX_WARPS, at = head * g.P + p;
            if (p >= g.P) continue;
            float x = kr_load(g.x.p + row * g.x.row + at), sum = 0;
#pragma unroll
            for (int j = 0; j < LANE; j++) {
                float old = r.decay != 0 ? h[i][j] * r.decay : 0;
                h[i][j] = fmaf(r.gain * x, r.b[j], old);
                sum = fmaf(h[i][j], r.c[j], sum);
            }
            sum = kr_warp_sum(sum);
            if (g.D) sum = fmaf(g.D[g.skip_per_channel ? at : head], x, sum);
            if ((threadIdx.x & 31) == 0) kr_put(y + row * y_row + at, sum, add);
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        int64_t p = first + i * KR_MATRIX_WARPS;
        if (out && p < g.P)
            store_states(out + q.slot * out_slot + head * size + p * g.N, wide, g.N, n, h[i]);
    }
}

template <typename T>
static void run(const kr_call *c) {
    kr_matrix_in<T> g = kr_matrix_unpack<T>(c);
    const kr_tensor *y = &c->out[KR_SCAN_OUT_Y], *out = &c->out[KR_SCAN_OUT_STATE];
    float *keep = c->n_out > KR_SCAN_OUT_STATE ? (float *)out->data : NULL;
    bool wide = g.N % 4 == 0 && (uintptr_t)g.state % 16 == 0 && (uintptr_t)keep % 16 == 0;
    if (g.S * g.H == 0) return;
    g.parts = (int)((g.P + CHANNELS - 1) / CHANNELS);
    steps<T><<<(unsigned)(g.S * g.H * g.parts), KR_MATRIX_THREADS, 0, kr_cuda_stream()>>>(
        g, (T *)y->data, y->stride[0], KR_ACC(c, KR_SCAN_OUT_Y) != 0, keep,
        keep ? out->stride[0] : 0, wide);
}

extern "C" void kr_scan_matrix_step_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
