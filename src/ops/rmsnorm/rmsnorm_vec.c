/* rmsnorm_vec.c - the root-mean-square norm over vectors. rmsnorm.h has the equations.
 *
 * A row is read twice, the second time from the cache. Threads take rows. */
#include "ops/rmsnorm/rmsnorm.h"

#include <math.h>

#include "ops/vec_row_sums.h"

/* sum[D] = x + residual, where there is a sum to keep; returns the sum of squares. */
static float add_and_square(const float *x, const float *residual, float *sum, int64_t D) {
    kr_vf square = kr_vzero();
    for (int64_t d = 0; d < D; d += KR_W) {
        kr_vf s = kr_vload_n(x + d, D - d);
        if (residual) s += kr_vload_n(residual + d, D - d);
        if (sum) kr_vstore_n(sum + d, D - d, s);
        square = kr_vfma(s, s, square);
    }
    return kr_vsum(square);
}

/* y[D] = weight * (x + residual) * rstd */
static void scale(const float *x, const float *residual, const float *weight, float rstd, float *y,
                  int64_t D) {
    for (int64_t d = 0; d < D; d += KR_W) {
        kr_vf s = kr_vload_n(x + d, D - d);
        if (residual) s += kr_vload_n(residual + d, D - d);
        s *= rstd;
        if (weight) s *= kr_vload_n(weight + d, D - d);
        kr_vstore_n(y + d, D - d, s);
    }
}

static const float *row(const kr_tensor *t, int64_t m) {
    return t->data ? (const float *)t->data + m * t->stride[0] : NULL;
}
static float *out_row(const kr_tensor *t, int64_t m) {
    return t->data ? (float *)t->data + m * t->stride[0] : NULL;
}

void KR_FN(kr_rmsnorm)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *residual = &c->in[1];
    const float *weight = c->in[2].data;
    float *rstds = c->out[2].data;
    double eps = ((const kr_rmsnorm_attr *)c->attr)->eps;
    int64_t M = x->shape[0], D = x->shape[1];
    int threads = kr_threads_for(c, M * D * 16);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t m = 0; m < M; m++) {
        const float *xm = row(x, m), *rm = row(residual, m);
        float *sum = out_row(&c->out[1], m);
        double square = (double)add_and_square(xm, rm, sum, D);
        float rstd = (float)(1 / sqrt(square / (double)D + eps));
        scale(sum ? sum : xm, sum ? NULL : rm, weight, rstd, out_row(&c->out[0], m), D);
        if (rstds) rstds[m] = rstd;
    }
}

/* The inputs of one row of the gradient. */
typedef struct grad_row {
    const float *dy, *s, *weight, *dsum, *x; /* [D]; weight, dsum and x may be NULL */
    float rstd;
} grad_row;

/* s, with x where there is one */
KR_VINLINE kr_vf sum_at(const grad_row *g, int64_t d, int64_t D) {
    kr_vf s = kr_vload_n(g->s + d, D - d);
    return g->x ? s + kr_vload_n(g->x + d, D - d) : s;
}

/* mean over D of weight * dy * s * rstd */
static float mean_of(const grad_row *g, int64_t D) {
    kr_vf dot = kr_vzero();
    for (int64_t d = 0; d < D; d += KR_W) {
        kr_vf a = kr_vload_n(g->dy + d, D - d);
        if (g->weight) a *= kr_vload_n(g->weight + d, D - d);
        dot = kr_vfma(a, sum_at(g, d, D), dot);
    }
    return kr_vsum(dot) * g->rstd / (float)D;
}

/* to[D] = or += v, where there is such an output */
KR_VINLINE void put(float *to, int64_t d, int64_t D, bool accumulate, kr_vf v) {
    if (to) kr_vstore_n(to + d, D - d, accumulate ? v + kr_vload_n(to + d, D - d) : v);
}

/* ds, and the same as dx; either may be NULL */
static void put_ds(const grad_row *g, float *ds, float *dx, uint32_t accumulate, int64_t D) {
    kr_vf rstd = kr_vset(g->rstd), pull = kr_vset(g->rstd * mean_of(g, D));
    for (int64_t d = 0; d < D; d += KR_W) {
        kr_vf a = kr_vload_n(g->dy + d, D - d);
        if (g->weight) a *= kr_vload_n(g->weight + d, D - d);
        a = rstd * kr_vnfma(pull, sum_at(g, d, D), a);
        if (g->dsum) a += kr_vload_n(g->dsum + d, D - d);
        put(ds, d, D, accumulate & 1, a);
        put(dx, d, D, accumulate & 4, a);
    }
}

/* y = weight * s * rstd */
static void put_y(const grad_row *g, float *y, int64_t D) {
    kr_vf rstd = kr_vset(g->rstd);
    for (int64_t d = 0; d < D; d += KR_W) {
        kr_vf v = rstd * sum_at(g, d, D);
        if (g->weight) v *= kr_vload_n(g->weight + d, D - d);
        kr_vstore_n(y + d, D - d, v);
    }
}

/* partial[D] += dy * s * rstd */
static void add_dweight(const grad_row *g, float *partial, int64_t D) {
    for (int64_t d = 0; d < D; d += KR_W) {
        kr_vf xh = g->rstd * sum_at(g, d, D);
        kr_vf sum = kr_vload_n(partial + d, D - d);
        kr_vstore_n(partial + d, D - d, kr_vfma(xh, kr_vload_n(g->dy + d, D - d), sum));
    }
}

/* All of rows [begin, end): ds, and what they add to dweight. */
static void chunk_grad(const kr_call *c, kr_part rows, float *partial) {
    int64_t D = c->in[2].shape[1];
    for (int64_t m = rows.begin; m < rows.end; m++) {
        grad_row g = {row(&c->in[0], m), row(&c->in[2], m), c->in[3].data,
                      row(&c->in[1], m), row(&c->in[5], m), ((const float *)c->in[4].data)[m]};
        if (partial) add_dweight(&g, partial, D);
        if (c->out[0].data || c->out[2].data)
            put_ds(&g, out_row(&c->out[0], m), out_row(&c->out[2], m), c->accumulate, D);
        if (c->out[3].data) put_y(&g, out_row(&c->out[3], m), D);
    }
}

void KR_FN(kr_rmsnorm_grad)(const kr_call *c) {
    kr_row_sums_run(c, 1, 1, c->in[2].shape[0], c->in[2].shape[1], 16, chunk_grad);
}
