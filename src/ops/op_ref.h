/* op_ref.h - included first by every <op>_ref.c, which is compiled twice: over float and over
 * double.
 *
 * A reference is scalar C, written to be read. It sums in double. It is the specification: never
 * optimised. */
#ifndef KR_OP_REF_H
#define KR_OP_REF_H

#include "ops/op.h"

#if defined(KR_REF_F64)
typedef double real;
#define KR_LEVEL_SUFFIX ref64
#else
typedef float real;
#define KR_LEVEL_SUFFIX ref
#endif

/* out[i] = or += value, as the call's accumulate bit says. */
static inline void kr_put(real *to, double value, int accumulate) {
    *to = (real)(accumulate ? (double)*to + value : value);
}
#define KR_ACC(c, i) ((int)((c)->accumulate >> (i)) & 1)

#endif
