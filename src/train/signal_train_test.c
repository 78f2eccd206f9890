/* signal_train_test.c - training on signals: what S4D learned of tones at one rate it knows at
 * another, when it is told the rate; and numbers are told, at each row and of all. */
#define _GNU_SOURCE
#include <krait/train.h>

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/test_folder.h"

static void train(const char *folder, const char *const *sets) {
    krait_train_options o = KRAIT_TRAIN_OPTIONS_INIT;
    krait_error e;
    o.out = folder;
    o.sets = sets;
    while (sets[o.n_sets]) o.n_sets++;
    if (krait_train(&o, &e) < 0) fail_msg("%s", e.message);
}

static krait_model *open_at(const char *folder, double rate, krait_error *e) {
    krait_model_options o = KRAIT_MODEL_OPTIONS_INIT;
    krait_model *m = NULL;
    o.without_tokenizer = 1;
    o.rate = rate;
    krait_model_open(&m, folder, &o, e);
    return m;
}

/* The share of tones that are told at one sample in `every`, by a model that is told `rate`. */
static double told(const char *folder, int every, double rate) {
    krait_eval_options o = KRAIT_EVAL_OPTIONS_INIT;
    krait_eval_result r;
    krait_error e;
    char set[20];
    const char *sets[] = {set};
    krait_model *m = open_at(folder, rate, &e);
    if (!m) fail_msg("%s", e.message);
    snprintf(set, sizeof set, "every=%d", every);
    o.task = "tones";
    o.sets = sets;
    o.n_sets = 1;
    o.examples = 300;
    if (krait_eval(m, &o, &r, &e) < 0) fail_msg("%s", e.message);
    krait_model_close(&m);
    printf("one sample in %d, rate %g: %.1f%% of tones told\n", every, rate, 100 * r.accuracy);
    return r.accuracy;
}

static void refused(const char *folder, double rate, const char *why) {
    krait_error e = {0};
    assert_null(open_at(folder, rate, &e));
    printf("%s\n", e.message);
    assert_non_null(strstr(e.message, why));
}

/* s4.md check 11, by a trained model. */
static void another_rate_is_the_same_system(void **state) {
    (void)state;
    static const char *const sets[] = {"task=tones",         "mixer=s4d",
                                       "state=16",           "width=16",
                                       "layers=1",           "batch=16",
                                       "steps=200",          "warmup=20",
                                       "eval_every=0",       "eval_batches=4",
                                       "learning_rate=0.01", "checkpoint_every=0",
                                       "weight_decay=0",     NULL};
    char folder[64];
    assert_int_equal(kr_test_folder_make(folder), 0);
    train(folder, sets);
    double here = told(folder, 1, 1), half = told(folder, 2, 2), quarter = told(folder, 4, 4);
    double untold = told(folder, 2, 1), wrongly = told(folder, 1, 0.5);
    assert_true(here >= 0.95);
    assert_true(half >= here - 0.03 && quarter >= here - 0.1);
    assert_true(untold < here - 0.3 && wrongly < here - 0.3);
    refused(folder, -1, "rate must be above 0");
    refused(folder, 1e7, "rate must be a number from");
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

static void others_have_no_rate(void **state) {
    (void)state;
    static const char *const sets[] = {
        "task=tones",   "width=8",        "layers=1",           "batch=2", "steps=1", "warmup=0",
        "eval_every=0", "eval_batches=1", "checkpoint_every=0", NULL};
    char folder[64];
    assert_int_equal(kr_test_folder_make(folder), 0);
    train(folder, sets);
    refused(folder, 2, "mixer mamba1 is no system in continuous time");
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

/* ---- numbers ---- */

static double square_error(const char *folder, const char *task, const char *const *sets, int n) {
    krait_eval_options o = KRAIT_EVAL_OPTIONS_INIT;
    krait_eval_result r;
    krait_error e;
    krait_model *m = open_at(folder, 1, &e);
    if (!m) fail_msg("%s", e.message);
    o.task = task;
    o.sets = sets;
    o.n_sets = n;
    o.examples = 200;
    if (krait_eval(m, &o, &r, &e) < 0) fail_msg("%s", e.message);
    assert_true(isnan(r.accuracy) && isnan(r.accuracy_whole) && r.questions == 200);
    double loss = r.loss;
    o.task = "tones";
    o.n_sets = 0;
    assert_true(krait_eval(m, &o, &r, &e) < 0);
    printf("%s: square error %.4f; %s\n", task, loss, e.message);
    assert_non_null(strstr(e.message, "numbers"));
    krait_model_close(&m);
    return loss;
}

/* At each row. A model that says 0 is off by the mean square of the signal, 0.25 and more. */
static void a_delay_is_learned(void **state) {
    (void)state;
    static const char *const sets[] = {"task=delay",
                                       "length=64",
                                       "lag=8",
                                       "cutoff=0.15",
                                       "mixer=lru",
                                       "state=32",
                                       "width=24",
                                       "layers=1",
                                       "batch=16",
                                       "steps=300",
                                       "warmup=20",
                                       "eval_every=0",
                                       "eval_batches=4",
                                       "learning_rate=0.01",
                                       "checkpoint_every=0",
                                       "weight_decay=0",
                                       "min_learning_rate=0",
                                       NULL};
    char folder[64];
    assert_int_equal(kr_test_folder_make(folder), 0);
    train(folder, sets);
    assert_true(square_error(folder, "delay", sets + 1, 3) < 0.05);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

/* One number for all rows, both ways, dropped and normed as the settings say. Saying 1 is off by
 * 1/6. */
static void adding_is_learned(void **state) {
    (void)state;
    static const char *const sets[] = {"task=adding",
                                       "length=40",
                                       "mixer=lru",
                                       "bidirectional=true",
                                       "norm=layernorm",
                                       "state=16",
                                       "channel_mixer=mlp",
                                       "dropout=0.02",
                                       "width=24",
                                       "layers=1",
                                       "batch=32",
                                       "steps=300",
                                       "warmup=20",
                                       "eval_every=0",
                                       "eval_batches=4",
                                       "learning_rate=0.01",
                                       "checkpoint_every=0",
                                       "weight_decay=0",
                                       "min_learning_rate=0",
                                       NULL};
    char folder[64];
    assert_int_equal(kr_test_folder_make(folder), 0);
    train(folder, sets);
    assert_true(square_error(folder, "adding", sets + 1, 1) < 0.05);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(another_rate_is_the_same_system),
                                       cmocka_unit_test(others_have_no_rate),
                                       cmocka_unit_test(a_delay_is_learned),
                                       cmocka_unit_test(adding_is_learned)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
