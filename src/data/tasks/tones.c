/* tones.c - which tone sounds in the noise? A signal in time, which may be sampled less often.
 *
 *   x_t = sin(2 pi f t + phase) + noise N(0,1),    f = f_low (f_high/f_low)^(label/(tones-1)) j
 *
 * cycles a sample, j uniform in [0.95, 1.05]. With `every` E only the samples 0, E, 2 E, ... of the
 * same signal are given: what a system in continuous time, told so by its rate, does not mind
 * (Gu et al. 2022). */
#include <math.h>

#include "base/err.h"
#include "data/tasks/task.h"

typedef struct tones {
    int64_t length, tones, every;
    double noise;
} tones;

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(tones, length, 256, 64, 1 << 20, "samples of a signal"),
    KR_SETTING_INT_OF(tones, tones, 4, 2, 32,
                      "how many there are, from 1/64 to 1/10 cycles a sample"),
    KR_SETTING_INT_OF(tones, every, 1, 1, 4, "only each such sample is a row"),
    KR_SETTING_REAL_OF(tones, noise, 0.5, 0, 100, "deviation of the noise"),
    {.name = NULL}};

static int open_task(kr_task_source *s, krait_error *e) {
    const tones *c = (const tones *)s->settings;
    (void)e;
    s->channels = 1;
    s->classes = c->tones;
    s->longest = (c->length + c->every - 1) / c->every;
    s->answers = 1;
    return 0;
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    static const double pi = 3.14159265358979323846, low = 1.0 / 64, high = 1.0 / 10;
    const tones *c = (const tones *)s->settings;
    (void)part, (void)index;
    KR_TRY(kr_example_size(x, s, s->longest, e));
    x->label = (int32_t)kr_rng_below(r, (uint64_t)c->tones);
    double f = low * pow(high / low, (double)x->label / (double)(c->tones - 1));
    f *= 0.95 + 0.1 * kr_rng_uniform(r);
    double phase = 2 * pi * kr_rng_uniform(r);
    for (int64_t t = 0; t < c->length; t++) {
        double v = sin(2 * pi * f * (double)t + phase) + c->noise * kr_rng_normal(r);
        if (t % c->every == 0) x->values[t / c->every] = (float)v;
    }
    return 0;
}

const kr_task kr_task_tones = {
    .name = "tones",
    .about = "which tone sounds in the noise, from samples that may be given less often",
    .settings = settings,
    .settings_size = sizeof(tones),
    .open = open_task,
    .make = make,
};
