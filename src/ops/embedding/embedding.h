/* embedding.h - the vector of each token.
 *
 *   y[m] = weight[ids[m]]
 *
 * in:  ids I32 [M] (an id outside [0,V) gives zeros: tokenizer and session refuse such ids),
 *      weight [V,D] f32, f64, bf16 or f16
 * out: y [M,D] f32, or f64 when the weight is */
#ifndef KR_EMBEDDING_H
#define KR_EMBEDDING_H

#include "ops/op.h"

extern const kr_op kr_op_embedding;
/* in: dy [M,D], ids I32 [M]   out: dweight [V,D], given
 *   dweight[v] = sum of dy[m] over the m with ids[m] = v, in the order of m */
extern const kr_op kr_op_embedding_grad;

#endif
