/* sample.cu - drawing tokens on the GPU; sample.h has the contract.
 *
 * A token's place in the order of falling probability is one 64-bit number, its rank key: the bits
 * of the logit, made to grow with it, then the id from behind; so there are no ties. A first kernel
 * finds the largest of each of 1024 pieces of a row. In the second one a block takes a row: the
 * n-th of those bounds from below where the first n tokens end; what lies above, in the pieces that
 * reach it, is the short list, which is sorted, weighed and summed in shared memory, and nearly
 * always holds all that the rules leave. When it does not (flat distributions), the ends of the run
 * are sought in the whole row, by bits of the rank key. All sums are in double, in a fixed order.
 */
#include "base/rng.h"
#include "device/cuda/kernel.cuh"
#include "device/cuda/philox.cuh"
#include "ops/sample/sample.h"

enum {
    THREADS = KR_SAMPLE_PIECES,
    WARPS = THREADS / 32,
    LIST = 2048,
    WANT = 512,
    SCANNERS = 8,
    BINS = 16
};

typedef unsigned long long rank_key;
#define BAD (~(rank_key)0)

struct arguments {
    const float *logits, *temperature, *top_p, *min_p, *penalty;
    const int64_t *lanes, *top_k, *random;
    const uint8_t *seen;
    int32_t *ids;
    uint8_t *seen_out;
    int64_t *random_out;
    rank_key *largest; /* [R,PIECES] */
    int64_t V, L, logits_stride, seen_stride, seen_out_stride;
    uint64_t stream;
};

struct row_of {
    const float *logits;
    const uint8_t *seen; /* NULL: no penalties */
    float penalty, temperature;
    int64_t V;
};

static __device__ row_of row_at(const arguments &a, int64_t r, int64_t lane) {
    float penalty = a.penalty[lane];
    const uint8_t *seen = a.seen && penalty != 1 ? a.seen + lane * a.seen_stride : NULL;
    return {a.logits + r * a.logits_stride, seen, penalty, a.temperature[lane], a.V};
}

struct block_memory {
    rank_key list[LIST];
    double mass[LIST];
    double sums[WARPS], bins[BINS];
    float parts[WARPS][BINS];
    rank_key best[WARPS];
    int n, n_pieces;
    short piece[THREADS];
};

/* ---- a token's place ------------------------------------------------------------------------- */

static __device__ __forceinline__ uint32_t bits_of(float l) {
    uint32_t b = __float_as_uint(l + 0.0f); /* one zero */
    return b >> 31 ? ~b : b | 0x80000000u;
}

static __device__ __forceinline__ float logit_of(uint32_t bits) {
    return __uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
}

static __device__ __forceinline__ rank_key key_of(const row_of &row, int64_t i) {
    float l = row.logits[i];
    if (row.seen && row.seen[i]) l = l < 0 ? l * row.penalty : l / row.penalty;
    return (rank_key)bits_of(l) << 32 | (uint32_t)(row.V - 1 - i);
}

static __device__ __forceinline__ int32_t id_of(const row_of &row, rank_key k) {
    return (int32_t)(row.V - 1 - (int64_t)(uint32_t)k);
}

static __device__ __forceinline__ float key_logit(rank_key k) {
    return logit_of((uint32_t)(k >> 32));
}

/* ---- reductions ------------------------------------------------------------------------------ */

static __device__ double block_sum(double x, block_memory *m) {
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
    __syncthreads();
    if (threadIdx.x % 32 == 0) m->sums[threadIdx.x / 32] = x;
    __syncthreads();
    x = m->sums[threadIdx.x % WARPS];
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

static __device__ rank_key warp_max(rank_key x) {
    for (int d = 16; d > 0; d /= 2) {
        rank_key y = __shfl_xor_sync(0xffffffffu, x, d);
        x = x > y ? x : y;
    }
    return x;
}

static __device__ rank_key block_max(rank_key x, block_memory *m) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) m->best[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(m->best[threadIdx.x % WARPS]);
}

/* The first place of the sorted list's n at which `mass` reaches `target`; n: none does. */
static __device__ int first_reaching(const block_memory *m, int n, double target) {
    int low = 0, high = n;
    while (low < high) {
        int middle = (low + high) / 2;
        if (m->mass[middle] >= target)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* ---- the short list -------------------------------------------------------------------------- */

/* Tokens of a piece. */
static __device__ __forceinline__ int64_t piece_size(int64_t V) {
    return (V + THREADS - 1) / THREADS;
}

/* The largest rank key of a piece, in every lane of the warp; where a logit is none, BAD. */
static __device__ rank_key largest_of_piece(const row_of &row, int piece) {
    int64_t size = piece_size(row.V), i = piece * size + threadIdx.x % 32;
    int64_t end = (piece + 1) * size < row.V ? (piece + 1) * size : row.V;
    rank_key best = 0;
#pragma unroll 2
    for (; i < end; i += 32) {
        rank_key k = row.logits[i] < INFINITY ? key_of(row, i) : BAD;
        best = best > k ? best : k;
    }
    return warp_max(best);
}

static __global__ void __launch_bounds__(SCANNERS * 32) largest(arguments a) {
    int64_t lane = a.lanes[blockIdx.x];
    int piece = blockIdx.y * SCANNERS + threadIdx.x / 32;
    kr_go_on();
    kr_after();
    if (lane < 0 || lane >= a.L) return;
    rank_key best = largest_of_piece(row_at(a, blockIdx.x, lane), piece);
    if (threadIdx.x % 32 == 0) a.largest[(int64_t)blockIdx.x * THREADS + piece] = best;
}

/* The n-th largest of the pieces' largest, a thread each (0 where fewer have one). */
static __device__ uint32_t nth_of_pieces(uint32_t mine, int n) {
    uint32_t at = 0;
    for (int bit = 31; bit >= 0; bit--)
        if (__syncthreads_count(mine >= (at | 1u << bit)) >= n) at |= 1u << bit;
    return at;
}

static __device__ void sort_list(block_memory *m, int size) {
    for (int width = 2; width <= size; width *= 2) {
        for (int step = width / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < size / 2; i += THREADS) {
                int a = i / step * 2 * step + i % step, b = a + step;
                bool falling = (a & width) == 0;
                rank_key x = m->list[a], y = m->list[b];
                if ((x < y) == falling) {
                    m->list[a] = y;
                    m->list[b] = x;
                }
            }
        }
    }
    __syncthreads();
}

/* mass[i] = sum of the weights up to i. */
static __device__ void weigh_list(const row_of &row, float largest, block_memory *m, int size) {
    for (int i = threadIdx.x; i < size; i += THREADS) {
        double x = (double)key_logit(m->list[i]) - (double)largest;
        m->mass[i] = i < m->n ? exp(x / (double)row.temperature) : 0;
    }
    for (int step = 1; step < size; step *= 2) {
        double add[LIST / THREADS];
        __syncthreads();
        for (int j = 0; j < LIST / THREADS; j++) {
            int i = threadIdx.x + j * THREADS;
            add[j] = i < size && i >= step ? m->mass[i - step] : 0;
        }
        __syncthreads();
        for (int j = 0; j < LIST / THREADS; j++)
            if (threadIdx.x + j * THREADS < size) m->mass[threadIdx.x + j * THREADS] += add[j];
    }
    __syncthreads();
}

/* Gathers at least the first `want` tokens, sorted and weighed; false where they are too many. */
static __device__ bool make_list(const row_of &row, rank_key mine, float largest, int want,
                                 block_memory *m) {
    uint32_t bound = nth_of_pieces((uint32_t)(mine >> 32), want);
    if (threadIdx.x == 0) m->n = m->n_pieces = 0;
    __syncthreads();
    if ((uint32_t)(mine >> 32) >= bound) m->piece[atomicAdd(&m->n_pieces, 1)] = (short)threadIdx.x;
    __syncthreads();
    int64_t size_of = piece_size(row.V);
    for (int p = threadIdx.x / 32; p < m->n_pieces; p += WARPS) { /* in any order: sorted next */
        int64_t i = m->piece[p] * size_of, end = i + size_of < row.V ? i + size_of : row.V;
        for (i += threadIdx.x % 32; i < end; i += 32) {
            rank_key k = key_of(row, i);
            if ((uint32_t)(k >> 32) < bound) continue;
            int at = atomicAdd(&m->n, 1);
            if (at < LIST) m->list[at] = k;
        }
    }
    __syncthreads();
    if (m->n > LIST) return false;
    int size = 32;
    while (size < m->n) size *= 2;
    for (int i = m->n + threadIdx.x; i < size; i += THREADS) m->list[i] = 0;
    sort_list(m, size);
    weigh_list(row, largest, m, size);
    return true;
}

/* ---- the whole row --------------------------------------------------------------------------- */

/* What is counted of the tokens from a rank key upward: their number, or the weights of those that
 * min p leaves. */
struct measure {
    bool counts;
    float largest, least;
};

static __device__ double weight(const row_of &row, const measure &of, rank_key k) {
    if (of.counts) return 1;
    float l = key_logit(k), w = expf((l - of.largest) / row.temperature);
    return w >= of.least || l == of.largest ? (double)w : 0;
}

static __device__ double measure_from(const row_of &row, const measure &of, rank_key from,
                                      block_memory *m) {
    double sum = 0;
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < row.V; i += THREADS) {
        rank_key k = key_of(row, i);
        if (k >= from) sum += weight(row, of, k);
    }
    return block_sum(sum, m);
}

/* Sums of the tokens that agree with `at` above bit shift + 4, by their next 4 bits: m->bins. */
static __device__ void fill_bins(const row_of &row, const measure &of, rank_key at, int shift,
                                 block_memory *m) {
    float bins[BINS] = {};
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < row.V; i += THREADS) {
        rank_key k = key_of(row, i);
        if (k >> shift >> 4 != at >> shift >> 4) continue;
        int bin = (int)(k >> shift) & (BINS - 1);
        float w = (float)weight(row, of, k);
#pragma unroll
        for (int j = 0; j < BINS; j++) bins[j] += j == bin ? w : 0;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < BINS; j++) {
        float sum = kr_warp_sum(bins[j]);
        if (threadIdx.x % 32 == 0) m->parts[threadIdx.x / 32][j] = sum;
    }
    __syncthreads();
    if (threadIdx.x < BINS) {
        double sum = 0;
        for (int i = 0; i < WARPS; i++) sum += m->parts[i][threadIdx.x];
        m->bins[threadIdx.x] = sum;
    }
    __syncthreads();
}

/* The first token, walking down, at which the measure reaches `target`: 4 bits of its rank key at a
 * time. Where rounding leaves the whole a little short, the last one. */
static __device__ rank_key seek(const row_of &row, const measure &of, double target,
                                block_memory *m) {
    rank_key at = 0;
    double above = 0;
    int id_bits = 64 - __clzll(row.V);
    for (int shift = 60; shift >= 0; shift -= 4) {
        if (shift >= id_bits && shift < 32) continue;
        fill_bins(row, of, at, shift, m);
        double sum = above;
        int chosen = 0;
        for (int j = BINS - 1; j >= 0 && sum < target; j--) {
            if (m->bins[j] == 0) continue;
            above = sum;
            sum += m->bins[j];
            chosen = j;
        }
        at |= (rank_key)chosen << shift;
    }
    return at;
}

static __device__ int32_t draw_from_row(const row_of &row, float largest, int64_t limit,
                                        float top_p, float min_p, double u, block_memory *m) {
    measure number = {true, 0, 0}, all = {false, largest, 0}, left = {false, largest, min_p};
    rank_key from = limit < row.V ? seek(row, number, (double)limit, m) : 0;
    if (top_p < 1) {
        double total = measure_from(row, all, from, m);
        rank_key end = seek(row, all, (double)top_p * total, m);
        from = from > end ? from : end;
    }
    double sum = measure_from(row, left, from, m);
    return id_of(row, seek(row, left, u * sum, m));
}

/* ---- the draw -------------------------------------------------------------------------------- */

/* How many of the list's first `most` tokens min p leaves. */
static __device__ int plausible(const row_of &row, const block_memory *m, float largest,
                                float min_p, int most) {
    int low = 0, high = most; /* the first that is left out */
    while (low < high) {
        int i = (low + high) / 2;
        double x = (double)key_logit(m->list[i]) - (double)largest;
        double w = exp(x / (double)row.temperature);
        if (w == 0 || (i > 0 && w < (double)min_p))
            high = i;
        else
            low = i + 1;
    }
    return low;
}

static __device__ int32_t draw(const row_of &row, rank_key mine, float largest, int64_t limit,
                               float top_p, float min_p, double u, block_memory *m) {
    int want = (int)(limit < WANT ? limit : WANT);
    bool listed = make_list(row, mine, largest, want, m);
    bool all = listed && m->n >= limit; /* the list holds all that top k leaves */
    if (!listed || (!all && limit < row.V))
        return draw_from_row(row, largest, limit, top_p, min_p, u, m);
    int n = (int)(all ? limit : m->n);
    measure whole = {false, largest, 0};
    double total = all ? m->mass[n - 1] : measure_from(row, whole, 0, m);
    int end = plausible(row, m, largest, min_p, n);
    bool ends = all || end < n;
    if (top_p < 1) {
        int reached = first_reaching(m, n, (double)top_p * total);
        ends = ends || reached < n;
        end = end < reached + 1 ? end : reached + 1;
    }
    bool cut = top_p < 1 || min_p > 0;
    double sum = ends ? m->mass[end - 1] : total;
    int drawn = first_reaching(m, n, u * sum);
    if (!ends && (cut || drawn == n)) return draw_from_row(row, largest, limit, top_p, min_p, u, m);
    return id_of(row, m->list[drawn < end ? drawn : end - 1]);
}

/* Number `counter` of a stream. */
static __device__ uint32_t random_bits(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t c[4] = {(uint32_t)(counter >> 2), (uint32_t)(counter >> 34), (uint32_t)stream,
                     (uint32_t)(stream >> 32)};
    kr_philox_block(seed, c);
    int at = (int)(counter & 3);
    return at == 0 ? c[0] : at == 1 ? c[1] : at == 2 ? c[2] : c[3];
}

static __device__ double uniform(const int64_t *random, uint64_t stream) {
    uint64_t seed = (uint64_t)random[0], counter = (uint64_t)random[1];
    uint64_t high = random_bits(seed, stream, counter) >> 6;
    uint64_t low = random_bits(seed, stream, counter + 1) >> 6;
    return ((double)(high << 26 | low) + 0.5) / 4503599627370496.0;
}

static __device__ int32_t sample_row(const arguments &a, int64_t lane, block_memory *m) {
    row_of row = row_at(a, blockIdx.x, lane);
    rank_key mine = a.largest[(int64_t)blockIdx.x * THREADS + threadIdx.x];
    rank_key best = block_max(mine, m);
    float largest = key_logit(best);
    if (best == BAD || largest == -INFINITY) return -1;
    int64_t limit = a.top_k[lane];
    if (row.temperature == 0 || limit == 1) return id_of(row, best);
    if (limit < 1 || limit > a.V) limit = a.V;
    double u = uniform(a.random + 2 * lane, a.stream);
    __syncthreads();
    if (threadIdx.x == 0 && a.random_out) a.random_out[2 * lane + 1] = a.random[2 * lane + 1] + 2;
    return draw(row, mine, largest, limit, a.top_p[lane], a.min_p[lane], u, m);
}

static __global__ void __launch_bounds__(THREADS) sample(arguments a) {
    __shared__ block_memory m;
    int64_t lane = a.lanes[blockIdx.x];
    int32_t id = -1;
    kr_go_on();
    kr_after();
    if (lane >= 0 && lane < a.L) id = sample_row(a, lane, &m);
    __syncthreads(); /* everybody has read what was seen */
    if (threadIdx.x != 0) return;
    a.ids[blockIdx.x] = id;
    if (id >= 0 && a.seen_out) a.seen_out[lane * a.seen_out_stride + id] = 1;
}

extern "C" void kr_sample_cuda(const kr_call *c) {
    const kr_tensor *in = c->in, *logits = &in[KR_SAMPLE_LOGITS], *seen = &in[KR_SAMPLE_SEEN];
    arguments a = {};
    a.logits = (const float *)logits->data;
    a.lanes = (const int64_t *)in[KR_SAMPLE_LANES].data;
    a.temperature = (const float *)in[KR_SAMPLE_TEMPERATURE].data;
    a.top_k = (const int64_t *)in[KR_SAMPLE_TOP_K].data;
    a.top_p = (const float *)in[KR_SAMPLE_TOP_P].data;
    a.min_p = (const float *)in[KR_SAMPLE_MIN_P].data;
    a.penalty = (const float *)in[KR_SAMPLE_PENALTY].data;
    a.seen = (const uint8_t *)seen->data;
    a.random = (const int64_t *)in[KR_SAMPLE_RANDOM].data;
    a.ids = (int32_t *)c->out[KR_SAMPLE_ID].data;
    a.seen_out = (uint8_t *)c->out[KR_SAMPLE_SEEN_OUT].data;
    a.random_out = (int64_t *)c->out[KR_SAMPLE_RANDOM_OUT].data;
    a.V = logits->shape[1];
    a.L = in[KR_SAMPLE_TEMPERATURE].shape[0];
    a.logits_stride = logits->stride[0];
    a.seen_stride = seen->stride[0];
    a.seen_out_stride = c->out[KR_SAMPLE_SEEN_OUT].stride[0];
    a.stream = kr_hash_string("sampler");
    a.largest = (rank_key *)c->scratch;
    if (logits->shape[0] == 0) return;
    unsigned rows = (unsigned)logits->shape[0];
    kr_launch_early(largest, true, dim3(rows, THREADS / SCANNERS), SCANNERS * 32, 0, a);
    kr_launch_early(sample, true, dim3(rows), THREADS, 0, a);
}
