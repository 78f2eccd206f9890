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
    KR_SETTING_INT_OF(delay, length, 4000, 8, 1 << 16,
                      "rows of an example (slow with a large prime factor)"),
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

typedef struct cplx {
    double re, im;
} cplx;

/* turn [T] is e^(2 pi i j / T); terms from `end` on are 0. */
typedef struct series {
    const cplx *turn, *end;
} series;

/* sum over k < count of x[k stride] e^(2 pi i k t / n), where n step = T */
static cplx sum_of(const series *s, const cplx *x, int64_t stride, int64_t count, int64_t step,
                   int64_t n, int64_t t) {
    cplx sum = {0, 0};
    for (int64_t k = 0, at = 0; k < count; k++) {
        cplx term = x[k * stride], turn = s->turn[at * step];
        sum.re += term.re * turn.re - term.im * turn.im;
        sum.im += term.re * turn.im + term.im * turn.re;
        at += at + t < n ? t : t - n;
    }
    return sum;
}

static int64_t smallest_factor(int64_t n) {
    for (int64_t p = 2; p * p <= n; p++)
        if (n % p == 0) return p;
    return n;
}

/* to [n]: those sums over x[0], x[step], ... for every t: p series of every p-th term, put together
 * (Cooley & Tukey 1965), down to prime n. */
static void transform(const series *s, const cplx *x, int64_t step, int64_t n, cplx *to) {
    int64_t p = smallest_factor(n), m = n / p, left = (s->end - x + step - 1) / step;
    cplx part[256]; /* p^2 <= T <= 2^16 where there are parts */
    if (m == 1) {
        int64_t count = left < 0 ? 0 : left < n ? left : n;
        for (int64_t t = 0; t < n; t++) to[t] = sum_of(s, x, step, count, step, n, t);
        return;
    }
    for (int64_t r = 0; r < p; r++) transform(s, x + r * step, step * p, m, to + r * m);
    for (int64_t t = 0; t < m; t++) {
        for (int64_t r = 0; r < p; r++) part[r] = to[r * m + t];
        for (int64_t q = 0; q < p; q++) to[q * m + t] = sum_of(s, part, 1, p, step, n, q * m + t);
    }
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    const delay *c = (const delay *)s->settings;
    int64_t T = c->length, bins = (int64_t)(c->cutoff * (double)T);
    (void)part, (void)index;
    KR_TRY(kr_example_size(x, s, T, e));
    cplx *turn = kr_calloc((size_t)(3 * T), sizeof *turn);
    if (!turn) return kr_fail_memory(e, "an example");
    cplx *terms = turn + T, *signal = terms + T;
    if (2 * bins >= T) bins = (T - 1) / 2;
    for (int64_t t = 0; t < T; t++) {
        double angle = 2 * 3.14159265358979323846 * (double)t / (double)T;
        turn[t] = (cplx){cos(angle), sin(angle)};
    }
    for (int64_t k = 1; k <= bins; k++) { /* Re (a - i b) e^(i phi) = a cos phi + b sin phi */
        double a = 0.5 * kr_rng_normal(r), b = 0.5 * kr_rng_normal(r);
        terms[k] = (cplx){a / sqrt((double)bins), -b / sqrt((double)bins)};
    }
    transform(&(series){turn, terms + bins + 1}, terms, 1, T, signal);
    for (int64_t t = 0; t < T; t++) {
        x->values[t] = (float)(signal[t].re - signal[0].re);
        x->numbers[t] = t < c->lag ? 0 : x->values[t - c->lag];
    }
    kr_free(turn);
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
