/* scan_rows_back.cu - plan ROWS on the GPU, backward. README.md derives it; scan_rows.cuh says how
 * the work lies in a warp.
 *
 * A block goes through its sequence once and keeps the states in front of every CHUNK-th row; then,
 * from the last chunk to the first, once more through the chunk, keeping the states in front of
 * each batch in shared memory, and back, batch by batch, with the states of a batch in registers.
 *
 * What channels share (b, c, a decay of a head, ...) is summed over the block in shared memory; a
 * head or group that has several blocks leaves partial sums, and what is constant in time leaves
 * one for each thread's share. They are added in order. */
#include "ops/parts.cuh"
#include "scan/scan_rows.cuh"

namespace {

enum { CHUNK = KR_SCAN_ROWS_CHUNK, BATCH = 2, KEPT = CHUNK / BATCH };

/* Where sums over the channels of a head or group go in each row: to the result, or as partial
 * sums. */
template <typename T>
struct row_sums {
    T *to; /* NULL: not wanted */
    float *parts;
    int64_t row, cols; /* stride of `to`; width of a row */
    bool several, add;
};

template <typename T>
struct back_out {
    T *dx, *dz, *ddt, *dA, *y; /* ddt: of channels; dA: MATRIX in each row */
    int64_t dx_row, dz_row, ddt_row, dA_row, y_row;
    bool add_dx, add_dz, add_ddt, add_dA;
    row_sums<T> b, c, A, dt, gain;                         /* varying in time, shared by channels */
    float *marks, *one_b, *one_c, *one_A, *one_D, *one_dt; /* shares; NULL: not wanted */
    float *dstate;
    int64_t dstate_slot;
};

/* What a lane carries from the last row to the first: L; and sums over time. */
template <class K>
struct carried {
    typename K::state L, A;
    typename K::numbers b, c;
    float D[K::KP], dt[K::KP];
};

struct place {
    kr_scan_span p;
    int64_t part, t0;
    float *sums; /* shared: [BATCH][KR_ROWS_THREADS][KN][W] */
};

/* ---- sums over channels ---- */

template <typename T>
__device__ __forceinline__ void put_row(const row_sums<T> &o, int64_t M, int64_t part, int64_t row,
                                        int64_t col, float v) {
    if (o.several)
        o.parts[(part * M + row) * o.cols + col] = v;
    else
        kr_put(o.to + row * o.row + col, v, o.add);
}

/* v[f][i] of the block's units, summed over the units of each head, or of each group. `rank`: which
 * vector of the row. */
template <typename T, class K>
__device__ __forceinline__ void sum_units(const kr_rows_view &g, const kr_rows_lane &l,
                                          const place &at, int count, bool groups, int64_t rank,
                                          const typename K::numbers (&v)[BATCH],
                                          const row_sums<T> &o) {
    const kr_scan_gpu_tiles &cut = g.cut;
    const int W = K::W, padded = cut.lanes * K::KN, units = KR_ROWS_THREADS / cut.lanes;
    const int N = (int)g.N;
    int64_t each = groups ? g.H / g.G : 1, owners = groups ? g.G : g.H;
    int segments = each < cut.heads ? cut.heads / (int)each : 1;
    int of = cut.heads * cut.units / segments;
    int64_t head = at.part / cut.parts * cut.heads, first = head / each;
    int64_t part = head % each / cut.heads * cut.parts + at.part % cut.parts;
#pragma unroll
    for (int f = 0; f < BATCH; f++)
#pragma unroll
        for (int i = 0; i < K::KN; i++)
#pragma unroll
            for (int w = 0; w < W; w++)
                at.sums[((f * W + w) * units + l.local) * padded + l.n + i] =
                    f < count ? v[f][i][w] : 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count * W * segments * N; i += KR_ROWS_THREADS) {
        int n = i % N, s = i / N % segments, w = i / N / segments % W, f = i / N / segments / W;
        const float *from = at.sums + ((f * W + w) * units + s * of) * padded + n;
        float sum = 0;
        for (int u = 0; u < of; u++) sum += from[u * padded];
        if (first + s < owners)
            put_row(o, g.M, part, kr_rows_at(at.p, at.t0 + f),
                    ((rank * owners + first + s) * W + w) * N + n, sum);
    }
    __syncthreads();
}

/* The same of W numbers that the threads of a head have parts of. */
template <typename T, int W>
__device__ __forceinline__ void sum_heads(const kr_rows_view &g, const kr_rows_lane &l,
                                          const place &at, int count, int64_t rank,
                                          float (&v)[BATCH][W], const row_sums<T> &o) {
    const kr_scan_gpu_tiles &cut = g.cut;
    const int units = KR_ROWS_THREADS / cut.lanes;
#pragma unroll
    for (int f = 0; f < BATCH; f++)
#pragma unroll
        for (int w = 0; w < W; w++) {
            for (int d = 1; d < cut.lanes; d *= 2)
                v[f][w] += __shfl_xor_sync(0xffffffffu, v[f][w], d);
            if (l.j == 0) at.sums[(f * W + w) * units + l.local] = v[f][w];
        }
    __syncthreads();
    int64_t head = at.part / cut.parts * cut.heads;
    for (int i = threadIdx.x; i < count * W * cut.heads; i += KR_ROWS_THREADS) {
        int s = i % cut.heads, w = i / cut.heads % W, f = i / cut.heads / W;
        float sum = 0;
        for (int u = 0; u < cut.units; u++) sum += at.sums[(f * W + w) * units + s * cut.units + u];
        if (head + s < g.H)
            put_row(o, g.M, at.part % cut.parts, kr_rows_at(at.p, at.t0 + f),
                    (rank * g.H + head + s) * W + w, sum);
    }
    __syncthreads();
}

/* ---- reads ---- */

/* dL/du of a row's channels, dy silu(z). */
template <typename T, class K>
__device__ __forceinline__ void read_gradient(const kr_rows_view &g, const kr_rows_lane &l,
                                              int64_t row, int64_t q, float (&du)[K::KP]) {
    int64_t at = q * g.H * g.P + l.e;
#pragma unroll
    for (int k = 0; k < K::KP; k++) du[k] = 0;
    if (!g.dy.p) return;
    kr_rows_load<T>(g.dy, row, at, l.p_left, du);
    if (!g.z.p) return;
    float z[K::KP];
    kr_rows_load<T>(g.z, row, at, l.p_left, z);
#pragma unroll
    for (int k = 0; k < K::KP; k++) du[k] *= z[k] * kr_sigmoid<T>(z[k]);
}

/* dz, and y once more, of what the lane owns of the sums u = h . c. */
template <typename T, class K>
__device__ __forceinline__ void write_read(const kr_rows_view &g, const kr_rows_lane &l,
                                           const place &at, int count, int64_t q,
                                           float (&u)[BATCH * K::KP], const back_out<T> &out) {
    auto mine = kr_rows_sum(u, g.cut.lanes, l.j);
#pragma unroll
    for (int i = 0; i < BATCH * K::KP; i++) {
        int f = (mine.first + i) / K::KP, k = (mine.first + i) % K::KP;
        if (i >= mine.owned || f >= count || k >= l.p_left) continue;
        int64_t row = kr_rows_at(at.p, at.t0 + f), col = q * g.H * g.P + l.e + k;
        float v = g.kappa * u[i], gate = 1;
        if (g.D) v += kr_rows_skip(g, l, k) * kr_rows_one<T>(g.x, row, col);
        if (g.z.p) {
            float z = kr_rows_one<T>(g.z, row, col), s = kr_sigmoid<T>(z);
            float dy = g.dy.p ? kr_rows_one<T>(g.dy, row, col) : 0;
            gate = z * s;
            if (out.dz)
                kr_put(out.dz + row * out.dz_row + col, dy * v * s * (1 + z * (1 - s)), out.add_dz);
        }
        if (out.y) kr_store(out.y + row * out.y_row + col, v * gate);
    }
}

/* Read q of a batch: G += kappa conj(c) du; and the gradients of c, D and z. */
template <typename T, class K>
__device__ __forceinline__ void read_back(const kr_rows_view &g, const kr_rows_lane &l,
                                          const place &at, const kr_rows_batch<K> &v, int64_t q,
                                          typename K::state (&G)[BATCH], carried<K> &sum,
                                          const back_out<T> &out) {
    typename K::numbers c[BATCH], dc[BATCH];
    float du[BATCH][K::KP], u[BATCH * K::KP];
    memset(dc, 0, sizeof dc);
    memset(c, 0, sizeof c);
#pragma unroll
    for (int f = 0; f < BATCH; f++) {
        if (f >= v.count) break;
        int64_t row = kr_rows_at(at.p, at.t0 + f);
        read_gradient<T, K>(g, l, row, q, du[f]);
        kr_rows_c<T, K>(g, l, row, q, c[f]);
        if (!out.one_D) continue;
        float x[K::KP];
        kr_rows_x<T, K>(g, l, row, q, x);
#pragma unroll
        for (int k = 0; k < K::KP; k++) sum.D[k] += du[f][k] * x[k];
    }
#pragma unroll
    for (int i = 0; i < BATCH * K::KP; i++) {
        int f = i / K::KP, k = i % K::KP;
        u[i] = 0;
        if (f >= v.count) continue;
        float s = g.kappa * du[f][k];
#pragma unroll
        for (int n = 0; n < K::KN; n++) {
            const float one[2] = {s, 0};
            kr_mul_conj(c[f][n], *(const float(*)[K::W])one, G[f][k][n]);
            kr_mul_conj(v.h[f][k][n], *(const float(*)[K::W])one, dc[f][n]);
            u[i] = kr_re_add(v.h[f][k][n], c[f][n], u[i]);
        }
    }
    if (out.dz || out.y) write_read<T, K>(g, l, at, v.count, q, u, out);
    if (out.c.to) sum_units<T, K>(g, l, at, v.count, true, q, dc, out.c);
#pragma unroll
    for (int f = 0; f < BATCH; f++)
#pragma unroll
        for (int n = 0; n < K::KN; n++)
#pragma unroll
            for (int w = 0; w < K::W; w++) sum.c[n][w] += dc[f][n][w];
}

/* ---- inputs ---- */

/* dx of what the lane owns of the sums L . b. */
template <typename T, class K>
__device__ __forceinline__ void write_dx(const kr_rows_view &g, const kr_rows_lane &l,
                                         const place &at, const kr_rows_batch<K> &v, int64_t r,
                                         float (&Lb)[BATCH * K::KP], const back_out<T> &out) {
    auto mine = kr_rows_sum(Lb, g.cut.lanes, l.j);
#pragma unroll
    for (int i = 0; i < BATCH * K::KP; i++) {
        int f = (mine.first + i) / K::KP, k = (mine.first + i) % K::KP;
        if (i >= mine.owned || f >= v.count || k >= l.p_left) continue;
        int64_t row = kr_rows_at(at.p, at.t0 + f), col = r * g.H * g.P + l.e + k;
        float delta = 0;
#pragma unroll
        for (int m = 0; m < BATCH * K::KP; m++)
            if (m == mine.first + i) delta = v.delta[m / K::KP][m % K::KP];
        float dx = kr_rows_gain<T>(g, l, row, r, delta) * Lb[i];
        if (g.D && r < g.Q && g.dy.p) {
            float du = kr_rows_one<T>(g.dy, row, col);
            float z = g.z.p ? kr_rows_one<T>(g.z, row, col) : 0;
            if (g.z.p) du *= z * kr_sigmoid<T>(z);
            dx += kr_rows_skip(g, l, k) * du;
        }
        kr_put(out.dx + row * out.dx_row + col, dx, out.add_dx);
    }
}

/* Input r of a batch, with L of each row: the gradients of x, b and the gain; ddelta gets the
 * lane's part of what the gain gives. */
template <typename T, class K>
__device__ __forceinline__ void input_back(const kr_rows_view &g, const kr_rows_lane &l,
                                           const place &at, const kr_rows_batch<K> &v, int64_t r,
                                           const typename K::state (&L)[BATCH],
                                           float (&ddelta)[BATCH][K::KP], carried<K> &sum,
                                           const back_out<T> &out) {
    typename K::numbers b[BATCH], db[BATCH];
    float x[BATCH][K::KP], Lb[BATCH * K::KP], dgain[BATCH][1] = {};
    memset(b, 0, sizeof b);
    memset(db, 0, sizeof db);
    memset(Lb, 0, sizeof Lb);
#pragma unroll
    for (int f = 0; f < BATCH; f++) {
        if (f >= v.count) break;
        int64_t row = kr_rows_at(at.p, at.t0 + f);
        kr_rows_x<T, K>(g, l, row, r, x[f]);
        kr_rows_b<T, K>(g, l, row, r, b[f]);
#pragma unroll
        for (int k = 0; k < K::KP; k++) {
            const float gx[2] = {kr_rows_gain<T>(g, l, row, r, v.delta[f][k]) * x[f][k], 0};
            float &s = Lb[f * K::KP + k];
#pragma unroll
            for (int n = 0; n < K::KN; n++) {
                s = kr_re_conj(L[f][k][n], b[f][n], s);
                kr_mul_add(L[f][k][n], *(const float(*)[K::W])gx, db[f][n]);
            }
            if (g.gains == KRAIT_GAIN_DT) ddelta[f][k] += x[f][k] * s;
            dgain[f][0] += x[f][k] * s;
        }
    }
    if (out.gain.to) sum_heads<T, 1>(g, l, at, v.count, r, dgain, out.gain);
    if (out.dx) write_dx<T, K>(g, l, at, v, r, Lb, out);
    if (out.b.to) sum_units<T, K>(g, l, at, v.count, true, r, db, out.b);
#pragma unroll
    for (int f = 0; f < BATCH; f++)
#pragma unroll
        for (int n = 0; n < K::KN; n++)
#pragma unroll
            for (int w = 0; w < K::W; w++) sum.b[n][w] += db[f][n][w];
}

/* ---- decays ---- */

/* Gradients of a row's decays; before: the state in front of it, which counts unless a segment
 * starts. dA gets that of A for each n, summed over the lane's channels. */
template <typename T, class K>
__device__ __forceinline__ void decay_back(const kr_rows_view &g, const kr_rows_lane &l,
                                           int64_t row, const kr_rows_decay<T, K> &decay,
                                           bool fresh, const typename K::numbers *before,
                                           const typename K::state &L, const float (&delta)[K::KP],
                                           float (&ddelta)[K::KP], typename K::numbers &dA,
                                           carried<K> &sum, const back_out<T> &out) {
    typename K::numbers a, A;
#pragma unroll
    for (int k = 0; k < K::KP; k++) {
        if (k >= l.p_left) break;
        if (k == 0 || g.decay == KRAIT_DECAY_MATRIX) {
            decay.of(g, l, row, k, delta[k], a);
            if (g.form == KRAIT_FORM_DT) decay.raw(g, l, row, k, A);
        }
#pragma unroll
        for (int n = 0; n < K::KN; n++) {
            float G[K::W] = {}, z[K::W] = {};
            if (!fresh) kr_mul_conj(before[k][n], L[k][n], G);
            if (g.form != KRAIT_FORM_GIVEN) kr_mul_conj(a[n], G, z);
            if (g.form == KRAIT_FORM_DT) ddelta[k] = kr_re_conj(z, A[n], ddelta[k]);
#pragma unroll
            for (int w = 0; w < K::W; w++) {
                float one = g.form == KRAIT_FORM_GIVEN ? G[w] : z[w];
                if (g.form == KRAIT_FORM_DT) one *= delta[k];
                dA[n][w] += one;
                sum.A[k][n][w] += one;
                if (out.dA && n < l.n_left)
                    kr_put(out.dA + row * out.dA_row + ((l.e + k) * K::W + w) * g.N + l.n + n, one,
                           out.add_dA);
            }
        }
    }
}

/* Where the lane's sums of p_k or q_k lie among the shares of A, [S][units][H][1+2K][W][N]. */
template <class K>
__device__ __forceinline__ float *low_sums(const kr_rows_view &g, const kr_rows_lane &l, int64_t s,
                                           int64_t which, float *shares) {
    int64_t units = (g.P + K::KP - 1) / K::KP, head = (s * units + l.unit) * g.H + l.h;
    return shares + ((1 + 2 * g.rank) * head + 1 + which) * g.N * K::W + l.n;
}

template <class K>
__device__ __forceinline__ void clear_low_sums(const kr_rows_view &g, const kr_rows_lane &l,
                                               int64_t s, float *shares) {
    for (int64_t k = 0; shares && k < 2 * g.rank; k++) {
        float *to = low_sums<K>(g, l, s, k, shares);
        for (int w = 0; w < K::W; w++)
            for (int i = 0; i < l.n_left; i++) to[w * g.N + i] = 0;
    }
}

/* to += v, the lane's numbers. */
template <class K>
__device__ __forceinline__ void add_low(const kr_rows_view &g, const kr_rows_lane &l, float *to,
                                        const typename K::numbers &v) {
#pragma unroll
    for (int w = 0; w < K::W; w++)
#pragma unroll
        for (int i = 0; i < K::KN; i++)
            if (i < l.n_left) to[w * g.N + i] += v[i][w];
}

/* The part of low rank of a row whose state in front was `before`: gradients of p and q, and what
 * passes to that state. */
template <typename T, class K>
__device__ __forceinline__ void low_back(const kr_rows_view &g, const kr_rows_lane &l, int64_t s,
                                         const typename K::numbers &before,
                                         const typename K::numbers &L, typename K::numbers &next,
                                         const back_out<T> &out) {
    for (int64_t k = 0; k < g.rank; k++) {
        typename K::numbers p, q, dp = {}, dq = {};
        kr_rows_p<T, K>(g, l, k, p);
        kr_rows_q<T, K>(g, l, k, q);
        float sum[2] = {};
#pragma unroll
        for (int i = 0; i < K::KN; i++) sum[i % 2] = kr_re_conj(p[i], L[i], sum[i % 2]);
        const float down[2] = {-kr_rows_low<K>(g, q, before), 0};
        const float back[2] = {-g.kappa * kr_rows_unit_sum(g, sum[0] + sum[1]), 0};
#pragma unroll
        for (int i = 0; i < K::KN; i++) {
            kr_mul_conj(q[i], *(const float(*)[K::W])back, next[i]);
            kr_mul_add(L[i], *(const float(*)[K::W])down, dp[i]);
            kr_mul_conj(before[i], *(const float(*)[K::W])back, dq[i]);
        }
        if (!out.one_A) continue;
        add_low<K>(g, l, low_sums<K>(g, l, s, k, out.one_A), dp);
        add_low<K>(g, l, low_sums<K>(g, l, s, g.rank + k, out.one_A), dq);
    }
}

/* ddt of what the lane owns of its channels' sums. */
template <typename T, class K>
__device__ __forceinline__ void write_ddt(const kr_rows_view &g, const kr_rows_lane &l,
                                          const place &at, int count, float (&draw)[BATCH * K::KP],
                                          const back_out<T> &out) {
    auto mine = kr_rows_sum(draw, g.cut.lanes, l.j);
#pragma unroll
    for (int i = 0; i < BATCH * K::KP; i++) {
        int f = (mine.first + i) / K::KP, k = (mine.first + i) % K::KP;
        if (i >= mine.owned || f >= count || k >= l.p_left) continue;
        kr_put(out.ddt + kr_rows_at(at.p, at.t0 + f) * out.ddt_row + l.e + k, draw[i], out.add_ddt);
    }
}

/* Gradients of delta on to dt and its bias. */
template <typename T, class K>
__device__ __forceinline__ void delta_back(const kr_rows_view &g, const kr_rows_lane &l,
                                           const place &at, const kr_rows_batch<K> &v,
                                           const float (&ddelta)[BATCH][K::KP], carried<K> &sum,
                                           const back_out<T> &out) {
    float draw[BATCH * K::KP], heads[BATCH][1] = {};
#pragma unroll
    for (int i = 0; i < BATCH * K::KP; i++) {
        int f = i / K::KP, k = i % K::KP;
        bool in = f < v.count && k < l.p_left;
        draw[i] = in ? ddelta[f][k] * v.slope[f][k] : 0;
        sum.dt[k] += draw[i];
        heads[f][0] += draw[i];
    }
    if (out.dt.to) sum_heads<T, 1>(g, l, at, v.count, 0, heads, out.dt);
    if (out.ddt) write_ddt<T, K>(g, l, at, v.count, draw, out);
}

/* ---- a batch, a chunk ---- */

/* first: the state in front of the batch. */
template <typename T, class K>
__device__ __forceinline__ void batch_back(const kr_rows_view &g, const kr_rows_lane &l,
                                           const place &at, const kr_rows_decay<T, K> &decay,
                                           const typename K::state &first, carried<K> &sum,
                                           const back_out<T> &out) {
    kr_rows_batch<K> v;
    typename K::state h, L[BATCH];
    typename K::numbers dA[BATCH];
    float ddelta[BATCH][K::KP] = {};
    memcpy(h, first, sizeof h);
    kr_rows_advance(g, l, at.p, at.t0, decay, h, v);
    memset(L, 0, sizeof L);
    memset(dA, 0, sizeof dA);
    for (int64_t q = 0; q < g.Q; q++) read_back<T, K>(g, l, at, v, q, L, sum, out);
#pragma unroll
    for (int f = BATCH - 1; f >= 0; f--) {
        if (f >= v.count) continue;
        bool fresh = v.fresh >> f & 1;
        int64_t row = kr_rows_at(at.p, at.t0 + f);
        typename K::numbers a;
#pragma unroll
        for (int k = 0; k < K::KP; k++) {
            if (k == 0 || (g.decay == KRAIT_DECAY_MATRIX && k < l.p_left))
                decay.of(g, l, row, k, v.delta[f][k], a);
#pragma unroll
            for (int n = 0; n < K::KN; n++) {
                float next[K::W] = {};
#pragma unroll
                for (int w = 0; w < K::W; w++) L[f][k][n][w] += sum.L[k][n][w];
                if (!fresh) kr_mul_conj(a[n], L[f][k][n], next);
#pragma unroll
                for (int w = 0; w < K::W; w++) sum.L[k][n][w] = next[w];
            }
        }
        if constexpr (K::LOW)
            if (!fresh)
                low_back<T, K>(g, l, at.p.piece, (f > 0 ? v.h[f - 1] : first)[0], L[f][0], sum.L[0],
                               out);
        if (g.decay == KRAIT_DECAY_NONE) continue;
        decay_back<T, K>(g, l, row, decay, fresh, f > 0 ? v.h[f - 1] : first, L[f], v.delta[f],
                         ddelta[f], dA[f], sum, out);
    }
    for (int64_t r = 0; r < g.R; r++) input_back<T, K>(g, l, at, v, r, L, ddelta, sum, out);
    if (out.A.to && g.decay == KRAIT_DECAY_VECTOR)
        sum_units<T, K>(g, l, at, v.count, false, 0, dA, out.A);
    if (out.A.to && g.decay == KRAIT_DECAY_SCALAR) {
        float one[BATCH][K::W] = {};
#pragma unroll
        for (int i = 0; i < BATCH * K::KN * K::W; i++)
            one[i / (K::KN * K::W)][i % K::W] += dA[i / (K::KN * K::W)][i / K::W % K::KN][i % K::W];
        sum_heads<T, K::W>(g, l, at, v.count, 0, one, out.A);
    }
    if (g.dt.p) delta_back<T, K>(g, l, at, v, ddelta, sum, out);
}

/* 16 floats of a thread, side by side with those of the others. */
__device__ __forceinline__ void keep(float4 *to, int64_t step, const float *h) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        to[i * step] = make_float4(h[4 * i], h[4 * i + 1], h[4 * i + 2], h[4 * i + 3]);
}
__device__ __forceinline__ void take(const float4 *from, int64_t step, float *h) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float4 v = from[i * step];
        h[4 * i] = v.x, h[4 * i + 1] = v.y, h[4 * i + 2] = v.z, h[4 * i + 3] = v.w;
    }
}

/* Where the marks of chunk number `chunk` lie for a thread: [chunks][blocks][4][threads]. */
__device__ __forceinline__ float4 *mark_of(const kr_rows_view &g, float *marks, int64_t part,
                                           int64_t chunk) {
    return (float4 *)marks + (chunk * g.cut.blocks + part) * 4 * KR_ROWS_THREADS + threadIdx.x;
}

/* Each thread's shares of what is constant in time, [S][units of a head][H][...]. */
template <class K>
__device__ __forceinline__ void leave(const kr_rows_view &g, const kr_rows_lane &l, int64_t s,
                                      carried<K> &sum, float *dA, float *db, float *dc, float *dD,
                                      float *ddt) {
    int64_t units = (g.P + K::KP - 1) / K::KP, each = g.H / g.G;
    int64_t head = (s * units + l.unit) * g.H + l.h;
    int64_t in_group = ((s * units + l.unit) * each + l.h % each) * g.G + l.g;
    if (!l.p_left) return;
    int64_t N = g.N * K::W, channel = s * g.H * g.P;
#pragma unroll
    for (int i = 0; i < K::KN * K::W; i++) {
        int n = i / K::W, w = i % K::W;
        int64_t to = w * g.N + l.n + n;
        float all = 0;
        if (n >= l.n_left) continue;
        if (db) db[in_group * N + to] = sum.b[n][w];
        if (dc) dc[in_group * N + to] = sum.c[n][w];
#pragma unroll
        for (int k = 0; k < K::KP; k++) {
            all += sum.A[k][n][w];
            if (dA && g.decay == KRAIT_DECAY_MATRIX && k < l.p_left)
                dA[(channel + l.e + k) * N + to] = sum.A[k][n][w];
        }
        if (dA && g.decay == KRAIT_DECAY_VECTOR) dA[(1 + 2 * g.rank) * head * N + to] = all;
    }
    float dt = 0;
#pragma unroll
    for (int k = 0; k < K::KP; k++) {
        dt += sum.dt[k];
        if (dD && l.j == 0 && k < l.p_left) dD[channel + l.e + k] = sum.D[k];
        if (ddt && l.j == 0 && k < l.p_left && g.decay == KRAIT_DECAY_MATRIX)
            ddt[channel + l.e + k] = sum.dt[k];
    }
    if (ddt && l.j == 0 && g.decay != KRAIT_DECAY_MATRIX) ddt[head] = dt;
}

/* Sums over the lanes of a unit, of what leave() wants whole. */
template <class K>
__device__ __forceinline__ void close(const kr_rows_view &g, const kr_rows_lane &l, int64_t s,
                                      carried<K> &sum, float *scalar) {
    float one[K::W] = {};
#pragma unroll
    for (int i = 0; i < K::KP * K::KN * K::W; i++) one[i % K::W] += (&sum.A[0][0][0])[i];
    for (int d = 1; d < g.cut.lanes; d *= 2) {
#pragma unroll
        for (int k = 0; k < K::KP; k++) sum.dt[k] += __shfl_xor_sync(0xffffffffu, sum.dt[k], d);
#pragma unroll
        for (int w = 0; w < K::W; w++) one[w] += __shfl_xor_sync(0xffffffffu, one[w], d);
    }
    int64_t units = (g.P + K::KP - 1) / K::KP;
    for (int w = 0; scalar && l.j == 0 && l.p_left && w < K::W; w++)
        scalar[((s * units + l.unit) * g.H + l.h) * K::W + w] = one[w];
}

template <typename T, class K>
__global__ void __launch_bounds__(KR_ROWS_THREADS)
    backward(const kr_rows_view g, const back_out<T> out) {
    extern __shared__ float4 memory[];
    const int64_t s = blockIdx.x / g.cut.blocks;
    place at = {kr_whole(g, s), blockIdx.x % g.cut.blocks, 0,
                (float *)(memory + KEPT * 4 * KR_ROWS_THREADS)};
    float4 *own = memory + threadIdx.x;
    kr_rows_lane l = kr_rows_lane_of<K>(g, at.part);
    kr_rows_decay<T, K> decay;
    kr_rows_batch<K> v;
    typename K::state h;
    carried<K> sum = {};
    int64_t chunks = (at.p.steps + CHUNK - 1) / CHUNK;
    int64_t first = g.seqs[s * g.seqs_row] / CHUNK + s;
    decay.open(g, l);
    if constexpr (K::LOW) clear_low_sums<K>(g, l, s, out.one_A);
    kr_rows_state<K>(g, l, g.state ? g.state + at.p.slot * g.state_slot : NULL, h);
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        keep(mark_of(g, out.marks, at.part, first + chunk), KR_ROWS_THREADS, &h[0][0][0]);
        for (int b = 0; b < KEPT && chunk + 1 < chunks; b++)
            kr_rows_advance(g, l, at.p, chunk * CHUNK + b * BATCH, decay, h, v);
    }
    kr_rows_state<K>(g, l, g.dstate ? g.dstate + at.p.slot * g.dstate_slot : NULL, sum.L);
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        take(mark_of(g, out.marks, at.part, first + chunk), KR_ROWS_THREADS, &h[0][0][0]);
        int batches = (int)min((at.p.steps - chunk * CHUNK + BATCH - 1) / BATCH, (int64_t)KEPT);
        for (int b = 0; b < batches; b++) {
            keep(own + b * 4 * KR_ROWS_THREADS, KR_ROWS_THREADS, &h[0][0][0]);
            if (b + 1 < batches)
                kr_rows_advance(g, l, at.p, chunk * CHUNK + b * BATCH, decay, h, v);
        }
        for (int b = batches - 1; b >= 0; b--) {
            take(own + b * 4 * KR_ROWS_THREADS, KR_ROWS_THREADS, &h[0][0][0]);
            at.t0 = chunk * CHUNK + b * BATCH;
            batch_back<T, K>(g, l, at, decay, h, sum, out);
        }
    }
    close<K>(g, l, s, sum, g.decay == KRAIT_DECAY_SCALAR ? out.one_A : NULL);
    leave<K>(g, l, s, sum, out.one_A, out.one_b, out.one_c, out.one_D, out.one_dt);
    if (!out.dstate) return;
    float *to = out.dstate + at.p.slot * out.dstate_slot;
    kr_rows_each<K>(g, l, [&](int k, int i, int w, int64_t n) { to[n] += sum.L[k][i][w]; });
}

/* ---- calls ---- */

/* Element i of partial sums of rows: into its row. */
template <typename T>
struct put_rows {
    T *to;
    int64_t row, cols;
    bool add;
    __device__ void operator()(int64_t i, float v) const {
        kr_put(to + i / cols * row + i % cols, v, add);
    }
};
struct put_one {
    float *to;
    bool add;
    __device__ void operator()(int64_t i, float v) const { kr_put(to + i, v, add); }
};
/* Channels' sums as their heads'. */
__global__ void add_channels(const float *from, int64_t n, int64_t H, int64_t P, float *to,
                             bool add) {
    int64_t h = (int64_t)blockIdx.x * (KR_ROWS_THREADS / 32) + threadIdx.x / 32;
    float sum = 0;
    if (h >= H) return;
    for (int64_t s = 0; s < n; s++)
        for (int64_t p = threadIdx.x % 32; p < P; p += 32) sum += from[(s * H + h) * P + p];
    sum = kr_warp_sum(sum);
    if (threadIdx.x % 32 == 0) kr_put(to + h, sum, add);
}

const kr_tensor *wanted(const kr_call *c, int i) {
    return i < c->n_out && c->out[i].data ? &c->out[i] : NULL;
}

template <typename T>
T *rows_out(const kr_call *c, int i, int64_t *row, bool *add) {
    const kr_tensor *t = wanted(c, i);
    if (!t) return NULL;
    *row = t->stride[0];
    *add = KR_ACC(c, i) != 0;
    return (T *)t->data;
}

template <typename T>
row_sums<T> sums_out(const kr_call *c, int i, float *parts, int64_t count) {
    row_sums<T> o = {};
    o.to = rows_out<T>(c, i, &o.row, &o.add);
    o.parts = parts;
    o.cols = o.to ? c->out[i].shape[1] : 0;
    o.several = count > 1;
    return o;
}

template <typename T>
void add_rows(const row_sums<T> &o, int64_t M, int64_t parts) {
    put_rows<T> put = {o.to, o.row, o.cols, o.add};
    if (o.to && o.several && M > 0) kr_sum_parts_launch(o.parts, parts, M * o.cols, put);
}

/* What is constant in time: `parts` shares of a tensor. */
void add_shares(const kr_call *c, int i, const float *shares, int64_t parts) {
    const kr_tensor *t = wanted(c, i);
    if (!t || !shares) return;
    put_one put = {(float *)t->data, KR_ACC(c, i) != 0};
    kr_sum_parts_launch(shares, parts, kr_tensor_count(t), put);
}

template <typename T>
back_out<T> outputs(const kr_call *c, const kr_rows_view &g, const kr_scan_rows_scratch &at) {
    const krait_scan_desc *d = (const krait_scan_desc *)c->attr;
    float *scratch = (float *)c->scratch;
    bool channels = d->decay == KRAIT_DECAY_MATRIX, any, dt = wanted(c, KR_SCAN_DDT) != NULL;
    back_out<T> o = {};
    o.dx = rows_out<T>(c, KR_SCAN_DX, &o.dx_row, &o.add_dx);
    o.dz = rows_out<T>(c, KR_SCAN_DZ, &o.dz_row, &o.add_dz);
    o.y = rows_out<T>(c, KR_SCAN_Y_AGAIN, &o.y_row, &any);
    if (!d->b_constant) o.b = sums_out<T>(c, KR_SCAN_DB, scratch + at.b, g.cut.group_parts);
    if (!d->c_constant) o.c = sums_out<T>(c, KR_SCAN_DC, scratch + at.c, g.cut.group_parts);
    o.gain = sums_out<T>(c, KR_SCAN_DGAIN, scratch + at.gain, g.cut.parts);
    if (!d->a_constant && channels) o.dA = rows_out<T>(c, KR_SCAN_DA, &o.dA_row, &o.add_dA);
    if (!d->a_constant && !channels) o.A = sums_out<T>(c, KR_SCAN_DA, scratch + at.A, g.cut.parts);
    if (!d->dt_constant && channels) o.ddt = rows_out<T>(c, KR_SCAN_DDT, &o.ddt_row, &o.add_ddt);
    if (!d->dt_constant && !channels)
        o.dt = sums_out<T>(c, KR_SCAN_DDT, scratch + at.dt, g.cut.parts);
    o.marks = scratch + at.marks;
    if (d->a_constant && wanted(c, KR_SCAN_DA)) o.one_A = scratch + at.one_A;
    if (d->b_constant && wanted(c, KR_SCAN_DB)) o.one_b = scratch + at.one_b;
    if (d->c_constant && wanted(c, KR_SCAN_DC)) o.one_c = scratch + at.one_c;
    if (wanted(c, KR_SCAN_DD)) o.one_D = scratch + at.one_D;
    if (wanted(c, KR_SCAN_DBIAS) || (d->dt_constant && dt)) o.one_dt = scratch + at.one_dt;
    o.dstate = rows_out<float>(c, KR_SCAN_DSTATE_IN, &o.dstate_slot, &any);
    return o;
}

template <typename T>
void add_all(const kr_call *c, const kr_rows_view &g, const back_out<T> &o, int64_t units) {
    const krait_scan_desc *d = (const krait_scan_desc *)c->attr;
    bool channels = d->decay == KRAIT_DECAY_MATRIX;
    int64_t heads = g.S * units, groups = heads * (g.H / g.G);
    add_rows(o.b, g.M, g.cut.group_parts);
    add_rows(o.c, g.M, g.cut.group_parts);
    add_rows(o.A, g.M, g.cut.parts);
    add_rows(o.dt, g.M, g.cut.parts);
    add_rows(o.gain, g.M, g.cut.parts);
    add_shares(c, KR_SCAN_DA, o.one_A, channels ? g.S : heads);
    add_shares(c, KR_SCAN_DB, o.one_b, groups);
    add_shares(c, KR_SCAN_DC, o.one_c, groups);
    add_shares(c, KR_SCAN_DBIAS, o.one_dt, channels ? g.S : heads);
    if (d->dt_constant) add_shares(c, KR_SCAN_DDT, o.one_dt, channels ? g.S : heads);
    if (d->skip_per_channel)
        add_shares(c, KR_SCAN_DD, o.one_D, g.S);
    else if (o.one_D)
        add_channels<<<kr_blocks(g.H, KR_ROWS_THREADS / 32), KR_ROWS_THREADS, 0,
                       kr_cuda_stream()>>>(o.one_D, g.S, g.H, g.P, (float *)c->out[KR_SCAN_DD].data,
                                           KR_ACC(c, KR_SCAN_DD) != 0);
}

template <typename T, class K>
void launch(const kr_call *c) {
    const kr_tensor *dstate = wanted(c, KR_SCAN_DSTATE_IN);
    kr_rows_view g = kr_rows_view_of(c);
    kr_scan_rows_scratch at;
    kr_scan_rows_scratch_plan(c, &at);
    back_out<T> out = outputs<T>(c, g, at);
    size_t shared = sizeof(float4) * KEPT * 4 * KR_ROWS_THREADS +
                    sizeof(float) * BATCH * KR_ROWS_THREADS * K::KN * K::W;
    if (dstate && !KR_ACC(c, KR_SCAN_DSTATE_IN)) /* slots that no sequence names */
        cudaMemsetAsync(dstate->data, 0, kr_tensor_bytes(dstate), kr_cuda_stream());
    cudaFuncSetAttribute(backward<T, K>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (g.S > 0)
        backward<T, K>
            <<<(unsigned)(g.S * g.cut.blocks), KR_ROWS_THREADS, shared, kr_cuda_stream()>>>(g, out);
    add_all(c, g, out, (g.P + K::KP - 1) / K::KP);
}

template <typename T, bool COMPLEX>
void run(const kr_call *c) {
    kr_scan_gpu_tiles cut;
    kr_scan_gpu_tiles_of((const krait_scan_desc *)c->attr, &cut);
    if (((const krait_scan_desc *)c->attr)->low_rank)
        launch<T, kr_rows_tile<COMPLEX, 1, BATCH, true>>(c);
    else if (cut.channels == 1)
        launch<T, kr_rows_tile<COMPLEX, 1, BATCH>>(c);
    else
        launch<T, kr_rows_tile<COMPLEX, 4, BATCH>>(c);
}

} // namespace

extern "C" void kr_scan_rows_grad_cuda(const kr_call *c) {
    bool complex = ((const krait_scan_desc *)c->attr)->complex_state;
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        complex ? run<bf16, true>(c) : run<bf16, false>(c);
    else
        complex ? run<float, true>(c) : run<float, false>(c);
}
