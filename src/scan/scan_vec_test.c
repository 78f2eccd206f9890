/* scan_vec_test.c - the vector plans of the recurrence against the reference, at every level of
 * this machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/test_worst.h"
#include "scan/scan_plan.h"
#include "scan/scan_problem.h"

static const char *const grad_names[] = {"dx", "ddt", "dA",       "db",        "dc",
                                         "dD", "dz",  "ddt_bias", "dstate_in", "dgain"};

static void copy(kr_tensor *to, const kr_tensor *from, int n) {
    for (int i = 0; i < n; i++) {
        to[i] = from[i];
        if (!from[i].data) continue;
        to[i].data = zeros(kr_tensor_bytes(&from[i]));
        memcpy(to[i].data, from[i].data, kr_tensor_bytes(&from[i]));
    }
}

static void drop(kr_tensor *t, int n) {
    for (int i = 0; i < n; i++) free(t[i].data);
}

static void spoil(kr_tensor *t, int n) {
    for (int i = 0; i < n; i++)
        if (t[i].data) memset(t[i].data, 0xff, kr_tensor_bytes(&t[i]));
}

/* Slots that nobody names must stay as they are, so state_out starts as zeros and is compared
 * whole. */
static void check(const char *name, problem *p, bool accumulate) {
    kr_tensor want[KR_SCAN_OUTS], grads[KR_SCAN_GRAD_OUTS];
    double worst = 0, worst_grad = 0;
    p->backward.accumulate = accumulate ? 0x3ff : 0;
    p->forward.accumulate = accumulate;
    if (accumulate)
        for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++) fill_uniform(p, &p->backward.out[i], -1, 1);
    kr_tensor before[KR_SCAN_GRAD_OUTS];
    copy(before, p->backward.out, KR_SCAN_GRAD_OUTS);
    problem_forward(p, KR_LEVEL_REF);
    copy(want, p->forward.out, KR_SCAN_OUTS);
    problem_backward(p, KR_LEVEL_REF);
    copy(grads, p->backward.out, KR_SCAN_GRAD_OUTS);
    for (kr_level level = KR_LEVEL_V1; level < KR_LEVEL_COUNT; level++) {
        if (!kr_level_supported(level)) continue;
        memset(p->forward.out[0].data, accumulate ? 0 : 0xff, kr_tensor_bytes(&p->forward.out[0]));
        if (p->forward.out[1].data)
            memset(p->forward.out[1].data, 0, kr_tensor_bytes(&p->forward.out[1]));
        spoil(p->backward.out, KR_SCAN_GRAD_OUTS);
        for (int i = 0; accumulate && i < KR_SCAN_GRAD_OUTS; i++)
            if (before[i].data)
                memcpy(p->backward.out[i].data, before[i].data, kr_tensor_bytes(&before[i]));
        problem_forward(p, level);
        problem_backward(p, level);
        for (int i = 0; i < KR_SCAN_OUTS; i++)
            worst = kr_worst(worst, distance(&p->forward.out[i], &want[i]));
        for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++) {
            double error = distance(&p->backward.out[i], &grads[i]);
            if (error > 1e-5)
                print_message("%s %s: %s is off by %.1e\n", name, kr_level_name(level),
                              grad_names[i], error);
            worst_grad = kr_worst(worst_grad, error);
        }
    }
    print_message("%-34s %-16s forward %.1e, gradients %.1e\n", name,
                  kr_scan_plan_name(kr_scan_pick(&p->forward, false)), worst, worst_grad);
    assert_true(worst < 4e-6);
    assert_true(worst_grad < 1e-5);
    drop(before, KR_SCAN_GRAD_OUTS);
    drop(want, KR_SCAN_OUTS);
    drop(grads, KR_SCAN_GRAD_OUTS);
}

/* The vector plan of complex lanes has neither skip nor gate. */
static void bare(problem *p) {
    static const int ins[] = {KR_SCAN_D, KR_SCAN_Z}, outs[] = {KR_SCAN_DD, KR_SCAN_DZ};
    for (int i = 0; p->d.complex_lanes && i < 2; i++) {
        problem_drop(p, ins[i]);
        free(p->backward.out[outs[i]].data);
        p->backward.out[outs[i]] = (kr_tensor){0};
    }
}

static void run(const char *name, krait_scan_desc d, int64_t M, int64_t S, const int64_t *counts,
                bool accumulate) {
    problem p;
    problem_make(&p, d, KR_F32, M, S, counts);
    bare(&p);
    p.forward.threads = p.backward.threads = 3;
    check(name, &p, accumulate);
    problem_free(&p);
}

static void lanes(void **state) {
    (void)state;
    static const int64_t ragged[] = {1, 63, 0, 36};
    run("mamba1 T=1", krait_scan_mamba1(48, 16), 1, 1, NULL, false);
    run("mamba1 five steps", krait_scan_mamba1(100, 16), 5, 5, NULL, true);
    run("mamba1 five steps N=17", krait_scan_mamba1(33, 17), 5, 5, NULL, false);
    run("mamba1 T=63 N=1", krait_scan_mamba1(17, 1), 63, 1, NULL, false);
    run("mamba1 T=100 N=17, odd E", krait_scan_mamba1(33, 17), 100, 1, NULL, false);
    run("mamba1 ragged", krait_scan_mamba1(65, 16), 100, 4, ragged, false);
    run("mamba1 ragged, adding", krait_scan_mamba1(601, 16), 100, 4, ragged, true);
    run("mamba1 many sequences", krait_scan_mamba1(7, 4), 80, 19, NULL, false);
    krait_scan_desc d = krait_scan_mamba1(40, 16);
    d.order = KRAIT_ORDER_REVERSE;
    run("mamba1 reverse", d, 70, 3, NULL, false);
    d = krait_scan_mamba1(24, 5);
    d.heads = 4;
    d.groups = 2;
    d.skip_per_channel = false;
    d.gain = KRAIT_GAIN_ONE;
    d.dt_min = 0.1;
    d.dt_max = 1.5;
    d.kappa = 2;
    run("four heads, two groups, clamp", d, 70, 3, NULL, false);
    d.decay = KRAIT_DECAY_VECTOR;
    d.heads = 96;
    d.width = 1;
    run("a head a channel", d, 50, 2, NULL, true);
}

static void rows(void **state) {
    (void)state;
    static const int64_t ragged[] = {1, 63, 0, 36};
    run("mamba2 T=1", krait_scan_mamba2(3, 8, 16, 1), 1, 1, NULL, false);
    run("mamba2 five steps", krait_scan_mamba2(4, 16, 32, 2), 5, 5, NULL, true);
    run("mamba2 T=100 N=17 P=5", krait_scan_mamba2(6, 5, 17, 2), 100, 1, NULL, false);
    run("mamba2 ragged, adding", krait_scan_mamba2(24, 7, 33, 1), 100, 4, ragged, true);
    run("mamba2 P=64 N=128", krait_scan_mamba2(2, 64, 128, 1), 70, 3, NULL, false);
    krait_scan_desc d = krait_scan_mamba2(3, 4, 9, 3);
    d.order = KRAIT_ORDER_REVERSE;
    d.skip_per_channel = true;
    d.dt_min = 0.3;
    d.dt_max = 1.5;
    run("mamba2 reverse, clamp", d, 70, 3, NULL, false);
    run("mamba3", krait_scan_mamba3(2, 8, 16, 1), 70, 2, NULL, true);
    run("mamba3 of rank 4", krait_scan_mamba3(2, 5, 18, 4), 70, 2, NULL, false);
    run("linear attention", krait_scan_linear_attention(3, 6, 20), 70, 2, NULL, false);
    run("retnet", krait_scan_retnet(3, 6, 20), 70, 2, NULL, false);
    run("gla", krait_scan_gla(3, 6, 20), 70, 2, NULL, true);
    d = krait_scan_gla(9, 5, 19);
    d.groups = 3;
    d.form = KRAIT_FORM_DT;
    d.a_constant = d.dt_softplus = true;
    d.gain = KRAIT_GAIN_DT;
    d.kappa = 2;
    run("a constant vector of decays", d, 70, 2, NULL, false);
}

static void chunks(void **state) {
    (void)state;
    static const int64_t ragged[] = {1, 163, 0, 64, 65};
    run("mamba2 T=17", krait_scan_mamba2(3, 8, 16, 1), 17, 1, NULL, false);
    run("mamba2 T=64 P=16", krait_scan_mamba2(4, 16, 32, 2), 64, 1, NULL, true);
    run("mamba2 T=300 N=17 P=9", krait_scan_mamba2(6, 9, 17, 2), 300, 1, NULL, false);
    run("mamba2 ragged, adding", krait_scan_mamba2(24, 11, 33, 1), 293, 5, ragged, true);
    run("mamba2 P=64 N=128", krait_scan_mamba2(2, 64, 128, 1), 293, 5, ragged, false);
    run("mamba2 P=80 N=1", krait_scan_mamba2(2, 80, 1, 1), 150, 2, NULL, false);
    krait_scan_desc d = krait_scan_mamba2(3, 8, 9, 3);
    d.order = KRAIT_ORDER_REVERSE;
    d.skip_per_channel = true;
    d.dt_min = 0.3;
    d.dt_max = 1.5;
    d.kappa = 2;
    run("mamba2 reverse, clamp", d, 293, 5, ragged, false);
    run("mamba3", krait_scan_mamba3(2, 8, 16, 1), 293, 5, ragged, true);
    run("mamba3 of rank 3", krait_scan_mamba3(2, 9, 18, 3), 150, 2, NULL, false);
    run("mamba3 of rank 4", krait_scan_mamba3(2, 12, 18, 4), 150, 2, NULL, false);
    run("mamba3 of rank 7", krait_scan_mamba3(4, 9, 18, 7), 150, 2, NULL, true);
    run("mamba3 of rank 32", krait_scan_mamba3(2, 8, 5, 32), 40, 1, NULL, false);
    run("linear attention", krait_scan_linear_attention(3, 10, 20), 200, 2, NULL, false);
    run("retnet", krait_scan_retnet(3, 13, 20), 200, 2, NULL, true);
}

static void complex_lanes(void **state) {
    (void)state;
    static const int64_t ragged[] = {1, 63, 0, 36};
    krait_scan_desc given = krait_scan_lru(65), reverse = krait_scan_lru(130);
    given.form = KRAIT_FORM_GIVEN;
    reverse.order = KRAIT_ORDER_REVERSE;
    run("lru T=1", krait_scan_lru(48), 1, 1, NULL, false);
    run("lru five steps", krait_scan_lru(100), 5, 5, NULL, true);
    run("lru T=100", krait_scan_lru(33), 100, 1, NULL, false);
    run("lru ragged, adding", krait_scan_lru(601), 100, 4, ragged, true);
    run("lru many sequences", krait_scan_lru(7), 80, 19, NULL, false);
    run("lru, decay given", given, 70, 3, NULL, false);
    run("lru, reverse", reverse, 70, 3, NULL, false);
}

/* The gradients made from the states that forward left in y: those of scan_grad, at every level,
 * and the same bytes for any number of threads. */
static void from_states(const char *name, krait_scan_desc d, const int64_t *counts, bool adding) {
    problem p;
    kr_tensor want[KR_SCAN_GRAD_OUTS], before[KR_SCAN_GRAD_OUTS];
    double worst = 0;
    problem_make(&p, d, KR_F32, 100, 4, counts);
    bare(&p);
    p.backward.accumulate = adding ? 0x3ff : 0;
    for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++) fill_uniform(&p, &p.backward.out[i], -1, 1);
    copy(before, p.backward.out, KR_SCAN_GRAD_OUTS);
    problem_forward(&p, KR_LEVEL_REF);
    problem_backward(&p, KR_LEVEL_REF);
    copy(want, p.backward.out, KR_SCAN_GRAD_OUTS);
    p.backward.in[KR_SCAN_X] = p.forward.out[KR_SCAN_OUT_Y];
    for (kr_level level = KR_LEVEL_REF; level < KR_LEVEL_COUNT; level++) {
        if (!kr_level_supported(level)) continue;
        kr_tensor first[KR_SCAN_GRAD_OUTS];
        for (int threads = 1; threads <= 3; threads += 2) {
            for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++)
                if (before[i].data)
                    memcpy(p.backward.out[i].data, before[i].data, kr_tensor_bytes(&before[i]));
            p.backward.threads = threads;
            problem_call(&p, &p.backward, &kr_op_scan_states_grad,
                         kr_op_kernel(&kr_op_scan_states_grad, level));
            if (threads == 1) copy(first, p.backward.out, KR_SCAN_GRAD_OUTS);
        }
        for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++) {
            worst = kr_worst(worst, distance(&p.backward.out[i], &want[i]));
            if (!first[i].data) continue;
            assert_memory_equal(p.backward.out[i].data, first[i].data, kr_tensor_bytes(&first[i]));
        }
        drop(first, KR_SCAN_GRAD_OUTS);
    }
    print_message("%-34s from the states: gradients %.1e\n", name, worst);
    assert_true(worst < 1e-5);
    p.backward.in[KR_SCAN_X] = p.forward.in[KR_SCAN_X];
    drop(before, KR_SCAN_GRAD_OUTS);
    drop(want, KR_SCAN_GRAD_OUTS);
    problem_free(&p);
}

static void states_that_were_kept(void **state) {
    (void)state;
    static const int64_t ragged[] = {1, 63, 0, 36};
    krait_scan_desc given = krait_scan_lru(65), reverse = krait_scan_lru(130);
    given.form = KRAIT_FORM_GIVEN;
    reverse.order = KRAIT_ORDER_REVERSE;
    from_states("lru", krait_scan_lru(64), NULL, false);
    from_states("lru ragged, adding", krait_scan_lru(33), ragged, true);
    from_states("lru, decay given", given, ragged, false);
    from_states("lru, reverse", reverse, ragged, false);
}

/* No gate; a, b and c so that nothing grows. */
static void convolution(const char *name, krait_scan_desc d, int64_t M, int64_t S,
                        const int64_t *counts, bool accumulate) {
    problem p;
    problem_make(&p, d, KR_F32, M, S, counts);
    problem_drop(&p, KR_SCAN_Z);
    free(p.backward.out[KR_SCAN_DZ].data);
    p.backward.out[KR_SCAN_DZ] = (kr_tensor){0};
    p.forward.threads = p.backward.threads = 3;
    p.forward.attr = &p.d;
    assert_int_equal(kr_scan_pick(&p.forward, false), KR_SCAN_CONV);
    check(name, &p, accumulate);
    problem_free(&p);
}

/* What varies in time is no convolution, whatever else fits. */
static void what_varies_is_not_convolved(void **state) {
    (void)state;
    static const char *const what[] = {"a", "b", "c", "gain"};
    for (int k = 0; k < 4; k++) {
        problem p;
        krait_scan_desc d = krait_scan_s4d(8, 4);
        d.form = KRAIT_FORM_GIVEN;
        bool *constant[] = {&d.a_constant, &d.b_constant, &d.c_constant};
        if (k < 3) *constant[k] = false;
        if (k == 3) d.gain = KRAIT_GAIN_GIVEN;
        problem_make(&p, d, KR_F32, 100, 1, NULL);
        problem_drop(&p, KR_SCAN_Z);
        p.forward.attr = p.backward.attr = &p.d;
        kr_scan_plan plan = kr_scan_pick(&p.forward, false), back = kr_scan_pick(&p.backward, true);
        print_message("S4D with %s of its own a row: %s, %s\n", what[k], kr_scan_plan_name(plan),
                      kr_scan_plan_name(back));
        assert_true(plan != KR_SCAN_CONV && plan != KR_SCAN_MODES && back != KR_SCAN_CONV);
        problem_free(&p);
    }
}

/* Few rows a sequence: row by row, in vectors over modes. */
static void few_rows(void **state) {
    (void)state;
    static const int64_t ragged[] = {1, 0, 3, 2};
    krait_scan_desc d = krait_scan_s4d(37, 5), log = krait_scan_s4d(20, 32), back;
    d.form = KRAIT_FORM_GIVEN;
    log.form = KRAIT_FORM_LOG;
    back = d;
    back.order = KRAIT_ORDER_REVERSE;
    const struct {
        const char *name;
        krait_scan_desc d;
        int64_t M, S;
        const int64_t *counts;
    } list[] = {{"s4d, a step of 4", d, 4, 4, NULL},
                {"s4d, few rows, ragged", d, 6, 4, ragged},
                {"s4d, few rows, logarithms", log, 6, 4, ragged},
                {"s4d, few rows, reverse", back, 6, 4, ragged}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        for (int add = 0; add < 2; add++) {
            problem p;
            problem_make(&p, list[i].d, KR_F32, list[i].M, list[i].S, list[i].counts);
            p.forward.threads = p.backward.threads = 3;
            p.forward.attr = &p.d;
            assert_int_equal(kr_scan_pick(&p.forward, false), KR_SCAN_MODES);
            check(list[i].name, &p, add);
            problem_free(&p);
        }
}

static void convolutions(void **state) {
    (void)state;
    static const int64_t ragged[] = {1, 63, 0, 36};
    krait_scan_desc d = krait_scan_s4d(37, 5), log = krait_scan_s4d(20, 32), back;
    d.form = KRAIT_FORM_GIVEN;
    log.form = KRAIT_FORM_LOG;
    back = d;
    back.order = KRAIT_ORDER_REVERSE;
    convolution("s4d, two sequences", d, 200, 2, NULL, false);
    convolution("s4d, ragged, adding", d, 100, 4, ragged, true);
    convolution("s4d, logarithms", log, 300, 2, NULL, false);
    convolution("s4d, reverse", back, 100, 4, ragged, true);
}

static void drop_outputs(problem *p) {
    kr_tensor *states[] = {&p->forward.out[KR_SCAN_OUT_STATE], &p->backward.in[KR_SCAN_DSTATE],
                           &p->backward.out[KR_SCAN_DSTATE_IN]};
    for (int i = 0; i < 3; i++) {
        free(states[i]->data);
        *states[i] = (kr_tensor){0};
    }
}

/* Row by row, with whatever the member can take; and the same as a convolution, without states. */
static void low_rank(const char *name, krait_scan_desc d, int64_t M, int64_t S,
                     const int64_t *counts, kr_scan_plan plan) {
    problem p;
    problem_make(&p, d, KR_F32, M, S, counts);
    problem_drop(&p, KR_SCAN_Z);
    free(p.backward.out[KR_SCAN_DZ].data);
    p.backward.out[KR_SCAN_DZ] = (kr_tensor){0};
    p.forward.threads = p.backward.threads = 3;
    p.forward.attr = &p.d;
    if (plan == KR_SCAN_CONV) {
        problem_drop(&p, KR_SCAN_STATE);
        drop_outputs(&p);
    }
    assert_int_equal(kr_scan_pick(&p.forward, false), plan);
    check(name, &p, M % 200 != 0);
    problem_free(&p);
}

static void low_ranks(void **state) {
    (void)state;
    static const int64_t ragged[] = {1, 63, 0, 36}, many[] = {1, 33, 0, 33, 33};
    krait_scan_desc back = krait_scan_s4(37, 5, 1);
    back.order = KRAIT_ORDER_REVERSE;
    low_rank("s4 row by row", krait_scan_s4(37, 6, 1), 200, 2, NULL, KR_SCAN_STEPS);
    low_rank("s4 row by row, ragged, adding", krait_scan_s4(20, 5, 2), 100, 4, ragged,
             KR_SCAN_STEPS);
    low_rank("s4 row by row, reverse", back, 100, 4, ragged, KR_SCAN_STEPS);
    low_rank("lssl", krait_scan_lssl(9, 7), 100, 4, ragged, KR_SCAN_STEPS);
    low_rank("s4", krait_scan_s4(37, 6, 1), 200, 5, NULL, KR_SCAN_CONV);
    low_rank("s4 of rank 2, ragged, adding", krait_scan_s4(20, 5, 2), 100, 5, many, KR_SCAN_CONV);
    low_rank("s4 of rank 4", krait_scan_s4(3, 3, 4), 300, 4, NULL, KR_SCAN_CONV);
    low_rank("s4, reverse", back, 100, 5, many, KR_SCAN_CONV);
}

/* The same bytes for any number of threads. */
static void any_threads(krait_scan_desc d) {
    problem p;
    kr_tensor y[KR_SCAN_OUTS], g[KR_SCAN_GRAD_OUTS];
    problem_make(&p, d, KR_F32, 200, 5, NULL);
    bare(&p);
    for (int n = 1; n <= 7; n++) {
        p.forward.threads = p.backward.threads = n;
        problem_forward(&p, KR_LEVEL_V4);
        problem_backward(&p, KR_LEVEL_V4);
        if (n == 1) {
            copy(y, p.forward.out, KR_SCAN_OUTS);
            copy(g, p.backward.out, KR_SCAN_GRAD_OUTS);
        }
        for (int i = 0; i < KR_SCAN_OUTS; i++)
            assert_memory_equal(y[i].data, p.forward.out[i].data, kr_tensor_bytes(&y[i]));
        for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++)
            if (g[i].data)
                assert_memory_equal(g[i].data, p.backward.out[i].data, kr_tensor_bytes(&g[i]));
    }
    drop(y, KR_SCAN_OUTS);
    drop(g, KR_SCAN_GRAD_OUTS);
    problem_free(&p);
}

static void threads(void **state) {
    (void)state;
    any_threads(krait_scan_mamba1(300, 16));
    any_threads(krait_scan_mamba2(9, 7, 20, 3));
    any_threads(krait_scan_mamba2(9, 12, 20, 3));
    any_threads(krait_scan_lru(300));
    any_threads(krait_scan_s4(300, 5, 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lanes),         cmocka_unit_test(rows),
        cmocka_unit_test(complex_lanes), cmocka_unit_test(states_that_were_kept),
        cmocka_unit_test(few_rows),      cmocka_unit_test(convolutions),
        cmocka_unit_test(low_ranks),     cmocka_unit_test(chunks),
        cmocka_unit_test(threads),       cmocka_unit_test(what_varies_is_not_convolved)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
