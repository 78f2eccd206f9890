/* discretise_low_rank_ref.c - the discretisation of a diagonal minus low rank, scalar;
 * discretise_low_rank.h has the contract. It is small beside any pass over tokens, so this is the
 * CPU's only kernel.
 *
 * G_w = dL/dRe w + i dL/dIm w. With u = e P, S = q P = P* e P (real), M = I + g S, W = M^-1, t = q
 * B (real), backward from b, p, q and a:
 *
 *   G_p_r -= g t_r G_b        dt_r = -g Re(conj(G_b) p_r)       G_e = delta conj(B) G_b + 2 G_a
 *   G_B = delta conj(e) G_b + 2 sum_r dt_r conj(q_r)            G_q_r += 2 dt_r conj(B)
 *   G_u_s = delta sum_r W_sr G_p_r      dW_sr = delta Re(conj(G_p_r) u_s)     dM = -W^T dW W^T
 *   dS = g dM       G_q_r += 2 sum_s dS_rs conj(P_s)      G_P_s += 2 sum_r dS_rs conj(q_r)
 *   G_e += sum_s conj(P_s) G_u_s + P_s G_q_s              G_P_s += conj(e) G_u_s + conj(G_q_s) e
 *   G_z = conj(e^2 / 2) G_e       G_lambda = delta G_z
 *
 * and delta's from b, p, M and z. */
#include "ops/op_ref.h"

#include <complex.h>
#include <math.h>

#include "ops/discretise_low_rank/discretise_low_rank.h"

typedef double complex cplx;

enum { R_MOST = KR_LOW_RANKS };

/* One channel; vectors [N] of modes, [R,N]. */
typedef struct channel {
    int64_t N, R;
    double delta;
    cplx *lambda, *B, *P, *e, *q, *p; /* of the system; discrete */
    cplx *Ge, *GB, *GP, *Gq, *Gp;     /* gradients */
    cplx *sum_lambda, *sum_B, *sum_P; /* over channels */
    double S[R_MOST][R_MOST], W[R_MOST][R_MOST], t[R_MOST];
} channel;

static real *row_of(const kr_tensor *t, int64_t h) { return (real *)t->data + h * t->stride[0]; }

static cplx number(const real *v, int64_t N, int64_t n) {
    return (double)v[n] + I * (double)v[N + n];
}

static channel lay_out(const kr_call *c) {
    channel s = {.R = c->in[KR_LOW_P].shape[1], .N = c->in[KR_LOW_P].shape[3]};
    cplx *at = c->scratch;
    cplx **one[] = {&s.lambda, &s.B, &s.e, &s.Ge, &s.GB, &s.sum_lambda, &s.sum_B};
    cplx **each[] = {&s.P, &s.q, &s.p, &s.GP, &s.Gq, &s.sum_P};
    for (int i = 0; i < 7; i++, at += s.N) *one[i] = at;
    for (int i = 0; i < 6; i++, at += s.R * s.N) *each[i] = at;
    s.Gp = s.GP; /* done with before GP begins */
    return s;
}

/* W = (I + g S)^-1, by elimination: I + g S has a positive symmetric part. */
static void invert(channel *s) {
    double m[R_MOST][R_MOST];
    for (int64_t i = 0; i < s->R; i++)
        for (int64_t j = 0; j < s->R; j++) {
            m[i][j] = (i == j) + s->delta / 2 * s->S[i][j];
            s->W[i][j] = i == j;
        }
    for (int64_t k = 0; k < s->R; k++) {
        double pivot = 1 / m[k][k];
        for (int64_t j = 0; j < s->R; j++) m[k][j] *= pivot, s->W[k][j] *= pivot;
        for (int64_t i = 0; i < s->R; i++) {
            double f = i == k ? 0 : m[i][k];
            for (int64_t j = 0; j < s->R; j++) m[i][j] -= f * m[k][j], s->W[i][j] -= f * s->W[k][j];
        }
    }
}

/* Twice Re of the sum of a_n b_n: rows times columns over both halves. */
static double whole(const channel *s, const cplx *a, const cplx *b) {
    double sum = 0;
    for (int64_t n = 0; n < s->N; n++) sum += 2 * creal(a[n] * b[n]);
    return sum;
}

/* Everything of channel h up to p. */
static void make(const kr_call *c, channel *s, int64_t h) {
    const kr_discretise_low_rank_attr *attr = c->attr;
    int64_t N = s->N, R = s->R, row = h % c->in[KR_LOW_P].shape[0];
    const real *rate = row_of(&c->in[KR_LOW_RATE], row);
    const real *im = row_of(&c->in[KR_LOW_FREQUENCY], row);
    const real *B = row_of(&c->in[KR_LOW_B], row), *P = row_of(&c->in[KR_LOW_P], row);
    s->delta = attr->rate * exp((double)((const real *)c->in[KR_LOW_DT].data)[h]);
    for (int64_t n = 0; n < N; n++) {
        s->lambda[n] = -exp((double)rate[n]) + I * (double)im[n];
        s->B[n] = number(B, N, n);
        s->e[n] = 1 / (1 - s->delta / 2 * s->lambda[n]);
    }
    for (int64_t i = 0; i < R * N; i++) {
        s->P[i] = number(P + i / N * 2 * N, N, i % N);
        s->q[i] = conj(s->P[i]) * s->e[i % N];
        s->p[i] = 0;
    }
    for (int64_t r = 0; r < R; r++) {
        s->t[r] = whole(s, s->q + r * N, s->B);
        for (int64_t k = 0; k < R; k++) s->S[r][k] = whole(s, s->q + r * N, s->P + k * N);
    }
    invert(s);
    for (int64_t r = 0; r < R; r++)
        for (int64_t k = 0; k < R; k++)
            for (int64_t n = 0; n < N; n++)
                s->p[r * N + n] += s->delta * s->e[n] * s->P[k * N + n] * s->W[k][r];
}

static void put(const kr_call *c, int i, real *to, int64_t N, int64_t n, cplx v) {
    kr_put(&to[n], creal(v), KR_ACC(c, i));
    kr_put(&to[N + n], cimag(v), KR_ACC(c, i));
}

void KR_FN(kr_discretise_low_rank)(const kr_call *c) {
    channel s = lay_out(c);
    int64_t N = s.N;
    for (int64_t h = 0; h < c->in[KR_LOW_DT].shape[0]; h++) {
        real *A = c->out[0].data ? row_of(&c->out[0], h) : NULL;
        real *b = c->out[1].data ? row_of(&c->out[1], h) : NULL;
        make(c, &s, h);
        for (int64_t n = 0; n < N; n++) {
            cplx v = s.delta * s.e[n] * s.B[n];
            for (int64_t r = 0; r < s.R; r++) v -= s.delta / 2 * s.p[r * N + n] * s.t[r];
            if (b) put(c, 1, b, N, n, v);
            if (A) put(c, 0, A, N, n, 2 * s.e[n] - 1);
            for (int64_t r = 0; A && r < s.R; r++) {
                put(c, 0, A + (1 + r) * 2 * N, N, n, s.p[r * N + n]);
                put(c, 0, A + (1 + s.R + r) * 2 * N, N, n, s.q[r * N + n]);
            }
        }
    }
}

/* ---- backward ---- */

/* Vector `which` of a gradient that is given; absent: 0. */
static cplx given(const kr_call *c, int i, int64_t h, int64_t which, int64_t N, int64_t n) {
    if (i >= c->n_in || !c->in[i].data) return 0;
    return number(row_of(&c->in[i], h) + which * 2 * N, N, n);
}

/* From b and a; leaves Gp and Gq whole as far as they come from outside and from b. Returns delta's
 * part. */
static double from_outside(const kr_call *c, channel *s, int64_t h) {
    int64_t N = s->N, R = s->R;
    double delta = 0, dt[R_MOST] = {0};
    for (int64_t n = 0; n < N; n++) {
        cplx Gb = given(c, KR_LOW_INS + 1, h, 0, N, n), b = s->e[n] * s->B[n];
        s->Ge[n] = s->delta * conj(s->B[n]) * Gb + 2 * given(c, KR_LOW_INS, h, 0, N, n);
        s->GB[n] = s->delta * conj(s->e[n]) * Gb;
        for (int64_t r = 0; r < R; r++) {
            cplx p = s->p[r * N + n];
            s->Gp[r * N + n] = given(c, KR_LOW_INS, h, 1 + r, N, n) - s->delta / 2 * s->t[r] * Gb;
            dt[r] -= s->delta / 2 * creal(conj(Gb) * p);
            b -= s->t[r] * p / 2;
        }
        delta += creal(conj(Gb) * b);
    }
    for (int64_t i = 0; i < R * N; i++) {
        int64_t r = i / N, n = i % N;
        s->Gq[i] = given(c, KR_LOW_INS, h, 1 + R + r, N, n) + 2 * dt[r] * conj(s->B[n]);
        s->GB[n] += 2 * dt[r] * conj(s->q[i]);
    }
    return delta;
}

/* dS from Gp, and delta's part. */
static double from_p(channel *s, double dS[R_MOST][R_MOST]) {
    int64_t N = s->N, R = s->R;
    double delta = 0, dW[R_MOST][R_MOST] = {{0}};
    for (int64_t r = 0; r < R; r++)
        for (int64_t n = 0; n < N; n++) {
            cplx G = conj(s->Gp[r * N + n]);
            delta += creal(G * s->p[r * N + n]) / s->delta;
            for (int64_t k = 0; k < R; k++)
                dW[k][r] += s->delta * creal(G * s->e[n] * s->P[k * N + n]);
        }
    for (int64_t i = 0; i < R; i++)
        for (int64_t j = 0; j < R; j++) {
            double dM = 0; /* -W^T dW W^T */
            for (int64_t k = 0; k < R; k++)
                for (int64_t l = 0; l < R; l++) dM -= s->W[k][i] * dW[k][l] * s->W[j][l];
            dS[i][j] = s->delta / 2 * dM;
            delta += dM * s->S[i][j] / 2;
        }
    return delta;
}

/* Gp becomes GP, by way of Gu. */
static void from_q_and_u(channel *s, double dS[R_MOST][R_MOST]) {
    int64_t N = s->N, R = s->R;
    for (int64_t n = 0; n < N; n++) {
        cplx Gu[R_MOST], GP[R_MOST];
        for (int64_t k = 0; k < R; k++) {
            Gu[k] = GP[k] = 0;
            for (int64_t r = 0; r < R; r++) {
                Gu[k] += s->delta * s->W[k][r] * s->Gp[r * N + n];
                GP[k] += 2 * dS[r][k] * conj(s->q[r * N + n]);
                s->Gq[k * N + n] += 2 * dS[k][r] * conj(s->P[r * N + n]);
            }
        }
        for (int64_t k = 0; k < R; k++) {
            cplx P = s->P[k * N + n], Gq = s->Gq[k * N + n];
            s->Ge[n] += conj(P) * Gu[k] + P * Gq;
            s->GP[k * N + n] = GP[k] + conj(s->e[n]) * Gu[k] + conj(Gq) * s->e[n];
        }
    }
}

/* Gradients of channel h: s->Ge becomes that of lambda. Returns that of delta. */
static double back(const kr_call *c, channel *s, int64_t h) {
    double dS[R_MOST][R_MOST], delta;
    make(c, s, h);
    delta = from_outside(c, s, h);
    delta += from_p(s, dS);
    from_q_and_u(s, dS);
    for (int64_t n = 0; n < s->N; n++) {
        cplx Gz = conj(s->e[n] * s->e[n] / 2) * s->Ge[n];
        delta += creal(conj(Gz) * s->lambda[n]);
        s->Ge[n] = s->delta * Gz;
    }
    return delta;
}

/* Sums over the channels that use row `row`; their steps are written on the way. */
static void row_back(const kr_call *c, channel *s, int64_t row) {
    int64_t N = s->N, R = s->R, H = c->in[KR_LOW_DT].shape[0], rows = c->in[KR_LOW_P].shape[0];
    for (int64_t n = 0; n < N; n++) s->sum_lambda[n] = s->sum_B[n] = 0;
    for (int64_t i = 0; i < R * N; i++) s->sum_P[i] = 0;
    for (int64_t h = row; h < H; h += rows) {
        double delta = back(c, s, h);
        if (c->out[KR_LOW_DT].data)
            kr_put((real *)c->out[KR_LOW_DT].data + h, s->delta * delta, KR_ACC(c, KR_LOW_DT));
        for (int64_t n = 0; n < N; n++) s->sum_lambda[n] += s->Ge[n], s->sum_B[n] += s->GB[n];
        for (int64_t i = 0; i < R * N; i++) s->sum_P[i] += s->GP[i];
    }
}

void KR_FN(kr_discretise_low_rank_grad)(const kr_call *c) {
    channel s = lay_out(c);
    int64_t N = s.N, R = s.R;
    const kr_tensor *re = &c->out[KR_LOW_RATE], *im = &c->out[KR_LOW_FREQUENCY];
    const kr_tensor *B = &c->out[KR_LOW_B], *P = &c->out[KR_LOW_P];
    for (int64_t row = 0; row < c->in[KR_LOW_P].shape[0]; row++) {
        row_back(c, &s, row);
        for (int64_t n = 0; n < N; n++) {
            cplx G = s.sum_lambda[n];
            if (re->data)
                kr_put(row_of(re, row) + n, creal(s.lambda[n]) * creal(G), KR_ACC(c, KR_LOW_RATE));
            if (im->data) kr_put(row_of(im, row) + n, cimag(G), KR_ACC(c, KR_LOW_FREQUENCY));
            if (B->data) put(c, KR_LOW_B, row_of(B, row), N, n, s.sum_B[n]);
        }
        for (int64_t i = 0; P->data && i < R * N; i++)
            put(c, KR_LOW_P, row_of(P, row) + i / N * 2 * N, N, i % N, s.sum_P[i]);
    }
}
