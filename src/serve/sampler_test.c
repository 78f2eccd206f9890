/* sampler_test.c - each rule alone and together, against distributions worked out by hand, by
 * chi-square of the draws. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <krait/krait.h>
#include <math.h>

#include "base/mem.h"

#define DRAWS 40000
#define V 6

/* log(p) of p = .4 .3 .15 .1 .04 .01, in an order that is not sorted. */
static const double probability[V] = {0.04, 0.4, 0.01, 0.15, 0.3, 0.1};

static const krait_sampler_options plain = {sizeof plain, 1.0, 0, 1.0, 0.0, 1.0, 7};

/* Draws often and compares the counts with `expected` (which sums to 1): the 99.9% point of
 * chi-square is refused. */
static void check(const char *name, const krait_sampler_options *o, const double expected[V]) {
    static const double limit[V] = {0, 10.83, 13.82, 16.27, 18.47, 20.52};
    krait_sampler *s;
    krait_error e;
    float logits[V];
    int64_t counts[V] = {0};
    for (int i = 0; i < V; i++) logits[i] = (float)log(probability[i]) + 3.0f;
    assert_int_equal(krait_sampler_create(&s, V, o, &e), 0);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = krait_sampler_draw(s, logits, &e);
        assert_in_range(id, 0, V - 1);
        counts[id]++;
    }
    krait_sampler_close(&s);
    double chi = 0;
    int freedom = -1;
    for (int i = 0; i < V; i++) {
        if (expected[i] == 0) {
            assert_int_equal(counts[i], 0);
            continue;
        }
        double want = expected[i] * DRAWS, off = (double)counts[i] - want;
        chi += off * off / want;
        freedom++;
    }
    printf("%-28s chi-square %6.2f with %d degrees (limit %.2f)\n", name, chi, freedom,
           limit[freedom]);
    assert_true(freedom == 0 ? chi < 1e-9 : chi < limit[freedom]);
}

static void distributions(void **state) {
    (void)state;
    krait_sampler_options o = plain;
    check("all tokens", &o, probability);
    o.top_k = 3;
    check("top-k 3", &o, (double[V]){0, 0.4 / 0.85, 0, 0.15 / 0.85, 0.3 / 0.85, 0});
    o.top_p = 0.8; /* counts among the three: .4706 + .3529 >= .8 */
    check("top-k 3, top-p 0.8", &o, (double[V]){0, 4.0 / 7, 0, 0, 3.0 / 7, 0});
    o = plain;
    o.top_p = 0.8; /* .4 + .3 < .8, so .15 stays */
    check("top-p 0.8", &o, (double[V]){0, 0.4 / 0.85, 0, 0.15 / 0.85, 0.3 / 0.85, 0});
    o.top_p = 1e-9;
    check("top-p tiny", &o, (double[V]){0, 1, 0, 0, 0, 0});
    o = plain;
    o.min_p = 0.2; /* 0.08 and more */
    check("min-p 0.2", &o, (double[V]){0, 0.4 / 0.95, 0, 0.15 / 0.95, 0.3 / 0.95, 0.1 / 0.95});
    o.top_p = 0.69;
    check("top-p 0.69, min-p 0.2", &o, (double[V]){0, 4.0 / 7, 0, 0, 3.0 / 7, 0});
    o = plain;
    o.temperature = 0.5; /* squares */
    double squares[V], sum = 0;
    for (int i = 0; i < V; i++) sum += squares[i] = probability[i] * probability[i];
    for (int i = 0; i < V; i++) squares[i] /= sum;
    check("temperature 0.5", &o, squares);
    o.min_p = 0.2; /* of .16 .09 .0225 .01: the first two reach .032 */
    check("temperature 0.5, min-p 0.2", &o, (double[V]){0, 0.16 / 0.25, 0, 0, 0.09 / 0.25, 0});
    o = plain;
    o.temperature = 0;
    check("greedy", &o, (double[V]){0, 1, 0, 0, 0, 0});
    o = plain;
    o.top_k = 1;
    check("top-k 1", &o, (double[V]){0, 1, 0, 0, 0, 0});
}

static void repetition_penalty(void **state) {
    (void)state;
    krait_sampler_options o = plain;
    krait_sampler *s;
    krait_error e;
    o.temperature = 0;
    o.repeat_penalty = 2;
    assert_int_equal(krait_sampler_create(&s, 3, &o, &e), 0);
    krait_sampler_accept(s, 0);
    krait_sampler_accept(s, -5); /* ids outside are ignored */
    krait_sampler_accept(s, 3);
    /* 4 / 2 = 2 < 3; then 3 is halved too: 2 against 1.5; then 0.5 is nowhere near */
    assert_int_equal(krait_sampler_draw(s, (float[]){4, 3, 0.5f}, &e), 1);
    assert_int_equal(krait_sampler_draw(s, (float[]){4, 3, 0.5f}, &e), 0);
    krait_sampler_close(&s);
    assert_int_equal(krait_sampler_create(&s, 3, &o, &e), 0);
    krait_sampler_accept(s, 2);
    assert_int_equal(krait_sampler_draw(s, (float[]){-1.5f, -3, -1}, &e), 0); /* -1 * 2 < -1.5 */
    krait_sampler_close(&s);
}

static void ties_go_to_the_lowest_id(void **state) {
    (void)state;
    krait_sampler_options o = plain;
    krait_sampler *s;
    krait_error e;
    float logits[500];
    for (int i = 0; i < 500; i++) logits[i] = 1;
    o.top_k = 2;
    assert_int_equal(krait_sampler_create(&s, 500, &o, &e), 0);
    for (int i = 0; i < 100; i++) assert_in_range(krait_sampler_draw(s, logits, &e), 0, 1);
    krait_sampler_close(&s);
}

static void same_seed_same_draws(void **state) {
    (void)state;
    krait_sampler_options o = plain;
    krait_sampler *a, *b, *c;
    krait_error e;
    float logits[V];
    int differ = 0;
    for (int i = 0; i < V; i++) logits[i] = (float)log(probability[i]);
    assert_int_equal(krait_sampler_create(&a, V, &o, &e), 0);
    assert_int_equal(krait_sampler_create(&b, V, &o, &e), 0);
    o.seed++;
    assert_int_equal(krait_sampler_create(&c, V, &o, &e), 0);
    for (int i = 0; i < 200; i++) {
        int32_t x = krait_sampler_draw(a, logits, &e);
        assert_int_equal(x, krait_sampler_draw(b, logits, &e));
        differ += x != krait_sampler_draw(c, logits, &e);
    }
    printf("another seed differs in %d of 200 draws\n", differ);
    assert_true(differ > 50);
    krait_sampler_close(&a);
    krait_sampler_close(&b);
    krait_sampler_close(&c);
}

static void bad_logits_and_options(void **state) {
    (void)state;
    krait_sampler *s;
    krait_error e;
    krait_sampler_options o = plain;
    assert_int_equal(krait_sampler_create(&s, 3, &o, &e), 0);
    assert_int_equal(krait_sampler_draw(s, (float[]){0, NAN, 0}, &e), KRAIT_ERR_NUMERIC);
    assert_non_null(strstr(e.message, "token 1 is not a number"));
    assert_int_equal(krait_sampler_draw(s, (float[]){0, 0, INFINITY}, &e), KRAIT_ERR_NUMERIC);
    float none[] = {-INFINITY, -INFINITY, -INFINITY};
    assert_int_equal(krait_sampler_draw(s, none, &e), KRAIT_ERR_NUMERIC);
    for (int i = 0; i < 50; i++)
        assert_int_equal(krait_sampler_draw(s, (float[]){-INFINITY, 0, -INFINITY}, &e), 1);
    krait_sampler_close(&s);
    const krait_sampler_options bad[] = {
        {sizeof o, -1, 0, 1, 0, 1, 0},   {sizeof o, NAN, 0, 1, 0, 1, 0},
        {sizeof o, 1, -1, 1, 0, 1, 0},   {sizeof o, 1, 0, 0, 0, 1, 0},
        {sizeof o, 1, 0, 1.5, 0, 1, 0},  {sizeof o, 1, 0, 1, -0.1, 1, 0},
        {sizeof o, 1, 0, 1, 0, 0, 0},    {0, 1, 0, 1, 0, 1, 0},
        {sizeof o + 8, 1, 0, 1, 0, 1, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(krait_sampler_create(&s, 3, &bad[i], &e), KRAIT_ERR_ARGUMENT);
        assert_null(s);
    }
    assert_int_equal(krait_sampler_create(&s, 0, &o, &e), KRAIT_ERR_ARGUMENT);
}

static void memory_fails(void **state) {
    (void)state;
    krait_sampler *s;
    krait_error e;
    int64_t n = 1;
    for (;; n++) {
        kr_mem_fail_after(n);
        int rc = krait_sampler_create(&s, 100, NULL, &e);
        kr_mem_fail_after(0);
        if (rc == 0) break;
        assert_int_equal(rc, KRAIT_ERR_MEMORY);
        assert_null(s);
    }
    printf("each of %lld allocations failed once\n", (long long)n - 1);
    assert_int_equal(n - 1, 4);
    krait_sampler_close(&s);
    krait_sampler_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distributions),
        cmocka_unit_test(repetition_penalty),
        cmocka_unit_test(ties_go_to_the_lowest_id),
        cmocka_unit_test(same_seed_same_draws),
        cmocka_unit_test(bad_logits_and_options),
        cmocka_unit_test(memory_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
