/* lm_ends_test.c - the ends of a model other than a language model's: rows of numbers in, classes
 * out by the mean, the last or every row, read one way or both. Gradients in double against finite
 * differences; what does not go together is refused, and rows that pad change nothing (lra.md). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/test_worst.h"
#include "mixers/mixer.h"
#include "models/lm.h"

enum { T = 9, S = 2, C = 3, CLASSES = 4 };

typedef struct rig {
    kr_lm lm;
    kr_weights w;
    kr_config c;
    int64_t r; /* targets: one a row, or one a sequence */
    double values[T][C], seed[T];
    int32_t ids[T], targets[T];
    double wanted[T][2];
    int64_t seqs[S][3], spans[T][3];
} rig;

static void bind(rig *r, kr_value *v, void *data) {
    if (!v) return;
    kr_tensor t = *kr_value_tensor(v);
    t.data = data;
    krait_error e;
    if (kr_graph_bind(r->lm.g, v, &t, &e) < 0) fail_msg("%s", e.message);
}

static void build_rows(rig *r, const char *mixer, const char *settings, bool training,
                       int64_t tokens) {
    memset(r, 0, sizeof *r);
    krait_error e;
    bool numbers = strstr(settings, "channels") != NULL;
    if (kr_config_make(&r->c, mixer, 6, 2, numbers ? 0 : 11, settings, &e) < 0)
        fail_msg("%s", e.message);
    r->r = r->c.pooling == KR_POOL_EVERY ? T : S;
    kr_lm_options o = {.graph = {.f64 = true, .training = training, .threads = 1},
                       .tokens = tokens,
                       .sequences = S,
                       .rows = r->r,
                       .loss = training,
                       .any_ends = true};
    if (kr_lm_build(&r->lm, &r->c, &o, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(kr_lm_init_weights(&r->c, 3, &r->w, &e), 0);
    if (kr_lm_bind_weights(&r->lm, &r->w, &e) < 0) fail_msg("%s", e.message);
    if (kr_graph_plan(r->lm.g, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(kr_graph_allocate(r->lm.g, &e), 0);
}

static void build_of(rig *r, const char *mixer, const char *settings, bool training) {
    build_rows(r, mixer, settings, training, T);
}

static void build(rig *r, const char *settings, bool training) {
    build_of(r, "mamba1", settings, training);
}

static void fill(rig *r) {
    kr_rng rng = kr_rng_make(5, 6);
    for (int64_t i = 0; i < r->w.count; i++) {
        double *p = r->w.items[i].tensor.data;
        for (int64_t j = 0; j < kr_tensor_count(&r->w.items[i].tensor); j++)
            p[j] += 0.3 * kr_rng_normal(&rng);
    }
    for (int t = 0; t < T; t++) {
        for (int k = 0; k < C; k++) r->values[t][k] = kr_rng_normal(&rng);
        r->ids[t] = (int32_t)kr_rng_below(&rng, 11);
        r->targets[t] = (int32_t)kr_rng_below(&rng, CLASSES);
        for (int k = 0; k < 2; k++) r->wanted[t][k] = kr_rng_normal(&rng);
        r->seed[t] = 0.5 + kr_rng_uniform(&rng);
        r->spans[t][0] = r->c.pooling == KR_POOL_EVERY ? t : t == 0 ? 4 : T - 1;
        r->spans[t][1] = 1;
    }
    r->seqs[0][1] = r->seqs[1][0] = 5;
    r->seqs[1][1] = T - 5;
    r->seqs[1][2] = 1;
    bind(r, r->lm.values, r->values);
    bind(r, r->lm.ids, r->ids);
    bind(r, r->lm.seqs, r->seqs);
    bind(r, r->lm.spans, r->c.pooling == KR_POOL_MEAN ? r->seqs : r->spans);
    bind(r, r->lm.targets, r->targets);
    bind(r, r->lm.wanted, r->wanted);
    bind(r, r->lm.seed, r->seed);
}

static double objective(rig *r) {
    krait_error e;
    double sum = 0;
    kr_graph_zero_gradients(r->lm.g);
    if (kr_graph_run(r->lm.g, T, r->r, &e) < 0) fail_msg("%s", e.message);
    const double *nll = kr_value_tensor(r->lm.nll)->data;
    for (int64_t i = 0; i < r->r; i++) sum += nll[i] * r->seed[i];
    return sum;
}

/* The worst relative difference over a tensor's first and last entries. */
static double compare(rig *r, kr_value *v) {
    double worst = 0, scale = 1e-3, wanted[4];
    const kr_tensor *g = kr_value_tensor(kr_graph_gradient(r->lm.g, v));
    double *data = kr_value_tensor(v)->data;
    int64_t n = kr_tensor_count(g), at[4] = {0, n / 3, n / 2, n - 1};
    objective(r);
    for (int i = 0; i < 4; i++) wanted[i] = ((const double *)g->data)[at[i]];
    for (int i = 0; i < 4; i++) {
        double old = data[at[i]], h = 1e-5;
        data[at[i]] = old + h;
        double up = objective(r);
        data[at[i]] = old - h;
        double numeric = (up - objective(r)) / (2 * h);
        data[at[i]] = old;
        scale = fmax(scale, fabs(numeric));
        worst = kr_worst(worst, fabs(numeric - wanted[i]));
    }
    return worst / scale;
}

static void check_gradients(const char *mixer, const char *settings) {
    rig r;
    double worst = 0;
    build_of(&r, mixer, settings, true);
    fill(&r);
    for (int k = 0; k < kr_graph_param_count(r.lm.g); k++) {
        const kr_param_decl *d;
        worst = kr_worst(worst, compare(&r, kr_graph_param_at(r.lm.g, k, &d)));
    }
    printf("%s %s: %d tensors, worst relative difference %.2g\n", mixer, settings,
           kr_graph_param_count(r.lm.g), worst);
    assert_true(worst < 1e-6);
    kr_lm_free(&r.lm);
    kr_weights_free(&r.w);
}

static void gradients(void **state) {
    (void)state;
    static const char *const settings[] = {"inner=10 state=3 classes=4 channels=3",
                                           "inner=10 state=3 classes=4 channels=3 pooling=last",
                                           "inner=10 state=3 classes=4 channels=3 pooling=every",
                                           "inner=10 state=3 classes=4",
                                           "inner=10 state=3 classes=4 pooling=last",
                                           "inner=10 state=3 numbers=2 channels=3",
                                           "inner=10 state=3 numbers=2 pooling=every"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        check_gradients("mamba1", settings[i]);
}

/* ---- both directions ---- */

static const char *both_ways(const kr_mixer *m, char text[400]) {
    snprintf(text, 400, "%s channels=3 classes=4 pooling=every bidirectional=true", m->variants[0]);
    return text;
}

static void gradients_of_both_ways(void **state) {
    (void)state;
    char text[400];
    for (int i = 0; kr_mixers[i]; i++)
        check_gradients(kr_mixers[i]->name, both_ways(kr_mixers[i], text));
    check_gradients("mamba1", "inner=10 state=3 classes=4 bidirectional=true sequence_norm=true");
    check_gradients("s4d", "state=4 classes=4 channels=3 bidirectional=true sequence_norm=true "
                           "norm=layernorm norm_place=after");
}

static void logits_of(rig *r, double logits[T][CLASSES]) {
    krait_error e;
    if (kr_graph_run(r->lm.g, T, r->r, &e) < 0) fail_msg("%s", e.message);
    memcpy(logits, kr_value_tensor(r->lm.logits)->data, sizeof(double[T][CLASSES]));
}

/* The weights of one direction become those of the other. */
static void swap_ways(rig *r) {
    for (int64_t i = 0; i < r->w.count; i++) {
        char name[240];
        const char *own = r->w.items[i].name, *at = strstr(own, ".mixer.");
        if (!at) continue;
        snprintf(name, sizeof name, "%.*s.mixer_back.%s", (int)(at - own), own, at + 7);
        const kr_tensor *a = &r->w.items[i].tensor, *b = kr_weights_find(&r->w, name);
        assert_non_null(b);
        for (int64_t k = 0; k < kr_tensor_count(a); k++) {
            double *x = (double *)a->data + k, *y = (double *)b->data + k, kept = *x;
            *x = *y;
            *y = kept;
        }
    }
}

/* Every row hears all of its own sequence and nothing of another; and the first sequence, read from
 * behind by weights that changed places, gives the same answers from behind. */
static void both_ways_are_two_causal_ways(void **state) {
    (void)state;
    double before[T][CLASSES], after[T][CLASSES], back[T][CLASSES];
    char text[400];
    for (int i = 0; kr_mixers[i]; i++) {
        rig r;
        build_of(&r, kr_mixers[i]->name, both_ways(kr_mixers[i], text), false);
        fill(&r);
        logits_of(&r, before);
        r.values[3][0] += 1;
        logits_of(&r, after);
        for (int t = 0; t < T; t++)
            assert_true((memcmp(before[t], after[t], sizeof before[t]) != 0) == (t < 5));
        r.values[3][0] -= 1;
        for (int t = 0; t < 2; t++)
            for (int k = 0; k < C; k++) {
                double kept = r.values[t][k];
                r.values[t][k] = r.values[4 - t][k];
                r.values[4 - t][k] = kept;
            }
        swap_ways(&r);
        kr_graph_params_changed(r.lm.g);
        logits_of(&r, back);
        double worst = 0;
        for (int t = 0; t < 5; t++)
            for (int k = 0; k < CLASSES; k++)
                worst = kr_worst(worst, fabs(before[t][k] - back[4 - t][k]));
        printf("%s: from behind and from in front differ by %.2g\n", kr_mixers[i]->name, worst);
        assert_true(worst < 1e-12);
        kr_lm_free(&r.lm);
        kr_weights_free(&r.w);
    }
}

/* ---- what mixers read ---- */

static void bind_value(kr_graph *g, kr_value *v, void *data) {
    kr_tensor t = *kr_value_tensor(v);
    t.data = data;
    assert_int_equal(kr_graph_bind(g, v, &t, NULL), 0);
}

/* Each channel of a sequence has mean 0 and is 1 away from it in the mean, wherever it was before;
 * one that does not vary is 0. */
static void channels_are_normed_over_their_sequence(void **state) {
    (void)state;
    enum { D = 5 };
    double x[T][D];
    int64_t seqs[S][3] = {{0, 5, 0}, {5, T - 5, 1}};
    kr_rng rng = kr_rng_make(8, 1);
    kr_graph *g = kr_graph_create(&(kr_graph_options){.f64 = true, .threads = 1}, NULL);
    assert_non_null(g);
    kr_nn nn = {.g = g};
    kr_value *in = kr_graph_input(g, "x", KR_F64, KR_DIM0_TOKENS, 2, (int64_t[]){T, D});
    nn.seqs = kr_graph_input(g, "seqs", KR_I64, KR_DIM0_FIXED, 2, (int64_t[]){S, 3});
    kr_value *out = kr_nn_sequence_norm(&nn, in, 1e-9);
    kr_graph_output(g, "y", out);
    assert_int_equal(kr_graph_plan(g, NULL), 0);
    assert_int_equal(kr_graph_allocate(g, NULL), 0);
    for (int t = 0; t < T; t++)
        for (int d = 0; d < D; d++)
            x[t][d] = d == 4 ? -7 : 100 * d + pow(10, d - 2) * kr_rng_normal(&rng);
    bind_value(g, in, x);
    bind_value(g, nn.seqs, seqs);
    assert_int_equal(kr_graph_run(g, T, S, NULL), 0);
    const double *y = kr_value_tensor(out)->data;
    double worst = 0;
    for (int s = 0; s < S; s++)
        for (int d = 0; d < D; d++) {
            double mean = 0, size = 0, n = (double)seqs[s][1];
            for (int64_t t = seqs[s][0]; t < seqs[s][0] + seqs[s][1]; t++) {
                mean += y[t * D + d] / n;
                size += fabs(y[t * D + d]) / n;
            }
            worst = kr_worst(worst, fabs(mean));
            worst = kr_worst(worst, fabs(size - (d < 4)));
        }
    printf("mean 0 and mean size 1 over a sequence: %.2g off\n", worst);
    assert_true(worst < 1e-5);
    kr_graph_free(g);
}

/* What the first norm of a fresh model leaves of one number is more than its sign. */
static void a_number_keeps_its_size(void **state) {
    (void)state;
    enum { D = 32 };
    krait_error e;
    kr_config c;
    kr_weights w = {0};
    assert_int_equal(kr_config_make(&c, "s4d", D, 1, 0, "state=4 channels=1 classes=2", &e), 0);
    assert_int_equal(kr_lm_init_weights(&c, 1, &w, &e), 0);
    const float *a = kr_weights_find(&w, "backbone.stem.weight")->data;
    const float *b = kr_weights_find(&w, "backbone.stem.bias")->data;
    double both = 0, one = 0, two = 0;
    for (int i = 0; i < D; i++) {
        double k = (double)a[i], x = k + (double)b[i], y = x + k;
        both += x * y, one += x * x, two += y * y;
    }
    printf("1 and 2, after the norm: %.3f alike\n", both / sqrt(one * two));
    assert_true(both < 0.99 * sqrt(one * two));
    kr_weights_free(&w);
}

/* Logits of the mean are the mean of the rows' logits; those of the last row the last's. */
static void pooling_is_what_it_says(void **state) {
    (void)state;
    double logits[3][T * CLASSES];
    static const char *const settings[] = {"state=3 classes=4 channels=3",
                                           "state=3 classes=4 channels=3 pooling=last",
                                           "state=3 classes=4 channels=3 pooling=every"};
    for (int i = 0; i < 3; i++) {
        rig r;
        build(&r, settings[i], false);
        fill(&r);
        krait_error e;
        if (kr_graph_run(r.lm.g, T, r.r, &e) < 0) fail_msg("%s", e.message);
        memcpy(logits[i], kr_value_tensor(r.lm.logits)->data,
               (size_t)(r.r * CLASSES) * sizeof(double));
        kr_lm_free(&r.lm);
        kr_weights_free(&r.w);
    }
    for (int k = 0; k < CLASSES; k++) {
        double first = 0, second = 0;
        for (int t = 0; t < 5; t++) first += logits[2][t * CLASSES + k] / 5;
        for (int t = 5; t < T; t++) second += logits[2][t * CLASSES + k] / (T - 5);
        assert_true(fabs(logits[0][k] - first) < 1e-12);
        assert_true(fabs(logits[0][CLASSES + k] - second) < 1e-12);
        assert_true(logits[1][k] == logits[2][4 * CLASSES + k]);
        assert_true(logits[1][CLASSES + k] == logits[2][(T - 1) * CLASSES + k]);
    }
}

enum { PAD = 3, PADDED = T + S * PAD };

/* The classes of both sequences, of 5 and 4 rows, each with `pad` rows behind it that are nobody's
 * and hold `id`. */
static void pooled(rig *r, int64_t pad, int32_t id, double logits[S * CLASSES]) {
    static const int64_t counts[S] = {5, T - 5};
    int32_t ids[PADDED];
    int64_t seqs[S][3], rows = 0;
    krait_error e;
    for (int64_t s = 0, t = 0; s < S; s++) {
        seqs[s][0] = rows;
        seqs[s][1] = counts[s];
        seqs[s][2] = s;
        for (int64_t k = 0; k < counts[s]; k++) ids[rows++] = r->ids[t++];
        for (int64_t k = 0; k < pad; k++) ids[rows++] = id;
    }
    bind(r, r->lm.ids, ids);
    bind(r, r->lm.seqs, seqs);
    bind(r, r->lm.spans, seqs);
    if (kr_graph_run(r->lm.g, rows, S, &e) < 0) fail_msg("%s", e.message);
    memcpy(logits, kr_value_tensor(r->lm.logits)->data, sizeof(double[S * CLASSES]));
}

/* lra.md check 2: rows that pad a batch change no class, whichever id stands in them: there is no
 * id for padding that a live one could equal. */
static void padding_changes_nothing(void **state) {
    (void)state;
    for (int i = 0; kr_mixers[i]; i++)
        for (int both = 0; both < 3; both++) {
            rig r;
            char text[400];
            static const char *const ways[] = {"false", "true", "true sequence_norm=true"};
            double plain[S * CLASSES], padded[S * CLASSES], worst = 0;
            snprintf(text, sizeof text, "%s classes=4 bidirectional=%s", kr_mixers[i]->variants[0],
                     ways[both]);
            build_rows(&r, kr_mixers[i]->name, text, false, PADDED);
            fill(&r);
            pooled(&r, 0, 0, plain);
            for (int64_t pad = 1; pad <= PAD; pad++)
                for (int32_t id = 0; id < 11; id++) {
                    pooled(&r, pad, id, padded);
                    for (int k = 0; k < S * CLASSES; k++)
                        worst = kr_worst(worst, fabs(padded[k] - plain[k]));
                }
            printf("%s, both ways %s: padded by 1 to %d rows of any id, classes differ by %.2g\n",
                   kr_mixers[i]->name, ways[both], PAD, worst);
            assert_true(worst < 1e-12 && fabs(plain[0] - plain[CLASSES]) > 1e-6);
            kr_lm_free(&r.lm);
            kr_weights_free(&r.w);
        }
}

static void refusals(void **state) {
    (void)state;
    static const char *const bad[][2] = {{"channels=2", "needs classes or numbers"},
                                         {"pooling=last", "pooling has no effect"},
                                         {"bidirectional=true",
                                          "bidirectional needs classes or numbers"},
                                         {"classes=3 sequence_norm=true",
                                          "sequence_norm needs bidirectional"},
                                         {"classes=2 numbers=3", "classes (2) or numbers (3)"},
                                         {"classes=-1", "classes must be"},
                                         {"pooling=first", "one of mean|last|every"}};
    kr_config c;
    krait_error e;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_true(kr_config_make(&c, "mamba1", 8, 1, 16, bad[i][0], &e) < 0);
        printf("%s\n", e.message);
        assert_non_null(strstr(e.message, bad[i][1]));
    }
    assert_true(kr_config_make(&c, "mamba1", 8, 1, 0, NULL, &e) < 0); /* no ids at all */
    assert_int_equal(kr_config_make(&c, "mamba1", 8, 1, 16, "classes=3", &e), 0);
    kr_lm lm;
    kr_lm_options o = {.graph = {.threads = 1}, .tokens = 4, .sequences = 1};
    assert_true(kr_lm_build(&lm, &c, &o, &e) < 0);
    printf("%s\n", e.message);
    assert_non_null(strstr(e.message, "classifies sequences"));
    assert_non_null(strstr(e.message, "a task trains")); /* true wherever it is said */
    assert_int_equal(kr_config_make(&c, "lru", 8, 1, 16, "classes=3 bidirectional=true", &e), 0);
    for (int i = 0; i < 3; i++) {
        o = (kr_lm_options){.graph = {.threads = 1}, .tokens = 4, .sequences = 1, .any_ends = true};
        o.rows = 1;
        if (i == 0) o.slots = 1;
        if (i == 1) o.step = true;
        if (i == 2) o.reset = true;
        assert_true(kr_lm_build(&lm, &c, &o, &e) < 0);
        printf("%s\n", e.message);
        assert_non_null(strstr(e.message, i == 2 ? "pack documents" : "go on from a state"));
    }
}

/* A file must say which ends a model has: only Krait's own dialect can. */
static void ends_are_written(void **state) {
    (void)state;
    static const char path[] = "lm_ends_test.json";
    kr_config c, back;
    krait_error e;
    for (int i = 0; kr_mixers[i]; i++) {
        if (kr_config_make(&c, kr_mixers[i]->name, 64, 1, 16, "classes=3 pooling=last", &e) < 0 ||
            kr_config_write(&c, path, "float32", &e) < 0 || kr_config_read(&back, path, &e) < 0)
            fail_msg("%s", e.message);
        assert_string_equal(back.mixer, c.mixer);
        assert_int_equal(back.classes, 3);
        assert_int_equal(back.pooling, KR_POOL_LAST);
    }
    remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(gradients),
                                       cmocka_unit_test(gradients_of_both_ways),
                                       cmocka_unit_test(both_ways_are_two_causal_ways),
                                       cmocka_unit_test(channels_are_normed_over_their_sequence),
                                       cmocka_unit_test(a_number_keeps_its_size),
                                       cmocka_unit_test(pooling_is_what_it_says),
                                       cmocka_unit_test(padding_changes_nothing),
                                       cmocka_unit_test(ends_are_written),
                                       cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
