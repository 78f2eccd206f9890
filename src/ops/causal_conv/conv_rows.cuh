/* conv_rows.cuh - what forward and gradient of the causal convolution share on the GPU: what each
 * row of a run is, taps, states. */
#ifndef KR_CONV_ROWS_CUH
#define KR_CONV_ROWS_CUH

#include "device/cuda/pack.cuh"
#include "ops/causal_conv/causal_conv.h"

typedef struct conv_seqs {
    const int64_t *seqs;  /* [S,3]: first row, count, slot */
    const uint8_t *reset; /* [M] or NULL */
    int64_t S, M, E;
    int K;
} conv_seqs;

/* Threads (32, CONV_WARPS): a warp takes 32 V channels down a run of rows, and rows before it. */
enum { CONV_WARPS = 4, CONV_AHEAD = 4, CONV_TAPS = KR_CAUSAL_CONV_GPU_TAPS };

typedef struct conv_taps {
    const float *weight, *bias; /* [E,1,K], [E] or NULL */
    bool fours;                 /* K = 4, and the taps of a channel can be loaded at once */
} conv_taps;

static inline conv_taps conv_taps_of(const kr_tensor *weight, const kr_tensor *bias) {
    conv_taps t = {(const float *)weight->data, (const float *)bias->data, kr_packs(weight, 4)};
    return t;
}

/* [slots,K-1,E] or NULL */
typedef struct conv_state {
    float *data;
    int64_t slot, row;
} conv_state;

static inline conv_state conv_state_of(const kr_tensor *t) {
    conv_state s = {(float *)t->data, t->stride[0], t->stride[1]};
    return s;
}

/* What a row is: in the middle of a sequence; one whose past is zeros; in no sequence; or, from 0
 * on, the first of the sequence of this number, whose past is in the state. */
enum { ROW_GOES_ON = -1, ROW_IS_FRESH = -2, ROW_IS_OUTSIDE = -3 };

/* kinds[i] = what row first + i is, for i < n; last[i] (unless NULL) = the number of the sequence
 * for whose state_out it counts, or -1. All threads of the block must call it. */
static __device__ __forceinline__ void conv_kinds(const conv_seqs &q, bool state, int64_t first,
                                                  int n, int *kinds, int *last) {
    int me = threadIdx.y * blockDim.x + threadIdx.x, all = blockDim.x * blockDim.y;
    for (int i = me; i < n; i += all) kinds[i] = ROW_IS_OUTSIDE;
    __syncthreads();
    for (int64_t s = me / 32; s < q.S; s += all / 32) {
        int64_t start = q.seqs[3 * s], end = start + q.seqs[3 * s + 1];
        int64_t low = start > first ? start : first, high = end < first + n ? end : first + n;
        for (int64_t r = low + me % 32; r < high; r += 32) {
            int kind = r > start ? ROW_GOES_ON : state ? (int)s : ROW_IS_FRESH;
            kinds[r - first] = q.reset && q.reset[r] ? ROW_IS_FRESH : kind;
            if (last) last[r - first] = r > end - q.K ? (int)s : -1;
        }
    }
    __syncthreads();
}

/* The next rows of a matrix, fetched one after the other: of row i those between low and high. */
template <typename T, int V>
struct conv_stream {
    const T *at;
    int64_t step;
    int low, high;
    __device__ __forceinline__ void fetch(int i, kr_pack<T, V> &pack) {
        pack = kr_pack<T, V>();
        if (i >= low && i < high) pack = kr_fetch<V>(at);
        at += step;
    }
};

/* From row `first` of M on, n rows; the matrix may be NULL. */
template <typename T, int V>
static __device__ __forceinline__ conv_stream<T, V> conv_open(const void *matrix, int64_t step,
                                                              int64_t first, int n, int64_t M,
                                                              int64_t e) {
    conv_stream<T, V> s = {(const T *)matrix + first * step + e, step, 0, n};
    if (first < 0) s.low = (int)-first;
    if (M - first < n) s.high = (int)(M - first);
    if (!matrix) s.high = 0;
    return s;
}

/* w[k] = tap k of KK, the last K of which are the weight's; b = bias */
template <int KK, int V>
static __device__ __forceinline__ void conv_load_taps(const conv_taps &t, int K, int64_t e,
                                                      float (&w)[KK][V], float (&b)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) {
        float four[4] = {};
        if (KK == 4 && t.fours) kr_load_pack<4>(t.weight + (e + i) * 4, four);
#pragma unroll
        for (int k = 0; k < KK; k++)
            if (KK == 4 && t.fours)
                w[k][i] = four[k % 4];
            else
                w[k][i] = k >= KK - K ? t.weight[(e + i) * K + k - (KK - K)] : 0;
        b[i] = t.bias ? t.bias[e + i] : 0;
    }
}

/* window[j] = the input j + 1 rows ago: of slot's state, or zeros */
template <int KK, int V>
static __device__ __forceinline__ void conv_load_window(const conv_state &state, int64_t slot,
                                                        int K, int64_t e, bool there,
                                                        float (&window)[KK - 1][V]) {
#pragma unroll
    for (int j = 0; j < KK - 1; j++) {
        const float *from = state.data + slot * state.slot + (K - 2 - j) * state.row + e;
#pragma unroll
        for (int i = 0; i < V; i++) window[j][i] = there && j < K - 1 ? from[i] : 0;
    }
}

/* p = bias + the taps on the window and x */
template <int KK, int V>
static __device__ __forceinline__ void conv_sum(const float (&w)[KK][V], const float (&b)[V],
                                                const float (&window)[KK - 1][V],
                                                const float (&x)[V], float (&p)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) {
        p[i] = fmaf(w[KK - 1][i], x[i], b[i]);
#pragma unroll
        for (int j = 0; j < KK - 1; j++) p[i] = fmaf(w[KK - 2 - j][i], window[j][i], p[i]);
    }
}

template <int KK, int V>
static __device__ __forceinline__ void conv_shift(float (&window)[KK - 1][V], const float (&x)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) {
#pragma unroll
        for (int j = KK - 2; j > 0; j--) window[j][i] = window[j - 1][i];
        window[0][i] = x[i];
    }
}

/* Whether the rows of a batch just go on, as those kinds say. */
static __device__ __forceinline__ bool conv_plain(const int *kinds) {
    int4 k = *(const int4 *)kinds;
    return (k.x & k.y & k.z & k.w) == ROW_GOES_ON;
}

static __device__ __forceinline__ float conv_sigmoid(float p) {
    return __fdividef(1, 1 + __expf(-p));
}

#endif
