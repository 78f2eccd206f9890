/* layernorm_vec.c - the layer norm over vectors. layernorm.h has the equations.
 *
 * A row is read three times, all but the first from the cache: its deviations are from its own
 * mean, since the difference of two large sums would cancel. Threads take rows. */
#include "ops/layernorm/layernorm.h"

#include <math.h>

#include "ops/vec_row_sums.h"

static const float *row(const kr_tensor *t, int64_t m) {
    return t->data ? (const float *)t->data + m * t->stride[0] : NULL;
}
static float *out_row(const kr_tensor *t, int64_t m) {
    return t->data ? (float *)t->data + m * t->stride[0] : NULL;
}

/* sum[D] = x + residual; returns the mean. Without a residual sum is not written. */
static float add_and_mean(const float *x, const float *residual, float *sum, int64_t D) {
    kr_vf all = kr_vzero();
    for (int64_t d = 0; d < D; d += KR_W) {
        kr_vf s = kr_vload_n(x + d, D - d);
        if (residual) s += kr_vload_n(residual + d, D - d);
        if (sum) kr_vstore_n(sum + d, D - d, s);
        all += s;
    }
    return kr_vsum(all) / (float)D;
}

static float deviation_square(const float *s, float mean, int64_t D) {
    kr_vf square = kr_vzero();
    for (int64_t d = 0; d < D; d += KR_W) {
        kr_vf v = kr_vkeep_n(kr_vload_n(s + d, D - d) - mean, D - d);
        square = kr_vfma(v, v, square);
    }
    return kr_vsum(square);
}

void KR_FN(kr_layernorm)(const kr_call *c) {
    const kr_tensor *x = &c->in[0];
    const float *w = c->in[2].data, *b = c->in[3].data;
    float *means = c->out[2].data, *rstds = c->out[3].data;
    double eps = ((const kr_layernorm_attr *)c->attr)->eps;
    int64_t M = x->shape[0], D = x->shape[1];
    int threads = kr_threads_for(c, M * D * 16);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t m = 0; m < M; m++) {
        float *sum = out_row(&c->out[1], m), *y = out_row(&c->out[0], m);
        const float *s = sum ? sum : row(x, m);
        float mean = add_and_mean(row(x, m), row(&c->in[1], m), sum, D);
        float rstd = (float)(1 / sqrt((double)deviation_square(s, mean, D) / (double)D + eps));
        for (int64_t d = 0; d < D; d += KR_W) {
            kr_vf n = (kr_vload_n(s + d, D - d) - mean) * rstd;
            kr_vf bias = kr_vload_n(b + d, D - d);
            kr_vstore_n(y + d, D - d, kr_vfma(n, kr_vload_n(w + d, D - d), bias));
        }
        if (means) means[m] = mean;
        if (rstds) rstds[m] = rstd;
    }
}

/* The inputs of one row of the gradient. */
typedef struct grad_row {
    const float *dy, *s, *weight, *dsum; /* [D]; dsum may be NULL */
    float mean, rstd;
} grad_row;

KR_VINLINE kr_vf normed(const grad_row *g, int64_t d, int64_t D) {
    return (kr_vload_n(g->s + d, D - d) - g->mean) * g->rstd;
}

/* to[D] = or += v, where there is such an output */
KR_VINLINE void put(float *to, int64_t d, int64_t D, bool accumulate, kr_vf v) {
    if (to) kr_vstore_n(to + d, D - d, accumulate ? v + kr_vload_n(to + d, D - d) : v);
}

/* ds, and the same as dx; either may be NULL */
static void put_ds(const grad_row *g, float *ds, float *dx, uint32_t accumulate, int64_t D) {
    kr_vf all = kr_vzero(), along = kr_vzero();
    for (int64_t d = 0; d < D; d += KR_W) {
        kr_vf a = kr_vload_n(g->dy + d, D - d) * kr_vload_n(g->weight + d, D - d);
        all += a;
        along = kr_vfma(a, normed(g, d, D), along);
    }
    float mean = kr_vsum(all) / (float)D;
    kr_vf pull = kr_vset(kr_vsum(along) / (float)D);
    for (int64_t d = 0; d < D; d += KR_W) {
        kr_vf a = kr_vload_n(g->dy + d, D - d) * kr_vload_n(g->weight + d, D - d);
        a = g->rstd * kr_vnfma(pull, normed(g, d, D), a - mean);
        if (g->dsum) a += kr_vload_n(g->dsum + d, D - d);
        put(ds, d, D, accumulate & 1, a);
        put(dx, d, D, accumulate & 8, a);
    }
}

/* weight[D] += dy n, bias[D] += dy */
static void add_sums(const grad_row *g, float *weight, float *bias, int64_t D) {
    for (int64_t d = 0; d < D; d += KR_W) {
        kr_vf dy = kr_vload_n(g->dy + d, D - d), sum = kr_vload_n(weight + d, D - d);
        kr_vstore_n(weight + d, D - d, kr_vfma(dy, normed(g, d, D), sum));
        kr_vstore_n(bias + d, D - d, kr_vload_n(bias + d, D - d) + dy);
    }
}

/* All of rows [begin, end): ds, and their sums of dweight and dbias [2,D]. */
static void chunk_grad(const kr_call *c, kr_part rows, float *partial) {
    int64_t D = c->in[2].shape[1];
    for (int64_t m = rows.begin; m < rows.end; m++) {
        grad_row g = {row(&c->in[0], m),
                      row(&c->in[2], m),
                      c->in[3].data,
                      row(&c->in[1], m),
                      ((const float *)c->in[4].data)[m],
                      ((const float *)c->in[5].data)[m]};
        if (partial) add_sums(&g, partial, partial + D, D);
        if (c->out[0].data || c->out[3].data)
            put_ds(&g, out_row(&c->out[0], m), out_row(&c->out[3], m), c->accumulate, D);
    }
}

void KR_FN(kr_layernorm_grad)(const kr_call *c) {
    kr_row_sums_run(c, 1, 2, c->in[2].shape[0], c->in[2].shape[1], 16, chunk_grad);
}
