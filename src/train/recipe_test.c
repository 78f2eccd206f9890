/* recipe_test.c - recipe keys, their checks, and the schedules' values against hand-computed ones.
 */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <krait/train.h>

#include "mixers/mixer.h"
#include "train/recipe.h"
#include "train/schedule.h"

static int parse(kr_recipe *r, const char *text, krait_error *e) {
    kr_recipe_default(r);
    return kr_recipe_parse(r, text, strlen(text), "test", e);
}

static void reads_and_overrides(void **state) {
    (void)state;
    kr_recipe r;
    krait_error e;
    assert_int_equal(parse(&r, "{\"layers\": 7, \"clip\": 2, \"carry_state\": true}", &e), 0);
    assert_int_equal(kr_recipe_set(&r, "learning_rate=0.25", &e), 0);
    assert_int_equal(kr_recipe_set(&r, "sample_prompt=a = b", &e), 0);
    assert_int_equal(r.config.layers, 7);
    assert_true(r.clip == 2 && r.learning_rate == 0.25 && r.carry_state && r.weight_decay == 0.1);
    assert_string_equal(r.sample_prompt, "a = b");
    assert_true(kr_recipe_given(&r, "layers") && !kr_recipe_given(&r, "width"));
}

static void refuses(const char *json, const char *part) {
    kr_recipe r;
    krait_error e = {0};
    int rc = parse(&r, json, &e);
    if (rc == 0) rc = kr_recipe_finish(&r, &e);
    print_message("  %s\n", e.message);
    assert_true(rc < 0);
    assert_non_null(strstr(e.message, part));
}

static void refuses_what_is_wrong(void **state) {
    (void)state;
    refuses("{\"learning_rat\": 1}", "did you mean: learning_rate");
    refuses("{\"warm_up\": 1}", "did you mean: warmup");
    refuses("{\"zzz\": 1}", "unknown recipe key");
    refuses("{\"layers\": 0}", "layers must be a whole number from 1");
    refuses("{\"layers\": 1.5}", "layers must be a whole number");
    refuses("{\"layers\": \"2\"}", "layers must be a whole number");
    refuses("{\"schedule\": \"cos\"}", "cosine|wsd|constant");
    refuses("{\"reset\": 1}", "reset must be true or false");
    refuses("{\"layers\": 1, \"layers\": 2}", "duplicate");
    refuses("[1]", "JSON object");
    refuses("{\"layers\": ", "line 1");
    refuses("{\"steps\": 5, \"tokens\": 5}", "not both");
    refuses("{\"steps\": 5, \"warmup\": 6}", "longer than all 5 steps");
    refuses("{\"decay\": 6}", "need schedule = wsd");
    refuses("{\"decay_shape\": \"sqrt\"}", "need schedule = wsd");
    refuses("{\"schedule\": \"constant\", \"min_learning_rate\": 1e-4}", "has no effect");
    refuses("{\"min_learning_rate\": 1, \"learning_rate\": 0.5}", "above learning_rate");
    refuses("{\"batch\": 1000000, \"window\": 10000000}", "beyond 2^31");
}

/* The mixer decides which keys there are, whatever the order in the file. */
static void keys_follow_the_mixer(void **state) {
    (void)state;
    kr_recipe r;
    krait_error e;
    assert_int_equal(parse(&r, "{\"state\": 5, \"mixer\": \"mamba1\"}", &e), 0);
    assert_true(kr_recipe_given(&r, "state") && kr_recipe_given(&r, "mixer"));
    assert_int_equal(kr_recipe_set(&r, "mixer=mamba1", &e), 0);
    kr_config c;
    assert_int_equal(kr_recipe_config(&r, 257, 0, &c, &e), 0);
    const kr_setting *k = kr_settings_find(kr_mixer_find("mamba1")->settings, "state", 5);
    char text[64];
    assert_string_equal(kr_setting_text(k, c.settings, text),
                        "5"); /* kept when the mixer is named again */
    assert_true(kr_recipe_set(&r, "mixer=transformer", &e) < 0);
    print_message("  %s\n", e.message);
    assert_non_null(strstr(e.message, "known are mamba1"));
    refuses("{\"mixer\": 7}", "mixer must be a text");
    refuses("{\"r_min\": 0.5}", "mixer lru has one");
    refuses("{\"mixer\": \"lru\", \"kernel\": 3}", "mixer lru has no setting \"kernel\"");
    assert_int_equal(kr_recipe_set(&r, "mixer=lru", &e), 0); /* state is a setting of both */
    assert_true(kr_recipe_given(&r, "state"));
    assert_int_equal(kr_recipe_set(&r, "r_min=0.9", &e), 0);
    assert_true(kr_recipe_set(&r, "mixer=mamba1", &e) < 0);
    print_message("  %s\n", e.message);
    assert_non_null(strstr(e.message, "mixer mamba1 has no setting r_min, which was given"));
}

static void makes(const char *json, const char *part) {
    kr_recipe r;
    kr_config c;
    krait_error e = {0};
    assert_int_equal(parse(&r, json, &e), 0);
    int rc = kr_recipe_config(&r, 257, 0, &c, &e);
    print_message("  %s\n", rc < 0 ? e.message : json);
    assert_int_equal(rc, part ? KRAIT_ERR_ARGUMENT : 0);
    if (part) assert_non_null(strstr(e.message, part));
}

/* A mixer's setting that another one switches off is refused, not forgotten. */
static void settings_without_effect(void **state) {
    (void)state;
    makes("{\"mixer\": \"linear_attention\", \"rope_base\": 500}",
          "recipe: rope_base (500) has no effect without rope=true");
    makes("{\"mixer\": \"linear_attention\", \"rope_base\": 500, \"rope\": true}", NULL);
    makes("{\"mixer\": \"linear_attention\", \"kernel\": 3}", "without block=mamba");
    makes("{\"mixer\": \"linear_attention\", \"dt_floor\": 0.01}",
          "without input_gate=true or decay=selective");
    makes("{\"mixer\": \"linear_attention\", \"dt_floor\": 0.01, \"input_gate\": true}", NULL);
    makes("{\"mixer\": \"mamba1\", \"inner\": 64, \"expand\": 3}", "expand (3) has no effect");
    makes("{\"mixer\": \"mamba2\", \"gated_norm\": false, \"norm_before_gate\": true}",
          "norm_before_gate (true) has no effect without gated_norm=true");
    makes("{\"mixer\": \"mamba2\", \"norm_before_gate\": true}", NULL);
}

/* A pair that no table knows would never hold. */
static void what_a_setting_needs_exists(void **state) {
    (void)state;
    int pairs = 0;
    for (int i = 0; kr_mixers[i]; i++)
        for (const kr_setting *s = kr_mixers[i]->settings; s->name; s++) {
            char text[200], *rest = text, *pair;
            snprintf(text, sizeof text, "%s", s->needs ? s->needs : "");
            while ((pair = strtok_r(rest, " ", &rest))) {
                kr_config c;
                krait_error e = {0};
                kr_config_default(&c, kr_mixers[i]->name);
                if (kr_settings_assign(kr_mixers[i]->settings, c.settings, pair, s->name,
                                       kr_mixers[i]->name, &e) < 0)
                    fail_msg("%s", e.message);
                pairs++;
            }
        }
    print_message("  %d pairs\n", pairs);
    assert_true(pairs > 0);
}

static void dump_reads_back(void **state) {
    (void)state;
    kr_recipe a, b;
    krait_error e = {0};
    assert_int_equal(parse(&a, "{\"beta2\": 0.1234567890123, \"sample_prompt\": \"\\\"x\\n\"}", &e),
                     0);
    json_t *json = kr_recipe_json(&a);
    char *text = json_dumps(json, JSON_REAL_PRECISION(17));
    assert_non_null(text);
    assert_int_equal(parse(&b, text, &e), 0);
    int from = 0;
    assert_null(kr_recipe_difference(&a, &b, true, &from));
    from = 0;
    assert_null(kr_recipe_difference(&a, &b, false, &from));
    b.config.width++;
    b.clip++;
    from = 0;
    assert_string_equal(kr_recipe_difference(&a, &b, true, &from), "width");
    assert_null(kr_recipe_difference(&a, &b, true, &from));
    from = 0;
    assert_string_equal(kr_recipe_difference(&a, &b, false, &from), "clip");
    free(text);
    json_decref(json);
    assert_non_null(strstr(krait_recipe_keys(), "checkpoint_every"));
    assert_non_null(strstr(krait_recipe_keys(), "keep"));
    assert_non_null(strstr(krait_recipe_keys(), ": linear|sqrt\n")); /* what a text may be */
}

/* What a run writes beside its checkpoints is a recipe for the same run. */
static void a_run_s_recipe_is_a_recipe(void **state) {
    (void)state;
    static const char *const given[] = {"{}", "{\"tokens\": 5000000}", "{\"schedule\": \"wsd\"}",
                                        "{\"schedule\": \"constant\", \"steps\": 300}"};
    for (size_t i = 0; i < sizeof given / sizeof given[0]; i++) {
        kr_recipe a, b;
        krait_error e = {0};
        int from = 0;
        assert_int_equal(parse(&a, given[i], &e), 0);
        assert_int_equal(kr_recipe_finish(&a, &e), 0);
        json_t *json = kr_recipe_json(&a);
        char *text = json_dumps(json, JSON_REAL_PRECISION(17));
        assert_non_null(text);
        assert_int_equal(parse(&b, text, &e), 0);
        if (kr_recipe_finish(&b, &e) < 0) fail_msg("%s: %s", given[i], e.message);
        assert_null(kr_recipe_difference(&a, &b, false, &from));
        free(text);
        json_decref(json);
    }
}

static void every_recipe_in_the_tree_is_valid(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t layers, width, steps, ids;
    } all[] = {{"mamba-130m", 24, 768, 572205, 50277},
               {"mamba-370m", 48, 1024, 572205, 50277},
               {"mamba-790m", 48, 1536, 572205, 50277},
               {"mamba-1.4b", 48, 2048, 286103, 50277},
               {"mamba-2.8b", 64, 2560, 286103, 50277},
               {"mamba2-130m", 24, 768, 572205, 50277},
               {"mamba2-tinyshakespeare", 4, 192, 0, 257},
               {"mamba3-130m", 24, 768, 572205, 50277},
               {"mamba3-tinyshakespeare", 4, 192, 0, 257},
               {"linear-attention", 4, 192, 0, 257},
               {"retnet", 4, 192, 0, 257},
               {"gla", 4, 192, 0, 257},
               {"tiny", 2, 32, 40, 257},
               {"lru-tinyshakespeare", 6, 192, 2800, 257},
               {"s4d-tinyshakespeare", 6, 192, 2800, 257},
               {"lstm-tinyshakespeare", 3, 192, 2800, 257},
               {"tinyshakespeare", 4, 192, 0, 257},
               {"demo-model", 6, 192, 2200, 2048},
               {"demo", 4, 128, 0, 257}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char path[1024];
        kr_recipe r;
        kr_config c;
        krait_error e = {0};
        snprintf(path, sizeof path, "%s/recipes/%s.json", KR_SOURCE_DIR, all[i].name);
        kr_recipe_default(&r);
        int rc = kr_recipe_read(&r, path, &e);
        if (rc == 0) rc = kr_recipe_finish(&r, &e);
        if (rc < 0) fail_msg("%s", e.message);
        assert_int_equal(r.config.layers, all[i].layers);
        assert_int_equal(r.config.width, all[i].width);
        if (all[i].steps) assert_int_equal(r.steps, all[i].steps);
        rc = kr_recipe_config(&r, all[i].ids, 0, &c, &e);
        if (rc < 0) fail_msg("%s", e.message);
        assert_int_equal(c.vocabulary, (all[i].ids + 7) / 8 * 8);
    }
}

/* Every --set in what a recipe says of itself, all of them together. */
static void hints_of(const char *path, int *n) {
    kr_recipe r;
    krait_error e = {0};
    kr_recipe_default(&r);
    if (kr_recipe_read(&r, path, &e) < 0) fail_msg("%s", e.message);
    kr_recipe said = r;
    for (const char *p = said.about; (p = strstr(p, "--set ")); (*n)++) {
        char assignment[96];
        p += strlen("--set ");
        snprintf(assignment, sizeof assignment, "%.*s", (int)strcspn(p, " ,;)"), p);
        if (kr_recipe_set(&r, assignment, &e) < 0) fail_msg("%s: %s", path, e.message);
        print_message("  %s: %s\n", path, assignment);
    }
    kr_config c;
    int rc = kr_recipe_finish(&r, &e);
    if (rc == 0 && !*r.task) rc = kr_recipe_config(&r, 60000, 0, &c, &e);
    if (rc < 0) fail_msg("%s: %s", path, e.message);
}

static void what_recipes_suggest_works(void **state) {
    (void)state;
    static const char *const folders[] = {"recipes", "recipes/tasks"};
    int hints = 0, recipes = 0;
    for (int i = 0; i < 2; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", KR_SOURCE_DIR, folders[i]);
        DIR *d = opendir(path);
        assert_non_null(d);
        for (struct dirent *f; (f = readdir(d));) {
            if (!strstr(f->d_name, ".json")) continue;
            snprintf(path, sizeof path, "%s/%s/%s", KR_SOURCE_DIR, folders[i], f->d_name);
            hints_of(path, &hints);
            recipes++;
        }
        closedir(d);
    }
    print_message("  %d recipes, %d hints\n", recipes, hints);
    assert_true(recipes >= 30 && hints >= 8);
}

static void rate_is(const kr_recipe *r, int64_t step, double expected) {
    double rate = kr_learning_rate(r, step);
    print_message("  %s step %lld: %.17g (by hand %.17g)\n", r->schedule, (long long)step, rate,
                  expected);
    assert_true(fabs(rate - expected) <= 1e-15);
}

/* Not given, the warm-up makes room: for a few steps, and for the decay behind it. */
static void warm_up_of_a_short_run(void **state) {
    (void)state;
    static const struct {
        const char *json;
        int64_t warmup;
    } list[] = {{"{\"steps\": 30}", 3},
                {"{\"steps\": 1}", 0},
                {"{\"steps\": 100}", 100},
                {"{\"steps\": 110, \"schedule\": \"wsd\", \"decay\": 60}", 5}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        kr_recipe r;
        krait_error e;
        assert_int_equal(parse(&r, list[i].json, &e), 0);
        if (kr_recipe_finish(&r, &e) < 0) fail_msg("%s", e.message);
        assert_int_equal(r.warmup, list[i].warmup);
    }
}

static void schedules(void **state) {
    (void)state;
    kr_recipe r;
    krait_error e;
    assert_int_equal(parse(&r,
                           "{\"steps\": 110, \"warmup\": 10, \"learning_rate\": 0.5,"
                           " \"min_learning_rate\": 0.1}",
                           &e),
                     0);
    assert_int_equal(kr_recipe_finish(&r, &e), 0);
    rate_is(&r, 1, 0.05);
    rate_is(&r, 10, 0.5);
    rate_is(&r, 60, 0.3);                             /* cos(pi/2) = 0 */
    rate_is(&r, 35, 0.1 + 0.4 * 0.85355339059327376); /* (1 + sqrt(1/2)) / 2 */
    rate_is(&r, 110, 0.1);
    assert_int_equal(kr_recipe_set(&r, "schedule=wsd", &e), 0);
    assert_int_equal(kr_recipe_set(&r, "decay=16", &e), 0);
    assert_int_equal(kr_recipe_finish(&r, &e), 0);
    rate_is(&r, 5, 0.25);
    rate_is(&r, 94, 0.5);
    rate_is(&r, 98, 0.4); /* a quarter of the way down */
    rate_is(&r, 110, 0.1);
    assert_int_equal(kr_recipe_set(&r, "decay_shape=sqrt", &e), 0);
    rate_is(&r, 98, 0.3); /* 1 - sqrt(1/4) */
    rate_is(&r, 110, 0.1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_and_overrides),
        cmocka_unit_test(refuses_what_is_wrong),
        cmocka_unit_test(keys_follow_the_mixer),
        cmocka_unit_test(settings_without_effect),
        cmocka_unit_test(what_a_setting_needs_exists),
        cmocka_unit_test(dump_reads_back),
        cmocka_unit_test(a_run_s_recipe_is_a_recipe),
        cmocka_unit_test(every_recipe_in_the_tree_is_valid),
        cmocka_unit_test(what_recipes_suggest_works),
        cmocka_unit_test(warm_up_of_a_short_run),
        cmocka_unit_test(schedules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
