/* rnn_ref.c - the nonlinear recurrences and their gradients, scalar. rnn.h has the contract. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/rnn/rnn.h"

/* A sequence of a call; H numbers a gate. */
typedef struct run {
    const kr_call *c;
    kr_rnn_cell cell;
    int64_t H, G, first, T, slot;
    double *h, *memory, *next, *p; /* [H] h and c of the step before, [H] of now, [G*H] */
    double *dw, *db;               /* sums: [G*H,H], [G*H] */
} run;

static double s(double x) { return 1 / (1 + exp(-x)); }

static bool absent(const kr_call *c, int i) { return i >= c->n_in || !c->in[i].data; }

static double at(const run *r, int i, int64_t m, int64_t j) {
    const kr_tensor *t = &r->c->in[i];
    return (double)((const real *)t->data)[m * t->stride[0] + j];
}

static void put(const run *r, int i, int64_t m, int64_t j, double v) {
    const kr_tensor *t = &r->c->out[i];
    if (i < r->c->n_out && t->data)
        kr_put((real *)t->data + m * t->stride[0] + j, v, KR_ACC(r->c, i));
}

static bool starts(const run *r, int64_t m) {
    return !absent(r->c, KR_RNN_RESET) && ((const uint8_t *)r->c->in[KR_RNN_RESET].data)[m];
}

/* State k of this sequence's slot, number j; zero without states. */
static double state_of(const run *r, int i, int k, int64_t j) {
    return absent(r->c, i) ? 0 : at(r, i, r->slot, k * r->H + j);
}

static void each_sequence(run *r, void (*f)(run *r)) {
    const kr_tensor *seqs = &r->c->in[KR_RNN_SEQS];
    for (int64_t k = 0; k < seqs->shape[0]; k++) {
        const int64_t *q = (const int64_t *)seqs->data + k * seqs->stride[0];
        r->first = q[0];
        r->T = q[1];
        r->slot = q[2];
        f(r);
    }
}

static run open_run(const kr_call *c) {
    run r = {.c = c, .cell = ((const kr_rnn_attr *)c->attr)->cell, .H = c->in[KR_RNN_W].shape[1]};
    r.G = kr_rnn_gates(r.cell);
    r.h = c->scratch;
    r.memory = r.h + r.H;
    r.next = r.memory + r.H;
    r.p = r.next + r.H;
    r.db = r.p + r.G * r.H;
    r.dw = r.db + r.G * r.H;
    return r;
}

/* ---- forward ---- */

/* p = W h + bias, from the h of the step before. */
static void product(run *r) {
    for (int64_t j = 0; j < r->G * r->H; j++) {
        r->p[j] = absent(r->c, KR_RNN_BIAS) ? 0 : (double)((real *)r->c->in[KR_RNN_BIAS].data)[j];
        for (int64_t k = 0; k < r->H; k++) r->p[j] += at(r, KR_RNN_W, j, k) * r->h[k];
    }
}

static void keep(const run *r, int64_t m, int gate, int64_t j, double v) {
    put(r, KR_RNN_GATES, m, gate * r->H + j, v);
}

/* Number j of the new h. */
static double cell_forward(run *r, int64_t m, int64_t j) {
    int64_t H = r->H;
    double x = at(r, KR_RNN_X, m, j), p = r->p[j];
    if (r->cell == KR_RNN_TANH) return tanh(x + p);
    if (r->cell == KR_RNN_RELU) return x + p > 0 ? x + p : 0;
    double a = s(x + p), b = s(at(r, KR_RNN_X, m, H + j) + r->p[H + j]), h;
    keep(r, m, 0, j, a);
    keep(r, m, 1, j, b);
    if (r->cell == KR_RNN_GRU) { /* a: r, b: z */
        double n = tanh(at(r, KR_RNN_X, m, 2 * H + j) + a * r->p[2 * H + j]);
        keep(r, m, 2, j, n);
        put(r, KR_RNN_MEMORY, m, j, r->p[2 * H + j]);
        return (1 - b) * n + b * r->h[j];
    }
    double g = tanh(at(r, KR_RNN_X, m, 2 * H + j) + r->p[2 * H + j]);
    double o = s(at(r, KR_RNN_X, m, 3 * H + j) + r->p[3 * H + j]);
    keep(r, m, 2, j, g);
    keep(r, m, 3, j, o);
    r->memory[j] = b * r->memory[j] + a * g;
    put(r, KR_RNN_MEMORY, m, j, r->memory[j]);
    h = o * tanh(r->memory[j]);
    return h;
}

static void forward(run *r) {
    const kr_tensor *out = &r->c->out[KR_RNN_STATE_OUT];
    for (int64_t j = 0; j < r->H; j++) {
        r->h[j] = state_of(r, KR_RNN_STATE, 0, j);
        r->memory[j] = r->cell == KR_RNN_LSTM ? state_of(r, KR_RNN_STATE, 1, j) : 0;
    }
    for (int64_t m = r->first; m < r->first + r->T; m++) {
        for (int64_t j = 0; starts(r, m) && j < r->H; j++) r->h[j] = r->memory[j] = 0;
        product(r);
        for (int64_t j = 0; j < r->H; j++) r->next[j] = cell_forward(r, m, j);
        for (int64_t j = 0; j < r->H; j++) {
            r->h[j] = r->next[j];
            put(r, KR_RNN_Y, m, j, r->h[j]);
        }
    }
    for (int64_t j = 0; r->c->n_out > KR_RNN_STATE_OUT && out->data && j < r->H; j++) {
        put(r, KR_RNN_STATE_OUT, r->slot, j, r->h[j]);
        if (r->cell == KR_RNN_LSTM) put(r, KR_RNN_STATE_OUT, r->slot, r->H + j, r->memory[j]);
    }
}

void KR_FN(kr_rnn)(const kr_call *c) {
    run r = open_run(c);
    each_sequence(&r, forward);
}

/* ---- backward: h and memory are the gradients of h and c, next those that go on ---- */

/* h or c of the step before row m. */
static double before(const run *r, int64_t m, int k, int64_t j) {
    if (starts(r, m)) return 0;
    if (m == r->first) return state_of(r, KR_RNN_STATE, k, j);
    return at(r, k ? KR_RNN_IN_MEMORY : KR_RNN_IN_Y, m - 1, j);
}

/* Gradients of what is in front of the gates: p of W h + bias, dx of x. next gets what reaches the
 * h before without the product. */
static void cell_backward(run *r, int64_t m, int64_t j) {
    int64_t H = r->H;
    double dh = r->h[j], h = at(r, KR_RNN_IN_Y, m, j), d[4] = {0};
    double g[4] = {0};
    for (int k = 0; kr_rnn_keeps(r->cell) && k < r->G; k++)
        g[k] = at(r, KR_RNN_IN_GATES, m, k * H + j);
    r->next[j] = 0;
    if (r->cell == KR_RNN_TANH) d[0] = dh * (1 - h * h);
    if (r->cell == KR_RNN_RELU) d[0] = h > 0 ? dh : 0;
    if (r->cell == KR_RNN_LSTM) {
        double c = tanh(at(r, KR_RNN_IN_MEMORY, m, j));
        double dc = r->memory[j] + dh * g[3] * (1 - c * c);
        d[0] = dc * g[2] * g[0] * (1 - g[0]);
        d[1] = dc * before(r, m, 1, j) * g[1] * (1 - g[1]);
        d[2] = dc * g[0] * (1 - g[2] * g[2]);
        d[3] = dh * c * g[3] * (1 - g[3]);
        r->memory[j] = dc * g[1];
    }
    if (r->cell == KR_RNN_GRU) {
        d[2] = dh * (1 - g[1]) * (1 - g[2] * g[2]);
        d[1] = dh * (before(r, m, 0, j) - g[2]) * g[1] * (1 - g[1]);
        d[0] = d[2] * at(r, KR_RNN_IN_MEMORY, m, j) * g[0] * (1 - g[0]);
        r->next[j] = dh * g[1];
    }
    for (int k = 0; k < r->G; k++) {
        put(r, KR_RNN_DX, m, k * H + j, d[k]);
        r->p[k * H + j] = r->cell == KR_RNN_GRU && k == 2 ? d[k] * g[0] : d[k];
    }
}

static void product_backward(run *r, int64_t m) {
    for (int64_t j = 0; j < r->G * r->H; j++) {
        r->db[j] += r->p[j];
        for (int64_t k = 0; k < r->H; k++) {
            r->dw[j * r->H + k] += r->p[j] * before(r, m, 0, k);
            r->next[k] += r->p[j] * at(r, KR_RNN_W, j, k);
        }
    }
}

static void backward(run *r) {
    for (int64_t j = 0; j < r->H; j++) {
        r->h[j] = state_of(r, KR_RNN_DSTATE, 0, j);
        r->memory[j] = r->cell == KR_RNN_LSTM ? state_of(r, KR_RNN_DSTATE, 1, j) : 0;
    }
    for (int64_t m = r->first + r->T - 1; m >= r->first; m--) {
        for (int64_t j = 0; j < r->H; j++) {
            if (!absent(r->c, KR_RNN_DY)) r->h[j] += at(r, KR_RNN_DY, m, j);
            cell_backward(r, m, j);
        }
        product_backward(r, m);
        for (int64_t j = 0; j < r->H; j++) {
            r->h[j] = starts(r, m) ? 0 : r->next[j];
            if (starts(r, m)) r->memory[j] = 0;
        }
    }
    const kr_tensor *out = &r->c->out[KR_RNN_DSTATE_IN];
    for (int64_t j = 0; out->data && j < r->H; j++) {
        real *to = (real *)out->data + r->slot * out->stride[0] + j;
        kr_put(to, r->h[j], 1);
        if (r->cell == KR_RNN_LSTM) kr_put(to + r->H, r->memory[j], 1);
    }
}

void KR_FN(kr_rnn_grad)(const kr_call *c) {
    run r = open_run(c);
    const kr_tensor *out = &c->out[KR_RNN_DSTATE_IN];
    int64_t n = r.G * r.H;
    for (int64_t i = 0; i < n * (r.H + 1); i++) r.db[i] = 0;
    for (int64_t k = 0; out->data && !KR_ACC(c, KR_RNN_DSTATE_IN) && k < out->shape[0]; k++)
        for (int64_t j = 0; j < kr_rnn_states(r.cell) * r.H; j++)
            ((real *)out->data)[k * out->stride[0] + j] = 0;
    each_sequence(&r, backward);
    for (int64_t j = 0; j < n; j++) {
        for (int64_t k = 0; k < r.H; k++) put(&r, KR_RNN_DW, j, k, r.dw[j * r.H + k]);
        if (c->out[KR_RNN_DBIAS].data)
            kr_put((real *)c->out[KR_RNN_DBIAS].data + j, r.db[j], KR_ACC(c, KR_RNN_DBIAS));
    }
}
