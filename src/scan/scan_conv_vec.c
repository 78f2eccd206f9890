/* scan_conv_vec.c - the recurrence as a convolution (plan CONV: S4D): where a, b and c are constant
 * in time, y = K * x + D x with
 *
 *   K_l = kappa Re sum_n c_n b_n a_n^l      (a Vandermonde product: Gu et al. 2022, S4D)
 *
 * for each span of rows that no reset cuts. A state h that comes in adds kappa Re sum c a^(l+1) h;
 * the one that goes out is a^L h + b sum_j a^(L-1-j) x_j. Powers are running products in f32 that
 * start anew from exact ones every KR_CONV_SPAN rows. With a decay of low rank (S4) scan_cauchy.h
 * makes the kernel, and no state comes in or goes out. */
#include "scan/vec_conv.h"

/* ---- setting up -------------------------------------------------------------------------------
 */

static int64_t longest_of(const kr_scan_view *v) {
    int64_t longest = 1;
    for (int64_t s = 0; s < v->S; s++) {
        kr_scan_seq q = kr_scan_sequence(v, s);
        kr_conv_span span;
        for (int64_t t = 0; kr_conv_next(&q, &t, &span);)
            if (span.L > longest) longest = span.L;
    }
    return longest;
}

void KR_FN(kr_conv_tables)(const kr_scan_view *v, float *scratch) {
    int64_t n = (int64_t)1 << kr_conv_log(longest_of(v));
    const double pi = 3.14159265358979323846;
    for (int64_t j = 0; j < n; j++) {
        double share = (double)j / (double)n;
        scratch[2 * j] = (float)cos(2 * pi * share);
        scratch[2 * j + 1] = (float)-sin(2 * pi * share);
        scratch[2 * (n + j)] = (float)cos(pi / 2 * share);
        scratch[2 * (n + j) + 1] = (float)sin(pi / 2 * share);
    }
    n = kr_cauchy_points(longest_of(v));
    double *unit = (double *)(void *)(scratch + kr_scan_conv_tables(v->M));
    for (int64_t j = 0; v->d->low_rank && j < n / 2; j++) {
        unit[2 * j] = cos(2 * pi * (double)j / (double)n);
        unit[2 * j + 1] = -sin(2 * pi * (double)j / (double)n);
    }
}

void KR_FN(kr_conv_cut)(kr_conv *c, const kr_scan_view *v, float *scratch, int thread) {
    *c = (kr_conv){.v = v, .longest = longest_of(v)};
    c->n = (int64_t)1 << kr_conv_log(c->longest);
    c->modes = (v->N + KR_CONV_TILE - 1) / KR_CONV_TILE * KR_CONV_TILE;
    c->root = scratch;
    c->twist = scratch + 2 * c->n;
    float *at = scratch + kr_scan_conv_tables(v->M);
    c->unit = (double *)(void *)at;
    at += kr_scan_conv_unit(v->d, v->M) + thread * kr_scan_conv_own(v->d, v->M);
    double **doubles[] = {&c->power, &c->far, &c->b,  &c->c,  &c->h,  &c->term, &c->now,
                          &c->s0,    &c->s1,  &c->gb, &c->gc, &c->ga, &c->gh,   &c->dh};
    for (int i = 0; i < KR_SCAN_CONV_MODES; i++, at += 4 * c->modes * KR_W)
        *doubles[i] = (double *)(void *)at;
    c->low = (double *)(void *)at;
    c->glow = c->low + 4 * v->d->low_rank * c->modes * KR_W;
    c->points = c->low + 8 * v->d->low_rank * c->modes * KR_W;
    if (v->d->low_rank) at = (float *)(c->points + kr_cauchy_points(c->longest) * 2 * KR_W);
    c->a = at;
    at += 2 * c->modes * KR_W;
    float **times[] = {&c->k, &c->dk, &c->x, &c->y, &c->t, &c->fx, &c->fy, &c->fk, &c->fg};
    static const int sizes[] = {1, 1, 1, 1, 1, 2, 2, 4, 4};
    for (int i = 0; i < 9; i++) {
        *times[i] = at;
        at += sizes[i] * c->n * KR_W;
    }
}

/* K_l, l < longest, of a decay of low rank. */
static void low_kernel(kr_conv *c) {
    kr_cauchy s = kr_conv_cauchy(c);
    KR_FN(kr_cauchy_kernel)(&s);
    for (int64_t l = 0; l < c->longest; l++)
        for (int64_t i = 0; i < KR_W; i++) c->k[l * KR_W + i] = (float)c->points[l * 2 * KR_W + i];
}

/* a, in double; of padding: 0. */
static void decays(kr_conv *c) {
    int64_t K = c->v->d->low_rank;
    kr_conv_vector(c, c->power, c->v->A, 0, 1 + 2 * K);
    for (int64_t k = 0; k < 2 * K; k++)
        kr_conv_vector(c, c->low + k * c->modes * 2 * KR_W, c->v->A, 1 + k, 1 + 2 * K);
    for (int64_t m = 0; m < c->modes && c->v->d->form == KRAIT_FORM_LOG; m++)
        for (int64_t i = 0; i < KR_W; i++) {
            double *re = &c->power[kr_conv_at(m, 0, i)], *im = &c->power[kr_conv_at(m, 1, i)];
            double size = exp(*re), phase = *im;
            *re = size * cos(phase);
            *im = size * sin(phase);
        }
    for (int64_t i = 0; i < c->modes * 2 * KR_W; i++) c->a[i] = (float)c->power[i];
    kr_conv_power(c, c->far, c->now, KR_CONV_SPAN);
}

void KR_FN(kr_conv_open)(kr_conv *c, int64_t h0) {
    const kr_scan_view *v = c->v;
    c->h0 = h0;
    c->w = v->E - h0 < KR_W ? v->E - h0 : KR_W;
    memset(c->has_k, 0, sizeof c->has_k);
    memset(c->has_g, 0, sizeof c->has_g);
    decays(c);
    kr_conv_modes(c, c->b, v->b);
    kr_conv_modes(c, c->c, v->c);
    if (v->d->low_rank) {
        low_kernel(c);
        return;
    }
    kr_conv_product(c, c->term, c->b, c->c, v->d->kappa, false, false);
    memset(c->k, 0, (size_t)(c->longest * KR_W) * sizeof *c->k);
    kr_conv_expand(c, c->k, c->longest);
}

/* ---- forward ----------------------------------------------------------------------------------
 */

static void write_y(const kr_conv *c, const kr_call *call, const kr_conv_span *s) {
    const kr_tensor *y = &call->out[KR_SCAN_OUT_Y];
    kr_vf D = c->v->D ? kr_vload_n(c->v->D + c->h0, c->w) : kr_vzero();
    for (int64_t t = 0; t < s->L; t++) {
        float *to = (float *)y->data + (s->first + t * s->step) * y->stride[0] + c->h0;
        kr_vf u = kr_vfma(D, kr_vload(c->x + t * KR_W), kr_vload(c->y + t * KR_W));
        kr_scan_put(to, c->w, u, call->accumulate & 1);
    }
}

/* h = a^L h (where it passes) + b sum_j a^(L-1-j) x_j */
static void state_behind(kr_conv *c, const kr_conv_span *s) {
    size_t size = (size_t)(c->modes * 2 * KR_W);
    for (int64_t t = 0; t < s->L; t++)
        kr_vstore(c->t + t * KR_W, kr_vload(c->x + (s->L - 1 - t) * KR_W));
    if (s->from_state) {
        kr_conv_power(c, c->term, c->now, s->L);
        kr_conv_product(c, c->h, c->h, c->term, 1, false, false);
    } else {
        memset(c->h, 0, size * sizeof *c->h);
    }
    kr_conv_moments(c, c->t, s->L);
    kr_conv_product(c, c->h, c->b, c->s0, 1, false, true);
}

static void forward_span(kr_conv *c, const kr_call *call, const kr_conv_span *s, bool keep) {
    int log = kr_conv_log(s->L);
    int64_t n = (int64_t)1 << log;
    kr_conv_rows(c, c->x, c->v->x, c->v->x_row, s);
    kr_conv_transform(c, c->fx, c->x, s->L, n, false);
    kr_conv_times(c->fx, c->fx, kr_conv_kernel(c, log), n, false);
    kr_conv_untransform(c, c->y, c->fx, s->L, n, false, false);
    if (s->from_state && c->v->state_in) {
        kr_conv_product(c, c->term, c->c, c->power, c->v->d->kappa, false, false);
        kr_conv_product(c, c->term, c->term, c->h, 1, false, false);
        kr_conv_expand(c, c->y, s->L);
    }
    write_y(c, call, s);
    if (s->to_state && keep) state_behind(c, s);
}

static void forward_block(kr_conv *c, const kr_call *call) {
    const kr_scan_view *v = c->v;
    const kr_tensor *out = &call->out[KR_SCAN_OUT_STATE];
    bool keep = call->n_out > KR_SCAN_OUT_STATE && out->data;
    for (int64_t s = 0; s < v->S; s++) {
        kr_scan_seq q = kr_scan_sequence(v, s);
        kr_conv_span span;
        kr_conv_modes(c, c->h, v->state_in ? v->state_in + q.slot * v->state_slot : NULL);
        for (int64_t t = 0; kr_conv_next(&q, &t, &span);) forward_span(c, call, &span, keep);
        if (keep) kr_conv_unmodes(c, (float *)out->data + q.slot * out->stride[0], c->h, false);
    }
}

void KR_FN(kr_scan_conv)(const kr_call *call) { kr_conv_run(call, forward_block); }
