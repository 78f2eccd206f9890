/* selective_copying.c - say the tokens that were not noise, in order.
 *
 * Rows 0 .. T-M-1 hold noise 0 and, at M places, tokens drawn uniformly from 1 .. A-2; the last M
 * rows hold the marker A-1, and at the i-th of them the i-th token is to be said. Places: drawn
 * without replacement (selective copying), or the first M (plain copying, which fixed delays
 * solve). Sources: Gu & Dao 2023, section 4.1.1; the copying data of state-spaces/s4. */
#include <stdio.h>

#include "base/err.h"
#include "data/tasks/task.h"

typedef struct copying {
    int64_t length, memorise, symbols;
    int places;
} copying;

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(copying, length, 256, 3, 1 << 22, "rows of an example, markers included"),
    KR_SETTING_INT_OF(copying, memorise, 16, 1, 4096, "tokens to remember"),
    KR_SETTING_INT_OF(copying, symbols, 16, 3, 1 << 20,
                      "size of the alphabet, noise and marker included"),
    KR_SETTING_CHOICE_OF(
        copying, places, 0, "random|front",
        "where the tokens stand: anywhere (selective copying), or first (plain copying)"),
    {.name = NULL}};

static int open_task(kr_task_source *s, krait_error *e) {
    const copying *c = (const copying *)s->settings;
    if (c->length < 2 * c->memorise)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "length is %lld, must be at least 2 * memorise = %lld", (long long)c->length,
                       (long long)(2 * c->memorise));
    s->vocabulary = c->symbols;
    s->longest = c->length;
    s->answers = c->memorise;
    return 0;
}

/* Is the next of `rows` places one of the `wanted` that are left? (Knuth's selection sampling:
 * every choice of places is as likely, and they come in order.) */
static bool takes(kr_rng *r, int64_t wanted, int64_t rows) {
    return (int64_t)kr_rng_below(r, (uint64_t)rows) < wanted;
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    const copying *c = (const copying *)s->settings;
    int64_t body = c->length - c->memorise, done = 0;
    (void)part, (void)index;
    KR_TRY(kr_example_size(x, s, c->length, e));
    for (int64_t i = 0; i < body; i++) {
        bool here = c->places == 1 ? done < c->memorise : takes(r, c->memorise - done, body - i);
        x->ids[i] = here ? (int32_t)kr_task_between(r, 1, c->symbols - 2) : 0;
        if (here) x->targets[body + done++] = x->ids[i];
    }
    for (int64_t i = body; i < c->length; i++) x->ids[i] = (int32_t)(c->symbols - 1);
    return 0;
}

static const char *token(const kr_task_source *s, int32_t id, char text[16]) {
    const copying *c = (const copying *)s->settings;
    if (id == 0) return ".";
    if (id == c->symbols - 1) return "?";
    snprintf(text, 16, "%d", (int)id);
    return text;
}

const kr_task kr_task_selective_copying = {
    .name = "selective_copying",
    .about = "say the tokens that stood in noise, in order",
    .settings = settings,
    .settings_size = sizeof(copying),
    .open = open_task,
    .make = make,
    .token = token,
};
