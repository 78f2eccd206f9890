/* scan_matrix_back.cu - the gradient of the recurrence with one decay a head on the GPU, by chunks
 * of matrix products. scan_matrix.cuh has what the two directions share.
 *
 * A block takes a head of a sequence: forward once, leaving the state H in front of each chunk in
 * scratch, then back, with L the gradient of the state behind in registers. Per chunk, with X the
 * rows of gain x, dY of kappa dy:
 *
 *   w = W * C B^T     v = W * dY X^T                        where y has a gate, dY is that of u
 *   dX = w^T dY + diag(keep) B L^T
 *   dC = v B + diag(carry) dY H          dB = v^T C + diag(keep) X L
 *   L <- decay L + (diag(carry) dY)^T C
 *
 * A pair of an input s and a read l > s passes the decays of rows s+1..l: with z = v * C B^T the
 * gradient of the sum s_t of logarithms is (row sum - column sum) of z, plus what the row takes
 * from H, less what it gives to L; that of a decay is the sum of those of its row and all later
 * ones. Heads of a group write their dB and dC apart; they are added up in order. */
#include "ops/parts.cuh"
#include "scan/scan_matrix.cuh"

/* Sums that a block keeps for each row, from tiles beside each other. */
struct chunk_sums {
    float row[4][64];  /* of z over inputs, a read each; by tile of inputs */
    float col[4][64];  /* of z over reads, an input each; by tile of reads */
    float seen[8][64]; /* of C . (carry dY H), a read each; by tile of states */
    float left[8][64]; /* of B . (keep X L) */
    float own[4][64];  /* of x . dX; by tile of channels */
    float passed[KR_MATRIX_WARPS];
};

template <typename T>
struct back_tiles {
    static const int Q = kr_matrix_size<T>::Q, PAD = kr_matrix_size<T>::PAD;
    T *x, *dy, *b, *c, *w, *v, *h, *l; /* [Q,P] [Q,P] [Q,N] [Q,N] [Q,Q] [Q,Q] [P,N] [P,N] */
    T *carried;                        /* [Q,P], in the place of w once that is done with */
    kr_chunk_times *times;
    chunk_sums *sums;
    int P, N, S;
    static size_t wide(int P16) { return (size_t)(P16 > Q ? P16 : Q) + PAD; }
    static size_t bytes(int P16, int N16) {
        size_t p = (size_t)P16 + PAD, n = (size_t)N16 + PAD, s = (size_t)Q + PAD;
        return sizeof(T) * (Q * (2 * p + 2 * n + s + wide(P16)) + 2 * P16 * n) +
               sizeof(kr_chunk_times) + sizeof(chunk_sums);
    }
    __device__ back_tiles(unsigned char *shared, int P16, int N16) {
        P = P16 + PAD, N = N16 + PAD, S = Q + PAD;
        x = (T *)shared, dy = x + Q * P, b = dy + Q * P, c = b + Q * N, v = c + Q * N;
        h = v + Q * S, l = h + P16 * N, w = carried = l + P16 * N;
        times = (kr_chunk_times *)(w + Q * ((P16 > Q ? P16 : Q) + PAD));
        sums = (chunk_sums *)(times + 1);
    }
};

template <typename T>
struct back_out {
    T *dx, *ddt, *ddecay, *dz, *dgain; /* ddecay: of A that varies in time */
    float *dstate;
    T *starts;              /* [chunks,H,P16,N16] */
    T *db, *dc;             /* [M,R,H,N] [M,K,H,N]: of each head */
    float *da, *dbias, *dd; /* [S,H] [S,H] [S,H,P]: of each sequence */
    int64_t dx_row, ddt_row, ddecay_row, dz_row, dgain_row, db_row, dc_row, dstate_slot;
    bool add_dx, add_ddt, add_ddecay, add_dz, add_dgain, add_db, add_dc, add_dstate;
};

template <typename T>
static __device__ void copy_state(const T *from, int lf, T *to, int lt, int P16, int N16) {
    const int V = 16 / (int)sizeof(T);
    for (int i = threadIdx.x; i < P16 * (N16 / V); i += KR_MATRIX_THREADS) {
        int p = i / (N16 / V), n = i % (N16 / V) * V;
        *(uint4 *)(to + p * lt + n) = *(const uint4 *)(from + p * lf + n);
    }
}

/* Forward, for the states in front of each chunk. */
template <typename T>
static __device__ void sweep(const kr_matrix_in<T> &g, const back_tiles<T> &f, const kr_sequence &q,
                             int64_t head, T *starts) {
    const int Q = back_tiles<T>::Q;
    int64_t group = head / (g.H / g.G), size = (int64_t)g.P16 * g.N16;
    kr_lane_times<Q> unused;
    kr_state h;
    kr_state_load(h, g.state, false, q.slot * g.state_slot + head * g.P * g.N, g.P, g.N, g.P16,
                  g.N16);
    for (int64_t t0 = 0, k = 0; t0 < q.count; t0 += g.rows, k++) {
        kr_state_put(h, f.h, f.N, g.P16, g.N16);
        __syncthreads();
        copy_state<T>(f.h, f.N, starts + k * g.H * size, g.N16, g.P16, g.N16);
        if (t0 + g.rows >= q.count) break;
        if (threadIdx.x < 32) kr_fill_times<T, Q>(g, q, head, t0, f.times, unused);
        kr_load_b<T, Q>(g, q, t0, group, f.b, f.N);
        kr_load_rows<T>(g, q, g.x, kr_each_x(g), t0, head * g.P, (int)g.P, Q, g.P16, f.x, f.P);
        __syncthreads();
        kr_scale_rows(f.x, f.x, f.P, Q, g.P16, f.times->left);
        __syncthreads();
        kr_state_add<T>(h, f.times->decay, f.x, f.P, f.b, f.N, Q, g.P16, g.N16);
        __syncthreads();
    }
    __syncthreads();
}

/* u once more, for the gate: dz out, and the gradient of u in the place of dy, which x is summed
 * with before it is rounded. w is in the place of v, with gains. */
template <typename T>
static __device__ void gate_back(const kr_matrix_in<T> &g, const back_tiles<T> &f,
                                 const kr_sequence &q, int64_t head, int64_t t0,
                                 const back_out<T> &o, float (&skip)[2][2]) {
    const int Q = back_tiles<T>::Q, side = Q / 16, across = g.P16 / 16;
    for (int tile = threadIdx.x / 32; tile < g.K16 / 16 * side; tile += KR_MATRIX_WARPS) {
        int m = tile / side * 16, n = tile % side * 16;
        kr_sums w;
        kr_clear(w);
        if (n < kr_inputs_seen(f.times, m))
            kr_tile<KR_ALONG, KR_ALONG>(w, f.c, f.N, f.b, f.N, m, n, 0, g.N16);
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int l = m + kr_sum_row(i), s = n + kr_sum_column(j, i);
                float e = kr_weight<T>(g, f.times, l, s) * f.times->gain[s];
                f.v[l * f.S + s] = kr_as(f.v, w[j][i] * e);
            }
    }
    __syncthreads();
    for (int tile = threadIdx.x / 32; tile < g.K16 / 16 * across; tile += KR_MATRIX_WARPS) {
        int m = tile / across * 16, n = tile % across * 16;
        kr_lane_rows rows = kr_lane_rows_of(g, q, t0, m, g.K);
        float2 z[2][2];
        kr_sums u;
        kr_load_gates(g, rows, head * g.P, n, (int)g.P, z);
        kr_clear(u);
        kr_tile<KR_ALONG, KR_ALONG>(u, f.c, f.N, f.h, f.N, m, n, 0, g.N16);
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float seen = f.times->carry[m + kr_sum_row(i)];
                u[j][i] = seen != 0 ? u[j][i] * seen : 0;
            }
        kr_tile<KR_ALONG, KR_ACROSS>(u, f.v, f.S, f.x, f.P, m, n, 0, kr_inputs_seen(f.times, m));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (rows.row[i] < 0) continue;
            T *dy = f.dy + (m + kr_sum_row(2 * i)) * f.P;
            const T *xs = f.x + (rows.row[i] * g.R + rows.which[i]) * f.P;
            T *to = o.dz + rows.at[i] * o.dz_row + (rows.which[i] * g.H + head) * g.P;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int p = n + kr_sum_column(j, 0);
                float dz[2];
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    float slope, gate = kr_gate(k ? z[i][j].y : z[i][j].x, &slope);
                    float out = kr_load(dy + p + k), x = kr_load(xs + p + k), v = u[j][2 * i + k];
                    int channel = p + k < g.P ? p + k : 0;
                    if (g.D) v = fmaf(g.D[g.skip_per_channel ? head * g.P + channel : head], x, v);
                    dz[k] = out * v * slope;
                    skip[j][k] = fmaf(out * gate, x, skip[j][k]);
                    dy[p + k] = kr_as(dy, out * gate);
                }
                if (o.dz) kr_put_two(to + p, dz[0], dz[1], (int)g.P - p, g.pairs, o.add_dz);
            }
        }
    }
    __syncthreads();
}

/* w, v and the sums of z. */
template <typename T>
static __device__ void pairs(const kr_matrix_in<T> &g, const back_tiles<T> &f) {
    const int Q = back_tiles<T>::Q, side = Q / 16;
    for (int tile = threadIdx.x / 32; tile < g.K16 / 16 * side; tile += KR_MATRIX_WARPS) {
        int m = tile / side * 16, n = tile % side * 16;
        kr_sums w, v;
        kr_clear(w);
        kr_clear(v);
        if (n < kr_inputs_seen(f.times, m)) {
            kr_tile<KR_ALONG, KR_ALONG>(w, f.c, f.N, f.b, f.N, m, n, 0, g.N16);
            kr_tile<KR_ALONG, KR_ALONG>(v, f.dy, f.P, f.x, f.P, m, n, 0, g.P16);
        }
        float rows[2] = {0, 0}, cols[2][2] = {{0, 0}, {0, 0}};
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int l = m + kr_sum_row(i), s = n + kr_sum_column(j, i);
                float e = kr_weight<T>(g, f.times, l, s), vs = v[j][i] * e * f.times->gain[s];
                float z = s + g.R <= f.times->sees[l] ? w[j][i] * vs : 0;
                f.w[l * f.S + s] = kr_as(f.w, w[j][i] * e);
                f.v[l * f.S + s] = kr_as(f.v, vs);
                rows[i >> 1] += z;
                cols[j][i & 1] += z;
            }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float sum = kr_quad_sum(rows[i]);
            if ((threadIdx.x & 3) == 0) f.sums->row[tile % side][m + kr_sum_row(2 * i)] = sum;
        }
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float sum = kr_octet_sum(cols[j][i]);
                if ((threadIdx.x & 31) < 4) f.sums->col[tile / side][n + kr_sum_column(j, i)] = sum;
            }
    }
}

/* dX, out as the gradient of x; x . dX and dy x summed. */
template <typename T>
static __device__ void inputs_back(const kr_matrix_in<T> &g, const back_tiles<T> &f,
                                   const kr_sequence &q, int64_t head, int64_t t0,
                                   const back_out<T> &o, float (&skip)[2][2]) {
    const int Q = back_tiles<T>::Q, across = g.P16 / 16;
    for (int tile = threadIdx.x / 32; tile < Q / 16 * across; tile += KR_MATRIX_WARPS) {
        int m = tile / across * 16, n = tile % across * 16;
        kr_sums sum;
        kr_clear(sum);
        kr_tile<KR_ALONG, KR_ALONG>(sum, f.b, f.N, f.l, f.N, m, n, 0, g.N16);
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) sum[j][i] *= f.times->keep[m + kr_sum_row(i)];
        kr_tile<KR_ACROSS, KR_ACROSS>(sum, f.w, f.S, f.dy, f.P, m, n, kr_first_read(g, m), g.K16);
        float own[2] = {0, 0};
        kr_lane_rows rows = kr_lane_rows_of(g, q, t0, m, g.R);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (rows.row[i] < 0) continue;
            int r = m + kr_sum_row(2 * i), read = rows.row[i] * g.K + rows.which[i];
            bool reads = rows.which[i] < g.K;
            T *to = o.dx + rows.at[i] * o.dx_row + (rows.which[i] * g.H + head) * g.P;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int p = n + kr_sum_column(j, 0);
                float dx[2];
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    float v = sum[j][2 * i + k], x = kr_load(f.x + r * f.P + p + k);
                    float dy = reads ? kr_load(f.dy + read * f.P + p + k) : 0;
                    int channel = p + k < g.P ? p + k : 0;
                    dx[k] = v * f.times->gain[r];
                    own[i] = fmaf(x, v, own[i]);
                    if (!g.z.p) skip[j][k] = fmaf(dy, x, skip[j][k]);
                    if (g.D)
                        dx[k] =
                            fmaf(g.D[g.skip_per_channel ? head * g.P + channel : head], dy, dx[k]);
                }
                if (o.dx) kr_put_two(to + p, dx[0], dx[1], (int)g.P - p, g.pairs, o.add_dx);
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float total = kr_quad_sum(own[i]);
            if ((threadIdx.x & 3) == 0) f.sums->own[tile % across][m + kr_sum_row(2 * i)] = total;
        }
    }
}

/* dC (READS) or dB of this head, out to its place; their share of the decays' gradients summed. */
template <typename T, bool READS>
static __device__ void sides_back(const kr_matrix_in<T> &g, const back_tiles<T> &f,
                                  const kr_sequence &q, int64_t head, int64_t t0,
                                  const back_out<T> &o) {
    const int Q = back_tiles<T>::Q, across = g.N16 / 16;
    const float *scale = READS ? f.times->carry : f.times->left;
    const T *with = READS ? f.c : f.b;
    T *out = READS ? o.dc : o.db;
    int64_t out_row = READS ? o.dc_row : o.db_row;
    bool add = READS ? o.add_dc : o.add_db;
    int count = READS ? g.K16 : Q;
    for (int tile = threadIdx.x / 32; tile < count / 16 * across; tile += KR_MATRIX_WARPS) {
        int m = tile / across * 16, n = tile % across * 16;
        float share[2] = {0, 0};
        kr_sums sum;
        kr_clear(sum);
        kr_tile<KR_ALONG, KR_ACROSS>(sum, READS ? f.dy : f.x, f.P, READS ? f.h : f.l, f.N, m, n, 0,
                                     g.P16);
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int r = m + kr_sum_row(i), column = n + kr_sum_column(j, i);
                sum[j][i] = scale[r] != 0 ? sum[j][i] * scale[r] : 0;
                share[i >> 1] = fmaf(sum[j][i], kr_load(with + r * f.N + column), share[i >> 1]);
            }
        if (READS)
            kr_tile<KR_ALONG, KR_ACROSS>(sum, f.v, f.S, f.b, f.N, m, n, 0,
                                         kr_inputs_seen(f.times, m));
        else
            kr_tile<KR_ACROSS, KR_ACROSS>(sum, f.v, f.S, f.c, f.N, m, n, kr_first_read(g, m),
                                          g.K16);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float total = kr_quad_sum(share[i]);
            if ((threadIdx.x & 3) == 0)
                (READS ? f.sums->seen : f.sums->left)[tile % across][m + kr_sum_row(2 * i)] = total;
        }
        if (!out) continue;
        kr_lane_rows rows = kr_lane_rows_of(g, q, t0, m, READS ? g.K : g.R);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (rows.row[i] < 0) continue;
            T *to = out + rows.at[i] * out_row + (rows.which[i] * g.H + head) * g.N;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int column = n + kr_sum_column(j, 0);
                kr_put_two(to + column, sum[j][2 * i], sum[j][2 * i + 1], (int)g.N - column,
                           g.pairs, add);
            }
        }
    }
}

/* What reads of the row whose last input is r add to the gradient of its sum of logarithms. */
template <typename T>
static __device__ __forceinline__ float reads_back(const kr_matrix_in<T> &g, const back_tiles<T> &f,
                                                   int r) {
    const int side = back_tiles<T>::Q / 16;
    kr_place at = kr_place_of(r, g.R);
    float sum = 0;
    if (at.which != g.R - 1 || at.row >= g.rows) return 0;
    for (int l = at.row * g.K; l < (at.row + 1) * g.K; l++) {
        for (int n = 0; n < side; n++) sum += f.sums->row[n][l];
        for (int n = 0; n < g.N16 / 16; n++) sum += f.sums->seen[n][l];
    }
    return sum;
}

/* One warp: gradients of the decays, gains and steps of the chunk's rows. `total`: dA and ddt_bias
 * of the sequence so far, of this lane. */
template <typename T>
static __device__ void steps_back(const kr_matrix_in<T> &g, const back_tiles<T> &f,
                                  const kr_sequence &q, int64_t head, int64_t t0,
                                  const back_out<T> &o, const kr_lane_times<back_tiles<T>::Q> &k,
                                  float (&total)[2]) {
    const int Q = back_tiles<T>::Q;
    int lane = threadIdx.x & 31;
    float ds[Q / 32], behind = 0, later = 0, A = g.decays && !g.log && g.A ? g.A[head] : 0;
#pragma unroll
    for (int i = 0; i < Q / 32; i++) {
        int r = i * 32 + lane;
        float left = 0;
        ds[i] = reads_back(g, f, r);
        for (int n = 0; n < g.K16 / 16; n++) ds[i] -= f.sums->col[n][r];
        for (int n = 0; n < g.N16 / 16; n++) left += f.sums->left[n][r];
        ds[i] -= left;
        behind += left;
    }
    behind = kr_warp_sum(behind);
    for (int w = 0; w < KR_MATRIX_WARPS; w++) behind += f.sums->passed[w];
    if (lane == 31) ds[Q / 32 - 1] += behind;
#pragma unroll
    for (int i = Q / 32 - 1; i >= 0; i--) {
        int r = i * 32 + lane;
        float sum = ds[i];
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            float other = __shfl_down_sync(0xffffffffu, sum, d);
            if (lane + d < 32) sum += other;
        }
        sum += later;
        later = __shfl_sync(0xffffffffu, sum, 0);
        kr_place at = kr_place_of(r, g.R);
        if (at.row >= g.rows || t0 + at.row >= q.count) continue;
        int64_t row = kr_row_at(g, q, t0 + at.row);
        float own = 0;
        for (int n = 0; n < g.P16 / 16; n++) own += f.sums->own[n][r];
        float ddelta = fmaf(sum, A, g.gain ? own : 0) * k.slope[i];
        total[0] = fmaf(sum, k.delta[i], total[0]);
        total[1] += ddelta;
        if (o.ddt) kr_put(o.ddt + row * o.ddt_row + head, ddelta, o.add_ddt);
        if (o.dgain) kr_put(o.dgain + row * o.dgain_row + at.which * g.H + head, own, o.add_dgain);
        if (o.ddecay && at.which == 0)
            kr_put(o.ddecay + row * o.ddecay_row + head, sum, o.add_ddecay);
    }
}

/* decay <H, L>, by warp. */
template <typename T>
static __device__ void passed_back(const kr_matrix_in<T> &g, const back_tiles<T> &f, kr_state &L) {
    float sum = 0, decay = f.times->decay;
    kr_each_state(L, g.P16, g.N16,
                  [&](int p, int n, float &v) { sum = fmaf(v, kr_load(f.h + p * f.N + n), sum); });
    sum = kr_warp_sum(sum);
    if ((threadIdx.x & 31) == 0) f.sums->passed[threadIdx.x / 32] = decay != 0 ? decay * sum : 0;
}

/* dD of the sequence [P]: each warp's sums over its rows, then the warps of a tile's columns in
 * order. */
template <typename T>
static __device__ void write_skip(const kr_matrix_in<T> &g, const back_tiles<T> &f,
                                  const float (&skip)[2][2], float *dd) {
    int warp = threadIdx.x / 32, across = g.P16 / 16, p = threadIdx.x;
    float *sums = &f.sums->seen[0][0];
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float total = kr_octet_sum(skip[j][i]);
            if ((threadIdx.x & 31) < 4) sums[warp * 16 + kr_sum_column(j, i)] = total;
        }
    __syncthreads();
    if (p >= g.P) return;
    float sum = 0;
    for (int w = p / 16; w < KR_MATRIX_WARPS; w += across) sum += sums[w * 16 + p % 16];
    dd[p] = sum;
}

/* Chunks of all sequences are numbered without a table, with gaps: from first row / rows + s on. */
template <typename T>
static __global__ void __launch_bounds__(KR_MATRIX_THREADS, 2)
    backward(kr_matrix_in<T> g, back_out<T> o) {
    extern __shared__ __align__(16) unsigned char shared[];
    const int Q = back_tiles<T>::Q;
    back_tiles<T> f(shared, g.P16, g.N16);
    int64_t head = blockIdx.x % g.H, s = blockIdx.x / g.H, group = head / (g.H / g.G);
    int64_t size = (int64_t)g.P16 * g.N16, from = head * g.P;
    kr_sequence q = kr_sequence_of(g, s);
    T *starts = o.starts + ((q.first / g.rows + s) * g.H + head) * size;
    float total[2] = {0, 0}, skip[2][2] = {{0, 0}, {0, 0}};
    kr_lane_times<Q> mine;
    kr_state L;
    kr_state_load(L, g.dstate, false, q.slot * g.dstate_slot + head * g.P * g.N, g.P, g.N, g.P16,
                  g.N16);
    sweep(g, f, q, head, starts);
    for (int64_t k = (q.count + g.rows - 1) / g.rows - 1; k >= 0; k--) {
        int64_t t0 = k * g.rows;
        if (threadIdx.x < 32) kr_fill_times<T, Q>(g, q, head, t0, f.times, mine);
        kr_load_b<T, Q>(g, q, t0, group, f.b, f.N);
        kr_load_c<T>(g, q, t0, group, f.c, f.N);
        kr_load_rows<T>(g, q, g.dy, kr_each_y(g), t0, from, (int)g.P, g.K16, g.P16, f.dy, f.P);
        kr_load_rows<T>(g, q, g.x, kr_each_x(g), t0, from, (int)g.P, Q, g.P16, f.x, f.P);
        copy_state<T>(starts + k * g.H * size, g.N16, f.h, f.N, g.P16, g.N16);
        kr_state_put(L, f.l, f.N, g.P16, g.N16);
        __syncthreads();
        passed_back(g, f, L);
        if (g.z.p) gate_back(g, f, q, head, t0, o, skip);
        pairs(g, f);
        __syncthreads();
        inputs_back(g, f, q, head, t0, o, skip);
        sides_back<T, true>(g, f, q, head, t0, o);
        sides_back<T, false>(g, f, q, head, t0, o);
        __syncthreads();
        if (threadIdx.x < 32) steps_back(g, f, q, head, t0, o, mine, total);
        kr_scale_rows(f.carried, f.dy, f.P, g.K16, g.P16, f.times->carry);
        __syncthreads();
        kr_state_add<T>(L, f.times->decay, f.carried, f.P, f.c, f.N, g.K16, g.P16, g.N16);
        __syncthreads();
    }
    if (threadIdx.x < 32) {
        float da = kr_warp_sum(total[0]), dbias = kr_warp_sum(total[1]);
        if (threadIdx.x == 0) o.da[s * g.H + head] = da, o.dbias[s * g.H + head] = dbias;
    }
    write_skip(g, f, skip, o.dd + (s * g.H + head) * g.P);
    if (!o.dstate) return;
    float *to = o.dstate + q.slot * o.dstate_slot + head * g.P * g.N;
    kr_each_state(L, g.P16, g.N16, [&](int p, int n, float &v) {
        if (p < g.P && n < g.N) kr_put(to + p * g.N + n, v, o.add_dstate);
    });
}

/* to [M, R, G N] = or += the sums over the heads of a group of from [M, R, H, N]. */
template <typename T>
static __global__ void sum_heads(const T *from, T *to, int64_t to_row, int64_t M, int64_t R,
                                 int64_t H, int64_t G, int64_t N, bool add) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, m = i / (G * N), each = H / G;
    if (m >= M * R) return;
    int64_t n = i % N, g = i / N % G;
    float sum = 0;
#pragma unroll 8
    for (int64_t h = g * each; h < (g + 1) * each; h++) sum += kr_load(from + (m * H + h) * N + n);
    kr_put(to + m / R * to_row + m % R * G * N + g * N + n, sum, add);
}

/* to [width] = or += the sums over S of from [S, width, each]. */
static __global__ void sum_sequences(const float *from, float *to, int64_t S, int64_t width,
                                     int64_t each, bool add) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= width) return;
    float sum = 0;
    for (int64_t s = 0; s < S; s++)
        for (int64_t k = 0; k < each; k++) sum += from[(s * width + i) * each + k];
    kr_put(to + i, sum, add);
}

/* What is not there already: with a head a group it is. */
template <typename T>
static void sum_heads_launch(const kr_matrix_in<T> &g, const T *from, int64_t R, const kr_call *c,
                             int i) {
    const kr_tensor *t = &c->out[i];
    if (!t->data || g.M == 0 || g.G == g.H) return;
    sum_heads<T><<<kr_blocks(g.M * R * g.G * g.N, 256), 256, 0, kr_cuda_stream()>>>(
        from, (T *)t->data, t->stride[0], g.M, R, g.H, g.G, g.N, KR_ACC(c, i) != 0);
}

static void sum_sequences_launch(const kr_call *c, int i, const float *from, int64_t S,
                                 int64_t width, int64_t each) {
    if (!c->out[i].data) return;
    sum_sequences<<<kr_blocks(width, 128), 128, 0, kr_cuda_stream()>>>(from,
                                                                       (float *)c->out[i].data, S,
                                                                       width, each,
                                                                       KR_ACC(c, i) != 0);
}

/* Where gradient i is written, and how. */
template <typename T>
static T *rows_out(const kr_call *c, int i, int64_t *row, bool *add) {
    const kr_tensor *t = &c->out[i];
    *row = t->data ? t->stride[0] : 0;
    *add = KR_ACC(c, i) != 0;
    return (T *)t->data;
}

/* dB and dC of heads that share a group are summed behind. */
template <typename T>
static void sides_of(const kr_call *c, const kr_scan_matrix_cut &s, back_out<T> &o) {
    const krait_scan_desc *d = (const krait_scan_desc *)c->attr;
    o.db = rows_out<T>(c, KR_SCAN_DB, &o.db_row, &o.add_db);
    o.dc = rows_out<T>(c, KR_SCAN_DC, &o.dc_row, &o.add_dc);
    if (d->groups == d->heads) return;
    o.db = (T *)((char *)c->scratch + s.db), o.db_row = d->inputs * d->heads * d->state;
    o.dc = (T *)((char *)c->scratch + s.dc), o.dc_row = d->reads * d->heads * d->state;
    o.add_db = o.add_dc = false;
}

template <typename T>
static back_out<T> outputs(const kr_call *c) {
    kr_scan_matrix_cut s;
    kr_scan_matrix_plan(c, &s);
    char *scratch = (char *)c->scratch;
    back_out<T> o = {};
    o.dx = rows_out<T>(c, KR_SCAN_DX, &o.dx_row, &o.add_dx);
    o.ddt = rows_out<T>(c, KR_SCAN_DDT, &o.ddt_row, &o.add_ddt);
    o.dz = rows_out<T>(c, KR_SCAN_DZ, &o.dz_row, &o.add_dz);
    o.dgain = rows_out<T>(c, KR_SCAN_DGAIN, &o.dgain_row, &o.add_dgain);
    if (!((const krait_scan_desc *)c->attr)->a_constant)
        o.ddecay = rows_out<T>(c, KR_SCAN_DA, &o.ddecay_row, &o.add_ddecay);
    o.dstate = rows_out<float>(c, KR_SCAN_DSTATE_IN, &o.dstate_slot, &o.add_dstate);
    sides_of(c, s, o);
    o.starts = (T *)(scratch + s.starts), o.da = (float *)(scratch + s.da);
    o.dbias = (float *)(scratch + s.dbias), o.dd = (float *)(scratch + s.dd);
    return o;
}

template <typename T>
static void run(const kr_call *c) {
    kr_matrix_in<T> g = kr_matrix_unpack<T>(c);
    back_out<T> o = outputs<T>(c);
    size_t bytes = back_tiles<T>::bytes(g.P16, g.N16);
    kr_matrix_rows<T> db = {o.db, o.db_row}, dc = {o.dc, o.dc_row};
    g.pairs = g.pairs && kr_matrix_even<T>(&c->out[KR_SCAN_DX], g.P) &&
              kr_matrix_even<T>(&c->out[KR_SCAN_DZ], g.P) &&
              kr_matrix_wide(db, g.N, 2 * sizeof(T)) && kr_matrix_wide(dc, g.N, 2 * sizeof(T));
    if (o.dstate && !o.add_dstate)
        cudaMemsetAsync(o.dstate, 0, kr_tensor_bytes(&c->out[KR_SCAN_DSTATE_IN]), kr_cuda_stream());
    cudaFuncSetAttribute(backward<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (g.S > 0)
        backward<T><<<(unsigned)(g.S * g.H), KR_MATRIX_THREADS, bytes, kr_cuda_stream()>>>(g, o);
    sum_heads_launch<T>(g, o.db, g.R, c, KR_SCAN_DB);
    sum_heads_launch<T>(g, o.dc, g.K, c, KR_SCAN_DC);
    if (g.A) sum_sequences_launch(c, KR_SCAN_DA, o.da, g.S, g.H, 1);
    sum_sequences_launch(c, KR_SCAN_DBIAS, o.dbias, g.S, g.H, 1);
    if (g.skip_per_channel)
        sum_sequences_launch(c, KR_SCAN_DD, o.dd, g.S, g.H * g.P, 1);
    else
        sum_sequences_launch(c, KR_SCAN_DD, o.dd, g.S, g.H, g.P);
}

extern "C" bool kr_scan_matrix_grad_has_room(const krait_scan_desc *d, kr_dtype type) {
    int P16 = (int)kr_matrix_padded(d->width), N16 = (int)(d->state + 15) / 16 * 16;
    size_t bytes =
        type == KR_BF16 ? back_tiles<bf16>::bytes(P16, N16) : back_tiles<float>::bytes(P16, N16);
    return bytes <= (size_t)kr_cuda_shared() && kr_scan_matrix_has_room(d, type);
}

/* y once more, for gradients that read it: the forward pass. */
static void y_again(const kr_call *c) {
    kr_call y = {};
    y.n_in = KR_SCAN_INS, y.n_out = 1;
    for (int i = 0; i < KR_SCAN_INS; i++) y.in[i] = c->in[i];
    y.out[KR_SCAN_OUT_Y] = c->out[KR_SCAN_Y_AGAIN];
    y.attr = c->attr;
    y.scratch = c->scratch; /* the forward pass may take other kernels than what follows */
    kr_scan_matrix_cuda(&y);
}

extern "C" void kr_scan_matrix_grad_cuda(const kr_call *c) {
    if (kr_scan_ssd_takes(c)) return kr_scan_ssd_grad_cuda(c);
    if (c->n_out > KR_SCAN_Y_AGAIN && c->out[KR_SCAN_Y_AGAIN].data) y_again(c);
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
