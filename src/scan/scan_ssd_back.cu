/* scan_ssd_back.cu - the gradient of Mamba-2's recurrence on the GPU with all chunks at once.
 * scan_ssd.cuh says how the work is cut; scan_matrix_back.cu has the formulas in the same words.
 *
 * A block has the rows of a chunk and goes through the heads of a group. Inputs s are rows, reads l
 * columns of w and v. With W_h the weights of head h:
 *
 *   w_h = W_h * B C^T    v_h = W_h * X_h dY_h^T      dX_h = w_h dY_h + diag(keep) B L_h^T
 *   dC = (sum_h v_h)^T B + sum_h diag(carry) dY_h H_h
 *   dB = (sum_h v_h) C   + sum_h diag(left) X_h L_h
 *
 * B C^T, the sums of v, dB and dC stay in registers. Where a group has several blocks, each leaves
 * its dB and dC in scratch. */
#include "ops/parts.cuh"
#include "scan/scan_ssd.cuh"

enum { THREADS = 256, WARPS = 8 };

/* Sums for each row, from tiles beside each other; for each warp. */
struct row_sums {
    float reads[4][KR_SSD_ROWS];      /* of z over inputs before l; by tile of inputs */
    float inputs[2][KR_SSD_ROWS];     /* of z over reads behind s; by half of the reads */
    float seen[4][KR_SSD_ROWS];       /* of C . (carry dY H); by quarter of the states */
    float left[2][KR_SSD_ROWS];       /* of B . (left X L); by half of the channels */
    float own[2][KR_SSD_ROWS];        /* of x . dX */
    float passed[WARPS], skip[WARPS]; /* <H, L>; dy . x */
};

template <int N>
struct tiles {
    static const int LD = N + 8;
    struct stage {
        bf16 x[KR_SSD_TILE], dy[KR_SSD_TILE], h[KR_SSD_P * LD], l[KR_SSD_P * LD];
        float times[4 * KR_SSD_LINE]; /* GAIN, SUM, CARRY, KEEP */
    } stages[2];
    bf16 b[KR_SSD_ROWS * LD], c[KR_SSD_ROWS * LD], w[KR_SSD_TILE];
    row_sums sums[2];
    int lowest[KR_SSD_ROWS], highest[KR_SSD_ROWS];
};
static_assert(sizeof(tiles<128>) <= KR_SCAN_SSD_SHARED, "the plan's room");

struct back_out {
    bf16 *dx, *ddt, *ddecay, *dgain;
    bf16 *db, *dc;          /* [slices,M,G N] or, with one slice, the gradients */
    float *da, *dbias, *dd; /* [pieces,H] */
    int64_t dx_row, ddt_row, ddecay_row, dgain_row, db_row, dc_row, slice;
    bool add_dx, add_ddt, add_ddecay, add_dgain, add_db, add_dc;
};

/* What a warp keeps, whatever the head. Inputs 16 i ..., reads 32 half ... of w and v; rows 32 m
 * ..., a quarter of the states of db and dc. */
template <int N>
struct kept {
    uint32_t b[N / 16][4]; /* of the inputs */
    float products[4][4], v[4][4];
    float db[2][N / 32][4], dc[2][N / 32][4];
};

static __device__ __forceinline__ int lane_row(void) { return (threadIdx.x & 31) / 4; }
static __device__ __forceinline__ int lane_column(void) { return (threadIdx.x & 3) * 2; }
/* Inputs and reads of a warp's tile of w; its channels of dX are half * 32 ... */
static __device__ __forceinline__ int first_input(void) { return (threadIdx.x >> 5 & 3) * 16; }
static __device__ __forceinline__ int half_of(void) { return threadIdx.x >> 7; }

/* Sums over the 8 lanes of a column of 8 numbers; lane / 4 gets that of its own. */
static __device__ __forceinline__ float column_sums(float (&v)[8]) {
#pragma unroll
    for (int d = 4; d > 0; d /= 2) {
        bool upper = threadIdx.x >> 2 & d;
#pragma unroll
        for (int i = 0; i < d; i++) {
            float give = upper ? v[i] : v[i + d], keep = upper ? v[i + d] : v[i];
            v[i] = keep + __shfl_xor_sync(0xffffffffu, give, 4 * d);
        }
    }
    return v[0];
}

/* w, out to shared memory; v added; the sums of z = v B C^T. */
template <int N>
static __device__ __forceinline__ void pairs(tiles<N> &f, const typename tiles<N>::stage &t,
                                             float kappa, row_sums &sums, kept<N> &k) {
    int s0 = first_input(), l0 = half_of() * 32, row = s0 + lane_row();
    const float *sum = t.times + KR_SSD_SUM * KR_SSD_LINE;
    float v[4][4], over[2] = {0, 0}, under[8];
    if (l0 + 31 < s0) return;
    kr_ssd_clear<4>(v);
#pragma unroll
    for (int p = 0; p < KR_SSD_P; p += 16) {
        uint32_t a[4];
        kr_ssd_left<KR_ALONG>(a, t.x, KR_SSD_LD, s0, p);
        kr_ssd_add<KR_ALONG, 4>(v, a, t.dy, KR_SSD_LD, l0, p);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        int l = l0 + 8 * j + lane_column();
        float2 at = *(const float2 *)(sum + l);
        under[2 * j] = under[2 * j + 1] = 0;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int s = row + 8 * i, span = f.highest[s] - s;
            float mine = sum[s] - kappa, gain = t.times[KR_SSD_GAIN * KR_SSD_LINE + s], w[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float passes = kr_ssd_exp2((e ? at.y : at.x) - mine);
                passes = (unsigned)(l + e - s) <= (unsigned)span ? passes : 0;
                float vs = v[j][2 * i + e] * passes * gain;
                float z = l + e > s ? vs * k.products[j][2 * i + e] : 0;
                k.v[j][2 * i + e] += vs;
                w[e] = k.products[j][2 * i + e] * passes;
                over[i] += z;
                under[2 * j + e] += z;
            }
            *(uint32_t *)(f.w + s * KR_SSD_LD + l) = kr_ssd_pair(w[0], w[1]);
        }
    }
    float total = column_sums(under);
    int own = lane_row();
    sums.reads[s0 / 16][l0 + own / 2 * 8 + lane_column() + own % 2] = total;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float all = kr_quad_sum(over[i]);
        if (lane_column() == 0) sums.inputs[half_of()][row + 8 * i] = all;
    }
}

/* diag(scale) a h, of dC (READS: a is dY, h is H) or dB (X, L), added; C . of dC. */
template <int N, bool READS>
static __device__ __forceinline__ void sides(const tiles<N> &f, const typename tiles<N>::stage &t,
                                             row_sums &sums, float (&total)[2][N / 32][4]) {
    int m = (threadIdx.x >> 5 & 1) * 32, quarter = threadIdx.x >> 6, n = quarter * (N / 4);
    const float *carry = t.times + KR_SSD_CARRY * KR_SSD_LINE;
    const float *gain = t.times + KR_SSD_GAIN * KR_SSD_LINE;
    const float *keep = t.times + KR_SSD_KEEP * KR_SSD_LINE;
    float sum[2][N / 32][4];
#pragma unroll
    for (int i = 0; i < 2; i++) kr_ssd_clear<N / 32>(sum[i]);
#pragma unroll
    for (int p = 0; p < KR_SSD_P; p += 16)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t a[4];
            kr_ssd_left<KR_ALONG>(a, READS ? t.dy : t.x, KR_SSD_LD, m + 16 * i, p);
            kr_ssd_add<KR_ACROSS, N / 32>(sum[i], a, READS ? t.h : t.l, tiles<N>::LD, n, p);
        }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int r = m + 8 * i + lane_row();
        float scale = READS ? carry[r] : gain[r] * keep[r], share = 0;
#pragma unroll
        for (int j = 0; j < N / 32; j++) {
            const float *from = sum[i / 2][j] + i % 2 * 2;
            float v[2] = {kr_ssd_scaled(from[0], scale), kr_ssd_scaled(from[1], scale)};
            total[i / 2][j][i % 2 * 2] += v[0];
            total[i / 2][j][i % 2 * 2 + 1] += v[1];
            if (!READS) continue;
            uint32_t c = kr_ssd_pair_at(f.c + r * tiles<N>::LD + n + 8 * j + lane_column());
            share = fmaf(v[0], kr_ssd_low(c), fmaf(v[1], kr_ssd_high(c), share));
        }
        if (!READS) continue;
        share = kr_quad_sum(share);
        if (lane_column() == 0) sums.seen[quarter][r] = share;
    }
}

/* <H, L>, by warp. */
template <int N>
static __device__ __forceinline__ void passed(const typename tiles<N>::stage &t, row_sums &sums) {
    float sum = 0;
#pragma unroll
    for (int i = threadIdx.x * 8; i < KR_SSD_P * N; i += THREADS * 8) {
        int at = i / N * tiles<N>::LD + i % N;
        uint4 h = *(const uint4 *)(t.h + at), l = *(const uint4 *)(t.l + at);
        const uint32_t a[4] = {h.x, h.y, h.z, h.w}, b[4] = {l.x, l.y, l.z, l.w};
#pragma unroll
        for (int e = 0; e < 4; e++)
            sum = fmaf(kr_ssd_low(a[e]), kr_ssd_low(b[e]),
                       fmaf(kr_ssd_high(a[e]), kr_ssd_high(b[e]), sum));
    }
    sum = kr_warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums.passed[threadIdx.x / 32] = sum;
}

/* dX, out as the gradient of x; x . dX and what of it comes from L; dy x. */
template <int N>
static __device__ __forceinline__ void inputs_back(const kr_ssd &c, const kr_ssd_piece &p,
                                                   const tiles<N> &f,
                                                   const typename tiles<N>::stage &t,
                                                   row_sums &sums, const kept<N> &k, int64_t head,
                                                   const back_out &o) {
    int s0 = first_input(), n = half_of() * 32;
    float sum[4][4], skip = 0, D = c.g.D ? c.g.D[head] : 0, left[2] = {0, 0}, own[2] = {0, 0};
    kr_ssd_clear<4>(sum);
#pragma unroll
    for (int i = 0; i < N / 16; i++)
        kr_ssd_add<KR_ALONG, 4>(sum, k.b[i], t.l, tiles<N>::LD, n, 16 * i);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int s = s0 + 8 * i + lane_row();
        float keep = t.times[KR_SSD_KEEP * KR_SSD_LINE + s];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t x = kr_ssd_pair_at(t.x + s * KR_SSD_LD + n + 8 * j + lane_column());
            float *v = sum[j] + 2 * i;
            v[0] = kr_ssd_scaled(v[0], keep), v[1] = kr_ssd_scaled(v[1], keep);
            left[i] = fmaf(v[0], kr_ssd_low(x), fmaf(v[1], kr_ssd_high(x), left[i]));
        }
    }
#pragma unroll
    for (int l = 0; l < KR_SSD_ROWS; l += 16) {
        uint32_t a[4];
        if (l < s0) continue;
        kr_ssd_left<KR_ALONG>(a, f.w, KR_SSD_LD, s0, l);
        kr_ssd_add<KR_ACROSS, 4>(sum, a, t.dy, KR_SSD_LD, n, l);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int s = s0 + 8 * i + lane_row();
        bool there = p.t0 + s < p.q.count;
        float gain = t.times[KR_SSD_GAIN * KR_SSD_LINE + s];
        uint32_t out[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int at = s * KR_SSD_LD + n + 8 * j + lane_column();
            uint32_t x = kr_ssd_pair_at(t.x + at), dy = kr_ssd_pair_at(t.dy + at);
            const float *v = sum[j] + 2 * i;
            own[i] = fmaf(v[0], kr_ssd_low(x), fmaf(v[1], kr_ssd_high(x), own[i]));
            skip = fmaf(kr_ssd_low(dy), kr_ssd_low(x), fmaf(kr_ssd_high(dy), kr_ssd_high(x), skip));
            out[j] = kr_ssd_pair(fmaf(D, kr_ssd_low(dy), gain * v[0]),
                                 fmaf(D, kr_ssd_high(dy), gain * v[1]));
        }
        left[i] = kr_quad_sum(left[i]) * gain;
        own[i] = kr_quad_sum(own[i]);
        if (lane_column() == 0) sums.left[half_of()][s] = left[i], sums.own[half_of()][s] = own[i];
        if (!o.dx) continue;
        int64_t row = kr_row_at(c.g, p.q, there ? p.t0 + s : p.t0);
        bf16 *to = o.dx + row * o.dx_row + head * KR_SSD_P + n;
        kr_ssd_store(to, out[0], out[1], there, o.add_dx);
        kr_ssd_store(to + 16, out[2], out[3], there, o.add_dx);
    }
    skip = kr_warp_sum(skip);
    if (threadIdx.x % 32 == 0) sums.skip[threadIdx.x / 32] = skip;
}

/* Gradients of the decays' logarithms with respect to their sums over the chunk, of rows lane and
 * 32 + lane. */
static __device__ __forceinline__ void sums_back(const row_sums &sums, float decay,
                                                 float (&ds)[2]) {
    int lane = threadIdx.x & 31;
    float behind = 0, over = 0;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int r = 32 * i + lane;
        float left = sums.left[0][r] + sums.left[1][r], total = 0;
        for (int n = 0; n <= r / 16; n++) total += sums.reads[n][r];
        for (int n = i; n < 2; n++) total -= sums.inputs[n][r];
        for (int n = 0; n < 4; n++) total += sums.seen[n][r];
        ds[i] = total - left;
        behind += left;
    }
    behind = kr_warp_sum(behind);
    for (int w = 0; w < WARPS; w++) over += sums.passed[w];
    if (lane == 31) ds[1] += behind + kr_ssd_scaled(over, decay);
}

/* One warp: gradients of the steps of the chunk's rows; partial sums of dA, ddt_bias and dD. */
static __device__ void steps_back(const kr_ssd &c, const kr_ssd_piece &p, const row_sums &sums,
                                  int64_t piece, int64_t head, const back_out &o) {
    const float *times = c.times + (piece * c.g.H + head) * KR_SSD_TIMES * KR_SSD_LINE;
    int lane = threadIdx.x & 31;
    float ds[2], later = 0, da = 0, dbias = 0, dd = 0;
    float A = c.g.decays && !c.g.log && c.g.A ? c.g.A[head] : 0;
    sums_back(sums, times[KR_SSD_ROWS], ds);
#pragma unroll
    for (int i = 1; i >= 0; i--) {
        int r = 32 * i + lane;
        float sum = ds[i];
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            float other = __shfl_down_sync(0xffffffffu, sum, d);
            if (lane + d < 32) sum += other;
        }
        sum += later;
        later = __shfl_sync(0xffffffffu, sum, 0);
        if (p.t0 + r >= p.q.count) continue;
        int64_t row = kr_row_at(c.g, p.q, p.t0 + r);
        float own = sums.own[0][r] + sums.own[1][r];
        float ddelta = fmaf(sum, A, c.g.gain ? own : 0) * times[KR_SSD_SLOPE * KR_SSD_LINE + r];
        da = fmaf(sum, times[KR_SSD_DELTA * KR_SSD_LINE + r], da);
        dbias += ddelta;
        if (o.ddt) kr_put(o.ddt + row * o.ddt_row + head, ddelta, o.add_ddt);
        if (o.dgain) kr_put(o.dgain + row * o.dgain_row + head, own, o.add_dgain);
        if (o.ddecay) kr_put(o.ddecay + row * o.ddecay_row + head, sum, o.add_ddecay);
    }
    da = kr_warp_sum(da), dbias = kr_warp_sum(dbias);
    for (int w = 0; w < WARPS; w++) dd += sums.skip[w];
    int64_t at = piece * c.g.H + head;
    if (lane == 0) o.da[at] = da, o.dbias[at] = dbias, o.dd[at] = dd;
}

/* The products of the sums of v, which lie in f.w. */
template <int N>
static __device__ __forceinline__ void shared_back(const tiles<N> &f, kept<N> &k) {
    int m = (threadIdx.x >> 5 & 1) * 32, n = (threadIdx.x >> 6) * (N / 4);
#pragma unroll
    for (int r = 0; r < KR_SSD_ROWS; r += 16)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t a[4];
            if (r >= m + 16 * i) {
                kr_ssd_left<KR_ALONG>(a, f.w, KR_SSD_LD, m + 16 * i, r);
                kr_ssd_add<KR_ACROSS, N / 32>(k.db[i], a, f.c, tiles<N>::LD, n, r);
            }
            if (r <= m + 16 * i) {
                kr_ssd_left<KR_ACROSS>(a, f.w, KR_SSD_LD, m + 16 * i, r);
                kr_ssd_add<KR_ACROSS, N / 32>(k.dc[i], a, f.b, tiles<N>::LD, n, r);
            }
        }
}

/* db or dc of the chunk. */
template <int N>
static __device__ __forceinline__ void write_side(const kr_ssd &c, const kr_ssd_piece &p,
                                                  const float (&v)[2][N / 32][4], bf16 *to,
                                                  int64_t to_row, bool add) {
    int m = (threadIdx.x >> 5 & 1) * 32, n = (threadIdx.x >> 6) * (N / 4);
    if (!to) return;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int r = m + 8 * i + lane_row(), e = i % 2 * 2;
        bool there = p.t0 + r < p.q.count;
        bf16 *row = to + kr_row_at(c.g, p.q, there ? p.t0 + r : p.t0) * to_row + n;
#pragma unroll
        for (int j = 0; j < N / 32; j += 2) {
            const float *a = v[i / 2][j] + e, *b = v[i / 2][j + 1] + e;
            kr_ssd_store(row + 8 * j, kr_ssd_pair(a[0], a[1]), kr_ssd_pair(b[0], b[1]), there, add);
        }
    }
}

template <int N>
static __device__ __forceinline__ void prepare(const tiles<N> &f, kept<N> &k) {
    int s0 = first_input(), l0 = half_of() * 32;
    kr_ssd_clear<4>(k.products);
    kr_ssd_clear<4>(k.v);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        kr_ssd_clear<N / 32>(k.db[i]);
        kr_ssd_clear<N / 32>(k.dc[i]);
    }
#pragma unroll
    for (int i = 0; i < N / 16; i++) {
        kr_ssd_left<KR_ALONG>(k.b[i], f.b, tiles<N>::LD, s0, 16 * i);
        kr_ssd_add<KR_ALONG, 4>(k.products, k.b[i], f.c, tiles<N>::LD, l0, 16 * i);
    }
}

/* Starts copying what head `head` has in the chunk. */
template <int N>
static __device__ __forceinline__ void load_head(const kr_ssd &c, const kr_ssd_piece &p,
                                                 int64_t piece, int64_t head,
                                                 typename tiles<N>::stage &t) {
    int64_t at = piece * c.g.H + head;
    kr_ssd_rows<64, THREADS>(c.g, p.q, c.g.x, p.t0, head * KR_SSD_P, t.x, KR_SSD_LD);
    kr_ssd_rows<64, THREADS>(c.g, p.q, c.g.dy, p.t0, head * KR_SSD_P, t.dy, KR_SSD_LD);
    kr_ssd_state<N, THREADS>(c.before + at * KR_SSD_P * N, t.h, tiles<N>::LD);
    kr_ssd_state<N, THREADS>(c.behind + at * KR_SSD_P * N, t.l, tiles<N>::LD);
    kr_ssd_floats<THREADS>(c.times + at * KR_SSD_TIMES * KR_SSD_LINE, t.times, 4 * KR_SSD_LINE);
}

/* A piece that is not there adds nothing. */
static __device__ void no_sums(const kr_ssd &c, int64_t piece, int64_t from, int64_t heads,
                               const back_out &o) {
    int64_t at = piece * c.g.H + from;
    for (int64_t i = threadIdx.x; i < heads; i += THREADS)
        o.da[at + i] = o.dbias[at + i] = o.dd[at + i] = 0;
}

template <int N>
static __global__ void __launch_bounds__(THREADS, 1) gradients(kr_ssd c, back_out o) {
    extern __shared__ __align__(16) unsigned char shared[];
    tiles<N> &f = *(tiles<N> *)shared;
    const kr_matrix_in<bf16> &g = c.g;
    int64_t each = g.H / g.G, group = blockIdx.x / c.slices % g.G, slice = blockIdx.x % c.slices;
    int64_t piece = blockIdx.x / c.slices / g.G, from = slice * c.heads;
    int64_t heads = each - from < c.heads ? each - from : c.heads;
    kr_ssd_piece p = kr_ssd_piece_of(g, piece);
    from += group * each;
    if (!p.there) return no_sums(c, piece, from, heads, o);
    kr_ssd_rows<N, THREADS>(g, p.q, g.b, p.t0, group * N, f.b, tiles<N>::LD);
    kr_ssd_rows<N, THREADS>(g, p.q, g.c, p.t0, group * N, f.c, tiles<N>::LD);
    kr_ssd_commit();
    load_head<N>(c, p, piece, from, f.stages[0]);
    kr_ssd_commit();
    if (threadIdx.x < KR_SSD_ROWS) kr_ssd_segments(g, p, f.lowest, f.highest);
    kr_ssd_wait<1>();
    __syncthreads();
    kept<N> k;
    prepare(f, k);
    for (int64_t i = 0; i < heads; i++) {
        typename tiles<N>::stage &t = f.stages[i % 2];
        row_sums &sums = f.sums[i % 2];
        kr_ssd_wait<0>();
        __syncthreads();
        if (i + 1 < heads) load_head<N>(c, p, piece, from + i + 1, f.stages[(i + 1) % 2]);
        kr_ssd_commit();
        pairs(f, t, c.kappa, sums, k);
        sides<N, true>(f, t, sums, k.dc);
        sides<N, false>(f, t, sums, k.db);
        passed<N>(t, sums);
        if (i > 0 && threadIdx.x / 32 == i % WARPS)
            steps_back(c, p, f.sums[(i + 1) % 2], piece, from + i - 1, o);
        __syncthreads();
        inputs_back(c, p, f, t, sums, k, from + i, o);
    }
    __syncthreads();
    if (threadIdx.x < 32) steps_back(c, p, f.sums[(heads - 1) % 2], piece, from + heads - 1, o);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        int s = first_input() + e % 2 * 8 + lane_row(),
            l = half_of() * 32 + e / 2 * 8 + lane_column();
        const float *v = k.v[e / 2] + e % 2 * 2;
        *(uint32_t *)(f.w + s * KR_SSD_LD + l) = kr_ssd_pair(v[0], v[1]);
    }
    __syncthreads();
    shared_back(f, k);
    int64_t column = slice * o.slice + group * N;
    write_side<N>(c, p, k.db, o.db ? o.db + column : NULL, o.db_row, o.add_db);
    write_side<N>(c, p, k.dc, o.dc ? o.dc + column : NULL, o.dc_row, o.add_dc);
}

/* ---- sums over blocks ---- */

/* to [M,width] = or += the sums over slices of from [slices,M,width]. */
static __global__ void sum_slices(const bf16 *from, bf16 *to, int64_t to_row, int64_t M,
                                  int64_t width, int slices, bool add) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= M * width) return;
    float sum = 0;
#pragma unroll 8
    for (int s = 0; s < slices; s++) sum += kr_load(from + s * M * width + i);
    kr_put(to + i / width * to_row + i % width, sum, add);
}

static void sum_slices_launch(const kr_ssd &k, const bf16 *from, const kr_call *c, int i) {
    const kr_tensor *t = &c->out[i];
    int64_t width = k.g.G * k.g.N, M = k.g.M;
    if (k.slices == 1 || !t->data || M == 0) return;
    sum_slices<<<kr_blocks(M * width, 256), 256, 0, kr_cuda_stream()>>>(from, (bf16 *)t->data,
                                                                        t->stride[0], M, width,
                                                                        k.slices,
                                                                        KR_ACC(c, i) != 0);
}

struct put_sum {
    float *to;
    bool add;
    __device__ void operator()(int64_t i, float x) const { kr_put(to + i, x, add); }
};

static void sum_pieces_launch(const kr_ssd &k, const float *from, const kr_call *c, int i) {
    float *to = (float *)c->out[i].data;
    if (to) kr_sum_parts_launch(from, k.pieces, k.g.H, put_sum{to, KR_ACC(c, i) != 0});
}

/* ---- the call ---- */

/* Where gradient i is written, and how. */
static bf16 *rows_out(const kr_call *c, int i, int64_t *row, bool *add) {
    const kr_tensor *t = &c->out[i];
    *row = t->data ? t->stride[0] : 0;
    *add = KR_ACC(c, i) != 0;
    return (bf16 *)t->data;
}

static back_out outputs_of(const kr_call *c, const kr_ssd &k) {
    kr_scan_ssd_cut s;
    back_out o = {};
    kr_scan_ssd_plan(c, &s);
    char *scratch = (char *)c->scratch;
    o.dx = rows_out(c, KR_SCAN_DX, &o.dx_row, &o.add_dx);
    o.ddt = rows_out(c, KR_SCAN_DDT, &o.ddt_row, &o.add_ddt);
    o.dgain = rows_out(c, KR_SCAN_DGAIN, &o.dgain_row, &o.add_dgain);
    if (k.g.decay.p) o.ddecay = rows_out(c, KR_SCAN_DA, &o.ddecay_row, &o.add_ddecay);
    o.da = (float *)(scratch + s.da), o.dbias = (float *)(scratch + s.dbias);
    o.dd = (float *)(scratch + s.dd);
    if (k.slices > 1) {
        o.db = (bf16 *)(scratch + s.db), o.dc = (bf16 *)(scratch + s.dc);
        o.db_row = o.dc_row = k.g.G * k.g.N;
        o.slice = k.g.M * o.db_row;
    } else {
        o.db = rows_out(c, KR_SCAN_DB, &o.db_row, &o.add_db);
        o.dc = rows_out(c, KR_SCAN_DC, &o.dc_row, &o.add_dc);
    }
    return o;
}

template <int N>
static void gradients_launch(const kr_ssd &k, const back_out &o) {
    unsigned blocks = (unsigned)(k.pieces * k.g.G * k.slices);
    size_t bytes = sizeof(tiles<N>);
    if (blocks == 0) return;
    cudaFuncSetAttribute(gradients<N>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    gradients<N><<<blocks, THREADS, bytes, kr_cuda_stream()>>>(k, o);
}

extern "C" void kr_scan_ssd_grad_cuda(const kr_call *c) {
    kr_ssd k = kr_ssd_unpack(c);
    back_out o = outputs_of(c, k);
    const kr_tensor *dstate = &c->out[KR_SCAN_DSTATE_IN];
    bool add = KR_ACC(c, KR_SCAN_DSTATE_IN);
    float *to = (float *)dstate->data;
    if (to && !add) cudaMemsetAsync(to, 0, kr_tensor_bytes(dstate), kr_cuda_stream());
    kr_ssd_times_launch(k);
    kr_ssd_states_launch(k, false, NULL, 0, false);
    if (c->n_out > KR_SCAN_Y_AGAIN && c->out[KR_SCAN_Y_AGAIN].data)
        kr_ssd_outputs_launch(k, &c->out[KR_SCAN_Y_AGAIN], false);
    kr_ssd_states_launch(k, true, to, to ? dstate->stride[0] : 0, add);
    (k.g.N == 128 ? gradients_launch<128> : gradients_launch<64>)(k, o);
    sum_slices_launch(k, o.db, c, KR_SCAN_DB);
    sum_slices_launch(k, o.dc, c, KR_SCAN_DC);
    if (k.g.A) sum_pieces_launch(k, o.da, c, KR_SCAN_DA);
    sum_pieces_launch(k, o.dbias, c, KR_SCAN_DBIAS);
    sum_pieces_launch(k, o.dd, c, KR_SCAN_DD);
}
