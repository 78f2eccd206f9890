/* scan_conv.cu - plan CONV on the GPU, forward. scan_conv.cuh says how; scan_conv_vec.c has the
 * equations. */
#include "scan/scan_conv.cuh"

namespace {

template <typename T>
struct forward_out {
    const T *x; /* [H,M] */
    T *y;       /* the same place: a span is read before it is written */
    float *state;
    int64_t state_slot;
};

/* Rows t .. t + L of a channel: y, and the state behind them where `keep`. */
template <typename T>
__device__ __forceinline__ void piece(const kr_conv_view &g, kr_conv_block &c,
                                      const kr_scan_span &p, int64_t t, int L, bool passes,
                                      bool keep, const forward_out<T> &out) {
    const int n = kr_conv_size(L);
    const T *x = out.x + c.h * g.M + p.row + p.dir * t;
    T *y = out.y + c.h * g.M + p.row + p.dir * t;
    float *held = c.own + g.held, D = g.D ? g.D[c.h] : 0;
    const float2 *kernel = kr_conv_spectrum(g, c, n);
    if (passes) {
        kr_conv_each(g, [&](int64_t i) {
            c.m.term[i] = kr_scaled(g.kappa, kr_cmul(kr_cmul(c.m.c[i], c.m.a[i]), c.m.h[i]));
        });
        kr_conv_expand(g, c, L, [&](int l, float v) { held[l] = v; });
    }
    if (keep) kr_conv_state(g, c, L, passes, [&](int l) { return kr_load(x + p.dir * l); });
    for (int j = threadIdx.x; j < n; j += KR_CONV_THREADS)
        kr_conv_put(c.buf, j, n, j < L ? kr_load(x + p.dir * j) : 0);
    kr_conv_forward(c.buf, n);
    for (int j = threadIdx.x; j < n; j += KR_CONV_THREADS) {
        float2 &v = c.buf[kr_conv_place(j)];
        v = kr_cmul(v, kernel[j]);
    }
    kr_conv_inverse(c.buf, n);
    for (int l = threadIdx.x; l < L; l += KR_CONV_THREADS) {
        float v = kr_conv_get(c.buf, l, n) + D * kr_load(x + p.dir * l);
        kr_store(y + p.dir * l, passes ? v + held[l] : v);
    }
    __syncthreads();
}

template <typename T>
__device__ __forceinline__ void sequence(const kr_conv_view &g, kr_conv_block &c, int64_t s,
                                         const forward_out<T> &out) {
    kr_scan_span p = kr_whole(g, s);
    int64_t at = p.slot * g.state_slot + c.h * 2 * g.N;
    bool passes = g.state != NULL; /* a state comes in */
    __syncthreads();
    kr_conv_load(g, g.state ? g.state + at : NULL, c.m.h);
    __syncthreads();
    for (int64_t t = 0; t < p.steps;) {
        int64_t end = kr_conv_segment_end(g, p, t);
        if (g.reset && kr_starts(g, p, t)) passes = false;
        while (t < end) {
            int L = (int)min(end - t, (int64_t)g.most);
            bool more = t + L < end, last = t + L == p.steps;
            piece(g, c, p, t, L, passes, more || (last && out.state), out);
            passes = true;
            t += L;
        }
        passes = false;
    }
    if (!out.state) return;
    float *to = out.state + p.slot * out.state_slot + c.h * 2 * g.N;
    kr_conv_each(g, [&](int64_t n) {
        to[n] = (float)c.m.h[n].x;
        to[g.N + n] = (float)c.m.h[n].y;
    });
}

template <typename T>
__global__ void __launch_bounds__(KR_CONV_THREADS)
    forward(const kr_conv_view g, const forward_out<T> out) {
    extern __shared__ float4 memory[];
    __shared__ double2 squares[KR_CONV_BITS][KR_CONV_MODES];
    kr_conv_block c;
    kr_conv_open(g, memory, squares, c);
    for (int64_t h = blockIdx.x; h < g.H; h += gridDim.x) {
        kr_conv_channel(g, c, h);
        for (int64_t s = 0; s < g.S; s++) sequence(g, c, s, out);
    }
}

template <typename T>
void run(const kr_call *c) {
    const kr_tensor *x = &c->in[KR_SCAN_X], *y = &c->out[KR_SCAN_OUT_Y];
    const kr_tensor *state = &c->out[KR_SCAN_OUT_STATE];
    kr_scan_gpu_conv cut;
    kr_scan_gpu_conv_plan(c, false, &cut);
    kr_conv_view g = kr_conv_view_of(c, cut);
    T *lines = (T *)((float *)c->scratch + cut.x);
    bool keeps = c->n_out > KR_SCAN_OUT_STATE && state->data;
    forward_out<T> out = {lines, lines, keeps ? (float *)state->data : NULL,
                          keeps ? state->stride[0] : 0};
    size_t shared = kr_conv_shared(g.most, g.N);
    if (g.S == 0) return;
    kr_conv_turn_launch((const T *)x->data, x->stride[0], lines, g.M, g.M, g.H, false);
    cudaFuncSetAttribute(forward<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    forward<T><<<(unsigned)cut.count, KR_CONV_THREADS, shared, kr_cuda_stream()>>>(g, out);
    kr_conv_turn_launch((const T *)lines, g.M, (T *)y->data, y->stride[0], g.H, g.M,
                        KR_ACC(c, KR_SCAN_OUT_Y) != 0);
}

} // namespace

extern "C" void kr_scan_conv_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
