/* scan_complex_vec.c - complex lanes (LRU), both directions: vectors over lanes (plan COMPLEX).
 *
 *   h_t = a h_{t-1} + v_t                     y_t = (Re h_t, Im h_t),   a constant in time
 *   G_t = dy_t + conj(a) G_{t+1}              dv_t = G_t,   da = sum_t G_t conj(h_{t-1})
 *
 * a = exp(A) is formed once a call; then dA = conj(a) da. A block is W lanes: their states are two
 * registers, and a piece has four blocks, so that the chain of products through one state hides
 * behind those of the others. The backward pass reads the states where forward left them
 * (scan_states _grad); where they are gone, it keeps the state in front of every KR_SCAN_CHUNK-th
 * row, and goes forward again inside a chunk. */
#include "scan/vec_scan.h"

#include <omp.h>

enum { BLOCKS = 4 };
/* A piece is at most so many lanes, whatever the level: four blocks, or KR_SCAN_GROUP. */
enum { PIECE = BLOCKS * KR_W < KR_SCAN_GROUP ? BLOCKS * KR_W : KR_SCAN_GROUP };

/* Lanes [e0, e0 + lanes) of a sequence. Real parts are at the pointers, imaginary ones E behind. */
typedef struct piece {
    const kr_scan_view *v;
    kr_scan_seq q;
    const float *a; /* [2,E] */
    int64_t e0, lanes;
} piece;

typedef struct block {
    kr_vf re, im;
} block;

KR_VINLINE block load(const float *p, int64_t E, int64_t n) {
    return (block){kr_vload_n(p, n), kr_vload_n(p + E, n)};
}

KR_VINLINE void store(float *p, int64_t E, int64_t n, block b, bool add) {
    kr_scan_put(p, n, b.re, add);
    kr_scan_put(p + E, n, b.im, add);
}

/* a h + v */
KR_VINLINE block advance(block a, block h, block v) {
    return (block){kr_vfma(a.re, h.re, kr_vnfma(a.im, h.im, v.re)),
                   kr_vfma(a.re, h.im, kr_vfma(a.im, h.re, v.im))};
}

/* conj(a) g */
KR_VINLINE block turned_back(block a, block g) {
    return (block){kr_vfma(a.re, g.re, a.im * g.im), kr_vfma(a.re, g.im, -(a.im * g.re))};
}

/* Decays, or their exponential: |a| = e^Re A, its angle Im A. Angles past 2^14 (whose turns a float
 * hardly tells apart) keep their size. */
static void form_decays(const kr_scan_view *v, float *a) {
    int64_t E = v->E;
    for (int64_t e = 0; e < E; e += KR_W) {
        block A = load(v->A + e, E, E - e);
        if (v->d->form == KRAIT_FORM_LOG) {
            kr_vf size = kr_vexp(A.re), sine, cosine;
            kr_vsincos(A.im, &sine, &cosine);
            A = (block){size * cosine, size * sine};
        }
        store(a + e, E, E - e, A, false);
    }
}

/* ---- forward ---- */

/* The rows of a piece of at most `blocks` blocks, a constant. state: where h begins and ends. */
KR_VINLINE void forward(const piece *p, float *y, int64_t y_row, block *h, int blocks, bool add) {
    const kr_scan_view *v = p->v;
    int64_t E = v->E;
    block a[BLOCKS];
    for (int i = 0; i < blocks; i++) a[i] = load(p->a + p->e0 + i * KR_W, E, p->lanes - i * KR_W);
    for (int64_t t = 0; t < p->q.T; t++) {
        int64_t row = kr_scan_row(&p->q, t);
        const float *x = v->x + row * v->x_row + p->e0;
        float *to = y + row * y_row + p->e0;
        bool fresh = kr_scan_starts(&p->q, t);
        for (int i = 0; i < blocks; i++) {
            int64_t n = p->lanes - i * KR_W;
            block in = load(x + i * KR_W, E, n);
            h[i] = fresh ? in : advance(a[i], h[i], in);
            store(to + i * KR_W, E, n, h[i], add);
        }
    }
}

static void run_forward(const kr_call *c, piece *p, int64_t s) {
    const kr_scan_view *v = p->v;
    const kr_tensor *y = &c->out[KR_SCAN_OUT_Y], *out = &c->out[KR_SCAN_OUT_STATE];
    block h[BLOCKS];
    int blocks = (int)((p->lanes + KR_W - 1) / KR_W);
    p->q = kr_scan_sequence(v, s);
    const float *from = v->state_in ? v->state_in + p->q.slot * v->state_slot + p->e0 : NULL;
    for (int i = 0; i < blocks; i++)
        h[i] = from ? load(from + i * KR_W, v->E, p->lanes - i * KR_W) : (block){0};
    if (blocks == BLOCKS)
        forward(p, y->data, y->stride[0], h, BLOCKS, c->accumulate & 1);
    else
        forward(p, y->data, y->stride[0], h, blocks, c->accumulate & 1);
    for (int i = 0; c->n_out > KR_SCAN_OUT_STATE && out->data && i < blocks; i++)
        store((float *)out->data + p->q.slot * out->stride[0] + p->e0 + i * KR_W, v->E,
              p->lanes - i * KR_W, h[i], false);
}

void KR_FN(kr_scan_complex)(const kr_call *c) {
    kr_scan_view v = kr_scan_unpack(c);
    int64_t pieces = (v.E + PIECE - 1) / PIECE;
    form_decays(&v, c->scratch);
#pragma omp parallel for num_threads(c->threads) schedule(dynamic) if (v.S * pieces > 1)
    for (int64_t i = 0; i < v.S * pieces; i++) {
        piece p = {.v = &v, .a = c->scratch, .e0 = i % pieces * PIECE};
        p.lanes = v.E - p.e0 < PIECE ? v.E - p.e0 : PIECE;
        run_forward(c, &p, i / pieces);
    }
}

/* ---- backward ---- */

/* A piece of the backward pass: what it keeps, where its gradients go. */
typedef struct back {
    piece p;
    float *starts, *inside; /* [chunks,2,PIECE]: states in front of them; [CHUNK,2,PIECE] */
    block g[BLOCKS], da[BLOCKS];
    const kr_tensor *dx, *y; /* y: the states once more */
    bool add, states;        /* states: v->x is y of forward */
} back;

/* From the state in front of step t0 to that behind t1 - 1; keep: all of them, else only h moves.
 */
KR_VINLINE void again(const back *b, int64_t t0, int64_t t1, block *h, float *keep, int blocks) {
    const kr_scan_view *v = b->p.v;
    bool writes = keep && b->y->data;
    for (int64_t t = t0; t < t1; t++) {
        int64_t row = kr_scan_row(&b->p.q, t);
        const float *x = v->x + row * v->x_row + b->p.e0;
        float *y = writes ? (float *)b->y->data + row * b->y->stride[0] + b->p.e0 : NULL;
        bool fresh = kr_scan_starts(&b->p.q, t);
        for (int i = 0; i < blocks; i++) {
            int64_t n = b->p.lanes - i * KR_W;
            block a = load(b->p.a + b->p.e0 + i * KR_W, v->E, n);
            block in = load(x + i * KR_W, v->E, n);
            h[i] = fresh ? in : advance(a, h[i], in);
            if (keep) store(keep + (t - t0) * 2 * PIECE + i * KR_W, PIECE, KR_W, h[i], false);
            if (writes) store(y + i * KR_W, v->E, n, h[i], false);
        }
    }
}

/* Gradients of step t, whose state before is at `prev`, imaginary parts `away` behind. */
KR_VINLINE void step_back(back *b, int64_t t, const float *prev, int64_t away, int blocks) {
    const kr_scan_view *v = b->p.v;
    int64_t row = kr_scan_row(&b->p.q, t), at = b->p.e0;
    bool fresh = kr_scan_starts(&b->p.q, t);
    for (int i = 0; i < blocks; i++) {
        int64_t n = b->p.lanes - i * KR_W;
        block g = b->g[i], h = load(prev + i * KR_W, away, away == PIECE ? KR_W : n);
        block a = load(b->p.a + at + i * KR_W, v->E, n);
        if (v->dy) {
            block dy = load(v->dy + row * v->dy_row + at + i * KR_W, v->E, n);
            g = (block){g.re + dy.re, g.im + dy.im};
        }
        if (b->dx->data)
            store((float *)b->dx->data + row * b->dx->stride[0] + at + i * KR_W, v->E, n, g,
                  b->add);
        if (fresh) {
            b->g[i] = (block){0};
            continue;
        }
        b->da[i].re = kr_vfma(g.re, h.re, kr_vfma(g.im, h.im, b->da[i].re));
        b->da[i].im = kr_vfma(g.im, h.re, kr_vnfma(g.re, h.im, b->da[i].im));
        b->g[i] = turned_back(a, g);
    }
}

KR_VINLINE void chunks_back(back *b, block *h, int blocks) {
    enum { C = KR_SCAN_CHUNK, ROW = 2 * PIECE };
    int64_t T = b->p.q.T, chunks = (T + C - 1) / C;
    for (int64_t k = 0; k < chunks; k++) {
        for (int i = 0; i < blocks; i++)
            store(b->starts + k * ROW + i * KR_W, PIECE, KR_W, h[i], false);
        if (k + 1 < chunks) again(b, k * C, (k + 1) * C, h, NULL, blocks);
    }
    for (int64_t k = chunks - 1; k >= 0; k--) {
        int64_t t0 = k * C, t1 = t0 + C < T ? t0 + C : T;
        const float *start = b->starts + k * ROW;
        for (int i = 0; i < blocks; i++) h[i] = load(start + i * KR_W, PIECE, KR_W);
        again(b, t0, t1, h, b->inside, blocks);
        for (int64_t t = t1 - 1; t >= t0; t--)
            step_back(b, t, t > t0 ? b->inside + (t - 1 - t0) * ROW : start, PIECE, blocks);
    }
}

/* The same where the states lie in x; h: those in front of the first row. */
KR_VINLINE void rows_back(back *b, const block *h, int blocks) {
    const kr_scan_view *v = b->p.v;
    const float *states = v->x + b->p.e0;
    _Alignas(64) float first[2 * PIECE];
    for (int i = 0; i < blocks; i++) store(first + i * KR_W, PIECE, KR_W, h[i], false);
    for (int64_t t = b->p.q.T - 1; t > 0; t--)
        step_back(b, t, states + kr_scan_row(&b->p.q, t - 1) * v->x_row, v->E, blocks);
    if (b->p.q.T > 0) step_back(b, 0, first, PIECE, blocks);
}

/* One sequence: gradients of its rows and state; adds to b->da. */
static void sequence_back(const kr_call *c, back *b, int64_t s) {
    const kr_scan_view *v = b->p.v;
    const kr_tensor *out = &c->out[KR_SCAN_DSTATE_IN];
    piece *p = &b->p;
    block h[BLOCKS];
    int blocks = (int)((p->lanes + KR_W - 1) / KR_W);
    p->q = kr_scan_sequence(v, s);
    const float *from = v->state_in ? v->state_in + p->q.slot * v->state_slot + p->e0 : NULL;
    const float *last = v->dstate ? v->dstate + p->q.slot * v->dstate_slot + p->e0 : NULL;
    for (int i = 0; i < blocks; i++) {
        int64_t n = p->lanes - i * KR_W;
        h[i] = from ? load(from + i * KR_W, v->E, n) : (block){0};
        b->g[i] = last ? load(last + i * KR_W, v->E, n) : (block){0};
    }
    if (b->states && blocks == BLOCKS)
        rows_back(b, h, BLOCKS);
    else if (b->states)
        rows_back(b, h, blocks);
    else if (blocks == BLOCKS)
        chunks_back(b, h, BLOCKS);
    else
        chunks_back(b, h, blocks);
    for (int i = 0; out->data && i < blocks; i++)
        store((float *)out->data + p->q.slot * out->stride[0] + p->e0 + i * KR_W, v->E,
              p->lanes - i * KR_W, b->g[i], true);
}

/* dA, from the slabs' sums of da in order. */
static void write_dA(const kr_call *c, const kr_scan_view *v, const float *a, const float *sums) {
    const kr_tensor *out = &c->out[KR_SCAN_DA];
    int64_t E = v->E, line = kr_scan_complex_forward(v->d);
    for (int64_t e = 0; out->data && e < E; e += KR_W) {
        block sum = load(sums + e, E, E - e);
        for (int k = 1; k < KR_SCAN_PARTS; k++) {
            block more = load(sums + k * line + e, E, E - e);
            sum = (block){sum.re + more.re, sum.im + more.im};
        }
        if (v->d->form == KRAIT_FORM_LOG) sum = turned_back(load(a + e, E, E - e), sum);
        store((float *)out->data + e, E, E - e, sum, c->accumulate >> KR_SCAN_DA & 1);
    }
}

/* Slots that no sequence has get zeros. */
static void clear_state(const kr_call *c, int64_t E) {
    const kr_tensor *out = &c->out[KR_SCAN_DSTATE_IN];
    if (!out->data || c->accumulate >> KR_SCAN_DSTATE_IN & 1) return;
    for (int64_t s = 0; s < out->shape[0]; s++)
        memset((float *)out->data + s * out->stride[0], 0, (size_t)(2 * E) * sizeof(float));
}

/* own: scratch of the thread; NULL: the states are there. */
static void slab_back(const kr_call *c, const kr_scan_view *v, float *own, int64_t slab,
                      int64_t e0) {
    float *a = c->scratch, *sums = a + kr_scan_complex_forward(v->d) * (1 + slab);
    static const kr_tensor none = {0};
    back b = {.p = {.v = v, .a = a, .e0 = e0}, .dx = &c->out[KR_SCAN_DX], .states = !own};
    b.y = c->n_out > KR_SCAN_Y_AGAIN ? &c->out[KR_SCAN_Y_AGAIN] : &none;
    b.p.lanes = v->E - e0 < PIECE ? v->E - e0 : PIECE;
    b.inside = own;
    b.starts = own ? own + KR_SCAN_CHUNK * 2 * PIECE : NULL;
    b.add = c->accumulate & 1;
    int64_t first = v->S * slab / KR_SCAN_PARTS, end = v->S * (slab + 1) / KR_SCAN_PARTS;
    for (int64_t s = first; s < end; s++) sequence_back(c, &b, s);
    for (int64_t i = 0; i * KR_W < b.p.lanes; i++)
        store(sums + e0 + i * KR_W, v->E, b.p.lanes - i * KR_W, b.da[i], false);
}

static void all_back(const kr_call *c, bool states) {
    kr_scan_view v = kr_scan_unpack(c);
    int64_t pieces = (v.E + PIECE - 1) / PIECE, each = states ? 0 : kr_scan_complex_own(v.M);
    float *a = c->scratch, *own = states ? NULL : a + kr_scan_complex_sums(v.d);
    form_decays(&v, a);
    clear_state(c, v.E);
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
    for (int64_t i = 0; i < KR_SCAN_PARTS * pieces; i++)
        slab_back(c, &v, states ? NULL : own + omp_get_thread_num() * each, i / pieces,
                  i % pieces * PIECE);
    write_dA(c, &v, a, a + kr_scan_complex_forward(v.d));
}

void KR_FN(kr_scan_complex_grad)(const kr_call *c) { all_back(c, false); }

void KR_FN(kr_scan_states_grad)(const kr_call *c) { all_back(c, true); }
