/* imdb.c - is a film review for or against? Its bytes are the sequence (Text of the Long Range
 * Arena).
 *
 * Files are aclImdb/{train,test}/{pos,neg}/NAME.txt; ids are bytes, then an end. Source: Maas et
 * al. 2011; Tay et al. 2021. */
#include <string.h>

#include "data/tasks/labelled_files.h"

enum { END = 256 };

typedef struct imdb {
    int64_t bytes;
} imdb;

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(imdb, bytes, 4095, 1, 1 << 20, "of a review that are read; an end follows"),
    {.name = NULL}};

static bool rule(const char *above, const char *folder, const char *name, int32_t *label,
                 bool *test) {
    *test = strcmp(above, "test") == 0;
    *label = strcmp(folder, "pos") == 0;
    return (*test || strcmp(above, "train") == 0) && (*label || strcmp(folder, "neg") == 0) &&
           kr_ends_with(name, ".txt");
}

static int open_task(kr_task_source *s, krait_error *e) {
    const imdb *c = (const imdb *)s->settings;
    s->vocabulary = END + 1;
    s->classes = 2;
    s->longest = c->bytes + 1;
    s->answers = 1;
    return kr_labelled_files_open(s, rule, e);
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    const imdb *c = (const imdb *)s->settings;
    kr_map map;
    const char *path;
    (void)r;
    int rc = kr_labelled_files_map(s, part, index, &map, &path, &x->label, e);
    if (rc < 0) return rc;
    int64_t n = map.size < (size_t)c->bytes ? (int64_t)map.size : c->bytes;
    rc = kr_example_size(x, s, n + 1, e);
    for (int64_t i = 0; rc == 0 && i < n; i++) x->ids[i] = map.data[i];
    if (rc == 0) x->ids[n] = END;
    kr_map_close(&map);
    return rc;
}

static const char *token(const kr_task_source *s, int32_t id, char text[16]) {
    (void)s;
    if (id == END) return "<end>";
    if (id > 32 && id < 127) {
        text[0] = (char)id;
        text[1] = 0;
    }
    return id == 32 ? "_" : text;
}

static const char *label(const kr_task_source *s, int32_t i) {
    (void)s;
    return i ? "positive" : "negative";
}

const kr_task kr_task_imdb = {
    .name = "imdb",
    .about = "is a film review for or against, read byte by byte",
    .settings = settings,
    .settings_size = sizeof(imdb),
    .files = "aclImdb/{train,test}/{pos,neg}/NAME.txt",
    .open = open_task,
    .close = kr_labelled_files_close,
    .make = make,
    .token = token,
    .label = label,
};
