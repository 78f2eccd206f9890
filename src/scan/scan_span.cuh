/* scan_span.cuh - sequences and pieces of them, as the kernels of the recurrence see them on the
 * GPU: which rows, in which order, and where segments start.
 *
 * Piece q of sequence s covers its rows [k chunk, (k+1) chunk), where q = first row / chunk + s + k
 * (kr_scan_gpu_cut). A chunk beyond all rows: sequences are not cut. */
#ifndef KR_SCAN_SPAN_CUH
#define KR_SCAN_SPAN_CUH

#include "device/cuda/kernel.cuh"
#include "scan/scan_gpu.h"

enum { KR_STEPS = KR_SCAN_GPU_STEPS };

struct kr_scan_time {
    const int64_t *seqs;
    int64_t seqs_row;
    const uint8_t *reset;
    int64_t S, M, chunk;
    bool reverse;
};

/* What is constant in time; dstate: gradients of the states behind. NULL: absent. */
struct kr_scan_constants {
    const float *A, *b, *c, *D, *state, *dstate;
    int64_t state_slot, dstate_slot, H, N;
};

struct kr_scan_span {
    int64_t row;   /* of step 0 */
    int64_t dir;   /* from step to step: 1 or -1 */
    int64_t steps; /* 0: there is no such piece */
    int64_t slot, piece;
    int64_t start;    /* number of its first step of KR_STEPS rows */
    bool first, last; /* of its sequence */
    bool exists;
};

/* The sequence that piece number q belongs to: the last one whose pieces begin at or before q. */
static __device__ int64_t kr_sequence_with(const kr_scan_time &g, int64_t q) {
    int64_t low = 0, high = g.S;
    while (high - low > 1) {
        int64_t s = (low + high) / 2;
        if (g.seqs[s * g.seqs_row] / g.chunk + s <= q)
            low = s;
        else
            high = s;
    }
    return low;
}

/* Sequence s as one piece. */
__device__ __forceinline__ kr_scan_span kr_whole(const kr_scan_time &g, int64_t s) {
    const int64_t *seq = g.seqs + s * g.seqs_row;
    kr_scan_span p;
    p.exists = p.first = p.last = true;
    p.steps = seq[1];
    p.dir = g.reverse ? -1 : 1;
    p.row = g.reverse ? seq[0] + seq[1] - 1 : seq[0];
    p.slot = seq[2];
    p.piece = s;
    p.start = seq[0] / KR_STEPS + s;
    return p;
}

static __device__ kr_scan_span kr_span(const kr_scan_time &g, int64_t q) {
    if (g.M < g.chunk) return kr_whole(g, q);
    kr_scan_span p;
    int64_t s = kr_sequence_with(g, q);
    const int64_t *seq = g.seqs + s * g.seqs_row;
    int64_t k = q - (seq[0] / g.chunk + s), from = k * g.chunk, left = seq[1] - from;
    p.exists = k == 0 || left > 0;
    p.first = k == 0;
    p.last = left <= g.chunk;
    p.steps = !p.exists ? 0 : p.last ? left : g.chunk;
    p.dir = g.reverse ? -1 : 1;
    p.row = g.reverse ? seq[0] + seq[1] - 1 - from : seq[0] + from;
    p.slot = seq[2];
    p.piece = q;
    p.start = seq[0] / KR_STEPS + s + from / KR_STEPS;
    return p;
}

/* The same in shared memory, where it takes no registers. */
__device__ __forceinline__ void kr_span_share(const kr_scan_time &g, int64_t q, kr_scan_span &p) {
    if (threadIdx.x == 0) p = kr_span(g, q);
    __syncthreads();
}

/* Whether no state passes into step t of a piece. */
__device__ __forceinline__ bool kr_starts(const kr_scan_time &g, const kr_scan_span &p, int64_t t) {
    if (!g.reset) return false;
    if (!g.reverse) return g.reset[p.row + t];
    return !(p.first && t == 0) && g.reset[p.row - t + 1];
}

/* ---- calls ---- */

static const void *kr_data_in(const kr_call *c, int i) {
    return i < c->n_in ? c->in[i].data : NULL;
}

static inline kr_scan_time kr_scan_time_of(const kr_call *c, int64_t chunk) {
    kr_scan_time g;
    g.seqs = (const int64_t *)kr_data_in(c, KR_SCAN_SEQS);
    g.seqs_row = c->in[KR_SCAN_SEQS].stride[0];
    g.reset = (const uint8_t *)kr_data_in(c, KR_SCAN_RESET);
    g.S = c->in[KR_SCAN_SEQS].shape[0];
    g.M = c->in[KR_SCAN_X].shape[0];
    g.chunk = chunk;
    g.reverse = ((const krait_scan_desc *)c->attr)->order == KRAIT_ORDER_REVERSE;
    return g;
}

static inline kr_scan_constants kr_scan_constants_of(const kr_call *c) {
    const krait_scan_desc *d = (const krait_scan_desc *)c->attr;
    kr_scan_constants g = {};
    g.A = (const float *)kr_data_in(c, KR_SCAN_A);
    g.b = (const float *)kr_data_in(c, KR_SCAN_B);
    g.c = (const float *)kr_data_in(c, KR_SCAN_C);
    g.D = (const float *)kr_data_in(c, KR_SCAN_D);
    g.state = (const float *)kr_data_in(c, KR_SCAN_STATE);
    g.dstate = (const float *)kr_data_in(c, KR_SCAN_DSTATE);
    g.state_slot = g.state ? c->in[KR_SCAN_STATE].stride[0] : 0;
    g.dstate_slot = g.dstate ? c->in[KR_SCAN_DSTATE].stride[0] : 0;
    g.H = d->heads;
    g.N = d->state;
    return g;
}

#endif
