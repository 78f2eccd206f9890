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

/* Adds the 4 states from n to the read; VECTOR: they are all there, and aligned. */
template <typename T, bool VECTOR>
__device__ __forceinline__ float update(const kr_scan_in<T> &g, const float *from, float *to,
                                        const float *A, const T *b, const T *c, int n, float delta,
                                        float gx) {
    float h[4], a[4], u = 0;
    if (VECTOR) {
        float4 v = *(const float4 *)(A + n);
        a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
        v = from ? *(const float4 *)(from + n) : make_float4(0, 0, 0, 0);
        h[0] = v.x, h[1] = v.y, h[2] = v.z, h[3] = v.w;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (!VECTOR && n + i >= g.N) break;
        if (!VECTOR) a[i] = A[n + i];
        if (!VECTOR) h[i] = from ? from[n + i] : 0;
        h[i] = kr_exp2(delta * (a[i] * KR_LOG2E)) * h[i] + gx * kr_load(b + n + i);
        u += h[i] * kr_load(c + n + i);
        if (!VECTOR) to[n + i] = h[i];
    }
    if (VECTOR) *(float4 *)(to + n) = make_float4(h[0], h[1], h[2], h[3]);
    return u;
}

/* Copies the state of a sequence without rows. */
template <typename T>
__device__ void keep(const kr_scan_in<T> &g, const float *from, float *to, int lane) {
    for (int n = lane; n < g.N; n += 4) to[n] = from ? from[n] : 0;
}

template <typename T, bool VECTOR>
__global__ void __launch_bounds__(128) step(const kr_scan_in<T> g, const step_out<T> out) {
    int64_t e = (int64_t)blockIdx.x * 32 + threadIdx.x / 4, s = blockIdx.y;
    int lane = threadIdx.x & 3;
    bool alive = e < g.E;
    if (!alive) e = g.E - 1; /* shuffles need whole warps */
    kr_scan_span p = kr_span(g, s);
    float *to = out.state + p.slot * out.state_slot + e * g.N;
    const float *from = g.state ? g.state + p.slot * g.state_slot + e * g.N : NULL;
    float D = g.D ? g.D[e / g.D_width] : 0, bias = g.bias ? g.bias[e] : 0, slope;
    if (p.steps == 0 && alive) keep(g, from, to, lane);
    for (int64_t t = 0; t < p.steps; t++, from = to) {
        int64_t row = p.row + p.dir * t;
        if (g.reset && kr_starts(g, p, t)) from = NULL;
        float x = kr_load(g.tile[0].p + row * g.tile[0].row + e), u = 0, gate = 1;
        float delta = kr_delta(g, kr_load(g.tile[1].p + row * g.tile[1].row + e) + bias, &slope);
        if (g.tile[2].p) gate = kr_load(g.tile[2].p + row * g.tile[2].row + e);
        if (g.tile[2].p) gate *= kr_sigmoid<T>(gate);
        for (int n = lane * 4; n < g.N && alive; n += 16)
            u += update<T, VECTOR>(g, from, to, g.A + e * g.N, g.b.p + row * g.b.row,
                                   g.c.p + row * g.c.row, n, delta, delta * x);
        u += __shfl_xor_sync(0xffffffffu, u, 1);
        u += __shfl_xor_sync(0xffffffffu, u, 2);
        if (lane == 0 && alive)
            kr_put(out.y + row * out.y_row + e, (u + D * x) * gate, out.accumulate);
    }
}

bool aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

template <typename T>
void run(const kr_call *c) {
    const kr_tensor *y = &c->out[KR_SCAN_OUT_Y], *state = &c->out[KR_SCAN_OUT_STATE];
    kr_scan_in<T> g = kr_scan_in_of<T>(c);
    step_out<T> out = {(T *)y->data, y->stride[0], (float *)state->data, state->stride[0],
                       KR_ACC(c, KR_SCAN_OUT_Y) != 0};
    dim3 grid(kr_blocks(g.E, 32), (unsigned)g.S);
    if (g.N % 4 == 0 && aligned(g.A) && aligned(g.state) && aligned(out.state) &&
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
