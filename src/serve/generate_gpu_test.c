/* generate_gpu_test.c - sessions and generation on the GPU beside those of the CPU: logits, texts
 * of batches and alone, lanes that join and leave, state files that go from one to the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/test_folder.h"
#include "device/test_gpu.h"
#include "models/test_model.h"

enum { V = 257, N = 13, MOST = 200 };

static krait_model *cpu, *gpu; /* gpu NULL: there is none */

/* Mixers with kernels of their own for decoding, in turn. */
static const char *const mixers[] = {"mamba1", "mamba2", "mamba3"};
static int turn;

static int setup(void **state) {
    krait_error e;
    (void)state;
    if (kr_test_model_of(&cpu, mixers[turn], 64, 3) < 0) return -1;
    if (kr_test_model_of(&gpu, mixers[turn], 64, 3) < 0) return -1;
    print_message("%s\n", mixers[turn]);
    if (kr_model_place(gpu, "cuda", &e) == 0) return 0;
    print_message("skipped: no GPU (%s)\n", e.message);
    krait_model_close(&gpu);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    krait_model_close(&cpu);
    krait_model_close(&gpu);
    return 0;
}

/* ---- sessions ---- */

static int32_t ids[N][MOST];

static void draw_ids(void) {
    kr_rng r = kr_rng_make(5, 6);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < MOST; j++) ids[i][j] = (int32_t)kr_rng_below(&r, V);
}

static krait_session *open_session(const krait_model *m, int64_t lanes, int64_t chunk) {
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    krait_session *s;
    krait_error e;
    o.lanes = lanes;
    o.max_tokens = chunk;
    kr_ok(krait_session_create(&s, m, &o, &e), &e);
    return s;
}

/* Ragged prompts in chunks, then single tokens, with all wants. */
static void logits_are_those_of_the_cpu(void **state) {
    enum { ROWS = 70 + 1 + 4 * 5 };
    static float want[ROWS * V], got[ROWS * V];
    (void)state;
    if (!gpu) skip();
    krait_error e;
    krait_session *both[2] = {open_session(cpu, 4, 50), open_session(gpu, 4, 37)};
    draw_ids();
    for (int k = 0; k < 2; k++) {
        float *to = k ? got : want;
        krait_span spans[4] = {{2, ids[0], 70, KRAIT_WANT_ALL},
                               {0, ids[1], 133, KRAIT_WANT_LAST},
                               {3, ids[2], 5, KRAIT_WANT_NONE},
                               {1, ids[3], 0, KRAIT_WANT_NONE}};
        kr_ok(krait_session_forward(both[k], spans, 4, to, &e), &e);
        kr_ok(krait_session_copy(both[k], 1, both[k], 2, &e), &e);
        for (int step = 0; step < 5; step++) {
            for (int i = 0; i < 4; i++)
                spans[i] = (krait_span){i, &ids[4 + i][step], 1, KRAIT_WANT_LAST};
            if (step == 3) kr_ok(krait_session_reset(both[k], 3, &e), &e);
            kr_ok(krait_session_forward(both[k], spans, 4, to + (71 + 4 * step) * V, &e), &e);
        }
    }
    double error = kr_test_difference(got, want, ROWS * V);
    print_message("%d rows of logits: relative difference %.2g\n", (int)ROWS, error);
    assert_true(error < 1e-4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(krait_session_position(both[0], i), krait_session_position(both[1], i));
    krait_session_close(&both[0]);
    krait_session_close(&both[1]);
}

/* A timeline goes from one to the other by a file, and by a copy. */
static void states_interchange(void **state) {
    static float want[V], got[2][V];
    char path[64];
    (void)state;
    if (!gpu) skip();
    krait_error e;
    assert_int_equal(kr_test_file_make(path), 0);
    draw_ids();
    for (int k = 0; k < 2; k++) {
        krait_session *from = open_session(k ? gpu : cpu, 3, 64);
        krait_session *to = open_session(k ? cpu : gpu, 2, 64);
        krait_span span = {2, ids[0], 100, KRAIT_WANT_NONE};
        kr_ok(krait_session_forward(from, &span, 1, NULL, &e), &e);
        kr_ok(krait_session_set_next(from, 2, 65, &e), &e);
        kr_ok(krait_session_save_state(from, 2, path, &e), &e);
        kr_ok(krait_session_load_state(to, 0, path, &e), &e);
        kr_ok(krait_session_copy(to, 1, from, 2, &e), &e);
        assert_int_equal(krait_session_position(to, 0), 100);
        assert_int_equal(krait_session_next(to, 0), 65);
        span = (krait_span){2, ids[1], 7, KRAIT_WANT_LAST};
        kr_ok(krait_session_forward(from, &span, 1, want, &e), &e);
        krait_span spans[2] = {{0, ids[1], 7, KRAIT_WANT_LAST}, {1, ids[1], 7, KRAIT_WANT_LAST}};
        kr_ok(krait_session_forward(to, spans, 2, got[0], &e), &e);
        double error =
            fmax(kr_test_difference(got[0], want, V), kr_test_difference(got[1], want, V));
        print_message("%s: relative difference %.2g\n", k ? "GPU to CPU" : "CPU to GPU", error);
        assert_true(error < 1e-4);
        krait_session_close(&from);
        krait_session_close(&to);
    }
    unlink(path);
}

/* ---- generation ---- */

typedef struct texts {
    int32_t ids[N][MOST];
    int64_t counts[N];
    int stop_after; /* calls of on_text; 0: never */
    int calls;
} texts;

static int on_done(void *user, int64_t index, const int32_t *drawn, int64_t count, const char *text,
                   size_t length) {
    texts *t = user;
    (void)text;
    (void)length;
    assert_true(count <= MOST);
    memcpy(t->ids[index], drawn, (size_t)count * sizeof *drawn);
    t->counts[index] = count;
    return 0;
}

static int on_text(void *user, int64_t index, const char *text, size_t length) {
    texts *t = user;
    (void)index;
    (void)text;
    (void)length;
    return t->stop_after && ++t->calls >= t->stop_after;
}

static const char *const prompts[N] = {"In the beginning",
                                       "",
                                       "a",
                                       "And the earth was without form, and void; and darkness was",
                                       "zyx",
                                       "\xe2\x82\xac and \xf0\x9f\x90\x8d",
                                       "The quick brown fox",
                                       "In the beginning",
                                       "q",
                                       "12345",
                                       "to be or not",
                                       "\n\n",
                                       "last"};

static krait_generate_options options(double temperature, int64_t lanes, texts *t) {
    krait_generate_options o = KRAIT_GENERATE_OPTIONS_INIT;
    memset(t, 0, sizeof *t);
    o.tokens = 60;
    o.lanes = lanes;
    o.max_tokens = 24;
    o.sampler.temperature = temperature;
    o.sampler.seed = 11;
    o.on_done = on_done;
    o.user = t;
    return o;
}

static int same_texts(const texts *a, const texts *b) {
    int same = 0;
    for (int i = 0; i < N; i++)
        same += a->counts[i] == b->counts[i] &&
                memcmp(a->ids[i], b->ids[i], (size_t)a->counts[i] * sizeof **a->ids) == 0;
    return same;
}

/* Every way of running gives the CPU's texts: together, a few lanes at a time, alone. Where tokens
 * are drawn by chance, a rounding may tip one of hundreds of draws. */
static void texts_are_those_of_the_cpu(void **state) {
    static texts want, got;
    (void)state;
    if (!gpu) skip();
    krait_error e;
    static const struct {
        double temperature, penalty;
    } how[] = {{0, 1}, {0, 1.5}, {0.7, 1}, {1.2, 1.3}};
    for (int k = 0; k < 4; k++) {
        krait_generate_options o = options(how[k].temperature, N, &want);
        o.sampler.repeat_penalty = how[k].penalty;
        kr_ok(krait_generate(cpu, prompts, N, &o, NULL, &e), &e);
        for (int64_t lanes = 1; lanes <= N; lanes += 3) {
            krait_generate_stats stats;
            o = options(how[k].temperature, lanes, &got);
            o.sampler.repeat_penalty = how[k].penalty;
            kr_ok(krait_generate(gpu, prompts, N, &o, &stats, &e), &e);
            int same = same_texts(&want, &got);
            print_message("T %.1f, penalty %.1f, %2d lanes: %d of %d texts are the CPU's; %d new "
                          "tokens\n",
                          how[k].temperature, how[k].penalty, (int)lanes, same, N,
                          (int)stats.new_tokens);
            assert_true(same >= (how[k].temperature > 0 ? N - 2 : N));
        }
    }
}

/* Cut by a state file, read by the other device: the text of the whole run. */
static void resumed_texts_go_on(void **state) {
    static texts whole, part;
    char path[64];
    (void)state;
    if (!gpu) skip();
    krait_error e;
    assert_int_equal(kr_test_file_make(path), 0);
    krait_generate_options o = options(0, 1, &whole);
    o.ignore_end = 1;
    kr_ok(krait_generate(cpu, prompts, 1, &o, NULL, &e), &e);
    for (int k = 0; k < 4; k++) {
        o = options(0, 1, &part);
        o.ignore_end = 1;
        o.tokens = 25;
        o.state_out = path;
        kr_ok(krait_generate(k & 1 ? gpu : cpu, prompts, 1, &o, NULL, &e), &e);
        assert_memory_equal(part.ids[0], whole.ids[0], 25 * sizeof(int32_t));
        o.tokens = 35;
        o.state_in = path;
        o.state_out = NULL;
        kr_ok(krait_generate(k & 2 ? gpu : cpu, (const char *[]){""}, 1, &o, NULL, &e), &e);
        assert_memory_equal(part.ids[0], whole.ids[0] + 25, 35 * sizeof(int32_t));
    }
    print_message("25 tokens and 35 more are the 60 of one run, on CPU and GPU in turn\n");
    unlink(path);
}

/* No tokens asked for, a caller who stops, a damaged model. */
static void ends_and_mistakes(void **state) {
    static texts t;
    (void)state;
    if (!gpu) skip();
    krait_error e;
    krait_generate_options o = options(0, 4, &t);
    o.tokens = 0;
    kr_ok(krait_generate(gpu, prompts, N, &o, NULL, &e), &e);
    o = options(0, 4, &t);
    o.on_text = on_text;
    t.stop_after = 5;
    assert_int_equal(krait_generate(gpu, prompts, N, &o, NULL, &e), KRAIT_ERR_CANCELLED);
    o = options(-1, 4, &t);
    assert_int_equal(krait_generate(gpu, prompts, N, &o, NULL, &e), KRAIT_ERR_ARGUMENT);
    krait_model *damaged;
    assert_int_equal(kr_test_model_of(&damaged, mixers[turn], 64, 3), 0);
    const kr_tensor *w = kr_weights_find(&damaged->weights, "backbone.norm_f.weight");
    ((float *)w->data)[3] = NAN;
    kr_ok(kr_model_place(damaged, "cuda", &e), &e);
    o = options(0, 4, &t);
    assert_int_equal(krait_generate(damaged, prompts, N, &o, NULL, &e), KRAIT_ERR_NUMERIC);
    print_message("%s\n", e.message);
    krait_model_close(&damaged);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits_are_those_of_the_cpu),
                                       cmocka_unit_test(states_interchange),
                                       cmocka_unit_test(texts_are_those_of_the_cpu),
                                       cmocka_unit_test(resumed_texts_go_on),
                                       cmocka_unit_test(ends_and_mistakes)};
    int failed = 0;
    for (turn = 0; turn < (int)(sizeof mixers / sizeof *mixers); turn++)
        failed += cmocka_run_group_tests(tests, setup, teardown);
    return failed;
}
