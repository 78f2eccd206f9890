/* adamw_vec.c - the AdamW step over vectors. adamw.h has the equations. */
#include "ops/adamw/adamw.h"
#include "vec/vec.h"

#define BLOCK 16384

typedef struct constants {
    kr_vf beta1, rest1, beta2, rest2, scale, keep, rate, unbias2, eps;
} constants;

static constants constants_of(const kr_adamw_attr *a) {
    kr_adamw_factors f = kr_adamw_factors_of(a);
    return (constants){
        .beta1 = kr_vset((float)a->beta1),
        .rest1 = kr_vset((float)(1 - a->beta1)),
        .beta2 = kr_vset((float)a->beta2),
        .rest2 = kr_vset((float)(1 - a->beta2)),
        .scale = kr_vset((float)a->scale),
        .keep = kr_vset((float)f.keep),
        .rate = kr_vset((float)f.rate),
        .unbias2 = kr_vset((float)f.unbias2),
        .eps = kr_vset((float)a->eps),
    };
}

static void step_block(const kr_call *c, const constants *k, int64_t first, int64_t end) {
    const float *w = c->in[0].data, *m = c->in[1].data, *v = c->in[2].data, *g = c->in[3].data;
    float *w1 = c->out[0].data, *m1 = c->out[1].data, *v1 = c->out[2].data;
    uint16_t *w16 = c->out[3].data;
    for (int64_t i = first; i < end; i += KR_W) {
        int64_t n = end - i;
        kr_vf gi = kr_vload_n(g + i, n) * k->scale;
        kr_vf mi = kr_vfma(k->beta1, kr_vload_n(m + i, n), k->rest1 * gi);
        kr_vf vi = kr_vfma(k->beta2, kr_vload_n(v + i, n), k->rest2 * gi * gi);
        kr_vf by = k->rate * mi / (kr_vsqrt(vi * k->unbias2) + k->eps);
        kr_vstore_n(w1 + i, n, kr_vfma(k->keep, kr_vload_n(w + i, n), -by));
        kr_vstore_n(m1 + i, n, mi);
        kr_vstore_n(v1 + i, n, vi);
    }
    for (int64_t i = first; w16 && i < end; i++) w16[i] = kr_f32_to_bf16(w1[i]);
}

void KR_FN(kr_adamw)(const kr_call *c) {
    int64_t n = c->in[0].shape[0], blocks = (n + BLOCK - 1) / BLOCK;
    constants k = constants_of(c->attr);
#pragma omp parallel for schedule(static) num_threads(c->threads) if (blocks > 1)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t end = (b + 1) * BLOCK;
        step_block(c, &k, b * BLOCK, end < n ? end : n);
    }
}
