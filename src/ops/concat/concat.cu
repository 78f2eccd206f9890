/* concat.cu - tensors below each other on the GPU. concat.h has the contract. */
#include "device/cuda/kernel.cuh"
#include "ops/concat/concat.h"

enum { THREADS = 256 };

static __global__ void copy(const float *from, int64_t from_row, float *to, int64_t to_row,
                            kr_rows rows, bool add) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= rows.width) return;
    for (int64_t m = blockIdx.y; m < rows.count; m += gridDim.y)
        kr_put(to + m * to_row + i, from[m * from_row + i], add);
}

static void launch(const float *from, int64_t from_row, float *to, int64_t to_row, kr_rows rows,
                   bool add) {
    if (rows.count == 0 || rows.width == 0) return;
    unsigned high = rows.count < 32768 ? (unsigned)rows.count : 32768;
    copy<<<dim3(kr_blocks(rows.width, THREADS), high), THREADS, 0, kr_cuda_stream()>>>(from,
                                                                                       from_row, to,
                                                                                       to_row, rows,
                                                                                       add);
}

extern "C" void kr_concat_cuda(const kr_call *c) {
    const kr_tensor *y = &c->out[0];
    int64_t first = 0;
    for (int i = 0; i < c->n_in; first += c->in[i++].shape[0])
        launch((const float *)c->in[i].data, c->in[i].stride[0],
               (float *)y->data + kr_concat_at(y, first), y->stride[0], kr_concat_rows(&c->in[i]),
               KR_ACC(c, 0));
}

extern "C" void kr_concat_grad_cuda(const kr_call *c) {
    const kr_tensor *dy = &c->in[0];
    int64_t first = 0;
    for (int i = 0; i < c->n_out; first += c->in[++i].shape[0])
        if (c->out[i].data)
            launch((const float *)dy->data + kr_concat_at(dy, first), dy->stride[0],
                   (float *)c->out[i].data, c->out[i].stride[0], kr_concat_rows(&c->in[i + 1]),
                   KR_ACC(c, i));
}
