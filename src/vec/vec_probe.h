/* vec_probe.h - the vector layer, callable one array at a time: for its test and for `krait bench`.
 */
#ifndef KR_VEC_PROBE_H
#define KR_VEC_PROBE_H

#include <stdint.h>

typedef enum kr_probe {
    KR_PROBE_COPY,
    KR_PROBE_EXP,
    KR_PROBE_EXP2,
    KR_PROBE_LOG,
    KR_PROBE_LOG1P,
    KR_PROBE_SIGMOID,
    KR_PROBE_SILU,
    KR_PROBE_SOFTPLUS,
    KR_PROBE_TANH,
    KR_PROBE_SIN,
    KR_PROBE_COS,
    KR_PROBE_SUM,  /* y[0] = sum of the lanes of the first vector of x, zeros where x ends */
    KR_PROBE_MAX,  /* y[0] = their maximum */
    KR_PROBE_BF16, /* x is n bf16 numbers */
    KR_PROBE_F16   /* x is n f16 numbers */
} kr_probe;

/* y[i] = function(x[i]), i < n; x and y may be the same memory. */
typedef void kr_vec_probe_fn(kr_probe what, const void *x, float *y, int64_t n);

kr_vec_probe_fn kr_vec_probe_v1;
#if defined(__x86_64__)
kr_vec_probe_fn kr_vec_probe_v3, kr_vec_probe_v4;
#endif

#endif
