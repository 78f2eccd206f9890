/* scan_back_vec.c - the gradient of the recurrence with vectors over channels (plan LANES).
 *
 * An item is (slab of sequences, group of b and c, part of the group's channels); scan_plan.h. For
 * each of its sequences:
 *
 *   1. forward once, keeping the states in front of every chunk of KR_SCAN_CHUNK rows;
 *   2. chunk by chunk from the last: forward again, keeping a_t and w_t = a_t h_{t-1} of one block
 *      of channels, then back, with du = dy silu(z):
 *
 *        h_t = w_t + delta x b,   g = L + kappa du c,   L <- a g
 *        db += g delta x,   dc += kappa du h,   s1 = sum_n g b,   s2 = sum_n A g w
 *        dA += delta g w,   dx = delta s1 + D du,   ddelta = x s1 + s2
 *
 * What depends on a row and channel only (delta, gates) is computed before and after, row by row,
 * so that rows are read and written whole. Inside, Q numbers of N at a time stay in registers
 * through the chunk. db and dc are summed over the lanes of all blocks first and folded once a
 * chunk. Nothing of size [M,E,N] exists. */
#include "scan/vec_scan.h"

#include <omp.h>

enum { C = KR_SCAN_CHUNK, Q = 4 };

/* Side by side in [blocks,N,4,W] (a block's states) and in [C,N,4,W] (a chunk's rows). */
enum { A2, H, L, DA };
enum { DECAY, KEPT, DB, DC };

typedef struct item {
    const kr_call *call;
    const kr_scan_view *v;
    const kr_scan_cut *cut;
    kr_scan_seq q;
    int64_t e0, lanes, blocks;
    const float *b, *c;           /* of row 0, of this group */
    float *states;                /* [blocks,N,4,W]: A log2 e, h, L, dA */
    float *rows;                  /* [C,N,4,W]: a, w of one block; db, dc over all blocks */
    float *starts;                /* [chunks,blocks,N,W] */
    float *delta, *xin, *du;      /* [blocks,C,W]: delta, delta x, kappa dy silu(z) */
    float *s1, *s2, *u;           /* [blocks,C,W]: sums over n of g b, of A g w, of h c */
    float *D, *bias, *dD, *dbias; /* [lanes] */
    float *bc;                    /* [M,G,2,N]: where this part's sums of row 0 and this group go */
} item;

KR_VINLINE float *state_at(const item *p, int64_t block, int64_t n, int which) {
    return p->states + ((block * p->v->N + n) * 4 + which) * KR_W;
}

KR_VINLINE float *row_at(const item *p, int64_t k, int64_t n, int which) {
    return p->rows + ((k * p->v->N + n) * 4 + which) * KR_W;
}

/* Of block and chunk row in the [blocks,C,W] arrays. */
KR_VINLINE int64_t place(int64_t block, int64_t k) { return (block * C + k) * KR_W; }

KR_VINLINE kr_vf load(const item *p, const float *array, int64_t stride, int64_t row,
                      int64_t block) {
    int64_t at = block * KR_W;
    return kr_vload_n(array + row * stride + p->e0 + at, p->lanes - at);
}

KR_VINLINE kr_vf raw_of(const item *p, int64_t row, int64_t block) {
    return load(p, p->v->dt, p->v->dt_row, row, block) + kr_vload(p->bias + block * KR_W);
}

static void put(const item *p, int i, int64_t row, int64_t block, kr_vf value) {
    const kr_tensor *t = &p->call->out[i];
    int64_t at = block * KR_W;
    if (t->data)
        kr_scan_put((float *)t->data + row * t->stride[0] + p->e0 + at, p->lanes - at, value,
                    p->call->accumulate >> i & 1);
}

/* ---- what depends on row and channel only ---- */

/* Rows lie pages apart, where the hardware does not look ahead. array NULL: nothing to fetch. */
KR_VINLINE void fetch(const item *p, const float *array, int64_t stride, int64_t row, int64_t k) {
    int64_t back = p->q.reverse ? -KR_SCAN_AHEAD : KR_SCAN_AHEAD;
    if (!array || k + KR_SCAN_AHEAD >= C) return;
    for (int64_t e = 0; e < p->lanes; e += KR_SCAN_LINE)
        __builtin_prefetch(array + (row + back) * stride + p->e0 + e);
}

/* delta and delta x of a row, at chunk row k. */
static void inputs(const item *p, int64_t row, int64_t k) {
    const kr_scan_view *v = p->v;
    fetch(p, v->dt, v->dt_row, row, k);
    fetch(p, v->x, v->x_row, row, k);
    for (int64_t i = 0; i < p->blocks; i++) {
        kr_vf x = load(p, v->x, v->x_row, row, i), delta = kr_scan_delta(v->d, raw_of(p, row, i));
        kr_vstore(p->delta + place(i, k), delta);
        kr_vstore(p->xin + place(i, k), v->d->gain == KRAIT_GAIN_DT ? delta * x : x);
    }
}

/* kappa times the gradient of what was read. */
static void reads(const item *p, int64_t row, int64_t k) {
    const kr_scan_view *v = p->v;
    fetch(p, v->dy, v->dy_row, row, k);
    fetch(p, v->z, v->z_row, row, k);
    for (int64_t i = 0; i < p->blocks; i++) {
        kr_vf du = v->dy ? load(p, v->dy, v->dy_row, row, i) : kr_vzero();
        if (v->z) du *= kr_vsilu(load(p, v->z, v->z_row, row, i));
        kr_vstore(p->du + place(i, k), du * (float)v->d->kappa);
    }
}

/* From the sums over n to the gradients of x, dt, z, D and dt_bias. */
static void outputs(const item *p, int64_t row, int64_t k) {
    const kr_scan_view *v = p->v;
    bool gain = v->d->gain == KRAIT_GAIN_DT;
    for (int64_t i = 0; i < p->blocks; i++) {
        int64_t at = i * KR_W;
        kr_vf D = kr_vload(p->D + at), x = load(p, v->x, v->x_row, row, i);
        kr_vf s1 = kr_vload(p->s1 + place(i, k)), s2 = kr_vload(p->s2 + place(i, k));
        kr_vf dy = v->dy ? load(p, v->dy, v->dy_row, row, i) : kr_vzero(), du = dy;
        kr_vf u = kr_vfma(D, x, kr_vload(p->u + place(i, k)) * (float)v->d->kappa);
        if (v->z) {
            kr_vf z = load(p, v->z, v->z_row, row, i), sigma = kr_vsigmoid(z);
            put(p, KR_SCAN_DZ, row, i, dy * u * kr_vsilu_slope(z, sigma));
            du = dy * (z * sigma);
            u *= z * sigma;
        }
        put(p, KR_SCAN_Y_AGAIN, row, i, u);
        kr_vf dx = gain ? kr_vload(p->delta + place(i, k)) * s1 : s1;
        put(p, KR_SCAN_DX, row, i, kr_vfma(D, du, dx));
        kr_vf ddelta = kr_vfma(s2, kr_vset(1 / KR_LOG2_E), gain ? x * s1 : kr_vzero());
        kr_vf draw = ddelta * kr_scan_delta_slope(v->d, raw_of(p, row, i));
        put(p, KR_SCAN_DDT, row, i, draw);
        kr_vstore(p->dD + at, kr_vfma(du, x, kr_vload(p->dD + at)));
        kr_vstore(p->dbias + at, kr_vload(p->dbias + at) + draw);
    }
}

/* ---- through time ---- */

/* `count` rows of one block from step t0 forward, for q numbers from n on. keep: a and w go to the
 * chunk's rows. */
KR_VINLINE void forward(const item *p, int64_t t0, int64_t count, int64_t block, int64_t n, int q,
                        bool keep) {
    const float *delta = p->delta + place(block, 0), *xin = p->xin + place(block, 0);
    kr_vf h[Q], A[Q];
    for (int i = 0; i < q; i++) {
        h[i] = kr_vload(state_at(p, block, n + i, H));
        A[i] = kr_vload(state_at(p, block, n + i, A2));
    }
    for (int64_t k = 0; k < count; k++) {
        const float *b = p->b + kr_scan_row(&p->q, t0 + k) * p->v->b_row + n;
        kr_vf d = kr_vload(delta + k * KR_W), x = kr_vload(xin + k * KR_W);
        bool start = kr_scan_starts(&p->q, t0 + k);
        for (int i = 0; i < q; i++) {
            kr_vf a = start ? kr_vzero() : kr_vexp2(d * A[i]), w = a * h[i];
            h[i] = kr_vfma(x, kr_vset(b[i]), w);
            if (keep) {
                kr_vstore(row_at(p, k, n + i, DECAY), a);
                kr_vstore(row_at(p, k, n + i, KEPT), w);
            }
        }
    }
    for (int i = 0; i < q; i++) kr_vstore(state_at(p, block, n + i, H), h[i]);
}

/* p += a b */
KR_VINLINE void more(float *p, kr_vf a, kr_vf b) { kr_vstore(p, kr_vfma(a, b, kr_vload(p))); }

/* The rows of a chunk back, for q numbers from n on. */
KR_VINLINE void backward(const item *p, int64_t t0, int64_t count, int64_t block, int64_t n,
                         int q) {
    kr_vf l[Q], dA[Q], A[Q];
    for (int i = 0; i < q; i++) {
        l[i] = kr_vload(state_at(p, block, n + i, L));
        dA[i] = kr_vload(state_at(p, block, n + i, DA));
        A[i] = kr_vload(state_at(p, block, n + i, A2));
    }
    for (int64_t k = count - 1; k >= 0; k--) {
        int64_t row = kr_scan_row(&p->q, t0 + k), at = place(block, k);
        const float *b = p->b + row * p->v->b_row + n, *c = p->c + row * p->v->c_row + n;
        kr_vf delta = kr_vload(p->delta + at), xin = kr_vload(p->xin + at);
        kr_vf du = kr_vload(p->du + at), s1 = kr_vload(p->s1 + at), s2 = kr_vload(p->s2 + at);
        kr_vf u = kr_vload(p->u + at);
        for (int i = 0; i < q; i++) {
            float *r = row_at(p, k, n + i, 0);
            kr_vf w = kr_vload(r + KEPT * KR_W), bn = kr_vset(b[i]), cn = kr_vset(c[i]);
            kr_vf h = kr_vfma(xin, bn, w), g = kr_vfma(du, cn, l[i]), gw = g * w;
            more(r + DB * KR_W, g, xin);
            more(r + DC * KR_W, du, h);
            u = kr_vfma(h, cn, u);
            s1 = kr_vfma(g, bn, s1);
            s2 = kr_vfma(A[i], gw, s2);
            dA[i] = kr_vfma(delta, gw, dA[i]);
            l[i] = kr_vload(r + DECAY * KR_W) * g;
        }
        kr_vstore(p->s1 + at, s1);
        kr_vstore(p->s2 + at, s2);
        kr_vstore(p->u + at, u);
    }
    for (int i = 0; i < q; i++) {
        kr_vstore(state_at(p, block, n + i, L), l[i]);
        kr_vstore(state_at(p, block, n + i, DA), dA[i]);
    }
}

/* A chunk of one block: forward keeping a and w, and back. */
static void chunk_block(const item *p, int64_t t0, int64_t count, int64_t block) {
    int64_t N = p->v->N, n = 0;
    size_t size = (size_t)(count * KR_W) * sizeof(float);
    memset(p->s1 + place(block, 0), 0, size);
    memset(p->s2 + place(block, 0), 0, size);
    memset(p->u + place(block, 0), 0, size);
    for (; n + Q <= N; n += Q) {
        forward(p, t0, count, block, n, Q, true);
        backward(p, t0, count, block, n, Q);
    }
    for (; n < N; n++) {
        forward(p, t0, count, block, n, 1, true);
        backward(p, t0, count, block, n, 1);
    }
}

static void chunk_forward(const item *p, int64_t t0, int64_t block) {
    int64_t n = 0;
    for (; n + Q <= p->v->N; n += Q) forward(p, t0, C, block, n, Q, false);
    for (; n < p->v->N; n++) forward(p, t0, C, block, n, 1, false);
}

/* Folds the chunk's db and dc over lanes into this part's sums, and clears them. */
static void fold(const item *p, int64_t t0, int64_t count) {
    int64_t N = p->v->N, stride = p->cut->G * 2 * N;
    for (int64_t k = 0; k < count; k++) {
        float *to = p->bc + kr_scan_row(&p->q, t0 + k) * stride;
        for (int64_t n = 0; n < N; n++) {
            to[n] = kr_vsum(kr_vload(row_at(p, k, n, DB)));
            to[N + n] = kr_vsum(kr_vload(row_at(p, k, n, DC)));
            kr_vstore(row_at(p, k, n, DB), kr_vzero());
            kr_vstore(row_at(p, k, n, DC), kr_vzero());
        }
    }
}

/* States of all blocks in front of a chunk: kept in starts, or taken back from there. */
static void keep_states(const item *p, int64_t chunk, bool back) {
    int64_t size = p->blocks * p->v->N;
    for (int64_t i = 0; i < size; i++) {
        float *h = p->states + (i * 4 + H) * KR_W, *kept = p->starts + (chunk * size + i) * KR_W;
        kr_vstore(back ? h : kept, kr_vload(back ? kept : h));
    }
}

static void sequence(const item *p) {
    int64_t chunks = (p->q.T + C - 1) / C;
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        keep_states(p, chunk, false);
        if (chunk + 1 == chunks) break;
        for (int64_t k = 0; k < C; k++) inputs(p, kr_scan_row(&p->q, chunk * C + k), k);
        for (int64_t i = 0; i < p->blocks; i++) chunk_forward(p, chunk * C, i);
    }
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        int64_t t0 = chunk * C, count = p->q.T - t0 < C ? p->q.T - t0 : C;
        keep_states(p, chunk, true);
        for (int64_t k = 0; k < count; k++) {
            inputs(p, kr_scan_row(&p->q, t0 + k), k);
            reads(p, kr_scan_row(&p->q, t0 + k), k);
        }
        for (int64_t i = 0; i < p->blocks; i++) chunk_block(p, t0, count, i);
        for (int64_t k = 0; k < count; k++) outputs(p, kr_scan_row(&p->q, t0 + k), k);
        fold(p, t0, count);
    }
}

/* One of the four arrays of `states`, from or to [lanes,N]; from NULL: zeros. */
static void fill_states(const item *p, int which, const float *from, float scale) {
    for (int64_t i = 0; i < p->blocks * p->v->N; i++)
        kr_vstore(p->states + (i * 4 + which) * KR_W, kr_vzero());
    for (int64_t e = 0; from && e < p->lanes; e++)
        for (int64_t n = 0; n < p->v->N; n++)
            state_at(p, e / KR_W, n, which)[e % KR_W] = from[e * p->v->N + n] * scale;
}

static void drain_states(const item *p, int which, float *to, int64_t stride, bool add) {
    for (int64_t e = 0; e < p->lanes; e++)
        for (int64_t n = 0; n < p->v->N; n++) {
            float v = state_at(p, e / KR_W, n, which)[e % KR_W];
            to[e * stride + n] = add ? to[e * stride + n] + v : v;
        }
}

static void run_sequence(item *p, int64_t s) {
    const kr_scan_view *v = p->v;
    int64_t at = p->e0 * v->N;
    const kr_tensor *out = &p->call->out[KR_SCAN_DSTATE_IN];
    p->q = kr_scan_sequence(v, s);
    fill_states(p, H, v->state_in ? v->state_in + p->q.slot * v->state_slot + at : NULL, 1);
    fill_states(p, L, v->dstate ? v->dstate + p->q.slot * v->dstate_slot + at : NULL, 1);
    sequence(p);
    if (out->data)
        drain_states(p, L, (float *)out->data + p->q.slot * out->stride[0] + at, v->N,
                     p->call->accumulate >> KR_SCAN_DSTATE_IN & 1);
}

/* Takes `floats` of scratch. */
static float *take(float **at, int64_t floats) {
    float *p = *at;
    *at += floats;
    return p;
}

static void lay_out(item *p, float *at) {
    int64_t N = p->cut->N, all = p->cut->lanes;
    float **rows[] = {&p->delta, &p->xin, &p->du, &p->s1, &p->s2, &p->u};
    float **vectors[] = {&p->D, &p->bias, &p->dD, &p->dbias};
    p->states = take(&at, all * N * 4);
    p->rows = take(&at, C * N * 4 * KR_SCAN_LINE);
    for (int i = 0; i < 6; i++) *rows[i] = take(&at, all * C);
    for (int i = 0; i < 4; i++) *vectors[i] = take(&at, all);
    p->starts = at;
    memset(p->rows, 0, (size_t)(C * N * 4 * KR_W) * sizeof(float));
}

/* dA, dD, dbias of an item to its slab's sums [E,N+2]. */
static void store_sums(const item *p, float *to) {
    int64_t N = p->v->N;
    drain_states(p, DA, to, N + 2, false);
    for (int64_t e = 0; e < p->lanes; e++) {
        to[e * (N + 2) + N] = p->dD[e];
        to[e * (N + 2) + N + 1] = p->dbias[e];
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
    fill_states(p, A2, v->A + p->e0 * N, KR_LOG2_E);
    fill_states(p, DA, NULL, 1);
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
    switch (kr_scan_pick(c, true)) {
    case KR_SCAN_LANES: KR_FN(kr_scan_lanes_grad)(c); return;
    case KR_SCAN_ROWS: KR_FN(kr_scan_rows_grad)(c); return;
    case KR_SCAN_MATRIX: KR_FN(kr_scan_chunk_grad)(c); return;
    case KR_SCAN_COMPLEX: KR_FN(kr_scan_complex_grad)(c); return;
    case KR_SCAN_CONV: KR_FN(kr_scan_conv_grad)(c); return;
    case KR_SCAN_STEPS: KR_FN(kr_scan_steps_grad)(c); return;
    default: kr_scan_grad_ref(c); return;
    }
}
