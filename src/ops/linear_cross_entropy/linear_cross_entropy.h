/* linear_cross_entropy.h - a head and the loss of predicting a token, without ever holding the
 * logits of all rows.
 *
 *   logits[r,v] = sum over D of x[r,d] weight[v,d]
 *   lse[r] = ln(sum over V of exp(logits[r,v])),   nll[r] = lse[r] - logits[r, targets[r]]
 *
 * in:  x [R,D] (f32, or bf16 on the GPU), weight [V,D] (f32 or a half), targets I32 [R] (-1, or
 *      anything outside [0,V): no loss there), w16 [V,D] or absent: the weight rounded to bf16,
 *      read instead of it (not differentiable)
 * out: nll [R], lse [R] in nats, f32; both 0 where there is no loss. lse is kept for the gradient
 *      and has none itself.
 *
 * On the CPU there are only the references: graphs there use linear and cross_entropy. */
#ifndef KR_LINEAR_CROSS_ENTROPY_H
#define KR_LINEAR_CROSS_ENTROPY_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* NULL: all zero. */
typedef struct kr_linear_cross_entropy_attr {
    /* In a graph that always runs its backward pass, with a seed that does not depend on nll: the
     * logits are made once, in the gradient, which writes nll; the op itself writes nothing, and
     * lse is never written. */
    int with_gradient;
} kr_linear_cross_entropy_attr;

extern const kr_op kr_op_linear_cross_entropy;
/* in: x [R,D], weight [V,D], targets I32 [R], w16 [V,D] or absent, lse [R] (absent: found anew),
 *     dnll [R]
 * out: dx [R,D], dweight [V,D] f32 (either may be absent), nll [R] or absent (only without lse)
 *   dlogits[r,v] = (exp(logits[r,v] - lse[r]) - [v = targets[r]]) * dnll[r];   0 where no loss is
 *   dx = dlogits weight,   dweight = dlogits^T x */
extern const kr_op kr_op_linear_cross_entropy_grad;

/* Rows whose logits, of that type, are held at once, and elements from row to row of them, on the
 * GPU: at most 288 MB, and of all R rows equal parts. */
int64_t kr_linear_cross_entropy_rows(int64_t R, int64_t V, kr_dtype type);
static inline int64_t kr_linear_cross_entropy_stride(int64_t V) { return (V + 7) / 8 * 8; }

#ifdef __cplusplus
}
#endif

#endif
