/* selftest_model_test.c - the three forms of a small random model of every mixer agree, and its
 * gradient norms are those of a difference. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "mixers/mixer.h"
#include "models/lm.h"
#include "models/model.h"
#include <krait/train.h>

enum { DOCUMENTS = 3, LONGEST = 150, VOCABULARY = 61 };

typedef struct norms {
    int n, positive;
    double embedding;
} norms;

static void on_tensor(void *user, const char *name, double norm) {
    norms *t = user;
    t->n++;
    t->positive += norm > 0 && isfinite(norm);
    if (strstr(name, "embeddings")) t->embedding = norm;
}

static krait_model *random_model(const char *mixer, const char *variant) {
    kr_config c;
    kr_weights w = {0};
    krait_model *m = NULL;
    krait_error e;
    if (kr_config_make(&c, mixer, 24, 2, VOCABULARY, variant, &e) < 0) fail_msg("%s", e.message);
    if (kr_lm_init_weights(&c, 3, &w, &e) < 0) fail_msg("%s", e.message);
    if (kr_model_from_weights(&m, &c, &w, NULL, &e) < 0) fail_msg("%s", e.message);
    return m;
}

static void check_forms(const char *mixer, const char *variant) {
    static int32_t text[DOCUMENTS][LONGEST];
    const int32_t *ids[DOCUMENTS] = {text[0], text[1], text[2]};
    int64_t counts[DOCUMENTS] = {LONGEST, 1, 37};
    for (int d = 0; d < DOCUMENTS; d++)
        for (int k = 0; k < LONGEST; k++) text[d][k] = (7 * k * k + 11 * d + k) % VOCABULARY;
    krait_model *m = random_model(mixer, variant);
    norms t = {0};
    krait_model_check check = {.on_tensor = on_tensor, .user = &t};
    krait_error e;
    if (krait_selftest_model(m, ids, counts, DOCUMENTS, &check, &e) < 0) fail_msg("%s", e.message);
    printf("%s %s: step %.2g, chunks %.2g, loss %.4f, %d tensors\n", mixer, variant,
           check.step_error, check.chunk_error, check.loss, t.n);
    assert_true(check.step_error <= 1e-5);
    assert_true(check.chunk_error <= 1e-5);
    assert_true(fabs(check.loss - log(VOCABULARY)) < 0.5);
    assert_int_equal(t.n, check.tensors);
    assert_int_equal(t.n, t.positive);
    assert_true(t.embedding > 0);
    krait_model_close(&m);
}

static void forms_agree(void **state) {
    (void)state;
    char text[KR_VARIANT_TEXT];
    const char *v;
    for (int i = 0; kr_mixers[i]; i++)
        for (int k = 0; (v = kr_config_variant(kr_mixers[i]->name, k, text)); k++)
            check_forms(kr_mixers[i]->name, v);
}

static void bad_ids_are_refused(void **state) {
    (void)state;
    krait_model *m = random_model("mamba1", "");
    const int32_t wrong[2] = {0, VOCABULARY}, one[1] = {5};
    const int64_t two = 2, single = 1;
    krait_model_check check = {0};
    krait_error e;
    assert_int_equal(krait_selftest_model(m, (const int32_t *[]){wrong}, &two, 1, &check, &e),
                     KRAIT_ERR_ARGUMENT);
    printf("%s\n", e.message);
    assert_int_equal(krait_selftest_model(m, (const int32_t *[]){one}, &single, 1, &check, &e),
                     KRAIT_ERR_ARGUMENT);
    krait_model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_agree),
        cmocka_unit_test(bad_ids_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
