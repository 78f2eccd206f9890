/* turned_keys_ref.c - turned keys, scalar. turned_keys.h has the equations. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/turned_keys/turned_keys.h"

static real *row(const kr_tensor *t, int64_t m) { return (real *)t->data + m * t->stride[0]; }

/* The call's sizes and arrays, x at input i. */
typedef struct keys {
    int64_t H, R, G, N, S;
    double eps;
    bool halves;
    const kr_tensor *x, *phi;
    const real *weight, *bias;
} keys;

static keys keys_of(const kr_call *c, int i) {
    const kr_turned_keys_attr *a = c->attr;
    const int64_t *shape = c->in[i + 2].shape;
    return (keys){.H = shape[0],
                  .R = shape[1],
                  .G = a->groups,
                  .N = shape[2],
                  .S = c->in[i + 3].shape[1] / shape[0],
                  .eps = a->eps,
                  .halves = a->halves,
                  .x = &c->in[i],
                  .phi = &c->in[i + 3],
                  .weight = c->in[i + 1].data,
                  .bias = c->in[i + 2].data};
}

static const real *x_of(const keys *k, int64_t m, int64_t r, int64_t g) {
    return row(k->x, m) + (r * k->G + g) * k->N;
}

static double rstd_of(const keys *k, const real *x) {
    double square = 0;
    for (int64_t n = 0; n < k->N; n++) square += (double)x[n] * (double)x[n];
    return 1 / sqrt(square / (double)k->N + k->eps);
}

/* The columns of pair i. */
static int64_t first_of(const keys *k, int64_t i) { return k->halves ? i : 2 * i; }
static int64_t second_of(const keys *k, int64_t i) { return k->halves ? i + k->N / 2 : 2 * i + 1; }

/* v [N] turned by sign * phi. */
static void turn(const keys *k, const real *phi, double sign, double *v) {
    for (int64_t i = 0; i < k->S; i++) {
        double *p = v + first_of(k, i), *q = v + second_of(k, i), old = *p;
        double co = cos((double)phi[i]), si = sign * sin((double)phi[i]);
        *p = old * co - *q * si;
        *q = old * si + *q * co;
    }
}

/* u [N] of a row, rank and head. */
static void key_of(const keys *k, int64_t m, int64_t r, int64_t h, double *u) {
    const real *x = x_of(k, m, r, h / (k->H / k->G)), *bias = k->bias + (h * k->R + r) * k->N;
    double rstd = rstd_of(k, x);
    for (int64_t n = 0; n < k->N; n++)
        u[n] = (double)k->weight[n] * (double)x[n] * rstd + (double)bias[n];
}

void KR_FN(kr_turned_keys)(const kr_call *c) {
    keys k = keys_of(c, 0);
    double *u = c->scratch;
    for (int64_t m = 0; m < k.x->shape[0]; m++)
        for (int64_t r = 0; r < k.R; r++)
            for (int64_t h = 0; h < k.H; h++) {
                real *y = row(&c->out[0], m) + (r * k.H + h) * k.N;
                key_of(&k, m, r, h, u);
                turn(&k, row(k.phi, m) + h * k.S, 1, u);
                for (int64_t n = 0; n < k.N; n++) y[n] = (real)u[n];
            }
}

/* The gradient of the angles of one row and head; u and du are scratch. */
static void phi_back(const kr_call *c, const keys *k, int64_t m, int64_t h, double *u, double *du) {
    for (int64_t i = 0; i < k->S; i++) {
        double sum = 0;
        int64_t p = first_of(k, i), q = second_of(k, i);
        for (int64_t r = 0; r < k->R; r++) {
            const real *dy = row(&c->in[0], m) + (r * k->H + h) * k->N;
            key_of(k, m, r, h, u);
            for (int64_t n = 0; n < k->N; n++) du[n] = (double)dy[n];
            turn(k, row(k->phi, m) + h * k->S, -1, du);
            sum += du[q] * u[p] - du[p] * u[q];
        }
        kr_put(row(&c->out[3], m) + h * k->S + i, sum, KR_ACC(c, 3));
    }
}

/* Sums that rows share: dweight [N], dbias [H,R,N]. */
typedef struct sums {
    double *dweight, *dbias;
} sums;

/* One row, rank and group: dn [N] is the sum of du over the group's heads. */
static void norm_back(const kr_call *c, const keys *k, int64_t m, int64_t r, int64_t g,
                      const double *dn, double *dweight) {
    const real *x = x_of(k, m, r, g);
    double rstd = rstd_of(k, x), mean = 0;
    for (int64_t n = 0; n < k->N; n++) {
        double xh = (double)x[n] * rstd;
        dweight[n] += dn[n] * xh;
        mean += (double)k->weight[n] * dn[n] * xh / (double)k->N;
    }
    for (int64_t n = 0; c->out[0].data && n < k->N; n++) {
        double v = rstd * ((double)k->weight[n] * dn[n] - (double)x[n] * rstd * mean);
        kr_put(row(&c->out[0], m) + (r * k->G + g) * k->N + n, v, KR_ACC(c, 0));
    }
}

static void row_back(const kr_call *c, const keys *k, int64_t m, const sums *s, double *work) {
    double *du = work, *dn = work + k->N;
    int64_t each = k->H / k->G;
    for (int64_t r = 0; r < k->R; r++)
        for (int64_t g = 0; g < k->G; g++) {
            for (int64_t n = 0; n < k->N; n++) dn[n] = 0;
            for (int64_t h = g * each; h < (g + 1) * each; h++) {
                const real *dy = row(&c->in[0], m) + (r * k->H + h) * k->N;
                for (int64_t n = 0; n < k->N; n++) du[n] = (double)dy[n];
                turn(k, row(k->phi, m) + h * k->S, -1, du);
                for (int64_t n = 0; n < k->N; n++) {
                    dn[n] += du[n];
                    s->dbias[(h * k->R + r) * k->N + n] += du[n];
                }
            }
            norm_back(c, k, m, r, g, dn, s->dweight);
        }
    for (int64_t h = 0; c->out[3].data && h < k->H; h++) phi_back(c, k, m, h, du, dn);
}

static void put_all(const kr_call *c, int i, const double *v, int64_t n) {
    for (int64_t j = 0; c->out[i].data && j < n; j++)
        kr_put((real *)c->out[i].data + j, v[j], KR_ACC(c, i));
}

void KR_FN(kr_turned_keys_grad)(const kr_call *c) {
    keys k = keys_of(c, 1);
    int64_t biases = k.H * k.R * k.N;
    double *work = c->scratch;
    sums s = {work + 2 * k.N, work + 3 * k.N};
    for (int64_t j = 0; j < k.N + biases; j++) s.dweight[j] = 0;
    for (int64_t m = 0; m < k.x->shape[0]; m++) row_back(c, &k, m, &s, work);
    put_all(c, 1, s.dweight, k.N);
    put_all(c, 2, s.dbias, biases);
}
