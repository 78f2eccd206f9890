/* train_gpu_test.c - a model on the GPU beside the same one on the CPU: losses, gradients, logits
 * and whole runs; two runs, a resumed run, a killed one, and recomputation give the same bytes.
 * Says "skipped" where there is no GPU. */
#define _DEFAULT_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <krait/train.h>

#include "base/test_folder.h"
#include "base/test_worst.h"
#include "base/mem.h"
#include "base/rng.h"
#include "device/test_gpu.h"
#include "mixers/mixer.h"
#include "models/lm.h"
#include "train/lane_states.h"
#include "train/nan_report.h"
#include "train/optimiser.h"

enum { TOKENS = 150, SEQUENCES = 3, WIDTH = 48, LAYERS = 3, VOCABULARY = 300, PARAMS = 200 };

/* ---- one step of a small model --------------------------------------------------------------- */

typedef struct small {
    kr_config c;
    kr_weights w;
    kr_lm lm;
    kr_lane_states states;
    kr_optimiser optimiser;
    int32_t ids[TOKENS], targets[TOKENS];
    float seed[TOKENS];
    uint8_t reset[TOKENS];
    int64_t seqs[SEQUENCES][3];
} small;

/* Three ragged sequences, the last one empty; a document begins in the first. */
static void fill(small *s) {
    kr_rng r = kr_rng_make(3, 1);
    for (int i = 0; i < TOKENS; i++) {
        s->ids[i] = (int32_t)(kr_rng_uniform(&r) * VOCABULARY);
        s->targets[i] = i % 7 == 3 ? -1 : (int32_t)(kr_rng_uniform(&r) * VOCABULARY);
        s->seed[i] = 1.0f / TOKENS;
        s->reset[i] = i == 40;
    }
    const int64_t seqs[SEQUENCES][3] = {{0, 101, 1}, {101, 49, 0}, {150, 0, 2}};
    memcpy(s->seqs, seqs, sizeof seqs);
}

static void bind(small *s, kr_value *v, void *data) {
    krait_error e;
    if (!v) return;
    const kr_tensor *like = kr_value_tensor(v);
    kr_tensor t = kr_tensor_make(data, like->dtype, like->rank, like->shape);
    kr_ok(kr_graph_bind(s->lm.g, v, &t, &e), &e);
}

static small *build_mixer(kr_graph_options g, bool training, const char *mixer,
                          const char *settings) {
    krait_error e;
    small *s = kr_calloc(1, sizeof *s);
    g.training = training;
    g.cast = g.half;
    kr_lm_options o = {.graph = g,
                       .tokens = TOKENS,
                       .sequences = SEQUENCES,
                       .slots = SEQUENCES,
                       .reset = true,
                       .loss = training};
    kr_ok(kr_config_make(&s->c, mixer, WIDTH, LAYERS, VOCABULARY, settings, &e), &e);
    fill(s);
    kr_ok(kr_lm_init_weights(&s->c, 7, &s->w, &e), &e);
    kr_weights_sort(&s->w);
    kr_ok(kr_lm_build(&s->lm, &s->c, &o, &e), &e);
    if (g.level != KR_LEVEL_CUDA) kr_ok(kr_lm_bind_weights(&s->lm, &s->w, &e), &e);
    kr_ok(kr_graph_plan(s->lm.g, &e), &e);
    kr_ok(kr_graph_allocate(s->lm.g, &e), &e);
    kr_ok(kr_lane_states_create(&s->states, &s->lm, true, &e), &e);
    bind(s, s->lm.ids, s->ids);
    bind(s, s->lm.targets, s->targets);
    bind(s, s->lm.seed, s->seed);
    bind(s, s->lm.reset, s->reset);
    bind(s, s->lm.seqs, s->seqs);
    return s;
}

static small *build(kr_graph_options g, bool training) {
    return build_mixer(g, training, "mamba1", NULL);
}

static void drop(small *s) {
    kr_optimiser_free(&s->optimiser);
    kr_lane_states_free(&s->states);
    kr_lm_free(&s->lm);
    kr_weights_free(&s->w);
    kr_free(s);
}

/* Two windows: the second one begins in the states of the first. Returns the mean loss. */
static double step(small *s) {
    krait_error e;
    double sum = 0;
    if (!s->optimiser.g) kr_ok(kr_optimiser_create(&s->optimiser, s->lm.g, &s->w, 1, &e), &e);
    kr_graph_zero_gradients(s->lm.g);
    for (int window = 0; window < 2; window++) {
        kr_ok(kr_graph_run(s->lm.g, TOKENS, 0, &e), &e);
        const float *nll = kr_graph_fetch(s->lm.g, s->lm.nll, &e);
        kr_ok(nll ? 0 : -1, &e);
        for (int i = 0; i < TOKENS; i++) sum += (double)nll[i] / TOKENS / 2;
        kr_ok(kr_lane_states_swap(&s->states, &e), &e);
    }
    return sum;
}

static const float *gradient(small *s, int i, int64_t *n, const char **name) {
    krait_error e;
    const kr_param_decl *d;
    kr_value *v = kr_graph_gradient(s->lm.g, kr_graph_param_at(s->lm.g, i, &d));
    *n = kr_tensor_count(kr_value_tensor(v));
    *name = d->name;
    const float *g = kr_graph_fetch(s->lm.g, v, &e);
    kr_ok(g ? 0 : -1, &e);
    return g;
}

/* |a - b| / |a| of parameter p's gradients; *most: the largest difference of one element, relative
 * to the largest there. */
static double distance(small *a, small *b, int p, const char **name, double *most) {
    int64_t n;
    const float *x = gradient(a, p, &n, name), *y = gradient(b, p, &n, name);
    double sum = 0, size = 0, gap = 0, top = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)x[i] - (double)y[i];
        sum += d * d;
        size += (double)x[i] * (double)x[i];
        gap = kr_worst(gap, fabs(d));
        top = fmax(top, fabs((double)x[i]));
    }
    assert_true(size > 0);
    *most = gap / top;
    return sqrt(sum / size);
}

/* The worst parameter's distance. */
static double gradients_differ(small *a, small *b, double *most) {
    double worst = 0;
    const char *name, *where = "";
    *most = 0;
    for (int p = 0; p < kr_graph_param_count(a->lm.g); p++) {
        double one, d = distance(a, b, p, &name, &one);
        *most = kr_worst(*most, one);
        if (!(d <= worst)) where = name;
        worst = kr_worst(worst, d);
    }
    print_message("  gradients: %.2g of their norm apart (%s), one element %.2g\n", worst, where,
                  *most);
    return worst;
}

static kr_graph_options on_cpu(void) {
    kr_graph_options o = {.threads = 1};
    krait_error e;
    kr_ok(kr_device_level(&o.level, &e), &e);
    return o;
}

static kr_graph_options on_gpu(bool half, int recompute) {
    return (kr_graph_options){.threads = 1,
                              .level = KR_LEVEL_CUDA,
                              .half = half,
                              .recompute = recompute};
}

static void f32_gives_what_the_cpu_gives(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    small *cpu = build(on_cpu(), true), *gpu = build(on_gpu(false, 0), true);
    double a = step(cpu), b = step(gpu), most;
    print_message("  loss %.9f and %.9f\n", a, b);
    assert_true(fabs(a - b) <= 1e-5 * a);
    assert_true(gradients_differ(cpu, gpu, &most) <= 1e-3 && most <= 1e-3);
    drop(cpu);
    drop(gpu);
}

static void bf16_is_close(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    small *cpu = build(on_cpu(), true), *gpu = build(on_gpu(true, 0), true);
    double a = step(cpu), b = step(gpu), most;
    print_message("  loss %.9f and %.9f\n", a, b);
    assert_true(fabs(a - b) <= 2e-3 * a);
    assert_true(gradients_differ(cpu, gpu, &most) <= 0.05);
    drop(cpu);
    drop(gpu);
}

/* Every weight by up to the distance of two bf16 numbers. */
static void shake(small *s, uint64_t seed) {
    kr_rng r = kr_rng_make(seed, 3);
    for (int64_t i = 0; i < s->w.count; i++) {
        float *x = s->w.items[i].tensor.data;
        for (int64_t k = 0; k < kr_tensor_count(&s->w.items[i].tensor); k++)
            x[k] *= 1 + (float)(2 * kr_rng_uniform(&r) - 1) / 256;
    }
}

/* How far bf16 may be from f32: 5%, and twice as far as f32 is from itself when the weights are
 * shaken. The small mixers here have gradients that bf16 hardly tells from nothing: a head's norm
 * of a query times a key near zero, a rate whose share of the loss is 1e-5. */
static void noise(small *cpu, const char *mixer, const char *settings, double most[PARAMS]) {
    assert_true(kr_graph_param_count(cpu->lm.g) <= PARAMS);
    for (uint64_t seed = 1; seed <= 4; seed++) {
        small *shaken = build_mixer(on_cpu(), true, mixer, settings);
        shake(shaken, seed);
        step(shaken);
        for (int p = 0; p < kr_graph_param_count(cpu->lm.g); p++) {
            const char *name;
            double one;
            most[p] = fmax(most[p], 0.05 + 2 * distance(cpu, shaken, p, &name, &one));
        }
        drop(shaken);
    }
}

/* How many parameters of a mixer's model are too far from the CPU's, in f32 or bf16. */
static int check_mixer(const char *mixer, const char *settings) {
    small *cpu = build_mixer(on_cpu(), true, mixer, settings);
    double a = step(cpu), most[PARAMS] = {0}, one;
    int far = 0;
    noise(cpu, mixer, settings, most);
    for (int half = 0; half < 2; half++) {
        small *gpu = build_mixer(on_gpu(half, 1), true, mixer, settings);
        double b = step(gpu);
        print_message("  %s %s %s: loss %.9f and %.9f\n", mixer, settings, half ? "bf16" : "f32", a,
                      b);
        far += !(fabs(a - b) <= (half ? 2e-3 : 1e-5) * a);
        gradients_differ(cpu, gpu, &one);
        for (int p = 0; p < kr_graph_param_count(cpu->lm.g); p++) {
            const char *name;
            double limit = half ? most[p] : 1e-3, d = distance(cpu, gpu, p, &name, &one);
            if (d <= limit) continue;
            print_message("  TOO FAR: %s, %.2g (limit %.2g)\n", name, d, limit);
            far++;
        }
        drop(gpu);
    }
    drop(cpu);
    return far;
}

static void every_mixer(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    int far = 0;
    for (int i = 0; kr_mixers[i]; i++)
        for (const char *const *v = kr_mixers[i]->variants; *v; v++)
            far += check_mixer(kr_mixers[i]->name, *v);
    assert_int_equal(far, 0);
}

/* What waits for the output of a recurrence that its gradient makes again, in another order. */
static bool is_near(const char *name, const float *x, const float *y, int64_t n, bool half) {
    double apart = 0, size = 0;
    if (!strstr(name, "out_proj.weight")) return memcmp(x, y, (size_t)n * sizeof *x) == 0;
    for (int64_t i = 0; i < n; i++) {
        apart = fmax(apart, fabs((double)x[i] - (double)y[i]));
        size = fmax(size, fabs((double)x[i]));
    }
    return apart <= (half ? 4e-3 : 1e-6) * size;
}

/* Kept or computed again, launched or replayed: the same bytes, or nearly. */
static void recomputing_changes_nothing(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    for (int half = 0; half < 2; half++) {
        small *kept = build(on_gpu(half, 0), true);
        double loss = step(kept);
        for (int recompute = 1; recompute <= 2; recompute++) {
            small *again = build(on_gpu(half, recompute), true);
            for (int round = 0; round < 3; round++) { /* launched, recorded, replayed */
                krait_error e;
                kr_ok(kr_lane_states_zero(&again->states, &e), &e);
                assert_true(step(again) == loss);
                for (int p = 0; p < kr_graph_param_count(kept->lm.g); p++) {
                    int64_t n;
                    const char *name;
                    const float *x = gradient(kept, p, &n, &name);
                    assert_true(is_near(name, x, gradient(again, p, &n, &name), n, half));
                }
            }
            kr_plan_sizes a, b;
            kr_graph_sizes(kept->lm.g, &a);
            kr_graph_sizes(again->lm.g, &b);
            print_message("  %s, recomputing %d: activations of %zu bytes instead of %zu\n",
                          half ? "bf16" : "f32", recompute, b.activations, a.activations);
            assert_true(b.activations < a.activations);
            drop(again);
        }
        drop(kept);
    }
}

/* One weight is not a number: the report names it and the first op that met it. */
static void bad_numbers_are_found(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    for (int half = 0; half < 2; half++) {
        krait_error e = {0};
        const char *name = "backbone.layers.1.mixer.conv1d.bias";
        small *s = build(on_gpu(half, 1), true);
        ((float *)kr_weights_find(&s->w, name)->data)[5] = NAN;
        assert_true(isnan(step(s)));
        assert_int_equal(kr_nan_report(&s->optimiser, TOKENS, 0, "step 1", &e), KRAIT_ERR_NUMERIC);
        print_message("  %s\n", e.message);
        assert_non_null(strstr(e.message, "backbone.layers.1.mixer, output 0 of causal_conv"));
        assert_non_null(strstr(e.message, name));
        drop(s);
    }
}

/* The largest difference of two models' logits, relative to the largest logit. */
static double logits_differ(small *a, small *b) {
    krait_error e;
    double worst = 0, top = 0;
    kr_ok(kr_graph_run(a->lm.g, TOKENS, 0, &e), &e);
    kr_ok(kr_graph_run(b->lm.g, TOKENS, 0, &e), &e);
    const float *x = kr_graph_fetch(a->lm.g, a->lm.logits, &e);
    const float *y = kr_graph_fetch(b->lm.g, b->lm.logits, &e);
    kr_ok(x && y ? 0 : -1, &e);
    for (int64_t i = 0; i < TOKENS * VOCABULARY; i++) {
        worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
        top = fmax(top, fabs((double)x[i]));
    }
    return worst / top;
}

static void logits_are_the_cpus(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    for (int half = 0; half < 2; half++) {
        krait_error e;
        kr_weights there = {0};
        small *cpu = build(on_cpu(), false), *gpu = build(on_gpu(half, 0), false);
        small *owner = build(on_gpu(false, 0), true); /* has the weights there */
        kr_ok(kr_optimiser_create(&owner->optimiser, owner->lm.g, &owner->w, 1, &e), &e);
        kr_ok(kr_optimiser_view_weights(&owner->optimiser, &there, &e), &e);
        kr_ok(kr_lm_bind_weights(&gpu->lm, &there, &e), &e);
        double differ = logits_differ(cpu, gpu);
        print_message("  %s: logits %.2g apart\n", half ? "bf16" : "f32", differ);
        assert_true(differ <= (half ? 0.03 : 1e-4));
        kr_weights_free(&there);
        drop(cpu);
        drop(gpu);
        drop(owner);
    }
}

/* ---- whole runs ------------------------------------------------------------------------------ */

static char folder[64], text[80];
static volatile int64_t *reached; /* the last step, shared with children */

typedef struct run {
    const char *name, *device, *sets[12];
    bool resume;
    int64_t stop_at;
    double loss, held_out; /* the last ones */
    krait_error e;
    int rc;
} run;

static int on_event(void *user, const krait_train_event *event) {
    run *r = user;
    if (event->kind == KRAIT_EVENT_STEP) {
        r->loss = event->loss;
        *reached = event->step;
    }
    if (event->kind == KRAIT_EVENT_EVAL) r->held_out = event->loss;
    return event->kind == KRAIT_EVENT_STEP && event->step == r->stop_at;
}

static void train(run *r) {
    static const char *const sets[] = {"layers=2",      "width=32",       "batch=4",
                                       "window=64",     "steps=30",       "learning_rate=0.01",
                                       "eval_every=10", "eval_batches=2", "checkpoint_every=10",
                                       "warmup=5",      "log_every=1",    "accumulate=2"};
    enum { N = sizeof sets / sizeof *sets };
    const char *const data[] = {text}, *all[N + 12];
    char out[200];
    krait_train_options o = KRAIT_TRAIN_OPTIONS_INIT;
    snprintf(out, sizeof out, "%s/%s", folder, r->name);
    memcpy(all, sets, sizeof sets);
    for (o.n_sets = N; r->sets[o.n_sets - N]; o.n_sets++) all[o.n_sets] = r->sets[o.n_sets - N];
    o.data = data;
    o.n_data = 1;
    o.out = out;
    o.sets = all;
    o.threads = 1;
    o.resume = r->resume;
    o.device = r->device;
    o.on_event = on_event;
    o.user = r;
    r->rc = krait_train(&o, &r->e);
}

static void must_train(run *r) {
    train(r);
    kr_ok(r->rc, &r->e);
    print_message("  %s: loss %.6f, held-out %.6f\n", r->name, r->loss, r->held_out);
}

static void assert_same_run(const char *a, const char *b) {
    static const char *const names[] = {"model.safetensors", "log.jsonl",
                                        "checkpoints/step-30/state.safetensors"};
    char path_a[128], path_b[128];
    snprintf(path_a, sizeof path_a, "%s/%s", folder, a);
    snprintf(path_b, sizeof path_b, "%s/%s", folder, b);
    for (int i = 0; i < 3; i++)
        assert_true(
            kr_test_same_files(kr_test_path(path_a, names[i]), kr_test_path(path_b, names[i])));
}

static void runs_agree_with_the_cpus(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    run cpu = {.name = "cpu"};
    run f32 = {.name = "f32", .device = "cuda", .sets = {"precision=f32"}};
    run bf16 = {.name = "bf16", .device = "cuda"};
    must_train(&cpu);
    must_train(&f32);
    must_train(&bf16);
    assert_true(fabs(f32.held_out - cpu.held_out) <= 1e-4 * cpu.held_out);
    assert_true(fabs(bf16.held_out - cpu.held_out) <= 1e-2 * cpu.held_out);
}

static void runs_repeat_and_resume(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    run once = {.name = "once", .device = "cuda", .sets = {"carry_state=true"}};
    run twice = {.name = "twice", .device = "cuda", .sets = {"carry_state=true"}};
    run part = {.name = "part", .device = "cuda", .sets = {"carry_state=true"}, .stop_at = 13};
    must_train(&once);
    must_train(&twice);
    assert_same_run("once", "twice");
    train(&part);
    assert_int_equal(part.rc, KRAIT_ERR_CANCELLED);
    part.resume = true;
    part.stop_at = 0;
    must_train(&part);
    assert_same_run("once", "part");
}

static void wait_a_while(long microseconds) {
    nanosleep(&(struct timespec){0, microseconds * 1000}, NULL);
}

/* Runs in a process of its own, which is killed somewhere behind a step; false: it ended before,
 * since there is no GPU. */
static bool train_and_kill(run *r, int64_t step) {
    int status = 0;
    *reached = 0;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        train(r);
        _exit(r->rc == KRAIT_ERR_UNSUPPORTED ? 3 : 1);
    }
    while (*reached < step && waitpid(child, &status, WNOHANG) == 0) wait_a_while(100);
    if (*reached < step) {
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 3);
        return false;
    }
    wait_a_while(step * 137 % 2000);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    print_message("  killed at step %lld or %lld\n", (long long)*reached, (long long)*reached + 1);
    return true;
}

/* Must come before this process opens the GPU: what it opened is of no use to its children. */
static void killed_runs_go_on(void **state) {
    static const int64_t kills[] = {4, 12, 21};
    run cut = {.name = "cut", .device = "cuda", .sets = {"carry_state=true"}};
    run whole = {.name = "whole", .device = "cuda", .sets = {"carry_state=true"}};
    (void)state;
    for (int i = 0; i < 3; i++) {
        cut.resume = i > 0;
        if (train_and_kill(&cut, kills[i])) continue;
        print_message("  skipped: no GPU\n");
        return;
    }
    must_train(&cut);
    must_train(&whole);
    assert_same_run("whole", "cut");
}

/* A checkpoint of the GPU in f32 goes on on the CPU; one in bf16 says what it needs. */
static void checkpoints_travel(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    run there = {.name = "there", .device = "cuda", .sets = {"precision=f32"}, .stop_at = 13};
    run half = {.name = "half", .device = "cuda", .stop_at = 13};
    train(&there);
    train(&half);
    assert_int_equal(there.rc, KRAIT_ERR_CANCELLED);
    there = (run){.name = "there", .resume = true};
    must_train(&there);
    half = (run){.name = "half", .resume = true};
    train(&half);
    assert_int_equal(half.rc, KRAIT_ERR_UNSUPPORTED);
    print_message("  refused: %s\n", half.e.message);
}

static void too_large_a_plan_says_what_would_fit(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    run large = {.name = "large",
                 .device = "cuda",
                 .sets = {"width=512", "layers=24", "batch=512", "window=4096", "held_out=0"}};
    train(&large);
    assert_int_equal(large.rc, KRAIT_ERR_MEMORY);
    print_message("  refused: %s\n", large.e.message);
    assert_non_null(strstr(large.e.message, "--set batch="));
}

/* ---- the text -------------------------------------------------------------------------------- */

static int set_up(void **state) {
    static const char *const words[] = {"the ", "snake ", "reads ", "a ",   "line ",
                                        "and ", "keeps ", "what ",  "it ",  "needs ",
                                        "of ",  "it.\n",  "then ",  "the ", "next "};
    kr_rng r = kr_rng_make(5, 2);
    (void)state;
    reached =
        mmap(NULL, sizeof *reached, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (reached == MAP_FAILED || kr_test_folder_make(folder) < 0) return -1;
    snprintf(text, sizeof text, "%s/text.txt", folder);
    FILE *f = fopen(text, "wb");
    for (int i = 0; f && i < 6000; i++) fputs(words[(int)(kr_rng_uniform(&r) * 15)], f);
    return f && fclose(f) == 0 ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    return kr_test_folder_drop(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_runs_go_on),
        cmocka_unit_test(f32_gives_what_the_cpu_gives),
        cmocka_unit_test(bf16_is_close),
        cmocka_unit_test(every_mixer),
        cmocka_unit_test(recomputing_changes_nothing),
        cmocka_unit_test(bad_numbers_are_found),
        cmocka_unit_test(logits_are_the_cpus),
        cmocka_unit_test(runs_agree_with_the_cpus),
        cmocka_unit_test(runs_repeat_and_resume),
        cmocka_unit_test(checkpoints_travel),
        cmocka_unit_test(too_large_a_plan_says_what_would_fit),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
