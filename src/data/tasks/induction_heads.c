/* induction_heads.c - what followed this token the last time?
 *
 * Ids 0 .. A-2 are ordinary and drawn uniformly; A-1 is special and stands twice, at a uniform
 * place p in [0, T-3] and in the last row, where the id at p+1 is to be said. (The definition of
 * Gu & Dao 2023, section 4.1.2, after Olsson et al. 2022, made exact: the special token is inside
 * the alphabet, the answer is always ordinary.) */
#include <stdio.h>

#include "data/tasks/task.h"

typedef struct induction {
    int64_t length, symbols;
} induction;

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(induction, length, 256, 3, 1 << 24, "rows of an example"),
    KR_SETTING_INT_OF(induction, symbols, 16, 2, 1 << 20,
                      "size of the alphabet, special token included"),
    {.name = NULL}};

static int open_task(kr_task_source *s, krait_error *e) {
    const induction *c = (const induction *)s->settings;
    (void)e;
    s->vocabulary = c->symbols;
    s->longest = c->length;
    s->answers = 1;
    return 0;
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    const induction *c = (const induction *)s->settings;
    (void)part, (void)index;
    int rc = kr_example_size(x, s, c->length, e);
    if (rc < 0) return rc;
    for (int64_t i = 0; i < c->length; i++)
        x->ids[i] = (int32_t)kr_rng_below(r, (uint64_t)(c->symbols - 1));
    int64_t p = kr_task_between(r, 0, c->length - 3);
    x->ids[p] = x->ids[c->length - 1] = (int32_t)(c->symbols - 1);
    x->targets[c->length - 1] = x->ids[p + 1];
    return 0;
}

static const char *token(const kr_task_source *s, int32_t id, char text[16]) {
    const induction *c = (const induction *)s->settings;
    if (id == c->symbols - 1) return "=>";
    snprintf(text, 16, "%d", (int)id);
    return text;
}

const kr_task kr_task_induction_heads = {
    .name = "induction_heads",
    .about = "say what followed the special token the first time",
    .settings = settings,
    .settings_size = sizeof(induction),
    .open = open_task,
    .make = make,
    .token = token,
};
