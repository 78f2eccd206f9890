/* train_room_test.c - settings that are said to make a run fit do: they are opened, and take no
 * more than was free. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/test_folder.h"
#include "device/test_gpu.h"
#include "train/trainer.h"

enum { MOST_SETS = 24 };

static char folder[64], text[80];

/* A run with its settings: those of the test, then those advised. */
typedef struct run {
    kr_trainer t;
    const char *sets[MOST_SETS];
    int n;
} run;

static void open_run(run *r, const char *device) {
    static int runs;
    char out[100];
    const char *data[] = {text};
    krait_train_options o = KRAIT_TRAIN_OPTIONS_INIT;
    krait_error e;
    bool task = strncmp(r->sets[0], "task=", 5) == 0;
    snprintf(out, sizeof out, "%s/%d", folder, runs++);
    o.device = device;
    o.out = out;
    o.data = task ? NULL : data;
    o.n_data = task ? 0 : 1;
    o.sets = r->sets;
    o.n_sets = r->n;
    o.threads = 1;
    if (kr_trainer_open(&r->t, &o, &e) < 0) fail_msg("%s", e.message);
}

/* more, and_more: NULL, or one setting each. */
static size_t bytes_of(const char *const *sets, const char *more, const char *and_more,
                       const char *device) {
    run r = {.n = 0};
    while (sets[r.n]) {
        r.sets[r.n] = sets[r.n];
        r.n++;
    }
    if (more) r.sets[r.n++] = more;
    if (and_more) r.sets[r.n++] = and_more;
    open_run(&r, device);
    size_t bytes = kr_trainer_bytes(&r.t);
    kr_trainer_close(&r.t);
    return bytes;
}

/* What a run of `sets` is told that has `left` bytes: opened as advised, it takes no more. Returns
 * what it takes; 0: nothing was said to fit. */
static size_t follow(const char *const *sets, size_t left, const char *device, char advice[500]) {
    run r = {.n = 0};
    krait_error e;
    while (sets[r.n]) {
        r.sets[r.n] = sets[r.n];
        r.n++;
    }
    open_run(&r, device);
    assert_int_equal(kr_trainer_fits(&r.t, SIZE_MAX, &e), 0);
    assert_int_equal(kr_trainer_fits(&r.t, left, &e), KRAIT_ERR_MEMORY);
    kr_trainer_close(&r.t);
    memcpy(advice, e.message, 500);
    print_message("  %s\n", e.message);
    int given = r.n;
    char *word = strtok(strstr(e.message, "; "), " ");
    for (; word; word = strtok(NULL, " "))
        if (strchr(word, '=')) r.sets[r.n++] = word;
    if (r.n == given) return 0;
    open_run(&r, device);
    size_t bytes = kr_trainer_bytes(&r.t);
    assert_int_equal(kr_trainer_fits(&r.t, left, &e), 0);
    kr_trainer_close(&r.t);
    return bytes;
}

static const char *const of_text[] = {"layers=3", "width=32", "batch=9", "window=700",
                                      "steps=1",  "warmup=0", NULL};
static const char *const of_task[] = {
    "task=selective_copying", "layers=1", "width=32", "batch=60", "steps=1", "warmup=0",
    "eval_batches=50",        NULL};

/* 9 sequences have parts of 3, which no power of two finds. */
static void any_part_of_a_batch(const char *device) {
    char advice[500];
    size_t three = bytes_of(of_text, "batch=3", NULL, device);
    assert_true(three < bytes_of(of_text, "recompute=true", NULL, device));
    assert_int_equal(follow(of_text, three, device, advice), three);
    assert_non_null(strstr(advice, "fits with --set batch=3 --set accumulate=3"));
    size_t recomputed = bytes_of(of_text, "recompute=true", NULL, device);
    assert_int_equal(follow(of_text, recomputed, device, advice), recomputed);
    assert_string_equal(strstr(advice, "; "), "; it fits with --set recompute=true");
}

/* Less than one sequence takes, then less than anything. */
static void a_shorter_window(const char *device) {
    char advice[500];
    size_t one = bytes_of(of_text, "batch=1", "recompute=true", device);
    assert_true(follow(of_text, one - 1, device, advice) > 0);
    assert_non_null(strstr(advice, "batch=1 "));
    assert_non_null(strstr(advice, "window="));
    assert_int_equal(follow(of_text, 1000, device, advice), 0);
    assert_non_null(strstr(advice, "a smaller model is needed"));
}

/* Whatever is free, the batch that is advised fits with its evaluation, which may not find room in
 * the memory of fewer sequences. */
static void evaluation_counts(const char *device) {
    char advice[500];
    size_t whole = bytes_of(of_task, NULL, NULL, device),
           least = bytes_of(of_task, "batch=1", NULL, device);
    int followed = 0;
    for (int i = 1; i < 8; i++)
        followed +=
            follow(of_task, whole - 1 - (whole - least) / 8 * (size_t)i, device, advice) > 0;
    assert_true(followed > 0);
    assert_int_equal(follow(of_task, 1000, device, advice), 0);
    assert_null(strstr(advice, "window"));
}

static void on_the_cpu(void **state) {
    (void)state;
    any_part_of_a_batch("cpu");
    a_shorter_window("cpu");
    evaluation_counts("cpu");
}

static void on_the_gpu(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    any_part_of_a_batch("cuda");
    a_shorter_window("cuda");
    evaluation_counts("cuda");
}

static int set_up(void **state) {
    (void)state;
    if (kr_test_folder_make(folder) < 0) return -1;
    snprintf(text, sizeof text, "%s/text.txt", folder);
    FILE *f = fopen(text, "wb");
    for (int i = 0; f && i < 12000; i++) fprintf(f, "line %d\n", i);
    return f && fclose(f) == 0 ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    return kr_test_folder_drop(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_the_cpu),
        cmocka_unit_test(on_the_gpu),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
