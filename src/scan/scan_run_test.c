/* scan_run_test.c - the engine on plain arrays against loops written out here, its gradient against
 * differences, and what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include "base/test_worst.h"
#include <krait/scan.h>
#include <math.h>
#include <string.h>

#include "scan/scan_plan.h"

enum { M = 23, E = 5, N = 3 };

static krait_error error;
static float x[M * E], dt[M * E], a[E * N], b[M * N], c[M * N], skip[E], z[M * E], state[2 * E * N];
static const int64_t seqs[] = {0, 10, 1, 10, 13, 0};

static void fill(float *to, int n, unsigned seed, float low, float high) {
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525U + 1013904223U;
        to[i] = low + (high - low) * (float)(seed >> 8) / 16777216.0F;
    }
}

static krait_scan_arrays arrays(float *h, float *y) {
    fill(x, M * E, 1, -1, 1);
    fill(dt, M * E, 2, -3, 0);
    fill(a, E * N, 3, -2, -0.1F);
    fill(b, M * N, 4, -1, 1);
    fill(c, M * N, 5, -1, 1);
    fill(skip, E, 6, -1, 1);
    fill(z, M * E, 7, -2, 2);
    fill(h, 2 * E * N, 8, -1, 1);
    return (krait_scan_arrays){.rows = M,
                               .sequences = 2,
                               .slots = 2,
                               .seqs = seqs,
                               .x = x,
                               .dt = dt,
                               .a = a,
                               .b = b,
                               .c = c,
                               .d = skip,
                               .z = z,
                               .state = h,
                               .y = y};
}

/* Mamba's recurrence as the header writes it, in double. */
static void by_hand(const double *h0, double *y, double *h) {
    memcpy(h, h0, 2 * E * N * sizeof *h);
    for (int s = 0; s < 2; s++)
        for (int64_t t = seqs[3 * s]; t < seqs[3 * s] + seqs[3 * s + 1]; t++)
            for (int e = 0; e < E; e++) {
                double delta = log1p(exp((double)dt[t * E + e])), sum = 0;
                for (int n = 0; n < N; n++) {
                    double *hn = &h[(seqs[3 * s + 2] * E + e) * N + n];
                    *hn = exp(delta * (double)a[e * N + n]) * *hn +
                          delta * (double)b[t * N + n] * (double)x[t * E + e];
                    sum += *hn * (double)c[t * N + n];
                }
                double gate = (double)z[t * E + e];
                sum += (double)skip[e] * (double)x[t * E + e];
                y[t * E + e] = sum * gate / (1 + exp(-gate));
            }
}

static void test_forward(void **unused) {
    (void)unused;
    float y[M * E];
    double h0[2 * E * N], want[M * E], want_h[2 * E * N], worst = 0;
    krait_scan_desc d = krait_scan_mamba1(E, N);
    krait_scan_arrays k = arrays(state, y);
    for (int i = 0; i < 2 * E * N; i++) h0[i] = (double)state[i];
    by_hand(h0, want, want_h);
    assert_int_equal(krait_scan_run(&d, &k, 2, &error), 0);
    for (int i = 0; i < M * E; i++) worst = kr_worst(worst, fabs((double)y[i] - want[i]));
    for (int i = 0; i < 2 * E * N; i++) worst = kr_worst(worst, fabs((double)state[i] - want_h[i]));
    print_message("largest difference from the loop: %.1e\n", worst);
    assert_true(worst < 1e-5);
}

static double sum_of_squares(krait_scan_desc *d, krait_scan_arrays *k) {
    double sum = 0;
    fill(k->state, 2 * E * N, 8, -1, 1);
    assert_int_equal(krait_scan_run(d, k, 1, &error), 0);
    for (int i = 0; i < M * E; i++) sum += (double)k->y[i] * (double)k->y[i] / 2;
    return sum;
}

static void test_gradient(void **unused) {
    (void)unused;
    float y[M * E], da[E * N], dh[2 * E * N];
    krait_scan_desc d = krait_scan_mamba1(E, N);
    krait_scan_arrays k = arrays(state, y);
    sum_of_squares(&d, &k);
    fill(state, 2 * E * N, 8, -1, 1);
    krait_scan_gradients g = {.dy = y, .da = da, .dstate_in = dh};
    assert_int_equal(krait_scan_gradient(&d, &k, &g, 2, &error), 0);
    double worst = 0, largest = 0;
    for (int i = 0; i < E * N; i++) {
        float old = a[i], step = 0.01F;
        a[i] = old + step;
        double up = sum_of_squares(&d, &k);
        a[i] = old - step;
        double down = sum_of_squares(&d, &k);
        a[i] = old;
        worst = kr_worst(worst, fabs((up - down) / (2 * (double)step) - (double)da[i]));
        largest = fmax(largest, fabs((double)da[i]));
    }
    print_message("gradient of A against differences: %.1e of %.2f\n", worst, largest);
    assert_true(largest > 0.01 && worst < 1e-3 * largest);
}

static void test_refusals(void **unused) {
    (void)unused;
    float y[M * E];
    krait_scan_desc d = krait_scan_mamba1(E, N);
    krait_scan_arrays good = arrays(state, y), k;
    static const int64_t gap[] = {0, 10, 1, 11, 12, 0}, slot[] = {0, 10, 2, 10, 13, 0},
                         few[] = {0, 10, 1, 10, 12, 0}, huge[] = {0, 10, 1, 10, INT64_MAX, 0},
                         shared[] = {0, 10, 1, 10, 13, 1};
    const int64_t *const wrong[] = {gap, slot, few, huge, shared};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        k = good;
        k.seqs = wrong[i];
        assert_int_equal(krait_scan_run(&d, &k, 1, &error), KRAIT_ERR_ARGUMENT);
    }
    assert_non_null(strstr(error.message, "sequence 1 has slot 1, as one before it"));
    k = good; /* a gradient of states that are nowhere */
    k.state = NULL;
    k.slots = 0;
    krait_scan_gradients g = {.dy = y, .dstate_out = state};
    assert_int_equal(krait_scan_gradient(&d, &k, &g, 1, &error), KRAIT_ERR_ARGUMENT);
    print_message("%s\n", error.message);
    k = good;
    k.b = NULL;
    assert_true(krait_scan_run(&d, &k, 1, &error) < 0);
    k = good;
    k.y = NULL;
    assert_true(krait_scan_run(&d, &k, 1, &error) < 0);
    static const int32_t table[M + 1] = {M}; /* a row that is not there */
    k = good;
    k.seqs = NULL; /* one sequence, whatever `sequences` says */
    k.sequences = 0;
    k.index = table;
    k.index_count = M + 1;
    d.order = KRAIT_ORDER_INDEX;
    assert_int_equal(krait_scan_run(&d, &k, 1, &error), KRAIT_ERR_ARGUMENT);
    print_message("last refusal: %s\n", error.message);
    assert_non_null(strstr(error.message, "index table"));
    d.order = KRAIT_ORDER_FORWARD;
    assert_int_equal(krait_scan_run(NULL, &good, 1, &error), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_scan_run(&d, NULL, 1, &error), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_scan_gradient(&d, &good, NULL, 1, &error), KRAIT_ERR_ARGUMENT);
}

/* A description whose sizes are good one by one and together beyond counting is refused by the
 * check, in front of any call; so is each bad one, with its value and what is allowed. */
static void test_bad_descriptions(void **unused) {
    (void)unused;
    float y[4];
    krait_scan_arrays k = {
        .rows = 1, .sequences = 1, .x = y, .dt = y, .a = y, .b = y, .c = y, .y = y};
    const int64_t most = (int64_t)1 << 24;
    krait_scan_desc d = krait_scan_mamba2(most, most, 65536, 1);
    assert_int_equal(krait_scan_check(&d, &error), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_scan_run(&d, &k, 1, &error), KRAIT_ERR_ARGUMENT);
    print_message("  %s\n", error.message);
    assert_non_null(strstr(error.message, "heads (16777216) x width (16777216) x state (65536)"));
    assert_non_null(strstr(error.message, "at most 1099511627776"));
    d = krait_scan_s4(1 << 20, 65536, 4096);
    assert_int_equal(krait_scan_check(&d, &error), KRAIT_ERR_ARGUMENT);
    d = krait_scan_mamba3(1 << 20, 1 << 12, 256, 4); /* one step below, with its ranks not */
    assert_int_equal(krait_scan_check(&d, &error), KRAIT_ERR_ARGUMENT);
    d.heads = 1 << 12;
    d.groups = 1 << 12;
    assert_int_equal(krait_scan_check(&d, &error), 0);

    struct {
        krait_scan_desc d;
        const char *part;
    } list[9];
    for (int i = 0; i < 9; i++) list[i].d = krait_scan_mamba2(6, 2, 4, 2);
    list[0].d.groups = 4, list[0].part = "heads (6) must be a multiple of groups (4)";
    list[1].d.decay = (krait_scan_decay)9,
    list[1].part = "decay must be a krait_scan_decay, 0 to 3, is 9";
    list[2].d.order = (krait_scan_order)5, list[2].part = "order, 0 to 2, is 5";
    list[3].d.kappa = INFINITY, list[3].part = "kappa must be finite, is inf";
    list[4].d.complex_lanes = true, list[4].part = "state 1 (4)";
    list[5].d.low_rank = 5000, list[5].part = "low_rank must be 0 to 4096, is 5000";
    list[6].d.low_rank = 2, list[6].part = "low_rank (2) needs decay 2 (VECTOR, is 1)";
    list[7].d.dt_min = -1, list[7].part = "must be 0 or more, are -1 and 0";
    list[8].d.dt_min = 2, list[8].d.dt_max = 1,
    list[8].part = "dt_min (2) must be at most dt_max (1)";
    for (int i = 0; i < 9; i++) {
        assert_int_equal(krait_scan_check(&list[i].d, &error), KRAIT_ERR_ARGUMENT);
        print_message("  %s\n", error.message);
        assert_non_null(strstr(error.message, list[i].part));
    }
}

/* A plan is never asked for: a convolution is picked where nothing varies in time, and a decay that
 * does takes another way. */
static void test_convolution_needs_constants(void **unused) {
    (void)unused;
    enum { ROWS = 4096, CHANNELS = 4, MODES = 8, SEQUENCES = 16 };
    int64_t each[3 * SEQUENCES];
    float any = 0;
    for (int i = 0; i < SEQUENCES; i++) {
        each[3 * i] = i * (ROWS / SEQUENCES);
        each[3 * i + 1] = ROWS / SEQUENCES;
        each[3 * i + 2] = i;
    }
    for (int rank = 0; rank < 2; rank++)
        for (int varies = 0; varies < 4; varies++) { /* nothing, the decay, b, c */
            krait_scan_desc d = krait_scan_s4(CHANNELS, MODES, rank);
            kr_call k = {.n_in = KR_SCAN_INS, .n_out = 1, .attr = &d};
            d.a_constant = varies != 1;
            d.b_constant = varies != 2;
            d.c_constant = varies != 3;
            k.in[KR_SCAN_X] = kr_tensor_make(&any, KR_F32, 2, (int64_t[]){ROWS, CHANNELS});
            k.in[KR_SCAN_SEQS] = kr_tensor_make(each, KR_I64, 2, (int64_t[]){SEQUENCES, 3});
            kr_scan_plan p = kr_scan_pick(&k, false);
            print_message("  rank %d, %d varies: %s\n", rank, varies, kr_scan_plan_name(p));
            assert_true((p == KR_SCAN_CONV) == (varies == 0));
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_bad_descriptions),
        cmocka_unit_test(test_convolution_needs_constants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
