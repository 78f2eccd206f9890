/* gated_rmsnorm_vec.c - the gated norm over vectors. gated_rmsnorm.h has the equations.
 *
 * A group is read twice, the second time from the cache. Threads take rows. */
#include "ops/gated_rmsnorm/gated_rmsnorm.h"

#include <math.h>

#include "ops/vec_row_sums.h"
#include "vec/vec_math.h"

static const float *row(const kr_tensor *t, int64_t m) {
    return (const float *)t->data + m * t->stride[0];
}

/* Has the same columns of the next row fetched: z lies far apart, and what the processor fetches by
 * itself ends with each page. */
KR_VINLINE void fetch(const float *p, const kr_tensor *t) { __builtin_prefetch(p + t->stride[0]); }

/* n of some columns, and silu(z). */
KR_VINLINE kr_vf normed(const float *x, const float *z, int64_t w, bool behind, kr_vf *gate) {
    kr_vf n = kr_vload_n(x, w);
    *gate = kr_vsilu(kr_vload_n(z, w));
    return behind ? n : n * *gate;
}

static void forward_group(const kr_call *c, int64_t m, int64_t g) {
    const kr_gated_rmsnorm_attr *attr = c->attr;
    int64_t W = c->in[0].shape[1] / attr->groups, first = g * W;
    const float *x = row(&c->in[0], m) + first, *z = row(&c->in[1], m) + first;
    const float *weight = (const float *)c->in[2].data + first;
    float *y = (float *)c->out[0].data + m * c->out[0].stride[0] + first;
    bool behind = attr->gate_behind;
    kr_vf square = kr_vzero(), gate;
    for (int64_t d = 0; d < W; d += KR_W) {
        kr_vf n = normed(x + d, z + d, W - d, behind, &gate);
        fetch(x + d, &c->in[0]);
        fetch(z + d, &c->in[1]);
        fetch(y + d, &c->out[0]);
        if (!behind) kr_vstore_n(y + d, W - d, n);
        square = kr_vfma(n, n, square);
    }
    float rstd = (float)(1 / sqrt((double)kr_vsum(square) / (double)W + attr->eps));
    for (int64_t d = 0; d < W; d += KR_W) {
        kr_vf n = behind ? normed(x + d, z + d, W - d, true, &gate) : kr_vload_n(y + d, W - d);
        if (behind) n *= gate;
        kr_vstore_n(y + d, W - d, n * rstd * kr_vload_n(weight + d, W - d));
    }
    if (c->out[1].data) ((float *)c->out[1].data)[m * c->out[1].stride[0] + g] = rstd;
}

void KR_FN(kr_gated_rmsnorm)(const kr_call *c) {
    const kr_gated_rmsnorm_attr *attr = c->attr;
    int64_t M = c->in[0].shape[0], E = c->in[0].shape[1];
    int threads = kr_threads_for(c, M * E * 16);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t m = 0; m < M; m++)
        for (int64_t g = 0; g < attr->groups; g++) forward_group(c, m, g);
}

KR_VINLINE void put(float *to, int64_t n, kr_vf v, bool add) {
    if (to) kr_vstore_n(to, n, add ? kr_vload_n(to, n) + v : v);
}

static float *out_at(const kr_call *c, int i, int64_t m, int64_t d) {
    const kr_tensor *t = &c->out[i];
    return t->data ? (float *)t->data + m * t->stride[0] + d : NULL;
}

/* The gradient of a group of a row; dy nh o joins partial [W]. */
static void group_grad(const kr_call *c, int64_t m, int64_t g, float *partial) {
    const kr_gated_rmsnorm_attr *attr = c->attr;
    int64_t W = c->in[1].shape[1] / attr->groups, first = g * W;
    const float *dy = row(&c->in[0], m) + first, *x = row(&c->in[1], m) + first;
    const float *z = row(&c->in[2], m) + first, *weight = (const float *)c->in[3].data + first;
    float *dx = out_at(c, 0, m, first), *dz = out_at(c, 1, m, first);
    bool behind = attr->gate_behind;
    kr_vf dot = kr_vzero(), gate, rstd = kr_vset(row(&c->in[4], m)[g]);
    for (int64_t d = 0; d < W; d += KR_W) {
        kr_vf nh = normed(x + d, z + d, W - d, behind, &gate) * rstd;
        fetch(x + d, &c->in[1]);
        fetch(z + d, &c->in[2]);
        fetch(dy + d, &c->in[0]);
        if (dx) fetch(dx + d, &c->out[0]);
        if (dz) fetch(dz + d, &c->out[1]);
        kr_vf a = kr_vload_n(dy + d, W - d) * nh;
        if (behind) a *= gate;
        if (partial) put(partial + d, W - d, a, true);
        dot = kr_vfma(kr_vload_n(weight + d, W - d), a, dot);
    }
    kr_vf mean = kr_vset(kr_vsum(dot) / (float)W);
    for (int64_t d = 0; d < W; d += KR_W) {
        int64_t w = W - d;
        kr_vf zs = kr_vload_n(z + d, w), sigma = kr_vsigmoid(zs), xs = kr_vload_n(x + d, w);
        kr_vf silu = zs * sigma, slope = kr_vsilu_slope(zs, sigma);
        kr_vf wdy = kr_vload_n(weight + d, w) * kr_vload_n(dy + d, w);
        kr_vf nh = (behind ? xs : xs * silu) * rstd;
        kr_vf dn = rstd * kr_vnfma(nh, mean, behind ? wdy * silu : wdy);
        put(dx ? dx + d : NULL, w, behind ? dn : dn * silu, c->accumulate & 1);
        put(dz ? dz + d : NULL, w, slope * (behind ? wdy * nh : dn * xs), c->accumulate & 2);
    }
}

static void chunk_grad(const kr_call *c, kr_part rows, float *partial) {
    const kr_gated_rmsnorm_attr *attr = c->attr;
    int64_t E = c->in[1].shape[1], W = E / attr->groups;
    for (int64_t m = rows.begin; m < rows.end; m++)
        for (int64_t g = 0; g < attr->groups; g++)
            group_grad(c, m, g, partial ? partial + g * W : NULL);
}

void KR_FN(kr_gated_rmsnorm_grad)(const kr_call *c) {
    kr_row_sums_run(c, 2, 1, c->in[1].shape[0], c->in[1].shape[1], 24, chunk_grad);
}
