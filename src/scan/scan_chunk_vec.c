/* scan_chunk_vec.c - the recurrence as matrix products (plan CHUNK): no decay, or one a head; any
 * ranks; real.
 *
 * A piece is a sequence, a group of b and c, and a part of the group's heads. It carries the states
 * of its heads, as [N,P], from chunk to chunk. With s_t the sum of the logarithms of the decays of
 * rows 0..t of a chunk, H the state in front of it, X the rows of gain x:
 *
 *   Y = diag(exp s) C H + (W * C B^T) X      W[t,u] = exp(s_t - s_u) for u <= t, else 0
 *   H <- exp(s_last) H + B^T diag(exp(s_last - s)) X
 *
 * Source: Dao & Gu 2024 (Mamba-2), section 6. README.md says why this beats vectors over N. */
#include "scan/vec_chunk.h"

#include <omp.h>

typedef struct piece {
    const kr_call *call;
    kr_chunk k;
    int64_t head;           /* the head at work */
    float *x, *weights, *y; /* [C R, P16] [C R, L16] [C Q, P16] */
    float *carry;           /* [L16]: of the reads */
    float *states;          /* [heads of the part, N, P16] */
} piece;

/* weights[s, l] = W * scores: how read l sees input s. */
static void weigh(const piece *p) {
    const kr_chunk *k = &p->k;
    for (int64_t t = 0; t < k->count; t++) {
        int64_t first = t * k->Q / KR_W * KR_W;
        float *w = p->weights + t * k->R * k->L16;
        const float *scores = k->scores + t * k->R * k->L16;
        for (int64_t r = 0; r < k->R; r++) memset(w + r * k->L16, 0, (size_t)first * sizeof *w);
        for (int64_t l = first; l < k->columns; l += KR_W) {
            kr_vf e = kr_chunk_weight(k, t, l);
            for (int64_t r = 0; r < k->R; r++)
                kr_vstore(w + r * k->L16 + l, e * kr_vload(scores + r * k->L16 + l));
        }
    }
}

/* y [C Q, P16]: what the state in front gives, and what the chunk's own inputs give. */
static void reads(const piece *p, const float *state) {
    const kr_chunk *k = &p->k;
    int64_t seen = k->live * k->Q, rows = k->count * k->Q;
    kr_chunk_spread(p->carry, k->carry, k->Q, 0, k->live);
    kr_product_run(&(kr_product){.rows = seen,
                                 .columns = k->P16,
                                 .to = k->v->N,
                                 .a = k->c,
                                 .a_row = k->N16,
                                 .a_k = 1,
                                 .b = state,
                                 .b_row = k->P16,
                                 .c = p->y,
                                 .c_row = k->P16,
                                 .scale = p->carry});
    memset(p->y + seen * k->P16, 0, (size_t)((rows - seen) * k->P16) * sizeof(float));
    kr_product_run(&(kr_product){.rows = rows,
                                 .columns = k->P16,
                                 .to = k->count * k->R,
                                 .a = p->weights,
                                 .a_row = 1,
                                 .a_k = k->L16,
                                 .b = p->x,
                                 .b_row = k->P16,
                                 .c = p->y,
                                 .c_row = k->P16,
                                 .beta = 1,
                                 .shape = KR_PRODUCT_UPTO,
                                 .ranks = k->Q,
                                 .other = k->R});
}

/* Skip and gate: the rows of y go out. */
static void write_y(const piece *p) {
    const kr_chunk *k = &p->k;
    const kr_scan_view *v = k->v;
    const kr_tensor *out = &p->call->out[KR_SCAN_OUT_Y];
    int64_t P = v->P;
    for (int64_t l = 0, t = 0, q = 0; t < k->count; l++) {
        int64_t row = kr_chunk_row(k, t), at = q * v->E + p->head * P;
        const float *x = v->x + row * v->x_row + at, *z = v->z ? v->z + row * v->z_row + at : NULL;
        float *y = (float *)out->data + row * out->stride[0] + at;
        for (int64_t c = 0; c < P; c += KR_W) {
            int64_t w = P - c;
            kr_vf u = kr_vload(p->y + l * k->P16 + c) * (float)v->d->kappa;
            if (v->D)
                u = kr_vfma(v->d->skip_per_channel ? kr_vload_n(v->D + p->head * P + c, w)
                                                   : kr_vset(v->D[p->head]),
                            kr_vload_n(x + c, w), u);
            if (z) u *= kr_vsilu(kr_vload_n(z + c, w));
            kr_scan_put(y + c, w, u, p->call->accumulate & 1);
        }
        if (++q == k->Q) q = 0, t++;
    }
}

/* state [N, P16], moved behind the chunk. x is scaled in place. */
static void advance(const piece *p, float *state) {
    const kr_chunk *k = &p->k;
    kr_chunk_scale(p->x, p->x, k->P16, k->keep, k->R, k->tail, k->count);
    kr_product_run(&(kr_product){.rows = k->v->N,
                                 .columns = k->P16,
                                 .from = k->tail * k->R,
                                 .to = k->count * k->R,
                                 .a = k->b,
                                 .a_row = 1,
                                 .a_k = k->N16,
                                 .b = p->x,
                                 .b_row = k->P16,
                                 .c = state,
                                 .c_row = k->P16,
                                 .beta = k->decay});
}

static void run_chunk(piece *p, int64_t t0, int64_t first, int64_t heads) {
    kr_chunk *k = &p->k;
    kr_chunk_load(k, t0, true);
    for (int64_t i = 0; i < heads; i++) {
        float *state = p->states + i * k->v->N * k->P16;
        p->head = first + i;
        kr_chunk_head(k, p->head);
        kr_chunk_ways(k);
        kr_chunk_inputs(k, p->head, p->x);
        bool last = i + 1 == heads;
        kr_chunk_fetch_head(k, last ? t0 + kr_scan_chunk_rows(k->v->d) : t0,
                            last ? first : p->head + 1, last);
        weigh(p);
        reads(p, state);
        write_y(p);
        advance(p, state);
    }
}

static void run_piece(const kr_call *c, const kr_scan_view *v, piece *p, int64_t first,
                      int64_t heads) {
    const kr_tensor *out = &c->out[KR_SCAN_OUT_STATE];
    int64_t N = v->N, P = v->P, P16 = p->k.P16, slot = p->k.q.slot;
    bool keep = c->n_out > KR_SCAN_OUT_STATE && out->data;
    memset(p->states, 0, (size_t)(heads * N * P16) * sizeof(float));
    for (int64_t i = 0; v->state_in && i < heads; i++)
        kr_chunk_transpose(p->states + i * N * P16, P16,
                           v->state_in + slot * v->state_slot + (first + i) * P * N, N, P, N);
    for (int64_t t = 0; t < p->k.q.T; t += kr_scan_chunk_rows(v->d)) run_chunk(p, t, first, heads);
    for (int64_t i = 0; keep && i < heads; i++) {
        const float *state = p->states + i * N * P16;
        float *to = (float *)out->data + slot * out->stride[0] + (first + i) * P * N;
        for (int64_t n = 0; n < N; n++)
            for (int64_t e = 0; e < P; e++) to[e * N + n] = state[n * P16 + e];
    }
}

void KR_FN(kr_scan_chunk)(const kr_call *c) {
    kr_scan_view v = kr_scan_unpack(c);
    kr_scan_rows_cut s;
    kr_scan_cut_chunk(v.d, v.M, &s);
    int64_t own = kr_scan_chunk_forward(v.d), C = kr_scan_chunk_rows(v.d);
    int64_t each = v.d->heads / v.G;
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
    for (int64_t i = 0; i < v.S * v.G * s.parts; i++) {
        float *at = (float *)c->scratch + omp_get_thread_num() * own;
        int64_t group = i / s.parts % v.G, part = i % s.parts;
        int64_t first = each * part / s.parts, end = each * (part + 1) / s.parts;
        piece p = {.call = c, .k = kr_chunk_begin(&v, group, &at)};
        p.k.q = kr_scan_sequence(&v, i / (v.G * s.parts));
        p.x = kr_chunk_take(&at, C * p.k.R * p.k.P16);
        p.weights = kr_chunk_take(&at, C * p.k.R * p.k.L16);
        p.y = kr_chunk_take(&at, C * p.k.Q * p.k.P16);
        p.carry = kr_chunk_take(&at, p.k.L16);
        p.states = at;
        run_piece(c, &v, &p, group * each + first, end - first);
    }
}
