/* linear_attention_test.c - the rows of the table of linear recurrences that this mixer makes
 * (linear attention, RetNet, GLA), and the six switches from linear attention to Mamba (mila.md
 * section 1). Each switch alone, from linear attention's end and from Mamba's, and all of them:
 * against the sum over all pairs of tokens that defines each, in double. Each switch where its own
 * numbers make it nothing (a step of 1, a rate of 0, ...): the other end. And Mamba's end against
 * mixer mamba1, tensor by tensor. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/test_worst.h"
#include "mixers/linear_attention/linear_attention.h"
#include "mixers/mixer_rig.h"

enum { T = RIG_ROWS, D = RIG_WIDTH };

/* ---- the definition ---- */

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* Of every token: values as they join the state, as the shortcut takes them, gates; keys and
 * queries as they meet, and in front of their turn; logarithms of the decays of channel and key. */
enum { E = 32 };
typedef struct token {
    double x[E], v[E], z[E], k[E], q[E], k0[E], q0[E], log_decay[E][E];
} token;

static void convolve(const rig *r, const kr_linear_attention *s, token *all) {
    double raw[T][E];
    const double *w = rig_param(r, "conv1d.weight"), *b = rig_param(r, "conv1d.bias");
    for (int t = 0; t < T; t++) memcpy(raw[t], all[t].v, sizeof raw[t]);
    for (int t = 0; t < T; t++)
        for (int64_t p = 0; p < s->value; p++) {
            double sum = b[p];
            for (int64_t j = 0; j < s->kernel; j++)
                if (t + j >= s->kernel - 1)
                    sum += w[p * s->kernel + j] * raw[t + j - (s->kernel - 1)][p];
            all[t].v[p] = sum * sigmoid(sum);
        }
}

static void turn(const kr_linear_attention *s, int t, double *k) {
    int64_t N = s->key / s->heads, half = N / 2;
    for (int64_t i = 0; s->rope && i < s->key; i += N)
        for (int64_t n = 0; n < half; n++) {
            double phi = t * pow(s->rope_base, -2 * (double)n / (double)N);
            double a = k[i + n], b = k[i + n + half];
            k[i + n] = a * cos(phi) - b * sin(phi);
            k[i + n + half] = a * sin(phi) + b * cos(phi);
        }
}

static void decays(const rig *r, const kr_linear_attention *s, const double *low,
                   const double *delta, token *now) {
    double raw[E];
    int64_t N = s->key / s->heads, P = s->value / s->heads;
    if (s->decay == KR_ATTENTION_GATED)
        rig_product(rig_param(r, "decay_proj.weight"), 0, s->key, s->rank, low,
                    rig_param(r, "decay_proj.bias"), raw);
    for (int64_t p = 0; p < s->value; p++)
        for (int64_t n = 0; n < N; n++) {
            double *g = &now->log_decay[p][n];
            *g = 0;
            if (s->decay == KR_ATTENTION_RETAINS) *g = log(1 - pow(2, -5 - (double)(p / P)));
            if (s->decay == KR_ATTENTION_GATED)
                *g = log(sigmoid(raw[p / P * N + n])) / s->gate_divisor;
            if (s->decay == KR_ATTENTION_SELECTIVE)
                *g = -exp(rig_param(r, "A_log")[p * N + n]) * delta[p];
        }
}

static void gates(const rig *r, const kr_linear_attention *s, const double *low, token *now) {
    double delta[E] = {0};
    if (s->input_gate || s->decay == KR_ATTENTION_SELECTIVE) {
        rig_product(rig_param(r, "dt_proj.weight"), 0, s->value, s->rank, low,
                    rig_param(r, "dt_proj.bias"), delta);
        for (int64_t p = 0; p < s->value; p++) delta[p] = log1p(exp(delta[p]));
    }
    for (int64_t p = 0; p < s->value; p++) now->x[p] = now->v[p] * (s->input_gate ? delta[p] : 1);
    decays(r, s, low, delta, now);
}

static void project_all(const rig *r, const kr_linear_attention *s, token *all) {
    int64_t V = s->value, rank = kr_linear_attention_rank(s);
    bool mamba = s->block == KR_BLOCK_MAMBA;
    const double *in = rig_param(r, "in_proj.weight");
    for (int t = 0; t < T; t++) {
        rig_product(in, 0, V, D, r->a + t * D, NULL, all[t].v);
        if (s->block != KR_BLOCK_ATTENTION) rig_product(in, V, V, D, r->a + t * D, NULL, all[t].z);
    }
    if (mamba) convolve(r, s, all);
    for (int t = 0; t < T; t++) {
        double rest[3 * E];
        int64_t first = s->block == KR_BLOCK_ATTENTION ? V : 2 * V;
        if (mamba)
            rig_product(rig_param(r, "x_proj.weight"), 0, rank + 2 * s->key, V, all[t].v, NULL,
                        rest);
        else
            rig_product(in, first, rank + 2 * s->key, D, r->a + t * D, NULL, rest);
        for (int64_t i = rank; s->feature == KR_FEATURE_ELU && i < rank + 2 * s->key; i++)
            rest[i] = rest[i] > 0 ? rest[i] + 1 : exp(rest[i]);
        memcpy(all[t].k0, rest + rank, (size_t)s->key * sizeof *rest);
        memcpy(all[t].q0, rest + rank + s->key, (size_t)s->key * sizeof *rest);
        memcpy(all[t].k, all[t].k0, sizeof all[t].k);
        memcpy(all[t].q, all[t].q0, sizeof all[t].q);
        turn(s, t, all[t].k);
        turn(s, t, all[t].q);
        gates(r, s, rest, &all[t]);
    }
}

/* y[p] of token t: the sum over all tokens up to it. */
static double attend(const kr_linear_attention *s, const token *all, int t, int64_t p) {
    int64_t N = s->key / s->heads, h = p / (s->value / s->heads);
    double sum = 0, weights = 0;
    for (int u = 0; u <= t; u++)
        for (int64_t n = 0; n < N; n++) {
            double g = 0;
            for (int i = u + 1; i <= t; i++) g += all[i].log_decay[p][n];
            sum += all[t].q[h * N + n] * all[u].k[h * N + n] * exp(g) * all[u].x[p];
            weights += all[t].q0[h * N + n] * all[u].k0[h * N + n];
        }
    double scale = s->scale_queries ? 1 / sqrt((double)N) : 1;
    return scale * sum / (s->normaliser ? scale * weights + 1e-10 : 1);
}

static void behind(const rig *r, const kr_linear_attention *s, const token *now, double *y) {
    int64_t P = s->value / s->heads;
    for (int64_t p = 0; s->shortcut && p < s->value; p++) y[p] += rig_param(r, "D")[p] * now->v[p];
    for (int64_t h = 0; s->head_norm && h < s->heads; h++) {
        double square = 0;
        for (int64_t p = h * P; p < (h + 1) * P; p++) square += y[p] * y[p] / (double)P;
        for (int64_t p = h * P; p < (h + 1) * P; p++)
            y[p] *= rig_param(r, "norm.weight")[p] / sqrt(square + r->c.norm_eps);
    }
    for (int64_t p = 0; s->block != KR_BLOCK_ATTENTION && p < s->value; p++)
        y[p] *= now->z[p] * sigmoid(now->z[p]);
}

static double difference(const char *set) {
    static rig r;
    static token all[T];
    double worst = 0, size = 0;
    rig_open(&r, "linear_attention", set);
    rig_run_all(&r);
    kr_linear_attention s = kr_linear_attention_of(&r.c);
    assert_true(s.key <= E && s.value <= E && s.rank <= E);
    project_all(&r, &s, all);
    for (int t = 0; t < T; t++) {
        double y[E], out[D];
        for (int64_t p = 0; p < s.value; p++) y[p] = attend(&s, all, t, p);
        behind(&r, &s, &all[t], y);
        rig_product(rig_param(&r, "out_proj.weight"), 0, D, s.value, y, NULL, out);
        for (int i = 0; i < D; i++) {
            double got = ((const double *)kr_value_tensor(r.out)->data)[t * D + i];
            worst = kr_worst(worst, fabs(got - out[i]));
            size = fmax(size, fabs(out[i]));
        }
    }
    kr_graph_free(r.g);
    return worst / size;
}

#define PLAIN "heads=2 key=4 value=6 rank=2 kernel=3 "
#define MAMBA                                                                                      \
    "block=mamba heads=1 key=3 value=10 kernel=3 rank=2 feature=identity normaliser=false "        \
    "scale_queries=false decay=selective input_gate=true shortcut=true"

/* mila.md section 1: a switch at linear attention's end, then at Mamba's; then what else changes.
 */
static const struct {
    const char *name, *attention, *mamba;
} switches[] = {
    {"1 input gate", "input_gate=false", "input_gate=true"},
    {"2 forget gate", "decay=none", "decay=selective"},
    {"3 shortcut", "shortcut=false", "shortcut=true"},
    {"4 normalisation", "normaliser=true feature=elu scale_queries=true",
     "normaliser=false feature=identity scale_queries=false"},
    {"5 heads", "heads=2", "heads=1"},
    {"6 block", "block=attention", "block=mamba"},
};
enum { SWITCHES = 6 };

/* Both ends of each switch, where all others are at the one end and where they are at the other. */
static void each_switch_has_two_ends(void **state) {
    (void)state;
    for (int k = 0; k < SWITCHES; k++)
        for (int others = 0; others < 2; others++) {
            double off[2];
            for (int end = 0; end < 2; end++) {
                char set[400] = "key=4 value=6 rank=2 kernel=3";
                for (int i = 0; i < SWITCHES; i++) {
                    bool mamba = i == k ? end : others;
                    size_t used = strlen(set);
                    snprintf(set + used, sizeof set - used, " %s",
                             mamba ? switches[i].mamba : switches[i].attention);
                }
                off[end] = difference(set);
            }
            print_message("mila.md 1: %s, the others %s: attention's end %.1e, Mamba's %.1e\n",
                          switches[k].name, others ? "Mamba's" : "attention's", off[0], off[1]);
            assert_true(off[0] < 1e-12 && off[1] < 1e-12);
        }
}

/* ---- a switch whose numbers make it nothing ---- */

static void put(rig *r, const char *name, double value) {
    double *v = rig_param(r, name);
    for (int i = 0; i < RIG_MOST; i++) v[i] = value;
}

/* in_proj: VALUES rows, for a gate's step sizes RANK more, and keys and queries. */
enum { VALUES = 6, RANK = 2, KEYS = 4 };

/* The same keys and queries, though step sizes lie in front of them. */
static void share_in_proj(rig *on, const rig *off) {
    const double *from = rig_param(off, "in_proj.weight");
    double *to = rig_param(on, "in_proj.weight");
    memcpy(to, from, (size_t)(VALUES * D) * sizeof *to);
    memcpy(to + (VALUES + RANK) * D, from + VALUES * D, (size_t)(2 * KEYS * D) * sizeof *to);
}

static double apart(const rig *a, const rig *b) {
    const double *x = kr_value_tensor(a->out)->data, *y = kr_value_tensor(b->out)->data;
    double worst = 0, size = 0;
    for (int i = 0; i < T * D; i++) {
        worst = kr_worst(worst, fabs(x[i] - y[i]));
        size = fmax(size, fabs(y[i]));
    }
    return worst / size;
}

static void none_input_gate(rig *on, rig *off) {
    share_in_proj(on, off);
    put(on, "dt_proj.weight", 0);
    put(on, "dt_proj.bias", log(expm1(1))); /* a step of 1 */
}

static void none_forget_gate(rig *on, rig *off) {
    share_in_proj(on, off);
    put(on, "A_log", -80); /* a rate of 0 */
}

static void none_shortcut(rig *on, rig *off) {
    (void)off;
    put(on, "D", 0);
}

/* Keys and queries that do not change: every sum of weights is t + 1 times the same. So without the
 * division, row t is t + 1 times as large; out_proj is linear. */
static void none_normaliser(rig *on, rig *off) {
    for (int i = 0; i < 2; i++) {
        double *w = rig_param(i ? on : off, "in_proj.weight");
        for (int j = 6 * D; j < 14 * D; j++) w[j] = 0; /* elu(0) + 1 = 1, two of them a head */
        double *v = rig_param(i ? on : off, "out_proj.weight");
        if (i)
            for (int j = 0; j < D * 6; j++) v[j] *= 2 / sqrt(2);
    }
}

/* Keys of the second head's columns are 0: in one head of all columns the first values see the same
 * scores as in two. Of the others nothing leaves. */
static void none_heads(rig *on, rig *off) {
    for (int i = 0; i < 2; i++) {
        double *w = rig_param(i ? on : off, "in_proj.weight");
        double *v = rig_param(i ? on : off, "out_proj.weight");
        for (int j = 8 * D; j < 10 * D; j++) w[j] = 0; /* keys 2 and 3 */
        for (int j = 0; j < D * 6; j++)
            if (j % 6 >= 3) v[j] = 0;
    }
}

/* The gate's rows of in_proj see one number that is constant: silu of it is 1. */
static void none_block(rig *on, rig *off) {
    double *w = rig_param(on, "in_proj.weight");
    const double *from = rig_param(off, "in_proj.weight");
    memcpy(w, from, (size_t)(6 * D) * sizeof *w);
    memcpy(w + 12 * D, from + 6 * D, (size_t)(8 * D) * sizeof *w);
    for (int j = 6 * D; j < 12 * D; j++) w[j] = j % D == 0 ? 1.2784645427610738 : 0;
    for (int t = 0; t < T; t++) on->a[t * D] = off->a[t * D] = 1;
}

/* With its own numbers at nothing each switch, though it is on, gives what it gives off. */
static void a_switch_that_does_nothing_is_off(void **state) {
    (void)state;
    static rig on, off;
    static const struct {
        const char *name, *on, *off;
        void (*none)(rig *on, rig *off);
        bool grows; /* row t of `on` is divided by t + 1 */
    } list[] = {{"1 input gate", "input_gate=true", "input_gate=false", none_input_gate, false},
                {"2 forget gate", "decay=selective", "decay=none", none_forget_gate, false},
                {"3 shortcut", "shortcut=true", "shortcut=false", none_shortcut, false},
                {"4 normalisation", "normaliser=true", "normaliser=false", none_normaliser, true},
                {"5 heads", "heads=1 normaliser=false feature=identity scale_queries=false",
                 "heads=2 normaliser=false feature=identity scale_queries=false", none_heads,
                 false},
                {"6 block", "block=gated", "block=attention", none_block, false}};
    for (int k = 0; k < SWITCHES; k++) {
        char set[2][400];
        snprintf(set[0], sizeof set[0], "heads=2 key=4 value=6 rank=2 %s", list[k].on);
        snprintf(set[1], sizeof set[1], "heads=2 key=4 value=6 rank=2 %s", list[k].off);
        rig_open(&on, "linear_attention", set[0]);
        rig_run_all(&on);
        rig_open(&off, "linear_attention", set[1]);
        rig_run_all(&off);
        double before = apart(&on, &off);
        list[k].none(&on, &off);
        rig_run_all(&on);
        rig_run_all(&off);
        double *y = kr_value_tensor(off.out)->data;
        for (int i = 0; list[k].grows && i < T * D; i++) y[i] /= i / D + 1;
        double after = apart(&on, &off);
        print_message("mila.md 1: %s: as drawn %.2g from its other end, at nothing %.1e\n",
                      list[k].name, before, after);
        assert_true(before > 1e-3 && after < 1e-9);
        kr_graph_free(on.g);
        kr_graph_free(off.g);
    }
}

static void members_are_what_defines_them(void **state) {
    (void)state;
    static const struct {
        const char *name, *set;
    } all[] = {{"linear attention", PLAIN},
               {"its keys turned", PLAIN "rope=true"},
               {"input gate", PLAIN "input_gate=true"},
               {"forget gate", PLAIN "decay=selective"},
               {"both gates", PLAIN "decay=selective input_gate=true"},
               {"shortcut", PLAIN "shortcut=true"},
               {"no normaliser", PLAIN "normaliser=false"},
               {"no normaliser, identity",
                PLAIN "normaliser=false feature=identity scale_queries=false"},
               {"one head", PLAIN "heads=1"},
               {"block gated", PLAIN "block=gated"},
               {"block mamba", PLAIN "block=mamba"},
               {"Mamba", MAMBA},
               {"RetNet", PLAIN "value=12 block=gated feature=identity normaliser=false "
                                "decay=retention rope=true head_norm=true"},
               {"GLA",
                PLAIN "block=gated feature=identity normaliser=false decay=gated head_norm=true"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        double d = difference(all[i].set);
        print_message("%s: %.2g\n", all[i].name, d);
        assert_true(d < 1e-12);
    }
}

/* The six switches Mamba's way: the same tensors, the same numbers. */
static void the_far_end_is_mamba(void **state) {
    (void)state;
    static rig ours, mamba;
    double worst = 0, size = 0;
    rig_open(&ours, "linear_attention", MAMBA);
    rig_run_all(&ours);
    rig_open(&mamba, "mamba1", "inner=10 state=3 kernel=3 dt_rank=2");
    rig_run_all(&mamba);
    assert_int_equal(ours.n, mamba.n);
    for (int i = 0; i < ours.n; i++) rig_param(&mamba, ours.names[i]);
    const double *a = kr_value_tensor(ours.out)->data, *b = kr_value_tensor(mamba.out)->data;
    for (int i = 0; i < T * D; i++) {
        worst = kr_worst(worst, fabs(a[i] - b[i]));
        size = fmax(size, fabs(b[i]));
    }
    print_message("%d tensors, worst difference %.2g of %.2g\n", ours.n, worst, size);
    assert_true(size > 0 && worst <= 1e-13 * size);
    kr_graph_free(ours.g);
    kr_graph_free(mamba.g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_are_what_defines_them),
        cmocka_unit_test(each_switch_has_two_ends),
        cmocka_unit_test(a_switch_that_does_nothing_is_off),
        cmocka_unit_test(the_far_end_is_mamba),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
