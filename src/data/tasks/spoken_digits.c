/* spoken_digits.c - which digit is said? The samples of the sound are the sequence.
 *
 * Files are DIGIT_SPEAKER_INDEX.wav (the Free Spoken Digit Dataset: 8000 samples a second, mono):
 * index 0 to 4 is the test part.
 * x = sample, scaled so that the root mean square of the sound is 1 (silence stays silent). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "data/audio/wav.h"
#include "data/tasks/labelled_files.h"

enum { RATE = 8000 }; /* samples a second of every file of the set */

typedef struct digits {
    int64_t samples, every;
} digits;

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(digits, samples, 16384, 16, 1 << 20, "of a sound that are read, at most"),
    KR_SETTING_INT_OF(digits, every, 1, 1, 64,
                      "the mean of so many samples is one row: 8000/every rows a second"),
    {.name = NULL}};

static bool rule(const char *above, const char *folder, const char *name, int32_t *label,
                 bool *test) {
    const char *last = strrchr(name, '_');
    (void)above, (void)folder;
    if (!kr_ends_with(name, ".wav") || name[0] < '0' || name[0] > '9' || name[1] != '_' || !last)
        return false;
    *label = name[0] - '0';
    *test = atoi(last + 1) < 5;
    return last > name + 1;
}

static int open_task(kr_task_source *s, krait_error *e) {
    const digits *c = (const digits *)s->settings;
    s->channels = 1;
    s->classes = 10;
    s->longest = (c->samples + c->every - 1) / c->every;
    s->answers = 1;
    return kr_labelled_files_open(s, rule, e);
}

static int take_samples(const kr_task_source *s, const kr_wav *w, const char *path, kr_example *x,
                        krait_error *e) {
    const digits *c = (const digits *)s->settings;
    if (w->rate != RATE || w->channels != 1)
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                       "%s: rate %lld, channels %d; spoken_digits reads rate %d, channels 1: "
                       "convert the file",
                       path, (long long)w->rate, w->channels, (int)RATE);
    int64_t n = w->count < c->samples ? w->count : c->samples, rows = n / c->every;
    if (rows < 1)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: %lld samples are too few", path,
                       (long long)w->count);
    KR_TRY(kr_example_size(x, s, rows, e));
    double squares = 0;
    for (int64_t i = 0; i < rows; i++) {
        double sum = 0;
        for (int64_t k = 0; k < c->every; k++) sum += (double)kr_wav_at(w, i * c->every + k, 0);
        x->values[i] = (float)(sum / (double)c->every);
        squares += (double)x->values[i] * (double)x->values[i];
    }
    double rms = sqrt(squares / (double)rows);
    for (int64_t i = 0; i < rows; i++) x->values[i] /= (float)(rms > 1e-5 ? rms : 1e-5);
    return 0;
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    kr_map map;
    kr_wav w;
    const char *path;
    (void)r;
    KR_TRY(kr_labelled_files_map(s, part, index, &map, &path, &x->label, e));
    int rc = kr_wav_parse(&w, map.data, map.size, path, e);
    if (rc == 0) rc = take_samples(s, &w, path, x, e);
    kr_map_close(&map);
    return rc;
}

const kr_task kr_task_spoken_digits = {
    .name = "spoken_digits",
    .about = "which digit is said, from the samples of the sound",
    .settings = settings,
    .settings_size = sizeof(digits),
    .files = "DIGIT_SPEAKER_INDEX.wav",
    .open = open_task,
    .close = kr_labelled_files_close,
    .make = make,
};
