/* scan_dense_back.cu - a decay of a whole matrix on the GPU (LSSL), backward. With L = dL/dh_t:
 *
 *   L += kappa c dy      dc += kappa h_t dy      db += x L      dx = b . L + D dy
 *   dA += L h_{t-1}^T    L <- A^T L              da = diag dA   dp_k = -kappa dA q_k
 *                                                               dq_k = -kappa dA^T p_k
 *
 * A block goes through its sequence once and keeps the states in front of every chunk; then, from
 * the last chunk to the first, once more through the chunk and back. A thread has a column of A on
 * the way back, and a row of dA. Each sequence leaves its sums over time, which are added in
 * order. */
#include "scan/scan_dense.cuh"

namespace {

enum { CHUNK = KR_DENSE_CHUNK };

template <int NP>
struct memory {
    kr_dense_shared<NP> s;
    kr_dense_states<NP> L; /* of the chunk's rows */
    float dy[CHUNK];
};

/* A thread's sums over time, without the kappa of c. */
template <int NP>
struct carried {
    float A[NP], L, b, c, D;
};

/* The rows of a chunk, from the last to the first. */
template <int NP>
__device__ __forceinline__ void rows_back(memory<NP> &m, const float (&column)[NP], int count,
                                          carried<NP> &sum) {
    const int n = threadIdx.x, ROW = kr_dense_states<NP>::ROW;
    const float c = m.s.c[n];
    for (int r = count - 1; r >= 0; r--) {
        const float dy = m.dy[r];
        sum.L = fmaf(c, dy, sum.L);
        sum.c = fmaf(dy, m.s.h.v[(r + 1) * ROW + n], sum.c);
        sum.b = fmaf(m.s.x[r], sum.L, sum.b);
        m.L.v[r * ROW + n] = sum.L;
        __syncthreads();
        if (m.s.fresh[r]) {
            sum.L = 0;
            continue;
        }
        kr_dense_add<NP>(sum.L, m.s.h.v + r * ROW, sum.A);
        sum.L = kr_dense_dot<NP>(column, m.L.v + r * ROW);
    }
    if (n < count) sum.D = fmaf(m.s.x[n], m.dy[n], sum.D);
}

/* What is summed over the state, of all rows of a chunk. */
template <typename T, int NP>
__device__ __forceinline__ void sums_back(const kr_constant_view &g, const memory<NP> &m,
                                          const kr_scan_span &p, int64_t t0, int64_t h, int count,
                                          const kr_constant_back<T> &out) {
    const float D = g.D ? g.D[h] : 0;
    if (out.dx)
        kr_dense_sums<NP>(m.s.b, m.L.v, count, [&](int r, float v) {
            kr_put(out.dx + kr_rows_at(p, t0 + r) * out.dx_row + h, fmaf(D, m.dy[r], v),
                   out.add_dx);
        });
    if (out.y)
        kr_dense_sums<NP>(m.s.c, m.s.h.v + kr_dense_states<NP>::ROW, count, [&](int r, float v) {
            kr_store(out.y + kr_rows_at(p, t0 + r) * out.y_row + h, fmaf(D, m.s.x[r], v));
        });
}

/* The gradients of a, p and q from the sums' A; destroys the matrix in shared memory. */
template <int NP>
__device__ __forceinline__ void leave_decay(const kr_constant_view &g, int64_t h, memory<NP> &m,
                                            const float (&dA)[NP], float *to) {
    const int n = threadIdx.x;
    float column[NP];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < NP; j++) m.s.A[n * (NP + 1) + j] = dA[j];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < NP; i++) column[i] = m.s.A[i * (NP + 1) + n];
    if (n < g.N) to[n] = m.s.A[n * (NP + 1) + n];
    for (int64_t k = 0; k < g.K; k++) {
        const float *q = kr_dense_share(m.s, kr_dense_number(g, h, 1 + g.K + k));
        float dp = -g.kappa * kr_dense_dot<NP>(dA, q);
        const float *v = kr_dense_share(m.s, kr_dense_number(g, h, 1 + k));
        float dq = -g.kappa * kr_dense_dot<NP>(column, v);
        if (n < g.N) to[(1 + k) * g.N + n] = dp, to[(1 + g.K + k) * g.N + n] = dq;
    }
}

template <typename T, int NP>
__device__ __forceinline__ void leave(const kr_constant_view &g, int64_t s, int64_t h,
                                      memory<NP> &m, carried<NP> &sum,
                                      const kr_constant_back<T> &out) {
    const int n = threadIdx.x;
    const int64_t at = s * g.H + h;
    if (out.one_b && n < g.N) out.one_b[at * g.N + n] = sum.b;
    if (out.one_c && n < g.N) out.one_c[at * g.N + n] = g.kappa * sum.c;
    float D = kr_warp_sum(sum.D); /* the first warp has all rows of a chunk */
    if (out.one_D && n == 0) out.one_D[at] = D;
    if (out.one_A) leave_decay<NP>(g, h, m, sum.A, out.one_A + at * (1 + 2 * g.K) * g.N);
}

/* Through the whole sequence, leaving the states in front of chunks. */
template <typename T, int NP>
__device__ __forceinline__ void mark(const kr_constant_view &g, const kr_scan_span &p, int64_t h,
                                     kr_dense_shared<NP> &s, const float (&row)[NP], float *marks,
                                     const kr_constant_back<T> &out) {
    const int n = threadIdx.x, ROW = kr_dense_states<NP>::ROW;
    kr_dense_fetched next = kr_dense_fetch(g, p, 0, out.x + h, out.x_row);
    for (int64_t t0 = 0; t0 < p.steps; t0 += CHUNK) {
        marks[t0 / CHUNK * g.H * NP + n] = s.h.v[n];
        if (t0 + CHUNK >= p.steps) break;
        kr_dense_put(s, next);
        next = kr_dense_fetch(g, p, t0 + CHUNK, out.x + h, out.x_row);
        kr_dense_advance<NP>(s, row, CHUNK);
        s.h.v[n] = s.h.v[CHUNK * ROW + n];
    }
}

template <typename T, int NP>
__global__ void __launch_bounds__(NP)
    backward(const kr_constant_view g, const kr_constant_back<T> out) {
    __shared__ __align__(16) memory<NP> m;
    const int64_t s = blockIdx.x / g.H, h = blockIdx.x % g.H;
    const kr_scan_span p = kr_whole(g, s);
    const int64_t chunks = (p.steps + CHUNK - 1) / CHUNK,
                  first = g.seqs[s * g.seqs_row] / CHUNK + s;
    const int n = threadIdx.x;
    float *marks = out.marks + (first * g.H + h) * NP; /* [chunks][H][NP] */
    float line[NP];
    carried<NP> sum = {};
    kr_dense_open<NP>(g, h, p.slot, m.s, line);
    mark<T, NP>(g, p, h, m.s, line, marks, out);
    if (g.dstate && n < g.N) sum.L = g.dstate[p.slot * g.dstate_slot + h * g.N + n];
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        const int64_t t0 = chunk * CHUNK;
        const int count = (int)min(p.steps - t0, (int64_t)CHUNK);
        kr_dense_fetched of = kr_dense_fetch(g, p, t0, out.x + h, out.x_row);
        __syncthreads();
        if (n < count)
            m.dy[n] = out.dy ? kr_load(out.dy + kr_rows_at(p, t0 + n) * out.dy_row + h) : 0;
        m.s.h.v[n] = marks[chunk * g.H * NP + n];
        kr_dense_put(m.s, of);
#pragma unroll
        for (int j = 0; j < NP; j++) line[j] = m.s.A[n * (NP + 1) + j];
        kr_dense_advance<NP>(m.s, line, count);
#pragma unroll
        for (int i = 0; i < NP; i++) line[i] = m.s.A[i * (NP + 1) + n];
        rows_back<NP>(m, line, count, sum);
        __syncthreads();
        sums_back<T, NP>(g, m, p, t0, h, count, out);
    }
    if (out.dstate && n < g.N) out.dstate[p.slot * out.dstate_slot + h * g.N + n] += sum.L;
    leave<T, NP>(g, s, h, m, sum, out);
}

/* ---- calls ---- */

template <typename T, int NP>
void launch(const kr_call *c, const kr_constant_back<T> &out) {
    kr_constant_view g = kr_constant_view_of(c);
    if (g.S > 0) backward<T, NP><<<(unsigned)(g.S * g.H), NP, 0, kr_cuda_stream()>>>(g, out);
}

template <typename T>
void run(const kr_call *c) {
    kr_scan_shares at;
    kr_scan_dense_plan(c, &at);
    kr_constant_back<T> out = kr_constant_back_of<T>(c, at);
    if (((const krait_scan_desc *)c->attr)->state <= 32)
        launch<T, 32>(c, out);
    else
        launch<T, 64>(c, out);
    kr_constant_add(c, out);
}

} // namespace

extern "C" void kr_scan_dense_grad_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
