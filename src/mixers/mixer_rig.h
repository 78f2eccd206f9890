/* mixer_rig.h - one mixer alone, in double, with every parameter drawn by its name: for tests that
 * compare it with what its paper defines. */
#ifndef KR_MIXER_RIG_H
#define KR_MIXER_RIG_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "mixers/mixer.h"

enum { RIG_ROWS = 11, RIG_WIDTH = 6, RIG_PARAMS = 16, RIG_MOST = 1000 };

typedef struct rig {
    kr_graph *g;
    kr_config c;
    kr_value *out; /* [rows, RIG_WIDTH] */
    const char *names[RIG_PARAMS];
    double values[RIG_PARAMS][RIG_MOST], a[RIG_ROWS * RIG_WIDTH];
    double states[KR_MAX_STATES][RIG_MOST]; /* of the one sequence; each run goes on from them */
    int64_t seqs[3];
    kr_value *in;
    int n; /* parameters */
} rig;

static inline void rig_fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    abort();
}

static inline void rig_bind(rig *r, kr_value *v, void *data) {
    kr_tensor t = *kr_value_tensor(v);
    krait_error e;
    t.data = data;
    if (kr_graph_bind(r->g, v, &t, &e) < 0) rig_fail(e.message);
}

static inline void rig_draw(rig *r, int i) {
    const kr_param_decl *d;
    kr_value *v = kr_graph_param_at(r->g, i, &d);
    int64_t count = kr_tensor_count(kr_value_tensor(v));
    kr_rng rng = kr_rng_make(3, kr_hash_string(d->name));
    if (count > RIG_MOST) rig_fail(d->name);
    for (int64_t j = 0; j < count; j++) r->values[i][j] = 0.6 * kr_rng_normal(&rng);
    r->names[i] = d->name;
    rig_bind(r, v, r->values[i]);
}

static inline void rig_states(rig *r, kr_nn *nn) {
    kr_state_decl decl[KR_MAX_STATES];
    int n = kr_mixer_find(r->c.mixer)->states(&r->c, decl);
    for (int i = 0; i < n; i++) {
        int64_t shape[KR_MAX_RANK] = {1};
        for (int k = 0; k < decl[i].rank; k++) shape[k + 1] = decl[i].shape[k];
        nn->state_in[i] =
            kr_graph_state(r->g, decl[i].name, kr_graph_real(r->g), false, decl[i].rank + 1, shape);
        nn->state_out[i] =
            kr_graph_state(r->g, decl[i].name, kr_graph_real(r->g), true, decl[i].rank + 1, shape);
        if (kr_tensor_count(kr_value_tensor(nn->state_in[i])) > RIG_MOST) rig_fail(decl[i].name);
        rig_bind(r, nn->state_in[i], r->states[i]);
        rig_bind(r, nn->state_out[i], r->states[i]);
    }
}

/* The states zero, the input drawn; whatever lies in the arrays may be changed before a run. */
static inline void rig_open(rig *r, const char *mixer, const char *settings) {
    krait_error e;
    memset(r, 0, sizeof *r);
    if (kr_config_make(&r->c, mixer, RIG_WIDTH, 1, 11, settings, &e) < 0) rig_fail(e.message);
    r->g = kr_graph_create(&(kr_graph_options){.f64 = true, .threads = 1}, &e);
    kr_nn nn = {.g = r->g, .config = &r->c};
    r->in = kr_graph_input(r->g, "a", KR_F64, KR_DIM0_TOKENS, 2, (int64_t[]){RIG_ROWS, RIG_WIDTH});
    nn.seqs = kr_graph_input(r->g, "seqs", KR_I64, KR_DIM0_FIXED, 2, (int64_t[]){1, 3});
    rig_states(r, &nn);
    r->out = kr_mixer_find(mixer)->build(&nn, r->in);
    kr_graph_output(r->g, "out", r->out);
    if (!kr_graph_ok(r->g, &e)) rig_fail(e.message);
    r->n = kr_graph_param_count(r->g);
    if (r->n > RIG_PARAMS) rig_fail("too many parameters");
    for (int i = 0; i < r->n; i++) rig_draw(r, i);
    kr_rng rng = kr_rng_make(4, 5);
    for (int i = 0; i < RIG_ROWS * RIG_WIDTH; i++) r->a[i] = kr_rng_normal(&rng);
    rig_bind(r, nn.seqs, r->seqs);
    rig_bind(r, r->in, r->a);
    if (kr_graph_plan(r->g, &e) < 0 || kr_graph_allocate(r->g, &e) < 0) rig_fail(e.message);
}

/* Rows [first, first + rows) of the input, from the states to the states. */
static inline const double *rig_run(rig *r, int64_t first, int64_t rows) {
    krait_error e;
    r->seqs[1] = rows;
    kr_graph_params_changed(r->g); /* by the test, it may be */
    rig_bind(r, r->in, r->a + first * RIG_WIDTH);
    if (kr_graph_run(r->g, rows, 0, &e) < 0) rig_fail(e.message);
    return kr_value_tensor(r->out)->data;
}

/* All rows, from states of zeros. */
static inline const double *rig_run_all(rig *r) {
    memset(r->states, 0, sizeof r->states);
    return rig_run(r, 0, RIG_ROWS);
}

static inline double *rig_param(const rig *r, const char *name) {
    for (int i = 0; i < r->n; i++)
        if (strcmp(r->names[i], name) == 0) return (double *)(uintptr_t)r->values[i];
    rig_fail(name);
    return NULL;
}

/* y [out] = w x + bias, w rows of `in` from row `first` on. */
static inline void rig_product(const double *w, int64_t first, int64_t out, int64_t in,
                               const double *x, const double *bias, double *y) {
    for (int64_t i = 0; i < out; i++) {
        y[i] = bias ? bias[i] : 0;
        for (int64_t j = 0; j < in; j++) y[i] += w[(first + i) * in + j] * x[j];
    }
}

/* Largest |a - b| over the largest |b|. */
static inline double rig_difference(const double *a, const double *b, int64_t n) {
    double worst = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = a[i] > b[i] ? a[i] - b[i] : b[i] - a[i], s = b[i] > 0 ? b[i] : -b[i];
        if (!(d <= worst)) worst = d; /* a NaN stays */
        if (s > size) size = s;
    }
    return size > 0 ? worst / size : 1;
}

#endif
