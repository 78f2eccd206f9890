/* embedding.cu - the vector of each token on the GPU, and its gradient. embedding.h has the
 * contract. */
#include "ops/scatter_rows.h"
#include "ops/take_rows.cuh"

extern "C" void kr_embedding_cuda(const kr_call *c) {
    const kr_tensor *ids = &c->in[0], *weight = &c->in[1], *y = &c->out[0];
    if (weight->dtype == KR_BF16)
        kr_take_rows_launch<bf16, float, int32_t>(weight, ids, y);
    else if (weight->dtype == KR_F16)
        kr_take_rows_launch<__half, float, int32_t>(weight, ids, y);
    else
        kr_take_rows_launch<float, float, int32_t>(weight, ids, y);
}

extern "C" void kr_embedding_grad_cuda(const kr_call *c) { kr_scatter_rows_cuda(c); }
