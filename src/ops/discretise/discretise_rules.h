/* discretise_rules.h - what the rules of the ops share that make a discrete system of a continuous
 * one (discretise, discretise_low_rank, discretise_dense): parameters in, decay and input matrix
 * out, and one op that takes the gradients of both back to all parameters. */
#ifndef KR_DISCRETISE_RULES_H
#define KR_DISCRETISE_RULES_H

#include "base/err.h"
#include "ops/case.h"

/* Input i, called `arg`, is of this shape and of the type of input 0. */
static inline int kr_discretise_need(const char *op, const char *arg, const kr_call *c, int i,
                                     int rank, const int64_t *shape, krait_error *e) {
    const kr_tensor *t = &c->in[i];
    char text[96];
    KR_TRY(kr_need_rank(op, arg, t, rank, e));
    for (int k = 0; k < rank; k++) KR_TRY(kr_need_dim(op, arg, t, k, shape[k], e));
    if (t->dtype == c->in[0].dtype) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: %s must be %s, is %s", op, arg,
                   kr_dtype_name(c->in[0].dtype), kr_tensor_describe(t, text));
}

/* Records `grad`: the n_params inputs again, then the gradients of both outputs. */
static inline void kr_discretise_pull_back(kr_tape *t, const kr_node *n, const kr_op *grad,
                                           size_t attr_size, int n_params) {
    kr_value *ins[KR_MAX_IN], *outs[KR_MAX_OUT] = {NULL};
    uint32_t accumulate = 0;
    for (int i = 0; i < n_params; i++) ins[i] = kr_rule_saved(t, kr_rule_in(n, i));
    for (int i = 0; i < 2; i++) ins[n_params + i] = kr_rule_dout(t, n, i);
    if (!ins[n_params] && !ins[n_params + 1]) return;
    for (int i = 0; i < n_params; i++) kr_rule_din(t, n, i, outs, i, &accumulate);
    kr_rule_emit(t, grad, kr_rule_attr(n), attr_size, ins, n_params + 2, outs, n_params,
                 accumulate);
}

#endif
