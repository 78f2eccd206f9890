/* phase_ref.c - angles through time, scalar. phase.h has the equations. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/phase/phase.h"
#include "ops/seqs.h"

#define PI 3.14159265358979323846

static real *row(const kr_tensor *t, int64_t m) { return (real *)t->data + m * t->stride[0]; }

static double wrap(double phi) { return phi - 2 * PI * floor(phi / (2 * PI) + 0.5); }

void KR_FN(kr_phase)(const kr_call *c) {
    const kr_tensor *angle = &c->in[0], *delta = &c->in[1], *state = &c->in[4];
    const uint8_t *reset = c->in[3].data;
    bool keeps = c->n_out > 1 && c->out[1].data;
    int64_t S = angle->shape[1], lanes = delta->shape[1] * S;
    for (int64_t s = 0; s < c->in[2].shape[0]; s++) {
        kr_seq q = kr_seq_of(&c->in[2], s);
        for (int64_t j = 0; j < lanes; j++) {
            double phi = state->data ? (double)row(state, q.slot)[j] : 0;
            for (int64_t t = q.first; t < q.first + q.count; t++) {
                double turn = PI * tanh((double)row(angle, t)[j % S]);
                if (reset && reset[t]) phi = 0;
                phi = wrap(phi + turn * (double)row(delta, t)[j / S]);
                row(&c->out[0], t)[j] = (real)phi;
            }
            if (keeps) row(&c->out[1], q.slot)[j] = (real)phi;
        }
    }
}

/* Row t, where G [H S] is what all later rows and this one give. */
static void back(const kr_call *c, int64_t t, const double *G) {
    const real *angle = row(&c->in[1], t), *delta = row(&c->in[2], t);
    int64_t S = c->in[1].shape[1], H = c->in[2].shape[1];
    for (int64_t i = 0; c->out[0].data && i < S; i++) {
        double sum = 0, w = tanh((double)angle[i]);
        for (int64_t h = 0; h < H; h++) sum += G[h * S + i] * (double)delta[h];
        kr_put(row(&c->out[0], t) + i, PI * (1 - w * w) * sum, KR_ACC(c, 0));
    }
    for (int64_t h = 0; c->out[1].data && h < H; h++) {
        double sum = 0;
        for (int64_t i = 0; i < S; i++) sum += G[h * S + i] * tanh((double)angle[i]);
        kr_put(row(&c->out[1], t) + h, PI * sum, KR_ACC(c, 1));
    }
}

void KR_FN(kr_phase_grad)(const kr_call *c) {
    const kr_tensor *dphi = &c->in[0], *dstate = &c->in[6], *to = &c->out[2];
    const uint8_t *reset = c->in[4].data;
    int64_t lanes = c->in[1].shape[1] * c->in[2].shape[1];
    bool wanted = c->n_out > 2 && to->data;
    double *G = c->scratch;
    for (int64_t i = 0; wanted && !KR_ACC(c, 2) && i < to->shape[0]; i++)
        for (int64_t j = 0; j < lanes; j++) row(to, i)[j] = 0;
    for (int64_t s = 0; s < c->in[3].shape[0]; s++) {
        kr_seq q = kr_seq_of(&c->in[3], s);
        for (int64_t j = 0; j < lanes; j++)
            G[j] = dstate->data ? (double)row(dstate, q.slot)[j] : 0;
        for (int64_t t = q.first + q.count - 1; t >= q.first; t--) {
            for (int64_t j = 0; dphi->data && j < lanes; j++) G[j] += (double)row(dphi, t)[j];
            back(c, t, G);
            for (int64_t j = 0; reset && reset[t] && j < lanes; j++) G[j] = 0;
        }
        for (int64_t j = 0; wanted && j < lanes; j++)
            kr_put(row(to, q.slot) + j, G[j], KR_ACC(c, 2));
    }
}
