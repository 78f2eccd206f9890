/* graph_gpu_test.c - runs on the GPU: launched, recorded and replayed with inputs, rows and
 * addresses that change in between; faults. Says "skipped" where there is no GPU. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "device/test_gpu.h"
#include "graph/graph_impl.h"
#include "ops/neg_exp/neg_exp.h"

enum { M = 70, D = 33 };

typedef struct net {
    kr_graph *g;
    kr_value *x, *y, *w, *c; /* y = -exp(x); c = -exp(w), of a parameter alone */
    float host[M * D];
    void *weights, *device;
} net;

static void open_net(net *n) {
    kr_graph_options o = {.level = KR_LEVEL_CUDA};
    krait_error e;
    n->g = kr_graph_create(&o, &e);
    n->x = kr_graph_input(n->g, "x", KR_F32, KR_DIM0_TOKENS, 2, (int64_t[]){M, D});
    n->w = kr_graph_param(n->g, &(kr_param_decl){.name = "w", .rank = 1, .shape = {D}});
    n->y = kr_apply1(n->g, &kr_op_neg_exp, NULL, 0, &n->x, 1);
    n->c = kr_apply1(n->g, &kr_op_neg_exp, NULL, 0, &n->w, 1);
    kr_graph_output(n->g, "y", n->y);
    kr_graph_output(n->g, "c", n->c);
    kr_ok(kr_graph_plan(n->g, &e), &e);
    kr_ok(kr_graph_allocate(n->g, &e), &e);
    n->weights = kr_device_alloc(KR_LEVEL_CUDA, D * sizeof(float));
    n->device = kr_device_alloc(KR_LEVEL_CUDA, sizeof n->host);
    kr_tensor w = kr_tensor_make(n->weights, KR_F32, 1, (int64_t[]){D});
    kr_tensor x = kr_tensor_make(n->host, KR_F32, 2, (int64_t[]){M, D});
    kr_ok(kr_graph_bind(n->g, n->w, &w, &e), &e);
    kr_ok(kr_graph_bind(n->g, n->x, &x, &e), &e);
}

static void close_net(net *n) {
    kr_graph_free(n->g);
    kr_device_free(KR_LEVEL_CUDA, n->weights);
    kr_device_free(KR_LEVEL_CUDA, n->device);
}

static float fill(float *x, int64_t n, int seed) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)((i * 37 + seed * 11) % 101) / 50 - 1;
    return x[0];
}

/* How far y is from -exp(x), at most. */
static double error_of(const float *y, const float *x, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)y[i] + exp((double)x[i])));
    return worst;
}

static double run(net *n, const float *x, int64_t m) {
    krait_error e;
    kr_ok(kr_graph_run(n->g, m, 0, &e), &e);
    const float *y = kr_graph_fetch(n->g, n->y, &e);
    kr_ok(y ? 0 : e.code, &e);
    return error_of(y, x, m * D);
}

static int recordings(const net *n) {
    int count = 0;
    for (int i = 0; i < KR_RUN_RECORDS; i++) count += n->g->records[i].work != NULL;
    return count;
}

static void set_weights(net *n, int seed) {
    float w[D];
    krait_error e;
    fill(w, D, seed);
    kr_ok(kr_device_put(KR_LEVEL_CUDA, n->weights, w, sizeof w, &e), &e);
    kr_graph_params_changed(n->g);
}

static double constant_error(net *n, int seed) {
    float w[D];
    krait_error e;
    fill(w, D, seed);
    const float *c = kr_graph_fetch(n->g, n->c, &e);
    return c ? error_of(c, w, D) : 1;
}

/* Five runs of each size: launched, recorded, replayed; x is another each time. */
static void replayed_runs_see_new_inputs(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    static net n;
    double worst = 0;
    open_net(&n);
    set_weights(&n, 0);
    for (int round = 0; round < 10; round++) {
        fill(n.host, M * D, round);
        worst = fmax(worst, run(&n, n.host, round % 2 ? M : 3));
    }
    printf("10 runs of 2 sizes, %d recordings, worst error %.2g\n", recordings(&n), worst);
    assert_int_equal(recordings(&n), 2);
    assert_true(worst < 1e-6);
    krait_error e;
    assert_true(kr_graph_run(n.g, M + 1, 0, &e) < 0);
    close_net(&n);
}

/* What depends on parameters alone runs anew when they changed, also between replays. */
static void constants_follow_their_parameters(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    static net n;
    double worst = 0;
    open_net(&n);
    fill(n.host, M * D, 1);
    for (int round = 0; round < 6; round++) {
        if (round % 2 == 0) set_weights(&n, round);
        worst = fmax(worst, run(&n, n.host, M));
        worst = fmax(worst, constant_error(&n, round / 2 * 2));
    }
    printf("worst error %.2g\n", worst);
    assert_true(worst < 1e-6);
    close_net(&n);
}

/* An array on the GPU takes the place of the host's, and back. */
static void inputs_may_lie_on_the_gpu(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    static net n;
    static float other[M * D];
    krait_error e;
    double worst = 0;
    open_net(&n);
    set_weights(&n, 0);
    kr_tensor there = kr_tensor_make(n.device, KR_F32, 2, (int64_t[]){M, D});
    kr_tensor here = kr_tensor_make(n.host, KR_F32, 2, (int64_t[]){M, D});
    for (int round = 0; round < 8; round++) {
        fill(n.host, M * D, round);
        fill(other, M * D, 50 + round);
        kr_ok(kr_device_put(KR_LEVEL_CUDA, n.device, other, sizeof other, &e), &e);
        kr_ok(kr_graph_bind_device(n.g, n.x, &there, &e), &e);
        worst = fmax(worst, run(&n, other, M));
        kr_ok(kr_graph_bind(n.g, n.x, &here, &e), &e);
        worst = fmax(worst, run(&n, n.host, M));
    }
    printf("%d recordings, worst error %.2g\n", recordings(&n), worst);
    assert_int_equal(recordings(&n), 2);
    assert_true(worst < 1e-6);
    close_net(&n);
}

/* Threads, each with a graph of its own, run, record and replay at once. */
static void threads_share_the_gpu(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    enum { THREADS = 4, ROUNDS = 60 };
    static net n[THREADS];
    double worst[THREADS] = {0};
    int failures = 0;
    for (int i = 0; i < THREADS; i++) {
        open_net(&n[i]);
        set_weights(&n[i], i);
    }
#pragma omp parallel for num_threads(THREADS) reduction(+ : failures)
    for (int i = 0; i < THREADS; i++)
        for (int round = 0; round < ROUNDS; round++) { /* a new size every third round */
            krait_error e;
            int64_t m = 1 + round / 3 % M;
            fill(n[i].host, M * D, round + i);
            failures += kr_graph_run(n[i].g, m, 0, &e) < 0;
            const float *y = kr_graph_fetch(n[i].g, n[i].y, &e);
            failures += y == NULL;
            if (y) worst[i] = fmax(worst[i], error_of(y, n[i].host, m * D));
        }
    for (int i = 0; i < THREADS; i++) {
        printf("thread %d: %d recordings, worst error %.2g\n", i, recordings(&n[i]), worst[i]);
        assert_true(worst[i] < 1e-6 && recordings(&n[i]) > 10);
        close_net(&n[i]);
    }
    assert_int_equal(failures, 0);
}

/* In a process of its own, which a fault leaves without a GPU: runs a graph whose input is at an
 * address that nobody has, and writes the error into the pipe; "" without a GPU. */
static void fault(const char *sync, int pipe) {
    static net n;
    kr_level level;
    krait_error e = {0};
    setenv("KRAIT_SYNC", sync, 1);
    if (kr_device_open("cuda", &level, &e) == 0) {
        open_net(&n);
        set_weights(&n, 0);
        kr_tensor nowhere = kr_tensor_make((void *)4096, KR_F32, 2, (int64_t[]){M, D});
        kr_ok(kr_graph_bind_device(n.g, n.x, &nowhere, &e), &e);
        strcpy(e.message, "nothing was wrong");
        if (kr_graph_run(n.g, M, 0, &e) == 0) (void)kr_graph_fetch(n.g, n.y, &e);
        if (write(pipe, e.message, strlen(e.message)) < 0) _exit(1);
    }
    _exit(0);
}

/* Must come before this process opens the GPU: what it opened is of no use to its children. */
static void a_fault_on_the_gpu_is_named(void **state) {
    (void)state;
    for (int sync = 0; sync < 2; sync++) {
        char message[400] = "";
        int ends[2], status;
        assert_int_equal(pipe(ends), 0);
        pid_t child = fork();
        if (child == 0) fault(sync ? "1" : "0", ends[1]);
        close(ends[1]);
        ssize_t n = read(ends[0], message, sizeof message - 1);
        close(ends[0]);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(n >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        printf("KRAIT_SYNC=%d: %s\n", sync, n ? message : "skipped: no GPU");
        if (n == 0) return;
        if (sync)
            assert_int_equal(strncmp(message, "neg_exp: the GPU says", 21), 0);
        else
            assert_non_null(strstr(message, "KRAIT_SYNC=1"));
    }
}

/* More rows than a grid is high. */
static void many_rows(void **state) {
    enum { ROWS = 70000, WIDE = 3, GAP = 2 };
    static float host[ROWS * (WIDE + GAP)];
    krait_error e;
    (void)state;
    if (!kr_test_gpu()) skip();
    kr_tensor x = kr_tensor_make(NULL, KR_F32, 2, (int64_t[]){ROWS, WIDE}), y = x;
    x.stride[0] = y.stride[0] = WIDE + GAP;
    for (int64_t i = 0; i < ROWS * (WIDE + GAP); i++) host[i] = (float)(i % 101) / 50 - 1;
    x.data = kr_device_alloc(KR_LEVEL_CUDA, sizeof host);
    y.data = kr_device_alloc(KR_LEVEL_CUDA, sizeof host);
    kr_ok(kr_device_put(KR_LEVEL_CUDA, x.data, host, sizeof host, &e), &e);
    kr_op_kernel(&kr_op_neg_exp,
                 KR_LEVEL_CUDA)(&(kr_call){.in = {x}, .out = {y}, .n_in = 1, .n_out = 1});
    kr_ok(kr_device_check(KR_LEVEL_CUDA, "neg_exp", &e), &e);
    kr_ok(kr_device_get(KR_LEVEL_CUDA, host, y.data, sizeof host, &e), &e);
    double worst = 0;
    for (int64_t i = 0; i < ROWS * (WIDE + GAP); i++)
        if (i % (WIDE + GAP) < WIDE)
            worst = fmax(worst, fabs((double)host[i] + exp((double)((float)(i % 101) / 50 - 1))));
    printf("%d rows: worst error %.2g\n", ROWS, worst);
    assert_true(worst < 1e-6);
    kr_device_free(KR_LEVEL_CUDA, x.data);
    kr_device_free(KR_LEVEL_CUDA, y.data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fault_on_the_gpu_is_named),
        cmocka_unit_test(many_rows),
        cmocka_unit_test(replayed_runs_see_new_inputs),
        cmocka_unit_test(constants_follow_their_parameters),
        cmocka_unit_test(inputs_may_lie_on_the_gpu),
        cmocka_unit_test(threads_share_the_gpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
