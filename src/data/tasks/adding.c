/* adding.c - the sum of two marked numbers in a long row of them: a regression.
 *
 * A row is (value, marker): values uniform in [0,1); markers 0 but for a 1 at one row of each half.
 * The answer is the sum of the two marked values. Always saying 1 is off by 1/6 in the mean square.
 * Source: Hochreiter & Schmidhuber 1997, in the form of Arjovsky et al. 2016. */
#include "base/err.h"
#include "data/tasks/task.h"

typedef struct adding {
    int64_t length;
} adding;

static const kr_setting settings[] = {KR_SETTING_INT_OF(adding, length, 1000, 2, 1 << 24,
                                                        "rows of an example"),
                                      {.name = NULL}};

static int open_task(kr_task_source *s, krait_error *e) {
    (void)e;
    s->channels = 2;
    s->numbers = s->answers = 1;
    s->longest = ((const adding *)s->settings)->length;
    return 0;
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    int64_t T = s->longest, half = T / 2;
    (void)part, (void)index;
    KR_TRY(kr_example_size(x, s, T, e));
    for (int64_t t = 0; t < T; t++) {
        x->values[2 * t] = (float)kr_rng_uniform(r);
        x->values[2 * t + 1] = 0;
    }
    int64_t a = kr_task_between(r, 0, half - 1), b = kr_task_between(r, half, T - 1);
    x->values[2 * a + 1] = x->values[2 * b + 1] = 1;
    x->numbers[0] = x->values[2 * a] + x->values[2 * b];
    return 0;
}

const kr_task kr_task_adding = {
    .name = "adding",
    .about = "the sum of the two marked numbers (a number)",
    .settings = settings,
    .settings_size = sizeof(adding),
    .open = open_task,
    .make = make,
};
