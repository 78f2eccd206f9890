/* retention.h - the decays of retention, one a head, that nothing trains.
 *
 *   y[h] = ln(1 - 2^(-5-h))
 *
 * in:  x, of which only the type counts      out: y [H], f32 where x is bf16
 * Source: Sun et al. 2023. */
#ifndef KR_RETENTION_H
#define KR_RETENTION_H

#include "ops/op.h"

typedef struct kr_retention_attr {
    int64_t heads;
} kr_retention_attr;

extern const kr_op kr_op_retention;

#endif
