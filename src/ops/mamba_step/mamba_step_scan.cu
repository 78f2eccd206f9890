/* mamba_step_scan.cu - dt_proj, the recurrence and its gate in a decode step, in one kernel.
 * mamba_step.h has the equations.
 *
 * Four lanes take a channel: each has a quarter of its row of the weight, in registers for all rows
 * that the block serves, and every fourth quad of its states. Weight, A and the first row's states
 * are loaded before the kernel in front has ended. */
#include "device/cuda/kernel.cuh"
#include "ops/mamba_step/mamba_step_gpu.cuh"

enum { THREADS = 64, CHANNELS = THREADS / 4, LOADS = 6 };

template <typename T>
struct arguments {
    const T *xp, *weight, *u, *z;
    const float *dt_bias, *A, *D, *state;
    const int64_t *seqs;
    float *state_out;
    T *y;
    int64_t M, E, N, r, ld_xp, ld_weight, ld_A, ld_u, ld_z, ld_y, from_slot, to_slot;
    int rows; /* of a block */
};

/* ---- dt_proj --------------------------------------------------------------------------------- */

/* This lane's part of a row of the weight. */
template <bool VECTORS, typename T>
static __device__ __forceinline__ void fetch_weight(const arguments<T> &a, const T *w, int lane,
                                                    uint4 (&v)[LOADS]) {
    constexpr int SIZE = 16 / sizeof(T);
#pragma unroll
    for (int i = 0; VECTORS && i < LOADS; i++) {
        v[i] = make_uint4(0, 0, 0, 0);
        int64_t k = (i * 4 + lane) * SIZE;
        if (k < a.r) v[i] = *(const uint4 *)(w + k);
    }
}

template <typename T>
static __device__ __forceinline__ float dot(const uint4 &v, const uint4 &x) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < (int)(16 / sizeof(T)); i++)
        sum += kr_load((const T *)&v + i) * kr_load((const T *)&x + i);
    return sum;
}

/* The raw step, in the 4 lanes of the channel. */
template <bool VECTORS, typename T>
static __device__ __forceinline__ float project(const arguments<T> &a, const T *w, const T *x,
                                                int lane, const uint4 (&v)[LOADS]) {
    constexpr int SIZE = 16 / sizeof(T);
    float sum = 0;
    if constexpr (VECTORS) {
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            int64_t k = (i * 4 + lane) * SIZE;
            if (k < a.r) sum += dot<T>(v[i], *(const uint4 *)(x + k));
        }
        for (int64_t k = (LOADS * 4 + lane) * SIZE; k < a.r; k += 4 * SIZE)
            sum += dot<T>(*(const uint4 *)(w + k), *(const uint4 *)(x + k));
    } else {
        for (int64_t k = lane; k < a.r; k += 4) sum += kr_load(w + k) * kr_load(x + k);
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    return sum + __shfl_xor_sync(0xffffffffu, sum, 2);
}

/* ---- the recurrence -------------------------------------------------------------------------- */

template <bool VECTORS>
static __device__ __forceinline__ void fetch_quad(const float *p, int64_t n, int64_t N,
                                                  float (&to)[4]) {
    if constexpr (VECTORS) {
        float4 v = *(const float4 *)(p + n);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] = n + i < N ? p[n + i] : 0;
    }
}

/* Moves 4 states on; returns what they add to the read. */
template <bool VECTORS, typename T>
static __device__ __forceinline__ float move(const arguments<T> &a, const float (&A)[4],
                                             float (&h)[4], const T *b, float *to, int64_t n,
                                             float delta, float du) {
    float read = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (!VECTORS && n + i >= a.N) break;
        h[i] = exp2f(delta * (A[i] * 1.44269504f)) * h[i] + du * kr_load(b + n + i);
        read += h[i] * kr_load(b + a.N + n + i);
        if (!VECTORS) to[n + i] = h[i];
    }
    if (VECTORS) *(float4 *)(to + n) = make_float4(h[0], h[1], h[2], h[3]);
    return read;
}

static __device__ __forceinline__ float softplus(float x) { return x > 20 ? x : log1pf(__expf(x)); }

/* Slot of row m; -1: it is no one's, or there is none. */
template <typename T>
static __device__ __forceinline__ int64_t slot_of(const arguments<T> &a, int64_t m) {
    return m < a.M && a.seqs[3 * m + 1] > 0 ? a.seqs[3 * m + 2] : -1;
}

/* VECTORS: the weight's and xp's rows; QUADS: those of A and the states. */
template <bool VECTORS, bool QUADS, typename T>
static __global__ void __launch_bounds__(THREADS) step_scan(arguments<T> a) {
    int lane = threadIdx.x % 4;
    int64_t e = (int64_t)blockIdx.x * CHANNELS + threadIdx.x / 4;
    bool alive = e < a.E;
    if (!alive) e = a.E - 1; /* shuffles need whole warps */
    int64_t m = (int64_t)blockIdx.y * a.rows, end = m + a.rows < a.M ? m + a.rows : a.M;
    const T *w = a.weight + e * a.ld_weight;
    const float *A_row = a.A + e * a.ld_A;
    uint4 v[LOADS];
    float A[4] = {}, h[4] = {}, bias = a.dt_bias[e], D = a.D[e];
    int64_t slot = slot_of(a, m);
    kr_go_on();
    fetch_weight<VECTORS>(a, w, lane, v);
    if (lane * 4 < a.N) fetch_quad<QUADS>(A_row, lane * 4, a.N, A);
    if (lane * 4 < a.N && slot >= 0)
        fetch_quad<QUADS>(a.state + slot * a.from_slot + e * a.N, lane * 4, a.N, h);
    kr_after();
    for (; m < end; m++) {
        const T *x = a.xp + m * a.ld_xp, *b = x + a.r;
        float u = kr_load(a.u + m * a.ld_u + e), z = kr_load(a.z + m * a.ld_z + e), read = 0;
        float delta = softplus(project<VECTORS>(a, w, x, lane, v) + bias);
        int64_t next = m + 1 < end ? slot_of(a, m + 1) : -1;
        float h_next[4] = {};
        if (lane * 4 < a.N && next >= 0)
            fetch_quad<QUADS>(a.state + next * a.from_slot + e * a.N, lane * 4, a.N, h_next);
        for (int64_t n = lane * 4; n < a.N && alive && slot >= 0; n += 16) {
            if (n >= 16) {
                fetch_quad<QUADS>(A_row, n, a.N, A);
                fetch_quad<QUADS>(a.state + slot * a.from_slot + e * a.N, n, a.N, h);
            }
            read += move<QUADS>(a, A, h, b, a.state_out + slot * a.to_slot + e * a.N, n, delta,
                                delta * u);
        }
        if (a.N > 16 && lane * 4 < a.N) fetch_quad<QUADS>(A_row, lane * 4, a.N, A);
        read += __shfl_xor_sync(0xffffffffu, read, 1);
        read += __shfl_xor_sync(0xffffffffu, read, 2);
        if (lane == 0 && alive)
            kr_store(a.y + m * a.ld_y + e, slot < 0 ? 0 : (read + D * u) * (z / (1 + __expf(-z))));
        slot = next;
#pragma unroll
        for (int i = 0; i < 4; i++) h[i] = h_next[i];
    }
}

/* ---- launching ------------------------------------------------------------------------------- */

static bool aligned(const void *p, int64_t bytes) {
    return (((uintptr_t)p | (uintptr_t)bytes) & 15) == 0;
}

template <bool VECTORS, typename T>
static void launch_quads(const arguments<T> &a) {
    dim3 grid(kr_blocks(a.E, CHANNELS), kr_blocks(a.M, a.rows));
    bool quads = a.N % 4 == 0 && aligned(a.A, a.ld_A * 4) && aligned(a.state, a.from_slot * 4) &&
                 aligned(a.state_out, a.to_slot * 4);
    if (quads)
        kr_launch_early(step_scan<VECTORS, true, T>, true, grid, THREADS, 0, a);
    else
        kr_launch_early(step_scan<VECTORS, false, T>, true, grid, THREADS, 0, a);
}

template <typename T>
static void launch(const kr_call *c) {
    const kr_tensor *in = c->in, *y = &c->out[KR_STEP_Y], *A = &in[KR_STEP_A];
    const kr_tensor *weight = &in[KR_STEP_DT_WEIGHT];
    arguments<T> a = {(const T *)in[KR_STEP_XP].data,
                      (const T *)weight->data,
                      (const T *)in[KR_STEP_SCAN_U].data,
                      (const T *)in[KR_STEP_SCAN_Z].data,
                      (const float *)in[KR_STEP_DT_BIAS].data,
                      (const float *)A->data,
                      (const float *)in[KR_STEP_D].data,
                      (const float *)in[KR_STEP_STATE].data,
                      (const int64_t *)in[KR_STEP_SCAN_SEQS].data,
                      (float *)c->out[KR_STEP_STATE_OUT].data,
                      (T *)y->data};
    a.M = y->shape[0];
    a.E = y->shape[1];
    a.N = A->shape[1];
    a.r = weight->shape[1];
    a.ld_xp = in[KR_STEP_XP].stride[0];
    a.ld_weight = weight->stride[0];
    a.ld_A = A->stride[0];
    a.ld_u = in[KR_STEP_SCAN_U].stride[0];
    a.ld_z = in[KR_STEP_SCAN_Z].stride[0];
    a.ld_y = y->stride[0];
    a.from_slot = in[KR_STEP_STATE].stride[0];
    a.to_slot = c->out[KR_STEP_STATE_OUT].stride[0];
    a.rows = a.M <= 16 ? 1 : 8;
    if (a.M == 0 || a.E == 0) return;
    int64_t size = 16 / (int64_t)sizeof(T);
    if (a.r % size == 0 && aligned(a.weight, a.ld_weight * (int64_t)sizeof(T)) &&
        aligned(a.xp, a.ld_xp * (int64_t)sizeof(T)))
        launch_quads<true>(a);
    else
        launch_quads<false>(a);
}

extern "C" void kr_mamba_step_scan_cuda(const kr_call *c) {
    if (c->out[KR_STEP_Y].shape[0] > KR_STEP_FEW && kr_mamba_step_scan_many(c)) return;
    if (c->in[KR_STEP_SCAN_U].dtype == KR_BF16)
        launch<bf16>(c);
    else
        launch<float>(c);
}
