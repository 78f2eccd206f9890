/* mamba2_test.c - mamba2.md, checks 5 and 7: the gated norm, and in which order the projection's
 * columns lie, d_ssm included; against section A2 written out here in double.
 *
 * Checks 1, 2 and 4 are scan_chunk_test.c, 3 is scan_member_test.c, 6 is scan_test.c (the
 * recurrence) and lm_test.c (a whole model), the totals of 7 are config_test.c; the official
 * formulas in PyTorch and transformers are mamba_reference_test.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "base/test_worst.h"
#include "mixers/mamba2/mamba2.h"
#include "mixers/mixer_rig.h"
#include "ops/gated_rmsnorm/gated_rmsnorm.h"

enum { T = RIG_ROWS, D = RIG_WIDTH, WIDE = 64 };

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double silu(double x) { return x * sigmoid(x); }

/* ---- check 5 ---- */

enum { W = 12 };

static void norm(double y[W], double z[W], double groups, bool before, double out[W]) {
    double w[W];
    for (int i = 0; i < W; i++) w[i] = 1 + 0.1 * i;
    kr_gated_rmsnorm_attr attr = {1e-5, (int64_t)groups, before};
    kr_call c = {.attr = &attr, .n_in = 3, .n_out = 1, .threads = 1};
    c.in[0] = kr_tensor_make(y, KR_F64, 2, (int64_t[]){1, W});
    c.in[1] = kr_tensor_make(z, KR_F64, 2, (int64_t[]){1, W});
    c.in[2] = kr_tensor_make(w, KR_F64, 1, (int64_t[]){W});
    c.out[0] = kr_tensor_make(out, KR_F64, 2, (int64_t[]){1, W});
    kr_op_kernel(&kr_op_gated_rmsnorm, KR_LEVEL_REF64)(&c);
}

static void the_gate_is_in_front_of_the_norm(void **state) {
    (void)state;
    double y[W], z[W], far[W], out[W], more[W], other[W], grows = 0, changed = 0, apart = 0;
    kr_rng rng = kr_rng_make(1, 2);
    for (int i = 0; i < W; i++) {
        y[i] = 3 * kr_rng_normal(&rng);
        z[i] = 50;
        far[i] = 500; /* silu(z) is z */
    }
    norm(y, z, 3, false, out);
    norm(y, far, 3, false, more);
    for (int i = 0; i < W; i++) changed = fmax(changed, fabs(more[i] / out[i] - 1));
    norm(y, z, 3, true, out);
    norm(y, far, 3, true, more);
    for (int i = 0; i < W; i++) grows = fmax(grows, fabs(more[i] / out[i] - 10));
    print_message(
        "mamba2.md 5: ten times the gate: behind it nothing changes (%.1e), with the norm "
        "first ten times the output (%.1e)\n",
        changed, grows);
    assert_true(changed < 1e-6 && grows < 1e-9);
    norm(y, z, 3, false, out);
    y[1] += 5; /* of the first of three groups of four */
    norm(y, z, 3, false, other);
    for (int i = 4; i < W; i++) apart = kr_worst(apart, fabs(other[i] - out[i]));
    for (int i = 0; i < 4; i++) assert_true(other[i] != out[i]);
    print_message("mamba2.md 5: groups of %d: another group moved by %.1e\n", W / 3, apart);
    assert_true(apart == 0);
}

/* ---- check 7 ---- */

/* Where the slices of in_proj begin: z0, x0, z, x, B, C, dt; and the end. */
static void slices(const kr_mamba2 *m, int64_t at[8]) {
    int64_t rest = m->inner - m->ssm, GN = m->groups * m->state;
    const int64_t sizes[7] = {rest, rest, m->ssm, m->ssm, GN, GN, m->ssm / m->head_dim};
    at[0] = 0;
    for (int i = 0; i < 7; i++) at[i + 1] = at[i] + sizes[i];
}

/* x, B and C behind the convolution. */
static void convolve(rig *r, const int64_t at[8], double all[T][WIDE], double mixed[T][WIDE]) {
    int64_t K = kr_mamba2_of(&r->c).kernel;
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < at[6] - at[3]; i++) {
            double sum = rig_param(r, "conv1d.bias")[i];
            for (int64_t k = 0; k < K && k <= t; k++)
                sum += rig_param(r, "conv1d.weight")[i * K + K - 1 - k] * all[t - k][at[3] + i];
            mixed[t][i] = silu(sum);
        }
}

/* y_t = S_t C_t + D x_t for all rows, [T,ssm]. */
static void recur(rig *r, const int64_t at[8], double all[T][WIDE], double mixed[T][WIDE],
                  double y[T][WIDE]) {
    kr_mamba2 mine = kr_mamba2_of(&r->c), *m = &mine;
    int64_t N = m->state, B = m->ssm, C = B + m->groups * N, H = m->ssm / m->head_dim;
    for (int64_t i = 0; i < m->ssm; i++) {
        int64_t h = i / m->head_dim, g = h / (H / m->groups);
        double S[WIDE] = {0}, A = -exp(rig_param(r, "A_log")[h]);
        for (int64_t t = 0; t < T; t++) {
            double dt = log1p(exp(all[t][at[6] + h] + rig_param(r, "dt_bias")[h]));
            y[t][i] = rig_param(r, "D")[h] * mixed[t][i];
            for (int64_t n = 0; n < N; n++) {
                S[n] = exp(dt * A) * S[n] + dt * mixed[t][i] * mixed[t][B + g * N + n];
                y[t][i] += S[n] * mixed[t][C + g * N + n];
            }
        }
    }
}

/* Section A2: out [T,D]. */
static void by_hand(rig *r, double out[T][D]) {
    static double all[T][WIDE], mixed[T][WIDE], y[T][WIDE];
    kr_mamba2 mine = kr_mamba2_of(&r->c), *m = &mine;
    int64_t at[8], rest = m->inner - m->ssm, group = m->ssm / m->groups;
    slices(m, at);
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < at[7]; i++) {
            all[t][i] = 0;
            for (int64_t j = 0; j < D; j++)
                all[t][i] += rig_param(r, "in_proj.weight")[i * D + j] * r->a[t * D + j];
        }
    convolve(r, at, all, mixed);
    recur(r, at, all, mixed, y);
    for (int64_t t = 0; t < T; t++) {
        double v[WIDE] = {0};
        for (int64_t i = 0; i < rest; i++) v[i] = silu(all[t][i]) * all[t][at[1] + i];
        for (int64_t i = 0; i < m->ssm; i++) y[t][i] *= silu(all[t][at[2] + i]);
        for (int64_t i = 0; i < m->ssm; i++) {
            double square = 0;
            for (int64_t k = 0; k < group; k++)
                square += y[t][i / group * group + k] * y[t][i / group * group + k];
            v[rest + i] = rig_param(r, "norm.weight")[i] * y[t][i] /
                          sqrt(square / (double)group + r->c.norm_eps);
        }
        for (int64_t d = 0; d < D; d++) {
            out[t][d] = 0;
            for (int64_t i = 0; i < m->inner; i++)
                out[t][d] += rig_param(r, "out_proj.weight")[d * m->inner + i] * v[i];
        }
    }
}

/* The graph against the formulas; *out: what it gave. */
static double difference(rig *r, double out[T * D]) {
    double want[T][D], worst = 0, size = 0;
    memcpy(out, rig_run_all(r), T * D * sizeof *out);
    by_hand(r, want);
    for (int i = 0; i < T * D; i++) {
        worst = kr_worst(worst, fabs(out[i] - want[i / D][i % D]));
        size = fmax(size, fabs(want[i / D][i % D]));
    }
    return worst / size;
}

/* One row of each slice in turn has one number more: what comes out moves, as the formulas say. */
static void columns_lie_in_the_official_order(void **state) {
    (void)state;
    static rig r;
    static const char *const of[] = {"z0", "x0", "z", "x", "B", "C", "dt"};
    static const char *const sets[] = {"inner=12 head_dim=3 state=4 groups=2 kernel=3",
                                       "inner=14 ssm=8 head_dim=2 state=3 groups=2"};
    for (int k = 0; k < 2; k++) {
        double before[T * D], after[T * D];
        int64_t at[8];
        rig_open(&r, "mamba2", sets[k]);
        kr_mamba2 m = kr_mamba2_of(&r.c);
        slices(&m, at);
        double off = difference(&r, before);
        print_message("mamba2.md A2: %s: off by %.1e\n", sets[k], off);
        assert_true(off < 1e-12);
        for (int i = 0; i < 7; i++) {
            if (at[i] == at[i + 1]) continue;
            double moved = 0, *w = rig_param(&r, "in_proj.weight") + (at[i + 1] - 1) * D;
            *w += 1;
            off = difference(&r, after);
            *w -= 1;
            for (int j = 0; j < T * D; j++) moved = fmax(moved, fabs(after[j] - before[j]));
            print_message("mamba2.md 7: one number of %s: moved by %.2g, off by %.1e\n", of[i],
                          moved, off);
            assert_true(moved > 1e-3 && off < 1e-12);
        }
        kr_graph_free(r.g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_gate_is_in_front_of_the_norm),
        cmocka_unit_test(columns_lie_in_the_official_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
