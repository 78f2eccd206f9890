/* adamw_ref.c - the AdamW step, scalar. adamw.h has the equations. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/adamw/adamw.h"

void KR_FN(kr_adamw)(const kr_call *c) {
    const real *w = c->in[0].data, *m = c->in[1].data, *v = c->in[2].data, *g = c->in[3].data;
    real *w1 = c->out[0].data, *m1 = c->out[1].data, *v1 = c->out[2].data;
    uint16_t *w16 = c->out[3].data;
    const kr_adamw_attr *a = c->attr;
    kr_adamw_factors f = kr_adamw_factors_of(a);
    for (int64_t i = 0; i < c->in[0].shape[0]; i++) {
        double gi = a->scale * (double)g[i];
        double mi = a->beta1 * (double)m[i] + (1 - a->beta1) * gi;
        double vi = a->beta2 * (double)v[i] + (1 - a->beta2) * gi * gi;
        double wi = (double)w[i] * f.keep - f.rate * mi / (sqrt(vi * f.unbias2) + a->eps);
        w1[i] = (real)wi;
        if (w16) w16[i] = kr_f32_to_bf16((float)wi);
        m1[i] = (real)mi;
        v1[i] = (real)vi;
    }
}
