/* scan_low.cu - a decay of a diagonal minus low rank on the GPU (S4), forward; also one row a
 * sequence. scan_low.cuh says how. */
#include "scan/scan_low.cuh"

namespace {

template <typename T, int K>
__global__ void __launch_bounds__(KR_LOW_THREADS)
    forward(const kr_low_view g, const kr_constant_out<T> out) {
    const kr_scan_span p = kr_whole(g, blockIdx.x / g.blocks);
    const kr_low_lane l = kr_low_lane_of(g, blockIdx.x % g.blocks);
    const float D = g.D && l.h < g.H ? g.D[l.h] : 0;
    const int64_t slot = p.slot * g.state_slot + l.h * 2 * g.N;
    kr_low_system<K> m;
    kr_low_modes h;
    kr_low_batch v;
    kr_low_open<K>(g, l, m);
    kr_low_load(g, l, g.state ? g.state + slot : NULL, 1, h);
    kr_low_fetch(g, l, p, 0, out.x, out.x_row, v);
    for (int64_t t0 = 0; t0 < p.steps; t0 += KR_LOW_BATCH) {
        const int count = (int)min(p.steps - t0, (int64_t)KR_LOW_BATCH);
        float u[KR_LOW_BATCH] = {}, s[K];
        kr_low_batch next;
        kr_low_fetch(g, l, p, t0 + KR_LOW_BATCH, out.x, out.x_row, next);
#pragma unroll
        for (int f = 0; f < KR_LOW_BATCH; f++) {
            if (f >= count) break;
            kr_low_advance<K>(g, m, v.x[f], v.fresh >> f & 1, h, s);
            u[f] = kr_low_dot(m.c, h);
        }
        kr_low_reads(g, l, count, u, [&](int f, float sum) {
            const int64_t row = kr_rows_at(p, t0 + f);
            if (g.D) sum = fmaf(D, kr_load(out.x + row * out.x_row + l.h), sum);
            kr_put(out.y + row * out.y_row + l.h, sum, out.add);
        });
        v = next;
    }
    if (!out.state) return;
    float *to = out.state + p.slot * out.state_slot + l.h * 2 * g.N + l.n;
#pragma unroll
    for (int i = 0; i < KR_LOW_MODES; i++)
        if (i < l.left) to[i] = h[i].x, to[g.N + i] = h[i].y;
}

template <typename T>
void run(const kr_call *c) {
    kr_low_view g = kr_low_view_of(c);
    kr_constant_out<T> out = kr_constant_out_of<T>(c);
    unsigned blocks = (unsigned)(g.S * g.blocks);
    if (blocks == 0) return;
    if (g.K == 1)
        forward<T, 1><<<blocks, KR_LOW_THREADS, 0, kr_cuda_stream()>>>(g, out);
    else
        forward<T, 2><<<blocks, KR_LOW_THREADS, 0, kr_cuda_stream()>>>(g, out);
}

} // namespace

extern "C" void kr_scan_low_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
