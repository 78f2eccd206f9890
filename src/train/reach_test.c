/* reach_test.c - the gradient by distance against finite differences of the loss, which reading
 * token by token gives; what cannot be measured is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <krait/train.h>

#include "models/lm.h"
#include "models/model.h"

enum { LENGTH = 9, WINDOWS = 2, IDS = LENGTH * WINDOWS + 4, WIDTH = 6, VOCABULARY = 24 };

/* Every token once, so that the embedding of an id is that of one row. */
static int32_t id_of(int i) { return (int32_t)((7 * i + 3) % VOCABULARY); }

static krait_model *make_model(const char *mixer, int64_t layers) {
    kr_config c;
    kr_weights w = {0};
    krait_model *m;
    krait_error e = {0};
    assert_int_equal(kr_config_make(&c, mixer, WIDTH, layers, VOCABULARY, NULL, NULL), 0);
    c.tied = false;
    assert_int_equal(kr_lm_init_weights(&c, 5, &w, &e), 0);
    kr_weights_sort(&w);
    const kr_tensor *t = kr_weights_find(&w, "backbone.embeddings.weight");
    for (int64_t i = 0; i < kr_tensor_count(t); i++) ((float *)t->data)[i] *= 20;
    assert_int_equal(kr_model_from_weights(&m, &c, &w, NULL, &e), 0);
    return m;
}

/* -log p(ids[n]) behind ids[0..n). */
static double loss_of(const krait_model *m, const int32_t *ids, int64_t n) {
    krait_session *s;
    krait_error e;
    float logits[VOCABULARY];
    double sum = 0;
    krait_span span = {0, ids, n, KRAIT_WANT_LAST};
    assert_int_equal(krait_session_create(&s, m, NULL, &e), 0);
    assert_int_equal(krait_session_forward(s, &span, 1, logits, &e), 0);
    krait_session_close(&s);
    for (int i = 0; i < VOCABULARY; i++) sum += exp((double)logits[i]);
    return log(sum) - (double)logits[ids[n]];
}

/* The square of d loss / d embedding of ids[at], by differences. */
static double square_of(const krait_model *m, const int32_t *ids, int64_t at) {
    const kr_tensor *t = kr_weights_find(&m->weights, "backbone.embeddings.weight");
    const double step = 0x1p-6;
    double square = 0;
    for (int i = 0; i < WIDTH; i++) {
        float *x = (float *)t->data + ids[at] * WIDTH + i, old = *x;
        *x = (float)((double)old + step);
        double above = loss_of(m, ids, LENGTH);
        *x = (float)((double)old - step);
        double below = loss_of(m, ids, LENGTH);
        *x = old;
        square += (above - below) * (above - below) / (4 * step * step);
    }
    return square;
}

static void check_mixer(const char *mixer) {
    int32_t ids[IDS];
    double sizes[LENGTH], worst = 0, largest = 0;
    krait_error e;
    krait_reach_options o = KRAIT_REACH_OPTIONS_INIT;
    krait_model *m = make_model(mixer, 2);
    for (int i = 0; i < IDS; i++) ids[i] = id_of(i);
    o.length = LENGTH;
    int64_t n = krait_reach(m, ids, IDS, &o, sizes, &e);
    if (n < 0) fail_msg("%s", e.message);
    assert_int_equal(n, WINDOWS);
    for (int k = 0; k < LENGTH; k++) {
        double square = 0;
        for (int w = 0; w < WINDOWS; w++)
            square += square_of(m, ids + (ptrdiff_t)w * LENGTH, LENGTH - 1 - k) / WINDOWS;
        worst = fmax(worst, fabs(sizes[k] - sqrt(square)));
        largest = fmax(largest, sizes[k]);
    }
    printf("%s: gradient by distance off by %.1e of %.3f\n", mixer, worst, largest);
    assert_true(largest > 1e-3 && worst <= 2e-3 * largest);
    o.windows = 1;
    double first[LENGTH];
    assert_int_equal(krait_reach(m, ids, IDS, &o, first, &e), 1);
    assert_true(memcmp(first, sizes, sizeof first) != 0);
    krait_model_close(&m);
}

static void test_differences(void **state) {
    (void)state;
    check_mixer("mamba1");
    check_mixer("rnn");
    check_mixer("lru");
}

static void refuse(const krait_model *m, const int32_t *ids, int64_t n, int64_t length,
                   int64_t windows, const char *says) {
    krait_reach_options o = KRAIT_REACH_OPTIONS_INIT;
    krait_error e;
    double sizes[64];
    o.length = length;
    o.windows = windows;
    assert_int_equal(krait_reach(m, ids, n, &o, sizes, &e), KRAIT_ERR_ARGUMENT);
    if (!strstr(e.message, says)) fail_msg("\"%s\" lacks \"%s\"", e.message, says);
}

/* It reads numbers: no id is in its vocabulary of 0. */
static krait_model *make_teller(void) {
    kr_config c;
    kr_weights w = {0};
    krait_model *m;
    krait_error e;
    assert_int_equal(kr_config_make(&c, "lru", WIDTH, 1, 0, "channels=2 numbers=1", &e), 0);
    assert_int_equal(kr_lm_init_weights(&c, 5, &w, &e), 0);
    assert_int_equal(kr_model_from_weights(&m, &c, &w, NULL, &e), 0);
    return m;
}

static void test_refused(void **state) {
    (void)state;
    int32_t ids[] = {1, 2, VOCABULARY, 3};
    krait_model *m = make_model("lru", 1);
    refuse(m, ids, 2, 2, 1, "need 3 tokens, there are 2");
    refuse(m, ids, 4, 2, 1, "id 24 is outside the vocabulary of 24");
    refuse(m, ids, 2, 0, 1, "must be above 0");
    refuse(m, ids, 2, 1, 0, "must be above 0");
    krait_model_close(&m);
    krait_reach_options o = KRAIT_REACH_OPTIONS_INIT;
    krait_error e;
    double sizes[2];
    o.length = 2;
    m = make_teller();
    assert_int_equal(krait_reach(m, ids, 4, &o, sizes, &e), KRAIT_ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "has no next token"));
    krait_model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_differences),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
