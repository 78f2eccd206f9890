/* hippo_memory.c - a signal being remembered by HiPPO: feeds a signal sample by sample, and writes
 * what the N coefficients give back at some moments on the way.
 *   cc hippo_memory.c $(pkg-config --cflags --libs krait) -lm && ./a.out [MEASURE [N [WINDOW]]]
 *
 * MEASURE legs, legt, lagt or fourier (legs); N coefficients (32); WINDOW in samples (legs: 0, all
 * the past; others: 500). Columns on stdout, one line a sample of the past: moment (samples seen),
 * sample, signal, recalled. A summary goes to stderr. */
#include <krait/hippo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 1000, MOMENTS = 4 };

static double signal_at(int j) {
    double x = (j + 0.5) / SAMPLES, pi = acos(-1);
    return sin(4 * pi * x) + 0.5 * cos(10 * pi * x);
}

static int kind_named(const char *name, krait_hippo_kind *kind) {
    static const char *const names[] = {"legs", "legt", "lagt", "fourier"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(name, names[i])) return *kind = (krait_hippo_kind)i, 0;
    return fprintf(stderr, "hippo_memory: MEASURE must be legs, legt, lagt or fourier\n"), 2;
}

/* All samples so far that the window keeps. */
static void write_moment(const krait_hippo *memory, int seen, double window) {
    int first = window > 0 && seen > window ? seen - (int)window : 0;
    double squares = 0;
    for (int j = first; j < seen; j++) {
        double recalled = krait_hippo_recall(memory, seen - j - 0.5), is = signal_at(j);
        printf("%d %d %.6f %.6f\n", seen, j, is, recalled);
        squares += (recalled - is) * (recalled - is);
    }
    fprintf(stderr, "after %4d samples: recalled within %.4f (root mean square)\n", seen,
            sqrt(squares / (seen - first)));
}

int main(int count, char **words) {
    krait_hippo_options options = KRAIT_HIPPO_OPTIONS_INIT;
    krait_hippo *memory;
    krait_error error;
    if (count > 1 && kind_named(words[1], &options.kind)) return 2;
    options.numbers = count > 2 ? atoi(words[2]) : 32;
    options.window = count > 3 ? atof(words[3]) : options.kind == KRAIT_HIPPO_LEGS ? 0 : 500;
    if (krait_hippo_open(&memory, &options, &error))
        return fprintf(stderr, "%s\n", error.message), 1;
    printf("# moment sample signal recalled\n");
    for (int j = 0; j < SAMPLES; j++) {
        krait_hippo_feed(memory, signal_at(j));
        if ((j + 1) % (SAMPLES / MOMENTS) == 0) write_moment(memory, j + 1, options.window);
    }
    krait_hippo_close(&memory);
    return 0;
}
