/* causal_conv_test.c - what the causal convolution must do whoever computes it: known impulses, any
 * cut of a sequence, state in place, resets that hide the past. Every level of the machine; values
 * against the reference are the checker's. */
#include "ops/causal_conv/causal_conv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"

enum { E = 37, T = 45, K = 4, SLOTS = 3 };

static const float weight[K] = {0.5f, -1.5f, 2.25f, 3.0f};

/* One call over x [M,E] cut by seqs [S,3], with the weights above in all channels and bias 0.25. */
typedef struct conv {
    kr_level level;
    const float *x;
    float *y, *state_in, *state_out; /* the states [SLOTS,K-1,E] may be NULL */
    const uint8_t *reset;
    int64_t M, S, seqs[3 * SLOTS];
} conv;

static void run(const conv *v) {
    static float w[E * K], bias[E];
    static const kr_causal_conv_attr attr = {0};
    for (int e = 0; e < E; e++) {
        memcpy(w + e * K, weight, sizeof weight);
        bias[e] = 0.25f;
    }
    int64_t rows[2] = {v->M, E}, taps[3] = {E, 1, K}, width = E, cuts[2] = {v->S, 3};
    int64_t states[3] = {SLOTS, K - 1, E};
    kr_call c = {.n_in = 6, .n_out = 2, .attr = &attr, .threads = 2};
    c.in[0] = kr_tensor_make((void *)(uintptr_t)v->x, KR_F32, 2, rows);
    c.in[1] = kr_tensor_make(w, KR_F32, 3, taps);
    c.in[2] = kr_tensor_make(bias, KR_F32, 1, &width);
    c.in[3] = kr_tensor_make((void *)(uintptr_t)v->seqs, KR_I64, 2, cuts);
    c.in[4] = kr_tensor_make((void *)(uintptr_t)v->reset, KR_U8, 1, &v->M);
    c.in[5] = kr_tensor_make(v->state_in, KR_F32, 3, states);
    c.out[0] = kr_tensor_make(v->y, KR_F32, 2, rows);
    c.out[1] = kr_tensor_make(v->state_out, KR_F32, 3, states);
    kr_op_kernel(&kr_op_causal_conv, v->level)(&c);
}

static void random_fill(float *x, int64_t n, uint64_t stream) {
    kr_rng r = kr_rng_make(1, stream);
    for (int64_t i = 0; i < n; i++) x[i] = (float)kr_rng_normal(&r);
}

#define FOR_LEVELS(level)                                                                          \
    for (kr_level level = KR_LEVEL_REF; level < KR_LEVEL_COUNT; level++)                           \
        if (kr_level_supported(level))

/* An impulse at time 0 gives the weights from the last to the first, then nothing; a sequence
 * shorter than the window leaves zeros at the old end of its state. */
static void impulse(void **unused) {
    (void)unused;
    FOR_LEVELS(level) {
        static float x[6 * E], y[6 * E], state[SLOTS * (K - 1) * E];
        memset(x, 0, sizeof x);
        for (int e = 0; e < E; e++) x[e] = 1;
        run(&(conv){level, x, y, NULL, NULL, NULL, 6, 1, {0, 6, 0}});
        for (int t = 0; t < 6; t++)
            for (int e = 0; e < E; e++)
                assert_true(y[t * E + e] == 0.25f + (t < K ? weight[K - 1 - t] : 0));
        random_fill(state, SLOTS * (K - 1) * E, 1);
        run(&(conv){level, x, y, NULL, state, NULL, 2, 1, {0, 2, 1}});
        float *slot = state + (K - 1) * E; /* rows: zeros, x[0], x[1] */
        for (int e = 0; e < E; e++)
            assert_true(slot[e] == 0 && slot[E + e] == 1 && slot[2 * E + e] == 0);
        print_message("impulse %s: weights in order, state padded\n", kr_level_name(level));
    }
}

/* Cut anywhere, the state carried in place: the same bytes as uncut; other slots stay as they were.
 */
static void cuts(void **unused) {
    (void)unused;
    static float x[T * E], whole[T * E], parts[T * E];
    static float first[SLOTS * (K - 1) * E], last[SLOTS * (K - 1) * E], state[SLOTS * (K - 1) * E];
    random_fill(x, T * E, 2);
    random_fill(first, SLOTS * (K - 1) * E, 3);
    FOR_LEVELS(level) {
        memcpy(last, first, sizeof last);
        run(&(conv){level, x, whole, first, last, NULL, T, 1, {0, T, 2}});
        for (int64_t cut = 0; cut <= T; cut++) {
            memcpy(state, first, sizeof state);
            run(&(conv){level, x, parts, state, state, NULL, cut, 1, {0, cut, 2}});
            run(&(conv){level,
                        x + cut * E,
                        parts + cut * E,
                        state,
                        state,
                        NULL,
                        T - cut,
                        1,
                        {0, T - cut, 2}});
            assert_memory_equal(parts, whole, sizeof whole);
            assert_memory_equal(state, last, sizeof last);
        }
        assert_memory_equal(state, first, 2 * (K - 1) * E * sizeof *first);
        print_message("cuts %s: %d cuts, same bytes\n", kr_level_name(level), T + 1);
    }
}

/* Packed sequences, and documents parted by resets, equal each alone. */
static void packed(void **unused) {
    (void)unused;
    static float x[T * E], alone[T * E], together[T * E];
    static uint8_t reset[T];
    random_fill(x, T * E, 4);
    memset(reset, 0, sizeof reset);
    reset[0] = reset[17] = reset[19] = 1;
    FOR_LEVELS(level) {
        run(&(conv){level, x, alone, NULL, NULL, NULL, 17, 1, {0, 17, 0}});
        run(&(conv){level, x + 17 * E, alone + 17 * E, NULL, NULL, NULL, 2, 1, {0, 2, 0}});
        run(&(
            conv){level, x + 19 * E, alone + 19 * E, NULL, NULL, NULL, T - 19, 1, {0, T - 19, 0}});
        run(&(
            conv){level, x, together, NULL, NULL, NULL, T, 3, {19, T - 19, 1, 0, 17, 0, 17, 2, 2}});
        assert_memory_equal(together, alone, sizeof alone);
        memset(together, 0, sizeof together);
        run(&(conv){level, x, together, NULL, NULL, reset, T, 1, {0, T, 0}});
        assert_memory_equal(together, alone, sizeof alone);
        print_message("packed %s: same bytes as alone\n", kr_level_name(level));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(impulse), cmocka_unit_test(cuts),
                                       cmocka_unit_test(packed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
