/* vec_probe_vec.c - loops of each function of the vector layer over arrays. */
#include "vec/vec_math.h"
#include "vec/vec_probe.h"

KR_VINLINE kr_vf sine_of(kr_vf x) {
    kr_vf sine, cosine;
    kr_vsincos(x, &sine, &cosine);
    return sine;
}

KR_VINLINE kr_vf cosine_of(kr_vf x) {
    kr_vf sine, cosine;
    kr_vsincos(x, &sine, &cosine);
    return cosine;
}

#define KR_PROBE_LOOP(value)                                                                       \
    for (int64_t i = 0; i < n; i += KR_W) {                                                        \
        int64_t left = n - i;                                                                      \
        kr_vstore_n(y + i, left, value);                                                           \
    }                                                                                              \
    break

void KR_FN(kr_vec_probe)(kr_probe what, const void *x, float *y, int64_t n) {
    const float *f = x;
    const uint16_t *h = x;
    switch (what) {
    case KR_PROBE_COPY: KR_PROBE_LOOP(kr_vload_n(f + i, left));
    case KR_PROBE_EXP: KR_PROBE_LOOP(kr_vexp(kr_vload_n(f + i, left)));
    case KR_PROBE_EXP2: KR_PROBE_LOOP(kr_vexp2(kr_vload_n(f + i, left)));
    case KR_PROBE_LOG: KR_PROBE_LOOP(kr_vlog(kr_vload_n(f + i, left)));
    case KR_PROBE_LOG1P: KR_PROBE_LOOP(kr_vlog1p(kr_vload_n(f + i, left)));
    case KR_PROBE_SIGMOID: KR_PROBE_LOOP(kr_vsigmoid(kr_vload_n(f + i, left)));
    case KR_PROBE_SILU: KR_PROBE_LOOP(kr_vsilu(kr_vload_n(f + i, left)));
    case KR_PROBE_SOFTPLUS: KR_PROBE_LOOP(kr_vsoftplus(kr_vload_n(f + i, left)));
    case KR_PROBE_TANH: KR_PROBE_LOOP(kr_vtanh(kr_vload_n(f + i, left)));
    case KR_PROBE_SIN: KR_PROBE_LOOP(sine_of(kr_vload_n(f + i, left)));
    case KR_PROBE_COS: KR_PROBE_LOOP(cosine_of(kr_vload_n(f + i, left)));
    case KR_PROBE_BF16: KR_PROBE_LOOP(kr_vload_bf16_n(h + i, left));
    case KR_PROBE_F16: KR_PROBE_LOOP(kr_vload_f16_n(h + i, left));
    case KR_PROBE_SUM: y[0] = kr_vsum(kr_vload_n(f, n)); break;
    case KR_PROBE_MAX: y[0] = kr_vmax_lane(kr_vload_n(f, n)); break;
    }
}
