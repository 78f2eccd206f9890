/* graph_test.c - the graph by itself: gradients against finite differences, shared and partial
 * gradients, recomputation, the planner's layout, and runs with fewer rows than planned. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "graph/graph_impl.h"
#include "ops/add/add.h"
#include "ops/linear/linear.h"
#include "ops/neg_exp/neg_exp.h"
#include "ops/rmsnorm/rmsnorm.h"

enum { M = 5, D = 6, N = 4 };

/* A small net with everything awkward in it: a residual sum used twice, a weight used twice, a
 * matrix cut in columns of which one part is used twice and one not at all. s = x W1^T;  [p|q|r] =
 * s (2+3+1 columns);  t = rmsnorm(q) W2^T;  u = -exp(p) W3^T a, sum = norm(t + u);  y = a W4^T +
 * sum W4^T + p W3^T        (r unused) */
typedef struct net {
    kr_graph *g;
    kr_value *x, *y, *seed, *w[4], *remade[2];
    double xs[M * D], seeds[M * N], ws[4][64];
} net;

static kr_value *param(net *n, int i, int64_t rows, int64_t columns) {
    kr_param_decl d = {.rank = 2, .shape = {rows, columns}, .matrix = true};
    snprintf(d.name, sizeof d.name, "w%d", i);
    n->w[i] = kr_graph_param(n->g, &d);
    return n->w[i];
}

static kr_value *linear(net *n, kr_value *x, kr_value *w) {
    return kr_apply1(n->g, &kr_op_linear, NULL, 0, (kr_value *[]){x, w, NULL}, 3);
}

static void record(net *n) {
    kr_graph *g = n->g;
    kr_value *s = linear(n, n->x, param(n, 0, 6, D));
    kr_value *p = kr_graph_columns(g, s, 0, 2), *q = kr_graph_columns(g, s, 2, 3);
    kr_rmsnorm_attr eps = {.eps = 1e-5};
    kr_value *outs[3] = {NULL};
    kr_apply(g, &kr_op_rmsnorm, &eps, sizeof eps, (kr_value *[]){q, NULL, NULL}, 3, outs, 3);
    kr_graph_remake(g, n->remade[0] = outs[0]);
    kr_value *t = linear(n, outs[0], param(n, 1, N, 3));
    kr_value *e = kr_apply1(g, &kr_op_neg_exp, NULL, 0, &p, 1);
    kr_graph_recompute(g, e);
    kr_value *u = linear(n, e, param(n, 2, N, 2));
    kr_value *both[3] = {NULL};
    kr_apply(g, &kr_op_rmsnorm, &eps, sizeof eps, (kr_value *[]){t, u, NULL}, 3, both, 3);
    kr_graph_remake(g, n->remade[1] = both[0]);
    kr_value *y1 = linear(n, both[0], param(n, 3, N, N)), *y2 = linear(n, both[1], n->w[3]);
    kr_value *y3 = linear(n, p, n->w[2]);
    y1 = kr_apply1(g, &kr_op_add, NULL, 0, (kr_value *[]){y1, y2}, 2);
    n->y = kr_apply1(g, &kr_op_add, NULL, 0, (kr_value *[]){y1, y3}, 2);
    kr_graph_output(g, "y", n->y);
}

static void bind(net *n, kr_value *v, double *data) {
    kr_tensor t = *kr_value_tensor(v);
    t.data = data;
    krait_error e;
    assert_int_equal(kr_graph_bind(n->g, v, &t, &e), 0);
}

static void open_net(net *n, bool recompute) {
    krait_error e;
    kr_graph_options o = {.f64 = true, .training = true, .recompute = recompute, .threads = 1};
    memset(n, 0, sizeof *n);
    assert_non_null(n->g = kr_graph_create(&o, &e));
    n->x = kr_graph_input(n->g, "x", KR_F64, KR_DIM0_TOKENS, 2, (int64_t[]){M, D});
    n->seed = kr_graph_input(n->g, "seed", KR_F64, KR_DIM0_TOKENS, 2, (int64_t[]){M, N});
    kr_graph_want_gradient(n->g, n->x);
    record(n);
    kr_graph_seed(n->g, n->y, n->seed);
    kr_graph_backward(n->g);
    if (kr_graph_plan(n->g, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(kr_graph_allocate(n->g, &e), 0);
    kr_rng r = kr_rng_make(1, 2);
    for (int i = 0; i < M * D; i++) n->xs[i] = kr_rng_normal(&r);
    for (int i = 0; i < M * N; i++) n->seeds[i] = kr_rng_normal(&r);
    for (int i = 0; i < 4 * 64; i++) n->ws[i / 64][i % 64] = kr_rng_normal(&r) * 0.5;
    bind(n, n->x, n->xs);
    bind(n, n->seed, n->seeds);
    for (int i = 0; i < 4; i++) bind(n, n->w[i], n->ws[i]);
}

static double loss(net *n) {
    krait_error e;
    if (kr_graph_run(n->g, M, 0, &e) < 0) fail_msg("%s", e.message);
    const double *y = n->y->t.data;
    double sum = 0;
    for (int i = 0; i < M * N; i++) sum += y[i] * n->seeds[i];
    return sum;
}

static double worst_difference(net *n, double *data, const double *gradient, int64_t count) {
    double worst = 0;
    for (int64_t i = 0; i < count; i++) {
        double old = data[i], h = 1e-5;
        data[i] = old + h;
        double up = loss(n);
        data[i] = old - h;
        double down = loss(n);
        data[i] = old;
        double numeric = (up - down) / (2 * h), error = fabs(numeric - gradient[i]);
        if (error / (1 + fabs(numeric)) > worst) worst = error / (1 + fabs(numeric));
    }
    return worst;
}

static void copy_gradient(net *n, kr_value *v, double *to) {
    kr_value *d = kr_graph_gradient(n->g, v);
    assert_non_null(d);
    memcpy(to, d->t.data, kr_tensor_bytes(&d->t));
}

static void check_gradients(bool recompute) {
    net n;
    open_net(&n, recompute);
    loss(&n);
    double dx[64], dw[4][64], worst = 0;
    copy_gradient(&n, n.x, dx);
    for (int i = 0; i < 4; i++) copy_gradient(&n, n.w[i], dw[i]);
    for (int i = -1; i < 4; i++) {
        double w = i < 0 ? worst_difference(&n, n.xs, dx, M * D)
                         : worst_difference(&n, n.ws[i], dw[i], kr_tensor_count(&n.w[i]->t));
        if (w > worst) worst = w;
    }
    printf("recompute %d: worst difference from finite differences %.2g\n", recompute, worst);
    assert_true(worst < 1e-8);
    kr_graph_free(n.g);
}

static void gradients_match_finite_differences(void **state) {
    (void)state;
    check_gradients(false);
}

static void recomputation_changes_nothing(void **state) {
    (void)state;
    check_gradients(true);
    net kept, again;
    open_net(&kept, false);
    open_net(&again, true);
    assert_true(again.g->n_nodes > kept.g->n_nodes);
    for (int i = 0; i < 2; i++) {
        assert_null(kept.remade[i]->twin);
        assert_non_null(again.remade[i]->twin);
        assert_true(again.remade[i]->death < again.remade[i]->twin->birth);
    }
    loss(&kept);
    loss(&again);
    for (int i = 0; i < 4; i++) {
        double a[64], b[64];
        copy_gradient(&kept, kept.w[i], a);
        copy_gradient(&again, again.w[i], b);
        assert_memory_equal(a, b, kr_tensor_bytes(&kept.w[i]->t));
    }
    kr_graph_free(kept.g);
    kr_graph_free(again.g);
}

static void parameter_gradients_add_up(void **state) {
    (void)state;
    net n;
    open_net(&n, false);
    double once[64], twice[64];
    loss(&n);
    copy_gradient(&n, n.w[3], once);
    loss(&n);
    copy_gradient(&n, n.w[3], twice);
    for (int i = 0; i < N * N; i++) assert_true(fabs(twice[i] - 2 * once[i]) < 1e-12);
    kr_graph_zero_gradients(n.g);
    loss(&n);
    copy_gradient(&n, n.w[3], twice);
    assert_memory_equal(once, twice, N * N * sizeof(double));
    kr_graph_free(n.g);
}

static bool overlap(const kr_value *a, const kr_value *b) {
    if (a->death < b->birth || b->death < a->birth) return false;
    const char *p = a->t.data, *q = b->t.data;
    return p < q + kr_tensor_bytes(&b->t) && q < p + kr_tensor_bytes(&a->t);
}

static void living_values_never_overlap(void **state) {
    (void)state;
    net n;
    open_net(&n, true);
    int pairs = 0;
    for (int64_t i = 0; i < n.g->n_values; i++)
        for (int64_t j = 0; j < i; j++) {
            kr_value *a = n.g->values[i], *b = n.g->values[j];
            bool counted = a->kind == KR_VALUE_ACTIVATION && b->kind == KR_VALUE_ACTIVATION &&
                           !a->parent && !b->parent && !a->alias && !b->alias && a->birth >= 0 &&
                           b->birth >= 0;
            if (!counted) continue;
            pairs++;
            assert_false(overlap(a, b));
        }
    kr_plan_sizes s;
    kr_graph_sizes(n.g, &s);
    printf("%d pairs apart; arena %zu bytes, %zu without sharing\n", pairs, s.activations,
           s.unshared);
    assert_true(pairs > 50 && s.activations < s.unshared);
    kr_graph_free(n.g);
}

static void fewer_rows_give_the_same_rows(void **state) {
    (void)state;
    net n;
    open_net(&n, false);
    loss(&n);
    double all[M * N];
    memcpy(all, n.y->t.data, sizeof all);
    krait_error e;
    assert_int_equal(kr_graph_run(n.g, 2, 0, &e), 0);
    assert_memory_equal(all, n.y->t.data, 2 * N * sizeof(double));
    assert_true(kr_graph_run(n.g, M + 1, 0, &e) < 0);
    printf("refused: %s\n", e.message);
    kr_graph_free(n.g);
}

/* Every allocation of building, planning and allocating fails once: an error each time, never a
 * crash or a leak. */
static void failing_allocations_are_errors(void **state) {
    (void)state;
    int failures = 0;
    for (int64_t nth = 1;; nth++) {
        krait_error e = {0};
        kr_graph_options o = {.f64 = true, .training = true, .threads = 1};
        net n = {0};
        kr_mem_fail_after(nth);
        n.g = kr_graph_create(&o, &e);
        int rc = KRAIT_ERR_MEMORY;
        if (n.g) {
            n.x = kr_graph_input(n.g, "x", KR_F64, KR_DIM0_TOKENS, 2, (int64_t[]){M, D});
            n.seed = kr_graph_input(n.g, "seed", KR_F64, KR_DIM0_TOKENS, 2, (int64_t[]){M, N});
            record(&n);
            kr_graph_seed(n.g, n.y, n.seed);
            kr_graph_backward(n.g);
            rc = kr_graph_plan(n.g, &e);
            if (rc == 0) rc = kr_graph_allocate(n.g, &e);
        }
        int64_t used = kr_mem_fail_after(0);
        kr_graph_free(n.g);
        if (rc == 0) {
            assert_true(used < nth);
            break;
        }
        assert_int_equal(e.code, KRAIT_ERR_MEMORY);
        failures++;
    }
    printf("%d allocations failed one by one\n", failures);
    assert_true(failures > 50);
}

/* What is bound again leaves the calls as they are, whatever lies between the members. */
static void bound_again(void **state) {
    (void)state;
    net n;
    krait_error e;
    open_net(&n, false);
    for (int fill = 0; fill < 256; fill += 85) {
        kr_tensor t;
        memset(&t, fill, sizeof t);
        t.data = n.xs;
        t.dtype = KR_F64;
        t.dim0 = KR_DIM0_TOKENS;
        t.rank = 2;
        t.shape[0] = M;
        t.shape[1] = t.stride[0] = D;
        t.stride[1] = 1;
        n.g->stale = false;
        assert_int_equal(kr_graph_bind(n.g, n.x, &t, &e), 0);
        assert_false(n.g->stale);
        t.data = n.xs + D;
        assert_int_equal(kr_graph_bind(n.g, n.x, &t, &e), 0);
        assert_true(n.g->stale);
        t.data = n.xs;
        assert_int_equal(kr_graph_bind(n.g, n.x, &t, &e), 0);
    }
    kr_graph_free(n.g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_match_finite_differences),
        cmocka_unit_test(recomputation_changes_nothing),
        cmocka_unit_test(parameter_gradients_add_up),
        cmocka_unit_test(living_values_never_overlap),
        cmocka_unit_test(fewer_rows_give_the_same_rows),
        cmocka_unit_test(failing_allocations_are_errors),
        cmocka_unit_test(bound_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
