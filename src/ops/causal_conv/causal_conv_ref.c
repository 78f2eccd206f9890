/* causal_conv_ref.c - the causal convolution and its gradient, scalar. causal_conv.h has the
 * contract.
 *
 * A place q in a sequence counts from its first row; q < 0 lies in the state. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/causal_conv/causal_conv.h"
#include "ops/seqs.h"

/* What forward and backward read. */
typedef struct conv {
    const kr_tensor *x, *weight, *bias, *state; /* state->data NULL: zeros */
    const kr_tensor *seqs;
    const uint8_t *reset; /* NULL: none */
    int64_t S, E, K;
    bool silu;
} conv;

static conv conv_of(const kr_call *c, int first) {
    const kr_tensor *in = &c->in[first];
    return (conv){&in[0],         &in[1],
                  &in[2],         &in[5],
                  &in[3],         in[4].data,
                  in[3].shape[0], in[0].shape[1],
                  in[1].shape[2], ((const kr_causal_conv_attr *)c->attr)->silu != 0};
}

/* Whether place q is seen from place p >= q: no reset in (q, p]. */
static bool seen(const conv *v, kr_seq s, int64_t q, int64_t p) {
    for (int64_t i = q < 0 ? 0 : q + 1; v->reset && i <= p; i++)
        if (v->reset[s.first + i]) return false;
    return true;
}

static int64_t state_at(const kr_tensor *state, kr_seq s, int64_t K, int64_t q, int64_t e) {
    return s.slot * state->stride[0] + (K - 1 + q) * state->stride[1] + e;
}

static double input(const conv *v, kr_seq s, int64_t q, int64_t e) {
    if (q >= 0) return (double)((const real *)v->x->data)[(s.first + q) * v->x->stride[0] + e];
    return v->state->data
               ? (double)((const real *)v->state->data)[state_at(v->state, s, v->K, q, e)]
               : 0;
}

static double tap(const conv *v, int64_t e, int64_t w) {
    return (double)((const real *)v->weight->data)[e * v->K + w];
}

/* p[t] at place t of sequence s, channel e */
static double before_silu(const conv *v, kr_seq s, int64_t t, int64_t e) {
    double sum = v->bias->data ? (double)((const real *)v->bias->data)[e] : 0;
    for (int64_t w = 0; w < v->K; w++) {
        int64_t q = t - (v->K - 1 - w);
        if (seen(v, s, q, t)) sum += tap(v, e, w) * input(v, s, q, e);
    }
    return sum;
}

void KR_FN(kr_causal_conv)(const kr_call *c) {
    conv v = conv_of(c, 0);
    const kr_tensor *y = &c->out[0], *next = &c->out[1];
    for (int64_t i = 0; i < v.S; i++) {
        kr_seq s = kr_seq_of(v.seqs, i);
        for (int64_t t = 0; t < s.count; t++)
            for (int64_t e = 0; e < v.E; e++) {
                double p = before_silu(&v, s, t, e);
                ((real *)y->data)[(s.first + t) * y->stride[0] + e] =
                    (real)(v.silu ? p / (1 + exp(-p)) : p);
            }
        for (int64_t j = 0; next->data && j < v.K - 1;
             j++) /* rising j: next may be the state itself */
            for (int64_t e = 0; e < v.E; e++) {
                int64_t q = s.count - (v.K - 1) + j;
                ((real *)next->data)[state_at(next, s, v.K, j - (v.K - 1), e)] =
                    (real)(seen(&v, s, q, s.count - 1) ? input(&v, s, q, e) : 0);
            }
    }
}

/* g[t] */
static double before_silu_grad(const conv *v, const kr_tensor *dy, kr_seq s, int64_t t, int64_t e) {
    if (!dy->data) return 0;
    double d = (double)((const real *)dy->data)[(s.first + t) * dy->stride[0] + e];
    if (!v->silu) return d;
    double p = before_silu(v, s, t, e), sigmoid = 1 / (1 + exp(-p));
    return d * sigmoid * (1 + p * (1 - sigmoid));
}

/* The gradient of the input at place q of sequence s: a row of x, or of the state where q < 0. */
static double input_grad(const conv *v, const kr_call *c, kr_seq s, int64_t q, int64_t e) {
    const kr_tensor *dnext = &c->in[7];
    double sum = 0;
    for (int64_t w = 0; w < v->K; w++) {
        int64_t t = q + (v->K - 1 - w);
        if (t >= 0 && t < s.count && seen(v, s, q, t))
            sum += tap(v, e, w) * before_silu_grad(v, &c->in[0], s, t, e);
    }
    int64_t j = q - (s.count - (v->K - 1)); /* its row in state_out */
    if (dnext->data && j >= 0 && seen(v, s, q, s.count - 1))
        sum += (double)((const real *)dnext->data)[state_at(dnext, s, v->K, j - (v->K - 1), e)];
    return sum;
}

static void inputs_grad(const conv *v, const kr_call *c) {
    const kr_tensor *dx = &c->out[0], *dstate = &c->out[3];
    int64_t slots = dstate->data ? dstate->shape[0] : 0;
    for (int64_t i = 0; !KR_ACC(c, 3) && i < slots * (v->K - 1) * v->E; i++)
        ((real *)dstate->data)[i] = 0;
    for (int64_t i = 0; i < v->S; i++) {
        kr_seq s = kr_seq_of(v->seqs, i);
        for (int64_t q = dstate->data ? 1 - v->K : 0; q < s.count; q++)
            for (int64_t e = 0; e < v->E; e++) {
                double g = q < 0 || dx->data ? input_grad(v, c, s, q, e) : 0;
                if (q < 0)
                    kr_put(&((real *)dstate->data)[state_at(dstate, s, v->K, q, e)], g,
                           KR_ACC(c, 3));
                else if (dx->data)
                    kr_put(&((real *)dx->data)[(s.first + q) * dx->stride[0] + e], g, KR_ACC(c, 0));
            }
    }
}

/* dweight of channel e and tap w; w = K stands for the bias, whose input is 1. */
static double weight_grad(const conv *v, const kr_call *c, int64_t e, int64_t w) {
    double sum = 0;
    for (int64_t i = 0; i < v->S; i++) {
        kr_seq s = kr_seq_of(v->seqs, i);
        for (int64_t t = 0; t < s.count; t++) {
            int64_t q = t - (v->K - 1 - w);
            double in = w == v->K ? 1 : seen(v, s, q, t) ? input(v, s, q, e) : 0;
            sum += in * before_silu_grad(v, &c->in[0], s, t, e);
        }
    }
    return sum;
}

void KR_FN(kr_causal_conv_grad)(const kr_call *c) {
    conv v = conv_of(c, 1);
    real *dweight = c->out[1].data, *dbias = c->out[2].data;
    inputs_grad(&v, c);
    for (int64_t e = 0; e < v.E; e++) {
        for (int64_t w = 0; dweight && w < v.K; w++)
            kr_put(&dweight[e * v.K + w], weight_grad(&v, c, e, w), KR_ACC(c, 1));
        if (dbias) kr_put(&dbias[e], weight_grad(&v, c, e, v.K), KR_ACC(c, 2));
    }
}
