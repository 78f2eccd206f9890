/* elementwise_vec.c - functions over every element, vectors. elementwise.h has the contract.
 *
 * Each kernel is written once, inline over the function, and picks its instance by the attribute.
 */
#include "ops/elementwise/elementwise.h"

#include "ops/rows.h"
#include "ops/threads.h"
#include "vec/vec_math.h"

/* ---- the functions and their derivatives ---- */

KR_VINLINE kr_vf f_identity(kr_vf x) { return x; }
KR_VINLINE kr_vf slope_identity(kr_vf x) { return x - x + 1.0f; }

KR_VINLINE kr_vf f_exp(kr_vf x) { return kr_vexp(x); }
KR_VINLINE kr_vf slope_exp(kr_vf x) { return kr_vexp(x); }

KR_VINLINE kr_vf f_sigmoid(kr_vf x) { return kr_vsigmoid(x); }
KR_VINLINE kr_vf slope_sigmoid(kr_vf x) {
    kr_vf e = kr_vexp(-kr_vabs(x)), s = 1.0f / (1.0f + e);
    return e * s * s;
}

KR_VINLINE kr_vf f_tanh(kr_vf x) { return kr_vtanh(x); }
KR_VINLINE kr_vf slope_tanh(kr_vf x) { /* 4 sigmoid(2 x) sigmoid(-2 x): does not cancel */
    return 4.0f * slope_sigmoid(x + x);
}

KR_VINLINE kr_vf f_relu(kr_vf x) { return kr_vmax(kr_vzero(), x); }
KR_VINLINE kr_vf slope_relu(kr_vf x) {
    return kr_vselect(kr_vlt(kr_vzero(), x), kr_vset(1.0f), kr_vzero());
}

KR_VINLINE kr_vf f_silu(kr_vf x) { return kr_vsilu(x); }
KR_VINLINE kr_vf slope_silu(kr_vf x) { return kr_vsilu_slope(x, kr_vsigmoid(x)); }

KR_VINLINE kr_vf gelu_inner(kr_vf x) {
    kr_vf square = x * x;
    return x * kr_vfma(square, kr_vset(1.5957691f * 0.044715f), kr_vset(1.5957691f));
}
KR_VINLINE kr_vf f_gelu(kr_vf x) { return x * kr_vsigmoid(gelu_inner(x)); }
KR_VINLINE kr_vf slope_gelu(kr_vf x) {
    kr_vf s = kr_vsigmoid(gelu_inner(x)), square = x * x;
    kr_vf inner = kr_vfma(square, kr_vset(3 * 1.5957691f * 0.044715f), kr_vset(1.5957691f));
    return kr_vfma(x * s * (1.0f - s), inner, s);
}

/* Phi(-|x|) = e t (a1 + a2 t + ... + a5 t^4), off by 8e-8 at most, where e = exp(-x^2/2) and t = 1
 * / (1 + p |x|): Abramowitz & Stegun 7.1.26. Then Phi(x), which it turns for x > 0. */
KR_VINLINE kr_vf normal(kr_vf x, kr_vf e) {
    kr_vf t = 1.0f / kr_vfma(kr_vabs(x), kr_vset(0.3275911f * 0.70710678f), kr_vset(1.0f));
    kr_vf p = kr_vset(0.5f * 1.061405429f);
    p = kr_vfma(p, t, kr_vset(0.5f * -1.453152027f));
    p = kr_vfma(p, t, kr_vset(0.5f * 1.421413741f));
    p = kr_vfma(p, t, kr_vset(0.5f * -0.284496736f));
    p = kr_vfma(p, t, kr_vset(0.5f * 0.254829592f)) * t * e;
    return kr_vselect(kr_vlt(kr_vzero(), x), 1.0f - p, p);
}
KR_VINLINE kr_vf f_gelu_erf(kr_vf x) { return x * normal(x, kr_vexp(-0.5f * x * x)); }
KR_VINLINE kr_vf slope_gelu_erf(kr_vf x) {
    kr_vf e = kr_vexp(-0.5f * x * x);
    return kr_vfma(0.39894228f * x, e, normal(x, e));
}

KR_VINLINE kr_vf f_softplus(kr_vf x) { return kr_vsoftplus(x); }
KR_VINLINE kr_vf slope_softplus(kr_vf x) { return kr_vsigmoid(x); }

KR_VINLINE kr_vf f_logsigmoid(kr_vf x) { return -kr_vsoftplus(-x); }
KR_VINLINE kr_vf slope_logsigmoid(kr_vf x) { return kr_vsigmoid(-x); }

KR_VINLINE kr_vf f_elu1(kr_vf x) { return kr_vselect(kr_vlt(kr_vzero(), x), x + 1.0f, kr_vexp(x)); }
KR_VINLINE kr_vf slope_elu1(kr_vf x) {
    return kr_vselect(kr_vlt(kr_vzero(), x), kr_vset(1.0f), kr_vexp(x));
}

/* ---- over all elements ---- */

typedef kr_vf function(kr_vf x);

/* Rows of up to five tensors that are walked together, and where one of them is. */
typedef struct walk {
    kr_rows rows;
    const kr_tensor *t[5];
} walk;

static walk walk_of(const kr_tensor *const *t, int n) {
    walk w = {.rows = {0, 0}};
    for (int i = 0; i < n; i++) {
        w.t[i] = t[i]->data ? t[i] : t[0];
        kr_rows rows = kr_rows_of(t[0], w.t[i], w.t[i]);
        if (i == 0 || rows.count > w.rows.count) w.rows = rows;
    }
    return w;
}

static float *at(const walk *w, int i, int64_t m) {
    return (float *)w->t[i]->data + m * w->t[i]->stride[0];
}

/* What the calling thread does: whole rows, or columns of all where there are few. */
typedef struct share {
    kr_part rows, columns;
} share;

static share my_share(const walk *w) {
    if (w->rows.count >= omp_get_num_threads())
        return (share){kr_my_part(w->rows.count, 1), {0, w->rows.width}};
    return (share){{0, w->rows.count}, kr_my_part(w->rows.width, KR_W)};
}

KR_VINLINE void put(float *p, int64_t n, kr_vf v, bool add) {
    kr_vstore_n(p, n, add ? v + kr_vload_n(p, n) : v);
}

/* y = or += f(x), or a f(b) where there is a b */
KR_VINLINE void forward(const kr_call *c, const walk *w, bool gated, function *f) {
    share s = my_share(w);
    kr_part p = s.columns;
    for (int64_t m = s.rows.begin; m < s.rows.end; m++) {
        const float *a = at(w, 0, m), *b = at(w, gated ? 1 : 0, m);
        float *y = at(w, gated ? 2 : 1, m);
        for (int64_t i = p.begin; i < p.end; i += KR_W) {
            kr_vf v = f(kr_vload_n(b + i, p.end - i));
            if (gated) v *= kr_vload_n(a + i, p.end - i);
            put(y + i, p.end - i, v, c->accumulate & 1);
        }
    }
}

static void run_forward(const kr_call *c, bool gated) {
    const kr_tensor *t[3] = {&c->in[0], gated ? &c->in[1] : &c->out[0], &c->out[0]};
    walk w = walk_of(t, gated ? 3 : 2);
    int threads = kr_threads_for(c, w.rows.count * w.rows.width * 24);
#pragma omp parallel num_threads(threads) if (threads > 1)
    switch (((const kr_elementwise_attr *)c->attr)->f) {
#define KR_FUNCTION(NAME, name)                                                                    \
    case KR_FUNCTION_##NAME:                                                                       \
        forward(c, &w, gated, f_##name);                                                           \
        break;
#include "ops/elementwise/functions.def"
#undef KR_FUNCTION
    case KR_FUNCTIONS: break;
    }
}

void KR_FN(kr_map)(const kr_call *c) { run_forward(c, false); }
void KR_FN(kr_gate)(const kr_call *c) { run_forward(c, true); }

/* dx = or += dy f'(x) */
KR_VINLINE void map_back(const kr_call *c, const walk *w, function *slope) {
    share s = my_share(w);
    kr_part p = s.columns;
    for (int64_t m = s.rows.begin; m < s.rows.end; m++) {
        const float *dy = at(w, 0, m), *x = at(w, 1, m);
        float *dx = at(w, 2, m);
        for (int64_t i = p.begin; i < p.end; i += KR_W)
            put(dx + i, p.end - i,
                kr_vload_n(dy + i, p.end - i) * slope(kr_vload_n(x + i, p.end - i)),
                c->accumulate & 1);
    }
}

void KR_FN(kr_map_grad)(const kr_call *c) {
    const kr_tensor *t[3] = {&c->in[0], &c->in[1], &c->out[0]};
    walk w = walk_of(t, 3);
    int threads = kr_threads_for(c, w.rows.count * w.rows.width * 32);
#pragma omp parallel num_threads(threads) if (threads > 1)
    switch (((const kr_elementwise_attr *)c->attr)->f) {
#define KR_FUNCTION(NAME, name)                                                                    \
    case KR_FUNCTION_##NAME:                                                                       \
        map_back(c, &w, slope_##name);                                                             \
        break;
#include "ops/elementwise/functions.def"
#undef KR_FUNCTION
    case KR_FUNCTIONS: break;
    }
}

/* da = or += dy f(b),  db = or += dy a f'(b) */
KR_VINLINE void gate_back(const kr_call *c, const walk *w, function *f, function *slope) {
    share s = my_share(w);
    kr_part p = s.columns;
    bool da = c->out[0].data, db = c->out[1].data;
    for (int64_t m = s.rows.begin; m < s.rows.end; m++)
        for (int64_t i = p.begin; i < p.end; i += KR_W) {
            int64_t n = p.end - i;
            kr_vf dy = kr_vload_n(at(w, 0, m) + i, n), b = kr_vload_n(at(w, 2, m) + i, n);
            kr_vf a = kr_vload_n(at(w, 1, m) + i, n);
            if (da) put(at(w, 3, m) + i, n, dy * f(b), c->accumulate & 1);
            if (db) put(at(w, 4, m) + i, n, dy * a * slope(b), c->accumulate >> 1 & 1);
        }
}

void KR_FN(kr_gate_grad)(const kr_call *c) {
    const kr_tensor *t[5] = {&c->in[0], &c->in[1], &c->in[2], &c->out[0], &c->out[1]};
    walk w = walk_of(t, 5);
    int threads = kr_threads_for(c, w.rows.count * w.rows.width * 48);
#pragma omp parallel num_threads(threads) if (threads > 1)
    switch (((const kr_elementwise_attr *)c->attr)->f) {
#define KR_FUNCTION(NAME, name)                                                                    \
    case KR_FUNCTION_##NAME:                                                                       \
        gate_back(c, &w, f_##name, slope_##name);                                                  \
        break;
#include "ops/elementwise/functions.def"
#undef KR_FUNCTION
    case KR_FUNCTIONS: break;
    }
}
