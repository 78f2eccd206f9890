/* adamw.cu - the AdamW step of one group's parameters on the GPU: one launch, bound by its 28 or 30
 * bytes an element. adamw.h has the equations. */
#include "device/cuda/pack.cuh"
#include "ops/adamw/adamw.h"

enum { THREADS = 256 };

typedef struct step_of {
    const float *w, *m, *v, *g;
    float *w1, *m1, *v1;
    bf16 *w16; /* or NULL */
    int64_t n;
    float beta1, rest1, beta2, rest2, scale, keep, rate, unbias2, eps;
} step_of;

template <int V>
static __global__ void step(step_of s) {
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    if (i >= s.n) return;
    float w[V], m[V], v[V], g[V];
    kr_load_pack<V>(s.g + i, g);
    kr_load_pack<V>(s.m + i, m);
    kr_load_pack<V>(s.v + i, v);
    kr_load_pack<V>(s.w + i, w);
#pragma unroll
    for (int j = 0; j < V; j++) {
        float gi = g[j] * s.scale;
        m[j] = fmaf(s.beta1, m[j], s.rest1 * gi);
        v[j] = fmaf(s.beta2, v[j], s.rest2 * gi * gi);
        w[j] = fmaf(s.keep, w[j], -(s.rate * m[j] / (sqrtf(v[j] * s.unbias2) + s.eps)));
    }
    if (s.w16) kr_store_pack<V>(s.w16 + i, w);
    kr_store_pack<V>(s.w1 + i, w);
    kr_store_pack<V>(s.m1 + i, m);
    kr_store_pack<V>(s.v1 + i, v);
}

extern "C" void kr_adamw_cuda(const kr_call *c) {
    const kr_adamw_attr *a = (const kr_adamw_attr *)c->attr;
    kr_adamw_factors f = kr_adamw_factors_of(a);
    step_of s = {(const float *)c->in[0].data,
                 (const float *)c->in[1].data,
                 (const float *)c->in[2].data,
                 (const float *)c->in[3].data,
                 (float *)c->out[0].data,
                 (float *)c->out[1].data,
                 (float *)c->out[2].data,
                 (bf16 *)c->out[3].data,
                 c->in[0].shape[0],
                 (float)a->beta1,
                 (float)(1 - a->beta1),
                 (float)a->beta2,
                 (float)(1 - a->beta2),
                 (float)a->scale,
                 (float)f.keep,
                 (float)f.rate,
                 (float)f.unbias2,
                 (float)a->eps};
    if (s.n == 0) return;
    bool packs = true;
    for (int i = 0; i < 4; i++) packs = packs && kr_packs(&c->in[i], 4);
    for (int i = 0; i < 4; i++) packs = packs && kr_packs(&c->out[i], 4);
    if (packs)
        step<4><<<kr_blocks(s.n, THREADS * 4), THREADS, 0, kr_cuda_stream()>>>(s);
    else
        step<1><<<kr_blocks(s.n, THREADS), THREADS, 0, kr_cuda_stream()>>>(s);
}
