/* scan_matrix.cuh - small matrix products of a block, and what its two directions share, for the
 * members of the recurrence with one decay a head (plan CHUNK) on the GPU.
 *
 * A chunk is Q inputs. Where rows have R of them each (Mamba-3), those of a row follow each other
 * as if they were rows, of which all but the first have no decay, and a chunk has Q / R rows. Reads
 * are numbered by themselves, K to a row; read l sees inputs up to the last one of its row,
 * sees[l].
 *
 * A block takes a head of a sequence through time, Q rows at once. A warp sums tiles of 16 x 16 in
 * registers: element (row, column) = (lane / 4 + 8 i, 2 (lane % 4) + j + 8 n) is sum[n][2 i + j].
 * In bf16 the tensor units do it; in f32 the ordinary ones, with the same tiles. Operands lie in
 * shared memory, either way round.
 *
 * With s_t the sum of the logarithms of the decays of rows 0..t of a chunk (kept as two floats, so
 * that differences lose nothing), a read at l sees an input at s <= l weighed by exp(s_l - s_s). */
#ifndef KR_SCAN_MATRIX_CUH
#define KR_SCAN_MATRIX_CUH

#include "scan/scan_span.cuh"

enum { KR_MATRIX_THREADS = 256, KR_MATRIX_WARPS = 8 };

/* Rows of a chunk, and what pads the rows of a tile so that neighbours lie in other banks. */
template <typename T>
struct kr_matrix_size {
    static const int Q = KR_MATRIX_ROWS_HALF, PAD = 8;
};
template <>
struct kr_matrix_size<float> {
    static const int Q = KR_MATRIX_ROWS, PAD = 4;
};

template <typename T>
struct kr_matrix_rows {
    const T *p; /* NULL: absent */
    int64_t row;
};

template <typename T>
struct kr_matrix_in : kr_scan_time {
    kr_matrix_rows<T> x, dt, b, c, z, dy, decay, gains; /* decay: where it varies in time */
    const float *A, *D, *bias, *dstate;
    const void *state; /* floats, or halves */
    int64_t state_slot, dstate_slot, H, P, N, G;
    float dt_min, dt_max, kappa;
    bool softplus, gain, decays, log, skip_per_channel;
    bool wide, pairs; /* x, b, c, dy by 16 bytes; all others by two columns */
    bool half_states; /* those in and out */
    int P16, N16;     /* of a block: channels, 16, 32 or 64, and states, whole 16s */
    int parts;        /* blocks that share the channels of a head */
    int R, K;         /* inputs and reads of a row */
    int rows, K16;    /* of a chunk: rows, and reads, whole 16s */
};

/* ---- products ---- */

/* How an operand lies: its rows (of a: m, of b: n) side by side with k running along them, or k's
 * side by side. */
enum kr_lie { KR_ALONG, KR_ACROSS };

typedef float kr_sums[2][4];

__device__ __forceinline__ void kr_ldmatrix(uint32_t (&r)[4], const bf16 *p, bool across) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(p);
    if (across)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at));
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at));
}

__device__ __forceinline__ void kr_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                       uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* sum += a b for the tile whose rows begin at m and columns at n, k in [from, to), whole 16s. */
template <kr_lie A, kr_lie B>
__device__ __forceinline__ void kr_tile(kr_sums &sum, const bf16 *a, int lda, const bf16 *b,
                                        int ldb, int m, int n, int from, int to) {
    int lane = threadIdx.x & 31, low = lane & 7, mid = (lane >> 3 & 1) * 8, high = (lane >> 4) * 8;
    for (int k = from; k < to; k += 16) {
        uint32_t ra[4], rb[4];
        if (A == KR_ALONG)
            kr_ldmatrix(ra, a + (m + low + mid) * lda + k + high, false);
        else
            kr_ldmatrix(ra, a + (k + low + high) * lda + m + mid, true);
        if (B == KR_ALONG)
            kr_ldmatrix(rb, b + (n + low + high) * ldb + k + mid, false);
        else
            kr_ldmatrix(rb, b + (k + low + mid) * ldb + n + high, true);
        kr_mma(sum[0], ra, rb[0], rb[1]);
        kr_mma(sum[1], ra, rb[2], rb[3]);
    }
}

template <kr_lie A, kr_lie B>
__device__ __forceinline__ void kr_tile(kr_sums &sum, const float *a, int lda, const float *b,
                                        int ldb, int m, int n, int from, int to) {
    int lane = threadIdx.x & 31, row = m + lane / 4, column = n + lane % 4 * 2;
    for (int k = from; k < to; k++) {
        float ra[2], rb[4];
#pragma unroll
        for (int i = 0; i < 2; i++)
            ra[i] = A == KR_ALONG ? a[(row + 8 * i) * lda + k] : a[k * lda + row + 8 * i];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int at = column + (j & 1) + (j >> 1) * 8;
            rb[j] = B == KR_ALONG ? b[at * ldb + k] : b[k * ldb + at];
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                sum[j >> 1][2 * i + (j & 1)] = fmaf(ra[i], rb[j], sum[j >> 1][2 * i + (j & 1)]);
    }
}

__device__ __forceinline__ void kr_clear(kr_sums &sum) {
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum[n][i] = 0;
}

/* Row and column of sum[n][i] in its tile. */
__device__ __forceinline__ int kr_sum_row(int i) { return (threadIdx.x & 31) / 4 + (i >> 1) * 8; }
__device__ __forceinline__ int kr_sum_column(int n, int i) {
    return (threadIdx.x & 3) * 2 + (i & 1) + n * 8;
}

__device__ __forceinline__ float kr_as(const float *, float x) { return x; }
__device__ __forceinline__ bf16 kr_as(const bf16 *, float x) { return __float2bfloat16_rn(x); }

/* The sum over the four lanes that share a row of a tile. */
__device__ __forceinline__ float kr_quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
/* The sum over the eight lanes that share a column. */
__device__ __forceinline__ float kr_octet_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 4);
    x += __shfl_xor_sync(0xffffffffu, x, 8);
    return x + __shfl_xor_sync(0xffffffffu, x, 16);
}

/* ---- rows ---- */

/* What time does to a head within a chunk of up to 64 inputs, in shared memory. */
struct kr_chunk_times {
    float gain[64], high[64], low[64];
    float carry[64];    /* what read l sees of the state in front */
    float keep[64];     /* what input s leaves in the state behind */
    float left[64];     /* the same times its gain */
    float decay;        /* of the whole chunk; 0 where a segment starts */
    uint8_t lowest[64]; /* where the segment of input s begins, in the chunk */
    uint8_t sees[64];   /* the last input that read l sees */
};

/* Number i of `each` to a row, in the chunk: its row, and which of them it is. */
struct kr_place {
    int row, which;
};
__device__ __forceinline__ kr_place kr_place_of(int i, int each) {
    kr_place p = {i, 0};
    if (each > 1) p.row = i / each, p.which = i - p.row * each;
    return p;
}

struct kr_sequence {
    int64_t first, count, slot;
};

template <typename T>
__device__ __forceinline__ kr_sequence kr_sequence_of(const kr_matrix_in<T> &g, int64_t s) {
    const int64_t *q = g.seqs + s * g.seqs_row;
    kr_sequence out = {q[0], q[1], q[2]};
    return out;
}

template <typename T>
__device__ __forceinline__ int64_t kr_row_at(const kr_matrix_in<T> &g, const kr_sequence &q,
                                             int64_t t) {
    return g.reverse ? q.first + q.count - 1 - t : q.first + t;
}

template <typename T>
__device__ __forceinline__ bool kr_starts(const kr_matrix_in<T> &g, const kr_sequence &q,
                                          int64_t t) {
    if (!g.reset || t >= q.count) return false;
    if (!g.reverse) return g.reset[q.first + t];
    return t > 0 && g.reset[q.first + q.count - t];
}

__device__ __forceinline__ float kr_step_size(float v, bool softplus, float least, float most,
                                              float *slope) {
    bool soft = softplus && v <= 20;
    float w = expf(v), delta = soft ? log1pf(w) : v, clamped = fminf(fmaxf(delta, least), most);
    *slope = clamped != delta ? 0 : soft ? w / (1 + w) : 1;
    return clamped;
}

/* Half a graph is content with sums of floats, and with the quick exponential.
 */
template <typename T>
struct kr_matrix_numbers {
    typedef double sum;
    static __device__ __forceinline__ float exp(float x) { return expf(x); }
};
template <>
struct kr_matrix_numbers<bf16> {
    typedef float sum;
    static __device__ __forceinline__ float exp(float x) { return __expf(x); }
};

/* What a lane of the warp that fills the times keeps of its inputs: the slopes of the decay's
 * logarithm by A, and of delta by dt. */
template <int Q>
struct kr_lane_times {
    float delta[Q / 32], slope[Q / 32];
};

/* The raw step of a row, where the member has one, and its decay: what A is there, or the same for
 * all rows. */
struct kr_raw_step {
    float dt, A;
};
template <typename T>
__device__ __forceinline__ kr_raw_step kr_raw_step_of(const kr_matrix_in<T> &g, int64_t row,
                                                      int64_t head) {
    kr_raw_step r = {0, 0};
    if (g.dt.p) r.dt = kr_load(g.dt.p + row * g.dt.row + head) + (g.bias ? g.bias[head] : 0);
    if (g.decay.p)
        r.A = kr_load(g.decay.p + row * g.decay.row + head);
    else if (g.decays && g.A)
        r.A = g.A[head];
    return r;
}
template <typename T>
__device__ __forceinline__ float kr_gain_of(const kr_matrix_in<T> &g, int64_t row, int64_t head,
                                            int input, float delta) {
    if (g.gains.p) return kr_load(g.gains.p + row * g.gains.row + input * g.H + head);
    return g.gain ? delta : 1;
}

/* Where reads are among the inputs of a chunk, for input r of Q whose read carries `carry`. */
template <typename T, int Q>
__device__ __forceinline__ void kr_fill_reads(const kr_matrix_in<T> &g, int r, kr_place at,
                                              float carry, kr_chunk_times *k) {
    if (r >= g.rows * g.K) k->sees[r] = Q - 1, k->carry[r] = 0;
    if (at.which != g.R - 1 || at.row >= g.rows) return;
    for (int l = at.row * g.K; l < (at.row + 1) * g.K; l++)
        k->sees[l] = (uint8_t)r, k->carry[l] = carry;
}

/* One warp fills `times` for rows t0 ... of the chunk; Q inputs, whatever there are of them. */
template <typename T, int Q>
__device__ void kr_fill_times(const kr_matrix_in<T> &g, const kr_sequence &q, int64_t head,
                              int64_t t0, kr_chunk_times *k, kr_lane_times<Q> &mine) {
    typedef typename kr_matrix_numbers<T>::sum number;
    int lane = threadIdx.x & 31;
    number sums[Q / 32], sum = 0;
    unsigned long long resets = 0;
    kr_raw_step raw[Q / 32];
    kr_place at[Q / 32];
    float gain[Q / 32];
#pragma unroll
    for (int i = 0; i < Q / 32; i++) at[i] = kr_place_of(i * 32 + lane, g.R);
#pragma unroll
    for (int i = 0; i < Q / 32 && g.reset; i++) {
        bool first = at[i].which == 0 && at[i].row < g.rows && kr_starts(g, q, t0 + at[i].row);
        resets |= (unsigned long long)__ballot_sync(0xffffffffu, first) << (32 * i);
    }
#pragma unroll
    for (int i = 0; i < Q / 32; i++) {
        bool there = at[i].row < g.rows && t0 + at[i].row < q.count;
        int64_t row = kr_row_at(g, q, there ? t0 + at[i].row : t0);
        raw[i] = kr_raw_step_of(g, row, head);
        gain[i] = kr_gain_of(g, row, head, at[i].which, 0);
    }
#pragma unroll
    for (int i = 0; i < Q / 32; i++) {
        int r = i * 32 + lane;
        bool there = at[i].row < g.rows && t0 + at[i].row < q.count;
        float delta = 0, slope = 0;
        if (there && g.dt.p)
            delta = kr_step_size(raw[i].dt, g.softplus, g.dt_min, g.dt_max, &slope);
        k->gain[r] = !there ? 0 : g.gain ? delta : gain[i];
        mine.slope[i] = slope;
        mine.delta[i] = g.log ? there && at[i].which == 0 : delta;
        number way = mine.delta[i] != 0 ? (number)raw[i].A * (number)mine.delta[i] : 0;
        way = way < -256 ? -256 : way;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            number other = __shfl_up_sync(0xffffffffu, way, d);
            if (lane >= d) way += other;
        }
        sums[i] = sum + way;
        sum += __shfl_sync(0xffffffffu, way, 31);
    }
    float high = (float)sum, low = (float)(sum - (number)high);
#pragma unroll
    for (int i = 0; i < Q / 32; i++) {
        int r = i * 32 + lane;
        unsigned long long before = resets & (2ull << r) - 1;
        float h = (float)sums[i], l = (float)(sums[i] - (number)h);
        k->high[r] = h;
        k->low[r] = l;
        k->lowest[r] = (uint8_t)(before ? 63 - __clzll((long long)before) : 0);
        float carry = before ? 0 : g.kappa * kr_matrix_numbers<T>::exp(h) * (1 + l);
        kr_fill_reads<T, Q>(g, r, at[i], carry, k);
        k->keep[r] = resets >> r >> 1 ? 0 : kr_matrix_numbers<T>::exp((high - h) + (low - l));
        k->left[r] = k->keep[r] * k->gain[r];
    }
    if (lane == 0) k->decay = resets ? 0 : kr_matrix_numbers<T>::exp(high);
}

/* kappa exp(s_l - s_s) where input s is of the segment of read l and not after it. */
template <typename T>
__device__ __forceinline__ float kr_weight(const kr_matrix_in<T> &g, const kr_chunk_times *k, int l,
                                           int s) {
    int at = k->sees[l];
    if (s > at || s < k->lowest[at]) return 0;
    return g.kappa *
           kr_matrix_numbers<T>::exp((k->high[at] - k->high[s]) + (k->low[at] - k->low[s]));
}

/* Inputs that some of reads m .. m + 15 see, whole 16s; the first read, of 16s, that sees some of
 * inputs n .. n + 15. */
__device__ __forceinline__ int kr_inputs_seen(const kr_chunk_times *k, int m) {
    return (k->sees[m + 15] | 15) + 1;
}
template <typename T>
__device__ __forceinline__ int kr_first_read(const kr_matrix_in<T> &g, int n) {
    return kr_place_of(n, g.R).row * g.K & ~15;
}

/* What a row has of an array: `each` numbers of inputs or reads, `step` elements apart. */
struct kr_each {
    int each;
    int64_t step;
};

/* to [count, ld] = what rows t0 ... have in columns [first, first + width), zeros beyond them. */
template <typename T>
__device__ __forceinline__ void kr_load_rows(const kr_matrix_in<T> &g, const kr_sequence &q,
                                             const kr_matrix_rows<T> &from, kr_each of, int64_t t0,
                                             int64_t first, int width, int count, int padded, T *to,
                                             int ld) {
    const int V = 16 / (int)sizeof(T);
    int rows = from.p ? (int)(q.count - t0 < g.rows ? q.count - t0 : g.rows) : 0;
    if (g.wide) {
        int packs = padded / V;
#pragma unroll 4
        for (int i = threadIdx.x; i < count * packs; i += KR_MATRIX_THREADS) {
            int r = i / packs, d = i % packs * V;
            kr_place at = kr_place_of(r, of.each);
            uint4 v = make_uint4(0, 0, 0, 0);
            if (at.row < rows && d < width)
                v = *(const uint4 *)(from.p + kr_row_at(g, q, t0 + at.row) * from.row +
                                     at.which * of.step + first + d);
            *(uint4 *)(to + r * ld + d) = v;
        }
        return;
    }
    for (int i = threadIdx.x; i < count * padded; i += KR_MATRIX_THREADS) {
        int r = i / padded, d = i % padded;
        kr_place at = kr_place_of(r, of.each);
        float x = 0;
        if (at.row < rows && d < width)
            x = kr_load(from.p + kr_row_at(g, q, t0 + at.row) * from.row + at.which * of.step +
                        first + d);
        to[r * ld + d] = kr_as(to, x);
    }
}

/* The same of x, b, c or dy, for inputs or reads of a head and its group. */
template <typename T>
__device__ __forceinline__ kr_each kr_each_x(const kr_matrix_in<T> &g) {
    kr_each of = {g.R, g.H * g.P};
    return of;
}
template <typename T>
__device__ __forceinline__ kr_each kr_each_y(const kr_matrix_in<T> &g) {
    kr_each of = {g.K, g.H * g.P};
    return of;
}
template <typename T, int Q>
__device__ __forceinline__ void kr_load_b(const kr_matrix_in<T> &g, const kr_sequence &q,
                                          int64_t t0, int64_t group, T *to, int ld) {
    kr_each of = {g.R, g.G * g.N};
    kr_load_rows<T>(g, q, g.b, of, t0, group * g.N, (int)g.N, Q, g.N16, to, ld);
}
template <typename T>
__device__ __forceinline__ void kr_load_c(const kr_matrix_in<T> &g, const kr_sequence &q,
                                          int64_t t0, int64_t group, T *to, int ld) {
    kr_each of = {g.K, g.G * g.N};
    kr_load_rows<T>(g, q, g.c, of, t0, group * g.N, (int)g.N, g.K16, g.N16, to, ld);
}

/* to [rows, width] = from, times the scale of its row; 16 bytes at once. */
template <typename T>
__device__ __forceinline__ void kr_scale_rows(T *to, const T *from, int ld, int rows, int width,
                                              const float *scale) {
    const int V = 16 / (int)sizeof(T);
    int packs = width / V;
    for (int i = threadIdx.x; i < rows * packs; i += KR_MATRIX_THREADS) {
        int r = i / packs, at = r * ld + i % packs * V;
        union {
            uint4 bits;
            T x[V];
        } v;
        v.bits = *(const uint4 *)(from + at);
#pragma unroll
        for (int j = 0; j < V; j++) v.x[j] = kr_as(to, kr_load(&v.x[j]) * scale[r]);
        *(uint4 *)(to + at) = v.bits;
    }
}

/* ---- states ----
 *
 * A state [P,N] lies in the registers of the warps: warp w has rows 16 (w % 4) ... and of its
 * columns the 64 from 64 (w / 4) on, as four tiles. */
enum { KR_STATE_TILES = 4 };
typedef kr_sums kr_state[KR_STATE_TILES];

__device__ __forceinline__ int kr_state_row(void) { return (threadIdx.x >> 5) % 4 * 16; }
__device__ __forceinline__ int kr_state_column(int i) { return (threadIdx.x >> 7) * 64 + i * 16; }

template <typename F>
__device__ __forceinline__ void kr_each_state(kr_state &h, int P16, int N16, F f) {
#pragma unroll
    for (int t = 0; t < KR_STATE_TILES; t++)
        if (kr_state_row() < P16 && kr_state_column(t) < N16)
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    f(kr_state_row() + kr_sum_row(i), kr_state_column(t) + kr_sum_column(n, i),
                      h[t][n][i]);
}

/* h = decay h + a^T b, over k in [0, count): a [count, .] of P columns, b [count, .] of N. */
template <typename T>
__device__ __forceinline__ void kr_state_add(kr_state &h, float decay, const T *a, int lda,
                                             const T *b, int ldb, int count, int P16, int N16) {
#pragma unroll
    for (int t = 0; t < KR_STATE_TILES; t++) {
        if (kr_state_row() >= P16 || kr_state_column(t) >= N16) continue;
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) h[t][n][i] = decay != 0 ? h[t][n][i] * decay : 0;
        kr_tile<KR_ACROSS, KR_ACROSS>(h[t], a, lda, b, ldb, kr_state_row(), kr_state_column(t), 0,
                                      count);
    }
}

/* Its copy in shared memory, [P16, ld]. */
template <typename T>
__device__ __forceinline__ void kr_state_put(kr_state &h, T *to, int ld, int P16, int N16) {
    kr_each_state(h, P16, N16, [&](int p, int n, float &v) { to[p * ld + n] = kr_as(to, v); });
}

/* Number i of states in memory, which are floats or halves. */
__device__ __forceinline__ float kr_state_at(const void *states, bool half, int64_t i) {
    return half ? kr_load((const bf16 *)states + i) : ((const float *)states)[i];
}
__device__ __forceinline__ void kr_state_set(void *states, bool half, int64_t i, float x) {
    if (half)
        kr_store((bf16 *)states + i, x);
    else
        ((float *)states)[i] = x;
}

/* From number `first` on; states NULL: zeros. */
__device__ __forceinline__ void kr_state_load(kr_state &h, const void *states, bool half,
                                              int64_t first, int64_t P, int64_t N, int P16,
                                              int N16) {
    kr_each_state(h, P16, N16, [&](int p, int n, float &v) {
        v = states && p < P && n < N ? kr_state_at(states, half, first + p * N + n) : 0;
    });
}

/* Two columns of a row, of which `count` are there; at once where `pairs`. */
__device__ __forceinline__ void kr_put_two(float *p, float a, float b, int count, bool pairs,
                                           bool add) {
    if (pairs && count > 1) {
        float2 old = add ? *(float2 *)p : make_float2(0, 0);
        *(float2 *)p = make_float2(old.x + a, old.y + b);
        return;
    }
    if (count > 0) kr_put(p, a, add);
    if (count > 1) kr_put(p + 1, b, add);
}
__device__ __forceinline__ void kr_put_two(bf16 *p, float a, float b, int count, bool pairs,
                                           bool add) {
    if (pairs && count > 1) {
        __nv_bfloat162 *to = (__nv_bfloat162 *)p;
        float x = add ? __low2float(*to) : 0, y = add ? __high2float(*to) : 0;
        *to = __floats2bfloat162_rn(x + a, y + b);
        return;
    }
    if (count > 0) kr_put(p, a, add);
    if (count > 1) kr_put(p + 1, b, add);
}
__device__ __forceinline__ float2 kr_load_two(const float *p, int count, bool pairs) {
    if (pairs && count > 1) return *(const float2 *)p;
    return make_float2(count > 0 ? p[0] : 0, count > 1 ? p[1] : 0);
}
__device__ __forceinline__ float2 kr_load_two(const bf16 *p, int count, bool pairs) {
    if (pairs && count > 1) {
        __nv_bfloat162 v = *(const __nv_bfloat162 *)p;
        return make_float2(__low2float(v), __high2float(v));
    }
    return make_float2(count > 0 ? kr_load(p) : 0, count > 1 ? kr_load(p + 1) : 0);
}

/* Where the numbers of a tile are that a lane has: of row i, from column 8 j on, two. */
struct kr_lane_rows {
    int row[2], which[2]; /* of the chunk; -1: not there */
    int64_t at[2];        /* of all rows */
};
template <typename T>
__device__ __forceinline__ kr_lane_rows kr_lane_rows_of(const kr_matrix_in<T> &g,
                                                        const kr_sequence &q, int64_t t0, int m,
                                                        int each) {
    kr_lane_rows r;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        kr_place at = kr_place_of(m + kr_sum_row(2 * i), each);
        bool there = at.row < g.rows && t0 + at.row < q.count;
        r.row[i] = there ? at.row : -1, r.which[i] = at.which;
        r.at[i] = kr_row_at(g, q, there ? t0 + at.row : t0);
    }
    return r;
}

/* z of the tile at reads m and column n of `width`, from `from` on in a row; zeros where there is
 * none. Loaded in front of products, which hide how long it takes. */
template <typename T>
__device__ __forceinline__ void kr_load_gates(const kr_matrix_in<T> &g, const kr_lane_rows &r,
                                              int64_t from, int n, int width, float2 (&z)[2][2]) {
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int p = n + kr_sum_column(j, 0);
            z[i][j] = make_float2(0, 0);
            if (g.z.p && r.row[i] >= 0)
                z[i][j] = kr_load_two(g.z.p + r.at[i] * g.z.row + r.which[i] * g.H * g.P + from + p,
                                      width - p, g.pairs);
        }
}

/* silu(z) and its slope. */
__device__ __forceinline__ float kr_gate(float z, float *slope) {
    float s = 1 / (1 + expf(-z));
    *slope = s * fmaf(z, 1 - s, 1);
    return z * s;
}

/* ---- the call ---- */

template <typename T>
static kr_matrix_rows<T> kr_matrix_rows_of(const kr_call *c, int i) {
    kr_matrix_rows<T> r = {NULL, 0};
    if (i < c->n_in && c->in[i].data) r.p = (const T *)c->in[i].data, r.row = c->in[i].stride[0];
    return r;
}

static inline const float *kr_matrix_floats(const kr_call *c, int i) {
    return i < c->n_in ? (const float *)c->in[i].data : NULL;
}

/* Whether columns of `width` at a time begin and end on `bytes` in every row. */
template <typename T>
static bool kr_matrix_wide(const kr_matrix_rows<T> &r, int64_t width, size_t bytes = 16) {
    return (uintptr_t)r.p % bytes == 0 && r.row * sizeof(T) % bytes == 0 &&
           width * sizeof(T) % bytes == 0;
}
/* The same of an output, or a gradient, by two columns. */
template <typename T>
static bool kr_matrix_even(const kr_tensor *t, int64_t width) {
    kr_matrix_rows<T> r = {(const T *)t->data, t->data ? t->stride[0] : 0};
    return kr_matrix_wide(r, width, 2 * sizeof(T));
}

template <typename T>
static kr_matrix_in<T> kr_matrix_unpack(const kr_call *c) {
    const krait_scan_desc *d = (const krait_scan_desc *)c->attr;
    kr_matrix_in<T> g = {};
    g.x = kr_matrix_rows_of<T>(c, KR_SCAN_X);
    g.dt = kr_matrix_rows_of<T>(c, KR_SCAN_DT);
    g.b = kr_matrix_rows_of<T>(c, KR_SCAN_B);
    g.c = kr_matrix_rows_of<T>(c, KR_SCAN_C);
    g.dy = kr_matrix_rows_of<T>(c, KR_SCAN_DY);
    g.z = kr_matrix_rows_of<T>(c, KR_SCAN_Z);
    g.gains = kr_matrix_rows_of<T>(c, KR_SCAN_GAIN);
    if (d->a_constant)
        g.A = kr_matrix_floats(c, KR_SCAN_A);
    else if (d->decay != KRAIT_DECAY_NONE)
        g.decay = kr_matrix_rows_of<T>(c, KR_SCAN_A);
    g.D = kr_matrix_floats(c, KR_SCAN_D);
    g.bias = kr_matrix_floats(c, KR_SCAN_BIAS), g.state = kr_matrix_floats(c, KR_SCAN_STATE);
    g.half_states = kr_scan_half_states(c);
    g.dstate = kr_matrix_floats(c, KR_SCAN_DSTATE);
    if (g.state) g.state_slot = c->in[KR_SCAN_STATE].stride[0];
    if (g.dstate) g.dstate_slot = c->in[KR_SCAN_DSTATE].stride[0];
    (kr_scan_time &)g = kr_scan_time_of(c, INT64_MAX / 2);
    g.H = d->heads, g.P = d->width, g.N = d->state, g.G = d->groups;
    g.dt_min = d->dt_min > 0 || !d->dt_softplus ? (float)d->dt_min : 0;
    g.dt_max = d->dt_max > 0 ? (float)d->dt_max : INFINITY;
    g.softplus = d->dt_softplus;
    g.gain = d->gain == KRAIT_GAIN_DT, g.decays = d->decay != KRAIT_DECAY_NONE;
    g.log = g.decays && d->form == KRAIT_FORM_LOG, g.kappa = (float)d->kappa;
    g.R = (int)d->inputs, g.K = (int)d->reads, g.rows = kr_matrix_size<T>::Q / g.R;
    g.K16 = (g.rows * g.K + 15) / 16 * 16;
    g.skip_per_channel = d->skip_per_channel;
    g.P16 = (int)kr_matrix_padded(g.P), g.N16 = (int)(g.N + 15) / 16 * 16, g.parts = 1;
    g.wide = kr_matrix_wide(g.x, g.P) && kr_matrix_wide(g.b, g.N) && kr_matrix_wide(g.c, g.N) &&
             kr_matrix_wide(g.dy, g.P);
    g.pairs = kr_matrix_wide(g.z, g.P, 2 * sizeof(T));
    return g;
}

#endif
