/* scan_seq.cu - the recurrence on the GPU, forward. scan_gpu.cuh says how the work lies in a warp;
 * README.md why.
 *
 *   h_t = exp(delta_t A) h_{t-1} + delta_t x_t b_t      y_t = (h_t . c_t + D x_t) silu(z_t)
 *
 * A block of threads takes some channels of one sequence through time. Where channels are few, the
 * 8 others of a warp are slots of time: each slot runs its 8 rows from a zero state, the slots'
 * ends are combined by shuffles (the decay over a slot is exp(A sum delta)), and then each slot
 * runs its rows from its true state with the decays that it still holds. */
#include "scan/scan_gpu.cuh"

namespace {

template <typename T>
struct forward_out {
    T *y;
    int64_t y_row;
    float *state;
    int64_t state_slot;
    bool vector, accumulate;
};

/* The lane's own pairs of a step: rows group and 4 + group of its 8. */
struct own_pair {
    float x[2], gate[2];
};

template <typename T>
__device__ __forceinline__ void prepare(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                                        const kr_scan_lane &l, int stage, int t0, int left,
                                        float bias, own_pair &own) {
    float *mine = s.own + l.warp * 192;
    const T *x = kr_raw(s, stage, 0, 0) + l.c, *dt = kr_raw(s, stage, 1, 0) + l.c;
    const T *z = kr_raw(s, stage, 2, 0) + l.c;
    __syncwarp();
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int t = t0 + e * 4 + l.group, at = e * 32 + l.other * 4 + l.group;
        bool in = t < left && l.alive;
        float slope, delta = kr_delta(g, kr_load(dt + t * s.pitch) + bias, &slope);
        own.x[e] = kr_load(x + t * s.pitch);
        own.gate[e] = 1;
        if (g.tile[2].p) {
            float v = kr_load(z + t * s.pitch);
            own.gate[e] = v * kr_sigmoid<T>(v);
        }
        mine[at] = in ? delta : 0;
        mine[64 + at] = in ? delta * own.x[e] : 0;
    }
    __syncwarp();
}

/* Decays and inputs of the lane's 8 rows from t0. sum: of delta. */
template <typename T>
__device__ __forceinline__ void decays(const kr_scan_shared<T> &s, const kr_scan_lane &l, int t0,
                                       const float (&A)[4], float (&a)[8][4], float (&b)[8][4],
                                       float &sum) {
    const float *mine = s.own + l.warp * 192 + l.other * 4;
    sum = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float delta = mine[j / 4 * 32 + j % 4], gx = mine[64 + j / 4 * 32 + j % 4];
        float4 v = *(const float4 *)(s.b + kr_bc_at(s, t0) + j * s.padded + l.n);
        sum += delta;
#pragma unroll
        for (int i = 0; i < 4; i++) a[j][i] = kr_exp2(delta * A[i]);
        b[j][0] = gx * v.x;
        b[j][1] = gx * v.y;
        b[j][2] = gx * v.z;
        b[j][3] = gx * v.w;
    }
}

/* No state passes into the rows that start a segment. */
template <typename T>
__device__ __forceinline__ void cut(const kr_scan_shared<T> &s, int t0, float (&a)[8][4]) {
#pragma unroll
    for (int j = 0; j < 8; j++)
        if (s.reset[t0 + j]) a[j][0] = a[j][1] = a[j][2] = a[j][3] = 0;
}

/* h: in, the state in front of slot 0 (valid there); out, in front of the lane's own slot. carry
 * becomes the state behind the last slot (valid in slot 0). */
template <int SLOTS>
__device__ __forceinline__ void join_slots(const kr_scan_lane &l, const float (&a)[8][4],
                                           const float (&b)[8][4], const float (&A)[4], float sum,
                                           bool cuts, float (&h)[4], float (&carry)[4]) {
    float p[4], e[4] = {0, 0, 0, 0};
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) e[i] = a[j][i] * e[i] + b[j][i];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        p[i] = cuts ? 0 : kr_exp2(A[i] * sum);
        if (l.slot == 0) e[i] += p[i] * carry[i];
        if (l.slot == 0) p[i] = 0; /* so is the product of any run of slots from here */
    }
#pragma unroll
    for (int d = 1; d < SLOTS; d *= 2) {
        int from = kr_lane_at(l.slot >= d ? l.other - d : l.other, l.group);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            e[i] += p[i] * __shfl_sync(0xffffffffu, e[i], from);
            p[i] *= __shfl_sync(0xffffffffu, p[i], from);
        }
    }
    int before = kr_lane_at(l.slot ? l.other - 1 : l.other + SLOTS - 1, l.group);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float v = __shfl_sync(0xffffffffu, e[i], before);
        h[i] = l.slot ? v : carry[i];
        carry[i] = v;
    }
}

/* Sums over the blocks of states, which are in different warps; in the warps of block 0. */
template <typename T>
__device__ __forceinline__ void add_blocks(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                                           const kr_scan_lane &l, int parity, float (&y)[2]) {
    float *at = s.sums + parity * (blockDim.x / 32) * 64 + l.warp * 64 + l.lane;
    at[0] = y[0];
    at[32] = y[1];
    __syncthreads();
    if (l.block) return;
    for (int k = 1; k < g.blocks; k++) {
        y[0] += at[k * 64];
        y[1] += at[k * 64 + 32];
    }
}

/* One step of SLOTS x 8 rows. Results replace z in the tile. */
template <typename T, int SLOTS, bool WIDE>
__device__ __forceinline__ void step(const kr_scan_in<T> &g, const kr_scan_shared<T> &s,
                                     const kr_scan_lane &l, int stage, int t0, int left,
                                     const float (&A)[4], float D, float bias, float (&h)[4]) {
    own_pair own;
    float a[8][4], b[8][4], y[8], sum, mine[2];
    prepare(g, s, l, stage, t0, left, bias, own);
    decays(s, l, t0, A, a, b, sum);
    bool cuts = kr_any_start(g, s, t0);
    if (cuts) cut(s, t0, a);
    float carry[4] = {h[0], h[1], h[2], h[3]};
    if (SLOTS > 1) join_slots<SLOTS>(l, a, b, A, sum, cuts, h, carry);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float4 c = *(const float4 *)(s.c + kr_bc_at(s, t0) + j * s.padded + l.n);
#pragma unroll
        for (int i = 0; i < 4; i++) h[i] = a[j][i] * h[i] + b[j][i];
        y[j] = h[0] * c.x + h[1] * c.y + h[2] * c.z + h[3] * c.w;
    }
    if (SLOTS > 1)
        for (int i = 0; i < 4; i++) h[i] = carry[i];
    mine[0] = kr_scatter4(y[0], y[1], y[2], y[3], l.group);
    mine[1] = kr_scatter4(y[4], y[5], y[6], y[7], l.group);
    if (WIDE) add_blocks(g, s, l, t0 / 8 & 1, mine);
    if (WIDE && l.block) return;
    T *out = kr_raw(s, stage, 2, 0) + l.c;
#pragma unroll
    for (int e = 0; e < 2; e++)
        kr_store(out + (t0 + e * 4 + l.group) * s.pitch, (mine[e] + D * own.x[e]) * own.gate[e]);
}

template <typename T, int SLOTS, bool WIDE>
__global__ void __launch_bounds__(WIDE ? 512 : 128, WIDE ? 1 : 4)
    forward(const kr_scan_in<T> g, const forward_out<T> out, int rows, int channels, int parts) {
    extern __shared__ float4 memory[];
    kr_scan_shared<T> s;
    kr_scan_carve(&s, (char *)memory, 3, rows, channels, g.blocks, blockDim.x / 32, 0);
    int64_t first = (int64_t)(blockIdx.x % parts) * channels;
    kr_scan_span p = kr_span(g, blockIdx.x / parts);
    kr_scan_lane l = kr_lane<SLOTS>(g, first);
    float A[4], h[4], D = 0, bias = 0;
    kr_load_A(g, l, A);
    kr_load_state(g, l, g.state ? g.state + p.slot * g.state_slot : NULL, h);
    if (l.alive && g.D) D = g.D[l.channel / g.D_width];
    if (l.alive && g.bias) bias = g.bias[l.channel];
    if (p.steps > 0) kr_tile_load(g, s, p, 0, 0, first);
    int stage = 0;
    for (int64_t from = 0; from < p.steps; from += rows, stage ^= 1) {
        kr_copy_wait();
        __syncthreads();
        if (from > 0)
            kr_tile_store(g, s, p, from - rows, stage ^ 1, 2, out.y, out.y_row, first, out.vector,
                          out.accumulate);
        kr_tile_convert(g, s, p, from, stage);
        __syncthreads();
        if (from + rows < p.steps) kr_tile_load(g, s, p, from + rows, stage ^ 1, first);
        int left = (int)min(p.steps - from, (int64_t)rows);
        for (int t0 = 0; t0 < left; t0 += 8 * SLOTS)
            step<T, SLOTS, WIDE>(g, s, l, stage, t0 + l.slot * 8, left, A, D, bias, h);
    }
    __syncthreads();
    if (p.steps > 0)
        kr_tile_store(g, s, p, (p.steps - 1) / rows * rows, stage ^ 1, 2, out.y, out.y_row, first,
                      out.vector, out.accumulate);
    if (!out.state || !l.alive || l.slot) return;
    for (int i = 0; i < 4; i++)
        if (l.n + i < g.N) out.state[p.slot * out.state_slot + l.channel * g.N + l.n + i] = h[i];
}

template <typename T, int SLOTS, bool WIDE>
void launch(const kr_scan_in<T> &g, const forward_out<T> &out, int octets, int rows) {
    int channels = octets * 8 / SLOTS, warps = octets * g.blocks;
    int sums = WIDE ? 2 * warps * 64 : 0;
    int64_t parts = (g.E + channels - 1) / channels;
    kr_scan_shared<T> s;
    size_t bytes = kr_scan_carve(&s, (char *)NULL, 3, rows, channels, g.blocks, warps, sums);
    /* the launch reports what this could not allow */
    cudaFuncSetAttribute(forward<T, SLOTS, WIDE>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)bytes);
    forward<T, SLOTS, WIDE>
        <<<kr_blocks(g.S * parts, 1), 32 * warps, bytes, kr_cuda_stream()>>>(g, out, rows, channels,
                                                                             (int)parts);
}

template <typename T>
void run(const kr_call *c) {
    const kr_tensor *y = &c->out[KR_SCAN_OUT_Y], *state = &c->out[KR_SCAN_OUT_STATE];
    kr_scan_in<T> g = kr_scan_in_of<T>(c);
    bool keeps = c->n_out > KR_SCAN_OUT_STATE && state->data;
    forward_out<T> out = {(T *)y->data,
                          y->stride[0],
                          keeps ? (float *)state->data : NULL,
                          keeps ? state->stride[0] : 0,
                          g.E % 4 == 0 && kr_quads_fit<T>(y->data, y->stride[0]),
                          KR_ACC(c, KR_SCAN_OUT_Y) != 0};
    if (g.S == 0 || g.E == 0) return;
    if (keeps && g.S >= g.M && kr_scan_step(c)) return;
    int64_t warps = g.S * g.E / 8;
    if (g.blocks > 1)
        launch<T, 1, true>(g, out, g.blocks == 2 ? 2 : 1, 16);
    else if (warps >= 1024)
        launch<T, 1, false>(g, out, 4, 32);
    else if (warps >= 512)
        launch<T, 2, false>(g, out, 4, 32);
    else if (warps >= 256)
        launch<T, 4, false>(g, out, 4, 64);
    else
        launch<T, 8, false>(g, out, 4, 64);
}

} // namespace

extern "C" void kr_scan_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
