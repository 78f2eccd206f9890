/* failed_step_test.c - a step that fails says why: the error of what was fetched, and where in a
 * head, or in which micro-batch, a number stopped being one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/test_folder.h"
#include "train/trainer.h"

static char folder[64];

/* ---- fetching fails: linked in place of kr_graph_fetch ---- */

static bool fetching_fails;
const void *__real_kr_graph_fetch(kr_graph *g, kr_value *v, krait_error *e);
const void *__wrap_kr_graph_fetch(kr_graph *g, kr_value *v, krait_error *e);
const void *__wrap_kr_graph_fetch(kr_graph *g, kr_value *v, krait_error *e) {
    if (!fetching_fails) return __real_kr_graph_fetch(g, v, e);
    kr_fail(e, KRAIT_ERR_UNSUPPORTED, "copying: the card fell off");
    return NULL;
}

static void open_run(kr_trainer *t, const char *const *sets) {
    static int runs;
    const char *const data[] = {KR_SOURCE_DIR "/src/base/err.c"};
    char out[100];
    krait_train_options o = KRAIT_TRAIN_OPTIONS_INIT;
    krait_error e;
    bool task = strncmp(sets[0], "task=", 5) == 0;
    snprintf(out, sizeof out, "%s/%d", folder, runs++);
    o.out = out;
    o.data = task ? NULL : data;
    o.n_data = task ? 0 : 1;
    o.sets = sets;
    while (sets[o.n_sets]) o.n_sets++;
    if (kr_trainer_open(t, &o, &e) < 0) fail_msg("%s", e.message);
}

static void is_what_failed(int rc, const krait_error *e) {
    assert_int_equal(rc, KRAIT_ERR_UNSUPPORTED);
    assert_string_equal(e->message, "copying: the card fell off");
}

static void fails_for_its_own_reason(void **state) {
    (void)state;
    static const char *const sets[] = {"layers=1", "width=16",       "batch=1",  "window=32",
                                       "steps=3",  "sample_every=1", "warmup=0", NULL};
    static const int32_t ids[] = {1, 2, 3, 4};
    const int32_t *documents[] = {ids};
    const int64_t counts[] = {4};
    krait_trainer_options o = KRAIT_TRAINER_OPTIONS_INIT;
    krait_trainer *by_hand;
    krait_error e;
    kr_trainer t;
    kr_step_result r;
    open_run(&t, sets);
    if (krait_trainer_create(&by_hand, t.model, &o, &e) < 0) fail_msg("%s", e.message);
    fetching_fails = true;
    is_what_failed(kr_trainer_step(&t, &r, &e), &e);
    is_what_failed(kr_trainer_evaluate(&t, &e), &e);
    is_what_failed(kr_trainer_sample(&t, &e), &e);
    is_what_failed(krait_trainer_backward(by_hand, documents, counts, 1, NULL, &e), &e);
    fetching_fails = false;
    assert_int_equal(kr_trainer_step(&t, &r, &e), 0);
    krait_trainer_close(&by_hand);
    kr_trainer_close(&t);
}

/* ---- where a number stopped being one ---- */

static void poison(const kr_trainer *t, const char *weight, int64_t at) {
    const kr_tensor *w = kr_weights_find(&t->model->weights, weight);
    assert_non_null(w);
    ((float *)w->data)[at] = NAN;
}

static void fails_at(kr_trainer *t, const char *where) {
    krait_error e;
    kr_step_result r;
    assert_int_equal(kr_trainer_step(t, &r, &e), KRAIT_ERR_NUMERIC);
    print_message("  %s\n", e.message);
    if (!strstr(e.message, where)) fail_msg("\"%s\" is not there", where);
    kr_trainer_close(t);
}

/* A task's head runs on picked rows only, and here on fewer than were planned. */
static void found_in_the_head(void **state) {
    (void)state;
    static const char *const sets[] = {"task=listops", "layers=1", "width=16",
                                       "batch=2",      "steps=3",  "shortest=20",
                                       "longest=40",   "warmup=0", NULL};
    kr_trainer t;
    open_run(&t, sets);
    poison(&t, "head.weight", 3);
    fails_at(&t, "first in lm_head, output");
}

/* Rows of `width`: each row's sign alternates, or the sign along each row. */
static void fill_weight(const kr_trainer *t, const char *weight, int64_t width, bool along,
                        float value) {
    const kr_tensor *w = kr_weights_find(&t->model->weights, weight);
    assert_non_null(w);
    for (int64_t i = 0; i < kr_tensor_count(w); i++)
        ((float *)w->data)[i] = (along ? i : i / width) % 2 ? value : -value;
}

/* A byte that the first micro-batch of step 1 has and the second has not. */
static int32_t only_in_the_first(const char *const *sets, int64_t window) {
    kr_trainer t;
    kr_step_result r;
    krait_error e;
    open_run(&t, sets);
    assert_int_equal(kr_trainer_step(&t, &r, &e), 0);
    int32_t id = -1;
    for (int64_t i = 0; i < window && id < 0; i++) {
        id = t.batches.ids[i];
        for (int64_t k = window; k < 2 * window; k++)
            if (t.batches.ids[k] == id) id = -1;
    }
    kr_trainer_close(&t);
    return id;
}

/* The loss is a number, its gradient is none in the first micro-batch alone: a row of zeros there
 * goes into the last norm, which divides the gradient by the root of its eps; that of a huge head
 * then overflows. All logits are zero: the head's rows and what is normed are orthogonal. */
static void found_in_an_earlier_micro_batch(void **state) {
    (void)state;
    static const char *const sets[] = {"layers=1", "width=16",     "batch=1",
                                       "window=4", "accumulate=2", "steps=3",
                                       "warmup=0", "tied=false",   NULL};
    enum { WIDTH = 16, INNER = 32 };
    kr_trainer t;
    int32_t id = only_in_the_first(sets, 4);
    assert_true(id >= 0);
    open_run(&t, sets);
    fill_weight(&t, "backbone.layers.0.mixer.out_proj.weight", INNER, true, 0);
    fill_weight(&t, "lm_head.weight", WIDTH, false, 2e37f);
    fill_weight(&t, "backbone.embeddings.weight", WIDTH, true, 1);
    const kr_tensor *w = kr_weights_find(&t.model->weights, "backbone.embeddings.weight");
    memset((float *)w->data + id * WIDTH, 0, WIDTH * sizeof(float));
    fails_at(&t, "first in backbone.norm_f, output 0 of rmsnorm_grad");
}

static int set_up(void **state) {
    (void)state;
    return kr_test_folder_make(folder);
}

static int tear_down(void **state) {
    (void)state;
    return kr_test_folder_drop(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fails_for_its_own_reason),
        cmocka_unit_test(found_in_the_head),
        cmocka_unit_test(found_in_an_earlier_micro_batch),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
