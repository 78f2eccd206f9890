/* mamba3_test.c - the checks of the sheet mamba2.md that are about Mamba-3 (8, 9, 10), each a test,
 * in double: the mixer whole and token by token against the parallel form, written out here; where
 * it becomes Mamba-2; what turns and what does not; its decay rates; initial values and which
 * parameters decay.
 *
 * The published layout and the original formulas' numbers: tests/mamba_reference_test.c. What holds
 * for every mixer: lm_test.c and selftest_model_test.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/test_worst.h"
#include "mixers/mamba3/mamba3.h"
#include "mixers/mixer_rig.h"
#include "models/lm.h"

enum { T = RIG_ROWS, D = RIG_WIDTH, E = 24, KEYS = 64, PHASE = 0, KEY = 2, VALUE = 3 };

static const double pi = 3.14159265358979323846;

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double silu(double x) { return x * sigmoid(x); }
static double softplus(double x) { return log1p(exp(x)); }

/* ---- the definition ---- */

/* Settings and sizes of a rig's mixer. */
typedef struct sizes {
    kr_mamba3 s;
    int64_t H, R, P, N, S;
} sizes;

static sizes sizes_of(const rig *r) {
    kr_mamba3 s = kr_mamba3_of(&r->c);
    sizes z = {s,       kr_mamba3_heads(&s), kr_mamba3_ranks(&s), s.head_dim,
               s.state, kr_mamba3_angles(&s)};
    assert_true(s.inner <= E && z.H * z.R * z.N <= KEYS && z.R * s.inner <= KEYS);
    return z;
}

/* Of every token: values and gates [R,H,P], keys and queries [R,H,N]; a number a head each. */
typedef struct token {
    double v[KEYS], gate[KEYS], k[KEYS], q[KEYS], x[E];
    double dt[E], log[E], mix[E], phi[E * 4];
} token;

/* A key (or query) of the token: normed, shifted, turned. */
static void key_of(const rig *r, const sizes *z, const double *from, const char *name,
                   const double *phi, double *to) {
    char full[32];
    int64_t G = z->s.groups, N = z->N;
    snprintf(full, sizeof full, "%s_norm.weight", name);
    const double *weight = rig_param(r, full);
    snprintf(full, sizeof full, "%s_bias", name);
    const double *bias = rig_param(r, full);
    for (int64_t i = 0; i < z->R * z->H; i++) {
        int64_t rank = i / z->H, h = i % z->H;
        const double *x = from + (rank * G + h / (z->H / G)) * N;
        double u[KEYS], square = 0;
        for (int64_t n = 0; n < N; n++) square += x[n] * x[n] / (double)N;
        for (int64_t n = 0; n < N; n++)
            u[n] = x[n] / sqrt(square + 1e-5) * weight[n] + bias[(h * z->R + rank) * N + n];
        for (int64_t a = 0; a < z->S; a++) {
            int64_t p = z->s.rank ? a : 2 * a, q = z->s.rank ? a + N / 2 : 2 * a + 1;
            double c = cos(phi[h * z->S + a]), s = sin(phi[h * z->S + a]), old = u[p];
            u[p] = old * c - u[q] * s;
            u[q] = old * s + u[q] * c;
        }
        memcpy(to + i * N, u, (size_t)N * sizeof *u);
    }
}

/* phi of the token before; NULL: there is none. */
static void token_of(const rig *r, const sizes *z, const double *a, const double *before,
                     token *t) {
    double all[400];
    int64_t inner = z->s.inner, keys = z->R * z->s.groups * z->N, H = z->H;
    int64_t b = 2 * inner, c = b + keys, dt = c + keys, angle = dt + 3 * H;
    assert_true(angle + z->S <= 400);
    rig_product(rig_param(r, "in_proj.weight"), 0, angle + z->S, D, a, NULL, all);
    for (int64_t h = 0; h < H; h++) {
        double rate = all[dt + H + h];
        double f = z->s.rate == KR_RATE_SOFTPLUS ? softplus(rate)
                   : rate >= 0                   ? 1 + rate
                                                 : 1 / (1 - rate);
        t->dt[h] = softplus(all[dt + h] + rig_param(r, "dt_bias")[h]);
        t->log[h] = -fmax(f, z->s.a_floor) * t->dt[h];
        t->mix[h] = sigmoid(all[dt + 2 * H + h]);
        for (int64_t i = 0; i < z->S; i++)
            t->phi[h * z->S + i] =
                (before ? before[h * z->S + i] : 0) + pi * tanh(all[angle + i]) * t->dt[h];
    }
    key_of(r, z, all + b, "B", t->phi, t->k);
    key_of(r, z, all + c, "C", t->phi, t->q);
    memcpy(t->x, all + inner, (size_t)inner * sizeof *all);
    for (int64_t i = 0; i < z->R * inner; i++) {
        int64_t e = i % inner, w = (e / z->P * z->R + i / inner) * z->P + e % z->P;
        t->v[i] = t->x[e] * (z->s.rank ? rig_param(r, "mimo_x")[w] : 1);
        t->gate[i] = silu(all[e] * (z->s.rank ? rig_param(r, "mimo_z")[w] : 1));
    }
}

static double dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* y_r of channel p of head h of token t: the sum over all tokens up to it, each with the share of
 * its own step and, but for the last, of the next one's. */
static double parallel(const sizes *z, const token *all, int t, int64_t r, int64_t h, int64_t p) {
    double sum = 0;
    for (int u = 0; u <= t; u++) {
        double way = 0, share = all[u].mix[h] * all[u].dt[h];
        if (u < t) share += all[u + 1].dt[h] * (1 - all[u + 1].mix[h]);
        for (int i = u + 1; i <= t; i++) way += all[i].log[h];
        for (int64_t s = 0; s < z->R; s++)
            sum += exp(way) * share * all[u].v[s * z->s.inner + h * z->P + p] *
                   dot(all[t].q + (r * z->H + h) * z->N, all[u].k + (s * z->H + h) * z->N, z->N);
    }
    return sum;
}

/* out [D] of token t. */
static void output(const rig *r, const sizes *z, const token *all, int t, double *out) {
    double o[E] = {0};
    for (int64_t i = 0; i < z->R * z->H; i++) {
        int64_t rank = i / z->H, h = i % z->H, first = rank * z->s.inner + h * z->P;
        double y[E], square = 0;
        for (int64_t p = 0; p < z->P; p++) {
            y[p] = parallel(z, all, t, rank, h, p) + rig_param(r, "D")[h] * all[t].v[first + p];
            square += y[p] * y[p] / (double)z->P;
        }
        for (int64_t p = 0; p < z->P; p++) {
            if (z->s.out_norm)
                y[p] *= rig_param(r, "norm.weight")[h * z->P + p] / sqrt(square + 1e-5);
            o[h * z->P + p] +=
                y[p] * all[t].gate[first + p] *
                (z->s.rank ? rig_param(r, "mimo_o")[(h * z->R + rank) * z->P + p] : 1);
        }
    }
    rig_product(rig_param(r, "out_proj.weight"), 0, D, z->s.inner, o, NULL, out);
}

static void tokens_of(const rig *r, const sizes *z, token all[T]) {
    for (int t = 0; t < T; t++) token_of(r, z, r->a + t * D, t ? all[t - 1].phi : NULL, &all[t]);
}

static const char *const forms[] = {
    "inner=12 head_dim=3 state=6 groups=2",
    "inner=12 head_dim=4 state=7 turned=all out_norm=true a_floor=1.1",
    "inner=12 head_dim=6 state=6 rank=4",
    "inner=12 head_dim=4 state=6 rank=3 groups=3 turned=all out_norm=true rate=softplus",
    "inner=8 head_dim=8 state=5 rank=1"};
enum { FORMS = sizeof forms / sizeof *forms };

/* mamba2.md check 8, first half. Both pairings: SISO turns neighbours, MIMO halves. */
static void steps_are_the_parallel_form(void **state) {
    (void)state;
    static rig r;
    static token all[T];
    for (int i = 0; i < FORMS; i++) {
        double want[T * D], got[T * D];
        rig_open(&r, "mamba3", forms[i]);
        sizes z = sizes_of(&r);
        tokens_of(&r, &z, all);
        for (int t = 0; t < T; t++) output(&r, &z, all, t, want + t * D);
        double whole = rig_difference(rig_run(&r, 0, T), want, T * D);
        double key = rig_difference(r.states[KEY], all[T - 1].k, z.R * z.H * z.N);
        double value = rig_difference(r.states[VALUE], all[T - 1].x, z.s.inner);
        memset(r.states, 0, sizeof r.states);
        for (int t = 0; t < T; t++) memcpy(got + t * D, rig_run(&r, t, 1), D * sizeof *got);
        double steps = rig_difference(got, want, T * D);
        print_message("%s: whole %.2g, steps %.2g; last key %.2g, value %.2g\n", forms[i], whole,
                      steps, key, value);
        assert_true(whole <= 1e-12 && steps <= 1e-12 && key <= 1e-12 && value <= 1e-12);
        kr_graph_free(r.g);
    }
}

/* ---- where it is Mamba-2 ---- */

/* Rows [first, first + count) of in_proj give `value` for every token whose last number is 1. */
static void fix_rows(const rig *r, int64_t first, int64_t count, double value) {
    double *w = rig_param(r, "in_proj.weight") + first * D;
    for (int64_t i = 0; i < count * D; i++) w[i] = i % D == D - 1 ? value : 0;
}

/* out [T,D] of Mamba-2 without convolution, of one group, by its recurrence with A = -1.7. */
static void mamba2_without_convolution(const rig *r, const sizes *z, const token *all,
                                       double *out) {
    static double h[E][KEYS];
    memset(h, 0, sizeof h);
    for (int t = 0; t < T; t++) {
        double o[E];
        for (int64_t e = 0; e < z->s.inner; e++) {
            int64_t head = e / z->P;
            double dt = all[t].dt[head], y = rig_param(r, "D")[head] * all[t].x[e];
            for (int64_t n = 0; n < z->N; n++) {
                h[e][n] = exp(-1.7 * dt) * h[e][n] + dt * all[t].x[e] * all[t].k[head * z->N + n];
                y += h[e][n] * all[t].q[head * z->N + n];
            }
            o[e] = y * all[t].gate[e];
        }
        rig_product(rig_param(r, "out_proj.weight"), 0, D, z->s.inner, o, NULL, out + t * D);
    }
}

/* mamba2.md check 8, second half: lambda 1, no angles, no biases, a constant rate. */
static void one_end_is_mamba2(void **state) {
    (void)state;
    static rig r;
    static token all[T];
    double want[T * D];
    rig_open(&r, "mamba3", "inner=12 head_dim=3 state=6");
    sizes z = sizes_of(&r);
    int64_t dt = 2 * z.s.inner + 2 * z.N;
    for (int t = 0; t < T; t++) r.a[t * D + D - 1] = 1;
    fix_rows(&r, dt + z.H, z.H, 0.7);
    fix_rows(&r, dt + 2 * z.H, z.H, 60);
    fix_rows(&r, dt + 3 * z.H, z.S, 0);
    memset(rig_param(&r, "B_bias"), 0, (size_t)(z.H * z.N) * sizeof(double));
    memset(rig_param(&r, "C_bias"), 0, (size_t)(z.H * z.N) * sizeof(double));
    tokens_of(&r, &z, all);
    mamba2_without_convolution(&r, &z, all, want);
    double d = rig_difference(rig_run(&r, 0, T), want, T * D);
    print_message("Mamba-2 without convolution: %.2g\n", d);
    assert_true(d <= 1e-12);
    kr_graph_free(r.g);
}

/* ---- what turns (mamba2.md check 9) ---- */

static void whole_turns_change_nothing(void **state) {
    (void)state;
    static rig r;
    for (int i = 0; i < FORMS; i++) {
        double want[T * D], far = 0;
        rig_open(&r, "mamba3", forms[i]);
        sizes z = sizes_of(&r);
        memcpy(want, rig_run(&r, 0, T), sizeof want);
        memset(r.states, 0, sizeof r.states);
        for (int64_t j = 0; j < z.H * z.S; j++) r.states[PHASE][j] = 2 * pi * (double)(j % 5 - 2);
        double d = rig_difference(rig_run(&r, 0, T), want, T * D);
        memset(r.states, 0, sizeof r.states);
        r.states[PHASE][0] = 1; /* keys and queries turn together: seen by what lies in the state */
        for (int64_t j = 0; j < RIG_MOST; j++) r.states[1][j] = 0.1;
        memcpy(want, rig_run(&r, 0, T), sizeof want);
        memset(r.states, 0, sizeof r.states);
        for (int64_t j = 0; j < RIG_MOST; j++) r.states[1][j] = 0.1;
        far = rig_difference(rig_run(&r, 0, T), want, T * D);
        print_message("%s: whole turns change %.2g, one radian %.2g\n", forms[i], d, far);
        assert_true(d <= 1e-12 && far > 1e-6);
        kr_graph_free(r.g);
    }
}

static void without_angles_nothing_turns(void **state) {
    (void)state;
    static rig r;
    static token all[T];
    for (int i = 0; i < FORMS; i++) {
        double turned[KEYS], still[E * 4] = {0};
        rig_open(&r, "mamba3", forms[i]);
        sizes z = sizes_of(&r);
        int64_t first = 2 * z.s.inner + 2 * z.R * z.s.groups * z.N + 3 * z.H;
        tokens_of(&r, &z, all);
        memcpy(turned, all[T - 1].k, sizeof turned);
        fix_rows(&r, first, z.S, 0);
        tokens_of(&r, &z, all);
        assert_memory_equal(all[T - 1].phi, still, (size_t)(z.H * z.S) * sizeof *still);
        rig_run(&r, 0, T);
        double d = rig_difference(r.states[KEY], all[T - 1].k, z.R * z.H * z.N);
        double moved = rig_difference(turned, all[T - 1].k, z.R * z.H * z.N);
        print_message("%s: keys without angles %.2g, with %.2g\n", forms[i], d, moved);
        assert_true(d <= 1e-12 && moved > 1e-2);
        kr_graph_free(r.g);
    }
}

/* Rows of a matrix [N,width] from SISO's order, pairs side by side, to MIMO's, halves. */
static void reorder(double *w, int64_t N, int64_t width) {
    double old[RIG_MOST];
    memcpy(old, w, (size_t)(N * width) * sizeof *w);
    for (int64_t i = 0; i < N; i++) {
        int64_t from = i < N / 2 ? 2 * i : 2 * (i - N / 2) + 1;
        memcpy(w + i * width, old + from * width, (size_t)width * sizeof *w);
    }
}

static void rank_one_is_siso_in_another_order(void **state) {
    (void)state;
    static rig one, siso;
    double want[T * D], unordered;
    rig_open(&siso, "mamba3", "inner=12 head_dim=4 state=6");
    rig_open(&one, "mamba3", "inner=12 head_dim=4 state=6 rank=1");
    sizes z = sizes_of(&one);
    memcpy(want, rig_run(&siso, 0, T), sizeof want);
    for (int k = 0; k < 3; k++) {
        double *w = rig_param(&one, (const char *[]){"mimo_x", "mimo_z", "mimo_o"}[k]);
        for (int64_t i = 0; i < z.s.inner; i++) w[i] = 1;
    }
    unordered = rig_difference(rig_run(&one, 0, T), want, T * D);
    memset(one.states, 0, sizeof one.states);
    reorder(rig_param(&one, "in_proj.weight") + 2 * z.s.inner * D, z.N, D);
    reorder(rig_param(&one, "in_proj.weight") + (2 * z.s.inner + z.N) * D, z.N, D);
    reorder(rig_param(&one, "B_norm.weight"), z.N, 1);
    reorder(rig_param(&one, "C_norm.weight"), z.N, 1);
    for (int64_t h = 0; h < z.H; h++) {
        reorder(rig_param(&one, "B_bias") + h * z.N, z.N, 1);
        reorder(rig_param(&one, "C_bias") + h * z.N, z.N, 1);
    }
    double d = rig_difference(rig_run(&one, 0, T), want, T * D);
    print_message("MIMO of rank 1 and SISO: %.2g; in one order of the state: %.2g\n", d, unordered);
    assert_true(d <= 1e-12 && unordered > 1e-3);
    kr_graph_free(one.g);
    kr_graph_free(siso.g);
}

/* ---- decay rates (mamba2.md check 10) ---- */

/* A and dA/d rate of one head by the op, with delta = softplus(raw) and lambda 1/2. */
static double decay_rate(double rate, double raw, double *slope, double *alpha) {
    double dt = raw, mix = 0, bias = 0, delta, log, gain[2], one = 1, zero = 0, grads[4];
    kr_trapezoid_attr attr = {KR_RATE_HEAVY_TAIL, 1e-4, 1};
    kr_call c = {.attr = &attr, .n_in = 4, .n_out = 3, .threads = 1};
    double *ins[4] = {&dt, &rate, &mix, &bias};
    for (int i = 0; i < 4; i++)
        c.in[i] = kr_tensor_make(ins[i], KR_F64, i < 3 ? 2 : 1, (int64_t[]){1, 1});
    for (int i = 0; i < 3; i++)
        c.out[i] = kr_tensor_make((double *[]){&delta, &log, gain}[i], KR_F64, 2,
                                  (int64_t[]){1, i == 2 ? 2 : 1});
    kr_op_kernel(&kr_op_trapezoid, KR_LEVEL_REF64)(&c);
    kr_call b = {.attr = &attr, .n_in = 7, .n_out = 4, .threads = 1};
    b.in[0] = kr_tensor_make(&zero, KR_F64, 2, (int64_t[]){1, 1});
    b.in[1] = kr_tensor_make(&one, KR_F64, 2, (int64_t[]){1, 1});
    for (int i = 0; i < 4; i++) {
        b.in[3 + i] = c.in[i];
        b.out[i] = kr_tensor_make(&grads[i], KR_F64, i < 3 ? 2 : 1, (int64_t[]){1, 1});
    }
    kr_op_kernel(&kr_op_trapezoid_grad, KR_LEVEL_REF64)(&b);
    *slope = grads[1] / delta;
    *alpha = exp(log);
    return log / delta;
}

static void decay_rates_are_smooth_and_bounded(void **state) {
    (void)state;
    static const double rates[] = {-1e8, -1e5, -9999, -50, -1, -1e-9, 0, 1e-9, 1, 30};
    double slope, alpha, before = 0;
    double at_zero = decay_rate(0, 0, &slope, &alpha);
    assert_true(fabs(at_zero + 1) < 1e-15 && fabs(slope + 1) < 1e-15);
    for (int side = -1; side <= 1; side += 2) {
        double near = decay_rate(side * 1e-9, 0, &slope, &alpha);
        assert_true(fabs(near + 1) < 1e-8 && fabs(slope + 1) < 1e-8);
    }
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        for (double raw = -6; raw <= 3; raw += 3) {
            double A = decay_rate(rates[i], raw, &slope, &alpha);
            assert_true(A <= -1e-4 * (1 - 1e-12) && slope <= 0 && alpha > 0 && alpha < 1);
            assert_true(raw > -6 || i == 0 || A <= before * (1 - 1e-12));
            if (raw == -6) before = A;
        }
}

/* ---- initial values and groups ---- */

static const float *fresh(const kr_weights *w, const char *name, int64_t *n) {
    char full[96];
    snprintf(full, sizeof full, "backbone.layers.0.mixer.%s", name);
    const kr_tensor *t = kr_weights_find(w, full);
    if (!t) fail_msg("no %s", full);
    *n = kr_tensor_count(t);
    return t->data;
}

static void initial_values_are_the_published_ones(void **state) {
    (void)state;
    static const struct {
        const char *name;
        float value;
    } constants[] = {{"B_bias", 1},        {"C_bias", 1}, {"B_norm.weight", 1},
                     {"C_norm.weight", 1}, {"D", 1},      {"mimo_x", 0.25f},
                     {"mimo_o", 0.25f},    {"mimo_z", 1}, {"norm.weight", 1}};
    kr_config c;
    kr_weights w = {0};
    krait_error e;
    int64_t n;
    assert_int_equal(kr_config_make(&c, "mamba3", 64, 3, 16,
                                    "rank=4 head_dim=16 state=32 out_norm=true", &e),
                     0);
    assert_int_equal(kr_lm_init_weights(&c, 7, &w, &e), 0);
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        const float *v = fresh(&w, constants[i].name, &n);
        for (int64_t j = 0; j < n; j++) assert_true(v[j] == constants[i].value);
    }
    const float *bias = fresh(&w, "dt_bias", &n);
    for (int64_t i = 0; i < n; i++) {
        double dt = softplus((double)bias[i]);
        assert_true(dt > 0.99e-3 && dt < 0.101);
    }
    const float *in = fresh(&w, "in_proj.weight", &n);
    double most = 0;
    assert_int_equal(n, 64 * (2 * 128 + 2 * 4 * 32 + 3 * 8 + 8));
    for (int64_t i = 0; i < n; i++) most = kr_worst(most, fabs((double)in[i]));
    assert_true(most <= 0.125 && most > 0.124);
    const float *out = fresh(&w, "out_proj.weight", &n);
    for (int64_t i = 0; i < n; i++) assert_true(fabs((double)out[i]) <= 1.0001 / sqrt(128.0 * 3));
    kr_weights_free(&w);
}

static void what_decays(void **state) {
    (void)state;
    static const char *const plain[] = {"dt_bias",       "D",
                                        "B_bias",        "C_bias",
                                        "B_norm.weight", "C_norm.weight",
                                        "norm.weight"};
    static const char *const decays[] = {"in_proj.weight", "out_proj.weight", "mimo_x", "mimo_z",
                                         "mimo_o"};
    static rig r;
    rig_open(&r, "mamba3", "inner=12 head_dim=4 state=6 rank=2 out_norm=true");
    assert_int_equal(r.n, 12);
    for (int i = 0; i < 7; i++) assert_true(kr_graph_param_named(r.g, plain[i])->no_decay);
    for (int i = 0; i < 5; i++) assert_false(kr_graph_param_named(r.g, decays[i])->no_decay);
    kr_graph_free(r.g);
}

static void refusals(void **state) {
    (void)state;
    static const char *const bad[][2] = {{"inner=12 head_dim=5", "does not divide"},
                                         {"inner=12 head_dim=3 groups=3", "4 heads"},
                                         {"inner=12 head_dim=3 state=3", "too small"},
                                         {"rank=65", "rank"},
                                         {"dt_min=0.2", "dt_min"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kr_config c;
        krait_error e;
        assert_true(kr_config_make(&c, "mamba3", 64, 1, 11, bad[i][0], &e) < 0);
        print_message("%s\n", e.message);
        assert_non_null(strstr(e.message, bad[i][1]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_the_parallel_form),
        cmocka_unit_test(one_end_is_mamba2),
        cmocka_unit_test(whole_turns_change_nothing),
        cmocka_unit_test(without_angles_nothing_turns),
        cmocka_unit_test(rank_one_is_siso_in_another_order),
        cmocka_unit_test(decay_rates_are_smooth_and_bounded),
        cmocka_unit_test(initial_values_are_the_published_ones),
        cmocka_unit_test(what_decays),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
