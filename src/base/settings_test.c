/* settings_test.c - a table's defaults, its reading from text and JSON, and what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/settings.h"

typedef struct mine {
    int64_t length;
    double rate;
    bool open;
    int head;
} mine;

static const kr_setting table[] = {{"length", KR_SETTING_INT, offsetof(mine, length), 256, 4, 4096,
                                    NULL, "tokens", false, NULL},
                                   {"rate", KR_SETTING_REAL, offsetof(mine, rate), 0.5, 0, 1, NULL,
                                    "a share", false, "head=last head=every"},
                                   {"open", KR_SETTING_BOOL, offsetof(mine, open), 1, 0, 1, NULL,
                                    "a switch", false, NULL},
                                   {"head", KR_SETTING_CHOICE, offsetof(mine, head), 1, 0, 0,
                                    "pool|last|every", "a choice", false, "open=true"},
                                   {.name = NULL}};

static void reading(void **state) {
    (void)state;
    mine m = {0}, same;
    krait_error e;
    kr_settings_default(table, &m);
    assert_true(m.length == 256 && m.rate == 0.5 && m.open && m.head == 1);
    assert_int_equal(kr_settings_assign(table, &m, "length=64", "--set", "it", &e), 0);
    assert_int_equal(kr_settings_assign(table, &m, "rate=0.25", "--set", "it", &e), 0);
    assert_int_equal(kr_settings_assign(table, &m, "open=false", "--set", "it", &e), 0);
    assert_int_equal(kr_settings_assign(table, &m, "head=every", "--set", "it", &e), 0);
    assert_true(m.length == 64 && m.rate == 0.25 && !m.open && m.head == 2);
    json_t *json = json_object();
    assert_int_equal(kr_settings_write(table, &m, json), 0);
    kr_settings_default(table, &same);
    for (const kr_setting *s = table; s->name; s++) {
        char text[64], range[96];
        assert_false(kr_setting_equal(s, &m, &same));
        assert_int_equal(kr_setting_take(s, &same, json_object_get(json, s->name), "f", &e), 0);
        assert_true(kr_setting_equal(s, &m, &same));
        printf("%s %s (%s)\n", s->name, kr_setting_text(s, &m, text), kr_setting_range(s, range));
    }
    json_decref(json);
}

static void refusals(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"length=3", "--set: length must be a whole number from 4 to 4096, is 3"},
        {"length=8.5", "is 8.5"},
        {"length=eight", "is eight"},
        {"length=0x10", "is 0x10"},
        {"length= 8", "is  8"},
        {"length=", "from 4 to 4096, is "},
        {"rate=nan", "rate must be a number from 0 to 1"},
        {"rate=0x1p-1", "is 0x1p-1"},
        {"open=perhaps", "open must be true or false, is perhaps"},
        {"head=poo", "head must be one of pool|last|every, is poo"},
        {"lengths=8", "it has no setting \"lengths\"; it has: length, rate, open, head"},
        {"length", "expected key=value"}};
    mine m;
    krait_error e;
    kr_settings_default(table, &m);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_true(kr_settings_assign(table, &m, bad[i][0], "--set", "it", &e) < 0);
        printf("%s\n", e.message);
        assert_non_null(strstr(e.message, bad[i][1]));
    }
    json_t *text = json_string("8");
    assert_true(kr_setting_take(&table[0], &m, text, "recipe.json", &e) < 0);
    assert_non_null(strstr(e.message, "recipe.json: length must be a whole number"));
    json_decref(text);
    assert_true(m.length == 256 && m.rate == 0.5 && m.open && m.head == 1);
}

/* "rate" needs head last or every, "head" needs open. */
static void idle_settings(void **state) {
    (void)state;
    static const struct {
        const char *set[3], *part; /* NULL: taken */
    } all[] = {
        {{"length=8"}, NULL},
        {{"head=pool", "rate=0.5"}, NULL}, /* the usual value is no wish */
        {{"rate=0.25"}, NULL},             /* the second choice, as it is by default */
        {{"rate=0.25", "head=every"}, NULL},
        {{"rate=0.25", "head=pool"},
         "f: rate (0.25) has no effect without head=last or head=every: leave it out"},
        {{"head=pool", "open=false"}, "f: head (pool) has no effect without open=true"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        mine m;
        krait_error e = {0};
        kr_settings_default(table, &m);
        for (int k = 0; k < 3 && all[i].set[k]; k++)
            assert_int_equal(kr_settings_assign(table, &m, all[i].set[k], "f", "it", &e), 0);
        int rc = kr_settings_check_idle(table, &m, "f", &e);
        if (rc < 0) printf("%s\n", e.message);
        assert_int_equal(rc, all[i].part ? KRAIT_ERR_ARGUMENT : 0);
        if (all[i].part) assert_non_null(strstr(e.message, all[i].part));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(reading), cmocka_unit_test(refusals),
                                       cmocka_unit_test(idle_settings)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
