/* fill_ref.c - a constant, scalar. fill.h has the contract. */
#include "ops/op_ref.h"

#include "ops/fill/fill.h"
#include "ops/rows.h"

void KR_FN(kr_fill)(const kr_call *c) {
    const kr_tensor *y = &c->out[0];
    double value = ((const kr_fill_attr *)c->attr)->value;
    kr_rows rows = kr_rows_of(y, y, y);
    for (int64_t m = 0; m < rows.count; m++)
        for (int64_t i = 0; i < rows.width; i++)
            kr_put(&((real *)y->data)[m * y->stride[0] + i], value, KR_ACC(c, 0));
}
