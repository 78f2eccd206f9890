/* scale_ref.c - scaling rows and columns, scalar. scale.h has the contract. */
#include "ops/op_ref.h"

#include "ops/scale/scale.h"

static double at(const kr_tensor *t, int64_t m, int64_t j) {
    return (double)((const real *)t->data)[m * t->stride[0] + j];
}

static void put(const kr_call *c, int i, int64_t m, int64_t j, double v) {
    const kr_tensor *t = &c->out[i];
    kr_put((real *)t->data + m * t->stride[0] + j, v, KR_ACC(c, i));
}

static double number(const kr_tensor *t, int64_t i) { return (double)((const real *)t->data)[i]; }

void KR_FN(kr_row_scale)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *e = &c->in[1];
    for (int64_t i = 0; i < x->shape[0]; i++)
        for (int64_t j = 0; j < x->shape[1]; j++)
            put(c, 0, i, j, at(x, i, j) * number(e, i % e->shape[0]));
}

void KR_FN(kr_row_scale_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *x = &c->in[1], *e = &c->in[2];
    int64_t n = e->shape[0];
    for (int64_t i = 0; c->out[0].data && i < x->shape[0]; i++)
        for (int64_t j = 0; j < x->shape[1]; j++) put(c, 0, i, j, at(dy, i, j) * number(e, i % n));
    for (int64_t k = 0; c->out[1].data && k < n; k++) {
        double sum = 0;
        for (int64_t i = k; i < x->shape[0]; i += n)
            for (int64_t j = 0; j < x->shape[1]; j++) sum += at(dy, i, j) * at(x, i, j);
        kr_put((real *)c->out[1].data + k, sum, KR_ACC(c, 1));
    }
}

void KR_FN(kr_skip)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *u = &c->in[1], *w = &c->in[2];
    for (int64_t m = 0; m < x->shape[0]; m++)
        for (int64_t j = 0; j < x->shape[1]; j++)
            put(c, 0, m, j, at(x, m, j) + number(w, j) * at(u, m, j));
}

void KR_FN(kr_skip_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *u = &c->in[1], *w = &c->in[2];
    for (int64_t j = 0; j < u->shape[1]; j++) {
        double sum = 0;
        for (int64_t m = 0; m < u->shape[0]; m++) {
            if (c->out[0].data) put(c, 0, m, j, at(dy, m, j) * number(w, j));
            sum += at(dy, m, j) * at(u, m, j);
        }
        if (c->out[1].data) kr_put((real *)c->out[1].data + j, sum, KR_ACC(c, 1));
    }
}
