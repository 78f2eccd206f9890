/* scan_matrix.cu - the recurrence with one decay a head (Mamba-2 and Mamba-3, linear attention) on
 * the GPU, by chunks of matrix products. scan_matrix.cuh has what the two directions share.
 *
 * A block takes a head of a sequence through time. Its state stays in registers; each chunk of Q
 * inputs reads its rows once:
 *
 *   y = (diag(carry) C H^T + (W * C B^T) X + D x) silu(z),   H <- decay H + (diag(keep) X)^T B
 *
 * (X: gain x.) Few rows a sequence are the same with most rows absent. */
#include "scan/scan_matrix.cuh"

template <typename T>
struct forward_tiles {
    static const int Q = kr_matrix_size<T>::Q, PAD = kr_matrix_size<T>::PAD;
    T *x, *kept, *b, *c, *w, *h; /* [Q,P] [Q,P] [Q,N] [Q,N] [Q,Q] [P,N], rows padded */
    kr_chunk_times *times;
    int P, N, S; /* what rows take */
    static size_t bytes(int P16, int N16) {
        size_t p = (size_t)P16 + PAD, n = (size_t)N16 + PAD, s = (size_t)Q + PAD;
        return sizeof(T) * (Q * (2 * p + 2 * n + s) + P16 * n) + sizeof(kr_chunk_times);
    }
    __device__ forward_tiles(unsigned char *shared, int P16, int N16) {
        P = P16 + PAD, N = N16 + PAD, S = Q + PAD;
        x = (T *)shared, kept = x + Q * P, b = kept + Q * P, c = b + Q * N, w = c + Q * N;
        h = w + Q * S;
        times = (kr_chunk_times *)(h + P16 * N);
    }
};

/* w = W * C B^T */
template <typename T>
static __device__ void weigh(const kr_matrix_in<T> &g, const forward_tiles<T> &f) {
    const int Q = forward_tiles<T>::Q, side = Q / 16;
    for (int tile = threadIdx.x / 32; tile < g.K16 / 16 * side; tile += KR_MATRIX_WARPS) {
        int m = tile / side * 16, n = tile % side * 16;
        kr_sums sum;
        kr_clear(sum);
        if (n < kr_inputs_seen(f.times, m))
            kr_tile<KR_ALONG, KR_ALONG>(sum, f.c, f.N, f.b, f.N, m, n, 0, g.N16);
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int l = m + kr_sum_row(i), s = n + kr_sum_column(j, i);
                f.w[l * f.S + s] =
                    kr_as(f.w, sum[j][i] * kr_weight<T>(g, f.times, l, s) * f.times->gain[s]);
            }
    }
}

template <typename T>
static __device__ void write_y(const kr_matrix_in<T> &g, const forward_tiles<T> &f,
                               const kr_sequence &q, int64_t head, int64_t from, int width,
                               int64_t t0, T *y, int64_t y_row, bool add) {
    const int across = g.P16 / 16;
    for (int tile = threadIdx.x / 32; tile < g.K16 / 16 * across; tile += KR_MATRIX_WARPS) {
        int m = tile / across * 16, n = tile % across * 16;
        kr_lane_rows rows = kr_lane_rows_of(g, q, t0, m, g.K);
        float2 z[2][2];
        kr_sums sum;
        kr_load_gates(g, rows, from, n, width, z);
        kr_clear(sum);
        kr_tile<KR_ALONG, KR_ALONG>(sum, f.c, f.N, f.h, f.N, m, n, 0, g.N16);
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float seen = f.times->carry[m + kr_sum_row(i)];
                sum[j][i] = seen != 0 ? sum[j][i] * seen : 0;
            }
        kr_tile<KR_ALONG, KR_ACROSS>(sum, f.w, f.S, f.x, f.P, m, n, 0, kr_inputs_seen(f.times, m));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (rows.row[i] < 0) continue;
            const T *x = f.x + (rows.row[i] * g.R + rows.which[i]) * f.P;
            T *to = y + rows.at[i] * y_row + rows.which[i] * g.H * g.P + from;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int p = n + kr_sum_column(j, 0);
                float u[2], slope;
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    int64_t at = p + k < width ? from + p + k : head * g.P;
                    u[k] = sum[j][2 * i + k];
                    if (g.D)
                        u[k] = fmaf(g.D[g.skip_per_channel ? at : head], kr_load(x + p + k), u[k]);
                    if (g.z.p) u[k] *= kr_gate(k ? z[i][j].y : z[i][j].x, &slope);
                }
                kr_put_two(to + p, u[0], u[1], width - p, g.pairs, add);
            }
        }
    }
}

template <typename T>
static __global__ void __launch_bounds__(KR_MATRIX_THREADS, 2)
    forward(kr_matrix_in<T> g, T *y, int64_t y_row, bool add, void *out, int64_t out_slot) {
    extern __shared__ __align__(16) unsigned char shared[];
    const int Q = forward_tiles<T>::Q;
    forward_tiles<T> f(shared, g.P16, g.N16);
    int64_t part = blockIdx.x % g.parts, head = blockIdx.x / g.parts % g.H;
    int64_t group = head / (g.H / g.G), from = head * g.P + part * g.P16;
    int width = (int)(g.P - part * g.P16 < g.P16 ? g.P - part * g.P16 : g.P16);
    kr_sequence q = kr_sequence_of(g, blockIdx.x / g.parts / g.H);
    kr_lane_times<Q> unused;
    kr_state h;
    kr_state_load(h, g.state, g.half_states, q.slot * g.state_slot + from * g.N, width, g.N, g.P16,
                  g.N16);
    for (int64_t t0 = 0; t0 < q.count; t0 += g.rows) {
        if (threadIdx.x < 32) kr_fill_times<T, Q>(g, q, head, t0, f.times, unused);
        kr_load_b<T, Q>(g, q, t0, group, f.b, f.N);
        kr_load_c<T>(g, q, t0, group, f.c, f.N);
        kr_load_rows<T>(g, q, g.x, kr_each_x(g), t0, from, width, Q, g.P16, f.x, f.P);
        kr_state_put(h, f.h, f.N, g.P16, g.N16);
        __syncthreads();
        kr_scale_rows(f.kept, f.x, f.P, Q, g.P16, f.times->left);
        weigh(g, f);
        __syncthreads();
        write_y(g, f, q, head, from, width, t0, y, y_row, add);
        __syncthreads();
        kr_state_add<T>(h, f.times->decay, f.kept, f.P, f.b, f.N, Q, g.P16, g.N16);
        __syncthreads();
    }
    if (!out) return;
    int64_t to = q.slot * out_slot + from * g.N;
    kr_each_state(h, g.P16, g.N16, [&](int p, int n, float &v) {
        if (p < width && n < g.N) kr_state_set(out, g.half_states, to + p * g.N + n, v);
    });
}

/* Few heads and sequences: their channels are shared out, until so many blocks fill a large card.
 */
enum { KR_MATRIX_BLOCKS = 264 };

template <typename T>
static void run(const kr_call *c) {
    kr_matrix_in<T> g = kr_matrix_unpack<T>(c);
    const kr_tensor *y = &c->out[KR_SCAN_OUT_Y], *out = &c->out[KR_SCAN_OUT_STATE];
    bool keep = c->n_out > KR_SCAN_OUT_STATE && out->data;
    g.pairs = g.pairs && kr_matrix_even<T>(y, g.P);
    if (g.S * g.H == 0) return;
    while (g.P16 > 16 && g.S * g.H * g.parts * 2 <= KR_MATRIX_BLOCKS) g.P16 /= 2, g.parts *= 2;
    size_t bytes = forward_tiles<T>::bytes(g.P16, g.N16);
    cudaFuncSetAttribute(forward<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    forward<T><<<(unsigned)(g.S * g.H * g.parts), KR_MATRIX_THREADS, bytes, kr_cuda_stream()>>>(
        g, (T *)y->data, y->stride[0], KR_ACC(c, KR_SCAN_OUT_Y) != 0, keep ? out->data : NULL,
        keep ? out->stride[0] : 0);
}

extern "C" bool kr_scan_matrix_has_room(const krait_scan_desc *d, kr_dtype type) {
    int P16 = (int)kr_matrix_padded(d->width), N16 = (int)(d->state + 15) / 16 * 16;
    size_t bytes = type == KR_BF16 ? forward_tiles<bf16>::bytes(P16, N16)
                                   : forward_tiles<float>::bytes(P16, N16);
    return bytes <= (size_t)kr_cuda_shared();
}

extern "C" void kr_scan_matrix_cuda(const kr_call *c) {
    if (kr_scan_ssd_takes(c)) return kr_scan_ssd_cuda(c);
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
