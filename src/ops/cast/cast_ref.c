/* cast_ref.c - numbers rounded to bf16, scalar. cast.h has the contract. */
#include "ops/op_ref.h"

#include "ops/cast/cast.h"
#include "ops/rows.h"

void KR_FN(kr_cast)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    kr_rows rows = kr_rows_of(x, y, y);
    for (int64_t m = 0; m < rows.count; m++)
        for (int64_t i = 0; i < rows.width; i++) {
            float v = (float)((const real *)x->data)[m * x->stride[0] + i];
            uint16_t *to = (uint16_t *)y->data + m * y->stride[0] + i;
            *to = kr_f32_to_bf16(KR_ACC(c, 0) ? v + kr_bf16_to_f32(*to) : v);
        }
}
