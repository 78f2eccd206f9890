/* half_states_test.c - sessions whose states are bf16: how far their logits go from those of f32
 * states in thousands of steps, state files, generation; and what refuses them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/test_folder.h"
#include "device/test_gpu.h"
#include "models/test_model.h"

enum { V = 257, STEPS = 2048, LANES = 3 };

static krait_model *whole, *model; /* model: with matrices in bf16, on the GPU if there is one */
static bool gpu;
static int32_t ids[STEPS];

static int setup(void **state) {
    krait_error e;
    kr_weights halves = {0};
    (void)state;
    if (kr_test_model_of(&whole, "mamba2", 256, 4) < 0) return -1;
    if (kr_model_converted(whole, KR_BF16, &halves, &e) < 0) return -1;
    if (kr_model_from_weights(&model, &whole->config, &halves, NULL, &e) < 0) return -1;
    gpu = kr_model_place(model, "cuda", &e) == 0;
    if (!gpu) print_message("no GPU (%s): only refusals are tested\n", e.message);
    kr_rng r = kr_rng_make(7, 8);
    for (int i = 0; i < STEPS; i++) ids[i] = (int32_t)kr_rng_below(&r, V);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    krait_model_close(&model);
    krait_model_close(&whole);
    return 0;
}

static krait_session *open_session(krait_dtype type) {
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    krait_session *s;
    krait_error e;
    o.lanes = LANES;
    o.state_type = type;
    kr_ok(krait_session_create(&s, model, &o, &e), &e);
    return s;
}

static void step(krait_session *s, int64_t lane, int at, int64_t n, float *logits) {
    krait_span span = {lane, ids + at, n, KRAIT_WANT_LAST};
    krait_error e;
    kr_ok(krait_session_forward(s, &span, 1, logits, &e), &e);
}

/* A prompt of 100 tokens at once, then one at a time. */
static void logits_stay_near(void **state) {
    static float want[V], got[V];
    double worst = 0;
    (void)state;
    if (!gpu) skip();
    krait_session *f32 = open_session(KRAIT_F32), *bf16 = open_session(KRAIT_BF16);
    print_message("sessions of %lld and %lld bytes\n", (long long)krait_session_bytes(f32),
                  (long long)krait_session_bytes(bf16));
    assert_true(krait_session_bytes(bf16) < krait_session_bytes(f32));
    for (int at = 0; at < STEPS; at += at ? 1 : 100) {
        step(f32, 1, at, at ? 1 : 100, want);
        step(bf16, 1, at, at ? 1 : 100, got);
        double error = kr_test_difference(got, want, V);
        worst = fmax(worst, error);
        if (at % 256 == 0 || at == STEPS - 1)
            print_message("step %4d: relative difference %.2g, at worst %.2g\n", at, error, worst);
    }
    assert_true(worst > 0 && worst < 0.1);
    krait_session_close(&f32);
    krait_session_close(&bf16);
}

/* Bit for bit from a file or a copy, into states of the same type alone. */
static void files_know_their_type(void **state) {
    static float want[V], got[V];
    char path[64];
    (void)state;
    if (!gpu) skip();
    krait_error e;
    assert_int_equal(kr_test_file_make(path), 0);
    krait_session *f32 = open_session(KRAIT_F32), *bf16 = open_session(KRAIT_BF16);
    step(bf16, 2, 0, 70, want);
    kr_ok(krait_session_save_state(bf16, 2, path, &e), &e);
    kr_ok(krait_session_load_state(bf16, 0, path, &e), &e);
    kr_ok(krait_session_copy(bf16, 1, bf16, 0, &e), &e);
    step(bf16, 2, 70, 1, want);
    for (int lane = 0; lane < 2; lane++) {
        step(bf16, lane, 70, 1, got);
        assert_memory_equal(got, want, sizeof got);
    }
    assert_int_equal(krait_session_load_state(f32, 0, path, &e), KRAIT_ERR_MISMATCH);
    print_message("%s\n", e.message);
    assert_non_null(strstr(e.message, "it takes --state-type bf16"));
    assert_int_equal(krait_session_copy(f32, 0, bf16, 0, &e), KRAIT_ERR_MISMATCH);
    print_message("%s\n", e.message);
    krait_session_close(&f32);
    krait_session_close(&bf16);
    unlink(path);
}

static int keep_ids(void *user, int64_t index, const int32_t *drawn, int64_t count,
                    const char *text, size_t length) {
    (void)text;
    (void)length;
    memcpy((int32_t *)user + index * STEPS, drawn, (size_t)count * sizeof *drawn);
    return 0;
}

/* Of one prompt (a layer is one kernel) and of several; the same tokens in each run. */
static void generation_repeats_itself(void **state) {
    static int32_t drawn[2][2][LANES * STEPS]; /* type, run */
    const int32_t *prompts[LANES] = {ids, ids + 10, ids + 20};
    const int64_t counts[LANES] = {5, 17, 1};
    (void)state;
    if (!gpu) skip();
    krait_error e;
    for (int64_t n = 1; n <= LANES; n += LANES - 1) {
        int same = 0;
        for (int k = 0; k < 4; k++) {
            krait_generate_options o = KRAIT_GENERATE_OPTIONS_INIT;
            o.tokens = 100;
            o.ignore_end = 1;
            o.sampler.temperature = 0;
            o.state_type = k / 2 ? KRAIT_BF16 : KRAIT_F32;
            o.on_done = keep_ids;
            o.user = drawn[k / 2][k % 2];
            o.ids = prompts;
            o.counts = counts;
            kr_ok(krait_generate(model, NULL, n, &o, NULL, &e), &e);
        }
        assert_memory_equal(drawn[0][0], drawn[0][1], sizeof drawn[0][0]);
        assert_memory_equal(drawn[1][0], drawn[1][1], sizeof drawn[1][0]);
        while (same < 100 && drawn[0][0][same] == drawn[1][0][same]) same++;
        print_message("%d prompts: the first %d of 100 tokens are those of f32 states\n", (int)n,
                      same);
        assert_true(same >= 5);
    }
}

static void refuse(const krait_model *m, krait_dtype type, int code, const char *part) {
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    krait_session *s;
    krait_error e;
    o.state_type = type;
    assert_int_equal(krait_session_create(&s, m, &o, &e), code);
    print_message("%s\n", e.message);
    assert_non_null(strstr(e.message, part));
    assert_null(s);
}

static void others_are_refused(void **state) {
    krait_model *mamba1;
    (void)state;
    assert_int_equal(kr_test_model(&mamba1, 32, 1), 0);
    refuse(mamba1, KRAIT_BF16, KRAIT_ERR_UNSUPPORTED, "mamba1");
    refuse(whole, KRAIT_BF16, KRAIT_ERR_UNSUPPORTED, "--device cuda");
    refuse(whole, KRAIT_F16, KRAIT_ERR_ARGUMENT, "KRAIT_BF16");
    krait_model_close(&mamba1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits_stay_near),
                                       cmocka_unit_test(files_know_their_type),
                                       cmocka_unit_test(generation_repeats_itself),
                                       cmocka_unit_test(others_are_refused)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
