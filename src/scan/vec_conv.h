/* vec_conv.h - what both directions of plan CONV share: sums over modes, and a transform of many
 * channels at once. Included by scan_conv*_vec.c only.
 *
 * A block is KR_W channels, one in each lane. An array over time is [T][W], of complex numbers
 * [T][2][W]; over modes [N][2][W] (N padded to whole tiles with zeros).
 *
 * Convolution of x and k, both of at most n numbers, n a power of two: with r = e^{i pi / (2n)}
 * (r^n = i), the cyclic convolution of x_j r^j and k_j r^j over n points is, times r^-j, low + i
 * high: the first n numbers of x * k as its real part. So nothing is padded. The transform
 * decimates in frequency, its inverse in time, and the order between them never matters. */
#ifndef KR_VEC_CONV_H
#define KR_VEC_CONV_H

#include <math.h>
#include <omp.h>

#include "scan/scan_cauchy.h"
#include "scan/vec_scan.h"

enum { KR_CONV_TILE = 4, KR_CONV_SPAN = 64 }; /* modes in registers; rows between exact powers */

typedef struct kr_conv_span {
    int64_t first, L, step; /* row of the first number, numbers, from row to row (1 or -1) */
    bool from_state, to_state;
} kr_conv_span;

typedef struct kr_conv {
    const kr_scan_view *v;
    int64_t h0, w;             /* channels h0 .. h0 + w */
    int64_t n, longest, modes; /* largest transform; longest span; N padded */
    const float *root, *twist; /* [n][2]: e^{-2 pi i j / n}, e^{i pi j / (2n)} */
    float *a;                  /* modes, as the rest of this group */
    double *power, *far;       /* a, and a^SPAN */
    double *b, *c, *h;         /* h: the state that comes in */
    double *term, *now;        /* of expand: first powers; both: the running ones */
    double *s0, *s1;           /* of moments */
    double *gb, *gc, *ga, *gh,
        *dh;                   /* gradients; gh: of the state that goes out; dh: that comes in */
    double *low, *glow;        /* of low rank, p_1 .. q_1 ..: modes, and gradients */
    double *points, *unit;     /* of the sums that make its kernel */
    float *k, *dk, *x, *y, *t; /* [n][W] */
    float *fx, *fy;            /* transforms of one span [n][2][W] */
    float *fk, *fg;            /* of the kernel and its gradient, each size m at [m] */
    bool has_k[KR_SCAN_CONV_SIZES], has_g[KR_SCAN_CONV_SIZES]; /* by log2 of the size */
} kr_conv;

KR_VINLINE int kr_conv_log(int64_t L) {
    int log = 0;
    while (((int64_t)1 << log) < L) log++;
    return log;
}

/* ---- transforms -------------------------------------------------------------------------------
 */

typedef struct kr_vc {
    kr_vf re, im;
} kr_vc;

KR_VINLINE kr_vc kr_conv_load(const float *p) { return (kr_vc){kr_vload(p), kr_vload(p + KR_W)}; }
KR_VINLINE void kr_conv_store(float *p, kr_vc v) {
    kr_vstore(p, v.re);
    kr_vstore(p + KR_W, v.im);
}
KR_VINLINE kr_vc kr_vc_add(kr_vc a, kr_vc b) { return (kr_vc){a.re + b.re, a.im + b.im}; }
KR_VINLINE kr_vc kr_vc_sub(kr_vc a, kr_vc b) { return (kr_vc){a.re - b.re, a.im - b.im}; }
KR_VINLINE kr_vc kr_vc_times_i(kr_vc a) { return (kr_vc){-a.im, a.re}; }
KR_VINLINE kr_vc kr_vc_mul(kr_vc a, kr_vc b) {
    return (kr_vc){kr_vnfma(a.im, b.im, a.re * b.re), kr_vfma(a.im, b.re, a.re * b.im)};
}
KR_VINLINE kr_vc kr_conv_root(const float *root, float sign) {
    return (kr_vc){kr_vset(root[0]), kr_vset(sign * root[1])};
}

static inline __attribute__((unused)) void kr_conv_two(float *x) {
    kr_vc a = kr_conv_load(x), b = kr_conv_load(x + 2 * KR_W);
    kr_conv_store(x, kr_vc_add(a, b));
    kr_conv_store(x + 2 * KR_W, kr_vc_sub(a, b));
}

/* In place; apart: from one root of the table to the next of this size. */
static inline __attribute__((unused)) void kr_conv_forward(float *x, int64_t n, const float *root,
                                                           int64_t apart) {
    if (n == 2) kr_conv_two(x);
    if (n <= 2) return;
    int64_t q = n / 4 * 2 * KR_W;
    for (int64_t k = 0; k < n / 4; k++) {
        float *p = x + k * 2 * KR_W;
        const float *w = root + 2 * k * apart;
        kr_vc a = kr_conv_load(p), b = kr_conv_load(p + q);
        kr_vc c = kr_conv_load(p + 2 * q), d = kr_conv_load(p + 3 * q);
        kr_vc s = kr_vc_add(a, c), t = kr_vc_sub(a, c), u = kr_vc_add(b, d);
        kr_vc v = kr_vc_times_i(kr_vc_sub(d, b));
        kr_conv_store(p, kr_vc_add(s, u));
        kr_conv_store(p + q, kr_vc_mul(kr_vc_sub(s, u), kr_conv_root(w + 2 * k * apart, 1)));
        kr_conv_store(p + 2 * q, kr_vc_mul(kr_vc_add(t, v), kr_conv_root(w, 1)));
        kr_conv_store(p + 3 * q, kr_vc_mul(kr_vc_sub(t, v), kr_conv_root(w + 4 * k * apart, 1)));
    }
    for (int i = 0; i < 4; i++) kr_conv_forward(x + i * q, n / 4, root, 4 * apart);
}

/* n times the inverse. */
static inline __attribute__((unused)) void kr_conv_inverse(float *x, int64_t n, const float *root,
                                                           int64_t apart) {
    if (n == 2) kr_conv_two(x);
    if (n <= 2) return;
    int64_t q = n / 4 * 2 * KR_W;
    for (int i = 0; i < 4; i++) kr_conv_inverse(x + i * q, n / 4, root, 4 * apart);
    for (int64_t k = 0; k < n / 4; k++) {
        float *p = x + k * 2 * KR_W;
        const float *w = root + 2 * k * apart;
        kr_vc a = kr_conv_load(p);
        kr_vc b = kr_vc_mul(kr_conv_load(p + q), kr_conv_root(w + 2 * k * apart, -1));
        kr_vc c = kr_vc_mul(kr_conv_load(p + 2 * q), kr_conv_root(w, -1));
        kr_vc d = kr_vc_mul(kr_conv_load(p + 3 * q), kr_conv_root(w + 4 * k * apart, -1));
        kr_vc s = kr_vc_add(a, b), u = kr_vc_sub(a, b);
        kr_vc t = kr_vc_add(c, d), v = kr_vc_times_i(kr_vc_sub(c, d));
        kr_conv_store(p, kr_vc_add(s, t));
        kr_conv_store(p + q, kr_vc_add(u, v));
        kr_conv_store(p + 2 * q, kr_vc_sub(s, t));
        kr_conv_store(p + 3 * q, kr_vc_sub(u, v));
    }
}

/* f = transform of the numbers [L][W] of x r^j, at j or (backward in time) at n - 1 - j. */
static inline __attribute__((unused)) void kr_conv_transform(const kr_conv *c, float *f,
                                                             const float *x, int64_t L, int64_t n,
                                                             bool turned) {
    int64_t apart = c->n / n;
    for (int64_t j = 0; j < n; j++) {
        int64_t l = turned ? n - 1 - j : j;
        kr_vf v = l < L ? kr_vload(x + l * KR_W) : kr_vzero();
        const float *r = c->twist + 2 * j * apart;
        kr_conv_store(f + j * 2 * KR_W, (kr_vc){v * kr_vset(r[0]), v * kr_vset(r[1])});
    }
    kr_conv_forward(f, n, c->root, apart);
}

/* The numbers [L][W] of x behind the transform f, which it destroys. */
static inline __attribute__((unused)) void kr_conv_untransform(const kr_conv *c, float *x, float *f,
                                                               int64_t L, int64_t n, bool turned,
                                                               bool add) {
    int64_t apart = c->n / n;
    float scale = 1.0f / (float)n;
    kr_conv_inverse(f, n, c->root, apart);
    for (int64_t l = 0; l < L && l < n; l++) {
        int64_t j = turned ? n - 1 - l : l;
        const float *r = c->twist + 2 * j * apart;
        kr_vc v = kr_conv_load(f + j * 2 * KR_W);
        kr_vf u = kr_vfma(v.re, kr_vset(scale * r[0]), v.im * kr_vset(scale * r[1]));
        kr_vstore(x + l * KR_W, add ? kr_vload(x + l * KR_W) + u : u);
    }
}

/* to (+)= a b over n numbers. */
static inline __attribute__((unused)) void kr_conv_times(float *to, const float *a, const float *b,
                                                         int64_t n, bool add) {
    for (int64_t j = 0; j < n * 2 * KR_W; j += 2 * KR_W) {
        kr_vc v = kr_vc_mul(kr_conv_load(a + j), kr_conv_load(b + j));
        kr_conv_store(to + j, add ? kr_vc_add(v, kr_conv_load(to + j)) : v);
    }
}

/* The kernel's transform of size n = 2^log. */
static inline __attribute__((unused)) const float *kr_conv_kernel(kr_conv *c, int log) {
    int64_t n = (int64_t)1 << log;
    float *f = c->fk + n * 2 * KR_W;
    if (!c->has_k[log]) kr_conv_transform(c, f, c->k, c->longest, n, false);
    c->has_k[log] = true;
    return f;
}

/* ---- sums over modes --------------------------------------------------------------------------
 */

/* Element (mode, part) of lane i. */
KR_VINLINE int64_t kr_conv_at(int64_t mode, int part, int64_t i) {
    return (2 * mode + part) * KR_W + i;
}

/* p *= q, numbers of one mode; what is far below any sum becomes 0, not denormal. */
KR_VINLINE void kr_conv_scale(double *p, const double *q) {
    for (int i = 0; i < KR_W; i++) {
        double re = p[i] * q[i] - p[KR_W + i] * q[KR_W + i];
        double im = p[i] * q[KR_W + i] + p[KR_W + i] * q[i];
        bool tiny = re * re + im * im < 1e-60;
        p[i] = tiny ? 0 : re;
        p[KR_W + i] = tiny ? 0 : im;
    }
}

KR_VINLINE kr_vc kr_conv_single(const double *p) {
    float v[2 * KR_W];
    for (int i = 0; i < 2 * KR_W; i++) v[i] = (float)p[i];
    return kr_conv_load(v);
}

/* out_l += Re sum_n term_n a_n^l, l < L. */
static inline __attribute__((unused)) void kr_conv_expand(kr_conv *c, float *out, int64_t L) {
    memcpy(c->now, c->term, (size_t)(c->modes * 2 * KR_W) * sizeof *c->now);
    for (int64_t m = 0; m < c->modes; m += KR_CONV_TILE) {
        kr_vc a[KR_CONV_TILE], p[KR_CONV_TILE];
        for (int i = 0; i < KR_CONV_TILE; i++) a[i] = kr_conv_load(c->a + (m + i) * 2 * KR_W);
        for (int64_t l0 = 0; l0 < L; l0 += KR_CONV_SPAN) {
            int64_t end = l0 + KR_CONV_SPAN < L ? l0 + KR_CONV_SPAN : L;
            for (int i = 0; i < KR_CONV_TILE; i++) {
                p[i] = kr_conv_single(c->now + (m + i) * 2 * KR_W);
                kr_conv_scale(c->now + (m + i) * 2 * KR_W, c->far + (m + i) * 2 * KR_W);
            }
            for (int64_t l = l0; l < end; l++) {
                kr_vf sum = kr_vload(out + l * KR_W);
                for (int i = 0; i < KR_CONV_TILE; i++) {
                    sum += p[i].re;
                    p[i] = kr_vc_mul(p[i], a[i]);
                }
                kr_vstore(out + l * KR_W, sum);
            }
        }
    }
}

KR_VINLINE void kr_conv_gather(double *to, kr_vc v, double times) {
    float lanes[2 * KR_W];
    kr_conv_store(lanes, v);
    for (int i = 0; i < 2 * KR_W; i++) to[i] += times * (double)lanes[i];
}

/* s0 = sum_l g_l a^l, s1 = sum_l l g_l a^(l-1), l < L: both from q = sum over m of g_{m+1} a^m. */
static inline __attribute__((unused)) void kr_conv_moments(kr_conv *c, const float *g, int64_t L) {
    int64_t size = c->modes * 2 * KR_W;
    memset(c->s0, 0, (size_t)size * sizeof *c->s0);
    memset(c->s1, 0, (size_t)size * sizeof *c->s1);
    for (int64_t i = 0; i < size; i++) c->now[i] = i / KR_W % 2 == 0;
    for (int64_t m = 0; m < c->modes; m += KR_CONV_TILE) {
        kr_vc a[KR_CONV_TILE], p[KR_CONV_TILE], q[KR_CONV_TILE], r[KR_CONV_TILE];
        for (int i = 0; i < KR_CONV_TILE; i++) a[i] = kr_conv_load(c->a + (m + i) * 2 * KR_W);
        for (int64_t l0 = 1; l0 < L; l0 += KR_CONV_SPAN) {
            int64_t end = l0 + KR_CONV_SPAN < L ? l0 + KR_CONV_SPAN : L;
            for (int i = 0; i < KR_CONV_TILE; i++) {
                p[i] = kr_conv_single(c->now + (m + i) * 2 * KR_W);
                q[i] = r[i] = (kr_vc){kr_vzero(), kr_vzero()};
                kr_conv_scale(c->now + (m + i) * 2 * KR_W, c->far + (m + i) * 2 * KR_W);
            }
            for (int64_t l = l0; l < end; l++) {
                kr_vf u = kr_vload(g + l * KR_W), lu = u * kr_vset((float)(l - l0));
                for (int i = 0; i < KR_CONV_TILE; i++) {
                    q[i] = (kr_vc){kr_vfma(u, p[i].re, q[i].re), kr_vfma(u, p[i].im, q[i].im)};
                    r[i] = (kr_vc){kr_vfma(lu, p[i].re, r[i].re), kr_vfma(lu, p[i].im, r[i].im)};
                    p[i] = kr_vc_mul(p[i], a[i]);
                }
            }
            for (int i = 0; i < KR_CONV_TILE; i++) {
                kr_conv_gather(c->s0 + (m + i) * 2 * KR_W, q[i], 1);
                kr_conv_gather(c->s1 + (m + i) * 2 * KR_W, q[i], (double)l0);
                kr_conv_gather(c->s1 + (m + i) * 2 * KR_W, r[i], 1);
            }
        }
    }
    for (int64_t m = 0; m < c->modes; m++) {
        double *s = c->s0 + m * 2 * KR_W;
        const double *a = c->power + m * 2 * KR_W;
        for (int i = 0; i < KR_W; i++) {
            double re = s[i] * a[i] - s[KR_W + i] * a[KR_W + i];
            s[KR_W + i] = s[i] * a[KR_W + i] + s[KR_W + i] * a[i];
            s[i] = re + (L > 0 ? (double)g[i] : 0);
        }
    }
}

/* ---- a call -----------------------------------------------------------------------------------
 */

/* Finds the span behind step t of sequence s; false: there is none. */
static inline __attribute__((unused)) bool kr_conv_next(const kr_scan_seq *q, int64_t *t,
                                                        kr_conv_span *span) {
    int64_t at = *t, end = at + 1;
    if (at >= q->T) return false;
    while (end < q->T && !kr_scan_starts(q, end)) end++;
    *span = (kr_conv_span){kr_scan_row(q, at), end - at, q->reverse ? -1 : 1,
                           at == 0 && !kr_scan_starts(q, 0), end == q->T};
    *t = end;
    return true;
}

/* Rows of an array into [L][W], zeros in lanes without a channel. */
static inline __attribute__((unused)) void kr_conv_rows(const kr_conv *c, float *to,
                                                        const float *from, int64_t row,
                                                        const kr_conv_span *s) {
    for (int64_t t = 0; t < s->L; t++)
        kr_vstore(to + t * KR_W, kr_vload_n(from + (s->first + t * s->step) * row + c->h0, c->w));
}

/* Numbers [N] complex of each channel, vector `which` of [H,count,2N], to modes. NULL: zeros. */
static inline __attribute__((unused)) void kr_conv_vector(const kr_conv *c, double *to,
                                                          const float *from, int64_t which,
                                                          int64_t count) {
    int64_t N = c->v->N;
    memset(to, 0, (size_t)(c->modes * 2 * KR_W) * sizeof *to);
    for (int64_t i = 0; from && i < c->w; i++)
        for (int64_t n = 0; n < N; n++)
            for (int part = 0; part < 2; part++)
                to[kr_conv_at(n, part, i)] =
                    (double)from[(((c->h0 + i) * count + which) * 2 + part) * N + n];
}

static inline __attribute__((unused)) void kr_conv_unvector(const kr_conv *c, float *to,
                                                            const double *from, int64_t which,
                                                            int64_t count, bool add) {
    int64_t N = c->v->N;
    for (int64_t i = 0; to && i < c->w; i++)
        for (int64_t n = 0; n < N; n++)
            for (int part = 0; part < 2; part++) {
                float *p = &to[(((c->h0 + i) * count + which) * 2 + part) * N + n];
                *p = (float)(from[kr_conv_at(n, part, i)] + (add ? (double)*p : 0));
            }
}

static inline __attribute__((unused)) void kr_conv_modes(const kr_conv *c, double *to,
                                                         const float *from) {
    kr_conv_vector(c, to, from, 0, 1);
}
static inline __attribute__((unused)) void kr_conv_unmodes(const kr_conv *c, float *to,
                                                           const double *from, bool add) {
    kr_conv_unvector(c, to, from, 0, 1, add);
}

/* The system as the sums that make its kernel see it. */
static inline __attribute__((unused)) kr_cauchy kr_conv_cauchy(const kr_conv *c) {
    return (kr_cauchy){.modes = c->modes,
                       .length = c->longest,
                       .n = kr_cauchy_points(c->longest),
                       .low_rank = c->v->d->low_rank,
                       .kappa = c->v->d->kappa,
                       .a = c->power,
                       .b = c->b,
                       .c = c->c,
                       .low = c->low,
                       .ga = c->ga,
                       .gb = c->gb,
                       .gc = c->gc,
                       .glow = c->glow,
                       .roots = c->unit,
                       .points = c->points};
}

/* to (+)= scale a b, with conj: scale conj(a b); over all modes. */
static inline __attribute__((unused)) void kr_conv_product(const kr_conv *c, double *to,
                                                           const double *a, const double *b,
                                                           double scale, bool conj, bool add) {
    for (int64_t m = 0; m < c->modes * 2 * KR_W; m += 2 * KR_W)
        for (int64_t i = m; i < m + KR_W; i++) {
            double re = a[i] * b[i] - a[i + KR_W] * b[i + KR_W];
            double im = a[i] * b[i + KR_W] + a[i + KR_W] * b[i];
            to[i] = scale * re + (add ? to[i] : 0);
            to[i + KR_W] = (conj ? -scale : scale) * im + (add ? to[i + KR_W] : 0);
        }
}

/* to = a^L; work is destroyed and may not be to. */
static inline __attribute__((unused)) void kr_conv_power(const kr_conv *c, double *to, double *work,
                                                         int64_t L) {
    size_t size = (size_t)(c->modes * 2 * KR_W);
    memcpy(work, c->power, size * sizeof *work);
    for (size_t i = 0; i < size; i++) to[i] = i / KR_W % 2 == 0;
    for (; L > 0; L /= 2) {
        for (int64_t m = 0; L % 2 && m < c->modes; m++)
            kr_conv_scale(to + m * 2 * KR_W, work + m * 2 * KR_W);
        for (int64_t m = 0; m < c->modes; m++) {
            double square[2 * KR_W];
            memcpy(square, work + m * 2 * KR_W, sizeof square);
            kr_conv_scale(work + m * 2 * KR_W, square);
        }
    }
}

/* Everything about channels from h0 on that does not depend on x: a, b, c, powers and the kernel.
 */
void KR_FN(kr_conv_open)(kr_conv *c, int64_t h0);
/* The pieces of scratch, and the tables, made once a call. */
void KR_FN(kr_conv_cut)(kr_conv *c, const kr_scan_view *v, float *scratch, int thread);
void KR_FN(kr_conv_tables)(const kr_scan_view *v, float *scratch);

/* Each block of a call's channels, by whichever thread is free. */
KR_VINLINE void kr_conv_run(const kr_call *call, void (*block)(kr_conv *c, const kr_call *call)) {
    kr_scan_view v = kr_scan_unpack(call);
    int64_t blocks = (v.E + KR_W - 1) / KR_W;
    KR_FN(kr_conv_tables)(&v, call->scratch);
#pragma omp parallel num_threads(call->threads)
    {
        kr_conv c;
        KR_FN(kr_conv_cut)(&c, &v, call->scratch, omp_get_thread_num());
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < blocks; i++) {
            KR_FN(kr_conv_open)(&c, i * KR_W);
            block(&c, call);
        }
    }
}

#endif
