/* scan_conv_back_vec.c - the backward pass of plan CONV (scan_conv_vec.c). With g = dL/dy:
 *
 *   dx_j = sum_l K_l g_{j+l} + D g_j        dK_l = sum_j x_j g_{j+l}
 *
 * which are convolutions with g backward in time; dK is summed over the spans of a size as
 * transforms. Then, with G_w = dL/dRe w + i dL/dIm w and sums s0 = sum_l dK_l a^l, s1 = ds0/da,
 *
 *   G_b = kappa conj(c s0)    G_c = kappa conj(b s0)    G_a = kappa conj(b c s1)
 *
 * and likewise for the states that come in (sums over g) and go out (sums over x from the end). */
#include "scan/vec_conv.h"

static const kr_tensor *wanted(const kr_call *c, int i) {
    return i < c->n_out && c->out[i].data ? &c->out[i] : NULL;
}

static void write_dx(const kr_conv *c, const kr_call *call, const kr_conv_span *s) {
    const kr_tensor *dx = wanted(call, KR_SCAN_DX);
    kr_vf D = c->v->D ? kr_vload_n(c->v->D + c->h0, c->w) : kr_vzero();
    for (int64_t t = 0; dx && t < s->L; t++) {
        float *to = (float *)dx->data + (s->first + t * s->step) * dx->stride[0] + c->h0;
        kr_vf u = kr_vfma(D, kr_vload(c->y + t * KR_W), kr_vload(c->t + t * KR_W));
        kr_scan_put(to, c->w, u, call->accumulate >> KR_SCAN_DX & 1);
    }
}

/* The state h that came in: y_l had kappa Re sum c a^(l+1) h. */
static void state_in_back(kr_conv *c, const kr_conv_span *s, double *dh) {
    double kappa = c->v->d->kappa;
    kr_conv_moments(c, c->y, s->L);
    kr_conv_product(c, c->term, c->power, c->s0, 1, false, false); /* a s0 */
    kr_conv_product(c, dh, c->c, c->term, kappa, true, true);
    kr_conv_product(c, c->gc, c->h, c->term, kappa, true, true);
    kr_conv_product(c, c->s1, c->power, c->s1, 1, false, false);
    for (int64_t i = 0; i < c->modes * 2 * KR_W; i++) c->s1[i] += c->s0[i]; /* d(a s0)/da */
    kr_conv_product(c, c->term, c->c, c->h, 1, false, false);
    kr_conv_product(c, c->ga, c->term, c->s1, kappa, true, true);
}

/* conj(v) in place. */
static void conjugate(const kr_conv *c, double *v) {
    for (int64_t m = 0; m < c->modes; m++)
        for (int i = 0; i < KR_W; i++) v[kr_conv_at(m, 1, i)] *= -1;
}

/* The state that goes out, a^L h + b sum_j a^(L-1-j) x_j, of gradient conj(gh) here: the gradients
 * of b, a and x; c->t gets dx. */
static void state_out_back(kr_conv *c, const kr_conv_span *s) {
    float *turned = c->fx; /* [L][W], free by now */
    for (int64_t t = 0; t < s->L; t++)
        kr_vstore(turned + t * KR_W, kr_vload(c->x + (s->L - 1 - t) * KR_W));
    kr_conv_moments(c, turned, s->L);
    kr_conv_product(c, c->gb, c->s0, c->gh, 1, true, true);
    kr_conv_product(c, c->term, c->b, c->gh, 1, false, false);
    kr_conv_product(c, c->ga, c->term, c->s1, 1, true, true);
    memset(turned, 0, (size_t)(s->L * KR_W) * sizeof *turned);
    kr_conv_expand(c, turned, s->L);
    for (int64_t t = 0; t < s->L; t++)
        kr_vstore(c->t + t * KR_W,
                  kr_vload(c->t + t * KR_W) + kr_vload(turned + (s->L - 1 - t) * KR_W));
}

/* What passes from the state in to the state out: a^L. dh += conj(a^L) G, G_a += conj(L a^(L-1) h)
 * G. */
static void passing_back(kr_conv *c, const kr_conv_span *s, double *dh) {
    kr_conv_power(c, c->term, c->now, s->L - 1);
    kr_conv_product(c, c->s0, c->term, c->power, 1, false, false);
    kr_conv_product(c, dh, c->s0, c->gh, 1, true, true);
    kr_conv_product(c, c->s1, c->term, c->h, (double)s->L, false, false);
    kr_conv_product(c, c->ga, c->s1, c->gh, 1, true, true);
}

/* Convolutions of one span: c->t gets dx without D, the size's sum of dK its part. */
static void span_back(kr_conv *c, const kr_conv_span *s) {
    int log = kr_conv_log(s->L);
    int64_t n = (int64_t)1 << log;
    float *fg = c->fg + n * 2 * KR_W;
    kr_conv_transform(c, c->fx, c->x, s->L, n, false);
    kr_conv_transform(c, c->fy, c->y, s->L, n, true);
    kr_conv_times(fg, c->fx, c->fy, n, c->has_g[log]);
    c->has_g[log] = true;
    kr_conv_times(c->fy, c->fy, kr_conv_kernel(c, log), n, false);
    kr_conv_untransform(c, c->t, c->fy, s->L, n, true, false);
}

static void skip_back(const kr_conv *c, const kr_conv_span *s, double *dD) {
    kr_vf sum = kr_vzero();
    float lanes[KR_W];
    for (int64_t t = 0; t < s->L; t++)
        sum = kr_vfma(kr_vload(c->x + t * KR_W), kr_vload(c->y + t * KR_W), sum);
    kr_vstore(lanes, sum);
    for (int i = 0; i < KR_W; i++) dD[i] += (double)lanes[i];
}

/* c->dh gets the gradient of the state that comes in. */
static void sequence_back(kr_conv *c, const kr_call *call, const kr_scan_seq *q, double *dD) {
    const kr_scan_view *v = c->v;
    double *dh = c->dh;
    kr_conv_span s;
    size_t size = (size_t)(c->modes * 2 * KR_W);
    memset(dh, 0, size * sizeof *dh);
    kr_conv_modes(c, c->h, v->state_in ? v->state_in + q->slot * v->state_slot : NULL);
    kr_conv_modes(c, c->gh, v->dstate ? v->dstate + q->slot * v->dstate_slot : NULL);
    if (q->T == 0) memcpy(dh, c->gh, size * sizeof *dh);
    conjugate(c, c->gh);
    for (int64_t t = 0; kr_conv_next(q, &t, &s);) {
        kr_conv_rows(c, c->x, v->x, v->x_row, &s);
        kr_conv_rows(c, c->y, v->dy, v->dy_row, &s);
        span_back(c, &s);
        if (s.from_state && v->state_in) state_in_back(c, &s, dh);
        if (s.to_state && v->dstate) state_out_back(c, &s);
        if (s.from_state && s.to_state && v->dstate) passing_back(c, &s, dh);
        skip_back(c, &s, dD);
        write_dx(c, call, &s);
    }
}

/* dK from its transforms, then b, c and a from dK. */
static void kernel_back(kr_conv *c) {
    double kappa = c->v->d->kappa;
    memset(c->dk, 0, (size_t)(c->longest * KR_W) * sizeof *c->dk);
    for (int log = 0; (int64_t)1 << log <= c->n; log++) {
        int64_t n = (int64_t)1 << log;
        if (c->has_g[log])
            kr_conv_untransform(c, c->dk, c->fg + n * 2 * KR_W, c->longest, n, true, true);
    }
    if (c->v->d->low_rank) {
        kr_cauchy s = kr_conv_cauchy(c);
        for (int64_t l = 0; l < c->longest; l++)
            for (int64_t i = 0; i < KR_W; i++)
                c->points[l * 2 * KR_W + i] = (double)c->dk[l * KR_W + i];
        KR_FN(kr_cauchy_gradient)(&s);
        return;
    }
    kr_conv_moments(c, c->dk, c->longest);
    kr_conv_product(c, c->gb, c->c, c->s0, kappa, true, true);
    kr_conv_product(c, c->gc, c->b, c->s0, kappa, true, true);
    kr_conv_product(c, c->term, c->b, c->c, 1, false, false);
    kr_conv_product(c, c->ga, c->term, c->s1, kappa, true, true);
}

/* Of A: a itself or its logarithm. */
static void write_modes(kr_conv *c, const kr_call *call) {
    const int to[] = {KR_SCAN_DA, KR_SCAN_DB, KR_SCAN_DC};
    double *from[] = {c->ga, c->gb, c->gc};
    if (c->v->d->form == KRAIT_FORM_LOG) {
        conjugate(c, c->ga); /* conj(a) G = conj(a conj(G)) */
        kr_conv_product(c, c->ga, c->power, c->ga, 1, true, false);
    }
    int64_t K = c->v->d->low_rank;
    bool add_A = call->accumulate >> KR_SCAN_DA & 1;
    for (int i = 0; i < 3; i++)
        if (wanted(call, to[i]))
            kr_conv_unvector(c, call->out[to[i]].data, from[i], 0, i ? 1 : 1 + 2 * K,
                             call->accumulate >> to[i] & 1);
    for (int64_t k = 0; wanted(call, KR_SCAN_DA) && k < 2 * K; k++)
        kr_conv_unvector(c, call->out[KR_SCAN_DA].data, c->glow + k * c->modes * 2 * KR_W, 1 + k,
                         1 + 2 * K, add_A);
}

static void block_back(kr_conv *c, const kr_call *call) {
    double dD[KR_W] = {0}, *grads[] = {c->ga, c->gb, c->gc};
    const kr_tensor *dstate = wanted(call, KR_SCAN_DSTATE_IN), *D = wanted(call, KR_SCAN_DD);
    for (int i = 0; i < 3; i++) memset(grads[i], 0, (size_t)(c->modes * 2 * KR_W) * sizeof(double));
    memset(c->glow, 0, (size_t)(4 * c->v->d->low_rank * c->modes * KR_W) * sizeof(double));
    for (int64_t s = 0; s < c->v->S; s++) {
        kr_scan_seq q = kr_scan_sequence(c->v, s);
        sequence_back(c, call, &q, dD);
        if (dstate)
            kr_conv_unmodes(c, (float *)dstate->data + q.slot * dstate->stride[0], c->dh, true);
    }
    kernel_back(c);
    write_modes(c, call);
    for (int64_t i = 0; D && i < c->w; i++) {
        float *to = (float *)D->data + c->h0 + i;
        *to = (float)(dD[i] + (call->accumulate >> KR_SCAN_DD & 1 ? (double)*to : 0));
    }
}

/* Slots that no sequence names have no gradient. */
static void clear_states(const kr_call *c) {
    const kr_tensor *t = wanted(c, KR_SCAN_DSTATE_IN);
    if (t && !(c->accumulate >> KR_SCAN_DSTATE_IN & 1)) memset(t->data, 0, kr_tensor_bytes(t));
}

void KR_FN(kr_scan_conv_grad)(const kr_call *call) {
    clear_states(call);
    kr_conv_run(call, block_back);
}
