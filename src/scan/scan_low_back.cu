/* scan_low_back.cu - a decay of a diagonal minus low rank on the GPU (S4), backward. README.md
 * derives it; scan_low.cuh says how the work lies in a warp.
 *
 * A unit goes through its sequence once and keeps the states in front of every CHUNK-th row; then,
 * from the last chunk to the first, once more through the chunk, keeping the states in front of
 * each row in shared memory, and back. Nobody else touches what a thread keeps there. Each sequence
 * leaves its sums over time; they are added in order. */
#include "scan/scan_low.cuh"

namespace {

enum {
    CHUNK = KR_SCAN_LOW_CHUNK,
    BATCHES = CHUNK / KR_LOW_BATCH,
    PACKS = KR_LOW_MODES / 2 /* of 16 bytes, in a thread's state */
};

/* What a lane carries from the last row to the first: L; and sums over time, without the kappa of c
 * and q. */
template <int K>
struct carried {
    kr_low_modes L, a, b, c, p[K], q[K];
    float D;
};

/* A thread's own place in shared memory: the states in front of the rows of a chunk, and their
 * sums. */
template <int K>
struct kept {
    float4 *states; /* [CHUNK][PACKS][threads] */
    float *sums;    /* [CHUNK][K][threads] */
};

__device__ __forceinline__ void keep(float4 *to, const kr_low_modes &h) {
#pragma unroll
    for (int i = 0; i < PACKS; i++)
        to[i * KR_LOW_THREADS] =
            make_float4(h[2 * i].x, h[2 * i].y, h[2 * i + 1].x, h[2 * i + 1].y);
}
__device__ __forceinline__ void take(const float4 *from, kr_low_modes &h) {
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        float4 v = from[i * KR_LOW_THREADS];
        h[2 * i].x = v.x, h[2 * i].y = v.y, h[2 * i + 1].x = v.z, h[2 * i + 1].y = v.w;
    }
}

/* Row f of a batch whose state in front was `before` with the sums s, and behind it `now`. */
template <int K>
__device__ __forceinline__ void row_back(const kr_low_view &g, const kr_low_system<K> &m, float x,
                                         float dy, bool fresh, const kr_low_modes &before,
                                         const kr_low_modes &now, const float (&s)[K],
                                         carried<K> &sum, float *dx, float *y) {
    float back[K];
    kr_low_add_conj(dy, m.c, sum.L);
    kr_low_add_conj(dy, now, sum.c);
    kr_low_add(x, sum.L, sum.b);
    sum.D = fmaf(x, dy, sum.D);
    *dx = kr_low_dot_conj(m.b, sum.L);
    *y = kr_low_dot(m.c, now);
    if (fresh) {
        memset(sum.L, 0, sizeof sum.L);
        return;
    }
#pragma unroll
    for (int k = 0; k < K; k++) back[k] = -kr_low_dot_conj(m.p[k], sum.L);
    kr_low_sums<K>(g, back);
#pragma unroll
    for (int k = 0; k < K; k++) {
        kr_low_add(-s[k], sum.L, sum.p[k]);
        kr_low_add_conj(back[k], before, sum.q[k]);
    }
#pragma unroll
    for (int i = 0; i < KR_LOW_MODES; i++) {
        const float2 L = sum.L[i], h = before[i], a = m.a[i];
        sum.a[i].x = fmaf(L.x, h.x, fmaf(L.y, h.y, sum.a[i].x));
        sum.a[i].y = fmaf(L.y, h.x, fmaf(-L.x, h.y, sum.a[i].y));
        sum.L[i].x = fmaf(a.x, L.x, a.y * L.y);
        sum.L[i].y = fmaf(a.x, L.y, -a.y * L.x);
    }
#pragma unroll
    for (int k = 0; k < K; k++) kr_low_add_conj(back[k], m.q[k], sum.L);
}

/* Rows t0 on of a batch, from the last to the first; h is the state behind them and moves in front
 * of them. */
template <typename T, int K>
__device__ __forceinline__ void batch_back(const kr_low_view &g, const kr_low_lane &l,
                                           const kr_low_system<K> &m, const kr_scan_span &p,
                                           int64_t t0, const kr_low_batch &v, const kept<K> &own,
                                           kr_low_modes &h, carried<K> &sum,
                                           const kr_constant_back<T> &out) {
    const int count = (int)min(p.steps - t0, (int64_t)KR_LOW_BATCH);
    float dy[KR_LOW_BATCH] = {}, dx[KR_LOW_BATCH] = {}, y[KR_LOW_BATCH] = {};
    if (out.dy) kr_low_column(p, t0, out.dy + l.h, out.dy_row, l.h < g.H, dy);
#pragma unroll
    for (int f = KR_LOW_BATCH - 1; f >= 0; f--) {
        if (f >= count) continue;
        kr_low_modes before;
        float s[K];
        take(own.states + f * PACKS * KR_LOW_THREADS, before);
#pragma unroll
        for (int k = 0; k < K; k++) s[k] = own.sums[(f * K + k) * KR_LOW_THREADS];
        row_back<K>(g, m, v.x[f], dy[f], v.fresh >> f & 1, before, h, s, sum, &dx[f], &y[f]);
        memcpy(h, before, sizeof h);
    }
    const float D = g.D && l.h < g.H ? g.D[l.h] : 0;
    if (out.dx)
        kr_low_reads(g, l, count, dx, [&](int f, float v) {
            const int64_t row = kr_rows_at(p, t0 + f);
            if (g.D && out.dy) v = fmaf(D, kr_load(out.dy + row * out.dy_row + l.h), v);
            kr_put(out.dx + row * out.dx_row + l.h, v, out.add_dx);
        });
    if (out.y)
        kr_low_reads(g, l, count, y, [&](int f, float v) {
            const int64_t row = kr_rows_at(p, t0 + f);
            if (g.D) v = fmaf(D, kr_load(out.x + row * out.x_row + l.h), v);
            kr_store(out.y + row * out.y_row + l.h, v);
        });
}

/* A chunk from row t0 on: h is the state in front of it. */
template <typename T, int K>
__device__ __forceinline__ void chunk_back(const kr_low_view &g, const kr_low_lane &l,
                                           const kr_low_system<K> &m, const kr_scan_span &p,
                                           int64_t t0, const kept<K> &own, kr_low_modes &h,
                                           carried<K> &sum, const kr_constant_back<T> &out) {
    kr_low_batch v[BATCHES];
#pragma unroll
    for (int b = 0; b < BATCHES; b++)
        kr_low_fetch(g, l, p, t0 + b * KR_LOW_BATCH, out.x, out.x_row, v[b]);
#pragma unroll
    for (int b = 0; b < BATCHES; b++)
#pragma unroll
        for (int f = 0; f < KR_LOW_BATCH; f++) {
            const int r = b * KR_LOW_BATCH + f;
            float s[K];
            if (t0 + r >= p.steps) break;
            keep(own.states + r * PACKS * KR_LOW_THREADS, h);
            kr_low_advance<K>(g, m, v[b].x[f], v[b].fresh >> f & 1, h, s);
#pragma unroll
            for (int k = 0; k < K; k++) own.sums[(r * K + k) * KR_LOW_THREADS] = s[k];
        }
#pragma unroll
    for (int b = BATCHES - 1; b >= 0; b--) {
        const int r = b * KR_LOW_BATCH;
        const kept<K> from = {own.states + r * PACKS * KR_LOW_THREADS,
                              own.sums + r * K * KR_LOW_THREADS};
        if (t0 + r < p.steps) batch_back<T, K>(g, l, m, p, t0 + r, v[b], from, h, sum, out);
    }
}

/* The lane's modes of a vector [2,N] of a share. */
__device__ __forceinline__ void leave(const kr_low_view &g, const kr_low_lane &l, float *to,
                                      float scale, const kr_low_modes &v) {
#pragma unroll
    for (int i = 0; i < KR_LOW_MODES; i++)
        if (i < l.left) to[l.n + i] = scale * v[i].x, to[g.N + l.n + i] = scale * v[i].y;
}

template <typename T, int K>
__device__ __forceinline__ void leave_all(const kr_low_view &g, const kr_low_lane &l, int64_t s,
                                          const carried<K> &sum, const kr_constant_back<T> &out) {
    const int64_t at = s * g.H + l.h, size = 2 * g.N;
    if (out.one_b) leave(g, l, out.one_b + at * size, 1, sum.b);
    if (out.one_c) leave(g, l, out.one_c + at * size, g.kappa, sum.c);
    if (out.one_D && l.j == 0 && l.h < g.H) out.one_D[at] = sum.D;
    if (!out.one_A) return;
    float *A = out.one_A + at * (1 + 2 * K) * size;
    leave(g, l, A, 1, sum.a);
#pragma unroll
    for (int k = 0; k < K; k++) {
        leave(g, l, A + (1 + k) * size, 1, sum.p[k]);
        leave(g, l, A + (1 + K + k) * size, g.kappa, sum.q[k]);
    }
}

/* Through the whole sequence, leaving marks. */
template <typename T, int K>
__device__ __forceinline__ void mark(const kr_low_view &g, const kr_low_lane &l,
                                     const kr_low_system<K> &m, const kr_scan_span &p,
                                     float4 *marks, int64_t step, kr_low_modes &h,
                                     const kr_constant_back<T> &out) {
    kr_low_batch v;
    kr_low_fetch(g, l, p, 0, out.x, out.x_row, v);
    for (int64_t t0 = 0; t0 < p.steps; t0 += KR_LOW_BATCH) {
        kr_low_batch next;
        float s[K];
        if (t0 % CHUNK == 0) keep(marks + t0 / CHUNK * step, h);
        if (t0 + CHUNK - t0 % CHUNK >= p.steps) return; /* the last chunk's mark is there */
        kr_low_fetch(g, l, p, t0 + KR_LOW_BATCH, out.x, out.x_row, next);
#pragma unroll
        for (int f = 0; f < KR_LOW_BATCH; f++)
            kr_low_advance<K>(g, m, v.x[f], v.fresh >> f & 1, h, s);
        v = next;
    }
}

template <typename T, int K>
__global__ void __launch_bounds__(KR_LOW_THREADS)
    backward(const kr_low_view g, const kr_constant_back<T> out) {
    extern __shared__ float4 memory[];
    const int64_t s = blockIdx.x / g.blocks, block = blockIdx.x % g.blocks;
    const kr_scan_span p = kr_whole(g, s);
    const kr_low_lane l = kr_low_lane_of(g, block);
    const int64_t at = l.h * 2 * g.N, step = g.blocks * PACKS * KR_LOW_THREADS;
    const int64_t chunks = (p.steps + CHUNK - 1) / CHUNK,
                  first = g.seqs[s * g.seqs_row] / CHUNK + s;
    float4 *marks = (float4 *)out.marks + first * step + block * PACKS * KR_LOW_THREADS +
                    threadIdx.x; /* [chunks][blocks][PACKS][threads] */
    const kept<K> own = {memory + threadIdx.x,
                         (float *)(memory + CHUNK * PACKS * KR_LOW_THREADS) + threadIdx.x};
    kr_low_system<K> m;
    kr_low_modes h;
    carried<K> sum = {};
    kr_low_open<K>(g, l, m);
    kr_low_load(g, l, g.state ? g.state + p.slot * g.state_slot + at : NULL, 1, h);
    mark<T, K>(g, l, m, p, marks, step, h, out);
    kr_low_load(g, l, g.dstate ? g.dstate + p.slot * g.dstate_slot + at : NULL, 1, sum.L);
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        take(marks + chunk * step, h);
        chunk_back<T, K>(g, l, m, p, chunk * CHUNK, own, h, sum, out);
    }
    leave_all<T, K>(g, l, s, sum, out);
    if (!out.dstate) return;
    float *to = out.dstate + p.slot * out.dstate_slot + at + l.n;
#pragma unroll
    for (int i = 0; i < KR_LOW_MODES; i++)
        if (i < l.left) to[i] += sum.L[i].x, to[g.N + i] += sum.L[i].y;
}

/* ---- calls ---- */

template <typename T, int K>
void launch(const kr_call *c, const kr_constant_back<T> &out) {
    kr_low_view g = kr_low_view_of(c);
    size_t shared = (sizeof(float4) * PACKS + sizeof(float) * K) * CHUNK * KR_LOW_THREADS;
    cudaFuncSetAttribute(backward<T, K>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (g.S > 0)
        backward<T, K>
            <<<(unsigned)(g.S * g.blocks), KR_LOW_THREADS, shared, kr_cuda_stream()>>>(g, out);
}

template <typename T>
void run(const kr_call *c) {
    kr_scan_shares at;
    kr_scan_low_plan(c, &at);
    kr_constant_back<T> out = kr_constant_back_of<T>(c, at);
    if (((const krait_scan_desc *)c->attr)->low_rank == 1)
        launch<T, 1>(c, out);
    else
        launch<T, 2>(c, out);
    kr_constant_add(c, out);
}

} // namespace

extern "C" void kr_scan_low_grad_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
