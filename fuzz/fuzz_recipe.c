/* fuzz_recipe.c - libFuzzer target of recipes: any text is refused, or is a recipe that is written
 * and read back the same and whose schedule gives rates. What follows a zero byte is an override
 * as of --set. */
#define _GNU_SOURCE
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "train/recipe.h"
#include "train/schedule.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const kr_recipe *r) {
    kr_recipe again;
    json_t *json = kr_recipe_json(r);
    char *text = json ? json_dumps(json, JSON_REAL_PRECISION(17)) : NULL;
    int from = 0;
    if (!text) abort();
    kr_recipe_default(&again);
    if (kr_recipe_parse(&again, text, strlen(text), "written", NULL) < 0) abort();
    for (int fixed = 0; fixed < 2; fixed++, from = 0)
        if (kr_recipe_difference(r, &again, fixed, &from)) abort();
    free(text);
    json_decref(json);
}

static void check_schedule(const kr_recipe *r) {
    int64_t steps[] = {1, r->warmup, r->warmup + 1, r->steps / 2, r->steps - r->decay, r->steps};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        if (steps[i] < 1 || steps[i] > r->steps) continue;
        double rate = kr_learning_rate(r, steps[i]);
        if (!isfinite(rate) || rate < 0) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t json = zero ? (size_t)(zero - data) : size;
    kr_recipe r;
    kr_config c;
    kr_recipe_default(&r);
    if (kr_recipe_parse(&r, (const char *)data, json, "input", NULL) < 0) return 0;
    if (zero) {
        char *set = strndup((const char *)zero + 1, size - json - 1);
        int rc = set ? kr_recipe_set(&r, set, NULL) : -1;
        free(set);
        if (rc < 0) return 0;
    }
    check_text(&r);
    if (kr_recipe_finish(&r, NULL) < 0) return 0;
    check_schedule(&r);
    if (kr_recipe_config(&r, 257, 256, &c, NULL) == 0 && kr_config_check(&c, NULL) < 0) abort();
    return 0;
}
