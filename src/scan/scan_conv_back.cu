/* scan_conv_back.cu - plan CONV on the GPU, backward. scan_conv.cuh says how; scan_conv_back_vec.c
 * has the equations. With g = dL/dy, G_w = dL/dRe w + i dL/dIm w:
 *
 *   dx_j = sum_l K_l g_{j+l} + D g_j        dK_l = sum_j x_j g_{j+l}
 *
 * Both are convolutions with g backward in time; dK is summed over all spans of a size as
 * transforms. */
#include "scan/scan_conv.cuh"

namespace {

template <typename T>
struct back_out {
    const T *x; /* [H,M] */
    T *dy;      /* dx comes in its place */
    float *dA, *db, *dc, *dD, *dstate;
    int64_t dstate_slot;
    int64_t work, states; /* places in a block's scratch: a transform; states in front of pieces */
    bool add_A, add_b, add_c, add_D;
};

/* Rows t .. t + L of a sequence. passes: from the state h in front of them; on: gh is the gradient
 * of the state behind. */
struct span {
    int64_t t;
    int L;
    bool passes, on;
};

template <typename T>
struct lines {
    const T *x;
    T *dy;
    int64_t dir;
    __device__ __forceinline__ float x_at(int l) const { return kr_load(x + dir * l); }
    __device__ __forceinline__ float dy_at(int l) const { return kr_load(dy + dir * l); }
};

__device__ __forceinline__ void add_to(double2 &to, double2 v) { to = kr_cadd(to, v); }

/* held gets dx without D; the size's sum of dK its part. */
template <typename T>
__device__ __forceinline__ void convolve(const kr_conv_view &g, kr_conv_block &c, int L,
                                         const lines<T> &of, uint32_t &has,
                                         const back_out<T> &out) {
    const int n = kr_conv_size(L);
    const float2 *kernel = kr_conv_spectrum(g, c, n);
    float2 *work = (float2 *)(c.own + out.work), *sum = kr_conv_gradient_at(g, c, n);
    float *held = c.own + g.held;
    for (int j = threadIdx.x; j < n; j += KR_CONV_THREADS)
        kr_conv_put(c.buf, j, n, j < L ? of.x_at(j) : 0);
    kr_conv_forward(c.buf, n);
    for (int j = threadIdx.x; j < n; j += KR_CONV_THREADS) work[j] = c.buf[kr_conv_place(j)];
    __syncthreads();
    for (int j = threadIdx.x; j < n; j += KR_CONV_THREADS)
        kr_conv_put(c.buf, n - 1 - j, n, j < L ? of.dy_at(j) : 0);
    kr_conv_forward(c.buf, n);
    for (int j = threadIdx.x; j < n; j += KR_CONV_THREADS) {
        float2 &v = c.buf[kr_conv_place(j)], both = kr_cmul(work[j], v);
        sum[j] = has & (uint32_t)n ? kr_cadd(sum[j], both) : both;
        v = kr_cmul(v, kernel[j]);
    }
    has |= (uint32_t)n;
    kr_conv_inverse(c.buf, n);
    for (int l = threadIdx.x; l < L; l += KR_CONV_THREADS)
        held[l] = kr_conv_get(c.buf, n - 1 - l, n);
    __syncthreads();
}

/* The state h that came in: y_l had kappa Re sum c a^(l+1) h. dh gets its gradient. */
template <typename T>
__device__ __forceinline__ void state_in_back(const kr_conv_view &g, const kr_conv_block &c, int L,
                                              const lines<T> &of) {
    kr_conv_moments(g, c, L, [&](int l) { return of.dy_at(l); });
    kr_conv_each(g, [&](int64_t n) {
        const kr_conv_modes &m = c.m;
        double2 s = kr_cmul(m.a[n], m.s0[n]);
        double2 slope = kr_cadd(m.s0[n], kr_cmul(m.a[n], m.s1[n]));
        add_to(m.dh[n], kr_scaled(g.kappa, kr_conj(kr_cmul(m.c[n], s))));
        add_to(m.gc[n], kr_scaled(g.kappa, kr_conj(kr_cmul(m.h[n], s))));
        add_to(m.ga[n], kr_scaled(g.kappa, kr_conj(kr_cmul(kr_cmul(m.c[n], m.h[n]), slope))));
    });
}

/* The state that goes out, a^L h + b sum_l a^(L-1-l) x_l, of gradient gh: the gradients of b, a and
 * x, and of h where it passes. */
template <typename T>
__device__ __forceinline__ void state_out_back(const kr_conv_view &g, const kr_conv_block &c,
                                               const span &s, const lines<T> &of) {
    const int L = s.L;
    float *held = c.own + g.held;
    kr_conv_moments(g, c, L, [&](int l) { return of.x_at(L - 1 - l); });
    kr_conv_each(g, [&](int64_t n) {
        const kr_conv_modes &m = c.m;
        add_to(m.gb[n], kr_cmul(kr_conj(m.s0[n]), m.gh[n]));
        add_to(m.ga[n], kr_cmul(kr_conj(kr_cmul(m.b[n], m.s1[n])), m.gh[n]));
        m.term[n] = kr_cmul(m.b[n], kr_conj(m.gh[n]));
    });
    kr_conv_expand(g, c, L, [&](int l, float v) { held[L - 1 - l] += v; });
    if (!s.passes) return;
    kr_conv_powers(g, c, L - 1);
    kr_conv_each(g, [&](int64_t n) {
        const kr_conv_modes &m = c.m;
        double2 slope = kr_scaled(L, kr_cmul(m.term[n], m.h[n]));
        add_to(m.dh[n], kr_cmul(kr_conj(kr_cmul(m.term[n], m.a[n])), m.gh[n]));
        add_to(m.ga[n], kr_cmul(kr_conj(slope), m.gh[n]));
    });
}

/* One piece; gh becomes the gradient of the state in front of it, zeros if none passes. Returns the
 * thread's part of dD. */
template <typename T>
__device__ __forceinline__ float piece_back(const kr_conv_view &g, kr_conv_block &c,
                                            const kr_scan_span &p, const span &s, uint32_t &has,
                                            const back_out<T> &out) {
    const int64_t at = c.h * g.M + p.row + p.dir * s.t;
    lines<T> of = {out.x + at, out.dy + at, p.dir};
    float *held = c.own + g.held, D = g.D ? g.D[c.h] : 0, sum = 0;
    kr_conv_each(g, [&](int64_t n) { c.m.dh[n] = kr_c<double2>(0, 0); });
    convolve(g, c, s.L, of, has, out);
    if (s.passes) state_in_back(g, c, s.L, of);
    if (s.on) state_out_back(g, c, s, of);
    for (int l = threadIdx.x; l < s.L; l += KR_CONV_THREADS) {
        float dy = of.dy_at(l);
        sum += dy * of.x_at(l);
        kr_store(of.dy + p.dir * l, held[l] + D * dy);
    }
    kr_conv_each(g, [&](int64_t n) { c.m.gh[n] = c.m.dh[n]; });
    return sum;
}

/* Where the state in front of a segment's piece is kept, [N][2]. */
__device__ __forceinline__ float2 *state_at(const kr_conv_view &g, const kr_conv_block &c,
                                            int64_t states, int64_t piece) {
    return (float2 *)(c.own + states) + piece * g.N;
}

/* Steps t .. end between two segment starts, from the last piece to the first. */
template <typename T>
__device__ __forceinline__ float segment_back(const kr_conv_view &g, kr_conv_block &c,
                                              const kr_scan_span &p, int64_t t, int64_t end,
                                              bool passes, bool on, uint32_t &has,
                                              const back_out<T> &out) {
    const int64_t most = g.most, pieces = (end - t + most - 1) / most;
    const T *x = out.x + c.h * g.M + p.row;
    float sum = 0;
    for (int64_t k = 0; k < pieces; k++) {
        float2 *keep = state_at(g, c, out.states, k);
        kr_conv_each(g, [&](int64_t n) { keep[n] = kr_narrow(c.m.h[n]); });
        if (k + 1 < pieces)
            kr_conv_state(g, c, (int)most, passes || k > 0,
                          [&](int l) { return kr_load(x + p.dir * (t + k * most + l)); });
    }
    for (int64_t k = pieces - 1; k >= 0; k--) {
        const float2 *keep = state_at(g, c, out.states, k);
        int64_t from = t + k * most;
        span s = {from, (int)min(end - from, most), passes || k > 0, on || k + 1 < pieces};
        kr_conv_each(g, [&](int64_t n) { c.m.h[n] = kr_c<double2>(keep[n].x, keep[n].y); });
        sum += piece_back(g, c, p, s, has, out);
    }
    return sum;
}

template <typename T>
__device__ __forceinline__ float sequence_back(const kr_conv_view &g, kr_conv_block &c, int64_t s,
                                               uint32_t &has, const back_out<T> &out) {
    kr_scan_span p = kr_whole(g, s);
    const int64_t at = c.h * 2 * g.N;
    const float *behind = g.dstate ? g.dstate + p.slot * g.dstate_slot + at : NULL;
    float *to = out.dstate ? out.dstate + p.slot * out.dstate_slot + at : NULL;
    float sum = 0;
    __syncthreads();
    kr_conv_load(g, g.state ? g.state + p.slot * g.state_slot + at : NULL, c.m.h);
    for (int64_t t = 0; t < p.steps;) {
        int64_t end = kr_conv_segment_end(g, p, t);
        bool last = end == p.steps;
        bool passes = t == 0 && g.state && !(g.reset && kr_starts(g, p, t));
        __syncthreads();
        kr_conv_load(g, last ? behind : NULL, c.m.gh);
        sum += segment_back(g, c, p, t, end, passes, last && behind, has, out);
        if (passes && to)
            kr_conv_each(g, [&](int64_t n) {
                to[n] += (float)c.m.gh[n].x;
                to[g.N + n] += (float)c.m.gh[n].y;
            });
        t = end;
    }
    for (int64_t n = threadIdx.x; to && behind && p.steps == 0 && n < 2 * g.N; n += KR_CONV_THREADS)
        to[n] += behind[n];
    return sum;
}

/* dK from its transforms, then b, c and a from dK. */
template <typename T>
__device__ __forceinline__ void kernel_back(const kr_conv_view &g, kr_conv_block &c, uint32_t has,
                                            const back_out<T> &out) {
    float *gradient = c.own + g.gradient;
    __syncthreads();
    for (int l = threadIdx.x; l < c.longest; l += KR_CONV_THREADS) gradient[l] = 0;
    for (int n = 1; n <= g.most; n *= 2) {
        if (!(has & (uint32_t)n)) continue;
        const float2 *sum = kr_conv_gradient_at(g, c, n);
        __syncthreads();
        for (int j = threadIdx.x; j < n; j += KR_CONV_THREADS) c.buf[kr_conv_place(j)] = sum[j];
        kr_conv_inverse(c.buf, n);
        for (int l = threadIdx.x; l < n && l < c.longest; l += KR_CONV_THREADS)
            gradient[l] += kr_conv_get(c.buf, n - 1 - l, n);
    }
    kr_conv_moments(g, c, (int)c.longest, [&](int l) { return gradient[l]; });
    kr_conv_each(g, [&](int64_t n) {
        const kr_conv_modes &m = c.m;
        double2 bc = kr_cmul(m.b[n], m.c[n]);
        add_to(m.gb[n], kr_scaled(g.kappa, kr_conj(kr_cmul(m.c[n], m.s0[n]))));
        add_to(m.gc[n], kr_scaled(g.kappa, kr_conj(kr_cmul(m.b[n], m.s0[n]))));
        add_to(m.ga[n], kr_scaled(g.kappa, kr_conj(kr_cmul(bc, m.s1[n]))));
        if (g.log) m.ga[n] = kr_cmul(kr_conj(m.a[n]), m.ga[n]);
    });
}

__device__ __forceinline__ void write_modes(const kr_conv_view &g, const double2 *v, float *to,
                                            bool add) {
    for (int64_t n = threadIdx.x; to && n < g.N; n += KR_CONV_THREADS) {
        kr_put(to + n, (float)v[n].x, add);
        kr_put(to + g.N + n, (float)v[n].y, add);
    }
}

/* The block's sum of dD. */
__device__ __forceinline__ void write_skip(float *to, float x, bool add) {
    __shared__ float of[KR_CONV_THREADS / 32];
    float sum = kr_warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) of[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < KR_CONV_THREADS / 32; i++) sum += of[i];
    kr_put(to, sum, add);
}

template <typename T>
__global__ void __launch_bounds__(KR_CONV_THREADS)
    backward(const kr_conv_view g, const back_out<T> out) {
    extern __shared__ float4 memory[];
    __shared__ double2 squares[KR_CONV_BITS][KR_CONV_MODES];
    kr_conv_block c;
    kr_conv_open(g, memory, squares, c);
    for (int64_t h = blockIdx.x; h < g.H; h += gridDim.x) {
        uint32_t has = 0;
        float skip = 0;
        kr_conv_channel(g, c, h);
        kr_conv_each(g,
                     [&](int64_t n) { c.m.ga[n] = c.m.gb[n] = c.m.gc[n] = kr_c<double2>(0, 0); });
        for (int64_t s = 0; s < g.S; s++) skip += sequence_back(g, c, s, has, out);
        kernel_back(g, c, has, out);
        const int64_t at = h * 2 * g.N;
        write_modes(g, c.m.ga, out.dA ? out.dA + at : NULL, out.add_A);
        write_modes(g, c.m.gb, out.db ? out.db + at : NULL, out.add_b);
        write_modes(g, c.m.gc, out.dc ? out.dc + at : NULL, out.add_c);
        if (out.dD) write_skip(out.dD + h, skip, out.add_D);
    }
}

float *wanted(const kr_call *c, int i, bool *add) {
    if (i >= c->n_out || !c->out[i].data) return NULL;
    *add = KR_ACC(c, i) != 0;
    return (float *)c->out[i].data;
}

/* y once more, as forward makes it. */
void again(const kr_call *c) {
    kr_call forward = *c;
    if (c->n_out <= KR_SCAN_Y_AGAIN || !c->out[KR_SCAN_Y_AGAIN].data) return;
    forward.n_in = KR_SCAN_INS;
    forward.n_out = 1;
    forward.out[0] = c->out[KR_SCAN_Y_AGAIN];
    forward.accumulate = 0;
    kr_scan_conv_cuda(&forward);
}

template <typename T>
void run(const kr_call *c) {
    const kr_tensor *x = &c->in[KR_SCAN_X], *dy = &c->in[KR_SCAN_DY], *dx = &c->out[KR_SCAN_DX];
    const kr_tensor *dstate = &c->out[KR_SCAN_DSTATE_IN];
    kr_scan_gpu_conv cut;
    kr_scan_gpu_conv_plan(c, true, &cut);
    kr_conv_view g = kr_conv_view_of(c, cut);
    T *lines_x = (T *)((float *)c->scratch + cut.x),
      *lines_dy = (T *)((float *)c->scratch + cut.dy);
    bool any;
    back_out<T> out = {};
    out.x = lines_x;
    out.dy = lines_dy;
    out.dA = wanted(c, KR_SCAN_DA, &out.add_A);
    out.db = wanted(c, KR_SCAN_DB, &out.add_b);
    out.dc = wanted(c, KR_SCAN_DC, &out.add_c);
    out.dD = wanted(c, KR_SCAN_DD, &out.add_D);
    out.dstate = wanted(c, KR_SCAN_DSTATE_IN, &any);
    out.dstate_slot = out.dstate ? dstate->stride[0] : 0;
    out.work = cut.work;
    out.states = cut.states;
    size_t shared = kr_conv_shared(g.most, g.N);
    again(c);
    if (out.dstate && !KR_ACC(c, KR_SCAN_DSTATE_IN)) /* slots that no sequence names */
        cudaMemsetAsync(out.dstate, 0, kr_tensor_bytes(dstate), kr_cuda_stream());
    kr_conv_turn_launch((const T *)x->data, x->stride[0], lines_x, g.M, g.M, g.H, false);
    kr_conv_turn_launch((const T *)dy->data, dy->stride[0], lines_dy, g.M, g.M, g.H, false);
    cudaFuncSetAttribute(backward<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    backward<T><<<(unsigned)cut.count, KR_CONV_THREADS, shared, kr_cuda_stream()>>>(g, out);
    if (dx->data)
        kr_conv_turn_launch((const T *)lines_dy, g.M, (T *)dx->data, dx->stride[0], g.H, g.M,
                            KR_ACC(c, KR_SCAN_DX) != 0);
}

} // namespace

extern "C" void kr_scan_conv_grad_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
