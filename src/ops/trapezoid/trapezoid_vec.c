/* trapezoid_vec.c - the trapezoidal rule over vectors of heads. trapezoid.h has the equations.
 *
 * Threads take heads, and go down all rows of theirs: so the sums for the bias have one order. */
#include "ops/trapezoid/trapezoid.h"

#include "ops/threads.h"
#include "vec/vec_math.h"

static float *row(const kr_tensor *t, int64_t m) {
    return t->data ? (float *)t->data + m * t->stride[0] : NULL;
}

KR_VINLINE void put(float *p, int64_t n, kr_vf v, bool add) {
    if (p) kr_vstore_n(p, n, add ? v + kr_vload_n(p, n) : v);
}

KR_VINLINE kr_vf load(const float *p, int64_t n) { return p ? kr_vload_n(p, n) : kr_vzero(); }

typedef struct step {
    kr_vf delta, A, lambda, decay, delta_slope, A_slope;
} step;

/* Heads [h, h + n) of a row, from the inputs i and on. */
KR_VINLINE step step_of(const kr_call *c, int i, int64_t m, int64_t h, int64_t n) {
    const kr_trapezoid_attr *a = c->attr;
    kr_vf zero = kr_vzero(), one = kr_vset(1.0f), floor = kr_vset((float)a->floor);
    kr_vf raw = kr_vload_n(row(&c->in[i], m) + h, n);
    raw += kr_vload_n((const float *)c->in[i + 3].data + h, n);
    kr_vf v = kr_vload_n(row(&c->in[i + 1], m) + h, n), f, slope;
    if (a->f == KR_RATE_SOFTPLUS) {
        f = kr_vsoftplus(v);
        slope = kr_vsigmoid(v);
    } else {
        kr_vf low = one / (one - kr_vmin(zero, v));
        f = kr_vmax(zero, v) + low;
        slope = low * low;
    }
    kr_vm under = kr_vlt(f, floor);
    step s = {.delta = kr_vsoftplus(raw), .delta_slope = kr_vsigmoid(raw)};
    s.A = -kr_vselect(under, floor, f);
    s.A_slope = -kr_vselect(under, zero, slope);
    s.lambda = kr_vsigmoid(kr_vload_n(row(&c->in[i + 2], m) + h, n));
    s.decay = kr_vexp(s.A * s.delta);
    return s;
}

static void forward_rows(const kr_call *c, int64_t h, int64_t n) {
    int64_t H = c->in[0].shape[1], R = ((const kr_trapezoid_attr *)c->attr)->ranks;
    for (int64_t m = 0; m < c->in[0].shape[0]; m++) {
        step s = step_of(c, 0, m, h, n);
        float *gain = row(&c->out[2], m) + h;
        kr_vstore_n(row(&c->out[0], m) + h, n, s.delta);
        kr_vstore_n(row(&c->out[1], m) + h, n, s.A * s.delta);
        for (int64_t r = 0; r < R; r++) {
            kr_vstore_n(gain + r * H, n, s.lambda * s.delta);
            kr_vstore_n(gain + (R + r) * H, n, (1.0f - s.lambda) * s.delta * s.decay);
        }
    }
}

void KR_FN(kr_trapezoid)(const kr_call *c) {
    int64_t H = c->in[0].shape[1];
    int threads = kr_threads_for(c, kr_tensor_count(&c->in[0]) * 100);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t h = 0; h < H; h += KR_W) forward_rows(c, h, H - h < KR_W ? H - h : KR_W);
}

/* Sums of the gradients of the gains of ranks [first, first + R). */
KR_VINLINE kr_vf gain_sum(const kr_call *c, int64_t m, int64_t h, int64_t n, int64_t first) {
    int64_t H = c->in[3].shape[1], R = ((const kr_trapezoid_attr *)c->attr)->ranks;
    const float *dgain = row(&c->in[2], m);
    kr_vf sum = kr_vzero();
    for (int64_t r = first; dgain && r < first + R; r++) sum += kr_vload_n(dgain + r * H + h, n);
    return sum;
}

static void backward_rows(const kr_call *c, int64_t h, int64_t n) {
    int64_t R = ((const kr_trapezoid_attr *)c->attr)->ranks;
    kr_vf sum = kr_vzero();
    for (int64_t m = 0; m < c->in[3].shape[0]; m++) {
        step s = step_of(c, 3, m, h, n);
        const float *ddelta = row(&c->in[0], m), *dlog = row(&c->in[1], m);
        kr_vf now = gain_sum(c, m, h, n, 0), before = gain_sum(c, m, h, n, R);
        kr_vf part = (1.0f - s.lambda) * s.decay;
        kr_vf e = kr_vfma(before * part, s.delta, load(dlog ? dlog + h : NULL, n));
        kr_vf raw = load(ddelta ? ddelta + h : NULL, n) + s.A * e + s.lambda * now + part * before;
        kr_vf mix = s.delta * kr_vnfma(s.decay, before, now) * s.lambda * (1.0f - s.lambda);
        const kr_vf grads[3] = {raw * s.delta_slope, s.delta * e * s.A_slope, mix};
        for (int i = 0; i < 3; i++) {
            float *to = row(&c->out[i], m);
            put(to ? to + h : NULL, n, grads[i], c->accumulate >> i & 1);
        }
        sum += grads[0];
    }
    put(c->out[3].data ? (float *)c->out[3].data + h : NULL, n, sum, c->accumulate >> 3 & 1);
}

void KR_FN(kr_trapezoid_grad)(const kr_call *c) {
    int64_t H = c->in[3].shape[1];
    int threads = kr_threads_for(c, kr_tensor_count(&c->in[3]) * 150);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t h = 0; h < H; h += KR_W) backward_rows(c, h, H - h < KR_W ? H - h : KR_W);
}
