/* checkpoint_test.c - runs that are killed, resumed, damaged, out of disk; and memory against the
 * plan.
 *
 * Every run is a child process, so that it can be killed and its peak memory is its own. */
#define _DEFAULT_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <krait/train.h>

#include "base/test_folder.h"
#include "train/checkpoint.h"

typedef struct shared {
    char message[500], plan[16384], notes[4096];
    int64_t checkpoints, last_step;
    double seconds;
} shared;

typedef struct job {
    const char *out;
    const char *sets[24];
    int64_t n_sets;
    bool resume;
    int64_t kill_at;      /* step after whose event the process kills itself */
    int64_t stop_at;      /* step after which the callback asks to stop */
    int64_t full_disk_at; /* step after which no file may grow */
    pid_t pid;
    long peak_kib;
} job;

static shared *told; /* by the last child */
static char folder[64], text[80];

static int on_event(void *user, const krait_train_event *event) {
    const job *j = user;
    if (event->kind == KRAIT_EVENT_PLAN) snprintf(told->plan, sizeof told->plan, "%s", event->text);
    if (event->kind == KRAIT_EVENT_CHECKPOINT) told->checkpoints++;
    if (event->kind == KRAIT_EVENT_NOTE) {
        size_t used = strlen(told->notes);
        snprintf(told->notes + used, sizeof told->notes - used, "%s\n", event->text);
    }
    if (event->kind != KRAIT_EVENT_STEP) return 0;
    told->last_step = event->step;
    if (event->step == j->kill_at) raise(SIGKILL);
    if (event->step == j->full_disk_at) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){30000, 30000});
    }
    return event->step == j->stop_at;
}

static void child(job *j) {
    const char *const data[] = {text};
    krait_train_options o = KRAIT_TRAIN_OPTIONS_INIT;
    krait_error e = {0};
    o.recipe = KR_SOURCE_DIR "/recipes/tiny.json";
    o.data = data;
    o.n_data = 1;
    o.out = j->out;
    o.resume = j->resume;
    o.sets = j->sets;
    o.n_sets = j->n_sets;
    o.threads = 1;
    o.on_event = on_event;
    o.user = j;
    int rc = krait_train(&o, &e);
    snprintf(told->message, sizeof told->message, "%s", rc < 0 ? e.message : "");
    _exit(rc < 0 ? -rc : 0);
}

static void start(job *j) {
    memset(told, 0, sizeof *told);
    fflush(NULL);
    j->pid = fork();
    assert_true(j->pid >= 0);
    if (j->pid == 0) child(j);
}

/* Exit status, or -1 when killed. */
static int end(job *j) {
    int status;
    struct rusage usage;
    assert_int_equal(wait4(j->pid, &status, 0, &usage), j->pid);
    j->peak_kib = usage.ru_maxrss;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int run(job *j) {
    start(j);
    return end(j);
}

static void must_succeed(job *j) {
    if (run(j) != 0) fail_msg("%s", told->message);
}

static void assert_same_run(const char *a, const char *b) {
    static const char *const names[] = {"model.safetensors", "log.jsonl",
                                        "checkpoints/step-60/state.safetensors"};
    for (int i = 0; i < 3; i++)
        assert_true(kr_test_same_files(kr_test_path(a, names[i]), kr_test_path(b, names[i])));
}

#define FEATURES                                                                                   \
    "steps=60", "carry_state=true", "accumulate=2", "sample_every=20", "sample_tokens=20",         \
        "outlier=4", "eval_every=15", "checkpoint_every=10", "log_every=3"

static void resumed_equals_uninterrupted(void **state) {
    (void)state;
    job whole = {.out = kr_test_path(folder, "whole"), .sets = {FEATURES}, .n_sets = 9};
    job cut = whole;
    cut.out = kr_test_path(folder, "cut");
    must_succeed(&whole);
    cut.kill_at = 37;
    assert_int_equal(run(&cut), -1);
    cut.kill_at = 0;
    cut.resume = true;
    must_succeed(&cut);
    assert_non_null(strstr(told->notes, "step-30"));
    assert_same_run(whole.out, cut.out);
}

static void stopped_by_the_callback(void **state) {
    (void)state;
    job j = {.out = kr_test_path(folder, "stopped"),
             .sets = {FEATURES},
             .n_sets = 9,
             .stop_at = 23};
    assert_int_equal(run(&j), -KRAIT_ERR_CANCELLED);
    print_message("  %s\n", told->message);
    j.stop_at = 0;
    j.resume = true;
    must_succeed(&j);
    assert_same_run(kr_test_path(folder, "whole"), j.out);
}

static void refuses_another_run(void **state) {
    (void)state;
    job j = {.out = kr_test_path(folder, "whole"), .sets = {FEATURES}, .n_sets = 9};
    assert_int_equal(run(&j), -KRAIT_ERR_ARGUMENT);
    print_message("  %s\n", told->message);
    assert_non_null(strstr(told->message, "already holds a run"));
    j.resume = true;
    j.sets[j.n_sets++] = "width=64";
    assert_int_equal(run(&j), -KRAIT_ERR_MISMATCH);
    print_message("  %s\n", told->message);
    assert_non_null(strstr(told->message, "width"));
}

static bool exists(const char *out, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", out, name);
    struct stat st;
    return stat(path, &st) == 0;
}

static void flip_byte(const char *out, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", out, name);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, -100, SEEK_END);
    int c = fgetc(f);
    fseek(f, -1, SEEK_CUR);
    fputc(c ^ 1, f);
    fclose(f);
}

static void falls_back_when_damaged(void **state) {
    (void)state;
    const char *out = kr_test_path(folder, "cut");
    job j = {.out = out, .sets = {FEATURES}, .n_sets = 9, .resume = true};
    assert_true(exists(out, "checkpoints/step-40") && exists(out, "checkpoints/step-60"));
    assert_false(exists(out, "checkpoints/step-30")); /* the last three are kept */
    flip_byte(out, "checkpoints/step-60/model.safetensors");
    assert_int_equal(truncate(kr_test_path(folder, "cut/checkpoints/step-50/state.safetensors"),
                              5000),
                     0);
    must_succeed(&j);
    print_message("  %s", told->notes);
    assert_non_null(strstr(told->notes, "damaged"));
    assert_non_null(strstr(told->notes, "resuming from"));
    assert_non_null(strstr(told->notes, "step-40"));
    assert_same_run(kr_test_path(folder, "whole"), out);
    for (int step = 40; step <= 60; step += 10) {
        char name[64];
        snprintf(name, sizeof name, "checkpoints/step-%d/state.json", step);
        flip_byte(out, name);
    }
    assert_int_equal(run(&j), -KRAIT_ERR_FORMAT);
    print_message("  %s\n", told->message);
    assert_non_null(strstr(told->message, "no checkpoint is whole"));
}

/* A damaged newest one does not push out the whole one that the run goes on from. */
static void damaged_ones_do_not_count(void **state) {
    (void)state;
    job j = {.out = kr_test_path(folder, "few"), .sets = {FEATURES, "keep=2"}, .n_sets = 10};
    must_succeed(&j);
    assert_true(exists(j.out, "checkpoints/step-50") && exists(j.out, "checkpoints/step-60"));
    flip_byte(j.out, "checkpoints/step-60/model.safetensors");
    j.sets[9] = "keep=1";
    j.resume = true;
    j.stop_at = 53;
    assert_int_equal(run(&j), -KRAIT_ERR_CANCELLED);
    assert_true(exists(j.out, "checkpoints/step-53"));
    assert_false(exists(j.out, "checkpoints/step-60"));
    j.stop_at = 0;
    must_succeed(&j);
    assert_non_null(strstr(told->notes, "step-53"));
    assert_same_run(kr_test_path(folder, "whole"), j.out);
}

static void full_disk_keeps_the_old(void **state) {
    (void)state;
    job j = {.out = kr_test_path(folder, "full"),
             .sets = {FEATURES},
             .n_sets = 9,
             .full_disk_at = 12};
    assert_int_equal(run(&j), -KRAIT_ERR_IO);
    print_message("  %s\n", told->message);
    assert_null(strchr(told->message, '\n'));
    assert_true(exists(j.out, "checkpoints/step-10"));
    assert_false(exists(j.out, "checkpoints/step-20"));
    assert_false(exists(j.out, "checkpoints/step-20.tmp"));
    j.full_disk_at = 0;
    j.resume = true;
    must_succeed(&j);
    assert_same_run(kr_test_path(folder, "whole"), j.out);
}

static void wait_a_while(long microseconds) {
    nanosleep(&(struct timespec){0, microseconds * 1000}, NULL);
}

/* Kills while checkpoints are written, one after each step; there is always one that loads. */
static void killed_a_hundred_times(void **state) {
    (void)state;
    job j = {.out = kr_test_path(folder, "killed"),
             .sets = {"steps=100000", "checkpoint_every=1", "batch=1", "window=8", "eval_every=0",
                      "held_out=0", "keep=2"},
             .n_sets = 7,
             .resume = true};
    int64_t newest = 0, half_written = 0;
    srand(1);
    for (int i = 0; i < 100; i++) {
        char path[512] = "", note[512];
        krait_error e = {0};
        start(&j);
        for (int ms = 0; ms < 20000 && told->checkpoints < 1; ms++) wait_a_while(1000);
        wait_a_while(rand() % 12000);
        kill(j.pid, SIGKILL);
        assert_int_equal(end(&j), -1);
        if (kr_checkpoint_find(j.out, path, sizeof path, note, sizeof note, &e) < 0)
            fail_msg("%s", e.message);
        assert_string_equal(note, ""); /* the newest one was whole */
        kr_checkpoint c;
        kr_weights w = {0};
        assert_int_equal(kr_checkpoint_load(path, &c, &w, &e), 0);
        kr_weights_free(&w);
        assert_true(c.step > newest);
        newest = c.step;
        char next[64];
        snprintf(next, sizeof next, "checkpoints/step-%lld.tmp", (long long)c.step + 1);
        half_written += exists(j.out, next);
    }
    print_message("  killed 100 times, %lld of them inside a checkpoint; %lld steps\n",
                  (long long)half_written, (long long)newest);
    assert_true(half_written > 0);
}

static double planned_mib(void) {
    const char *at = strstr(told->plan, "in all");
    assert_non_null(at);
    return strtod(at + 6, NULL);
}

static void check_memory(const job *j, const char *what) {
    double peak = (double)j->peak_kib / 1024, plan = planned_mib();
    print_message("  %s: planned %.1f MiB, peak %.1f MiB: %+.1f%%\n", what, plan, peak,
                  100 * (peak / plan - 1));
    assert_true(fabs(peak / plan - 1) <= 0.10);
}

/* The sanitizers keep memory of their own beside the program's: nothing can be said there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { sanitized = 1 };
#else
enum { sanitized = 0 };
#endif

static void memory_is_as_planned(void **state) {
    (void)state;
    if (sanitized) {
        print_message("  skipped: a sanitizer's memory is in the way\n");
        skip();
    }
    static const char *const sizes[][4] = {
        {"width=128", "layers=4", "batch=8", "window=128"},
        {"width=192", "layers=3", "batch=16", "window=192"},
        {"width=512", "layers=4", "batch=1", "window=64"},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char name[32];
        snprintf(name, sizeof name, "memory%zu", i);
        job j = {.out = kr_test_path(folder, name),
                 .sets = {"steps=2", "warmup=1", "carry_state=true"}};
        j.n_sets = 3;
        for (int k = 0; k < 4; k++) j.sets[j.n_sets++] = sizes[i][k];
        must_succeed(&j);
        check_memory(&j, "fresh");
        j.resume = true;
        j.sets[0] = "steps=3";
        must_succeed(&j);
        check_memory(&j, "resumed");
    }
}

/* A copy of a source file, so that nobody edits the data while runs are compared. */
static int copy_text(void) {
    kr_map map;
    krait_error e;
    snprintf(text, sizeof text, "%s/text.txt", folder);
    FILE *f = fopen(text, "wb");
    if (!f || kr_map_open(&map, KR_SOURCE_DIR "/src/train/recipe.c", &e) < 0) return -1;
    size_t written = fwrite(map.data, 1, map.size, f);
    kr_map_close(&map);
    return fclose(f) == 0 && written > 10000 ? 0 : -1;
}

static int set_up(void **state) {
    (void)state;
    told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return kr_test_folder_make(folder) == 0 && told != MAP_FAILED ? copy_text() : -1;
}

static int tear_down(void **state) {
    (void)state;
    return kr_test_folder_drop(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_as_planned),      cmocka_unit_test(resumed_equals_uninterrupted),
        cmocka_unit_test(stopped_by_the_callback),   cmocka_unit_test(refuses_another_run),
        cmocka_unit_test(damaged_ones_do_not_count), cmocka_unit_test(falls_back_when_damaged),
        cmocka_unit_test(full_disk_keeps_the_old),   cmocka_unit_test(killed_a_hundred_times),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
