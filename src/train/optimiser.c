/* optimiser.c - AdamW over a graph's parameters; ops/adamw/adamw.h has the equations. */
#include "train/optimiser.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "ops/adamw/adamw.h"
#include "ops/sum_squares/sum_squares.h"

static const kr_tensor *param(const kr_graph *g, int i, const kr_param_decl **d) {
    return kr_value_tensor(kr_graph_param_at(g, i, d));
}

/* The gradient of parameter i; NULL when the loss does not depend on it. */
static const kr_tensor *gradient(const kr_optimiser *o, int i) {
    const kr_param_decl *d;
    kr_value *v = kr_graph_gradient(o->g, kr_graph_param_at(o->g, i, &d));
    return v ? kr_value_tensor(v) : NULL;
}

static kr_tensor flat(void *data, int64_t n) { return kr_tensor_make(data, KR_F32, 1, &n); }

static void count(const kr_graph *g, int64_t *total, int64_t *largest) {
    const kr_param_decl *d;
    *total = *largest = 0;
    for (int i = 0; i < kr_graph_param_count(g); i++) {
        int64_t n = kr_tensor_count(param(g, i, &d));
        *total += n;
        if (n > *largest) *largest = n;
    }
}

static size_t scratch_bytes(int64_t largest) {
    kr_call c = {.n_in = 1, .in = {flat(NULL, largest)}};
    return kr_op_sum_squares.scratch(&c);
}

size_t kr_optimiser_bytes(const kr_graph *g) {
    int64_t total, largest;
    count(g, &total, &largest);
    return 2 * (size_t)total * sizeof(float) + scratch_bytes(largest);
}

int kr_optimiser_create(kr_optimiser *o, kr_graph *g, kr_level level, int threads, krait_error *e) {
    int64_t largest;
    memset(o, 0, sizeof *o);
    o->g = g;
    o->n = kr_graph_param_count(g);
    count(g, &o->total, &largest);
    o->moments = kr_aligned(2 * (size_t)o->total * sizeof(float));
    o->scratch = kr_aligned(scratch_bytes(largest));
    o->adamw = kr_op_kernel(&kr_op_adamw, level);
    o->squares = kr_op_kernel(&kr_op_sum_squares, level);
    o->threads = threads;
    if (!o->moments || !o->scratch) {
        kr_optimiser_free(o);
        return kr_fail_memory(e, "the optimiser's moments");
    }
    memset(o->moments, 0, 2 * (size_t)o->total * sizeof(float));
    return 0;
}

void kr_optimiser_free(kr_optimiser *o) {
    kr_free(o->moments);
    kr_free(o->scratch);
    memset(o, 0, sizeof *o);
}

static double squares_of(const kr_optimiser *o, const kr_tensor *g) {
    double sum = 0;
    kr_call c = {.n_in = 1, .n_out = 1, .scratch = o->scratch, .threads = o->threads};
    c.in[0] = flat(g->data, kr_tensor_count(g));
    c.out[0] = kr_tensor_make(&sum, KR_F64, 1, (const int64_t[]){1});
    o->squares(&c);
    return sum;
}

double kr_optimiser_norm(const kr_optimiser *o) {
    double sum = 0;
    for (int i = 0; i < o->n; i++) {
        const kr_tensor *g = gradient(o, i);
        if (g) sum += squares_of(o, g);
    }
    return sqrt(sum);
}

static int list_bad(const kr_optimiser *o, bool of_gradients, char *names, size_t room) {
    int bad = 0;
    *names = 0;
    for (int i = 0; i < o->n; i++) {
        const kr_param_decl *d;
        const kr_tensor *w = param(o->g, i, &d), *t = of_gradients ? gradient(o, i) : w;
        if (!t || isfinite(squares_of(o, t))) continue;
        size_t used = strlen(names);
        if (bad++ < 3) snprintf(names + used, room - used, "%s%s", bad > 1 ? ", " : "", d->name);
    }
    return bad;
}

int kr_optimiser_bad_gradients(const kr_optimiser *o, char *names, size_t room) {
    return list_bad(o, true, names, room);
}

int kr_optimiser_bad_weights(const kr_optimiser *o, char *names, size_t room) {
    return list_bad(o, false, names, room);
}

void kr_optimiser_step(kr_optimiser *o, const kr_recipe *r, double rate, double scale) {
    kr_adamw_attr a = {rate, r->beta1, r->beta2, r->eps, 0, scale, ++o->updates};
    int64_t at = 0;
    for (int i = 0; i < o->n; i++) {
        const kr_param_decl *d;
        const kr_tensor *w = param(o->g, i, &d), *g = gradient(o, i);
        int64_t n = kr_tensor_count(w);
        a.decay = d->no_decay ? 0 : r->weight_decay;
        kr_call c = {.n_in = 4, .n_out = 3, .attr = &a, .threads = o->threads};
        c.in[0] = c.out[0] = flat(w->data, n);
        c.in[1] = c.out[1] = flat(o->moments + at, n);
        c.in[2] = c.out[2] = flat(o->moments + o->total + at, n);
        if (g) c.in[3] = flat(g->data, n);
        if (g) o->adamw(&c);
        at += n;
    }
}

/* Calls `each` with the name and the place of every moment. */
typedef int visit(void *user, const char *name, const kr_tensor *t, krait_error *e);

static int each_moment(const kr_optimiser *o, visit *each, void *user, krait_error *e) {
    float *at = o->moments;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < o->n; i++) {
            const kr_param_decl *d;
            const kr_tensor *w = param(o->g, i, &d);
            kr_tensor t = kr_tensor_make(at, KR_F32, w->rank, w->shape);
            char name[128];
            snprintf(name, sizeof name, "%c.%s", k ? 'v' : 'm', d->name);
            KR_TRY(each(user, name, &t, e));
            at += kr_tensor_count(w);
        }
    return 0;
}

static int save_moment(void *user, const char *name, const kr_tensor *t, krait_error *e) {
    return kr_weights_add(user, name, t, e);
}

static int load_moment(void *user, const char *name, const kr_tensor *t, krait_error *e) {
    const kr_tensor *from = kr_weights_find(user, name);
    if (!from || from->dtype != KR_F32 || !kr_tensor_same_shape(from, t))
        return kr_fail(e, KRAIT_ERR_MISMATCH, "checkpoint: no moment %s of the model's shape",
                       name);
    memcpy(t->data, from->data, kr_tensor_bytes(t));
    kr_weights_forget(user, from);
    return 0;
}

int kr_optimiser_save(const kr_optimiser *o, kr_weights *w, krait_error *e) {
    return each_moment(o, save_moment, w, e);
}

int kr_optimiser_load(kr_optimiser *o, const kr_weights *w, krait_error *e) {
    return each_moment(o, load_moment, (void *)(uintptr_t)w, e);
}
