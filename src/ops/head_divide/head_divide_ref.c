/* head_divide_ref.c - the division of heads, scalar. head_divide.h has the equations. */
#include "ops/op_ref.h"

#include "ops/head_divide/head_divide.h"

static real *row(const kr_tensor *t, int64_t m) { return (real *)t->data + m * t->stride[0]; }

void KR_FN(kr_head_divide)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *s = &c->in[1];
    double eps = ((const kr_head_divide_attr *)c->attr)->eps;
    int64_t P = x->shape[1] / s->shape[1];
    for (int64_t m = 0; m < x->shape[0]; m++)
        for (int64_t i = 0; i < x->shape[1]; i++)
            kr_put(row(&c->out[0], m) + i, (double)row(x, m)[i] / ((double)row(s, m)[i / P] + eps),
                   KR_ACC(c, 0));
}

void KR_FN(kr_head_divide_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *x = &c->in[1], *s = &c->in[2];
    double eps = ((const kr_head_divide_attr *)c->attr)->eps;
    int64_t H = s->shape[1], P = x->shape[1] / H;
    for (int64_t i = 0; i < x->shape[0] * H; i++) {
        int64_t m = i / H, h = i % H;
        double by = (double)row(s, m)[h] + eps, sum = 0;
        for (int64_t p = h * P; p < (h + 1) * P; p++) {
            double d = (double)row(dy, m)[p];
            sum += d * (double)row(x, m)[p];
            if (c->out[0].data) kr_put(row(&c->out[0], m) + p, d / by, KR_ACC(c, 0));
        }
        if (c->out[1].data) kr_put(row(&c->out[1], m) + h, -sum / (by * by), KR_ACC(c, 1));
    }
}
