/* scan_back_vec.c - the gradient of the recurrence with vectors over channels (plan LANES).
 *
 * An item is (slab of sequences, group of b and c, part of the group's channels); scan_plan.h. For
 * each of its sequences:
 *
 *   1. forward once, keeping the states in front of every chunk of KR_SCAN_CHUNK rows;
 *   2. chunk by chunk from the last: forward again, keeping a_t and w_t = a_t h_{t-1} of one block
 * of channels, then back: h_t = w_t + delta x b,   g = L + kappa dy c,   L <- a g db += g delta x,
 * dc += dy h,  s1 = sum_n g b,  s2 = sum_n A g w,  dA += delta g w dx = delta s1 + D dy,  ddelta =
 * x s1 + s2
 *
 * db and dc are summed over the lanes of all blocks first and folded once a chunk. Nothing of size
 * [M,E,N] exists. */
#include "scan/vec_scan.h"

#include <omp.h>

enum { C = KR_SCAN_CHUNK };

typedef struct item {
    const kr_call *call;
    const kr_scan_view *v;
    const kr_scan_cut *cut;
    kr_scan_seq q;
    int64_t e0, lanes, blocks;
    const float *b, *c;           /* of row 0, of this group */
    float *A2, *h, *L, *dA;       /* [blocks,N,W] */
    float *D, *bias, *dD, *dbias; /* [lanes] */
    float *starts;                /* [chunks,blocks,N,W] */
    float *a, *w;                 /* [C,N,W], of one block */
    float *db, *dc;               /* [C,N,W], over all blocks */
    float *delta, *du, *u;        /* [C,W]: delta, delta x; kappa sum_n h c comes back in u */
    float *bc;                    /* [M,G,2,N]: where this part's sums of row 0 and this group go */
} item;

KR_VINLINE int64_t block_floats(const item *p) { return p->v->N * KR_W; }

KR_VINLINE kr_vf raw_of(const item *p, int64_t row, int64_t block) {
    const kr_scan_view *v = p->v;
    int64_t at = block * KR_W;
    return kr_vload_n(v->dt + row * v->dt_row + p->e0 + at, p->lanes - at) + kr_vload(p->bias + at);
}

KR_VINLINE kr_vf x_of(const item *p, int64_t row, int64_t block) {
    return kr_vload_n(p->v->x + row * p->v->x_row + p->e0 + block * KR_W, p->lanes - block * KR_W);
}

/* One row of one block forward. keep: to a and w of chunk row k; otherwise only h moves. */
KR_VINLINE void forward(const item *p, int64_t t, int64_t block, int64_t k, bool keep, int64_t N) {
    const kr_scan_view *v = p->v;
    int64_t row = kr_scan_row(&p->q, t);
    const float *A2 = p->A2 + block * KR_W * N, *b = p->b + row * v->b_row;
    float *h = p->h + block * KR_W * N, *a_to = p->a + k * KR_W * N, *w_to = p->w + k * KR_W * N;
    kr_vf x = x_of(p, row, block), delta = kr_scan_delta(v->d, raw_of(p, row, block));
    kr_vf du = v->d->gain == KRAIT_GAIN_DT ? delta * x : x;
    kr_vf alive = kr_vset(kr_scan_starts(&p->q, t) ? 0.0f : 1.0f);
    if (keep) {
        kr_vstore(p->delta + k * KR_W, delta);
        kr_vstore(p->du + k * KR_W, du);
    }
    for (int64_t n = 0; n < N; n++) {
        kr_vf a = kr_vexp2(delta * kr_vload(A2 + n * KR_W)) * alive;
        kr_vf w = a * kr_vload(h + n * KR_W);
        kr_vstore(h + n * KR_W, kr_vfma(du, kr_vset(b[n]), w));
        if (keep) {
            kr_vstore(a_to + n * KR_W, a);
            kr_vstore(w_to + n * KR_W, w);
        }
    }
}

/* Adds to the accumulator at p. */
KR_VINLINE void more(float *p, kr_vf a, kr_vf b) { kr_vstore(p, kr_vfma(a, b, kr_vload(p))); }

/* One row of one block back: dy is the gradient of what was read. Leaves sum_n g b and sum_n A g w
 * in s1 and s2. */
KR_VINLINE void backward(const item *p, int64_t row, int64_t block, int64_t k, int64_t N, kr_vf dy,
                         kr_vf *s1, kr_vf *s2) {
    int64_t at = k * KR_W, of = block * KR_W * N;
    const float *b = p->b + row * p->v->b_row, *c = p->c + row * p->v->c_row;
    const float *a = p->a + at * N, *w = p->w + at * N, *A2 = p->A2 + of;
    float *L = p->L + of, *dA = p->dA + of, *db = p->db + at * N, *dc = p->dc + at * N;
    kr_vf delta = kr_vload(p->delta + at), du = kr_vload(p->du + at), u = kr_vzero();
    *s1 = *s2 = kr_vzero();
    dy *= (float)p->v->d->kappa;
    for (int64_t n = 0; n < N; n++) {
        int64_t i = n * KR_W;
        kr_vf bn = kr_vset(b[n]), cn = kr_vset(c[n]), wn = kr_vload(w + i);
        kr_vf h = kr_vfma(du, bn, wn), g = kr_vfma(dy, cn, kr_vload(L + i)), gw = g * wn;
        u = kr_vfma(h, cn, u);
        more(dc + i, dy, h);
        more(db + i, g, du);
        more(dA + i, delta, gw);
        *s1 = kr_vfma(g, bn, *s1);
        *s2 = kr_vfma(kr_vload(A2 + i), gw, *s2);
        kr_vstore(L + i, kr_vload(a + i) * g);
    }
    *s2 *= 1 / KR_LOG2_E;
    kr_vstore(p->u + at, u * (float)p->v->d->kappa);
}

static float *out_row(const item *p, int i, int64_t row, int64_t e) {
    const kr_tensor *t = &p->call->out[i];
    return t->data ? (float *)t->data + row * t->stride[0] + e : NULL;
}

static void put(const item *p, int i, int64_t row, int64_t block, kr_vf value) {
    float *to = out_row(p, i, row, p->e0 + block * KR_W);
    if (to) kr_scan_put(to, p->lanes - block * KR_W, value, p->call->accumulate >> i & 1);
}

/* Everything of one row and block but the loop over n: gate, skip, softplus. */
KR_VINLINE void row_back(const item *p, int64_t t, int64_t block, int64_t k, int64_t N) {
    const kr_scan_view *v = p->v;
    int64_t row = kr_scan_row(&p->q, t), at = block * KR_W, w = p->lanes - at;
    kr_vf s1, s2, dy = kr_vzero(), z = kr_vzero(), sigma = kr_vzero(), du = kr_vzero();
    kr_vf x = x_of(p, row, block), D = kr_vload(p->D + at), raw = raw_of(p, row, block);
    if (v->dy) dy = du = kr_vload_n(v->dy + row * v->dy_row + p->e0 + at, w);
    if (v->z) {
        z = kr_vload_n(v->z + row * v->z_row + p->e0 + at, w);
        sigma = kr_vsigmoid(z);
        du = dy * z * sigma;
    }
    backward(p, row, block, k, N, du, &s1, &s2);
    kr_vf u = kr_vfma(D, x, kr_vload(p->u + k * KR_W));
    if (v->z) put(p, KR_SCAN_DZ, row, block, dy * u * kr_vsilu_slope(z, sigma));
    bool gain = v->d->gain == KRAIT_GAIN_DT;
    kr_vf dx = gain ? kr_vload(p->delta + k * KR_W) * s1 : s1;
    put(p, KR_SCAN_DX, row, block, kr_vfma(D, du, dx));
    kr_vf draw = (gain ? kr_vfma(x, s1, s2) : s2) * kr_scan_delta_slope(v->d, raw);
    put(p, KR_SCAN_DDT, row, block, draw);
    more(p->dD + at, du, x);
    kr_vstore(p->dbias + at, kr_vload(p->dbias + at) + draw);
}

/* Folds the chunk's db and dc over lanes into this part's sums. */
static void fold(const item *p, int64_t t0, int64_t count) {
    int64_t N = p->v->N, stride = p->cut->G * 2 * N;
    for (int64_t k = 0; k < count; k++) {
        float *to = p->bc + kr_scan_row(&p->q, t0 + k) * stride;
        for (int64_t n = 0; n < N; n++) {
            to[n] = kr_vsum(kr_vload(p->db + (k * N + n) * KR_W));
            to[N + n] = kr_vsum(kr_vload(p->dc + (k * N + n) * KR_W));
        }
    }
}

KR_VINLINE void sequence(const item *p, int64_t N) {
    int64_t chunks = (p->q.T + C - 1) / C, size = p->blocks * block_floats(p);
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        memcpy(p->starts + chunk * size, p->h, (size_t)size * sizeof(float));
        for (int64_t t = chunk * C; chunk + 1 < chunks && t < (chunk + 1) * C; t++)
            for (int64_t i = 0; i < p->blocks; i++) forward(p, t, i, 0, false, N);
    }
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        int64_t t0 = chunk * C, count = p->q.T - t0 < C ? p->q.T - t0 : C;
        memcpy(p->h, p->starts + chunk * size, (size_t)size * sizeof(float));
        memset(p->db, 0, (size_t)(count * block_floats(p)) * sizeof(float));
        memset(p->dc, 0, (size_t)(count * block_floats(p)) * sizeof(float));
        for (int64_t i = 0; i < p->blocks; i++) {
            for (int64_t k = 0; k < count; k++) forward(p, t0 + k, i, k, true, N);
            for (int64_t k = count - 1; k >= 0; k--) row_back(p, t0 + k, i, k, N);
        }
        fold(p, t0, count);
    }
}

static void run_sequence(item *p, int64_t s) {
    const kr_scan_view *v = p->v;
    int64_t N = v->N, at = p->e0 * N;
    const kr_tensor *out = &p->call->out[KR_SCAN_DSTATE_IN];
    p->q = kr_scan_sequence(v, s);
    kr_scan_to_blocks(p->h, v->state_in ? v->state_in + p->q.slot * v->state_slot + at : NULL,
                      p->lanes, N, 1);
    kr_scan_to_blocks(p->L, v->dstate ? v->dstate + p->q.slot * v->dstate_slot + at : NULL,
                      p->lanes, N, 1);
    if (N == 16)
        sequence(p, 16);
    else
        sequence(p, N);
    if (out->data)
        kr_scan_from_blocks((float *)out->data + p->q.slot * out->stride[0] + at, p->L, p->lanes, N,
                            p->call->accumulate >> KR_SCAN_DSTATE_IN & 1);
}

/* Takes `floats` of scratch. */
static float *take(float **at, int64_t floats) {
    float *p = *at;
    *at += floats;
    return p;
}

static void lay_out(item *p, float *at) {
    int64_t N = p->cut->N, all = p->cut->lanes, line = KR_SCAN_LINE;
    float **arrays[] = {&p->A2, &p->h, &p->L, &p->dA},
          **rows[] = {&p->D, &p->bias, &p->dD, &p->dbias};
    float **chunk[] = {&p->a, &p->w, &p->db, &p->dc}, **short_rows[] = {&p->delta, &p->du, &p->u};
    for (int i = 0; i < 4; i++) *arrays[i] = take(&at, all * N);
    for (int i = 0; i < 4; i++) *rows[i] = take(&at, all);
    for (int i = 0; i < 4; i++) *chunk[i] = take(&at, C * line * N);
    for (int i = 0; i < 3; i++) *short_rows[i] = take(&at, C * line);
    p->starts = at;
}

/* dA, dD, dbias of an item to its slab's sums [E,N+2]. */
static void store_sums(const item *p, float *to) {
    int64_t N = p->v->N;
    for (int64_t e = 0; e < p->lanes; e++, to += N + 2) {
        for (int64_t n = 0; n < N; n++) to[n] = p->dA[(e / KR_W * N + n) * KR_W + e % KR_W];
        to[N] = p->dD[e];
        to[N + 1] = p->dbias[e];
    }
}

static void run_item(item *p, int64_t slab, int64_t group, int64_t part, float *bc, float *sums) {
    const kr_scan_cut *s = p->cut;
    const kr_scan_view *v = p->v;
    int64_t at = part * s->lanes, left = s->width - at, N = s->N;
    p->e0 = group * s->width + at;
    p->lanes = left < s->lanes ? left : s->lanes;
    p->blocks = (p->lanes + KR_W - 1) / KR_W;
    p->b = v->b + group * N;
    p->c = v->c + group * N;
    p->bc = bc + (part * v->M * s->G + group) * 2 * N;
    kr_scan_to_blocks(p->A2, v->A + p->e0 * N, p->lanes, N, KR_LOG2_E);
    kr_scan_to_blocks(p->dA, NULL, p->lanes, N, 1);
    kr_scan_spread(p->D, v->D, p->e0, p->lanes, kr_scan_skip_each(v->d));
    kr_scan_spread(p->bias, v->bias, p->e0, p->lanes, 1);
    kr_scan_spread(p->dD, NULL, 0, p->lanes, 1);
    kr_scan_spread(p->dbias, NULL, 0, p->lanes, 1);
    for (int64_t i = v->S * slab / s->slabs; i < v->S * (slab + 1) / s->slabs; i++)
        run_sequence(p, i);
    store_sums(p, sums + (slab * s->E + p->e0) * (N + 2));
}

/* to[i] = or += the sum over k of from[k * step + i]. */
static void reduce(float *to, const float *from, int64_t n, int64_t count, int64_t step, bool add) {
    for (int64_t i = 0; to && i < n; i++) {
        float sum = add ? to[i] : 0;
        for (int64_t k = 0; k < count; k++) sum += from[k * step + i];
        to[i] = sum;
    }
}

static void reduce_bc(const kr_call *c, const kr_scan_cut *s, int64_t M, const float *bc) {
    const kr_tensor *db = &c->out[KR_SCAN_DB], *dc = &c->out[KR_SCAN_DC];
    int64_t N = s->N, step = M * s->G * 2 * N;
#pragma omp parallel for num_threads(c->threads) schedule(static)
    for (int64_t i = 0; i < M * s->G; i++) {
        int64_t at = i % s->G * N;
        if (db->data)
            reduce((float *)db->data + i / s->G * db->stride[0] + at, bc + i * 2 * N, N, s->parts,
                   step, c->accumulate >> KR_SCAN_DB & 1);
        if (dc->data)
            reduce((float *)dc->data + i / s->G * dc->stride[0] + at, bc + i * 2 * N + N, N,
                   s->parts, step, c->accumulate >> KR_SCAN_DC & 1);
    }
}

/* dD may belong to a head of `each` channels. */
static void reduce_A(const kr_call *c, const kr_scan_view *v, const kr_scan_cut *s,
                     const float *sums) {
    float *dA = c->out[KR_SCAN_DA].data, *dD = c->out[KR_SCAN_DD].data,
          *dbias = c->out[KR_SCAN_DBIAS].data;
    int64_t N = s->N, step = s->E * (N + 2), each = kr_scan_skip_each(v->d);
    for (int64_t e = 0; e < s->E; e++) {
        const float *from = sums + e * (N + 2);
        if (dA) reduce(dA + e * N, from, N, s->slabs, step, c->accumulate >> KR_SCAN_DA & 1);
        if (dD)
            reduce(dD + e / each, from + N, 1, s->slabs, step,
                   e % each > 0 || c->accumulate >> KR_SCAN_DD & 1);
        if (dbias)
            reduce(dbias + e, from + N + 1, 1, s->slabs, step, c->accumulate >> KR_SCAN_DBIAS & 1);
    }
}

/* Slots that no sequence names have no gradient. */
static void clear_states(const kr_call *c) {
    const kr_tensor *out = &c->out[KR_SCAN_DSTATE_IN];
    if (out->data && !(c->accumulate >> KR_SCAN_DSTATE_IN & 1))
        memset(out->data, 0, kr_tensor_bytes(out));
}

void KR_FN(kr_scan_lanes_grad)(const kr_call *c) {
    kr_scan_view v = kr_scan_unpack(c);
    kr_scan_cut s;
    kr_scan_cut_lanes(v.d, v.M, &s);
    float *bc = c->scratch, *sums = bc + kr_scan_line(s.per_bc);
    float *own = sums + kr_scan_line(s.per_A);
    clear_states(c);
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
    for (int64_t i = 0; i < s.slabs * s.G * s.parts; i++) {
        item p = {.call = c, .v = &v, .cut = &s};
        lay_out(&p, own + omp_get_thread_num() * kr_scan_line(s.per_thread));
        run_item(&p, i / (s.G * s.parts), i / s.parts % s.G, i % s.parts, bc, sums);
    }
    reduce_bc(c, &s, v.M, bc);
    reduce_A(c, &v, &s, sums);
}

void KR_FN(kr_scan_grad)(const kr_call *c) {
    if (kr_scan_pick(c, true) == KR_SCAN_LANES)
        KR_FN(kr_scan_lanes_grad)(c);
    else
        kr_scan_grad_ref(c);
}
