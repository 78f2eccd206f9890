/* scan_dense.cu - a decay of a whole matrix on the GPU (LSSL), forward. scan_dense.cuh says how. */
#include "scan/scan_dense.cuh"

namespace {

template <typename T, int NP>
__global__ void __launch_bounds__(NP)
    forward(const kr_constant_view g, const kr_constant_out<T> out) {
    __shared__ __align__(16) kr_dense_shared<NP> s;
    const int64_t h = blockIdx.x % g.H;
    const kr_scan_span p = kr_whole(g, blockIdx.x / g.H);
    const int n = threadIdx.x, ROW = kr_dense_states<NP>::ROW;
    const float D = g.D ? g.D[h] : 0;
    float row[NP];
    kr_dense_open<NP>(g, h, p.slot, s, row);
    kr_dense_fetched next = kr_dense_fetch(g, p, 0, out.x + h, out.x_row);
    for (int64_t t0 = 0; t0 < p.steps; t0 += KR_DENSE_CHUNK) {
        const int count = (int)min(p.steps - t0, (int64_t)KR_DENSE_CHUNK);
        kr_dense_put(s, next);
        next = kr_dense_fetch(g, p, t0 + KR_DENSE_CHUNK, out.x + h, out.x_row);
        kr_dense_advance<NP>(s, row, count);
        kr_dense_sums<NP>(s.c, s.h.v + ROW, count, [&](int r, float sum) {
            kr_put(out.y + kr_rows_at(p, t0 + r) * out.y_row + h, fmaf(D, s.x[r], sum), out.add);
        });
        __syncthreads();
        s.h.v[n] = s.h.v[count * ROW + n];
    }
    if (out.state && n < g.N) out.state[p.slot * out.state_slot + h * g.N + n] = s.h.v[n];
}

template <typename T>
void run(const kr_call *c) {
    kr_constant_view g = kr_constant_view_of(c);
    kr_constant_out<T> out = kr_constant_out_of<T>(c);
    unsigned blocks = (unsigned)(g.S * g.H);
    if (blocks == 0) return;
    if (g.N <= 32)
        forward<T, 32><<<blocks, 32, 0, kr_cuda_stream()>>>(g, out);
    else
        forward<T, 64><<<blocks, 64, 0, kr_cuda_stream()>>>(g, out);
}

} // namespace

extern "C" void kr_scan_dense_cuda(const kr_call *c) {
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
