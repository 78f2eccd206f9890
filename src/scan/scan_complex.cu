/* scan_complex.cu - complex lanes (LRU) on the GPU, both directions. scan_complex_vec.c has the
 * equations.
 *
 * A thread is one lane of one piece of a sequence; neighbours in a warp are neighbouring lanes, so
 * every load is one line for real and one for imaginary parts. It fetches AHEAD rows at once, for a
 * row's four products take less time than its way from memory. Where there are too few lanes to
 * fill the card, time is cut: the decay is constant, so the state behind a piece of n rows is
 * a^n h + e (0 h + e when a segment starts inside); a first pass finds e and a^n, a short loop
 * chains them, and a second pass goes from true states. The gradient goes the same way from behind.
 *
 * The backward pass keeps the state in front of every AHEAD-th row, and computes those between
 * again in registers. */
#include "ops/parts.cuh"
#include "scan/scan_span.cuh"

namespace {

enum { AHEAD = KR_STEPS, THREADS = 64 };

struct cplx {
    float re, im;
};

__device__ __forceinline__ cplx times(cplx a, cplx b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
/* a h + v */
__device__ __forceinline__ cplx advance(cplx a, cplx h, cplx v) {
    return {fmaf(a.re, h.re, fmaf(-a.im, h.im, v.re)), fmaf(a.re, h.im, fmaf(a.im, h.re, v.im))};
}
__device__ __forceinline__ cplx conjugate(cplx a) { return {a.re, -a.im}; }

template <typename T>
struct lanes : kr_scan_time {
    const T *x, *dy;
    int64_t x_row, dy_row;
    const float *A, *state, *dstate;
    int64_t state_slot, dstate_slot, E;
    bool log;
    unsigned parts; /* blocks beside each other, of one piece */
    /* scratch: of pieces [pieces,2,E]: ends, decays, backs; [steps,2,E]; [pieces,2,E] */
    float *ends, *decays, *backs, *marks, *da;
};

template <typename T>
__device__ __forceinline__ int64_t lane_of(const lanes<T> &g) {
    return (int64_t)(blockIdx.x % g.parts) * THREADS + threadIdx.x;
}

template <typename T>
__device__ __forceinline__ cplx row_of(const T *from, int64_t row, int64_t stride, int64_t E,
                                       int64_t e) {
    return {kr_load(from + row * stride + e), kr_load(from + row * stride + E + e)};
}

__device__ __forceinline__ cplx get(const float *p, int64_t i, int64_t E, int64_t e) {
    return {p[i * 2 * E + e], p[i * 2 * E + E + e]};
}

__device__ __forceinline__ void set(float *p, int64_t i, int64_t E, int64_t e, cplx v) {
    p[i * 2 * E + e] = v.re;
    p[i * 2 * E + E + e] = v.im;
}

template <typename T>
__device__ __forceinline__ cplx decay_of(const lanes<T> &g, int64_t e) {
    cplx A = {g.A[e], g.A[g.E + e]};
    if (!g.log) return A;
    float size = expf(A.re), sine, cosine;
    sincosf(A.im, &sine, &cosine);
    return {size * cosine, size * sine};
}

/* A lane of a slot, from outside; NULL: zeros. */
__device__ __forceinline__ cplx outside(const float *states, int64_t at, int64_t E, int64_t e) {
    return states ? cplx{states[at + e], states[at + E + e]} : cplx{0, 0};
}

/* What comes into a piece with rows: from the pass before where time is cut, else from outside. */
template <typename T>
__device__ __forceinline__ cplx state_before(const lanes<T> &g, const kr_scan_span &p, int64_t e) {
    if (g.ends && p.steps > 0) return get(g.ends, p.piece, g.E, e);
    return outside(g.state, p.slot * g.state_slot, g.E, e);
}

template <typename T>
__device__ __forceinline__ cplx gradient_behind(const lanes<T> &g, const kr_scan_span &p,
                                                int64_t e) {
    if (g.backs && p.steps > 0) return get(g.backs, p.piece, g.E, e);
    return outside(g.dstate, p.slot * g.dstate_slot, g.E, e);
}

/* Rows t0 .. t0 + AHEAD of a piece, zeros behind its end; and where segments start. */
template <typename T>
__device__ __forceinline__ uint32_t fetch(const lanes<T> &g, const kr_scan_span &p, const T *from,
                                          int64_t stride, int64_t t0, int64_t e, cplx (&v)[AHEAD]) {
    uint32_t fresh = 0;
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        bool in = from && t0 + k < p.steps;
        v[k] = in ? row_of(from, p.row + p.dir * (t0 + k), stride, g.E, e) : cplx{0, 0};
        if (t0 + k < p.steps && kr_starts(g, p, t0 + k)) fresh |= 1u << k;
    }
    return fresh;
}

/* ---- where time is cut: what each piece does ---- */

/* BACK: also what it adds to the gradient in front of it. */
template <bool BACK, typename T>
__global__ void sweep(const lanes<T> g) {
    int64_t e = lane_of(g);
    kr_scan_span p = kr_span(g, blockIdx.x / g.parts);
    if (e >= g.E || p.steps == 0) return;
    cplx a = decay_of(g, e), h = {0, 0}, power = {1, 0}, back = {0, 0};
    for (int64_t t0 = 0; t0 < p.steps; t0 += AHEAD) {
        cplx v[AHEAD], dy[AHEAD];
        uint32_t fresh = fetch(g, p, g.x, g.x_row, t0, e, v);
        if (BACK) fetch(g, p, g.dy, g.dy_row, t0, e, dy);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            if (t0 + k >= p.steps) break;
            bool cut = fresh >> k & 1;
            h = cut ? v[k] : advance(a, h, v[k]);
            power = cut ? cplx{0, 0} : times(a, power);
            if (BACK) back = advance(conjugate(power), dy[k], back);
        }
    }
    set(g.ends, p.piece, g.E, e, h);
    set(g.decays, p.piece, g.E, e, power);
    if (BACK) set(g.backs, p.piece, g.E, e, back);
}

/* Replaces what pieces of a sequence add by what comes into them. */
template <bool BACK, typename T>
__device__ void chain_one(const lanes<T> &g, int64_t e, int64_t s) {
    const int64_t *seq = g.seqs + s * g.seqs_row;
    int64_t pieces = (seq[1] + g.chunk - 1) / g.chunk, at = seq[0] / g.chunk + s;
    cplx v = outside(g.state, seq[2] * g.state_slot, g.E, e);
    for (int64_t k = 0; k < pieces; k++) {
        cplx add = get(g.ends, at + k, g.E, e), power = get(g.decays, at + k, g.E, e);
        set(g.ends, at + k, g.E, e, v);
        v = advance(power, v, add);
    }
    if (!BACK) return;
    v = outside(g.dstate, seq[2] * g.dstate_slot, g.E, e);
    for (int64_t k = pieces - 1; k >= 0; k--) {
        cplx add = get(g.backs, at + k, g.E, e), power = get(g.decays, at + k, g.E, e);
        set(g.backs, at + k, g.E, e, v);
        v = advance(conjugate(power), v, add);
    }
}

template <bool BACK, typename T>
__global__ void chain(const lanes<T> g) {
    int64_t e = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    for (int64_t s = blockIdx.y; e < g.E && s < g.S; s += gridDim.y) chain_one<BACK>(g, e, s);
}

/* ---- forward ---- */

template <typename T>
struct forward_out {
    T *y;
    float *state;
    int64_t y_row, state_slot;
    bool add;
};

template <typename T>
__global__ void forward(const lanes<T> g, const forward_out<T> out) {
    int64_t e = lane_of(g);
    kr_scan_span p = kr_span(g, blockIdx.x / g.parts);
    if (e >= g.E || !p.exists) return;
    cplx a = decay_of(g, e), h = state_before(g, p, e);
    for (int64_t t0 = 0; t0 < p.steps; t0 += AHEAD) {
        cplx v[AHEAD];
        uint32_t fresh = fetch(g, p, g.x, g.x_row, t0, e, v);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            if (t0 + k >= p.steps) break;
            h = fresh >> k & 1 ? v[k] : advance(a, h, v[k]);
            T *to = out.y + (p.row + p.dir * (t0 + k)) * out.y_row + e;
            kr_put(to, h.re, out.add);
            kr_put(to + g.E, h.im, out.add);
        }
    }
    if (!out.state || !p.last) return;
    out.state[p.slot * out.state_slot + e] = h.re;
    out.state[p.slot * out.state_slot + g.E + e] = h.im;
}

/* ---- backward ---- */

template <typename T>
struct back_out {
    T *dx, *y; /* y: the states once more */
    float *dstate;
    int64_t dx_row, y_row, dstate_slot;
    bool add;
};

/* States in front of every AHEAD-th row of a piece. */
template <typename T>
__device__ __forceinline__ void mark(const lanes<T> &g, const kr_scan_span &p, cplx a, int64_t e) {
    cplx h = state_before(g, p, e);
    for (int64_t t0 = 0; t0 < p.steps; t0 += AHEAD) {
        cplx v[AHEAD];
        set(g.marks, p.start + t0 / AHEAD, g.E, e, h);
        if (t0 + AHEAD >= p.steps) break;
        uint32_t fresh = fetch(g, p, g.x, g.x_row, t0, e, v);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) h = fresh >> k & 1 ? v[k] : advance(a, h, v[k]);
    }
}

template <typename T>
__global__ void backward(const lanes<T> g, const back_out<T> out) {
    int64_t e = lane_of(g);
    kr_scan_span p = kr_span(g, blockIdx.x / g.parts);
    if (e >= g.E) return;
    cplx a = decay_of(g, e), da = {0, 0};
    cplx G = p.exists ? gradient_behind(g, p, e) : cplx{0, 0};
    mark(g, p, a, e);
    for (int64_t t0 = (p.steps + AHEAD - 1) / AHEAD * AHEAD - AHEAD; t0 >= 0; t0 -= AHEAD) {
        cplx v[AHEAD], dy[AHEAD], h = get(g.marks, p.start + t0 / AHEAD, g.E, e);
        uint32_t fresh = fetch(g, p, g.x, g.x_row, t0, e, v);
        fetch(g, p, g.dy, g.dy_row, t0, e, dy);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) { /* v becomes the state in front of its row */
            cplx before = h;
            h = fresh >> k & 1 ? v[k] : advance(a, h, v[k]);
            v[k] = before;
            if (!out.y || t0 + k >= p.steps) continue;
            T *to = out.y + (p.row + p.dir * (t0 + k)) * out.y_row + e;
            kr_store(to, h.re);
            kr_store(to + g.E, h.im);
        }
#pragma unroll
        for (int k = AHEAD - 1; k >= 0; k--) {
            if (t0 + k >= p.steps) continue;
            G = {G.re + dy[k].re, G.im + dy[k].im};
            if (out.dx) {
                T *to = out.dx + (p.row + p.dir * (t0 + k)) * out.dx_row + e;
                kr_put(to, G.re, out.add);
                kr_put(to + g.E, G.im, out.add);
            }
            bool cut = fresh >> k & 1;
            if (!cut) da = advance(G, conjugate(v[k]), da);
            G = cut ? cplx{0, 0} : times(conjugate(a), G);
        }
    }
    set(g.da, p.piece, g.E, e, da); /* of pieces that are none too: all are summed */
    if (!out.dstate || !p.first) return;
    kr_put(out.dstate + p.slot * out.dstate_slot + e, G.re, true);
    kr_put(out.dstate + p.slot * out.dstate_slot + g.E + e, G.im, true);
}

/* dA from the sums of all pieces: dA = da, or conj(a) da. A block of one warp a lane. */
template <typename T>
__global__ void add_pieces(const lanes<T> g, int64_t pieces, float *dA, bool add) {
    int64_t e = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    cplx sum = {0, 0};
    if (e >= g.E) return;
    for (int64_t k = threadIdx.x % 32; k < pieces; k += 32) {
        cplx one = get(g.da, k, g.E, e);
        sum = {sum.re + one.re, sum.im + one.im};
    }
    sum = {kr_warp_sum(sum.re), kr_warp_sum(sum.im)};
    if (threadIdx.x % 32) return;
    if (g.log) sum = times(conjugate(decay_of(g, e)), sum);
    kr_put(dA + e, sum.re, add);
    kr_put(dA + g.E + e, sum.im, add);
}

/* ---- calls ---- */

const void *data_in(const kr_call *c, int i, int64_t *row) {
    if (i >= c->n_in || !c->in[i].data) return NULL;
    if (row) *row = c->in[i].stride[0];
    return c->in[i].data;
}

template <typename T>
lanes<T> lanes_of(const kr_call *c, bool backward_too, kr_scan_gpu_lanes *cut) {
    const krait_scan_desc *d = (const krait_scan_desc *)c->attr;
    lanes<T> g = {};
    kr_scan_gpu_lanes_plan(c, backward_too, cut);
    (kr_scan_time &)g = kr_scan_time_of(c, cut->chunk);
    g.E = cut->E;
    g.parts = kr_blocks(g.E, THREADS);
    g.x = (const T *)data_in(c, KR_SCAN_X, &g.x_row);
    g.A = (const float *)data_in(c, KR_SCAN_A, NULL);
    g.state = (const float *)data_in(c, KR_SCAN_STATE, &g.state_slot);
    if (backward_too) {
        g.dy = (const T *)data_in(c, KR_SCAN_DY, &g.dy_row);
        g.dstate = (const float *)data_in(c, KR_SCAN_DSTATE, &g.dstate_slot);
    }
    g.log = d->form == KRAIT_FORM_LOG;
    float *scratch = (float *)c->scratch;
    bool is_cut = cut->chunk <= cut->M;
    if (is_cut) g.ends = scratch + cut->ends;
    if (is_cut) g.decays = scratch + cut->decays;
    if (is_cut && backward_too) g.backs = scratch + cut->backs;
    g.marks = scratch + cut->marks;
    g.da = scratch + cut->da;
    return g;
}

template <bool BACK, typename T>
void find_starts(const lanes<T> &g, unsigned blocks) {
    if (!g.ends) return;
    sweep<BACK, T><<<blocks, THREADS, 0, kr_cuda_stream()>>>(g);
    dim3 grid(g.parts, (unsigned)(g.S < 32768 ? g.S : 32768));
    chain<BACK, T><<<grid, THREADS, 0, kr_cuda_stream()>>>(g);
}

template <typename T>
void run_forward(const kr_call *c) {
    const kr_tensor *y = &c->out[KR_SCAN_OUT_Y], *state = &c->out[KR_SCAN_OUT_STATE];
    kr_scan_gpu_lanes cut;
    lanes<T> g = lanes_of<T>(c, false, &cut);
    bool keeps = c->n_out > KR_SCAN_OUT_STATE && state->data;
    forward_out<T> out = {(T *)y->data, keeps ? (float *)state->data : NULL, y->stride[0],
                          keeps ? state->stride[0] : 0, KR_ACC(c, KR_SCAN_OUT_Y) != 0};
    unsigned blocks = g.parts * (unsigned)cut.pieces;
    if (g.S == 0 || g.E == 0) return;
    find_starts<false>(g, blocks);
    forward<T><<<blocks, THREADS, 0, kr_cuda_stream()>>>(g, out);
}

template <typename T>
void run_backward(const kr_call *c) {
    const kr_tensor *dx = &c->out[KR_SCAN_DX], *dstate = &c->out[KR_SCAN_DSTATE_IN];
    kr_scan_gpu_lanes cut;
    lanes<T> g = lanes_of<T>(c, true, &cut);
    const kr_tensor *y = c->n_out > KR_SCAN_Y_AGAIN ? &c->out[KR_SCAN_Y_AGAIN] : NULL;
    bool again = y && y->data;
    back_out<T> out = {(T *)dx->data,
                       again ? (T *)y->data : NULL,
                       (float *)dstate->data,
                       dx->data ? dx->stride[0] : 0,
                       again ? y->stride[0] : 0,
                       dstate->data ? dstate->stride[0] : 0,
                       KR_ACC(c, KR_SCAN_DX) != 0};
    unsigned blocks = g.parts * (unsigned)cut.pieces;
    float *dA = (float *)c->out[KR_SCAN_DA].data;
    if (dstate->data && !KR_ACC(c, KR_SCAN_DSTATE_IN)) /* slots that no sequence names */
        cudaMemsetAsync(dstate->data, 0, kr_tensor_bytes(dstate), kr_cuda_stream());
    if (g.E == 0) return;
    if (g.S > 0) {
        find_starts<true>(g, blocks);
        backward<T><<<blocks, THREADS, 0, kr_cuda_stream()>>>(g, out);
    }
    if (dA)
        add_pieces<T><<<kr_blocks(g.E, THREADS / 32), THREADS, 0, kr_cuda_stream()>>>(
            g, g.S > 0 ? cut.pieces : 0, dA, KR_ACC(c, KR_SCAN_DA) != 0);
}

} // namespace

extern "C" void kr_scan_complex_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run_forward<bf16>(c);
    else
        run_forward<float>(c);
}

extern "C" void kr_scan_complex_grad_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run_backward<bf16>(c);
    else
        run_backward<float>(c);
}
