/* check_gradient.c - an op's gradients, taken through the graph in double, against differences of
 * its own forward kernel.
 *
 *   d/dh L(x + h v) at 0  =  (8 (L(h) - L(-h)) - (L(2h) - L(-2h))) / 12 h  +  O(h^4)
 *   L = sum over outputs of y . seed
 *
 * along one random direction over all of an input, which no wrong element escapes, and along some
 * single elements. */
#include "check/check.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "graph/graph.h"

enum { ELEMENTS = 2, MOST_INPUT = 200000 };
static const double limit = 1e-6;

typedef struct probe {
    const kr_check_data *d; /* in double */
    kr_call call;           /* of the forward kernel */
    double *out[KR_MAX_OUT], *seed[KR_MAX_OUT], *change[KR_MAX_OUT], *gradient[KR_MAX_IN];
    void *scratch;
    double *direction, *kept; /* of the input that is moved */
    int64_t widest;           /* elements of the largest input */
} probe;

static bool differentiable(const kr_check_data *d, int i) {
    return d->in[i] && d->call.in[i].dtype == KR_F64;
}

static bool seedable(const kr_check_data *d, int i) {
    return d->present[i] && d->call.out[i].dtype == KR_F64;
}

/* Zeros. */
static double *doubles(int64_t n) { return kr_calloc((size_t)n + 1, sizeof(double)); }

static int open_outputs(probe *p, krait_error *e) {
    const kr_check_data *d = p->d;
    for (int i = 0; i < d->k.n_out; i++) {
        if (!d->present[i]) continue;
        int64_t n = kr_tensor_count(&d->call.out[i]);
        p->out[i] = doubles(n);
        p->seed[i] = doubles(n);
        p->change[i] = doubles(n);
        if (!p->out[i] || !p->seed[i] || !p->change[i])
            return kr_fail_memory(e, "a gradient check");
        kr_rng r = kr_rng_make(kr_hash_string(d->k.name), 2000 + (uint64_t)i);
        for (int64_t j = 0; j < n; j++) p->seed[i][j] = kr_rng_normal(&r);
        p->call.out[i].data = p->out[i];
    }
    return 0;
}

static int open_probe(probe *p, const kr_check_data *d, krait_error *e) {
    *p = (probe){.d = d, .call = d->call};
    KR_TRY(open_outputs(p, e));
    for (int i = 0; i < d->k.n_in; i++) {
        if (!differentiable(d, i)) continue;
        int64_t n = kr_tensor_count(&d->call.in[i]);
        if (n > p->widest) p->widest = n;
        p->gradient[i] = doubles(n);
        if (!p->gradient[i]) return kr_fail_memory(e, "a gradient check");
    }
    p->direction = doubles(p->widest);
    p->kept = doubles(p->widest);
    p->scratch = kr_aligned(d->op->scratch ? d->op->scratch(&p->call) : 0);
    p->call.scratch = p->scratch;
    return p->direction && p->kept && p->scratch ? 0 : kr_fail_memory(e, "a gradient check");
}

static void close_probe(probe *p) {
    for (int i = 0; i < KR_MAX_OUT; i++) {
        kr_free(p->out[i]);
        kr_free(p->seed[i]);
        kr_free(p->change[i]);
    }
    for (int i = 0; i < KR_MAX_IN; i++) kr_free(p->gradient[i]);
    kr_free(p->direction);
    kr_free(p->kept);
    kr_free(p->scratch);
}

/* ---- gradients, by the graph ---- */

typedef struct recorded {
    kr_graph *g;
    kr_value *in[KR_MAX_IN], *out[KR_MAX_OUT], *seed[KR_MAX_OUT];
} recorded;

/* One node and its backward pass; outputs whose bit is in `seeded` are what L sums. */
static void record(recorded *r, const probe *p, uint32_t seeded) {
    const kr_check_data *d = p->d;
    for (int i = 0; i < d->k.n_in; i++) {
        const kr_tensor *t = &d->call.in[i];
        if (!d->in[i]) continue;
        r->in[i] = kr_graph_input(r->g, "input", t->dtype, t->dim0, t->rank, t->shape);
        if (differentiable(d, i)) kr_graph_want_gradient(r->g, r->in[i]);
    }
    for (int i = 0; i < d->k.n_out; i++) {
        const kr_tensor *t = &d->k.out[i];
        if (d->present[i] && t->rank > 0)
            r->out[i] =
                kr_graph_state(r->g, "given output", kr_graph_real(r->g), true, t->rank, t->shape);
    }
    kr_apply(r->g, d->op, d->k.attr, d->k.attr_size, r->in, d->k.n_in, r->out, d->k.n_out);
    for (int i = 0; i < d->k.n_out; i++) {
        const kr_tensor *t = &d->call.out[i];
        if (!(seeded >> i & 1)) continue;
        r->seed[i] = kr_graph_input(r->g, "seed", KR_F64, t->dim0, t->rank, t->shape);
        kr_graph_seed(r->g, r->out[i], r->seed[i]);
    }
    kr_graph_backward(r->g);
}

static int bind(recorded *r, kr_value *v, void *data, krait_error *e) {
    kr_tensor t = *kr_value_tensor(v);
    t.data = data;
    return kr_graph_bind(r->g, v, &t, e);
}

static int bind_all(recorded *r, const probe *p, uint32_t seeded, krait_error *e) {
    for (int i = 0; i < p->d->k.n_in; i++)
        if (r->in[i]) KR_TRY(bind(r, r->in[i], p->d->in[i], e));
    for (int i = 0; i < p->d->k.n_out; i++) {
        if (seeded >> i & 1) KR_TRY(bind(r, r->seed[i], p->seed[i], e));
        if (p->d->present[i] && p->d->k.out[i].rank > 0) KR_TRY(bind(r, r->out[i], p->out[i], e));
    }
    return 0;
}

/* Fills p->gradient (zero where nothing depends on an input). *reached: some input got one. */
static int take_gradients(recorded *r, probe *p, uint32_t seeded, bool *reached, krait_error *e) {
    record(r, p, seeded);
    KR_TRY(kr_graph_plan(r->g, e));
    KR_TRY(kr_graph_allocate(r->g, e));
    KR_TRY(bind_all(r, p, seeded, e));
    kr_graph_zero_gradients(r->g);
    KR_TRY(kr_graph_run(r->g, 0, 0, e));
    *reached = false;
    for (int i = 0; i < p->d->k.n_in; i++) {
        if (!differentiable(p->d, i)) continue;
        size_t bytes = kr_tensor_bytes(&p->d->call.in[i]);
        kr_value *gradient = kr_graph_gradient(r->g, r->in[i]);
        memset(p->gradient[i], 0, bytes);
        if (gradient) memcpy(p->gradient[i], kr_value_tensor(gradient)->data, bytes);
        *reached = *reached || gradient;
    }
    return 0;
}

static int gradients(probe *p, uint32_t seeded, bool *reached, krait_error *e) {
    kr_graph_options o = {.f64 = true, .training = true, .threads = 1};
    recorded r = {.g = kr_graph_create(&o, e)};
    if (!r.g) return KRAIT_ERR_MEMORY;
    int rc = take_gradients(&r, p, seeded, reached, e);
    kr_graph_free(r.g);
    return rc;
}

/* ---- differences ---- */

/* Adds `weight` times the outputs at input + h * direction to p->change. */
static void add_moved(probe *p, uint32_t seeded, int input, double h, double weight) {
    double *x = p->d->in[input];
    int64_t n = kr_tensor_count(&p->d->call.in[input]);
    memcpy(p->kept, x, (size_t)n * sizeof *x);
    for (int64_t j = 0; j < n; j++) x[j] += h * p->direction[j];
    p->d->op->kernel[KR_LEVEL_REF64](&p->call);
    memcpy(x, p->kept, (size_t)n * sizeof *x);
    for (int i = 0; i < p->d->k.n_out; i++)
        for (int64_t j = 0; (seeded >> i & 1) && j < kr_tensor_count(&p->d->call.out[i]); j++)
            p->change[i][j] += weight * p->out[i][j];
}

/* The derivative of L along p->direction. Outputs are subtracted one by one, before they are
 * summed: the sum would drown them in its rounding. */
static double derivative(probe *p, uint32_t seeded, int input, double h) {
    const double points[4] = {1, -1, 2, -2}, weights[4] = {8, -8, -1, 1};
    double sum = 0;
    for (int i = 0; i < p->d->k.n_out; i++)
        if (seeded >> i & 1) memset(p->change[i], 0, kr_tensor_bytes(&p->d->call.out[i]));
    for (int k = 0; k < 4; k++) add_moved(p, seeded, input, points[k] * h, weights[k]);
    for (int i = 0; i < p->d->k.n_out; i++)
        for (int64_t j = 0; (seeded >> i & 1) && j < kr_tensor_count(&p->d->call.out[i]); j++)
            sum += p->seed[i][j] * p->change[i][j];
    return sum / (12 * h);
}

/* How far gradient . direction is from the derivative, relative to the larger of `scale` and
 * themselves. Where the long step crosses a kink (a clamp), the short one hardly ever does. */
static double difference(probe *p, uint32_t seeded, int input, double scale, double *numeric,
                         double *analytic) {
    const double steps[2] = {1e-3, 1e-6};
    double best = INFINITY;
    *analytic = 0;
    for (int64_t j = 0; j < kr_tensor_count(&p->d->call.in[input]); j++)
        *analytic += p->gradient[input][j] * p->direction[j];
    for (int k = 0; k < 2 && best > limit; k++) {
        *numeric = derivative(p, seeded, input, steps[k]);
        double size = fmax(scale, fmax(fabs(*numeric), fabs(*analytic)));
        double error = fabs(*numeric - *analytic);
        best = fmin(best, error < 1e-11 ? 0 : error / size);
    }
    return best;
}

static double rms(const double *v, int64_t n) {
    double square = 0;
    for (int64_t j = 0; j < n; j++) square += v[j] * v[j];
    return n > 0 ? sqrt(square / (double)n) : 0;
}

/* The worst of the directions of one input: all of it at once, then single elements. */
static double check_input(probe *p, uint32_t seeded, int input, int elements, char detail[160]) {
    int64_t n = kr_tensor_count(&p->d->call.in[input]);
    double size = fmax(rms(p->d->in[input], n), 1e-2), typical = rms(p->gradient[input], n);
    double worst = 0;
    kr_rng r = kr_rng_make(kr_hash_string(p->d->k.name), 3000 + (uint64_t)input);
    for (int trial = 0; n > 0 && trial <= elements; trial++) {
        int64_t one = trial == 0 ? -1 : (int64_t)kr_rng_below(&r, (uint64_t)n);
        for (int64_t j = 0; j < n; j++)
            p->direction[j] = one < 0 ? size * kr_rng_normal(&r) / sqrt((double)n) : 0;
        if (one >= 0) p->direction[one] = size;
        double numeric, analytic;
        double error = difference(p, seeded, input, typical * size, &numeric, &analytic);
        if (!(error <= DBL_MAX)) error = INFINITY;
        if (error <= worst) continue;
        worst = error;
        snprintf(detail, 160, "input %d, %s %lld: gradient says %.12g, differences say %.12g",
                 input, one < 0 ? "direction" : "element", (long long)(one < 0 ? 0 : one), analytic,
                 numeric);
    }
    return worst;
}

/* ---- rows ---- */

static int check_seeded(kr_check_state *s, probe *p, uint32_t seeded, int elements, bool *reached,
                        krait_error *e) {
    char detail[160] = "", what[80];
    KR_TRY(gradients(p, seeded, reached, e));
    snprintf(what, sizeof what, "gradient of outputs %#x, against differences", seeded);
    krait_check_row row = {.op = p->d->op->name,
                           .kase = p->d->k.name,
                           .level = kr_level_name(KR_LEVEL_REF64),
                           .what = what,
                           .skipped = !*reached,
                           .tolerance = limit,
                           .detail = *reached ? detail : "the op passes none on from there"};
    for (int i = 0; *reached && i < p->d->k.n_in; i++) {
        char found[160] = "";
        if (!differentiable(p->d, i)) continue;
        double error = check_input(p, seeded, i, elements, found);
        if (error <= row.error) continue;
        row.error = error;
        memcpy(detail, found, sizeof found);
    }
    row.passed = row.error <= row.tolerance;
    kr_check_row(s, row);
    return 0;
}

/* Each output by itself, then all that pass gradients on together. */
static int check_outputs(kr_check_state *s, probe *p, krait_error *e) {
    uint32_t live = 0;
    bool alone = p->d->k.n_out == 1;
    for (int i = 0; i < p->d->k.n_out; i++) {
        bool reached = false;
        if (!seedable(p->d, i)) continue;
        KR_TRY(check_seeded(s, p, 1u << i, alone ? ELEMENTS : 0, &reached, e));
        if (reached) live |= 1u << i;
    }
    bool several = live & (live - 1), reached;
    return several ? check_seeded(s, p, live, ELEMENTS, &reached, e) : 0;
}

static int check_case(kr_check_state *s, const kr_op *op, const kr_case *k, krait_error *e) {
    kr_check_data d;
    probe p = {0};
    int rc = kr_check_data_make(&d, op, k, KR_CHECK_DOUBLE, e);
    if (rc == 0) rc = open_probe(&p, &d, e);
    if (rc == 0 && p.widest <= MOST_INPUT) rc = check_outputs(s, &p, e);
    close_probe(&p);
    kr_check_data_free(&d);
    if (rc < 0 && rc != KRAIT_ERR_MEMORY)
        return kr_fail_prefix(e, "gradients of case \"%s\" of op %s", k->name, op->name);
    return rc;
}

int kr_check_gradients(kr_check_state *s, const kr_op *op, krait_error *e) {
    kr_case k;
    for (int i = 0; memset(&k, 0, sizeof k), op->cases && op->cases(i, &k); i++)
        if (!k.large && kr_check_mine(s)) KR_TRY(check_case(s, op, &k, e));
    return 0;
}
