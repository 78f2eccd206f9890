/* lm_test.c - the language model as one function, of every mixer in mixers.def: every gradient in
 * double against finite differences (states, resets and packed sequences included), causality,
 * recomputation, packed documents as if each were alone; and Mamba's parameter totals and initial
 * values. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/test_worst.h"
#include "mixers/mixer.h"
#include "models/lm.h"

/* ---- parameters ------------------------------------------------------------------------------ */

static void totals_are_the_published_ones(void **state) {
    (void)state;
    static const struct {
        int64_t width, layers, total;
    } sizes[] = {{768, 24, 129135360},
                 {1024, 48, 371516416},
                 {1536, 48, 793204224},
                 {2048, 48, 1372178432},
                 {2560, 64, 2768345600}};
    for (int i = 0; i < 5; i++) {
        kr_config c;
        assert_int_equal(kr_config_make(&c, "mamba1", sizes[i].width, sizes[i].layers, 50280, NULL,
                                        NULL),
                         0);
        assert_int_equal(kr_lm_parameter_count(&c), sizes[i].total);
    }
}

static const float *weight(const kr_weights *w, const char *name, int64_t *n) {
    const kr_tensor *t = kr_weights_find(w, name);
    assert_non_null(t);
    *n = kr_tensor_count(t);
    return t->data;
}

static double deviation(const float *x, int64_t n) {
    double square = 0;
    for (int64_t i = 0; i < n; i++) square += (double)x[i] * (double)x[i];
    return sqrt(square / (double)n);
}

static void initial_values_follow_the_paper(void **state) {
    (void)state;
    kr_config c;
    assert_int_equal(kr_config_make(&c, "mamba1", 256, 3, 512, NULL, NULL), 0);
    kr_weights w = {0};
    krait_error e;
    assert_int_equal(kr_lm_init_weights(&c, 7, &w, &e), 0);
    int64_t n;
    const float *bias = weight(&w, "backbone.layers.1.mixer.dt_proj.bias", &n);
    for (int64_t i = 0; i < n; i++) {
        double step = log1p(exp((double)bias[i]));
        assert_true(step > 0.99e-3 && step < 0.101);
    }
    const float *a = weight(&w, "backbone.layers.0.mixer.A_log", &n);
    for (int64_t i = 0; i < n; i++)
        assert_true(fabs(exp((double)a[i]) - (double)(i % 16 + 1)) < 1e-5);
    const float *out = weight(&w, "backbone.layers.2.mixer.out_proj.weight", &n);
    double expected = 1 / sqrt(3.0 * 512 * 3), got = deviation(out, n);
    printf("out_proj deviation %.5f, expected %.5f\n", got, expected);
    assert_true(fabs(got / expected - 1) < 0.02);
    const float *embedding = weight(&w, "backbone.embeddings.weight", &n);
    assert_true(fabs(deviation(embedding, n) / 0.02 - 1) < 0.02);
    const float *conv = weight(&w, "backbone.layers.0.mixer.conv1d.bias", &n);
    assert_true(fabs(deviation(conv, n) / (0.5 / sqrt(3.0)) - 1) < 0.1);
    kr_weights_free(&w);
}

/* ---- a small model in double ----------------------------------------------------------------- */

enum { V = 11, T = 9, SLOTS = 2 };

typedef struct rig {
    kr_lm lm;
    kr_weights w;
    kr_config c;
    int32_t ids[T], targets[T];
    uint8_t reset[T];
    int64_t seqs[SLOTS][3];
    double seed[T];
    int64_t draw[2];
    double
        *states[96]; /* in, out and seed of each state: 3 * n_states pointers, row major by state */
} rig;

static void bind_raw(rig *r, kr_value *v, void *data) {
    kr_tensor t = *kr_value_tensor(v);
    t.data = data;
    krait_error e;
    if (kr_graph_bind(r->lm.g, v, &t, &e) < 0) fail_msg("%s", e.message);
}

static void bind_states(rig *r, kr_rng *rng) {
    for (int i = 0; i < r->lm.n_states; i++) {
        kr_value *v[3] = {r->lm.state_in[i], r->lm.state_out[i], r->lm.state_seed[i]};
        for (int k = 0; k < 3 && v[k]; k++) {
            int64_t n = kr_tensor_count(kr_value_tensor(v[k]));
            double *d = r->states[3 * i + k] = kr_calloc((size_t)n, sizeof *d);
            for (int64_t j = 0; j < n && k != 1; j++) d[j] = 0.5 * kr_rng_normal(rng);
            bind_raw(r, v[k], d);
        }
    }
}

static void open_rig(rig *r, const kr_mixer *mixer, const char *variant, bool recompute,
                     double dropout) {
    memset(r, 0, sizeof *r);
    assert_int_equal(kr_config_make(&r->c, mixer->name, 6, 2, V, variant, NULL), 0);
    kr_lm_options o = {
        .graph = {.f64 = true, .training = true, .recompute = recompute, .threads = 1},
        .tokens = T,
        .sequences = SLOTS,
        .slots = SLOTS,
        .reset = true,
        .loss = true,
        .dropout = dropout,
        .dropout_tied = recompute,
        .state_gradient = true};
    krait_error e;
    if (kr_lm_build(&r->lm, &r->c, &o, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(kr_lm_init_weights(&r->c, 3, &r->w, &e), 0);
    if (kr_lm_bind_weights(&r->lm, &r->w, &e) < 0) fail_msg("%s", e.message);
    if (kr_graph_plan(r->lm.g, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(kr_graph_allocate(r->lm.g, &e), 0);
    kr_rng rng = kr_rng_make(5, 6);
    for (int i = 0; i < r->w.count;
         i++) { /* larger than fresh ones, so that every path carries weight */
        double *p = r->w.items[i].tensor.data;
        for (int64_t j = 0; j < kr_tensor_count(&r->w.items[i].tensor); j++)
            p[j] += 0.3 * kr_rng_normal(&rng);
    }
    for (int t = 0; t < T; t++) {
        r->ids[t] = (int32_t)kr_rng_below(&rng, V);
        r->targets[t] = t % 4 == 2 ? -1 : (int32_t)kr_rng_below(&rng, V);
        r->reset[t] = t == 3;
        r->seed[t] = 0.5 + kr_rng_uniform(&rng);
    }
    r->seqs[0][0] = 0, r->seqs[0][1] = 5, r->seqs[0][2] = 1;
    r->seqs[1][0] = 5, r->seqs[1][1] = T - 5, r->seqs[1][2] = 0;
    bind_raw(r, r->lm.ids, r->ids);
    bind_raw(r, r->lm.targets, r->targets);
    bind_raw(r, r->lm.reset, r->reset);
    bind_raw(r, r->lm.seqs, r->seqs);
    bind_raw(r, r->lm.seed, r->seed);
    if (r->lm.draw) bind_raw(r, r->lm.draw, r->draw);
    bind_states(r, &rng);
}

static void close_rig(rig *r) {
    for (int i = 0; i < 96; i++) kr_free(r->states[i]);
    kr_lm_free(&r->lm);
    kr_weights_free(&r->w);
}

static void run(rig *r) {
    krait_error e;
    kr_graph_zero_gradients(r->lm.g);
    if (kr_graph_run(r->lm.g, T, 0, &e) < 0) fail_msg("%s", e.message);
}

/* sum of nll * seed, and of states out * their seeds: the scalar whose gradients the graph
 * computes. */
static double objective(rig *r) {
    run(r);
    const double *nll = kr_value_tensor(r->lm.nll)->data;
    double sum = 0;
    for (int t = 0; t < T; t++) sum += nll[t] * r->seed[t];
    for (int i = 0; i < r->lm.n_states; i++)
        for (int64_t j = 0; j < kr_tensor_count(kr_value_tensor(r->lm.state_out[i])); j++)
            sum += r->states[3 * i + 1][j] * r->states[3 * i + 2][j];
    return sum;
}

/* Largest difference between `gradient` and central differences over up to 12 spread entries of
 * data, relative to the largest gradient among them. */
static double compare(rig *r, double *data, const double *gradient, int64_t n) {
    double worst = 0, scale = 1e-3;
    int64_t step = n > 12 ? n / 12 : 1;
    for (int64_t i = 0; i < n; i += step) {
        double old = data[i], h = 1e-5;
        data[i] = old + h;
        double up = objective(r);
        data[i] = old - h;
        double down = objective(r);
        data[i] = old;
        double numeric = (up - down) / (2 * h), error = fabs(numeric - gradient[i]);
        if (fabs(numeric) > scale) scale = fabs(numeric);
        if (error > worst) worst = error;
    }
    return worst / scale;
}

static double *copy_of_gradient(rig *r, kr_value *v, int64_t *n) {
    const kr_value *g = kr_graph_gradient(r->lm.g, v);
    assert_non_null(g);
    *n = kr_tensor_count(kr_value_tensor(g));
    double *copy = kr_malloc((size_t)*n * sizeof *copy);
    memcpy(copy, kr_value_tensor(g)->data, (size_t)*n * sizeof *copy);
    return copy;
}

static void check_all_gradients(const kr_mixer *mixer, const char *variant, bool recompute,
                                double dropout) {
    rig r;
    open_rig(&r, mixer, variant, recompute, dropout);
    double worst = 0;
    int n_params = kr_graph_param_count(r.lm.g), checked = 0;
    for (int i = 0; i < n_params + r.lm.n_states; i++) {
        const kr_param_decl *d = NULL;
        kr_value *v = i < n_params ? kr_graph_param_at(r.lm.g, i, &d) : r.lm.state_in[i - n_params];
        int64_t n;
        run(&r);
        double *gradient = copy_of_gradient(&r, v, &n);
        double error = compare(&r, kr_value_tensor(v)->data, gradient, n);
        if (error > 1e-6) printf("%s: %.3g\n", d ? d->name : "a state", error);
        if (error > worst) worst = error;
        kr_free(gradient);
        checked++;
    }
    printf("%s %s%s: %d tensors, worst relative difference %.2g\n", mixer->name, variant,
           recompute ? " recomputed" : "", checked, worst);
    if (dropout > 0) printf("  the above with dropout\n");
    assert_true(worst < 1e-6);
    close_rig(&r);
}

static void gradients(void **state) {
    (void)state;
    char text[KR_VARIANT_TEXT];
    const char *v;
    for (int i = 0; kr_mixers[i]; i++)
        for (int k = 0; (v = kr_config_variant(kr_mixers[i]->name, k, text)); k++)
            check_all_gradients(kr_mixers[i], v, false, 0);
}

static void recomputed_gradients(void **state) {
    (void)state;
    char text[KR_VARIANT_TEXT];
    for (int i = 0; kr_mixers[i]; i++)
        check_all_gradients(kr_mixers[i], kr_mixers[i]->variants[0], true, 0);
    for (int k = 0; kr_config_variant("lru", k, text); k++)
        check_all_gradients(kr_mixer_find("lru"), kr_config_variant("lru", k, text), true, 0);
}

static void gradients_through_dropout(void **state) {
    (void)state;
    char text[KR_VARIANT_TEXT];
    const char *v;
    for (int i = 0; kr_mixers[i]; i++)
        for (int k = 0; (v = kr_config_variant(kr_mixers[i]->name, k, text)); k++)
            if (strstr(v, "channel_mixer")) check_all_gradients(kr_mixers[i], v, k % 2, 0.4);
}

/* A draw decides all that is left out, and says so by its two numbers. */
static void dropout_follows_its_draw(void **state) {
    (void)state;
    rig r;
    double nll[4][T];
    open_rig(&r, kr_mixer_find("s4d"), "state=8 channel_mixer=mlp", false, 0.4);
    for (int i = 0; i < 4; i++) {
        r.draw[0] = i == 2, r.draw[1] = i == 3;
        run(&r);
        memcpy(nll[i], kr_value_tensor(r.lm.nll)->data, sizeof nll[i]);
    }
    close_rig(&r);
    assert_memory_equal(nll[0], nll[1], sizeof nll[0]);
    assert_memory_not_equal(nll[0], nll[2], sizeof nll[0]);
    assert_memory_not_equal(nll[0], nll[3], sizeof nll[0]);
}

/* Runs before and after id `at` is another one. */
static void change_one(const kr_mixer *mixer, int at, double before[T], double after[T]) {
    rig r;
    open_rig(&r, mixer, mixer->variants[0], false, 0);
    run(&r);
    memcpy(before, kr_value_tensor(r.lm.nll)->data, T * sizeof *before);
    r.ids[at] = (r.ids[at] + 1) % V;
    run(&r);
    memcpy(after, kr_value_tensor(r.lm.nll)->data, T * sizeof *after);
    close_rig(&r);
}

static void later_tokens_change_nothing_before(void **state) {
    (void)state;
    double before[T], after[T];
    for (int i = 0; kr_mixers[i]; i++) {
        change_one(kr_mixers[i], 7, before, after);
        assert_memory_equal(before, after, 7 * sizeof *before);
        assert_true(before[7] != after[7]);
    }
}

static void documents_and_sequences_do_not_leak(void **state) {
    (void)state;
    double before[T], after[T];
    for (int i = 0; kr_mixers[i]; i++) { /* 1 is before the reset at 3, in the first sequence */
        change_one(kr_mixers[i], 1, before, after);
        assert_true(before[1] != after[1]);
        assert_memory_equal(before + 3, after + 3, (T - 3) * sizeof *before);
    }
}

/* ---- packed documents ------------------------------------------------------------------------ */

enum { ROWS = 150 };

/* logits [ROWS,V] of rows that `n` sequences cut. */
static void logits_of(const kr_config *c, kr_weights *w, const int32_t *ids, const uint8_t *reset,
                      const int64_t (*seqs)[3], int64_t n, float *logits) {
    kr_lm lm;
    krait_error e;
    kr_lm_options o = {.tokens = ROWS, .sequences = n, .reset = reset != NULL};
    assert_int_equal(kr_device_level(&o.graph.level, &e), 0);
    if (kr_lm_build(&lm, c, &o, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(kr_lm_bind_weights(&lm, w, &e), 0);
    assert_int_equal(kr_graph_plan(lm.g, &e), 0);
    assert_int_equal(kr_graph_allocate(lm.g, &e), 0);
    rig r = {.lm = lm};
    bind_raw(&r, lm.ids, (void *)(uintptr_t)ids);
    bind_raw(&r, lm.seqs, (void *)(uintptr_t)seqs);
    if (reset) bind_raw(&r, lm.reset, (void *)(uintptr_t)reset);
    if (kr_graph_run(lm.g, ROWS, 0, &e) < 0) fail_msg("%s", e.message);
    memcpy(logits, kr_value_tensor(lm.logits)->data, ROWS * V * sizeof *logits);
    kr_lm_free(&lm);
}

/* Three documents as three sequences, and as one sequence with resets: the kernels of this machine
 * in f32. */
static double packed_difference(const kr_mixer *mixer, const char *variant) {
    static const int64_t apart[3][3] = {{0, 70, 0}, {70, 1, 1}, {71, ROWS - 71, 2}};
    static const int64_t together[1][3] = {{0, ROWS, 0}};
    static float a[ROWS * V], b[ROWS * V];
    kr_config c;
    kr_weights w = {0};
    krait_error e;
    int32_t ids[ROWS];
    uint8_t reset[ROWS] = {[0] = 1, [70] = 1, [71] = 1};
    if (kr_config_make(&c, mixer->name, 24, 2, V, variant, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(kr_lm_init_weights(&c, 3, &w, &e), 0);
    for (int t = 0; t < ROWS; t++) ids[t] = (7 * t * t + t) % V;
    logits_of(&c, &w, ids, NULL, apart, 3, a);
    logits_of(&c, &w, ids, reset, together, 1, b);
    double worst = 0, size = 0;
    for (int i = 0; i < ROWS * V; i++) {
        worst = kr_worst(worst, fabs((double)a[i] - (double)b[i]));
        size = fmax(size, fabs((double)a[i]));
    }
    kr_weights_free(&w);
    return worst / size;
}

static void packed_documents_are_as_if_alone(void **state) {
    (void)state;
    char text[KR_VARIANT_TEXT];
    const char *v;
    for (int i = 0; kr_mixers[i]; i++)
        for (int k = 0; (v = kr_config_variant(kr_mixers[i]->name, k, text)); k++) {
            double d = packed_difference(kr_mixers[i], v);
            printf("%s %s: packed and alone differ by %.2g\n", kr_mixers[i]->name, v, d);
            assert_true(d <= 1e-5);
        }
}

/* Whatever allocation fails while a training graph of carried states is recorded: an error. */
static int64_t build_with_failures(const kr_config *c) {
    kr_lm_options o = {.tokens = T, .sequences = 1, .slots = 1, .loss = true};
    o.graph = (kr_graph_options){.training = true, .threads = 1};
    for (int64_t nth = 1;; nth++) {
        kr_lm lm = {0};
        krait_error e = {0};
        kr_mem_fail_after(nth);
        int rc = kr_lm_build(&lm, c, &o, &e);
        int64_t used = kr_mem_fail_after(0);
        kr_lm_free(&lm);
        if (rc == 0) {
            assert_true(used < nth);
            return nth - 1;
        }
        assert_int_equal(rc, KRAIT_ERR_MEMORY);
    }
}

static void failing_allocations_are_errors(void **state) {
    (void)state;
    for (int i = 0; kr_mixers[i]; i++) {
        kr_config c;
        krait_error e;
        const char *first = kr_mixers[i]->variants[0];
        if (kr_config_make(&c, kr_mixers[i]->name, 24, 1, 16, first, &e) < 0)
            fail_msg("%s", e.message);
        printf("%s: %lld failures, each an error\n", kr_mixers[i]->name,
               (long long)build_with_failures(&c));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(totals_are_the_published_ones),
        cmocka_unit_test(initial_values_follow_the_paper),
        cmocka_unit_test(gradients),
        cmocka_unit_test(recomputed_gradients),
        cmocka_unit_test(gradients_through_dropout),
        cmocka_unit_test(dropout_follows_its_draw),
        cmocka_unit_test(later_tokens_change_nothing_before),
        cmocka_unit_test(documents_and_sequences_do_not_leak),
        cmocka_unit_test(packed_documents_are_as_if_alone),
        cmocka_unit_test(failing_allocations_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
