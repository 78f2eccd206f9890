/* selftest_test.c - the kernels pass the checker, and the checker catches one wrong value of any
 * op. With an argument like 1/3 that share of the kernels' cases alone, with "checker" all but
 * them: ctest runs the parts side by side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "ops/op.h"
#include <krait/train.h>

typedef struct tally {
    const char *only;
    int64_t rows, failed, skipped, far; /* far: rows with offsets past 2^31 */
    uint64_t sum;                       /* of rows' hashes */
    double worst;                       /* error over tolerance, of rows that passed */
} tally;

static void count(void *user, const krait_check_row *row) {
    tally *t = user;
    t->rows++;
    t->far += strstr(row->kase, "2^31") != NULL;
    t->skipped += row->skipped;
    if (row->skipped) return;
    if (!row->passed) {
        t->failed++;
        printf("%s, %s, %s, %s: %.3g > %.3g: %s\n", row->op, row->kase, row->level, row->what,
               row->error, row->tolerance, row->detail);
    } else if (row->error / row->tolerance > t->worst) {
        t->worst = row->error / row->tolerance;
    }
}

static int share, shares; /* of all_kernels_pass */

static void all_kernels_pass(void **state) {
    (void)state;
    tally t = {0};
    krait_error e = {0};
    krait_check_options o = KRAIT_CHECK_OPTIONS_INIT;
    o.large = 1;
    o.share = share;
    o.shares = shares;
    o.on_row = count;
    o.user = &t;
    int rc = krait_selftest(&o, &e);
    printf("%lld rows (%lld with offsets past 2^31), %lld failed, %lld skipped, worst %.2f of its "
           "tolerance\n",
           (long long)t.rows, (long long)t.far, (long long)t.failed, (long long)t.skipped, t.worst);
    assert_true(t.far > 0);
    if (rc < 0) fail_msg("%s", e.message);
    assert_int_equal(t.failed, 0);
}

static void count_quietly(void *user, const krait_check_row *row) {
    tally *t = user;
    if (strcmp(row->op, t->only) != 0) return; /* another op whose name contains this one's */
    t->rows++;
    t->skipped += row->skipped;
    if (!row->skipped && !row->passed) t->failed++;
}

/* Every row that ran a corrupted kernel must fail, in every fourth case or, where that has none of
 * this op, in all. */
static void a_wrong_value_is_caught(void **state) {
    (void)state;
    for (int i = 0; kr_ops[i]; i++) {
        tally t = {.only = kr_ops[i]->name};
        krait_error e = {0};
        krait_check_options o = KRAIT_CHECK_OPTIONS_INIT;
        o.only = o.corrupt = kr_ops[i]->name;
        o.on_row = count_quietly;
        o.user = &t;
        o.share = 1;
        o.shares = 4;
        int rc = krait_selftest(&o, &e);
        if (t.rows == t.skipped) {
            o.share = o.shares = 0;
            t = (tally){.only = kr_ops[i]->name};
            rc = krait_selftest(&o, &e);
        }
        if (rc != KRAIT_ERR_NUMERIC || t.failed == 0 || t.failed != t.rows - t.skipped)
            fail_msg("a corrupted %s was not caught", kr_ops[i]->name);
        printf("%s: %lld of %lld rows fail\n", kr_ops[i]->name, (long long)t.failed,
               (long long)t.rows);
    }
}

/* On the GPU, where there is one: all kernels pass, and a wrong value of any of them is caught. */
static void the_gpu_passes_too(void **state) {
    (void)state;
    krait_error e = {0};
    krait_check_options o = KRAIT_CHECK_OPTIONS_INIT;
    tally t = {0};
    kr_level level;
    if (kr_device_open("cuda", &level, &e) < 0) {
        printf("%s\n", e.message);
        assert_true(strlen(e.message) > 0 && !strchr(e.message, '\n'));
        skip();
    }
    o.device = "cuda";
    o.large = 1;
    o.on_row = count;
    o.user = &t;
    int rc = krait_selftest(&o, &e);
    printf("%lld rows, %lld failed, %lld skipped, worst %.2f of its tolerance\n", (long long)t.rows,
           (long long)t.failed, (long long)t.skipped, t.worst);
    if (rc < 0) fail_msg("%s", e.message);
    for (int i = 0; kr_ops[i]; i++) {
        if (!kr_ops[i]->kernel[KR_LEVEL_CUDA]) continue;
        tally wrong = {.only = kr_ops[i]->name};
        o.large = 0;
        o.only = o.corrupt = kr_ops[i]->name;
        o.on_row = count_quietly;
        o.user = &wrong;
        if (krait_selftest(&o, &e) != KRAIT_ERR_NUMERIC || wrong.failed == 0 ||
            wrong.failed != wrong.rows - wrong.skipped)
            fail_msg("a corrupted %s was not caught", kr_ops[i]->name);
    }
}

/* What rows hold together, in whatever order they come. */
static void add_up(void *user, const krait_check_row *row) {
    char text[400];
    tally *t = user;
    snprintf(text, sizeof text, "%s|%s|%s|%s|%g", row->op, row->kase, row->level, row->what,
             row->error);
    t->sum += kr_hash_string(text);
    t->rows++;
}

/* Every case is in one share: together they give the rows of the whole. */
static void shares_add_up(void **state) {
    (void)state;
    krait_error e = {0};
    krait_check_options o = KRAIT_CHECK_OPTIONS_INIT;
    tally whole = {0}, parts = {0};
    o.only = "squares";
    o.on_row = add_up;
    o.user = &whole;
    if (krait_selftest(&o, &e) < 0) fail_msg("%s", e.message);
    o.user = &parts;
    o.shares = 3;
    for (o.share = 1; o.share <= o.shares; o.share++) {
        int64_t before = parts.rows;
        if (krait_selftest(&o, &e) < 0) fail_msg("%s", e.message);
        printf("share %d: %lld of %lld rows\n", o.share, (long long)(parts.rows - before),
               (long long)whole.rows);
        assert_true(parts.rows - before > whole.rows / 6);
    }
    assert_int_equal(parts.rows, whole.rows);
    assert_true(parts.sum == whole.sum);
}

static void bad_options_are_refused(void **state) {
    (void)state;
    krait_error e = {0};
    krait_check_options o = KRAIT_CHECK_OPTIONS_INIT;
    o.corrupt = "nothing";
    assert_int_equal(krait_selftest(&o, &e), KRAIT_ERR_ARGUMENT);
    o.corrupt = NULL;
    o.device = "abacus";
    assert_int_equal(krait_selftest(&o, &e), KRAIT_ERR_ARGUMENT);
    o.device = NULL;
    for (int i = 0; i < 3; i++) {
        o.share = (int[]){0, 4, -1}[i];
        o.shares = 3;
        assert_int_equal(krait_selftest(&o, &e), KRAIT_ERR_ARGUMENT);
    }
    o.shares = 0; /* of none */
    assert_int_equal(krait_selftest(&o, &e), KRAIT_ERR_ARGUMENT);
    o.share = 0;
    o.only = "nothing";
    assert_int_equal(krait_selftest(&o, &e), KRAIT_ERR_ARGUMENT);
    o.size = 3;
    assert_int_equal(krait_selftest(&o, &e), KRAIT_ERR_ARGUMENT);
    printf("%s\n", e.message);
}

int main(int argc, char **argv) {
    const struct CMUnitTest kernels[] = {cmocka_unit_test(all_kernels_pass)};
    const struct CMUnitTest checker[] = {
        cmocka_unit_test(a_wrong_value_is_caught),
        cmocka_unit_test(the_gpu_passes_too),
        cmocka_unit_test(shares_add_up),
        cmocka_unit_test(bad_options_are_refused),
    };
    const char *part = argc > 1 ? argv[1] : "";
    int failed = 0;
    if (*part >= '0' && *part <= '9' && sscanf(part, "%d/%d", &share, &shares) != 2) return 2;
    if (strcmp(part, "checker") != 0) failed += cmocka_run_group_tests(kernels, NULL, NULL);
    if (shares == 0) failed += cmocka_run_group_tests(checker, NULL, NULL);
    return failed;
}
