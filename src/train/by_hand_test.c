/* by_hand_test.c - steps by hand: gradients add up, the update moves the copy and not the model,
 * the loss is the session's, and what cannot be is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>
#include <krait/train.h>

#include "base/mem.h"
#include "models/model.h"

enum { V = 264, N = 24 };

static krait_model *model;
static int32_t ids[2][N];
static const int32_t *const documents[2] = {ids[0], ids[1]};
static const int64_t counts[2] = {N, 9};

static int setup(void **state) {
    (void)state;
    static const char *const sets[] = {"layers=2", "width=32", "seed=5"};
    krait_error e;
    for (int i = 0; i < 2 * N; i++) ids[i / N][i % N] = (int32_t)(i * 37 % 256);
    return krait_recipe_model(&model, NULL, sets, 3, &e);
}

static int teardown(void **state) {
    (void)state;
    krait_model_close(&model);
    return 0;
}

static krait_trainer *open_trainer(double clip) {
    krait_trainer_options o = KRAIT_TRAINER_OPTIONS_INIT;
    krait_trainer *t;
    krait_error e;
    o.tokens = 64;
    o.documents = 2;
    o.clip = clip;
    if (krait_trainer_create(&t, model, &o, &e) < 0) fail_msg("%s", e.message);
    return t;
}

/* The mean loss of both documents by a session's logits, in double. */
static double session_loss(const krait_model *m) {
    static float logits[N * V];
    krait_session *s;
    krait_error e;
    double sum = 0;
    for (int d = 0; d < 2; d++) {
        assert_int_equal(krait_session_create(&s, m, NULL, &e), 0);
        const krait_span span = {0, ids[d], counts[d], KRAIT_WANT_ALL};
        assert_int_equal(krait_session_forward(s, &span, 1, logits, &e), 0);
        for (int64_t t = 0; t + 1 < counts[d]; t++) {
            double total = 0;
            for (int v = 0; v < V; v++) total += exp((double)logits[t * V + v]);
            sum += log(total) - (double)logits[t * V + ids[d][t + 1]];
        }
        krait_session_close(&s);
    }
    return sum / (double)(counts[0] + counts[1] - 2);
}

static void loss_is_the_session_s(void **state) {
    (void)state;
    krait_trainer *t = open_trainer(0);
    krait_error e;
    double loss, want = session_loss(model), norm, last;
    assert_int_equal(krait_trainer_backward(t, documents, counts, 2, &loss, &e), 0);
    printf("loss %.9f, by logits %.9f\n", loss, want);
    assert_true(fabs(loss - want) < 1e-5 * want);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(krait_trainer_update(t, 0.01, &norm, &e), 0);
        assert_int_equal(krait_trainer_backward(t, documents, counts, 2, &last, &e), 0);
    }
    want = session_loss(krait_trainer_model(t));
    printf("after 30 steps %.9f, by logits %.9f\n", last, want);
    assert_true(last < 0.5 * loss && fabs(last - want) < 1e-5 * loss);
    assert_true(fabs(session_loss(model) - loss) < 1e-5 * loss); /* the model stayed */
    krait_trainer_close(&t);
}

static void gradients_add_up(void **state) {
    (void)state;
    krait_trainer *t = open_trainer(0);
    krait_error e;
    double once, twice, again;
    assert_int_equal(krait_trainer_backward(t, documents, counts, 1, NULL, &e), 0);
    assert_int_equal(krait_trainer_update(t, 0, &once, &e), 0); /* rate 0: nothing moves */
    for (int i = 0; i < 2; i++)
        assert_int_equal(krait_trainer_backward(t, documents, counts, 1, NULL, &e), 0);
    assert_int_equal(krait_trainer_update(t, 0, &twice, &e), 0);
    assert_int_equal(krait_trainer_backward(t, documents, counts, 1, NULL, &e), 0);
    assert_int_equal(krait_trainer_update(t, 0, &again, &e), 0);
    printf("norm %.6g, of two %.6g\n", once, twice);
    assert_true(once > 0 && fabs(twice / once - 2) < 1e-5 && fabs(again / once - 1) < 1e-6);
    krait_trainer_close(&t);
}

/* After a gradient that is not finite the next one starts afresh. */
static void a_nan_is_forgotten(void **state) {
    (void)state;
    krait_trainer *t = open_trainer(1);
    krait_error e;
    double norm;
    const kr_weights *w = &krait_trainer_model(t)->weights;
    float *x = kr_weights_find(w, "backbone.layers.0.norm.weight")->data, was = *x;
    *x = NAN;
    assert_int_equal(krait_trainer_backward(t, documents, counts, 2, NULL, &e), KRAIT_ERR_NUMERIC);
    printf("%s\n", e.message);
    assert_int_equal(krait_trainer_update(t, 0.01, &norm, &e), KRAIT_ERR_NUMERIC);
    printf("%s\n", e.message);
    assert_true(isnan(norm));
    *x = was;
    assert_int_equal(krait_trainer_backward(t, documents, counts, 2, NULL, &e), 0);
    assert_int_equal(krait_trainer_update(t, 0.01, &norm, &e), 0);
    assert_true(isfinite(norm) && norm > 0);
    krait_trainer_close(&t);
}

static void refusals(void **state) {
    (void)state;
    krait_trainer *t = open_trainer(1);
    krait_error e;
    const int32_t outside[] = {1, V};
    const struct {
        const int32_t *ids[2];
        int64_t counts[2], n;
    } bad[] = {{{ids[0]}, {1}, 1},
               {{outside}, {2}, 1},
               {{ids[0]}, {65}, 1},
               {{ids[0], ids[1]}, {N, N}, 3},
               {{ids[0], ids[1]}, {N}, 0}};
    for (int i = 0; i < 5; i++) {
        int64_t n[3] = {bad[i].counts[0], bad[i].counts[1], 2};
        const int32_t *docs[3] = {bad[i].ids[0], bad[i].ids[1], ids[0]};
        assert_int_equal(krait_trainer_backward(t, docs, n, bad[i].n, NULL, &e),
                         KRAIT_ERR_ARGUMENT);
        printf("%s\n", e.message);
    }
    assert_int_equal(krait_trainer_backward(t, NULL, NULL, 1, NULL, &e), KRAIT_ERR_ARGUMENT);
    krait_trainer_close(&t);
    krait_trainer_close(&t);
    assert_int_equal(krait_trainer_update(NULL, 1, NULL, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_trainer_create(&t, NULL, NULL, &e), KRAIT_ERR_ARGUMENT);
    krait_trainer_options o = KRAIT_TRAINER_OPTIONS_INIT;
    o.beta1 = 1;
    assert_int_equal(krait_trainer_create(&t, model, &o, &e), KRAIT_ERR_ARGUMENT);
    krait_model *m;
    const char *const sets[] = {"layers=none"};
    assert_true(krait_recipe_model(&m, NULL, sets, 1, &e) < 0);
    printf("%s\n", e.message);
    const char *const task[] = {"task=mqar"};
    assert_int_equal(krait_recipe_model(&m, NULL, task, 1, &e), KRAIT_ERR_ARGUMENT);
    printf("%s\n", e.message);
}

static void memory_fails(void **state) {
    (void)state;
    krait_error e;
    static const char *const sets[] = {"layers=1", "width=16"};
    krait_trainer_options o = KRAIT_TRAINER_OPTIONS_INIT;
    int64_t n = 1;
    o.tokens = 16;
    for (;; n++) {
        krait_model *m = NULL;
        krait_trainer *t = NULL;
        kr_mem_fail_after(n);
        int rc = krait_recipe_model(&m, NULL, sets, 2, &e);
        if (rc == 0) rc = krait_trainer_create(&t, m, &o, &e);
        kr_mem_fail_after(0);
        krait_trainer_close(&t);
        krait_model_close(&m);
        if (rc == 0) break;
        assert_int_equal(rc, KRAIT_ERR_MEMORY);
    }
    printf("each of %lld allocations failed once\n", (long long)n - 1);
    assert_true(n > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_is_the_session_s), cmocka_unit_test(gradients_add_up),
        cmocka_unit_test(a_nan_is_forgotten),    cmocka_unit_test(refusals),
        cmocka_unit_test(memory_fails),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
