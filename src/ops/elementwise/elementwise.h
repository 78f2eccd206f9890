/* elementwise.h - functions of one number, over every element, and gates made of them.
 *
 *   map    y = f(x)              dx = dy f'(x)
 *   gate   y = a f(b)            da = dy f(b),   db = dy a f'(b)
 *
 * f is a line of functions.def. A gated linear unit is `gate` with sigmoid, swiglu with silu; a
 * product is `gate` with identity.
 *
 * in:  x (map), or a and b of one shape (gate), any rank          out: y
 * Source: Hendrycks & Gimpel 2016 (gelu by its tanh form, gelu_erf as it
 * is defined, x times the normal distribution); Elfwing et al. 2018 (silu); Dauphin et
 * al. 2017 (gated linear units); Katharopoulos et al. 2020 (elu1: elu(x) + 1). */
#ifndef KR_ELEMENTWISE_H
#define KR_ELEMENTWISE_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kr_function {
#define KR_FUNCTION(NAME, name) KR_FUNCTION_##NAME,
#include "ops/elementwise/functions.def"
#undef KR_FUNCTION
    KR_FUNCTIONS
} kr_function;

typedef struct kr_elementwise_attr {
    kr_function f;
} kr_elementwise_attr;

extern const kr_op kr_op_map, kr_op_gate;
extern const kr_op kr_op_map_grad;  /* in: dy, x      out: dx */
extern const kr_op kr_op_gate_grad; /* in: dy, a, b   out: da, db */

#ifdef __cplusplus
}
#endif

#endif
