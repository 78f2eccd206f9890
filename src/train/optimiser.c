/* optimiser.c - AdamW over a graph's parameters; ops/adamw/adamw.h has the equations. */
#include "train/optimiser.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "ops/adamw/adamw.h"
#include "ops/cast/cast.h"
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

static bool on_gpu(const kr_graph *g) { return kr_graph_level(g) == KR_LEVEL_CUDA; }

/* Elements of all parameters, and of the longest vector that is summed. */
static void count(const kr_graph *g, int64_t *total, int64_t *longest) {
    const kr_param_decl *d;
    kr_gradient_layout layout;
    kr_graph_gradient_layout(g, &layout);
    *total = *longest = 0;
    for (int i = 0; i < kr_graph_param_count(g); i++) {
        int64_t n = kr_tensor_count(param(g, i, &d));
        *total += n;
        if (n > *longest) *longest = n;
    }
    if (on_gpu(g)) *total = *longest = (int64_t)(layout.parameters / sizeof(float));
}

static size_t scratch_bytes(const kr_graph *g, int64_t longest) {
    kr_call c = {.n_in = 1, .in = {flat(NULL, longest)}};
    return kr_op_scratch(&kr_op_sum_squares, kr_graph_level(g), &c);
}

size_t kr_optimiser_bytes(const kr_graph *g) {
    int64_t total, longest;
    count(g, &total, &longest);
    size_t halves = kr_graph_half(g) ? (size_t)total * sizeof(uint16_t) : 0;
    return 2 * (size_t)total * sizeof(float) + halves + scratch_bytes(g, longest);
}

/* On the GPU: where parameter i begins in a vector of `total`; -1: nothing depends on it. */
static int64_t place_of(const kr_optimiser *o, int i) {
    const kr_param_decl *d;
    kr_value *v = kr_graph_gradient(o->g, kr_graph_param_at(o->g, i, &d));
    return v ? (int64_t)(kr_graph_gradient_offset(v) / sizeof(float)) : -1;
}

static int launch(const kr_optimiser *o, kr_kernel *kernel, const kr_call *c, const char *what,
                  krait_error *e) {
    kr_device_lock(o->level);
    kernel(c);
    kr_device_unlock(o->level);
    return kr_device_check(o->level, what, e);
}

/* ---- making ---------------------------------------------------------------------------------- */

static int allocate(kr_optimiser *o, int64_t longest, krait_error *e) {
    size_t bytes = (size_t)o->total * sizeof(float);
    o->moments = kr_device_alloc(o->level, 2 * bytes);
    o->scratch = kr_device_alloc(o->level, scratch_bytes(o->g, longest));
    if (!o->moments || !o->scratch) return kr_fail_memory(e, "the optimiser's moments");
    KR_TRY(kr_device_fill(o->level, o->moments, 0, 2 * bytes, e));
    if (!on_gpu(o->g)) return 0;
    o->weights = kr_device_alloc(o->level, bytes);
    o->squares_out = kr_device_alloc(o->level, sizeof(double));
    if (kr_graph_half(o->g)) o->halves = kr_device_alloc(o->level, bytes / 2);
    if (!o->weights || !o->squares_out || (kr_graph_half(o->g) && !o->halves))
        return kr_fail_memory(e, "the weights on the GPU");
    return kr_device_fill(o->level, o->weights, 0, bytes, e);
}

/* On the GPU: parameter i as its graph has it. */
static kr_tensor placed(const kr_optimiser *o, int i, const kr_param_decl **d) {
    const kr_tensor *w = param(o->g, i, d);
    return kr_tensor_make(o->weights + place_of(o, i), KR_F32, w->rank, w->shape);
}

static const kr_tensor *find(const kr_weights *w, const kr_param_decl *d, krait_error *e) {
    const kr_tensor *t = kr_weights_find(w, d->name);
    if (t && t->dtype == KR_F32) return t;
    kr_fail(e, KRAIT_ERR_MISMATCH, "tensor %s: not there in f32", d->name);
    return NULL;
}

/* All of them rounded, and each bound where the graph wants it. */
static int place_halves(const kr_optimiser *o, krait_error *e) {
    kr_call c = {.n_in = 1, .n_out = 1, .in = {flat(o->weights, o->total)}};
    c.out[0] = kr_tensor_make(o->halves, KR_BF16, 1, &o->total);
    for (int i = 0; i < o->n; i++) {
        const kr_param_decl *d;
        const kr_tensor *w = param(o->g, i, &d);
        kr_value *half = kr_graph_half_at(o->g, i);
        kr_tensor t = kr_tensor_make(o->halves + place_of(o, i), KR_BF16, w->rank, w->shape);
        if (half) KR_TRY(kr_graph_bind(o->g, half, &t, e));
    }
    return launch(o, kr_op_kernel(&kr_op_cast, o->level), &c, "cast", e);
}

static int place_weights(kr_optimiser *o, const kr_weights *w, krait_error *e) {
    for (int i = 0; i < o->n; i++) {
        const kr_param_decl *d;
        if (place_of(o, i) < 0) {
            (void)param(o->g, i, &d);
            return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "%s: the loss does not depend on it", d->name);
        }
        kr_tensor to = placed(o, i, &d);
        const kr_tensor *from = find(w, d, e);
        if (!from) return KRAIT_ERR_MISMATCH;
        KR_TRY(kr_device_put(o->level, to.data, from->data, kr_tensor_bytes(&to), e));
        KR_TRY(kr_graph_bind(o->g, kr_graph_param_at(o->g, i, &d), &to, e));
    }
    return o->halves ? place_halves(o, e) : 0;
}

int kr_optimiser_create(kr_optimiser *o, kr_graph *g, const kr_weights *weights, int threads,
                        krait_error *e) {
    int64_t longest;
    memset(o, 0, sizeof *o);
    o->g = g;
    o->level = kr_graph_level(g);
    o->n = kr_graph_param_count(g);
    count(g, &o->total, &longest);
    o->adamw = kr_op_kernel(&kr_op_adamw, o->level);
    o->squares = kr_op_kernel(&kr_op_sum_squares, o->level);
    o->threads = threads;
    int rc = o->adamw && o->squares ? 0
                                    : kr_fail(e, KRAIT_ERR_UNSUPPORTED, "no optimiser at level %s",
                                              kr_level_name(o->level));
    if (rc == 0) rc = allocate(o, longest, e);
    if (rc == 0 && on_gpu(g)) rc = place_weights(o, weights, e);
    if (rc < 0) kr_optimiser_free(o);
    return rc;
}

void kr_optimiser_free(kr_optimiser *o) {
    if (!o->g) return;
    kr_device_free(o->level, o->moments);
    kr_device_free(o->level, o->weights);
    kr_device_free(o->level, o->halves);
    kr_device_free(o->level, o->scratch);
    kr_device_free(o->level, o->squares_out);
    memset(o, 0, sizeof *o);
}

int kr_optimiser_fetch_weights(const kr_optimiser *o, const kr_weights *to, krait_error *e) {
    for (int i = 0; o->weights && i < o->n; i++) {
        const kr_param_decl *d;
        kr_tensor from = placed(o, i, &d);
        const kr_tensor *host = find(to, d, e);
        if (!host) return KRAIT_ERR_MISMATCH;
        KR_TRY(kr_device_get(o->level, host->data, from.data, kr_tensor_bytes(&from), e));
    }
    return 0;
}

int kr_optimiser_view_weights(const kr_optimiser *o, kr_weights *to, krait_error *e) {
    for (int i = 0; i < o->n; i++) {
        const kr_param_decl *d;
        const kr_tensor *t = param(o->g, i, &d);
        KR_TRY(kr_weights_add(to, d->name, t, e));
    }
    kr_weights_sort(to);
    return 0;
}

/* ---- norms ----------------------------------------------------------------------------------- */

static int squares_of(const kr_optimiser *o, void *data, int64_t n, double *sum, krait_error *e) {
    kr_call c = {.n_in = 1, .n_out = 1, .scratch = o->scratch, .threads = o->threads};
    void *out = on_gpu(o->g) ? o->squares_out : sum;
    c.in[0] = flat(data, n);
    c.out[0] = kr_tensor_make(out, KR_F64, 1, (const int64_t[]){1});
    KR_TRY(launch(o, o->squares, &c, "sum_squares", e));
    if (!on_gpu(o->g)) return 0;
    return kr_device_get(o->level, sum, out, sizeof *sum, e);
}

int kr_optimiser_norm(const kr_optimiser *o, double *norm, krait_error *e) {
    double sum = 0;
    if (on_gpu(o->g)) {
        KR_TRY(squares_of(o, kr_graph_gradient_block(o->g), o->total, &sum, e));
        *norm = sqrt(sum);
        return 0;
    }
    for (int i = 0; i < o->n; i++) {
        double one = 0;
        const kr_tensor *g = gradient(o, i);
        if (g) KR_TRY(squares_of(o, g->data, kr_tensor_count(g), &one, e));
        sum += one;
    }
    *norm = sqrt(sum);
    return 0;
}

static bool finite_squares(const kr_optimiser *o, const kr_tensor *t) {
    double sum = 0;
    return squares_of(o, t->data, kr_tensor_count(t), &sum, NULL) == 0 && isfinite(sum);
}

static int list_bad(const kr_optimiser *o, bool of_gradients, char *names, size_t room) {
    int bad = 0;
    *names = 0;
    for (int i = 0; i < o->n; i++) {
        const kr_param_decl *d;
        const kr_tensor *w = param(o->g, i, &d), *t = of_gradients ? gradient(o, i) : w;
        if (!t || finite_squares(o, t)) continue;
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

/* ---- steps ----------------------------------------------------------------------------------- */

/* n weights from w, whose moments begin at element `at`. */
static int step_vector(const kr_optimiser *o, kr_adamw_attr *a, float *w, float *g, int64_t at,
                       int64_t n, krait_error *e) {
    kr_call c = {.n_in = 4, .n_out = 4, .attr = a, .threads = o->threads};
    c.in[0] = c.out[0] = flat(w, n);
    c.in[1] = c.out[1] = flat(o->moments + at, n);
    c.in[2] = c.out[2] = flat(o->moments + o->total + at, n);
    c.in[3] = flat(g, n);
    if (o->halves) c.out[3] = kr_tensor_make(o->halves + at, KR_BF16, 1, &n);
    if (n == 0) return 0;
    return launch(o, o->adamw, &c, "adamw", e);
}

static int step_parts(const kr_optimiser *o, kr_adamw_attr *a, const kr_recipe *r, krait_error *e) {
    kr_gradient_layout layout;
    kr_graph_gradient_layout(o->g, &layout);
    float *g = kr_graph_gradient_block(o->g);
    int64_t decayed = (int64_t)(layout.decayed / sizeof(float));
    int64_t plain = (int64_t)(layout.plain / sizeof(float));
    a->decay = r->weight_decay;
    KR_TRY(step_vector(o, a, o->weights, g, 0, decayed, e));
    a->decay = 0;
    KR_TRY(step_vector(o, a, o->weights + decayed, g + decayed, decayed, plain - decayed, e));
    a->rate *= r->recurrent_learning_rate;
    return step_vector(o, a, o->weights + plain, g + plain, plain, o->total - plain, e);
}

int kr_optimiser_step(kr_optimiser *o, const kr_recipe *r, double rate, double scale,
                      krait_error *e) {
    kr_adamw_attr a = {rate, r->beta1, r->beta2, r->eps, 0, scale, ++o->updates};
    int64_t at = 0;
    if (on_gpu(o->g)) return step_parts(o, &a, r, e);
    for (int i = 0; i < o->n; i++) {
        const kr_param_decl *d;
        const kr_tensor *w = param(o->g, i, &d), *g = gradient(o, i);
        int64_t n = kr_tensor_count(w);
        a.decay = d->no_decay || d->recurrent ? 0 : r->weight_decay;
        a.rate = d->recurrent ? rate * r->recurrent_learning_rate : rate;
        if (g) KR_TRY(step_vector(o, &a, w->data, g->data, at, n, e));
        at += n;
    }
    return 0;
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

/* Calls `each` with the name and the place of every moment. */
typedef int visit(const kr_optimiser *o, kr_weights *w, const char *name, const kr_tensor *t,
                  krait_error *e);

static int each_moment(const kr_optimiser *o, visit *each, kr_weights *w, krait_error *e) {
    for (int k = 0; k < 2; k++) {
        int64_t next = 0;
        for (int i = 0; i < o->n; i++) {
            const kr_param_decl *d;
            const kr_tensor *p = param(o->g, i, &d);
            float *at = o->moments + k * o->total + (on_gpu(o->g) ? place_of(o, i) : next);
            kr_tensor t = kr_tensor_make(at, KR_F32, p->rank, p->shape);
            char name[128];
            snprintf(name, sizeof name, "%c.%s", k ? 'v' : 'm', d->name);
            KR_TRY(each(o, w, name, &t, e));
            next += kr_tensor_count(p);
        }
    }
    return 0;
}

static int save_moment(const kr_optimiser *o, kr_weights *w, const char *name, const kr_tensor *t,
                       krait_error *e) {
    kr_tensor host = *t;
    if (on_gpu(o->g)) {
        host.data = kr_weights_block(w, kr_tensor_bytes(t), name, e);
        if (!host.data) return KRAIT_ERR_MEMORY;
        KR_TRY(kr_device_get(o->level, host.data, t->data, kr_tensor_bytes(t), e));
    }
    return kr_weights_add(w, name, &host, e);
}

static int load_moment(const kr_optimiser *o, kr_weights *w, const char *name, const kr_tensor *t,
                       krait_error *e) {
    const kr_tensor *from = kr_weights_find(w, name);
    if (!from || from->dtype != KR_F32 || !kr_tensor_same_shape(from, t))
        return kr_fail(e, KRAIT_ERR_MISMATCH, "checkpoint: no moment %s of the model's shape",
                       name);
    KR_TRY(kr_device_put(o->level, t->data, from->data, kr_tensor_bytes(t), e));
    kr_weights_forget(w, from);
    return 0;
}

int kr_optimiser_save(const kr_optimiser *o, kr_weights *w, krait_error *e) {
    return each_moment(o, save_moment, w, e);
}

int kr_optimiser_load(kr_optimiser *o, const kr_weights *w, krait_error *e) {
    return each_moment(o, load_moment, (kr_weights *)(uintptr_t)w, e);
}
