/* gather_rows.cu - rows picked and scattered on the GPU. gather_rows.h has the contract. */
#include "ops/scatter_rows.h"
#include "ops/take_rows.cuh"

extern "C" void kr_gather_rows_cuda(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *rows = &c->in[1], *y = &c->out[0];
    if (x->dtype == KR_BF16)
        kr_take_rows_launch<bf16, bf16, int64_t>(x, rows, y);
    else
        kr_take_rows_launch<float, float, int64_t>(x, rows, y);
}

extern "C" void kr_gather_rows_grad_cuda(const kr_call *c) { kr_scatter_rows_cuda(c); }
