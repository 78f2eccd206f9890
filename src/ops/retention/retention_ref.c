/* retention_ref.c - retention's decays, scalar. retention.h has the equation. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/retention/retention.h"

void KR_FN(kr_retention)(const kr_call *c) {
    for (int64_t h = 0; h < c->out[0].shape[0]; h++)
        kr_put((real *)c->out[0].data + h, log1p(-exp2(-5 - (double)h)), KR_ACC(c, 0));
}
