/* loss_gpu_test.c - losses on the GPU of rows with masked (-inf) logits and with a NaN: the first
 * count for nothing, the second is never lost. Says "skipped" where there is no GPU. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "device/test_gpu.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

enum { V = 5000 }; /* several logits a thread */

static kr_tensor on_gpu(const void *host, kr_dtype type, int rank, const int64_t *shape) {
    krait_error e;
    kr_tensor t = kr_tensor_make(NULL, type, rank, shape);
    t.data = kr_device_alloc(KR_LEVEL_CUDA, kr_tensor_bytes(&t));
    assert_non_null(t.data);
    if (host)
        assert_int_equal(kr_device_put(KR_LEVEL_CUDA, t.data, host, kr_tensor_bytes(&t), &e), 0);
    return t;
}

static float run(const kr_op *op, kr_call *c) {
    krait_error e;
    float nll = 0;
    size_t scratch = kr_op_scratch(op, KR_LEVEL_CUDA, c);
    c->scratch = kr_device_alloc(KR_LEVEL_CUDA, scratch + 1);
    kr_op_kernel(op, KR_LEVEL_CUDA)(c);
    assert_int_equal(kr_device_check(KR_LEVEL_CUDA, op->name, &e), 0);
    assert_int_equal(kr_device_get(KR_LEVEL_CUDA, &nll, c->out[0].data, sizeof nll, &e), 0);
    for (int i = 0; i < c->n_in; i++) kr_device_free(KR_LEVEL_CUDA, c->in[i].data);
    for (int i = 0; i < c->n_out; i++) kr_device_free(KR_LEVEL_CUDA, c->out[i].data);
    kr_device_free(KR_LEVEL_CUDA, c->scratch);
    return nll;
}

/* The loss of the first of V logits, by each op; the head's input is 1. */
static void losses_of(const float *logits, float nll[2]) {
    const int32_t target = 0;
    const float one = 1;
    kr_call c = {.n_in = 2, .n_out = 2};
    c.in[0] = on_gpu(logits, KR_F32, 2, (int64_t[]){1, V});
    c.in[1] = on_gpu(&target, KR_I32, 1, (int64_t[]){1});
    for (int i = 0; i < 2; i++) c.out[i] = on_gpu(NULL, KR_F32, 1, (int64_t[]){1});
    nll[0] = run(&kr_op_cross_entropy, &c);
    c = (kr_call){.n_in = 3, .n_out = 2};
    c.in[0] = on_gpu(&one, KR_F32, 2, (int64_t[]){1, 1});
    c.in[1] = on_gpu(logits, KR_F32, 2, (int64_t[]){V, 1});
    c.in[2] = on_gpu(&target, KR_I32, 1, (int64_t[]){1});
    for (int i = 0; i < 2; i++) c.out[i] = on_gpu(NULL, KR_F32, 1, (int64_t[]){1});
    nll[1] = run(&kr_op_linear_cross_entropy, &c);
}

static void a_nan_is_never_lost(void **state) {
    static float logits[V];
    float nll[2];
    (void)state;
    if (!kr_test_gpu()) skip();
    for (int i = 0; i < V; i++) logits[i] = i < 2 ? 1 : -INFINITY;
    losses_of(logits, nll);
    printf("two logits alike, %d masked: losses %.7g and %.7g\n", V - 2, nll[0], nll[1]);
    for (int i = 0; i < 2; i++) assert_true(fabs(nll[i] - log(2)) < 1e-6);
    const int places[] = {1, 7, 8, 100, 2049, V - 1};
    for (size_t k = 0; k < sizeof places / sizeof *places; k++) {
        float was = logits[places[k]];
        logits[places[k]] = NAN;
        losses_of(logits, nll);
        printf("a NaN at %d: losses %g and %g\n", places[k], nll[0], nll[1]);
        assert_true(isnan(nll[0]) && isnan(nll[1]));
        logits[places[k]] = was;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_nan_is_never_lost)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
