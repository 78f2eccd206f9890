/* scan_ref.c - the recurrence and its gradient, scalar: the specification of every plan. scan.h
 * states the contract.
 *
 * It works on one lane at a time: a sequence s, a head h and one of the head's P channels, whose
 * state is N numbers. Lanes only meet where they share an array (b, c, A, dt, D, ...): there
 * gradients are summed in double and written at the end. All arithmetic is complex double; a real
 * member simply has no imaginary parts.
 *
 *   forward    h_t = a_t h_{t-1} + sum_r gain x_r b_r
 *              u_q = kappa Re(h . c_q) + D x_q,   y_q = u_q silu(z_q)
 *   backward   L_t = dL/dh_t = kappa conj(c_t) du_t + conj(a_{t+1}) L_{t+1}
 *
 * src/scan/README.md derives it. */
#include "ops/op_ref.h"

#include <complex.h>
#include <math.h>

#include "scan/scan_op.h"

typedef double complex cplx;

typedef struct lane {
    const kr_call *c;
    const krait_scan_desc *d;
    int64_t first, T, slot; /* of the sequence */
    int64_t h, g, hp;       /* head, its group, h * P + p */
    cplx *hs;    /* [T+1,N]: hs[0] = h0, hs[t+1] = h_t; the forward pass uses hs[0] alone */
    cplx *L;     /* [N] dL/dh */
    double *low; /* [K] of what is of low rank: kappa Re(q_k . h), or the gradient of it */
    double *sum[KR_SCAN_GRAD_OUTS]; /* gradients that lanes share; NULL: written at once */
} lane;

/* ---- reading arrays ---- */

static const kr_tensor *input(const kr_call *c, int i) { return &c->in[i]; }

static bool absent(const kr_call *c, int i) { return i >= c->n_in || !c->in[i].data; }

static const real *row_of(const kr_call *c, int i, bool constant, int64_t row) {
    const kr_tensor *t = input(c, i);
    return (const real *)t->data + (constant ? 0 : row * t->stride[0]);
}

/* Number n of a vector that starts at v and whose imaginary parts are `away` from the real ones. */
static cplx number(const krait_scan_desc *d, const real *v, int64_t away, int64_t n) {
    return (double)v[n] + (d->complex_state ? I * (double)v[away + n] : 0);
}

/* Number n of b_r and of c_q of a row. Complex lanes build v = x_0 + i x_1 and read Re h and
 * Re(-i h) = Im h. */
static cplx b_of(const lane *l, int64_t row, int64_t r, int64_t n) {
    if (l->d->complex_lanes) return r ? I : 1;
    const real *v = row_of(l->c, KR_SCAN_B, l->d->b_constant, row);
    return number(l->d, v + (r * l->d->groups + l->g) * kr_scan_n(l->d), l->d->state, n);
}

static cplx c_of(const lane *l, int64_t row, int64_t q, int64_t n) {
    if (l->d->complex_lanes) return q ? -I : 1;
    const real *v = row_of(l->c, KR_SCAN_C, l->d->c_constant, row);
    return number(l->d, v + (q * l->d->groups + l->g) * kr_scan_n(l->d), l->d->state, n);
}

static int64_t a_index(const lane *l) {
    if (l->d->complex_lanes) return l->hp;
    return (l->d->decay == KRAIT_DECAY_MATRIX ? l->hp : l->h) * kr_scan_a_width(l->d);
}

/* From a real part of A, and of the state, to its imaginary part. */
static int64_t a_away(const lane *l) {
    if (l->d->complex_lanes) return kr_scan_lanes(l->d);
    return l->d->decay == KRAIT_DECAY_SCALAR ? 1 : l->d->state;
}

static int64_t state_away(const lane *l) {
    return l->d->complex_lanes ? kr_scan_lanes(l->d) : l->d->state;
}

static int64_t state_index(const lane *l) {
    return l->d->complex_lanes ? l->hp : l->hp * kr_scan_n(l->d);
}

static cplx A_of(const lane *l, int64_t row, int64_t n) {
    const real *v = row_of(l->c, KR_SCAN_A, l->d->a_constant, row) + a_index(l);
    return number(l->d, v, a_away(l), l->d->decay == KRAIT_DECAY_SCALAR ? 0 : n);
}

static int64_t lane_index(const lane *l, int64_t r) { return r * kr_scan_lanes(l->d) + l->hp; }

static double x_of(const lane *l, int64_t row, int64_t r) {
    return (double)row_of(l->c, KR_SCAN_X, false, row)[lane_index(l, r)];
}

static double skip_of(const lane *l) {
    if (absent(l->c, KR_SCAN_D)) return 0;
    return (double)row_of(l->c, KR_SCAN_D, true, 0)[l->d->skip_per_channel ? l->hp : l->h];
}

/* delta before the softplus. */
static int64_t dt_index(const lane *l) { return l->d->decay == KRAIT_DECAY_MATRIX ? l->hp : l->h; }

static double raw_dt(const lane *l, int64_t row) {
    double v = (double)row_of(l->c, KR_SCAN_DT, l->d->dt_constant, row)[dt_index(l)];
    if (!absent(l->c, KR_SCAN_BIAS)) v += (double)row_of(l->c, KR_SCAN_BIAS, true, 0)[dt_index(l)];
    return v;
}

/* delta, and its derivative by the raw value. */
static double delta_of(const lane *l, int64_t row, double *slope) {
    const krait_scan_desc *d = l->d;
    *slope = 0;
    if (!kr_scan_uses_dt(d)) return 0;
    double v = raw_dt(l, row);
    bool soft = d->dt_softplus && v <= 20;
    double delta = soft ? log1p(exp(v)) : v;
    *slope = soft ? 1 / (1 + exp(-v)) : 1;
    bool low = delta<d->dt_min, high = d->dt_max> 0 && delta > d->dt_max;
    if (low || high) *slope = 0;
    return low ? d->dt_min : high ? d->dt_max : delta;
}

static double gain_of(const lane *l, int64_t row, int64_t r, double delta) {
    if (l->d->gain == KRAIT_GAIN_DT) return delta;
    if (l->d->gain == KRAIT_GAIN_ONE) return 1;
    return (double)row_of(l->c, KR_SCAN_GAIN, false, row)[r * l->d->heads + l->h];
}

static cplx decay_of(const lane *l, int64_t row, int64_t n, double delta) {
    const krait_scan_desc *d = l->d;
    if (d->decay == KRAIT_DECAY_NONE) return 1;
    cplx z = A_of(l, row, n);
    if (d->form == KRAIT_FORM_GIVEN) return z;
    if (d->form == KRAIT_FORM_DT) z *= delta;
    return d->complex_state ? cexp(z) : exp(creal(z));
}

/* ---- order ---- */

static int64_t row_at(const lane *l, int64_t t) {
    if (l->d->order == KRAIT_ORDER_REVERSE) return l->first + l->T - 1 - t;
    if (l->d->order == KRAIT_ORDER_INDEX)
        return l->first + ((const int32_t *)input(l->c, KR_SCAN_INDEX)->data)[t];
    return l->first + t;
}

/* Whether a segment starts at step t, so that the state before it does not count. */
static bool starts(const lane *l, int64_t t) {
    if (absent(l->c, KR_SCAN_RESET)) return false;
    const uint8_t *reset = input(l->c, KR_SCAN_RESET)->data;
    if (l->d->order == KRAIT_ORDER_REVERSE) return t > 0 && reset[row_at(l, t - 1)];
    return reset[row_at(l, t)];
}

static bool ends(const lane *l, int64_t t) { return t + 1 == l->T || starts(l, t + 1); }

/* ---- state ---- */

static void state_load(const lane *l, const kr_tensor *t, cplx *h) {
    const real *v = (const real *)t->data + l->slot * t->stride[0] + state_index(l);
    for (int64_t n = 0; n < l->d->state; n++) h[n] = number(l->d, v, state_away(l), n);
}

static void state_store(const lane *l, const kr_tensor *t, const cplx *h, int accumulate) {
    real *v = (real *)t->data + l->slot * t->stride[0] + state_index(l);
    for (int64_t n = 0; n < l->d->state; n++) {
        kr_put(&v[n], creal(h[n]), accumulate);
        if (l->d->complex_state) kr_put(&v[state_away(l) + n], cimag(h[n]), accumulate);
    }
}

static void clear(cplx *h, int64_t N) {
    for (int64_t n = 0; n < N; n++) h[n] = 0;
}

static void state_first(const lane *l, cplx *h) {
    if (absent(l->c, KR_SCAN_STATE))
        clear(h, l->d->state);
    else
        state_load(l, input(l->c, KR_SCAN_STATE), h);
}

/* Number n of p_k (which: 0) or q_k (1). */
static int64_t low_index(const lane *l, int which, int64_t k) {
    return a_index(l) + (1 + which * l->d->low_rank + k) * kr_scan_n(l->d);
}

static cplx low_of(const lane *l, int64_t row, int which, int64_t k, int64_t n) {
    const real *v = row_of(l->c, KR_SCAN_A, l->d->a_constant, row) + low_index(l, which, k);
    return number(l->d, v, l->d->state, n);
}

/* l->low = kappa Re(q_k . h) */
static void read_low(const lane *l, int64_t row, const cplx *h) {
    for (int64_t k = 0; k < l->d->low_rank; k++) {
        double sum = 0;
        for (int64_t n = 0; n < l->d->state; n++) sum += creal(low_of(l, row, 1, k, n) * h[n]);
        l->low[k] = l->d->kappa * sum;
    }
}

/* to = a_t from + sum_r gain x_r b_r; from may be to. */
static void step(const lane *l, int64_t t, const cplx *from, cplx *to) {
    int64_t row = row_at(l, t);
    double slope, delta = delta_of(l, row, &slope);
    bool fresh = starts(l, t);
    read_low(l, row, from);
    for (int64_t n = 0; n < l->d->state; n++) {
        cplx h = fresh ? 0 : decay_of(l, row, n, delta) * from[n];
        for (int64_t k = 0; !fresh && k < l->d->low_rank; k++)
            h -= low_of(l, row, 0, k, n) * l->low[k];
        for (int64_t r = 0; r < l->d->inputs; r++)
            h += gain_of(l, row, r, delta) * x_of(l, row, r) * b_of(l, row, r, n);
        to[n] = h;
    }
}

/* ---- forward ---- */

/* u_q of a row that reads the state h (NULL: zeros). */
static double read(const lane *l, int64_t row, int64_t q, const cplx *h) {
    double u = 0;
    for (int64_t n = 0; h && n < l->d->state; n++) u += creal(h[n] * c_of(l, row, q, n));
    u *= l->d->kappa;
    return absent(l->c, KR_SCAN_D) ? u : u + skip_of(l) * x_of(l, row, q);
}

/* silu(z) of a row and read, and its derivative; 1 and 0 without a gate. */
static double gate(const lane *l, int64_t row, int64_t q, double *slope) {
    *slope = 0;
    if (absent(l->c, KR_SCAN_Z)) return 1;
    double z = (double)row_of(l->c, KR_SCAN_Z, false, row)[lane_index(l, q)];
    double s = 1 / (1 + exp(-z));
    *slope = s * (1 + z * (1 - s));
    return z * s;
}

static void write_y(const lane *l, const kr_tensor *y, bool add, int64_t t, const cplx *h) {
    int64_t row = row_at(l, t);
    double slope;
    for (int64_t q = 0; q < l->d->reads; q++)
        kr_put((real *)y->data + row * y->stride[0] + lane_index(l, q),
               read(l, row, q, h) * gate(l, row, q, &slope), add);
}

static void forward_lane(const lane *l) {
    cplx *h = l->hs;
    const kr_tensor *y = &l->c->out[KR_SCAN_OUT_Y];
    bool add = KR_ACC(l->c, KR_SCAN_OUT_Y);
    int64_t segment = 0;
    state_first(l, h);
    for (int64_t t = 0; t < l->T; t++) {
        if (starts(l, t)) {
            clear(h, l->d->state);
            segment = t;
        }
        if (l->d->read == KRAIT_READ_BEFORE) write_y(l, y, add, t, h);
        step(l, t, h, h);
        if (l->d->read == KRAIT_READ_AFTER) write_y(l, y, add, t, h);
        for (int64_t u = segment; l->d->read == KRAIT_READ_FINAL && ends(l, t) && u <= t; u++)
            write_y(l, y, add, u, h);
    }
    if (l->c->n_out > KR_SCAN_OUT_STATE && l->c->out[KR_SCAN_OUT_STATE].data)
        state_store(l, &l->c->out[KR_SCAN_OUT_STATE], h, KR_ACC(l->c, KR_SCAN_OUT_STATE));
}

typedef void lane_function(const lane *l);

static void each_lane(lane *l, lane_function *f) {
    const kr_tensor *seqs = input(l->c, KR_SCAN_SEQS);
    for (int64_t s = 0; s < seqs->shape[0]; s++) {
        const int64_t *seq = (const int64_t *)seqs->data + s * seqs->stride[0];
        l->first = seq[0];
        l->T = seq[1];
        l->slot = seq[2];
        for (l->hp = 0; l->hp < kr_scan_lanes(l->d); l->hp++) {
            l->h = l->hp / l->d->width;
            l->g = l->h / (l->d->heads / l->d->groups);
            f(l);
        }
    }
}

void KR_FN(kr_scan)(const kr_call *c) {
    lane l = {.c = c, .d = c->attr, .hs = c->scratch};
    l.low = (double *)(l.hs + l.d->state);
    each_lane(&l, forward_lane);
}

/* ---- backward ---- */

static const kr_tensor *grad_out(const lane *l, int i) {
    return i < l->c->n_out && l->c->out[i].data ? &l->c->out[i] : NULL;
}

/* Adds to element `col` of a row of a shared gradient. */
static void add(const lane *l, int i, int64_t row, int64_t cols, int64_t col, double v) {
    l->sum[i][row * cols + col] += v;
}

/* The same for the complex number n of a vector that starts at column col and whose imaginary parts
 * are `away` from the real ones. */
static void add_number(const lane *l, int i, int64_t row, int64_t cols, int64_t col, int64_t away,
                       int64_t n, cplx v) {
    add(l, i, row, cols, col + n, creal(v));
    if (l->d->complex_state) add(l, i, row, cols, col + away + n, cimag(v));
}

/* dL/du_q = dy_q silu(z_q) of a row. */
static double du_of(const lane *l, int64_t row, int64_t q) {
    double slope;
    if (absent(l->c, KR_SCAN_DY)) return 0;
    return (double)row_of(l->c, KR_SCAN_DY, false, row)[lane_index(l, q)] * gate(l, row, q, &slope);
}

/* Gradients of one read: L += kappa conj(c) du, and those of c, D and z. h (NULL: zeros) is what
 * was read. */
static void read_back(const lane *l, int64_t t, const cplx *h) {
    const krait_scan_desc *d = l->d;
    if (absent(l->c, KR_SCAN_DY)) return;
    int64_t row = row_at(l, t), c_row = d->c_constant ? 0 : row;
    for (int64_t q = 0; q < d->reads; q++) {
        double du = du_of(l, row, q);
        for (int64_t n = 0; n < d->state; n++) {
            l->L[n] += d->kappa * du * conj(c_of(l, row, q, n));
            if (h && l->sum[KR_SCAN_DC])
                add_number(l, KR_SCAN_DC, c_row, kr_scan_c_cols(d),
                           (q * d->groups + l->g) * kr_scan_n(d), d->state, n,
                           d->kappa * du * conj(h[n]));
        }
        if (!absent(l->c, KR_SCAN_D))
            add(l, KR_SCAN_DD, 0, 0, d->skip_per_channel ? l->hp : l->h, du * x_of(l, row, q));
    }
}

static void gate_back(const lane *l, int64_t t, const cplx *h) {
    const kr_tensor *dz = grad_out(l, KR_SCAN_DZ), *y = grad_out(l, KR_SCAN_Y_AGAIN);
    int64_t row = row_at(l, t);
    if (y) write_y(l, y, false, t, h);
    for (int64_t q = 0; dz && q < l->d->reads; q++) {
        double slope, dy = 0;
        gate(l, row, q, &slope);
        if (!absent(l->c, KR_SCAN_DY))
            dy = (double)row_of(l->c, KR_SCAN_DY, false, row)[lane_index(l, q)];
        kr_put((real *)dz->data + row * dz->stride[0] + lane_index(l, q),
               dy * slope * read(l, row, q, h), KR_ACC(l->c, KR_SCAN_DZ));
    }
}

/* Gradients of the input terms: b, gain and x (whose skip term is added here too). Returns dL/d
 * delta of the gain. */
static double input_back(const lane *l, int64_t row, double delta) {
    const krait_scan_desc *d = l->d;
    const kr_tensor *dx = grad_out(l, KR_SCAN_DX);
    double ddelta = 0;
    for (int64_t r = 0; r < d->inputs; r++) {
        double gain = gain_of(l, row, r, delta), x = x_of(l, row, r), Lb = 0;
        for (int64_t n = 0; n < d->state; n++) {
            Lb += creal(l->L[n] * conj(b_of(l, row, r, n)));
            if (l->sum[KR_SCAN_DB])
                add_number(l, KR_SCAN_DB, d->b_constant ? 0 : row, kr_scan_b_cols(d),
                           (r * d->groups + l->g) * kr_scan_n(d), d->state, n, gain * x * l->L[n]);
        }
        double skip = r < d->reads && !absent(l->c, KR_SCAN_D) ? skip_of(l) * du_of(l, row, r) : 0;
        if (dx)
            kr_put((real *)dx->data + row * dx->stride[0] + lane_index(l, r), gain * Lb + skip,
                   KR_ACC(l->c, KR_SCAN_DX));
        if (d->gain == KRAIT_GAIN_DT) ddelta += x * Lb;
        if (d->gain == KRAIT_GAIN_GIVEN)
            add(l, KR_SCAN_DGAIN, row, d->inputs * d->heads, r * d->heads + l->h, x * Lb);
    }
    return ddelta;
}

/* dL/dA of one number: shared by lanes, or (MATRIX varying in time) this lane's own. */
static void add_A(const lane *l, int64_t row, int64_t n, cplx v) {
    const krait_scan_desc *d = l->d;
    bool scalar = d->decay == KRAIT_DECAY_SCALAR;
    const kr_tensor *dA = grad_out(l, KR_SCAN_DA);
    if (l->sum[KR_SCAN_DA]) {
        add_number(l, KR_SCAN_DA, d->a_constant ? 0 : row, kr_scan_a_cols(d), a_index(l), a_away(l),
                   scalar ? 0 : n, v);
    } else if (dA) {
        real *to = (real *)dA->data + row * dA->stride[0] + a_index(l);
        kr_put(to + n, creal(v), KR_ACC(l->c, KR_SCAN_DA));
        if (d->complex_state) kr_put(to + a_away(l) + n, cimag(v), KR_ACC(l->c, KR_SCAN_DA));
    }
}

/* Gradients of what is of low rank: with s = kappa Re(q . prev) and dL/ds = g = -Re sum conj(p) L,
 * those of p are -s L, of q kappa g conj(prev). l->low is left with g. */
static void low_back(const lane *l, int64_t row, const cplx *prev) {
    const krait_scan_desc *d = l->d;
    int64_t to = d->a_constant ? 0 : row, cols = kr_scan_a_cols(d);
    if (!prev) return;
    read_low(l, row, prev);
    for (int64_t k = 0; k < d->low_rank; k++) {
        double g = 0;
        for (int64_t n = 0; n < d->state; n++) g -= creal(conj(low_of(l, row, 0, k, n)) * l->L[n]);
        for (int64_t n = 0; l->sum[KR_SCAN_DA] && n < d->state; n++) {
            add_number(l, KR_SCAN_DA, to, cols, low_index(l, 0, k), d->state, n,
                       -l->low[k] * l->L[n]);
            add_number(l, KR_SCAN_DA, to, cols, low_index(l, 1, k), d->state, n,
                       d->kappa * g * conj(prev[n]));
        }
        l->low[k] = g;
    }
}

/* Gradient of the decay, from G_a = L conj(h_{t-1}); then L moves to h_{t-1}. prev NULL: a segment
 * starts here, and nothing came from before. Returns dL/d delta of the decay. */
static double decay_back(const lane *l, int64_t row, const cplx *prev, double delta) {
    const krait_scan_desc *d = l->d;
    double ddelta = 0;
    low_back(l, row, prev);
    for (int64_t n = 0; n < d->state; n++) {
        cplx a = decay_of(l, row, n, delta), G = prev ? l->L[n] * conj(prev[n]) : 0;
        l->L[n] = prev ? conj(a) * l->L[n] : 0;
        for (int64_t k = 0; prev && k < d->low_rank; k++)
            l->L[n] += d->kappa * l->low[k] * conj(low_of(l, row, 1, k, n));
        if (d->decay == KRAIT_DECAY_NONE) continue;
        if (d->form != KRAIT_FORM_GIVEN) G *= conj(a);
        if (d->form == KRAIT_FORM_DT) {
            ddelta += creal(conj(G) * A_of(l, row, n));
            G *= delta;
        }
        add_A(l, row, n, G);
    }
    return ddelta;
}

/* Gradient of delta on to dt and its bias. */
static void dt_back(const lane *l, int64_t row, double draw) {
    const krait_scan_desc *d = l->d;
    const kr_tensor *ddt = grad_out(l, KR_SCAN_DDT);
    if (!kr_scan_uses_dt(d)) return;
    add(l, KR_SCAN_DBIAS, 0, 0, dt_index(l), draw);
    if (l->sum[KR_SCAN_DDT])
        add(l, KR_SCAN_DDT, d->dt_constant ? 0 : row, kr_scan_dt_cols(d), dt_index(l), draw);
    else if (ddt)
        kr_put((real *)ddt->data + row * ddt->stride[0] + dt_index(l), draw,
               KR_ACC(l->c, KR_SCAN_DDT));
}

/* What comes before the reads of a step that reads after or at the end; `last` is the state that
 * row reads. */
static void rows_back(const lane *l, int64_t first, int64_t last, const cplx *h) {
    for (int64_t t = last; t >= first; t--) {
        gate_back(l, t, h);
        read_back(l, t, h);
    }
}

static void backward_lane(const lane *l) {
    const krait_scan_desc *d = l->d;
    int64_t N = d->state;
    state_first(l, l->hs);
    for (int64_t t = 0; t < l->T; t++) step(l, t, l->hs + t * N, l->hs + (t + 1) * N);
    clear(l->L, N);
    if (!absent(l->c, KR_SCAN_DSTATE)) state_load(l, input(l->c, KR_SCAN_DSTATE), l->L);
    for (int64_t t = l->T - 1; t >= 0; t--) {
        int64_t row = row_at(l, t), segment = t;
        const cplx *prev = starts(l, t) ? NULL : l->hs + t * N, *now = l->hs + (t + 1) * N;
        if (d->read == KRAIT_READ_AFTER) rows_back(l, t, t, now);
        if (d->read == KRAIT_READ_FINAL && ends(l, t)) {
            while (segment > 0 && !starts(l, segment)) segment--;
            rows_back(l, segment, t, now);
        }
        double slope, delta = delta_of(l, row, &slope);
        double ddelta = input_back(l, row, delta);
        ddelta += decay_back(l, row, prev, delta);
        dt_back(l, row, ddelta * slope);
        if (d->read == KRAIT_READ_BEFORE) {
            rows_back(l, t, t, prev);
            if (!prev) clear(l->L, N);
        }
    }
    if (grad_out(l, KR_SCAN_DSTATE_IN)) state_store(l, grad_out(l, KR_SCAN_DSTATE_IN), l->L, 1);
}

/* Writes a shared gradient: rows of `cols` numbers, summed in double. */
static void flush(const lane *l, int i, int64_t rows, int64_t cols) {
    const kr_tensor *out = grad_out(l, i);
    for (int64_t row = 0; out && l->sum[i] && row < rows; row++)
        for (int64_t col = 0; col < cols; col++)
            kr_put((real *)out->data + row * (rows > 1 ? out->stride[0] : 0) + col,
                   l->sum[i][row * cols + col], KR_ACC(l->c, i));
}

/* Gradients of states are added up lane by lane: clears them first, the slots nobody names too. */
static void clear_state_grad(const lane *l) {
    const kr_tensor *out = grad_out(l, KR_SCAN_DSTATE_IN);
    if (!out || KR_ACC(l->c, KR_SCAN_DSTATE_IN)) return;
    int64_t count = kr_scan_lanes(l->d) * kr_scan_n(l->d);
    for (int64_t s = 0; s < out->shape[0]; s++)
        for (int64_t i = 0; i < count; i++) ((real *)out->data)[s * out->stride[0] + i] = 0;
}

void KR_FN(kr_scan_grad)(const kr_call *c) {
    lane l = {.c = c, .d = c->attr};
    int64_t M = input(c, KR_SCAN_X)->shape[0];
    kr_scan_ref_layout s;
    kr_scan_ref_plan(l.d, M, &s);
    double *scratch = c->scratch;
    l.hs = (cplx *)c->scratch;
    l.L = l.hs + (M + 1) * l.d->state;
    l.low = (double *)(l.L + l.d->state);
    for (int64_t i = s.at[0]; i < s.total; i++) scratch[i] = 0;
    for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++)
        l.sum[i] = s.rows[i] > 0 && s.cols[i] > 0 ? scratch + s.at[i] : NULL;
    clear_state_grad(&l);
    each_lane(&l, backward_lane);
    for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++) flush(&l, i, s.rows[i], s.cols[i]);
}
