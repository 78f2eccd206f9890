/* delay.c - say again, at every row, what was heard so many rows ago: a regression.
 *
 *   y_t = x_{t-lag}, 0 before;   x: white noise without the frequencies above `cutoff`, rms 0.5
 *
 * The signal is a sum over the bins of a real Fourier series below the cut-off, with N(0,1) parts,
 * scaled by what is left of them, then moved to begin at 0 (the generator of the S4 repository). A
 * model that says 0 is off by the signal's mean square. Source: Gu et al. 2021 and 2022. */
#include <math.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/tasks/task.h"

typedef struct delay {
    int64_t length, lag;
    double cutoff;
} delay;

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(delay, length, 4000, 8, 1 << 16, "rows of an example"),
    KR_SETTING_INT_OF(delay, lag, 1000, 0, 1 << 16, "rows between hearing and saying"),
    KR_SETTING_REAL_OF(delay, cutoff, 0.25, 1e-6, 0.5, "highest frequency, in cycles a row"),
    {.name = NULL}};

static int open_task(kr_task_source *s, krait_error *e) {
    const delay *c = (const delay *)s->settings;
    s->channels = s->numbers = 1;
    s->each_row = true;
    s->longest = s->answers = c->length;
    if (c->lag >= c->length)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "lag (%lld) must be below length (%lld)",
                       (long long)c->lag, (long long)c->length);
    if (c->cutoff * (double)c->length >= 1) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "cutoff (%g) is below one cycle in %lld rows", c->cutoff,
                   (long long)c->length);
}

/* x [T] += a cos(2 pi k t / T) + b sin(2 pi k t / T), by turning a unit vector. */
static void add_wave(double *x, int64_t T, int64_t k, double a, double b) {
    double angle = 2 * 3.14159265358979323846 * (double)k / (double)T;
    double turn_re = cos(angle), turn_im = sin(angle), re = 1, im = 0;
    for (int64_t t = 0; t < T; t++) {
        x[t] += a * re + b * im;
        double next = re * turn_re - im * turn_im;
        im = re * turn_im + im * turn_re;
        re = next;
    }
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    const delay *c = (const delay *)s->settings;
    int64_t T = c->length, bins = (int64_t)(c->cutoff * (double)T);
    (void)part, (void)index;
    KR_TRY(kr_example_size(x, s, T, e));
    double *signal = kr_calloc((size_t)T, sizeof *signal);
    if (!signal) return kr_fail_memory(e, "an example");
    if (2 * bins >= T) bins = (T - 1) / 2;
    for (int64_t k = 1; k <= bins; k++) {
        double a = 0.5 * kr_rng_normal(r), b = 0.5 * kr_rng_normal(r);
        add_wave(signal, T, k, a / sqrt((double)bins), b / sqrt((double)bins));
    }
    for (int64_t t = 0; t < T; t++) {
        x->values[t] = (float)(signal[t] - signal[0]);
        x->numbers[t] = t < c->lag ? 0 : x->values[t - c->lag];
    }
    kr_free(signal);
    return 0;
}

const kr_task kr_task_delay = {
    .name = "delay",
    .about = "say at every row what was heard so many rows ago (numbers)",
    .settings = settings,
    .settings_size = sizeof(delay),
    .open = open_task,
    .make = make,
};
