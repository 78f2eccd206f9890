/* scan_rows.cu - plan ROWS on the GPU, forward. scan_rows.cuh says how the work lies in a warp. */
#include "scan/scan_rows.cuh"

namespace {

template <typename T>
struct forward_out {
    T *y;
    int64_t y_row;
    float *state; /* NULL: not wanted */
    int64_t state_slot;
    bool add;
};

/* y of what a lane owns of the sums h . c of a batch: number f KP + k. */
template <typename T, class K>
__device__ __forceinline__ void write(const kr_rows_view &g, const kr_rows_lane &l,
                                      const kr_scan_span &p, int64_t t0, int count, int64_t q,
                                      float (&u)[K::BATCH * K::KP], const forward_out<T> &out) {
    auto mine = kr_rows_sum(u, g.cut.lanes, l.j);
#pragma unroll
    for (int i = 0; i < K::BATCH * K::KP; i++) {
        int f = (mine.first + i) / K::KP, k = (mine.first + i) % K::KP;
        if (i >= mine.owned || f >= count || k >= l.p_left) continue;
        int64_t row = kr_rows_at(p, t0 + f), at = q * g.H * g.P + l.e + k;
        float v = g.kappa * u[i];
        if (g.D) v += kr_rows_skip(g, l, k) * kr_rows_one<T>(g.x, row, at);
        if (g.z.p) {
            float z = kr_rows_one<T>(g.z, row, at);
            v *= z * kr_sigmoid<T>(z);
        }
        kr_put(out.y + row * out.y_row + at, v, out.add);
    }
}

template <typename T, class K>
__global__ void __launch_bounds__(KR_ROWS_THREADS)
    forward(const kr_rows_view g, const forward_out<T> out) {
    kr_scan_span p = kr_whole(g, blockIdx.x / g.cut.blocks);
    kr_rows_lane l = kr_rows_lane_of<K>(g, blockIdx.x % g.cut.blocks);
    kr_rows_decay<T, K> decay;
    typename K::state h;
    decay.open(g, l);
    kr_rows_state<K>(g, l, g.state ? g.state + p.slot * g.state_slot : NULL, h);
    for (int64_t t0 = 0; t0 < p.steps; t0 += K::BATCH) {
        kr_rows_batch<K> v;
        kr_rows_advance(g, l, p, t0, decay, h, v);
        for (int64_t q = 0; q < g.Q; q++) {
            float u[K::BATCH * K::KP];
            typename K::numbers c[K::BATCH];
#pragma unroll
            for (int f = 0; f < K::BATCH; f++)
                if (f < v.count) kr_rows_c<T, K>(g, l, kr_rows_at(p, t0 + f), q, c[f]);
#pragma unroll
            for (int i = 0; i < K::BATCH * K::KP; i++) {
                int f = i / K::KP, k = i % K::KP;
                u[i] = 0;
                if (f >= v.count) continue;
#pragma unroll
                for (int n = 0; n < K::KN; n++) u[i] = kr_re_add(v.h[f][k][n], c[f][n], u[i]);
            }
            write<T, K>(g, l, p, t0, v.count, q, u, out);
        }
    }
    if (!out.state) return;
    float *to = out.state + p.slot * out.state_slot;
    kr_rows_each<K>(g, l, [&](int k, int i, int w, int64_t at) { to[at] = h[k][i][w]; });
}

template <typename T, class K>
void launch(const kr_call *c) {
    const kr_tensor *y = &c->out[KR_SCAN_OUT_Y], *state = &c->out[KR_SCAN_OUT_STATE];
    kr_rows_view g = kr_rows_view_of(c);
    bool keeps = c->n_out > KR_SCAN_OUT_STATE && state->data;
    forward_out<T> out = {(T *)y->data, y->stride[0], keeps ? (float *)state->data : NULL,
                          keeps ? state->stride[0] : 0, KR_ACC(c, KR_SCAN_OUT_Y) != 0};
    if (g.S > 0)
        forward<T, K>
            <<<(unsigned)(g.S * g.cut.blocks), KR_ROWS_THREADS, 0, kr_cuda_stream()>>>(g, out);
}

template <typename T, bool COMPLEX>
void run(const kr_call *c) {
    kr_scan_gpu_tiles cut;
    kr_scan_gpu_tiles_of((const krait_scan_desc *)c->attr, &cut);
    if (((const krait_scan_desc *)c->attr)->low_rank)
        launch<T, kr_rows_tile<COMPLEX, 1, 2, true>>(c);
    else if (cut.channels == 1)
        launch<T, kr_rows_tile<COMPLEX, 1, 2>>(c); /* more rows do not fit the registers */
    else
        launch<T, kr_rows_tile<COMPLEX, 4, 4>>(c);
}

} // namespace

extern "C" void kr_scan_rows_cuda(const kr_call *c) {
    bool complex = ((const krait_scan_desc *)c->attr)->complex_state;
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        complex ? run<bf16, true>(c) : run<bf16, false>(c);
    else
        complex ? run<float, true>(c) : run<float, false>(c);
}
