/* scan_seq_vec.c - the recurrence with vectors over channels, row after row (plan LANES), and the
 * choice of a plan.
 *
 * A piece is one sequence and up to KR_SCAN_GROUP channels. Its states stay in the first cache as
 * [blocks,N,W]; a row brings one vector of x, dt and z a block, and N numbers of b and c that every
 * lane shares:
 *
 *   a = 2^(delta A log2 e),   h[n] = a h[n] + delta x b[n]
 *   y = (kappa sum_n h[n] c[n] + D x) silu(z) */
#include "scan/vec_scan.h"

#include <omp.h>

typedef struct piece {
    const kr_scan_view *v;
    kr_scan_seq q;
    int64_t e0, lanes;  /* channels [e0, e0 + lanes) */
    float *A2, *h;      /* [blocks,N,W]: A log2 e, and the states */
    float *D, *bias;    /* [lanes] */
    const float *b, *c; /* of row 0, of this group */
    float *y;
    int64_t y_row;
    bool add;
} piece;

/* Rows lie pages apart, where the hardware does not look ahead. */
KR_VINLINE void fetch(const piece *p, int64_t row, int64_t e) {
    const kr_scan_view *v = p->v;
    __builtin_prefetch(v->dt + row * v->dt_row + e);
    __builtin_prefetch(v->x + row * v->x_row + e);
    if (v->z) __builtin_prefetch(v->z + row * v->z_row + e);
    __builtin_prefetch(p->y + row * p->y_row + e, 1);
}

/* One row of one block of channels: w lanes from channel e. */
KR_VINLINE void token(const piece *p, int64_t row, int64_t block, int64_t N) {
    const kr_scan_view *v = p->v;
    int64_t at = block * KR_W, e = p->e0 + at, w = p->lanes - at;
    kr_vf raw = kr_vload_n(v->dt + row * v->dt_row + e, w) + kr_vload(p->bias + at);
    kr_vf x = kr_vload_n(v->x + row * v->x_row + e, w), delta = kr_scan_delta(v->d, raw);
    kr_vf dx = v->d->gain == KRAIT_GAIN_DT ? delta * x : x;
    const float *A2 = p->A2 + at * N, *b = p->b + row * v->b_row, *c = p->c + row * v->c_row;
    float *h = p->h + at * N;
    kr_vf sum = kr_vzero();
    for (int64_t n = 0; n < N; n++) {
        kr_vf a = kr_vexp2(delta * kr_vload(A2 + n * KR_W));
        kr_vf now = kr_vfma(a, kr_vload(h + n * KR_W), dx * b[n]);
        kr_vstore(h + n * KR_W, now);
        sum = kr_vfma(now, kr_vset(c[n]), sum);
    }
    kr_vf y = kr_vfma(kr_vload(p->D + at), x, sum * (float)v->d->kappa);
    if (v->z) y *= kr_vsilu(kr_vload_n(v->z + row * v->z_row + e, w));
    kr_scan_put(p->y + row * p->y_row + e, w, y, p->add);
}

KR_VINLINE void rows(const piece *p, int64_t N) {
    int64_t blocks = (p->lanes + KR_W - 1) / KR_W;
    for (int64_t t = 0; t < p->q.T; t++) {
        int64_t row = kr_scan_row(&p->q, t);
        if (kr_scan_starts(&p->q, t)) memset(p->h, 0, (size_t)(blocks * KR_W * N) * sizeof(float));
        int64_t ahead = kr_scan_row(&p->q, t + KR_SCAN_AHEAD < p->q.T ? t + KR_SCAN_AHEAD : t);
        for (int64_t i = 0; i < blocks; i++) {
            fetch(p, ahead, p->e0 + i * KR_W);
            token(p, row, i, N);
        }
    }
}

static void run_piece(const kr_call *c, const kr_scan_view *v, int64_t s, int64_t e0, int64_t lanes,
                      float *scratch) {
    const kr_tensor *out = &c->out[KR_SCAN_OUT_STATE];
    int64_t N = v->N, group = e0 / (v->E / v->G);
    piece p = {.v = v, .q = kr_scan_sequence(v, s), .e0 = e0, .lanes = lanes};
    p.A2 = scratch;
    p.h = p.A2 + KR_SCAN_GROUP * N;
    p.D = p.h + KR_SCAN_GROUP * N;
    p.bias = p.D + KR_SCAN_GROUP;
    p.b = v->b + group * N;
    p.c = v->c + group * N;
    p.y = c->out[KR_SCAN_OUT_Y].data;
    p.y_row = c->out[KR_SCAN_OUT_Y].stride[0];
    p.add = c->accumulate & 1;
    kr_scan_to_blocks(p.A2, v->A + e0 * N, lanes, N, KR_LOG2_E);
    kr_scan_to_blocks(p.h, v->state_in ? v->state_in + p.q.slot * v->state_slot + e0 * N : NULL,
                      lanes, N, 1);
    kr_scan_spread(p.D, v->D, e0, lanes, kr_scan_skip_each(v->d));
    kr_scan_spread(p.bias, v->bias, e0, lanes, 1);
    if (N == 16)
        rows(&p, 16);
    else
        rows(&p, N);
    if (c->n_out > KR_SCAN_OUT_STATE && out->data)
        kr_scan_from_blocks((float *)out->data + p.q.slot * out->stride[0] + e0 * N, p.h, lanes, N,
                            false);
}

void KR_FN(kr_scan_lanes)(const kr_call *c) {
    kr_scan_view v = kr_scan_unpack(c);
    int64_t width = v.E / v.G, pieces = (width + KR_SCAN_GROUP - 1) / KR_SCAN_GROUP;
    int64_t own = kr_scan_line(KR_SCAN_GROUP * (2 * v.N + 2));
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
    for (int64_t i = 0; i < v.S * v.G * pieces; i++) {
        int64_t s = i / (v.G * pieces), at = i % pieces * KR_SCAN_GROUP;
        int64_t e0 = i / pieces % v.G * width + at;
        int64_t lanes = width - at < KR_SCAN_GROUP ? width - at : KR_SCAN_GROUP;
        run_piece(c, &v, s, e0, lanes, (float *)c->scratch + omp_get_thread_num() * own);
    }
}

void KR_FN(kr_scan)(const kr_call *c) {
    switch (kr_scan_pick(c, false)) {
    case KR_SCAN_LANES: KR_FN(kr_scan_lanes)(c); return;
    case KR_SCAN_LANES_STEP: KR_FN(kr_scan_lanes_step)(c); return;
    case KR_SCAN_ROWS: KR_FN(kr_scan_rows)(c); return;
    case KR_SCAN_MATRIX: KR_FN(kr_scan_chunk)(c); return;
    case KR_SCAN_COMPLEX: KR_FN(kr_scan_complex)(c); return;
    case KR_SCAN_CONV: KR_FN(kr_scan_conv)(c); return;
    case KR_SCAN_MODES: KR_FN(kr_scan_modes)(c); return;
    case KR_SCAN_STEPS: KR_FN(kr_scan_steps)(c); return;
    case KR_SCAN_REFERENCE: kr_scan_ref(c); return;
    }
}
