/* norm_rules.h - what the rules of the norms of a sum share (rmsnorm, layernorm): rows x [M,D], a
 * residual in the type of the sum, and the gradient where only the sum was used. */
#ifndef KR_NORM_RULES_H
#define KR_NORM_RULES_H

#include "base/err.h"
#include "ops/case.h"
#include "ops/cast/cast.h"

/* The type of the sum, of the residual and of statistics, of rows x. */
static inline kr_dtype kr_norm_wide(const kr_tensor *x) {
    return x->dtype == KR_F64 ? KR_F64 : KR_F32;
}

/* x [M,D] and, where it is there, residual [M,D]. */
static inline int kr_norm_need_rows(const char *op, const kr_tensor *x, const kr_tensor *residual,
                                    krait_error *e) {
    KR_TRY(kr_need_rank(op, "x", x, 2, e));
    if (!residual->data) return 0;
    KR_TRY(kr_need_rank(op, "residual", residual, 2, e));
    KR_TRY(kr_need_dim(op, "residual", residual, 0, x->shape[0], e));
    KR_TRY(kr_need_dim(op, "residual", residual, 1, x->shape[1], e));
    return kr_need_type(op, "residual", residual, kr_norm_wide(x), e);
}

/* A weight or bias [D] of rows x. */
static inline int kr_norm_need_vector(const char *op, const char *arg, const kr_tensor *t,
                                      const kr_tensor *x, krait_error *e) {
    KR_TRY(kr_need_rank(op, arg, t, 1, e));
    return kr_need_dim(op, arg, t, 0, x->shape[1], e);
}

/* Only the sum (output 1 of inputs 0 and 1) was used: the norm itself contributes nothing. */
static inline void kr_norm_sum_grad(kr_tape *t, const kr_node *n, kr_value *dsum) {
    kr_value *outs[1] = {NULL};
    uint32_t accumulate = 0;
    if (kr_rule_type(kr_rule_in(n, 0)) == KR_BF16) {
        kr_rule_din(t, n, 0, outs, 0, &accumulate);
        kr_rule_emit(t, &kr_op_cast, NULL, 0, &dsum, 1, outs, 1, accumulate);
    } else {
        kr_rule_din_is(t, n, 0, dsum);
    }
    kr_rule_din_is(t, n, 1, dsum);
}

#endif
