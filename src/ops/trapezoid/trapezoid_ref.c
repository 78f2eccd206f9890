/* trapezoid_ref.c - the trapezoidal rule, scalar. trapezoid.h has the equations; with beta and
 * gamma the two gains, the gradient of log that comes from all sides is e = dlog + beta dbeta. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/trapezoid/trapezoid.h"

static double at(const kr_tensor *t, int64_t m, int64_t j) {
    return t->data ? (double)((const real *)t->data)[m * t->stride[0] + j] : 0;
}

static void put(const kr_call *c, int i, int64_t m, int64_t j, double v) {
    const kr_tensor *t = &c->out[i];
    if (t->data) kr_put((real *)t->data + m * t->stride[0] + j, v, KR_ACC(c, i));
}

static double sigmoid(double v) { return 1 / (1 + exp(-v)); }
static double softplus(double v) { return v > 0 ? v + log1p(exp(-v)) : log1p(exp(v)); }

/* A step of a head, from the inputs i and on. */
typedef struct step {
    double delta, A, lambda, decay;
    double delta_slope, A_slope; /* d delta / d dt, dA / d rate */
} step;

static step step_of(const kr_call *c, int i, int64_t m, int64_t h) {
    const kr_trapezoid_attr *a = c->attr;
    double raw = at(&c->in[i], m, h) + (double)((const real *)c->in[i + 3].data)[h];
    double v = at(&c->in[i + 1], m, h), f, slope;
    if (a->f == KR_RATE_SOFTPLUS) {
        f = softplus(v);
        slope = sigmoid(v);
    } else {
        f = v >= 0 ? 1 + v : 1 / (1 - v);
        slope = v >= 0 ? 1 : f * f;
    }
    step s = {.delta = softplus(raw), .delta_slope = sigmoid(raw)};
    s.A = f < a->floor ? -a->floor : -f;
    s.A_slope = f < a->floor ? 0 : -slope;
    s.lambda = sigmoid(at(&c->in[i + 2], m, h));
    s.decay = exp(s.A * s.delta);
    return s;
}

void KR_FN(kr_trapezoid)(const kr_call *c) {
    int64_t H = c->in[0].shape[1], R = ((const kr_trapezoid_attr *)c->attr)->ranks;
    for (int64_t m = 0; m < c->in[0].shape[0]; m++)
        for (int64_t h = 0; h < H; h++) {
            step s = step_of(c, 0, m, h);
            put(c, 0, m, h, s.delta);
            put(c, 1, m, h, s.A * s.delta);
            for (int64_t r = 0; r < 2 * R; r++)
                put(c, 2, m, r * H + h, s.delta * (r < R ? s.lambda : (1 - s.lambda) * s.decay));
        }
}

/* Sums of the gradients of the gains of ranks [first, first + R). */
static double gain_sum(const kr_call *c, int64_t m, int64_t h, int64_t first) {
    int64_t H = c->in[3].shape[1], R = ((const kr_trapezoid_attr *)c->attr)->ranks;
    double sum = 0;
    for (int64_t r = first; r < first + R; r++) sum += at(&c->in[2], m, r * H + h);
    return sum;
}

/* Returns the gradient of the raw step size. */
static double back(const kr_call *c, int64_t m, int64_t h) {
    step s = step_of(c, 3, m, h);
    double now = gain_sum(c, m, h, 0);
    double before = gain_sum(c, m, h, ((const kr_trapezoid_attr *)c->attr)->ranks);
    double part = (1 - s.lambda) * s.decay;
    double e = at(&c->in[1], m, h) + before * part * s.delta;
    double ddelta = at(&c->in[0], m, h) + s.A * e + s.lambda * now + part * before;
    put(c, 0, m, h, ddelta * s.delta_slope);
    put(c, 1, m, h, s.delta * e * s.A_slope);
    put(c, 2, m, h, s.delta * (now - s.decay * before) * s.lambda * (1 - s.lambda));
    return ddelta * s.delta_slope;
}

void KR_FN(kr_trapezoid_grad)(const kr_call *c) {
    const kr_tensor *dt = &c->in[3];
    for (int64_t h = 0; h < dt->shape[1]; h++) {
        double sum = 0;
        for (int64_t m = 0; m < dt->shape[0]; m++) sum += back(c, m, h);
        if (c->out[3].data) kr_put((real *)c->out[3].data + h, sum, KR_ACC(c, 3));
    }
}
