/* discretise_ref.c - the discretisation, scalar; discretise.h has the contract. It is small beside
 * any pass over tokens, so this is its only kernel.
 *
 * With phi(z) = (e^z - 1)/z or 1/(1 - z/2), m = delta phi and G_w = dL/dRe w + i dL/dIm w:
 *
 *   G_B = conj(m) G_b     G_m = conj(B) G_b     G_z = conj(a') G_a + conj(delta phi') G_m
 *   G_lambda = delta G_z  ddelta = Re(conj(G_m) phi + conj(G_z) lambda) */
#include "ops/op_ref.h"

#include <complex.h>
#include <math.h>

#include "ops/discretise/discretise.h"

typedef double complex cplx;

/* Row h of an array; of B: the real parts, and the imaginary ones behind them. */
static real *row_of(const kr_tensor *t, int64_t h) { return (real *)t->data + h * t->stride[0]; }

/* One mode of one channel. */
typedef struct mode {
    double delta;
    cplx lambda, z, B;
    cplx a, slope;       /* a and da/dz */
    cplx phi, phi_slope; /* and dphi/dz */
} mode;

/* phi and its slope by their series where e^z - 1 and e^z - phi cancel. */
static void hold(mode *v) {
    v->a = v->slope = cexp(v->z);
    if (cabs(v->z) > 0.5) {
        v->phi = (v->a - 1) / v->z;
        v->phi_slope = (v->a - v->phi) / v->z;
        return;
    }
    cplx term = 1; /* z^(k-1) / k! */
    v->phi = v->phi_slope = 0;
    for (int k = 1; k < 18; k++) {
        v->phi += term;
        v->phi_slope += term * k / (k + 1); /* dz^k/dz / (k+1)! */
        term *= v->z / (k + 1);
    }
}

static void bilinear(mode *v) {
    v->phi = 1 / (1 - v->z / 2);
    v->phi_slope = v->phi * v->phi / 2;
    v->a = (1 + v->z / 2) * v->phi;
    v->slope = v->phi * v->phi;
}

static mode mode_of(const kr_call *c, int64_t h, int64_t n) {
    const kr_discretise_attr *attr = c->attr;
    const kr_tensor *rate = &c->in[KR_DISCRETISE_RATE];
    int64_t N = rate->shape[1], s = h % rate->shape[0];
    const real *im = row_of(&c->in[KR_DISCRETISE_FREQUENCY], s);
    const real *dt = c->in[KR_DISCRETISE_DT].data, *B = row_of(&c->in[KR_DISCRETISE_B], s);
    mode v = {.delta = attr->rate * exp((double)dt[h])};
    v.lambda = -exp((double)row_of(rate, s)[n]) + I * (double)im[n];
    v.z = v.delta * v.lambda;
    v.B = (double)B[n] + I * (double)B[N + n];
    if (attr->how == KR_BILINEAR)
        bilinear(&v);
    else
        hold(&v);
    return v;
}

static void put_number(const kr_call *c, int i, int64_t row, int64_t N, int64_t n, cplx v) {
    if (!c->out[i].data) return;
    real *to = row_of(&c->out[i], row);
    kr_put(&to[n], creal(v), KR_ACC(c, i));
    kr_put(&to[N + n], cimag(v), KR_ACC(c, i));
}

void KR_FN(kr_discretise)(const kr_call *c) {
    int64_t H = c->in[KR_DISCRETISE_DT].shape[0], N = c->in[KR_DISCRETISE_RATE].shape[1];
    for (int64_t h = 0; h < H; h++)
        for (int64_t n = 0; n < N; n++) {
            mode v = mode_of(c, h, n);
            put_number(c, 0, h, N, n, v.a);
            put_number(c, 1, h, N, n, v.B * v.delta * v.phi);
        }
}

/* Number n of row h of a gradient that is given; absent: 0. */
static cplx given(const kr_call *c, int i, int64_t h, int64_t n) {
    const kr_tensor *t = &c->in[i];
    if (i >= c->n_in || !t->data) return 0;
    const real *v = row_of(t, h);
    return (double)v[n] + I * (double)v[t->shape[1] / 2 + n];
}

/* Gradients of one mode of one channel. */
typedef struct mode_grad {
    cplx lambda, B;
    double delta;
} mode_grad;

static mode_grad back(const kr_call *c, const mode *v, int64_t h, int64_t n) {
    cplx Ga = given(c, 4, h, n), Gb = given(c, 5, h, n), Gm = conj(v->B) * Gb;
    cplx Gz = conj(v->slope) * Ga + conj(v->delta * v->phi_slope) * Gm;
    return (mode_grad){.lambda = v->delta * Gz,
                       .B = conj(v->delta * v->phi) * Gb,
                       .delta = creal(conj(Gm) * v->phi + conj(Gz) * v->lambda)};
}

static void steps_back(const kr_call *c, real *to) {
    int64_t H = c->in[KR_DISCRETISE_DT].shape[0], N = c->in[KR_DISCRETISE_RATE].shape[1];
    for (int64_t h = 0; h < H; h++) {
        double sum = 0;
        for (int64_t n = 0; n < N; n++) {
            mode v = mode_of(c, h, n);
            sum += v.delta * back(c, &v, h, n).delta;
        }
        kr_put(&to[h], sum, KR_ACC(c, KR_DISCRETISE_DT));
    }
}

/* Of number n of row s: summed over the channels that use it. */
static void mode_back(const kr_call *c, int64_t s, int64_t n) {
    int64_t H = c->in[KR_DISCRETISE_DT].shape[0], S = c->in[KR_DISCRETISE_RATE].shape[0];
    int64_t N = c->in[KR_DISCRETISE_RATE].shape[1];
    const kr_tensor *re = &c->out[KR_DISCRETISE_RATE], *im = &c->out[KR_DISCRETISE_FREQUENCY];
    cplx lambda = 0, sum = 0;
    mode v = mode_of(c, s, n);
    for (int64_t h = s; h < H; h += S) {
        v = mode_of(c, h, n);
        mode_grad g = back(c, &v, h, n);
        lambda += g.lambda;
        sum += g.B;
    }
    if (re->data)
        kr_put(row_of(re, s) + n, creal(v.lambda) * creal(lambda), KR_ACC(c, KR_DISCRETISE_RATE));
    if (im->data) kr_put(row_of(im, s) + n, cimag(lambda), KR_ACC(c, KR_DISCRETISE_FREQUENCY));
    put_number(c, KR_DISCRETISE_B, s, N, n, sum);
}

void KR_FN(kr_discretise_grad)(const kr_call *c) {
    const kr_tensor *rate = &c->in[KR_DISCRETISE_RATE];
    if (c->out[KR_DISCRETISE_DT].data) steps_back(c, c->out[KR_DISCRETISE_DT].data);
    for (int64_t s = 0; s < rate->shape[0]; s++)
        for (int64_t n = 0; n < rate->shape[1]; n++) mode_back(c, s, n);
}
