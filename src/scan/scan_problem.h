/* scan_problem.h - a member of the family with random arrays, for the tests of the recurrence. */
#ifndef KR_SCAN_PROBLEM_H
#define KR_SCAN_PROBLEM_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"
#include "scan/scan_op.h"

/* Any kernel may be called with it: the arrays have the dtype asked for. */
typedef struct problem {
    krait_scan_desc d;
    int64_t M, S;
    kr_call forward, backward; /* backward.in[0 .. KR_SCAN_INS) are forward's */
    void *scratch;
    kr_rng rng;
} problem;

static inline int64_t problem_count(const kr_tensor *t) { return t->data ? kr_tensor_count(t) : 0; }

static inline double get(const kr_tensor *t, int64_t i) {
    return t->dtype == KR_F64 ? ((double *)t->data)[i] : (double)((float *)t->data)[i];
}

static inline void set(const kr_tensor *t, int64_t i, double v) {
    if (t->dtype == KR_F64)
        ((double *)t->data)[i] = v;
    else
        ((float *)t->data)[i] = (float)v;
}

static inline void *zeros(size_t bytes) {
    void *p = calloc(bytes + 1, 1);
    if (!p) abort();
    return p;
}

static inline kr_tensor new_tensor(kr_dtype type, int rank, const int64_t *shape) {
    kr_tensor t = kr_tensor_make(NULL, type, rank, shape);
    t.data = zeros(kr_tensor_bytes(&t));
    return t;
}

static inline kr_tensor new_matrix(kr_dtype type, int64_t rows, int64_t cols) {
    return new_tensor(type, 2, (int64_t[]){rows, cols});
}

/* Uniform in (a, b). */
static inline void fill_uniform(problem *p, const kr_tensor *t, double a, double b) {
    for (int64_t i = 0; i < problem_count(t); i++) set(t, i, a + (b - a) * kr_rng_uniform(&p->rng));
}

static inline void problem_seqs(problem *p, const int64_t *counts) {
    kr_tensor t = new_tensor(KR_I64, 2, (int64_t[]){p->S, 3});
    int64_t first = 0;
    for (int64_t s = 0; s < p->S; s++) {
        int64_t count = counts ? counts[s] : p->M / p->S + (s < p->M % p->S);
        ((int64_t *)t.data)[3 * s] = first;
        ((int64_t *)t.data)[3 * s + 1] = count;
        ((int64_t *)t.data)[3 * s + 2] = p->S - s; /* slots in another order; slot 0 is nobody's */
        first += count;
    }
    p->forward.in[KR_SCAN_SEQS] = t;
}

static inline void problem_inputs(problem *p, kr_dtype type) {
    const krait_scan_desc *d = &p->d;
    kr_tensor *in = p->forward.in;
    int64_t M = p->M, lanes = kr_scan_lanes(d);
    bool log = d->form != KRAIT_FORM_GIVEN;
    in[KR_SCAN_X] = new_matrix(type, M, d->inputs * lanes);
    if (!d->complex_lanes) {
        in[KR_SCAN_B] = new_matrix(type, d->b_constant ? 1 : M, kr_scan_b_cols(d));
        in[KR_SCAN_C] = new_matrix(type, d->c_constant ? 1 : M, kr_scan_c_cols(d));
    }
    in[KR_SCAN_Z] = new_matrix(type, M, d->reads * lanes);
    if (d->reads <= d->inputs) in[KR_SCAN_D] = new_matrix(type, 1, kr_scan_d_cols(d));
    for (int i = 0; i < KR_SCAN_INS; i++) fill_uniform(p, &in[i], -1.5, 1.5);
    if (kr_scan_uses_dt(d)) {
        in[KR_SCAN_DT] = new_matrix(type, d->dt_constant ? 1 : M, kr_scan_dt_cols(d));
        in[KR_SCAN_BIAS] = new_matrix(type, 1, kr_scan_dt_cols(d));
        fill_uniform(p, &in[KR_SCAN_DT], d->dt_softplus ? -2 : 0.3, d->dt_softplus ? 2 : 1);
        fill_uniform(p, &in[KR_SCAN_BIAS], d->dt_softplus ? -0.5 : 0, 0.5);
    }
    if (d->decay != KRAIT_DECAY_NONE) {
        in[KR_SCAN_A] = new_matrix(type, d->a_constant ? 1 : M, kr_scan_a_cols(d));
        bool low = d->low_rank > 0; /* so that no power of it grows */
        fill_uniform(p, &in[KR_SCAN_A],
                     low   ? -0.15
                     : log ? -1.2
                           : 0.2,
                     low   ? 0.15
                     : log ? -0.05
                           : 0.65);
    }
    if (d->gain == KRAIT_GAIN_GIVEN) {
        in[KR_SCAN_GAIN] = new_matrix(type, M, d->inputs * d->heads);
        fill_uniform(p, &in[KR_SCAN_GAIN], 0.1, 1);
    }
    in[KR_SCAN_STATE] = new_tensor(type, 3, (int64_t[]){p->S + 1, lanes, kr_scan_n(d)});
    fill_uniform(p, &in[KR_SCAN_STATE], -1, 1);
}

static inline void problem_drop(problem *p, int i) {
    free(p->forward.in[i].data);
    p->forward.in[i] = (kr_tensor){0};
    p->backward.in[i] = (kr_tensor){0};
}

/* Everything that the member can take is there, reset (one row in six) included; counts NULL: even
 * parts. */
static inline void problem_make(problem *p, krait_scan_desc d, kr_dtype type, int64_t M, int64_t S,
                                const int64_t *counts) {
    static const int grad_of[] = {KR_SCAN_X, KR_SCAN_DT, KR_SCAN_A,    KR_SCAN_B,     KR_SCAN_C,
                                  KR_SCAN_D, KR_SCAN_Z,  KR_SCAN_BIAS, KR_SCAN_STATE, KR_SCAN_GAIN};
    *p = (problem){.d = d, .M = M, .S = S, .rng = kr_rng_make(7, (uint64_t)M)};
    problem_inputs(p, type);
    problem_seqs(p, counts);
    kr_call *f = &p->forward, *b = &p->backward;
    f->in[KR_SCAN_RESET] = new_tensor(KR_U8, 1, &M);
    for (int64_t m = 0; m < M; m++)
        ((uint8_t *)f->in[KR_SCAN_RESET].data)[m] = kr_rng_below(&p->rng, 6) == 0;
    f->out[KR_SCAN_OUT_Y] = new_matrix(type, M, d.reads * kr_scan_lanes(&d));
    kr_tensor *state = &f->in[KR_SCAN_STATE];
    f->out[KR_SCAN_OUT_STATE] = new_tensor(type, 3, state->shape);
    f->n_in = KR_SCAN_INS;
    f->n_out = KR_SCAN_OUTS;
    f->threads = 1;
    *b = *f;
    b->n_in = KR_SCAN_GRAD_INS;
    b->n_out = KR_SCAN_GRAD_OUTS;
    b->in[KR_SCAN_DY] = new_matrix(type, M, d.reads * kr_scan_lanes(&d));
    b->in[KR_SCAN_DSTATE] = new_tensor(type, 3, state->shape);
    fill_uniform(p, &b->in[KR_SCAN_DY], -1, 1);
    fill_uniform(p, &b->in[KR_SCAN_DSTATE], -1, 1);
    for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++) {
        const kr_tensor *t = &f->in[grad_of[i]];
        b->out[i] = t->data ? new_tensor(type, t->rank, t->shape) : (kr_tensor){0};
    }
}

/* attr and scratch, which point into p, are set here: a problem may be moved. */
static inline void problem_call(problem *p, kr_call *c, const kr_op *op, kr_kernel *kernel) {
    c->attr = &p->d;
    kr_free(p->scratch);
    size_t size = op->scratch(c);
    p->scratch = kr_aligned(size);
    if (!p->scratch) abort();
    memset(p->scratch, 0x7f, size); /* contents are undefined: not zero, at least */
    c->scratch = p->scratch;
    kernel(c);
}

static inline void problem_forward(problem *p, kr_level level) {
    problem_call(p, &p->forward, &kr_op_scan, kr_op_kernel(&kr_op_scan, level));
}

static inline void problem_backward(problem *p, kr_level level) {
    problem_call(p, &p->backward, &kr_op_scan_grad, kr_op_kernel(&kr_op_scan_grad, level));
}

static inline void problem_free(problem *p) {
    for (int i = 0; i < KR_SCAN_GRAD_INS; i++) free(p->backward.in[i].data);
    for (int i = 0; i < KR_SCAN_OUTS; i++) free(p->forward.out[i].data);
    for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++) free(p->backward.out[i].data);
    kr_free(p->scratch);
}

/* Largest |a - b| over the largest |b|. */
static inline double distance(const kr_tensor *a, const kr_tensor *b) {
    double most = 0, size = 1e-30;
    for (int64_t i = 0; i < problem_count(a); i++) {
        double x = get(a, i), y = get(b, i);
        most = isnan(x) ? INFINITY : fmax(most, fabs(x - y));
        size = fmax(size, fabs(y));
    }
    return most / size;
}

#endif
