/* scan_rows_vec.c - the recurrence with vectors over N (plan ROWS): no decay, one a head, or one a
 * number of N; any ranks; real.
 *
 * A piece is one sequence and head. Its states [P,N] stay where state_out has them, or in scratch.
 * A row brings decays a [N], x [R,P], b [R,N] and c [Q,N]:
 *
 *   h[p] = a (*) h[p] + sum_r gain x_r[p] b_r,   y_q[p] = (kappa h[p] . c_q + D x_q[p]) silu(z)
 *
 * One row a sequence (a decode step) is the same loop: each state is read and written once. */
#include "scan/vec_rows.h"

#include <omp.h>

enum { TILE = 4 }; /* channels that share each load of a, b and c */

typedef struct piece {
    const kr_scan_view *v;
    kr_scan_seq q;
    int64_t head, group;
    float *h;    /* [P,N] */
    float *a;    /* [N] */
    float *sums; /* [P] */
    float *gx;   /* [R,P]: gain x */
    const kr_tensor *y;
    bool add;
} piece;

/* h of `tile` channels from p on; from NULL: zeros. */
KR_VINLINE void update(const piece *p, int64_t row, int64_t c, int tile, const float *from) {
    const kr_scan_view *v = p->v;
    int64_t N = v->N, P = v->P, R = v->d->inputs;
    const float *b = v->b + row * v->b_row + p->group * N;
    for (int64_t n = 0; n < N; n += KR_W) {
        int64_t w = N - n;
        kr_vf h[TILE], a = kr_vload_n(p->a + n, w);
        for (int i = 0; i < tile; i++)
            h[i] = from ? a * kr_vload_n(from + (c + i) * N + n, w) : kr_vzero();
        for (int64_t r = 0; r < R; r++) {
            kr_vf br = kr_vload_n(b + r * v->G * N + n, w);
            for (int i = 0; i < tile; i++) h[i] = kr_vfma(kr_vset(p->gx[r * P + c + i]), br, h[i]);
        }
        for (int i = 0; i < tile; i++) kr_vstore_n(p->h + (c + i) * N + n, w, h[i]);
    }
}

/* h . c_q of `tile` channels. */
KR_VINLINE void read(const piece *p, int64_t row, int64_t q, int64_t at, int tile) {
    const kr_scan_view *v = p->v;
    int64_t N = v->N;
    const float *c = v->c + row * v->c_row + (q * v->G + p->group) * N;
    kr_vf sum[TILE];
    for (int i = 0; i < tile; i++) sum[i] = kr_vzero();
    for (int64_t n = 0; n < N; n += KR_W) {
        kr_vf cn = kr_vload_n(c + n, N - n);
        for (int i = 0; i < tile; i++)
            sum[i] = kr_vfma(cn, kr_vload_n(p->h + (at + i) * N + n, N - n), sum[i]);
    }
    for (int i = 0; i < tile; i++) p->sums[at + i] = kr_vsum(sum[i]);
}

/* Skip and gate of one read. */
static void write_y(const piece *p, int64_t row, int64_t q) {
    const kr_scan_view *v = p->v;
    int64_t P = v->P, at = q * v->E + p->head * P;
    const float *x = v->x + row * v->x_row + at, *z = v->z ? v->z + row * v->z_row + at : NULL;
    float *y = (float *)p->y->data + row * p->y->stride[0] + at;
    for (int64_t c = 0; c < P; c += KR_W) {
        int64_t w = P - c;
        kr_vf u = kr_vload_n(p->sums + c, w) * (float)v->d->kappa;
        if (v->D)
            u = kr_vfma(v->d->skip_per_channel ? kr_vload_n(v->D + p->head * P + c, w)
                                               : kr_vset(v->D[p->head]),
                        kr_vload_n(x + c, w), u);
        if (z) u *= kr_vsilu(kr_vload_n(z + c, w));
        kr_scan_put(y + c, w, u, p->add);
    }
}

static void step(const piece *p, int64_t t, const float *from) {
    const kr_scan_view *v = p->v;
    int64_t row = kr_scan_row(&p->q, t), P = v->P, c = 0;
    float delta = kr_rows_delta(v, row, p->head);
    for (int64_t r = 0; r < v->d->inputs; r++) {
        float gain = kr_rows_gain(v, row, p->head, r, delta);
        const float *x = v->x + row * v->x_row + r * v->E + p->head * P;
        for (int64_t i = 0; i < P; i++) p->gx[r * P + i] = gain * x[i];
    }
    if (kr_scan_starts(&p->q, t)) from = NULL;
    if (from) kr_rows_decay(v, row, p->head, delta, p->a);
    for (; c + TILE <= P; c += TILE) update(p, row, c, TILE, from);
    for (; c < P; c++) update(p, row, c, 1, from);
    for (int64_t q = 0; q < v->d->reads; q++) {
        for (c = 0; c + TILE <= P; c += TILE) read(p, row, q, c, TILE);
        for (; c < P; c++) read(p, row, q, c, 1);
        write_y(p, row, q);
    }
}

static void run_piece(const kr_call *c, const kr_scan_view *v, int64_t s, int64_t head,
                      float *scratch) {
    const kr_tensor *out = &c->out[KR_SCAN_OUT_STATE];
    int64_t size = v->P * v->N, line = kr_scan_line(size);
    piece p = {.v = v, .q = kr_scan_sequence(v, s), .head = head, .y = &c->out[KR_SCAN_OUT_Y]};
    bool keep = c->n_out > KR_SCAN_OUT_STATE && out->data;
    const float *from = v->state_in ? v->state_in + p.q.slot * v->state_slot + head * size : NULL;
    p.group = head / (v->d->heads / v->G);
    p.add = c->accumulate & 1;
    p.h = keep ? (float *)out->data + p.q.slot * out->stride[0] + head * size : scratch;
    p.a = scratch + line;
    p.sums = p.a + kr_scan_line(v->N);
    p.gx = p.sums + kr_scan_line(v->P);
    for (int64_t t = 0; t < p.q.T; t++) step(&p, t, t ? p.h : from);
    if (p.q.T == 0 && keep && p.h != from) /* nothing happened: the state passes through */
        for (int64_t i = 0; i < size; i++) p.h[i] = from ? from[i] : 0;
}

void KR_FN(kr_scan_rows)(const kr_call *c) {
    kr_scan_view v = kr_scan_unpack(c);
    int64_t H = v.d->heads, own = kr_scan_rows_forward(v.d);
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
    for (int64_t i = 0; i < v.S * H; i++)
        run_piece(c, &v, i / H, i % H, (float *)c->scratch + omp_get_thread_num() * own);
}
