/* scan_states_ref.c - the gradient of complex lanes whose states are given, scalar: the
 * specification of scan_states_grad. scan_op.h has the arguments, scan_complex_vec.c the vectors.
 *
 *   G_t = dy_t + conj(a) G_{t+1},   dx_t = G_t,   da = sum_t G_t conj(h_{t-1}),   dA = conj(a) da
 *
 * (dA = da where A is the decay itself). Where a segment starts at t, h_{t-1} counts as zero and
 * nothing goes back to t - 1. */
#include "ops/op_ref.h"

#include <complex.h>

#include "scan/scan_op.h"

typedef double complex cplx;

/* Lane e of a call: of each row and state its real part lies at e, the imaginary one E behind. */
typedef struct lane {
    const kr_call *c;
    const krait_scan_desc *d;
    int64_t e, E;
    cplx a, da;
} lane;

static bool there(const kr_call *c, int i) { return i < c->n_in && c->in[i].data; }

static cplx number(const lane *l, const kr_tensor *t, int64_t row) {
    const real *v = (const real *)t->data + row * t->stride[0] + l->e;
    return (double)v[0] + I * (double)v[l->E];
}

static void put_number(const lane *l, int out, int64_t row, cplx v, int accumulate) {
    const kr_tensor *t = &l->c->out[out];
    if (!t->data) return;
    real *to = (real *)t->data + row * t->stride[0] + l->e;
    kr_put(to, creal(v), accumulate);
    kr_put(to + l->E, cimag(v), accumulate);
}

/* Row t of a sequence in visiting order, and whether a segment starts there. */
static int64_t row_at(const lane *l, const int64_t *q, int64_t t) {
    return l->d->order == KRAIT_ORDER_REVERSE ? q[0] + q[1] - 1 - t : q[0] + t;
}

static bool starts(const lane *l, const int64_t *q, int64_t t) {
    if (!there(l->c, KR_SCAN_RESET)) return false;
    const uint8_t *reset = l->c->in[KR_SCAN_RESET].data;
    if (l->d->order == KRAIT_ORDER_REVERSE) return t > 0 && reset[row_at(l, q, t - 1)];
    return reset[row_at(l, q, t)];
}

static cplx state_before(const lane *l, const int64_t *q, int64_t t) {
    const kr_tensor *in = l->c->in;
    if (t > 0) return number(l, &in[KR_SCAN_X], row_at(l, q, t - 1));
    return there(l->c, KR_SCAN_STATE) ? number(l, &in[KR_SCAN_STATE], q[2]) : 0;
}

static void sequence_back(lane *l, const int64_t *q) {
    const kr_tensor *in = l->c->in;
    cplx g = there(l->c, KR_SCAN_DSTATE) ? number(l, &in[KR_SCAN_DSTATE], q[2]) : 0;
    for (int64_t t = q[1] - 1; t >= 0; t--) {
        int64_t row = row_at(l, q, t);
        if (there(l->c, KR_SCAN_DY)) g += number(l, &in[KR_SCAN_DY], row);
        put_number(l, KR_SCAN_DX, row, g, KR_ACC(l->c, KR_SCAN_DX));
        if (!starts(l, q, t)) l->da += g * conj(state_before(l, q, t));
        g = starts(l, q, t) ? 0 : conj(l->a) * g;
    }
    put_number(l, KR_SCAN_DSTATE_IN, q[2], g, KR_ACC(l->c, KR_SCAN_DSTATE_IN));
}

/* Slots that no sequence has get zeros. */
static void clear_states(const lane *l) {
    const kr_tensor *out = &l->c->out[KR_SCAN_DSTATE_IN];
    for (int64_t s = 0; out->data && !KR_ACC(l->c, KR_SCAN_DSTATE_IN) && s < out->shape[0]; s++)
        put_number(l, KR_SCAN_DSTATE_IN, s, 0, 0);
}

static void put_dA(const lane *l, bool is_log) {
    const kr_tensor *dA = &l->c->out[KR_SCAN_DA];
    cplx v = is_log ? conj(l->a) * l->da : l->da;
    if (!dA->data) return;
    kr_put((real *)dA->data + l->e, creal(v), KR_ACC(l->c, KR_SCAN_DA));
    kr_put((real *)dA->data + l->E + l->e, cimag(v), KR_ACC(l->c, KR_SCAN_DA));
}

void KR_FN(kr_scan_states_grad)(const kr_call *c) {
    const kr_tensor *seqs = &c->in[KR_SCAN_SEQS];
    lane l = {.c = c, .d = c->attr, .E = kr_scan_lanes(c->attr)};
    const real *A = c->in[KR_SCAN_A].data;
    bool is_log = l.d->form == KRAIT_FORM_LOG;
    for (l.e = 0; l.e < l.E; l.e++) {
        cplx given = (double)A[l.e] + I * (double)A[l.E + l.e];
        l.a = is_log ? cexp(given) : given;
        l.da = 0;
        clear_states(&l);
        for (int64_t s = 0; s < seqs->shape[0]; s++)
            sequence_back(&l, (const int64_t *)seqs->data + s * seqs->stride[0]);
        put_dA(&l, is_log);
    }
}
