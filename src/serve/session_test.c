/* session_test.c - one function however it is cut: step == whole == chunked == batch, alone == in
 * ragged company; lanes fork, are saved and loaded bit for bit; what cannot be is refused and moves
 * nothing. */
#define _XOPEN_SOURCE 700
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "models/test_model.h"
#include "serve/state_file.h"

enum { V = 67, T = 93, LANES = 5 };

static krait_model model;
static int32_t ids[LANES][T];

static int setup(void **state) {
    (void)state;
    assert_int_equal(kr_config_make(&model.config, "mamba1", 48, 3, V, NULL, NULL), 0);
    model.hash = 0x1234;
    kr_rng r = kr_rng_make(1, 2);
    if (kr_test_weights(&model.weights, &model.config, &r) < 0) return -1;
    for (int i = 0; i < LANES * T; i++) ids[i / T][i % T] = (int32_t)kr_rng_below(&r, V);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    kr_weights_free(&model.weights);
    return 0;
}

static krait_session *open_session(int64_t lanes, int64_t max_tokens) {
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    krait_session *s;
    krait_error e;
    o.lanes = lanes;
    o.max_tokens = max_tokens;
    if (krait_session_create(&s, &model, &o, &e) < 0) fail_msg("%s", e.message);
    return s;
}

static void forward(krait_session *s, const krait_span *spans, int64_t n, float *logits) {
    krait_error e;
    if (krait_session_forward(s, spans, n, logits, &e) < 0) fail_msg("%s", e.message);
}

/* [T,V]: all logits of one sequence, read at once. */
static float *whole(int lane) {
    float *logits = malloc(T * V * sizeof *logits);
    krait_session *s = open_session(1, T);
    forward(s, &(krait_span){0, ids[lane], T, KRAIT_WANT_ALL}, 1, logits);
    krait_session_close(&s);
    return logits;
}

/* It has no vocabulary, and no next token. */
static void a_model_of_numbers_is_refused(void **state) {
    (void)state;
    krait_model teller = {.hash = 1};
    krait_session *s;
    krait_error e;
    kr_rng r = kr_rng_make(1, 2);
    assert_int_equal(kr_config_make(&teller.config, "lru", 6, 1, 0,
                                    "channels=2 numbers=1 pooling=every", &e),
                     0);
    assert_int_equal(kr_test_weights(&teller.weights, &teller.config, &r), 0);
    assert_int_equal(krait_session_create(&s, &teller, NULL, &e), KRAIT_ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "has no next token"));
    assert_null(s);
    kr_weights_free(&teller.weights);
}

static void step_by_step_is_the_whole(void **state) {
    (void)state;
    float *want = whole(0), *got = malloc(T * V * sizeof *got);
    krait_session *s = open_session(1, 1);
    for (int t = 0; t < T; t++)
        forward(s, &(krait_span){0, &ids[0][t], 1, KRAIT_WANT_LAST}, 1, got + t * V);
    assert_int_equal(krait_session_position(s, 0), T);
    double d = kr_test_difference(got, want, T * V);
    printf("step against whole: %.2g\n", d);
    assert_true(d <= 1e-5);
    krait_session_close(&s);
    free(want);
    free(got);
}

static void chunks_are_the_whole(void **state) {
    (void)state;
    static const int64_t chunk[] = {2, 7, 32, 64, 512};
    float *want = whole(1), *got = malloc(T * V * sizeof *got);
    for (size_t k = 0; k < sizeof chunk / sizeof *chunk; k++) {
        krait_session *s = open_session(2, chunk[k]);
        forward(s, &(krait_span){1, ids[1], T, KRAIT_WANT_ALL}, 1, got);
        double d = kr_test_difference(got, want, T * V);
        printf("chunks of %lld against whole: %.2g\n", (long long)chunk[k], d);
        assert_true(d <= 1e-5);
        krait_session_close(&s);
    }
    free(want);
    free(got);
}

/* Ragged lengths, all kinds of wants, fewer rows than lanes have tokens, lanes not in order. */
static void batch_is_each_alone(void **state) {
    (void)state;
    static const int64_t max_tokens[] = {1, 3, 16, 100, 1000};
    const krait_span spans[LANES] = {{3, ids[0], T, KRAIT_WANT_ALL},
                                     {0, ids[1], 1, KRAIT_WANT_LAST},
                                     {4, ids[2], 40, KRAIT_WANT_LAST},
                                     {1, ids[3], 17, KRAIT_WANT_NONE},
                                     {2, ids[4], T, KRAIT_WANT_LAST}};
    float *want[LANES], *got = malloc((T + 3) * V * sizeof *got);
    for (int i = 0; i < LANES; i++) want[i] = whole(i);
    for (size_t k = 0; k < sizeof max_tokens / sizeof *max_tokens; k++) {
        krait_session *s = open_session(LANES, max_tokens[k]);
        forward(s, spans, LANES, got);
        double d = kr_test_difference(got, want[0], T * V);
        d = fmax(d, kr_test_difference(got + T * V, want[1], V));
        d = fmax(d, kr_test_difference(got + (T + 1) * V, want[2] + 39 * V, V));
        d = fmax(d, kr_test_difference(got + (T + 2) * V, want[4] + (T - 1) * V, V));
        forward(s, &(krait_span){1, ids[3] + 17, 1, KRAIT_WANT_LAST}, 1,
                got); /* goes on from its own state */
        d = fmax(d, kr_test_difference(got, want[3] + 17 * V, V));
        printf("%d ragged lanes in passes of %lld rows against each alone: %.2g\n", LANES,
               (long long)max_tokens[k], d);
        assert_true(d <= 1e-5);
        assert_int_equal(krait_session_position(s, 1), 18);
        krait_session_close(&s);
    }
    for (int i = 0; i < LANES; i++) free(want[i]);
    free(got);
}

static void same_call_same_bytes(void **state) {
    (void)state;
    float *a = whole(2), *b = whole(2);
    assert_memory_equal(a, b, T * V * sizeof *a);
    free(a);
    free(b);
}

static void lanes_reset_and_fork(void **state) {
    (void)state;
    krait_error e;
    float a[V], b[V], c[V];
    krait_session *s = open_session(2, 16), *other = open_session(3, 8);
    forward(s, &(krait_span){0, ids[0], 20, KRAIT_WANT_NONE}, 1, NULL);
    assert_int_equal(krait_session_copy(s, 1, s, 0, &e), 0);
    assert_int_equal(krait_session_copy(other, 2, s, 0, &e), 0);
    assert_int_equal(krait_session_position(other, 2), 20);
    forward(s, &(krait_span){0, ids[0] + 20, 1, KRAIT_WANT_LAST}, 1, a);
    forward(s, &(krait_span){1, ids[0] + 20, 1, KRAIT_WANT_LAST}, 1, b);
    forward(other, &(krait_span){2, ids[0] + 20, 1, KRAIT_WANT_LAST}, 1, c);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_equal(a, c, sizeof a);
    assert_int_equal(krait_session_reset(s, 1, &e), 0);
    forward(s, &(krait_span){1, ids[0] + 20, 1, KRAIT_WANT_LAST}, 1, b);
    assert_memory_not_equal(a, b, sizeof a);
    krait_session *fresh = open_session(1, 16);
    forward(fresh, &(krait_span){0, ids[0] + 20, 1, KRAIT_WANT_LAST}, 1, a);
    assert_memory_equal(a, b, sizeof a);
    krait_session_close(&fresh);
    krait_session_close(&other);
    krait_session_close(&s);
}

/* ---- state files ----------------------------------------------------------------------------- */

static const char *state_path(void) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/krait-session-%ld", (long)getpid());
    return path;
}

static void saved_and_loaded_bit_for_bit(void **state) {
    (void)state;
    krait_error e;
    float a[V], b[V];
    krait_session *s = open_session(2, 16), *t = open_session(3, 16);
    forward(s, &(krait_span){1, ids[0], 30, KRAIT_WANT_NONE}, 1, NULL);
    assert_int_equal(krait_session_set_next(s, 1, 12, &e), 0);
    assert_int_equal(krait_session_save_state(s, 1, state_path(), &e), 0);
    assert_int_equal(krait_session_load_state(t, 2, state_path(), &e), 0);
    assert_int_equal(krait_session_position(t, 2), 30);
    assert_int_equal(krait_session_next(t, 2), 12);
    for (int i = 30; i < 40; i++) {
        forward(s, &(krait_span){1, ids[0] + i, 1, KRAIT_WANT_LAST}, 1, a);
        forward(t, &(krait_span){2, ids[0] + i, 1, KRAIT_WANT_LAST}, 1, b);
        assert_memory_equal(a, b, sizeof a);
    }
    assert_int_equal(krait_session_next(t, 2), -1);
    krait_session_close(&s);
    krait_session_close(&t);
    unlink(state_path());
}

/* A refused file leaves the lane where it was. */
static void other_states_are_refused(void **state) {
    (void)state;
    krait_error e;
    float a[V], b[V];
    krait_session *s = open_session(1, 8);
    assert_int_equal(krait_session_save_state(s, 0, state_path(), &e), 0);
    krait_session_close(&s);
    model.hash++;
    s = open_session(1, 8);
    forward(s, &(krait_span){0, ids[0], 9, KRAIT_WANT_LAST}, 1, a);
    assert_int_equal(krait_session_load_state(s, 0, state_path(), &e), KRAIT_ERR_MISMATCH);
    printf("%s\n", e.message);
    assert_non_null(strstr(e.message, "another model"));
    model.hash--;
    assert_int_equal(krait_session_load_state(s, 0, "/nonexistent", &e), KRAIT_ERR_IO);
    assert_int_equal(truncate(state_path(), 100), 0);
    assert_int_equal(krait_session_load_state(s, 0, state_path(), &e), KRAIT_ERR_FORMAT);
    printf("%s\n", e.message);
    const kr_state_file halves = {.model_hash = model.hash, .dtype = KR_BF16, .next = -1};
    assert_int_equal(kr_state_write(&halves, (const void *[]){""}, (uint64_t[]){0}, state_path(),
                                    &e),
                     0);
    assert_int_equal(krait_session_load_state(s, 0, state_path(), &e), KRAIT_ERR_MISMATCH);
    printf("%s\n", e.message);
    assert_non_null(strstr(e.message, "takes --state-type bf16, with --device cuda"));
    assert_int_equal(krait_session_position(s, 0), 9);
    forward(s, &(krait_span){0, ids[0] + 9, 1, KRAIT_WANT_LAST}, 1, a);
    krait_session *t = open_session(1, 8);
    forward(t, &(krait_span){0, ids[0], 9, KRAIT_WANT_LAST}, 1, b);
    forward(t, &(krait_span){0, ids[0] + 9, 1, KRAIT_WANT_LAST}, 1, b);
    assert_memory_equal(a, b, sizeof a);
    krait_session_close(&s);
    krait_session_close(&t);
    unlink(state_path());
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void bad_calls_move_nothing(void **state) {
    (void)state;
    krait_error e;
    float logits[2 * V];
    const int32_t low[] = {1, -1}, high[] = {0, V};
    krait_session *s = open_session(2, 8);
    const krait_span bad[][2] = {
        {{0, ids[0], 5, KRAIT_WANT_NONE}, {2, ids[0], 1, KRAIT_WANT_NONE}}, /* no such lane */
        {{0, ids[0], 5, KRAIT_WANT_NONE}, {-1, ids[0], 1, KRAIT_WANT_NONE}},
        {{0, ids[0], 5, KRAIT_WANT_NONE}, {0, ids[0], 1, KRAIT_WANT_NONE}}, /* twice */
        {{0, ids[0], 5, KRAIT_WANT_NONE}, {1, low, 2, KRAIT_WANT_NONE}},    /* ids outside */
        {{0, ids[0], 5, KRAIT_WANT_NONE}, {1, high, 2, KRAIT_WANT_NONE}},
        {{0, ids[0], 5, KRAIT_WANT_NONE}, {1, ids[0], -1, KRAIT_WANT_NONE}}, /* counts */
        {{0, ids[0], 5, KRAIT_WANT_NONE}, {1, ids[0], 0, KRAIT_WANT_LAST}},
        {{0, ids[0], 5, KRAIT_WANT_NONE}, {1, ids[0], 1, (krait_want)3}}, /* no such want */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(krait_session_forward(s, bad[i], 2, logits, &e), KRAIT_ERR_ARGUMENT);
        printf("%s\n", e.message);
    }
    const krait_span wants = {0, ids[0], 1, KRAIT_WANT_LAST};
    assert_int_equal(krait_session_forward(s, &wants, 1, NULL, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_session_position(s, 0), 0);
    assert_int_equal(krait_session_reset(s, 2, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_session_set_next(s, 0, V, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_session_save_state(s, -1, "/tmp/x", &e), KRAIT_ERR_ARGUMENT);
    const krait_span no_ids = {0, NULL, 1, KRAIT_WANT_NONE};
    assert_int_equal(krait_session_forward(s, &no_ids, 1, NULL, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_session_forward(s, NULL, 1, NULL, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_session_forward(NULL, &wants, 1, logits, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_session_reset(NULL, 0, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_session_copy(s, 0, NULL, 0, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_session_save_state(s, 0, NULL, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_session_load_state(s, 0, NULL, &e), KRAIT_ERR_ARGUMENT);
    assert_true(krait_session_position(NULL, 0) == -1 && krait_session_next(NULL, 0) == -1);
    assert_int_equal(krait_session_create(NULL, &model, NULL, &e), KRAIT_ERR_ARGUMENT);
    krait_session_close(NULL);
    krait_session_close(&s);
    krait_session_close(&s);
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    o.lanes = 0;
    assert_int_equal(krait_session_create(&s, &model, &o, &e), KRAIT_ERR_ARGUMENT);
    assert_null(s);
    assert_int_equal(krait_session_create(&s, NULL, NULL, &e), KRAIT_ERR_ARGUMENT);
}

static void memory_fails(void **state) {
    (void)state;
    krait_error e;
    int64_t n = 1;
    int told = 0; /* what the plan takes, and what would take less */
    for (;; n++) {
        krait_session *s;
        kr_mem_fail_after(n);
        int rc = krait_session_create(&s, &model, NULL, &e);
        kr_mem_fail_after(0);
        if (rc == 0) {
            krait_session_close(&s);
            break;
        }
        assert_int_equal(rc, KRAIT_ERR_MEMORY);
        assert_null(s);
        if (!strstr(e.message, "--chunk") || !strstr(e.message, "the plan takes")) continue;
        if (told++ == 0) printf("%s\n", e.message);
    }
    assert_true(told > 0);
    printf("each of %lld allocations failed once\n", (long long)n - 1);
    assert_true(n > 20);
    krait_session *s = open_session(2, 64);
    kr_mem_fail_after(1); /* forward allocates nothing */
    float logits[V];
    forward(s, &(krait_span){0, ids[0], T, KRAIT_WANT_LAST}, 1, logits);
    assert_int_equal(kr_mem_fail_after(0), 0);
    krait_session_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_of_numbers_is_refused),
        cmocka_unit_test(step_by_step_is_the_whole),
        cmocka_unit_test(chunks_are_the_whole),
        cmocka_unit_test(batch_is_each_alone),
        cmocka_unit_test(same_call_same_bytes),
        cmocka_unit_test(lanes_reset_and_fork),
        cmocka_unit_test(saved_and_loaded_bit_for_bit),
        cmocka_unit_test(other_states_are_refused),
        cmocka_unit_test(bad_calls_move_nothing),
        cmocka_unit_test(memory_fails),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
