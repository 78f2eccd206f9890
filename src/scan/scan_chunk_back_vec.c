/* scan_chunk_back_vec.c - the gradient of the recurrence as matrix products (plan CHUNK).
 *
 * An item is (slab of sequences, group of b and c, part of the group's heads); scan_plan.h. For
 * each sequence it goes forward once, keeping the states H [P,N] in front of every chunk; then,
 * from the last chunk to the first, with L the gradient of the state behind, dY = kappa dy silu(z),
 * M and W as in the forward pass and everything else in time order along the rows:
 *
 *   V  = X dY^T                dX = (M o scores) dY + diag(keep) B L^T
 *   dC = (M o V)^T B + diag(carry) dY H       dB = (M o V) C + diag(keep) X L
 *   L <- exp(s_last) L + dY^T diag(carry) C
 *
 * A decay at row t weighs what passes it: dg_t is the sum, over inputs before t and reads from t
 * on, of M o V o scores, of what reads from t on take from H, of what inputs before t give to L,
 * and of what of H reaches L. No difference of large sums is formed. The heads of a part share B
 * and C, so their M o V are added up before the products with them. Source: Dao & Gu 2024. */
#include "scan/vec_chunk.h"

#include <omp.h>

typedef struct item {
    const kr_call *call;
    const kr_scan_view *v;
    const kr_scan_rows_cut *cut;
    kr_chunk k;
    int64_t head, R, Q;
    int64_t first, heads;     /* of the part */
    float *high, *low;        /* [L16] */
    float *weights;           /* [C R, L16]: M o scores */
    float *V;                 /* [C R, L16]; then M o V */
    float *shared;            /* [C R, L16]: M o V of all heads */
    float *pairs;             /* [L16]: M o V o scores, summed over inputs so far */
    float *db, *dc;           /* [C R, N16] [C Q, N16]: of all heads */
    float *own_b, *own_c;     /* the same of one head, through the states */
    float *x, *keep_x, *dx;   /* [C R, P16] */
    float *dy, *carry_dy, *u; /* [C Q, P16] */
    float *dyt;               /* [P, L16] */
    float *turned;            /* [N, P16]: a state as columns */
    float *dg;                /* [C] */
    float *L;                 /* [heads, P, N16] */
    float *starts;            /* [chunks, heads, P, N16] */
    float *bc;                /* [M,R+Q,G,N]: this part's sums */
    float *dD, *dA, *dbias;   /* [P] [N] [1]: this head's and slab's sums */
} item;

static int64_t state_size(const item *p) { return p->v->P * p->k.N16; }

/* ---- forward, for the states ---- */

/* H [P,N16] of a head, moved behind the chunk. */
static void advance(const item *p, float *to, const float *from) {
    const kr_chunk *k = &p->k;
    kr_chunk_inputs(k, p->head, p->x);
    kr_chunk_scale(p->keep_x, p->x, k->P16, k->keep, p->R, k->tail, k->count);
    memcpy(to, from, (size_t)state_size(p) * sizeof *to);
    kr_product_run(&(kr_product){.rows = p->v->P,
                                 .columns = k->N16,
                                 .from = k->tail * p->R,
                                 .to = k->count * p->R,
                                 .a = p->keep_x,
                                 .a_row = 1,
                                 .a_k = k->P16,
                                 .b = k->b,
                                 .b_row = k->N16,
                                 .c = to,
                                 .c_row = k->N16,
                                 .beta = k->decay});
}

/* What comes behind the part's head i: the next head, or the first one of the chunk at `next`. */
static void fetch(const item *p, int64_t i, int64_t t0, int64_t next, bool reads) {
    const kr_scan_view *v = p->v;
    bool last = i + 1 == p->heads;
    int64_t head = p->first + (last ? 0 : i + 1), t = last ? next : t0;
    kr_chunk_fetch_head(&p->k, t, head, last);
    if (reads) kr_chunk_fetch(&p->k, v->dy, v->dy_row, p->Q, v->E, t, head * v->P, v->P);
}

static void load_state(const item *p, float *to, const float *from, int64_t slot, int64_t row) {
    int64_t N = p->v->N, P = p->v->P;
    if (!from) memset(to, 0, (size_t)state_size(p) * sizeof *to);
    for (int64_t e = 0; from && e < P; e++)
        kr_chunk_line(to + e * p->k.N16, from + slot * row + (p->head * P + e) * N, N, 1);
}

static void all_states(item *p) {
    const kr_scan_view *v = p->v;
    int64_t size = state_size(p), C = kr_scan_chunk_rows(v->d), chunk = 0;
    for (int64_t i = 0; i < p->heads; i++) {
        p->head = p->first + i;
        load_state(p, p->starts + i * size, v->state_in, p->k.q.slot, v->state_slot);
        load_state(p, p->L + i * size, v->dstate, p->k.q.slot, v->dstate_slot);
    }
    for (int64_t t = 0; t + C < p->k.q.T; t += C, chunk++) {
        kr_chunk_load(&p->k, t, false);
        for (int64_t i = 0; i < p->heads; i++) {
            float *from = p->starts + (chunk * p->heads + i) * size;
            p->head = p->first + i;
            kr_chunk_head(&p->k, p->head);
            fetch(p, i, t, t + C, false);
            advance(p, from + p->heads * size, from);
        }
    }
}

/* ---- what depends on a row and channel only ---- */

/* dy and silu(z) of one read and some channels; sigma is that of z. */
KR_VINLINE kr_vf gated(const item *p, int64_t row, int64_t col, int64_t w, kr_vf *dy, kr_vf *z,
                       kr_vf *sigma) {
    const kr_scan_view *v = p->v;
    *dy = v->dy ? kr_vload_n(v->dy + row * v->dy_row + col, w) : kr_vzero();
    *z = *sigma = kr_vzero();
    if (!v->z) return *dy;
    *z = kr_vload_n(v->z + row * v->z_row + col, w);
    *sigma = kr_vsigmoid(*z);
    return *dy * (*z * *sigma);
}

/* dY [C Q, P16], and with the carry of its rows, and transposed. */
static void load_reads(const item *p) {
    const kr_chunk *k = &p->k;
    int64_t P = p->v->P, rows = k->count * p->Q;
    kr_vf dy, z, sigma;
    for (int64_t l = 0, t = 0, q = 0; l < rows; l++) {
        int64_t row = kr_chunk_row(k, t), col = q * p->v->E + p->head * P;
        for (int64_t c = 0; c < k->P16; c += KR_W) {
            kr_vf du = kr_vzero();
            if (c < P) du = gated(p, row, col + c, P - c, &dy, &z, &sigma) * (float)p->v->d->kappa;
            kr_vstore(p->dy + l * k->P16 + c, du);
        }
        if (++q == p->Q) q = 0, t++;
    }
    kr_chunk_scale(p->carry_dy, p->dy, k->P16, k->carry, p->Q, 0, k->live);
    kr_chunk_transpose(p->dyt, k->L16, p->dy, k->P16, rows, P);
}

KR_VINLINE kr_vf skip_of(const item *p, int64_t c) {
    const kr_scan_view *v = p->v;
    if (!v->D) return kr_vzero();
    return v->d->skip_per_channel ? kr_vload_n(v->D + p->head * v->P + c, v->P - c)
                                  : kr_vset(v->D[p->head]);
}

/* Whether what was read is needed. */
static bool reads_again(const item *p) {
    return (p->v->z && p->call->out[KR_SCAN_DZ].data) || p->call->out[KR_SCAN_Y_AGAIN].data;
}

/* Gradients of x, z and D of rank i of the rows, channels from c on. */
KR_VINLINE void channel_outputs(const item *p, int64_t i, int64_t c) {
    const kr_scan_view *v = p->v;
    int64_t P16 = p->k.P16, col = i * v->E + p->head * v->P + c, w = v->P - c;
    kr_vf D = skip_of(p, c), dD = kr_vzero();
    for (int64_t t = 0; t < p->k.count; t++) {
        int64_t row = kr_chunk_row(&p->k, t);
        float gain = kr_rows_gain(v, row, p->head, i < p->R ? i : 0, p->k.delta[t]);
        kr_vf x = kr_vzero(), dx = kr_vzero(), dy, z, sigma;
        if (i < p->R) {
            x = kr_vload_n(v->x + row * v->x_row + col, w);
            dx = kr_vload(p->dx + (t * p->R + i) * P16 + c) * gain;
        }
        if (i < p->Q) {
            kr_vf du = gated(p, row, col, w, &dy, &z, &sigma);
            float *dz = v->z ? kr_scan_out_at(p->call, KR_SCAN_DZ, row, col) : NULL;
            float *y = kr_scan_out_at(p->call, KR_SCAN_Y_AGAIN, row, col);
            kr_vf u = kr_vload(p->u + (t * p->Q + i) * P16 + c) * (float)v->d->kappa;
            u = kr_vfma(D, x, u);
            if (dz)
                kr_scan_put(dz, w, dy * u * kr_vsilu_slope(z, sigma),
                            kr_scan_adds(p->call, KR_SCAN_DZ));
            if (y) kr_scan_put(y, w, v->z ? u * (z * sigma) : u, false);
            dx = kr_vfma(D, du, dx);
            dD = kr_vfma(du, x, dD);
        }
        float *to = i < p->R ? kr_scan_out_at(p->call, KR_SCAN_DX, row, col) : NULL;
        if (to) kr_scan_put(to, w, dx, kr_scan_adds(p->call, KR_SCAN_DX));
    }
    if (v->D) kr_scan_put(p->dD + c, w, dD, true);
}

/* x of a row and rank times the gradient of what it adds to the state. */
static float gain_gradient(const item *p, int64_t t, int64_t r) {
    const kr_scan_view *v = p->v;
    const float *x = v->x + kr_chunk_row(&p->k, t) * v->x_row + r * v->E + p->head * v->P;
    const float *dx = p->dx + (t * p->R + r) * p->k.P16;
    kr_vf sum = kr_vzero();
    for (int64_t c = 0; c < v->P; c += KR_W)
        sum = kr_vfma(kr_vload_n(x + c, v->P - c), kr_vload(dx + c), sum);
    return kr_vsum(sum);
}

/* Gradients of A and gain of the rows -> what of that delta gets, [count]. */
static void rows_shared(const item *p, float *ddelta) {
    const kr_scan_view *v = p->v;
    for (int64_t t = 0; t < p->k.count; t++) {
        int64_t row = kr_chunk_row(&p->k, t);
        const float *A = kr_rows_A(v, row, p->head);
        float dA = p->dg[t];
        ddelta[t] = 0;
        if (A && v->d->form == KRAIT_FORM_GIVEN) dA /= A[0];
        if (A && v->d->form == KRAIT_FORM_DT) {
            ddelta[t] = dA * A[0];
            dA *= p->k.delta[t];
        }
        if (A && v->d->a_constant) p->dA[0] += dA;
        if (A && !v->d->a_constant) kr_scan_put_at(p->call, KR_SCAN_DA, row, p->head, dA);
        for (int64_t r = 0; v->d->gain != KRAIT_GAIN_ONE && r < p->R; r++) {
            float dgain = gain_gradient(p, t, r);
            if (v->d->gain == KRAIT_GAIN_DT)
                ddelta[t] += dgain;
            else
                kr_scan_put_at(p->call, KR_SCAN_DGAIN, row, r * v->d->heads + p->head, dgain);
        }
    }
}

/* Gradients of A, gain, dt and dt_bias of the rows. */
static void shared_outputs(const item *p) {
    const kr_chunk *k = &p->k;
    float ddelta[KR_CHUNK_MOST];
    rows_shared(p, ddelta);
    if (!p->v->dt) return;
    for (int64_t t = 0; t < k->count; t += KR_W) {
        int64_t n = k->count - t;
        kr_vf slope = kr_scan_delta_slope(p->v->d, kr_vload_n(k->raw + t, n));
        kr_vstore_n(ddelta + t, n, kr_vload_n(ddelta + t, n) * slope);
    }
    for (int64_t t = 0; t < k->count; t++) {
        kr_scan_put_at(p->call, KR_SCAN_DDT, kr_chunk_row(k, t), p->head, ddelta[t]);
        p->dbias[0] += ddelta[t];
    }
}

/* ---- between the rows of a chunk ---- */

static float dot(const float *a, const float *b, int64_t n) {
    kr_vf sum = kr_vzero();
    for (int64_t i = 0; i < n; i += KR_W) sum = kr_vfma(kr_vload(a + i), kr_vload(b + i), sum);
    return kr_vsum(sum);
}

/* V = X dY^T for reads not before the input. */
static void pair_rows(const item *p) {
    const kr_chunk *k = &p->k;
    kr_product_run(&(kr_product){.rows = k->count * p->R,
                                 .columns = k->columns,
                                 .to = p->v->P,
                                 .a = p->x,
                                 .a_row = k->P16,
                                 .a_k = 1,
                                 .b = p->dyt,
                                 .b_row = k->L16,
                                 .c = p->V,
                                 .c_row = k->L16,
                                 .shape = KR_PRODUCT_ABOVE,
                                 .ranks = p->R,
                                 .other = p->Q});
}

/* From V and the scores: weights = M o scores, shared += M o V; dg of row t + 1 gets the pairs of
 * inputs up to t and later reads. */
static void weigh(const item *p) {
    const kr_chunk *k = &p->k;
    memset(p->pairs, 0, (size_t)k->L16 * sizeof(float));
    for (int64_t t = 0; t < k->count; t++) {
        int64_t first = t * k->Q / KR_W * KR_W, at = t * p->R * k->L16;
        for (int64_t r = 0; r < p->R; r++)
            memset(p->weights + at + r * k->L16, 0, (size_t)first * sizeof(float));
        for (int64_t l = first; l < k->columns; l += KR_W) {
            kr_vf e = kr_chunk_weight(k, t, l);
            kr_vf pairs = kr_vload(p->pairs + l);
            for (int64_t r = 0, i = at + l; r < p->R; r++, i += k->L16) {
                kr_vf score = e * kr_vload(k->scores + i), V = kr_vload(p->V + i);
                kr_vstore(p->weights + i, score);
                kr_vstore(p->shared + i, kr_vfma(e, V, kr_vload(p->shared + i)));
                pairs = kr_vfma(score, V, pairs);
            }
            kr_vstore(p->pairs + l, pairs);
        }
        for (int64_t q = 0; q < k->Q; q++) p->pairs[t * k->Q + q] = 0;
        kr_vf sum = kr_vzero();
        for (int64_t l = first; l < k->columns; l += KR_W) sum += kr_vload(p->pairs + l);
        if (t + 1 < k->count) p->dg[t + 1] = kr_vsum(sum);
    }
    p->dg[0] = 0;
}

/* dX, without the gain: through the reads of the chunk, and through the state behind. */
static void input_gradient(const item *p, const float *L) {
    const kr_chunk *k = &p->k;
    int64_t tail = k->tail * p->R, rows = k->count * p->R;
    kr_chunk_transpose(p->turned, k->P16, L, k->N16, p->v->P, p->v->N);
    kr_chunk_spread(p->high, k->keep, p->R, k->tail, k->count);
    memset(p->dx, 0, (size_t)(tail * k->P16) * sizeof(float));
    kr_product_run(&(kr_product){.rows = rows - tail,
                                 .columns = k->P16,
                                 .to = p->v->N,
                                 .a = k->b + tail * k->N16,
                                 .a_row = k->N16,
                                 .a_k = 1,
                                 .b = p->turned,
                                 .b_row = k->P16,
                                 .c = p->dx + tail * k->P16,
                                 .c_row = k->P16,
                                 .scale = p->high + tail});
    kr_product_run(&(kr_product){.rows = rows,
                                 .columns = k->P16,
                                 .to = k->count * p->Q,
                                 .a = p->weights,
                                 .a_row = k->L16,
                                 .a_k = 1,
                                 .b = p->dy,
                                 .b_row = k->P16,
                                 .c = p->dx,
                                 .c_row = k->P16,
                                 .beta = 1,
                                 .shape = KR_PRODUCT_FROM,
                                 .ranks = p->R,
                                 .other = p->Q});
}

/* u of the chunk, for the gradient of the gate. */
static void read_again(const item *p, const float *H) {
    const kr_chunk *k = &p->k;
    int64_t seen = k->live * p->Q, rows = k->count * p->Q;
    kr_chunk_transpose(p->turned, k->P16, H, k->N16, p->v->P, p->v->N);
    kr_chunk_spread(p->high, k->carry, p->Q, 0, k->live);
    memset(p->u + seen * k->P16, 0, (size_t)((rows - seen) * k->P16) * sizeof(float));
    kr_product_run(&(kr_product){.rows = seen,
                                 .columns = k->P16,
                                 .to = p->v->N,
                                 .a = k->c,
                                 .a_row = k->N16,
                                 .a_k = 1,
                                 .b = p->turned,
                                 .b_row = k->P16,
                                 .c = p->u,
                                 .c_row = k->P16,
                                 .scale = p->high});
    kr_product_run(&(kr_product){.rows = rows,
                                 .columns = k->P16,
                                 .to = k->count * p->R,
                                 .a = p->weights,
                                 .a_row = 1,
                                 .a_k = k->L16,
                                 .b = p->x,
                                 .b_row = k->P16,
                                 .c = p->u,
                                 .c_row = k->P16,
                                 .beta = 1,
                                 .shape = KR_PRODUCT_UPTO,
                                 .ranks = p->Q,
                                 .other = p->R});
}

/* to [rows, N16] = rows of a [., P16] times a state, added to sum; rows' share of dg: its product
 * with `with`. */
static void through_state(const item *p, const float *a, const float *state, float *to, float *sum,
                          const float *with, int64_t first, int64_t end, float *share) {
    int64_t N16 = p->k.N16, P16 = p->k.P16;
    kr_product_run(&(kr_product){.rows = end - first,
                                 .columns = N16,
                                 .to = p->v->P,
                                 .a = a + first * P16,
                                 .a_row = P16,
                                 .a_k = 1,
                                 .b = state,
                                 .b_row = N16,
                                 .c = to + first * N16,
                                 .c_row = N16});
    for (int64_t i = first; i < end; i++) {
        const float *own = to + i * N16;
        share[i] = dot(own, with + i * N16, N16);
        for (int64_t n = 0; n < N16; n += KR_W)
            kr_vstore(sum + i * N16 + n, kr_vload(sum + i * N16 + n) + kr_vload(own + n));
    }
}

/* What goes through the state in front and the state behind: gradients of b, c and the decays; then
 * L moves to the state in front. */
static void states_back(const item *p, const float *H, float *L) {
    const kr_chunk *k = &p->k;
    int64_t seen = k->live * p->Q, tail = k->tail * p->R, rows = k->count * p->R;
    float passed = k->decay != 0 ? k->decay * dot(H, L, state_size(p)) : 0;
    kr_chunk_scale(p->keep_x, p->x, k->P16, k->keep, p->R, k->tail, k->count);
    through_state(p, p->carry_dy, H, p->own_c, p->dc, k->c, 0, seen, p->high);
    through_state(p, p->keep_x, L, p->own_b, p->db, k->b, tail, rows, p->low);
    float sum = 0;
    for (int64_t t = k->live - 1; t >= 0; t--) {
        for (int64_t q = 0; q < p->Q; q++) sum += p->high[t * p->Q + q];
        p->dg[t] += sum + passed;
    }
    sum = 0;
    for (int64_t t = k->tail; t < k->count; t++) {
        p->dg[t] += sum;
        for (int64_t r = 0; r < p->R; r++) sum += p->low[t * p->R + r];
    }
    kr_product_run(&(kr_product){.rows = p->v->P,
                                 .columns = k->N16,
                                 .to = seen,
                                 .a = p->carry_dy,
                                 .a_row = 1,
                                 .a_k = k->P16,
                                 .b = k->c,
                                 .b_row = k->N16,
                                 .c = L,
                                 .c_row = k->N16,
                                 .beta = k->decay});
}

static void head_back(const item *p, const float *H, float *L) {
    const kr_chunk *k = &p->k;
    kr_chunk_inputs(k, p->head, p->x);
    load_reads(p);
    pair_rows(p);
    weigh(p);
    input_gradient(p, L);
    if (reads_again(p)) read_again(p, H);
    states_back(p, H, L);
    for (int64_t i = 0; i < (p->R > p->Q ? p->R : p->Q); i++)
        for (int64_t c = 0; c < p->v->P; c += KR_W) channel_outputs(p, i, c);
    shared_outputs(p);
}

/* dB += shared C, dC += shared^T B, and out to this part's sums. */
static void finish(const item *p) {
    const kr_chunk *k = &p->k;
    int64_t N = p->v->N, G = p->v->G, ranks = p->R + p->Q;
    kr_product product = {.rows = k->count * p->R,
                          .columns = k->N16,
                          .to = k->count * p->Q,
                          .a = p->shared,
                          .a_row = k->L16,
                          .a_k = 1,
                          .b = k->c,
                          .b_row = k->N16,
                          .c = p->db,
                          .c_row = k->N16,
                          .beta = 1,
                          .shape = KR_PRODUCT_FROM,
                          .ranks = p->R,
                          .other = p->Q};
    kr_product_run(&product);
    product = (kr_product){.rows = k->count * p->Q,
                           .columns = k->N16,
                           .to = k->count * p->R,
                           .a = p->shared,
                           .a_row = 1,
                           .a_k = k->L16,
                           .b = k->b,
                           .b_row = k->N16,
                           .c = p->dc,
                           .c_row = k->N16,
                           .beta = 1,
                           .shape = KR_PRODUCT_UPTO,
                           .ranks = p->Q,
                           .other = p->R};
    kr_product_run(&product);
    for (int64_t t = 0; t < k->count; t++) {
        float *to = p->bc + (kr_chunk_row(k, t) * ranks * G + k->group) * N;
        for (int64_t r = 0; r < p->R; r++)
            memcpy(to + r * G * N, p->db + (t * p->R + r) * k->N16, (size_t)N * sizeof(float));
        for (int64_t q = 0; q < p->Q; q++)
            memcpy(to + (p->R + q) * G * N, p->dc + (t * p->Q + q) * k->N16,
                   (size_t)N * sizeof(float));
    }
}

static void clear(float *p, int64_t n) { memset(p, 0, (size_t)n * sizeof *p); }

/* sums: [H,P+N+1] of D, A, dt_bias of this slab. */
static void chunk_back(item *p, int64_t chunk, float *sums) {
    int64_t size = state_size(p), width = p->v->P + p->v->N + 1;
    kr_chunk *k = &p->k;
    kr_chunk_load(k, chunk * kr_scan_chunk_rows(p->v->d), true);
    clear(p->shared, k->count * p->R * k->L16);
    clear(p->db, k->count * p->R * k->N16);
    clear(p->dc, k->count * p->Q * k->N16);
    for (int64_t i = 0; i < p->heads; i++) {
        p->head = p->first + i;
        p->dD = sums + p->head * width;
        p->dA = p->dD + p->v->P;
        p->dbias = p->dA + p->v->N;
        kr_chunk_head(k, p->head);
        kr_chunk_ways(k);
        fetch(p, i, k->t0, k->t0 - kr_scan_chunk_rows(p->v->d), true);
        head_back(p, p->starts + (chunk * p->heads + i) * size, p->L + i * size);
    }
    finish(p);
}

static void run_sequence(item *p, float *sums) {
    int64_t C = kr_scan_chunk_rows(p->v->d), P = p->v->P, N = p->v->N;
    all_states(p);
    for (int64_t i = (p->k.q.T + C - 1) / C - 1; i >= 0; i--) chunk_back(p, i, sums);
    for (int64_t i = 0; i < p->heads * P; i++) {
        const float *L = p->L + i * p->k.N16;
        float *out =
            kr_scan_out_at(p->call, KR_SCAN_DSTATE_IN, p->k.q.slot, (p->first * P + i) * N);
        for (int64_t n = 0; out && n < N; n++)
            out[n] = kr_scan_adds(p->call, KR_SCAN_DSTATE_IN) ? out[n] + L[n] : L[n];
    }
}

static void lay_out(item *p, float *at) {
    kr_chunk *k = &p->k;
    int64_t C = kr_scan_chunk_rows(p->v->d), inputs = C * p->R, reads = C * p->Q;
    float **vectors[] = {&p->high, &p->low, &p->pairs};
    float **pairs[] = {&p->weights, &p->V, &p->shared};
    for (int i = 0; i < 3; i++) *vectors[i] = kr_chunk_take(&at, KR_CHUNK_MOST);
    for (int i = 0; i < 3; i++) *pairs[i] = kr_chunk_take(&at, inputs * k->L16);
    float **of_inputs[] = {&p->db, &p->own_b, &p->x, &p->keep_x, &p->dx};
    float **of_reads[] = {&p->dc, &p->own_c, &p->dy, &p->carry_dy, &p->u};
    for (int i = 0; i < 5; i++) {
        int64_t columns = i < 2 ? k->N16 : k->P16;
        *of_inputs[i] = kr_chunk_take(&at, inputs * columns);
        *of_reads[i] = kr_chunk_take(&at, reads * columns);
    }
    p->dyt = kr_chunk_take(&at, p->v->P * k->L16);
    p->turned = kr_chunk_take(&at, p->v->N * k->P16);
    p->dg = kr_chunk_take(&at, C);
    p->L = kr_chunk_take(&at, p->heads * state_size(p));
    p->starts = at;
}

static void run_item(const kr_call *c, const kr_scan_view *v, const kr_scan_rows_cut *s, int64_t i,
                     float *scratch, float *bc, float *sums) {
    item p = {.call = c, .v = v, .cut = s, .R = v->d->inputs, .Q = v->d->reads};
    int64_t slab = i / (v->G * s->parts), group = i / s->parts % v->G, part = i % s->parts;
    int64_t each = v->d->heads / v->G, first = each * part / s->parts;
    int64_t width = v->P + v->N + 1;
    p.k = kr_chunk_begin(v, group, &scratch);
    p.first = group * each + first;
    p.heads = each * (part + 1) / s->parts - first;
    p.bc = bc + part * v->M * (p.R + p.Q) * v->G * v->N;
    lay_out(&p, scratch);
    sums += slab * v->d->heads * width;
    clear(sums + p.first * width, p.heads * width);
    for (int64_t q = v->S * slab / s->slabs; q < v->S * (slab + 1) / s->slabs; q++) {
        p.k.q = kr_scan_sequence(v, q);
        run_sequence(&p, sums);
    }
}

void KR_FN(kr_scan_chunk_grad)(const kr_call *c) {
    kr_scan_view v = kr_scan_unpack(c);
    kr_scan_rows_cut s;
    kr_scan_cut_chunk(v.d, v.M, &s);
    int64_t each = kr_scan_chunk_backward(v.d, v.M);
    float *bc = c->scratch, *sums = bc + kr_scan_line(s.per_bc);
    float *own = sums + kr_scan_line(s.per_A);
    const kr_tensor *state = &c->out[KR_SCAN_DSTATE_IN];
    if (state->data && !(c->accumulate >> KR_SCAN_DSTATE_IN & 1))
        memset(state->data, 0, kr_tensor_bytes(state));
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
    for (int64_t i = 0; i < s.slabs * v.G * s.parts; i++)
        run_item(c, &v, &s, i, own + omp_get_thread_num() * each, bc, sums);
    kr_rows_reduce(c, &v, &s, bc, sums);
}
