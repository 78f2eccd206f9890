/* scan_step.cu - the recurrence on the GPU where sequences have one row each: decoding. The states
 * come from memory as they lie, [E,N], and go back: 4 lanes a channel, each with every fourth
 * quad of states. Several rows in a sequence are done one after another, from the state written. */
#include "scan/scan_gpu.cuh"

namespace {

template <typename T>
struct step_out {
    T *y;
    int64_t y_row;
    float *state;
    int64_t state_slot;
    bool accumulate;
};

enum { TOGETHER = 2 }; /* channels of a lane, 32 apart: loads in flight */

template <bool VECTOR>
__device__ __forceinline__ void load4(const float *from, int n, int N, float (&v)[4]) {
    if (VECTOR && from) {
        kr_get4(from + n, v);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = from && n + i < N ? from[n + i] : 0;
    }
}
template <bool VECTOR, typename T>
__device__ __forceinline__ void widen4(const T *from, int n, int N, float (&v)[4]) {
    if (VECTOR && sizeof(T) == 2) {
        uint2 w = *(const uint2 *)(from + n);
        v[0] = __uint_as_float(w.x << 16), v[1] = __uint_as_float(w.x & 0xffff0000u);
        v[2] = __uint_as_float(w.y << 16), v[3] = __uint_as_float(w.y & 0xffff0000u);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = n + i < N ? kr_load(from + n + i) : 0;
    }
}

/* A lane's share of one row: TOGETHER channels from e on, every fourth quad of states. */
struct row_state {
    const float *from[TOGETHER]; /* NULL: zeros */
    float *to[TOGETHER];
    float delta[TOGETHER], gx[TOGETHER], u[TOGETHER];
    bool alive[TOGETHER];
};

template <typename T, bool VECTOR>
__device__ __forceinline__ void update(const kr_scan_in<T> &g, int64_t row, int64_t e, int n,
                                       row_state &w) {
    float a[TOGETHER][4], h[TOGETHER][4], b[4], c[4];
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) {
        load4<VECTOR>(w.alive[k] ? w.from[k] : NULL, n, g.N, h[k]);
        load4<VECTOR>(w.alive[k] ? g.A + (e + 32 * k) * g.N : NULL, n, g.N, a[k]);
    }
    widen4<VECTOR>(g.b.p + row * g.b.row, n, g.N, b);
    widen4<VECTOR>(g.c.p + row * g.c.row, n, g.N, c);
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            h[k][i] = kr_exp2(w.delta[k] * (a[k][i] * KR_LOG2E)) * h[k][i] + w.gx[k] * b[i];
            w.u[k] += h[k][i] * c[i];
        }
        if (!w.alive[k]) continue;
        if (VECTOR)
            kr_put4(w.to[k] + n, h[k]);
        else
            for (int i = 0; i < 4; i++)
                if (n + i < g.N) w.to[k][n + i] = h[k][i];
    }
}

/* Copies the state of a sequence without rows. */
template <typename T>
__device__ void keep(const kr_scan_in<T> &g, const row_state &w, int lane) {
    for (int k = 0; k < TOGETHER; k++)
        for (int n = lane; n < g.N && w.alive[k]; n += 4) w.to[k][n] = w.from[k] ? w.from[k][n] : 0;
}

template <typename T, bool VECTOR>
__device__ __forceinline__ void one_row(const kr_scan_in<T> &g, const step_out<T> &out, int64_t row,
                                        int64_t e, int lane, row_state &w) {
    float x[TOGETHER], gate[TOGETHER], slope;
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) {
        int64_t at = w.alive[k] ? e + 32 * k : 0;
        float z = g.tile[2].p ? kr_load(g.tile[2].p + row * g.tile[2].row + at) : 0;
        float raw = kr_load(g.tile[1].p + row * g.tile[1].row + at);
        x[k] = kr_load(g.tile[0].p + row * g.tile[0].row + at);
        gate[k] = g.tile[2].p ? z * kr_sigmoid<T>(z) : 1;
        w.delta[k] = kr_delta<T>(g, raw + (g.bias ? g.bias[at] : 0), &slope);
        w.gx[k] = w.delta[k] * x[k];
        w.u[k] = 0;
    }
    for (int n = lane * 4; n < g.N; n += 16) update<T, VECTOR>(g, row, e, n, w);
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) {
        w.u[k] += __shfl_xor_sync(0xffffffffu, w.u[k], 1);
        w.u[k] += __shfl_xor_sync(0xffffffffu, w.u[k], 2);
        if (lane || !w.alive[k]) continue;
        float D = kr_load_D(g, e + 32 * k);
        kr_put(out.y + row * out.y_row + e + 32 * k, (w.u[k] + D * x[k]) * gate[k], out.accumulate);
    }
}

template <typename T, bool VECTOR>
__global__ void __launch_bounds__(128) step(const kr_scan_in<T> g, const step_out<T> out) {
    int64_t e = (int64_t)blockIdx.x * 32 * TOGETHER + threadIdx.x / 4;
    int lane = threadIdx.x & 3;
    kr_scan_span p = kr_whole(g, blockIdx.y);
    row_state w;
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) {
        w.alive[k] = e + 32 * k < g.E;
        w.to[k] = out.state + p.slot * out.state_slot + (e + 32 * k) * g.N;
        w.from[k] = g.state ? g.state + p.slot * g.state_slot + (e + 32 * k) * g.N : NULL;
    }
    if (p.steps == 0) keep(g, w, lane);
    for (int64_t t = 0; t < p.steps; t++) {
        bool fresh = g.reset && kr_starts(g, p, t);
        for (int k = 0; k < TOGETHER && fresh; k++) w.from[k] = NULL;
        one_row<T, VECTOR>(g, out, p.row + p.dir * t, e, lane, w);
        for (int k = 0; k < TOGETHER; k++) w.from[k] = w.to[k];
    }
}

bool aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

template <typename T>
void run(const kr_call *c) {
    const kr_tensor *y = &c->out[KR_SCAN_OUT_Y], *state = &c->out[KR_SCAN_OUT_STATE];
    kr_scan_in<T> g = kr_scan_in_of<T>(c);
    step_out<T> out = {(T *)y->data, y->stride[0], (float *)state->data, state->stride[0],
                       KR_ACC(c, KR_SCAN_OUT_Y) != 0};
    dim3 grid(kr_blocks(g.E, 32 * TOGETHER), (unsigned)g.S);
    if (g.N % 4 == 0 && g.align_bc > 1 && aligned(g.A) && aligned(g.state) && aligned(out.state) &&
        g.state_slot % 4 == 0 && out.state_slot % 4 == 0)
        step<T, true><<<grid, 128, 0, kr_cuda_stream()>>>(g, out);
    else
        step<T, false><<<grid, 128, 0, kr_cuda_stream()>>>(g, out);
}

} // namespace

bool kr_scan_step(const kr_call *c) {
    if (c->in[KR_SCAN_SEQS].shape[0] > 65535) return false;
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
    return true;
}
