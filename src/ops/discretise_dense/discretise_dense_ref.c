/* discretise_dense_ref.c - the discretisation of a whole matrix, scalar; discretise_dense.h has the
 * contract. N^3 a channel, once a pass: the only kernel of the CPU.
 *
 * With Ab = 2 W - I, b = delta v, v = W B, and dX the gradient of X:
 *
 *   dW = 2 dAb + delta db B^T      F = W^T dW W^T      dA += g F      dB += delta W^T db
 *   ddelta = sum F A / 2 + db . v */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/discretise_dense/discretise_dense.h"

/* One channel; matrices [N,N] in rows. */
typedef struct channel {
    int64_t N;
    double delta;
    double *M, *W, *v;         /* M: work */
    double *F, *sum_A, *sum_B; /* gradients; sums over channels */
    double *db;
} channel;

static const real *row_of(const kr_tensor *t, int64_t h) {
    return (const real *)t->data + h * t->stride[0];
}

static channel lay_out(const kr_call *c) {
    channel s = {.N = c->in[KR_DENSE_A].shape[1]};
    double *at = c->scratch, **squares[] = {&s.M, &s.W, &s.F, &s.sum_A};
    double **vectors[] = {&s.v, &s.sum_B, &s.db};
    for (int i = 0; i < 4; i++, at += s.N * s.N) *squares[i] = at;
    for (int i = 0; i < 3; i++, at += s.N) *vectors[i] = at;
    return s;
}

static void swap_rows(double *m, int64_t N, int64_t i, int64_t j) {
    for (int64_t k = 0; i != j && k < N; k++) {
        double keep = m[i * N + k];
        m[i * N + k] = m[j * N + k];
        m[j * N + k] = keep;
    }
}

/* W = M^-1, by elimination with pivots; M is destroyed. A singular M gives no finite W. */
static void invert(channel *s) {
    int64_t N = s->N;
    double *M = s->M, *W = s->W;
    for (int64_t i = 0; i < N * N; i++) W[i] = i / N == i % N;
    for (int64_t j = 0; j < N; j++) {
        int64_t best = j;
        for (int64_t i = j; i < N; i++)
            if (fabs(M[i * N + j]) > fabs(M[best * N + j])) best = i;
        swap_rows(M, N, j, best);
        swap_rows(W, N, j, best);
        double pivot = 1 / M[j * N + j];
        for (int64_t k = 0; k < N; k++) M[j * N + k] *= pivot, W[j * N + k] *= pivot;
        for (int64_t i = 0; i < N; i++) {
            double f = M[i * N + j];
            if (i == j || f == 0) continue;
            for (int64_t k = j; k < N; k++) M[i * N + k] -= f * M[j * N + k];
            for (int64_t k = 0; k < N; k++) W[i * N + k] -= f * W[j * N + k];
        }
    }
}

/* delta, W and v of channel h. */
static void make(const kr_call *c, channel *s, int64_t h) {
    const kr_discretise_dense_attr *attr = c->attr;
    int64_t N = s->N;
    const real *B = c->in[KR_DENSE_B].data;
    s->delta = attr->rate * exp((double)((const real *)c->in[KR_DENSE_DT].data)[h]);
    for (int64_t n = 0; n < N; n++) {
        const real *A = row_of(&c->in[KR_DENSE_A], n);
        for (int64_t k = 0; k < N; k++) s->M[n * N + k] = (n == k) - s->delta / 2 * (double)A[k];
    }
    invert(s);
    for (int64_t n = 0; n < N; n++) {
        s->v[n] = 0;
        for (int64_t k = 0; k < N; k++) s->v[n] += s->W[n * N + k] * (double)B[k];
    }
}

void KR_FN(kr_discretise_dense)(const kr_call *c) {
    channel s = lay_out(c);
    int64_t N = s.N;
    for (int64_t h = 0; h < c->in[KR_DENSE_DT].shape[0]; h++) {
        real *to = c->out[0].data ? (real *)c->out[0].data + h * c->out[0].stride[0] : NULL;
        real *b = c->out[1].data ? (real *)c->out[1].data + h * c->out[1].stride[0] : NULL;
        make(c, &s, h);
        for (int64_t n = 0; to && n < N; n++) {
            kr_put(&to[n], 0, KR_ACC(c, 0));
            for (int64_t k = 0; k < N; k++) {
                kr_put(&to[(1 + n) * N + k], n == k ? -1 : 0, KR_ACC(c, 0));
                kr_put(&to[(1 + N + n) * N + k], 2 * s.W[n * N + k] - (n == k), KR_ACC(c, 0));
            }
        }
        for (int64_t n = 0; b && n < N; n++) kr_put(&b[n], s.delta * s.v[n], KR_ACC(c, 1));
    }
}

/* ---- backward ---- */

/* to = a^T b, or (right) a b^T. */
static void product(double *to, const double *a, const double *b, int64_t N, bool right) {
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < N; j++) {
            double sum = 0;
            for (int64_t k = 0; k < N; k++)
                sum += right ? a[i * N + k] * b[j * N + k] : a[k * N + i] * b[k * N + j];
            to[i * N + j] = sum;
        }
}

/* dW into s->F, db. */
static void from_outside(const kr_call *c, channel *s, int64_t h) {
    int64_t N = s->N;
    const kr_tensor *decay = &c->in[KR_DENSE_INS], *b = &c->in[KR_DENSE_INS + 1];
    const real *B = c->in[KR_DENSE_B].data;
    for (int64_t n = 0; n < N; n++) s->db[n] = b->data ? (double)row_of(b, h)[n] : 0;
    for (int64_t i = 0; i < N * N; i++) {
        double dAb = decay->data ? (double)row_of(decay, h)[(1 + N) * N + i] : 0;
        s->F[i] = 2 * dAb + s->delta * s->db[i / N] * (double)B[i % N];
    }
}

/* Adds channel h to the sums; returns delta's gradient. */
static double back(const kr_call *c, channel *s, int64_t h) {
    int64_t N = s->N;
    double delta = 0;
    make(c, s, h);
    from_outside(c, s, h);
    product(s->M, s->W, s->F, N, false);
    product(s->F, s->M, s->W, N, true);
    for (int64_t n = 0; n < N; n++) {
        const real *A = row_of(&c->in[KR_DENSE_A], n);
        delta += s->db[n] * s->v[n];
        for (int64_t k = 0; k < N; k++) {
            s->sum_A[n * N + k] += s->delta / 2 * s->F[n * N + k];
            s->sum_B[n] += s->delta * s->W[k * N + n] * s->db[k];
            delta += s->F[n * N + k] * (double)A[k] / 2;
        }
    }
    return delta;
}

void KR_FN(kr_discretise_dense_grad)(const kr_call *c) {
    channel s = lay_out(c);
    int64_t N = s.N;
    real *dt = c->out[KR_DENSE_DT].data, *B = c->out[KR_DENSE_B].data;
    const kr_tensor *A = &c->out[KR_DENSE_A];
    for (int64_t i = 0; i < N * N; i++) s.sum_A[i] = 0;
    for (int64_t n = 0; n < N; n++) s.sum_B[n] = 0;
    for (int64_t h = 0; h < c->in[KR_DENSE_DT].shape[0]; h++) {
        double delta = back(c, &s, h);
        if (dt) kr_put(&dt[h], s.delta * delta, KR_ACC(c, KR_DENSE_DT));
    }
    for (int64_t i = 0; A->data && i < N * N; i++)
        kr_put((real *)A->data + i / N * A->stride[0] + i % N, s.sum_A[i], KR_ACC(c, KR_DENSE_A));
    for (int64_t n = 0; B && n < N; n++) kr_put(&B[n], s.sum_B[n], KR_ACC(c, KR_DENSE_B));
}
