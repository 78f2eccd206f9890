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
#include "ops/gated_rmsnorm/gated_rmsnorm.h"

enum { T = 9, D = 6, MOST = 600, PARAMS = 16, WIDE = 64 };

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

typedef struct rig {
    kr_graph *g;
    kr_config c;
    kr_mamba2 m;
    kr_value *out;
    const char *names[PARAMS];
    double values[PARAMS][MOST], a[T * D];
    int64_t seqs[3];
    int n;
} rig;

static void bind(rig *r, kr_value *v, void *data) {
    kr_tensor t = *kr_value_tensor(v);
    krait_error e;
    t.data = data;
    if (kr_graph_bind(r->g, v, &t, &e) < 0) fail_msg("%s", e.message);
}

/* The mixer on T rows of D numbers, every parameter drawn by its name. */
static void open_rig(rig *r, const char *set) {
    krait_error e;
    memset(r, 0, sizeof *r);
    if (kr_config_make(&r->c, "mamba2", D, 1, 11, set, &e) < 0) fail_msg("%s", e.message);
    r->m = kr_mamba2_of(&r->c);
    r->g = kr_graph_create(&(kr_graph_options){.f64 = true, .threads = 1}, &e);
    assert_non_null(r->g);
    kr_nn nn = {.g = r->g, .config = &r->c};
    kr_value *a = kr_graph_input(r->g, "a", KR_F64, KR_DIM0_TOKENS, 2, (int64_t[]){T, D});
    nn.seqs = kr_graph_input(r->g, "seqs", KR_I64, KR_DIM0_FIXED, 2, (int64_t[]){1, 3});
    r->out = kr_mixer_find("mamba2")->build(&nn, a);
    kr_graph_output(r->g, "out", r->out);
    if (!kr_graph_ok(r->g, &e)) fail_msg("%s", e.message);
    r->n = kr_graph_param_count(r->g);
    for (int i = 0; i < r->n && i < PARAMS; i++) {
        const kr_param_decl *d;
        kr_value *v = kr_graph_param_at(r->g, i, &d);
        kr_rng rng = kr_rng_make(3, kr_hash_string(d->name));
        assert_true(kr_tensor_count(kr_value_tensor(v)) <= MOST);
        for (int j = 0; j < MOST; j++) r->values[i][j] = 0.6 * kr_rng_normal(&rng);
        r->names[i] = d->name;
        bind(r, v, r->values[i]);
    }
    kr_rng rng = kr_rng_make(4, 5);
    for (int i = 0; i < T * D; i++) r->a[i] = kr_rng_normal(&rng);
    r->seqs[1] = T;
    bind(r, a, r->a);
    bind(r, nn.seqs, r->seqs);
    if (kr_graph_plan(r->g, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(kr_graph_allocate(r->g, &e), 0);
}

static double *param(rig *r, const char *name) {
    for (int i = 0; i < r->n; i++)
        if (strcmp(r->names[i], name) == 0) return r->values[i];
    fail_msg("%s", name);
    return NULL;
}

/* Where the slices of in_proj begin: z0, x0, z, x, B, C, dt; and the end. */
static void slices(const kr_mamba2 *m, int64_t at[8]) {
    int64_t rest = m->inner - m->ssm, GN = m->groups * m->state;
    const int64_t sizes[7] = {rest, rest, m->ssm, m->ssm, GN, GN, m->ssm / m->head_dim};
    at[0] = 0;
    for (int i = 0; i < 7; i++) at[i + 1] = at[i] + sizes[i];
}

/* x, B and C behind the convolution. */
static void convolve(rig *r, const int64_t at[8], double all[T][WIDE], double mixed[T][WIDE]) {
    int64_t K = r->m.kernel;
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < at[6] - at[3]; i++) {
            double sum = param(r, "conv1d.bias")[i];
            for (int64_t k = 0; k < K && k <= t; k++)
                sum += param(r, "conv1d.weight")[i * K + K - 1 - k] * all[t - k][at[3] + i];
            mixed[t][i] = silu(sum);
        }
}

/* y_t = S_t C_t + D x_t for all rows, [T,ssm]. */
static void recur(rig *r, const int64_t at[8], double all[T][WIDE], double mixed[T][WIDE],
                  double y[T][WIDE]) {
    const kr_mamba2 *m = &r->m;
    int64_t N = m->state, B = m->ssm, C = B + m->groups * N, H = m->ssm / m->head_dim;
    for (int64_t i = 0; i < m->ssm; i++) {
        int64_t h = i / m->head_dim, g = h / (H / m->groups);
        double S[WIDE] = {0}, A = -exp(param(r, "A_log")[h]);
        for (int64_t t = 0; t < T; t++) {
            double dt = log1p(exp(all[t][at[6] + h] + param(r, "dt_bias")[h]));
            y[t][i] = param(r, "D")[h] * mixed[t][i];
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
    const kr_mamba2 *m = &r->m;
    int64_t at[8], rest = m->inner - m->ssm, group = m->ssm / m->groups;
    slices(m, at);
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < at[7]; i++) {
            all[t][i] = 0;
            for (int64_t j = 0; j < D; j++)
                all[t][i] += param(r, "in_proj.weight")[i * D + j] * r->a[t * D + j];
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
            v[rest + i] =
                param(r, "norm.weight")[i] * y[t][i] / sqrt(square / (double)group + r->c.norm_eps);
        }
        for (int64_t d = 0; d < D; d++) {
            out[t][d] = 0;
            for (int64_t i = 0; i < m->inner; i++)
                out[t][d] += param(r, "out_proj.weight")[d * m->inner + i] * v[i];
        }
    }
}

/* The graph against the formulas; *out: what it gave. */
static double difference(rig *r, double out[T * D]) {
    double want[T][D], worst = 0, size = 0;
    krait_error e;
    if (kr_graph_run(r->g, T, 0, &e) < 0) fail_msg("%s", e.message);
    memcpy(out, kr_value_tensor(r->out)->data, T * D * sizeof *out);
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
        open_rig(&r, sets[k]);
        slices(&r.m, at);
        double off = difference(&r, before);
        print_message("mamba2.md A2: %s: off by %.1e\n", sets[k], off);
        assert_true(off < 1e-12);
        for (int i = 0; i < 7; i++) {
            if (at[i] == at[i + 1]) continue;
            double moved = 0, *w = param(&r, "in_proj.weight") + (at[i + 1] - 1) * D;
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
