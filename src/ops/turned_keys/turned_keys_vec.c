/* turned_keys_vec.c - turned keys over vectors of N. turned_keys.h has the equations.
 *
 * A row's keys are normed once for the heads that share them; cosines and sines of a head serve all
 * its ranks. Neighbours are turned where they lie: v cos + swap(v) (-sin, sin). Threads take rows;
 * what rows share is summed by chunks of them, whose sums are added in order. */
#include "ops/turned_keys/turned_keys.h"

#include <math.h>

#include "ops/threads.h"
#include "vec/vec_math.h"

static float *row(const kr_tensor *t, int64_t m) { return (float *)t->data + m * t->stride[0]; }

KR_VINLINE void put(float *p, int64_t n, kr_vf v, bool add) {
    kr_vstore_n(p, n, add ? v + kr_vload_n(p, n) : v);
}

/* The call's sizes and arrays, x at input i; a thread's scratch. */
typedef struct keys {
    int64_t H, R, G, N, S;
    double eps;
    bool halves;
    const kr_tensor *x, *phi;
    const float *weight, *bias;
    float *normed, *dn;     /* [R,G,N]: weight x / rms; its gradient */
    float *cosine, *sine;   /* of a head: neighbours have each twice, the sine as -sin, sin */
    float *du, *cross;      /* [N] */
    float *dweight, *dbias; /* [N] [H,R,N] of a chunk */
} keys;

static keys keys_of(const kr_call *c, int i, float *scratch) {
    const kr_turned_keys_attr *a = c->attr;
    const int64_t *shape = c->in[i + 2].shape;
    int64_t N = shape[2], width = c->in[i].shape[1];
    return (keys){.H = shape[0],
                  .R = shape[1],
                  .G = a->groups,
                  .N = N,
                  .S = c->in[i + 3].shape[1] / shape[0],
                  .eps = a->eps,
                  .halves = a->halves,
                  .x = &c->in[i],
                  .phi = &c->in[i + 3],
                  .weight = c->in[i + 1].data,
                  .bias = c->in[i + 2].data,
                  .normed = scratch,
                  .dn = scratch + width,
                  .cosine = scratch + 2 * width,
                  .sine = scratch + 2 * width + N,
                  .du = scratch + 2 * width + 2 * N,
                  .cross = scratch + 2 * width + 3 * N,
                  .dweight = scratch + 2 * width + 4 * N,
                  .dbias = scratch + 2 * width + 5 * N};
}

static float rstd_of(const keys *k, const float *x) {
    kr_vf square = kr_vzero();
    for (int64_t n = 0; n < k->N; n += KR_W) {
        kr_vf v = kr_vload_n(x + n, k->N - n);
        square = kr_vfma(v, v, square);
    }
    return (float)(1 / sqrt((double)kr_vsum(square) / (double)k->N + k->eps));
}

static void norm_row(const keys *k, int64_t m) {
    for (int64_t i = 0; i < k->R * k->G; i++) {
        const float *x = row(k->x, m) + i * k->N;
        float rstd = rstd_of(k, x), *to = k->normed + i * k->N;
        for (int64_t n = 0; n < k->N; n += KR_W) {
            int64_t left = k->N - n;
            kr_vstore_n(to + n, left,
                        kr_vload_n(x + n, left) * rstd * kr_vload_n(k->weight + n, left));
        }
    }
}

/* cosine and sine of head h of row m. */
static void angles(const keys *k, int64_t m, int64_t h) {
    const float *phi = row(k->phi, m) + h * k->S;
    float *co = k->halves ? k->cosine : k->du, *si = k->halves ? k->sine : k->cross;
    for (int64_t i = 0; i < k->S; i += KR_W) {
        kr_vf sine, cosine;
        kr_vsincos(kr_vload_n(phi + i, k->S - i), &sine, &cosine);
        kr_vstore_n(co + i, k->S - i, cosine);
        kr_vstore_n(si + i, k->S - i, sine);
    }
    for (int64_t i = 0; !k->halves && i < k->S; i++) {
        k->cosine[2 * i] = k->cosine[2 * i + 1] = co[i];
        k->sine[2 * i] = -si[i];
        k->sine[2 * i + 1] = si[i];
    }
}

/* v [N], in place, turned by the angles, or back (sign -1). */
static void turn(const keys *k, float *v, float sign) {
    int64_t half = k->N / 2;
    for (int64_t j = 0; !k->halves && j < 2 * k->S; j += KR_W) {
        int64_t left = 2 * k->S - j;
        kr_vf u = kr_vload_n(v + j, left), si = sign * kr_vload_n(k->sine + j, left);
        kr_vstore_n(v + j, left, kr_vfma(u, kr_vload_n(k->cosine + j, left), kr_vswap(u) * si));
    }
    for (int64_t i = 0; k->halves && i < k->S; i += KR_W) {
        int64_t left = k->S - i;
        kr_vf co = kr_vload_n(k->cosine + i, left), si = sign * kr_vload_n(k->sine + i, left);
        kr_vf p = kr_vload_n(v + i, left), q = kr_vload_n(v + half + i, left);
        kr_vstore_n(v + i, left, kr_vnfma(q, si, p * co));
        kr_vstore_n(v + half + i, left, kr_vfma(q, co, p * si));
    }
}

static void forward_row(const kr_call *c, const keys *k, int64_t m) {
    norm_row(k, m);
    for (int64_t h = 0; h < k->H; h++) {
        angles(k, m, h);
        for (int64_t r = 0; r < k->R; r++) {
            const float *from = k->normed + (r * k->G + h / (k->H / k->G)) * k->N;
            const float *bias = k->bias + (h * k->R + r) * k->N;
            float *y = row(&c->out[0], m) + (r * k->H + h) * k->N;
            for (int64_t n = 0; n < k->N; n += KR_W)
                kr_vstore_n(y + n, k->N - n,
                            kr_vload_n(from + n, k->N - n) + kr_vload_n(bias + n, k->N - n));
            turn(k, y, 1);
        }
    }
}

void KR_FN(kr_turned_keys)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *bias = &c->in[2];
    int64_t own = 2 * x->shape[1] + 5 * bias->shape[2] + 64;
    int threads = kr_threads_for(c, x->shape[0] * kr_tensor_count(bias) * 16);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        keys k = keys_of(c, 0, (float *)c->scratch + omp_get_thread_num() * own);
        kr_part rows = kr_my_part(x->shape[0], 1);
        for (int64_t m = rows.begin; m < rows.end; m++) forward_row(c, &k, m);
    }
}

/* What one key gives to the angles of its head, before neighbours are subtracted. */
static void cross_back(const keys *k, const float *from, const float *bias) {
    int64_t half = k->N / 2;
    for (int64_t j = 0; !k->halves && j < 2 * k->S; j += KR_W) {
        int64_t left = 2 * k->S - j;
        kr_vf u = kr_vload_n(from + j, left) + kr_vload_n(bias + j, left);
        put(k->cross + j, left, kr_vload_n(k->du + j, left) * kr_vswap(u), true);
    }
    for (int64_t i = 0; k->halves && i < k->S; i += KR_W) {
        int64_t left = k->S - i;
        kr_vf p = kr_vload_n(from + i, left) + kr_vload_n(bias + i, left);
        kr_vf q = kr_vload_n(from + half + i, left) + kr_vload_n(bias + half + i, left);
        kr_vf dp = kr_vload_n(k->du + i, left), dq = kr_vload_n(k->du + half + i, left);
        put(k->cross + i, left, kr_vnfma(dp, q, dq * p), true);
    }
}

static void head_back(const kr_call *c, const keys *k, int64_t m, int64_t h) {
    angles(k, m, h);
    memset(k->cross, 0, (size_t)k->N * sizeof *k->cross);
    for (int64_t r = 0; r < k->R; r++) {
        int64_t at = (r * k->G + h / (k->H / k->G)) * k->N, of = (h * k->R + r) * k->N;
        memcpy(k->du, row(&c->in[0], m) + (r * k->H + h) * k->N, (size_t)k->N * sizeof *k->du);
        turn(k, k->du, -1);
        cross_back(k, k->normed + at, k->bias + of);
        for (int64_t n = 0; n < k->N; n += KR_W) {
            kr_vf du = kr_vload_n(k->du + n, k->N - n);
            put(k->dn + at + n, k->N - n, du, true);
            put(k->dbias + of + n, k->N - n, du, true);
        }
    }
    float *dphi = c->out[3].data ? row(&c->out[3], m) + h * k->S : NULL;
    for (int64_t i = 0; dphi && i < k->S; i++) {
        float g = k->halves ? k->cross[i] : k->cross[2 * i + 1] - k->cross[2 * i];
        dphi[i] = c->accumulate & 8 ? dphi[i] + g : g;
    }
}

/* Part i of the row's x, from dn. */
static void norm_back(const kr_call *c, const keys *k, int64_t m, int64_t i) {
    const float *x = row(k->x, m) + i * k->N, *dn = k->dn + i * k->N;
    float *dx = c->out[0].data ? row(&c->out[0], m) + i * k->N : NULL, rstd = rstd_of(k, x);
    kr_vf dot = kr_vzero();
    for (int64_t n = 0; n < k->N; n += KR_W) {
        int64_t left = k->N - n;
        kr_vf g = kr_vload_n(dn + n, left) * kr_vload_n(x + n, left) * rstd;
        put(k->dweight + n, left, g, true);
        dot = kr_vfma(kr_vload_n(k->weight + n, left), g, dot);
    }
    kr_vf mean = kr_vset(kr_vsum(dot) / (float)k->N * rstd);
    for (int64_t n = 0; dx && n < k->N; n += KR_W) {
        int64_t left = k->N - n;
        kr_vf g = kr_vload_n(k->weight + n, left) * kr_vload_n(dn + n, left);
        put(dx + n, left, rstd * kr_vnfma(kr_vload_n(x + n, left), mean, g), c->accumulate & 1);
    }
}

static void chunk_back(const kr_call *c, const keys *k, kr_part rows) {
    int64_t count = k->R * k->G;
    memset(k->dweight, 0, (size_t)k->N * sizeof(float));
    memset(k->dbias, 0, (size_t)(k->H * k->R * k->N) * sizeof(float));
    for (int64_t m = rows.begin; m < rows.end; m++) {
        norm_row(k, m);
        memset(k->dn, 0, (size_t)(count * k->N) * sizeof(float));
        for (int64_t h = 0; h < k->H; h++) head_back(c, k, m, h);
        for (int64_t i = 0; i < count; i++) norm_back(c, k, m, i);
    }
}

/* to [n] = or += the chunks' sums, which lie `apart`, in order. */
static void add_chunks(float *to, const float *sums, int chunks, int64_t apart, int64_t n,
                       bool add) {
    for (int64_t j = 0; to && j < n; j += KR_W) {
        kr_vf sum = kr_vzero();
        for (int i = 0; i < chunks; i++) sum += kr_vload_n(sums + i * apart + j, n - j);
        put(to + j, n - j, sum, add);
    }
}

void KR_FN(kr_turned_keys_grad)(const kr_call *c) {
    const kr_tensor *x = &c->in[1], *bias = &c->in[3];
    int64_t M = x->shape[0], N = bias->shape[2], count = kr_tensor_count(bias);
    int64_t apart = 2 * x->shape[1] + 5 * N + 64 + N + count;
    float *scratch = c->scratch;
    int chunks = kr_turned_keys_chunks(M), threads = kr_threads_for(c, M * count * 32);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int i = 0; i < chunks; i++) {
        keys k = keys_of(c, 1, scratch + i * apart);
        chunk_back(c, &k, kr_part_of(M, 1, i, chunks));
    }
    keys first = keys_of(c, 1, scratch);
    add_chunks(c->out[1].data, first.dweight, chunks, apart, N, c->accumulate & 2);
    add_chunks(c->out[2].data, first.dbias, chunks, apart, count, c->accumulate & 4);
}
