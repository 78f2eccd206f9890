/* scan_rows_back_vec.c - the gradient of the recurrence with vectors over N (plan ROWS).
 *
 * An item is (slab of sequences, group of b and c, part of the group's heads); scan_plan.h. For
 * each sequence and head it goes forward once, keeping the states in front of every chunk of
 * KR_SCAN_CHUNK rows; then, chunk by chunk from the last and TILE channels at a time, forward again
 * keeping h_{t-1}, and back:
 *
 *   h = a h_{t-1} + sum_r gx_r b_r,   g = L + sum_q du_q c_q,   L <- a g
 *   dc_q += du_q h,   db_r += gx_r g,   s_r = g . b_r,   u_q = h . c_q,   da += g h_{t-1}
 *
 * (gx = gain x, du = kappa dy silu(z).) s, u and da give the gradients of x, dt, A, gain, z and D
 * when all channels of the chunk are done. */
#include "scan/vec_rows.h"

#include <omp.h>

enum { C = KR_SCAN_CHUNK, TILE = KR_SCAN_TILE, MOST = KR_SCAN_RANKS };

typedef struct item {
    const kr_call *call;
    const kr_scan_view *v;
    const kr_scan_rows_cut *cut;
    kr_scan_seq q;
    int64_t head, group, R, Q;
    bool first;             /* of the part's heads: its sums of b and c are stored, not added */
    float *h, *L;           /* [P,N] */
    float *before;          /* [C,TILE,N]: h_{t-1} of the tile */
    float *a, *da;          /* [C,N] */
    float *dbc;             /* [C,R+Q,N] */
    float *gx, *s;          /* [C,R,P] */
    float *du, *u;          /* [C,Q,P] */
    float *delta;           /* [C] */
    float *starts;          /* [chunks,P,N] */
    float *bc;              /* [M,R+Q,G,N]: this part's sums */
    float *dD, *dA, *dbias; /* [P] [N] [1]: this head's and slab's sums */
} item;

KR_VINLINE int64_t row_of(const item *p, int64_t t) { return kr_scan_row(&p->q, t); }

/* ---- what depends on a row and channel only ---- */

static void row_inputs(const item *p, int64_t t, int64_t k) {
    const kr_scan_view *v = p->v;
    int64_t row = row_of(p, t), P = v->P, N = v->N;
    float delta = p->delta[k] = kr_rows_delta(v, row, p->head);
    for (int64_t r = 0; r < p->R; r++) {
        float gain = kr_rows_gain(v, row, p->head, r, delta);
        const float *x = v->x + row * v->x_row + r * v->E + p->head * P;
        for (int64_t i = 0; i < P; i++) p->gx[(k * p->R + r) * P + i] = gain * x[i];
    }
    if (kr_scan_starts(&p->q, t))
        memset(p->a + k * N, 0, (size_t)N * sizeof(float));
    else
        kr_rows_decay(v, row, p->head, delta, p->a + k * N);
}

/* dy and silu(z) of one read and some channels; sigma is that of z. */
KR_VINLINE kr_vf gated(const item *p, int64_t row, int64_t q, int64_t c, kr_vf *dy, kr_vf *z,
                       kr_vf *sigma) {
    const kr_scan_view *v = p->v;
    int64_t at = q * v->E + p->head * v->P + c, w = v->P - c;
    *dy = v->dy ? kr_vload_n(v->dy + row * v->dy_row + at, w) : kr_vzero();
    *z = v->z ? kr_vload_n(v->z + row * v->z_row + at, w) : kr_vzero();
    *sigma = kr_vsigmoid(*z);
    return v->z ? *dy * (*z * *sigma) : *dy;
}

static void row_reads(const item *p, int64_t t, int64_t k) {
    int64_t P = p->v->P;
    kr_vf dy, z, sigma;
    for (int64_t q = 0; q < p->Q; q++)
        for (int64_t c = 0; c < P; c += KR_W)
            kr_vstore_n(p->du + (k * p->Q + q) * P + c, P - c,
                        gated(p, row_of(p, t), q, c, &dy, &z, &sigma) * (float)p->v->d->kappa);
}

KR_VINLINE kr_vf skip_of(const item *p, int64_t c) {
    const kr_scan_view *v = p->v;
    if (!v->D) return kr_vzero();
    return v->d->skip_per_channel ? kr_vload_n(v->D + p->head * v->P + c, v->P - c)
                                  : kr_vset(v->D[p->head]);
}

/* Gradients of x, z and D of a row. */
static void row_outputs(const item *p, int64_t t, int64_t k) {
    const kr_scan_view *v = p->v;
    int64_t row = row_of(p, t), P = v->P;
    for (int64_t i = 0; i < (p->R > p->Q ? p->R : p->Q); i++) {
        int64_t col = i * v->E + p->head * P;
        float gain = kr_rows_gain(v, row, p->head, i < p->R ? i : 0, p->delta[k]);
        for (int64_t c = 0; c < P; c += KR_W) {
            kr_vf x = kr_vzero(), dx = kr_vzero(), D = skip_of(p, c), dy, z, sigma;
            if (i < p->R) {
                x = kr_vload_n(v->x + row * v->x_row + col + c, P - c);
                dx = kr_vload_n(p->s + (k * p->R + i) * P + c, P - c) * gain;
            }
            if (i < p->Q) {
                kr_vf du = gated(p, row, i, c, &dy, &z, &sigma);
                kr_vf u = kr_vload_n(p->u + (k * p->Q + i) * P + c, P - c);
                u = kr_vfma(D, x, u * (float)v->d->kappa);
                float *dz = kr_scan_out_at(p->call, KR_SCAN_DZ, row, col + c);
                float *y = kr_scan_out_at(p->call, KR_SCAN_Y_AGAIN, row, col + c);
                if (dz)
                    kr_scan_put(dz, P - c, dy * u * kr_vsilu_slope(z, sigma),
                                kr_scan_adds(p->call, KR_SCAN_DZ));
                if (y) kr_scan_put(y, P - c, v->z ? u * (z * sigma) : u, false);
                dx = kr_vfma(D, du, dx);
                if (v->D) kr_scan_put(p->dD + c, P - c, du * x, true);
            }
            float *to = i < p->R ? kr_scan_out_at(p->call, KR_SCAN_DX, row, col + c) : NULL;
            if (to) kr_scan_put(to, P - c, dx, kr_scan_adds(p->call, KR_SCAN_DX));
        }
    }
}

/* sum over n of f(da a), and the gradient of A; returns dL/d delta of the decay. */
static float decay_back(const item *p, int64_t row, int64_t k) {
    const kr_scan_view *v = p->v;
    const float *A = kr_rows_A(v, row, p->head), *a = p->a + k * v->N, *da = p->da + k * v->N;
    bool scalar = v->d->decay == KRAIT_DECAY_SCALAR, dt = v->d->form == KRAIT_FORM_DT;
    float ddelta = 0, total = 0;
    for (int64_t n = 0; A && n < v->N; n++) {
        float G = v->d->form == KRAIT_FORM_GIVEN ? da[n] : da[n] * a[n];
        if (dt) {
            ddelta += G * A[scalar ? 0 : n];
            G *= p->delta[k];
        }
        total += G;
        if (scalar) continue;
        if (v->d->a_constant)
            p->dA[n] += G;
        else
            kr_scan_put_at(p->call, KR_SCAN_DA, row, p->head * v->N + n, G);
    }
    if (A && scalar && v->d->a_constant) p->dA[0] += total;
    if (A && scalar && !v->d->a_constant) kr_scan_put_at(p->call, KR_SCAN_DA, row, p->head, total);
    return ddelta;
}

/* Gradients of A, gain, dt and dt_bias of a row. */
static void row_shared(const item *p, int64_t t, int64_t k) {
    const kr_scan_view *v = p->v;
    int64_t row = row_of(p, t), P = v->P;
    float ddelta = decay_back(p, row, k);
    for (int64_t r = 0; v->d->gain != KRAIT_GAIN_ONE && r < p->R; r++) {
        const float *x = v->x + row * v->x_row + r * v->E + p->head * P;
        kr_vf sum = kr_vzero();
        for (int64_t c = 0; c < P; c += KR_W)
            sum = kr_vfma(kr_vload_n(x + c, P - c),
                          kr_vload_n(p->s + (k * p->R + r) * P + c, P - c), sum);
        if (v->d->gain == KRAIT_GAIN_DT)
            ddelta += kr_vsum(sum);
        else
            kr_scan_put_at(p->call, KR_SCAN_DGAIN, row, r * v->d->heads + p->head, kr_vsum(sum));
    }
    if (!v->dt) return;
    ddelta *= kr_scan_delta_slope(v->d, kr_vset(kr_rows_raw(v, row, p->head)))[0];
    kr_scan_put_at(p->call, KR_SCAN_DDT, row, p->head, ddelta);
    p->dbias[0] += ddelta;
}

/* ---- through time ---- */

/* One row forward for `tile` channels from c on; keep: h_{t-1} goes to `before`. */
KR_VINLINE void forward(const item *p, int64_t t, int64_t k, int64_t c, int tile, bool keep) {
    const kr_scan_view *v = p->v;
    int64_t N = v->N, P = v->P;
    const float *b = v->b + row_of(p, t) * v->b_row + p->group * N, *gx = p->gx + k * p->R * P + c;
    bool start = kr_scan_starts(&p->q, t);
    for (int64_t n = 0; n < N; n += KR_W) {
        int64_t w = N - n;
        kr_vf h[TILE], a = kr_vload_n(p->a + k * N + n, w);
        for (int i = 0; i < tile; i++) {
            h[i] = start ? kr_vzero() : kr_vload_n(p->h + (c + i) * N + n, w);
            if (keep) kr_vstore_n(p->before + (k * TILE + i) * N + n, w, h[i]);
            h[i] *= a;
        }
        for (int64_t r = 0; r < p->R; r++) {
            kr_vf br = kr_vload_n(b + r * v->G * N + n, w);
            for (int i = 0; i < tile; i++) h[i] = kr_vfma(kr_vset(gx[r * P + i]), br, h[i]);
        }
        for (int i = 0; i < tile; i++) kr_vstore_n(p->h + (c + i) * N + n, w, h[i]);
    }
}

/* One row back. R and Q are constants where that pays. */
KR_VINLINE void backward(const item *p, int64_t t, int64_t k, int64_t c, int tile, int64_t R,
                         int64_t Q) {
    const kr_scan_view *v = p->v;
    int64_t N = v->N, P = v->P, row = row_of(p, t), step = v->G * N;
    const float *b = v->b + row * v->b_row + p->group * N, *gx = p->gx + k * R * P + c;
    const float *cs = v->c + row * v->c_row + p->group * N, *du = p->du + k * Q * P + c;
    float *dbc = p->dbc + k * (R + Q) * N;
    kr_vf s[MOST][TILE], u[MOST][TILE];
    for (int i = 0; i < tile; i++) {
        for (int64_t r = 0; r < R; r++) s[r][i] = kr_vzero();
        for (int64_t q = 0; q < Q; q++) u[q][i] = kr_vzero();
    }
    for (int64_t n = 0; n < N; n += KR_W) {
        int64_t w = N - n;
        kr_vf h[TILE], g[TILE], old[TILE], a = kr_vload_n(p->a + k * N + n, w), da = kr_vzero();
        for (int i = 0; i < tile; i++) {
            old[i] = kr_vload_n(p->before + (k * TILE + i) * N + n, w);
            h[i] = a * old[i];
            g[i] = kr_vload_n(p->L + (c + i) * N + n, w);
        }
        for (int64_t r = 0; r < R; r++) {
            kr_vf br = kr_vload_n(b + r * step + n, w);
            for (int i = 0; i < tile; i++) h[i] = kr_vfma(kr_vset(gx[r * P + i]), br, h[i]);
        }
        for (int64_t q = 0; q < Q; q++) {
            kr_vf cq = kr_vload_n(cs + q * step + n, w), sum = kr_vzero();
            for (int i = 0; i < tile; i++) {
                kr_vf d = kr_vset(du[q * P + i]);
                g[i] = kr_vfma(d, cq, g[i]);
                sum = kr_vfma(d, h[i], sum);
                u[q][i] = kr_vfma(h[i], cq, u[q][i]);
            }
            kr_scan_put(dbc + (R + q) * N + n, w, sum, true);
        }
        for (int64_t r = 0; r < R; r++) {
            kr_vf br = kr_vload_n(b + r * step + n, w), sum = kr_vzero();
            for (int i = 0; i < tile; i++) {
                sum = kr_vfma(kr_vset(gx[r * P + i]), g[i], sum);
                s[r][i] = kr_vfma(g[i], br, s[r][i]);
            }
            kr_scan_put(dbc + r * N + n, w, sum, true);
        }
        for (int i = 0; i < tile; i++) {
            da = kr_vfma(g[i], old[i], da);
            kr_vstore_n(p->L + (c + i) * N + n, w, a * g[i]);
        }
        kr_scan_put(p->da + k * N + n, w, da, true);
    }
    for (int i = 0; i < tile; i++) {
        for (int64_t r = 0; r < R; r++) p->s[(k * R + r) * P + c + i] = kr_vsum(s[r][i]);
        for (int64_t q = 0; q < Q; q++) p->u[(k * Q + q) * P + c + i] = kr_vsum(u[q][i]);
    }
}

KR_VINLINE void tile_back(const item *p, int64_t t0, int64_t count, int64_t c, int tile) {
    for (int64_t k = 0; k < count; k++) forward(p, t0 + k, k, c, tile, true);
    for (int64_t k = count - 1; k >= 0; k--)
        if (p->R == 1 && p->Q == 1)
            backward(p, t0 + k, k, c, tile, 1, 1);
        else
            backward(p, t0 + k, k, c, tile, p->R, p->Q);
}

/* The chunk's sums of b and c, to this part's. */
static void fold(const item *p, int64_t t0, int64_t count) {
    int64_t N = p->v->N, G = p->v->G, ranks = p->R + p->Q;
    for (int64_t k = 0; k < count; k++)
        for (int64_t i = 0; i < ranks; i++) {
            float *to = p->bc + ((row_of(p, t0 + k) * ranks + i) * G + p->group) * N;
            const float *from = p->dbc + (k * ranks + i) * N;
            for (int64_t n = 0; n < N; n++) to[n] = p->first ? from[n] : to[n] + from[n];
        }
}

static void chunk_back(const item *p, int64_t t0, int64_t count) {
    int64_t N = p->v->N, P = p->v->P, c = 0;
    memset(p->dbc, 0, (size_t)(count * (p->R + p->Q) * N) * sizeof(float));
    memset(p->da, 0, (size_t)(count * N) * sizeof(float));
    for (int64_t k = 0; k < count; k++) {
        row_inputs(p, t0 + k, k);
        row_reads(p, t0 + k, k);
    }
    for (; c + TILE <= P; c += TILE) tile_back(p, t0, count, c, TILE);
    for (; c < P; c++) tile_back(p, t0, count, c, 1);
    for (int64_t k = 0; k < count; k++) {
        row_outputs(p, t0 + k, k);
        row_shared(p, t0 + k, k);
    }
    fold(p, t0, count);
}

static void chunk_forward(const item *p, int64_t t0) {
    for (int64_t k = 0; k < C; k++) {
        int64_t c = 0;
        row_inputs(p, t0 + k, k);
        for (; c + TILE <= p->v->P; c += TILE) forward(p, t0 + k, k, c, TILE, false);
        for (; c < p->v->P; c++) forward(p, t0 + k, k, c, 1, false);
    }
}

static void run_head(item *p) {
    const kr_scan_view *v = p->v;
    int64_t size = v->P * v->N, chunks = (p->q.T + C - 1) / C;
    size_t bytes = (size_t)size * sizeof(float);
    float *out = kr_scan_out_at(p->call, KR_SCAN_DSTATE_IN, p->q.slot, p->head * size);
    memset(p->h, 0, bytes);
    memset(p->L, 0, bytes);
    if (v->state_in) memcpy(p->h, v->state_in + p->q.slot * v->state_slot + p->head * size, bytes);
    if (v->dstate) memcpy(p->L, v->dstate + p->q.slot * v->dstate_slot + p->head * size, bytes);
    for (int64_t i = 0; i < chunks; i++) {
        memcpy(p->starts + i * size, p->h, bytes);
        if (i + 1 < chunks) chunk_forward(p, i * C);
    }
    for (int64_t i = chunks - 1; i >= 0; i--) {
        memcpy(p->h, p->starts + i * size, bytes);
        chunk_back(p, i * C, p->q.T - i * C < C ? p->q.T - i * C : C);
    }
    for (int64_t i = 0; out && i < size; i++)
        out[i] = kr_scan_adds(p->call, KR_SCAN_DSTATE_IN) ? out[i] + p->L[i] : p->L[i];
}

static float *take(float **at, int64_t floats) {
    float *p = *at;
    *at += kr_scan_line(floats);
    return p;
}

static void lay_out(item *p, float *at) {
    int64_t N = p->v->N, P = p->v->P;
    p->h = take(&at, P * N);
    p->L = take(&at, P * N);
    p->before = take(&at, C * TILE * N);
    p->a = take(&at, C * N);
    p->da = take(&at, C * N);
    p->dbc = take(&at, C * (p->R + p->Q) * N);
    p->gx = take(&at, C * p->R * P);
    p->s = take(&at, C * p->R * P);
    p->du = take(&at, C * p->Q * P);
    p->u = take(&at, C * p->Q * P);
    p->delta = take(&at, C);
    p->starts = at;
}

/* sums: [slabs,H,P+N+1] of D, A, dt_bias. */
static void run_item(item *p, int64_t slab, int64_t part, float *bc, float *sums) {
    const kr_scan_view *v = p->v;
    const kr_scan_rows_cut *s = p->cut;
    int64_t each = v->d->heads / v->G, first = each * part / s->parts;
    int64_t width = v->P + v->N + 1;
    p->bc = bc + part * v->M * (p->R + p->Q) * v->G * v->N;
    for (int64_t h = first; h < each * (part + 1) / s->parts; h++) {
        p->head = p->group * each + h;
        p->first = h == first;
        p->dD = sums + (slab * v->d->heads + p->head) * width;
        p->dA = p->dD + v->P;
        p->dbias = p->dA + v->N;
        memset(p->dD, 0, (size_t)width * sizeof(float));
        for (int64_t i = v->S * slab / s->slabs; i < v->S * (slab + 1) / s->slabs; i++) {
            p->q = kr_scan_sequence(v, i);
            run_head(p);
        }
    }
}

void KR_FN(kr_scan_rows_grad)(const kr_call *c) {
    kr_scan_view v = kr_scan_unpack(c);
    kr_scan_rows_cut s;
    kr_scan_cut_rows(v.d, v.M, &s);
    float *bc = c->scratch, *sums = bc + kr_scan_line(s.per_bc);
    float *own = sums + kr_scan_line(s.per_A);
    const kr_tensor *state = &c->out[KR_SCAN_DSTATE_IN];
    if (state->data && !(c->accumulate >> KR_SCAN_DSTATE_IN & 1))
        memset(state->data, 0, kr_tensor_bytes(state));
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
    for (int64_t i = 0; i < s.slabs * v.G * s.parts; i++) {
        item p = {.call = c, .v = &v, .cut = &s, .R = v.d->inputs, .Q = v.d->reads};
        p.group = i / s.parts % v.G;
        lay_out(&p, own + omp_get_thread_num() * s.per_thread);
        run_item(&p, i / (v.G * s.parts), i % s.parts, bc, sums);
    }
    kr_rows_reduce(c, &v, &s, bc, sums);
}
