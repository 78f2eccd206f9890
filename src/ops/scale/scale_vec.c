/* scale_vec.c - scaling rows and columns over vectors. scale.h has the contract. */
#include "ops/scale/scale.h"

#include "ops/vec_row_sums.h"

static const float *row(const kr_tensor *t, int64_t m) {
    return (const float *)t->data + m * t->stride[0];
}

static float *out_row(const kr_tensor *t, int64_t m) { return (float *)t->data + m * t->stride[0]; }

KR_VINLINE void put(float *p, int64_t n, kr_vf v, bool add) {
    kr_vstore_n(p, n, add ? v + kr_vload_n(p, n) : v);
}

/* y = or += x e */
static void scale(const float *x, float e, float *y, int64_t n, bool add) {
    for (int64_t j = 0; j < n; j += KR_W) put(y + j, n - j, kr_vload_n(x + j, n - j) * e, add);
}

void KR_FN(kr_row_scale)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *e = &c->in[1];
    int threads = kr_threads_for(c, kr_tensor_count(x) * 8);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        kr_part p = kr_my_part(x->shape[0], 1);
        for (int64_t i = p.begin; i < p.end; i++)
            scale(row(x, i), ((const float *)e->data)[i % e->shape[0]], out_row(&c->out[0], i),
                  x->shape[1], c->accumulate & 1);
    }
}

static float dot(const float *a, const float *b, int64_t n) {
    kr_vf sum = kr_vzero();
    for (int64_t j = 0; j < n; j += KR_W)
        sum = kr_vfma(kr_vload_n(a + j, n - j), kr_vload_n(b + j, n - j), sum);
    return kr_vsum(sum);
}

/* Rows k, k + n, ...: their dx, and the one number of de that they share. */
static void row_scale_back(const kr_call *c, int64_t k) {
    const kr_tensor *dy = &c->in[0], *x = &c->in[1], *e = &c->in[2];
    float sum = 0, *de = c->out[1].data;
    for (int64_t i = k; i < x->shape[0]; i += e->shape[0]) {
        if (c->out[0].data)
            scale(row(dy, i), ((const float *)e->data)[k], out_row(&c->out[0], i), x->shape[1],
                  c->accumulate & 1);
        sum += dot(row(dy, i), row(x, i), x->shape[1]);
    }
    if (de) de[k] = c->accumulate & 2 ? de[k] + sum : sum;
}

void KR_FN(kr_row_scale_grad)(const kr_call *c) {
    int threads = kr_threads_for(c, kr_tensor_count(&c->in[0]) * 12);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        kr_part p = kr_my_part(c->in[2].shape[0], 1);
        for (int64_t k = p.begin; k < p.end; k++) row_scale_back(c, k);
    }
}

void KR_FN(kr_skip)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *u = &c->in[1];
    const float *w = c->in[2].data;
    int threads = kr_threads_for(c, kr_tensor_count(x) * 12);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        kr_part p = kr_my_part(x->shape[0], 1);
        for (int64_t m = p.begin; m < p.end; m++)
            for (int64_t j = 0, n = x->shape[1]; j < n; j += KR_W)
                put(out_row(&c->out[0], m) + j, n - j,
                    kr_vfma(kr_vload_n(w + j, n - j), kr_vload_n(row(u, m) + j, n - j),
                            kr_vload_n(row(x, m) + j, n - j)),
                    c->accumulate & 1);
    }
}

/* Of some rows: dx, and what they add to the sums dw. */
static void skip_rows_back(const kr_call *c, kr_part rows, float *sums) {
    const float *w = c->in[2].data;
    for (int64_t m = rows.begin; m < rows.end; m++) {
        const float *dy = row(&c->in[0], m), *u = row(&c->in[1], m);
        float *du = c->out[0].data ? out_row(&c->out[0], m) : NULL;
        for (int64_t j = 0, n = c->in[1].shape[1]; j < n; j += KR_W) {
            kr_vf d = kr_vload_n(dy + j, n - j);
            if (du) put(du + j, n - j, d * kr_vload_n(w + j, n - j), c->accumulate & 1);
            if (!sums) continue;
            kr_vf sum = kr_vload_n(sums + j, n - j);
            kr_vstore_n(sums + j, n - j, kr_vfma(d, kr_vload_n(u + j, n - j), sum));
        }
    }
}

void KR_FN(kr_skip_grad)(const kr_call *c) {
    kr_row_sums_run(c, 1, 1, c->in[1].shape[0], c->in[1].shape[1], 16, skip_rows_back);
}
