/* image_grey.c - CIFAR-10 as a sequence: grey values of 32 x 32 pixels, row by row.
 *
 *   grey = 0.299 R + 0.587 G + 0.114 B,   x = (grey/255 - 122.6/255) / (61/255)
 *
 * Files are {train,test}/CLASS/NAME.jpg; labels are the classes in alphabetical order. Source: the
 * Image task of the Long Range Arena, with the normalisation of the S4 repository. */
#include <string.h>

#include "base/err.h"
#include "data/image/jpeg.h"
#include "data/tasks/labelled_files.h"
#include "data/tasks/pixel_order.h"

enum { SIDE = 32, CLASSES = 10 };

typedef struct image_grey {
    bool permuted;
} image_grey;

static const char *const names[CLASSES] = {"airplane", "automobile", "bird",  "cat",  "deer",
                                           "dog",      "frog",       "horse", "ship", "truck"};

static const kr_setting settings[] = {
    KR_SETTING_BOOL_OF(image_grey, permuted, false,
                       "pixels in the order of their indices' bits read backward"),
    {.name = NULL}};

static bool rule(const char *above, const char *folder, const char *name, int32_t *label,
                 bool *test) {
    *test = strcmp(above, "test") == 0;
    for (int i = 0; i < CLASSES; i++)
        if (strcmp(folder, names[i]) == 0) {
            *label = i;
            return (*test || strcmp(above, "train") == 0) && kr_ends_with(name, ".jpg");
        }
    return false;
}

static int open_task(kr_task_source *s, krait_error *e) {
    s->channels = 1;
    s->classes = CLASSES;
    s->width = SIDE;
    s->longest = SIDE * SIDE;
    s->answers = 1;
    return kr_labelled_files_open(s, rule, e);
}

static int take_pixels(const kr_picture *p, const char *path, bool permuted, kr_example *x,
                       krait_error *e) {
    int32_t order[SIDE * SIDE];
    if (p->width != SIDE || p->height != SIDE)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: %lld x %lld pixels, must be %d x %d", path,
                       (long long)p->width, (long long)p->height, SIDE, SIDE);
    kr_pixel_order(SIDE * SIDE, order);
    for (int i = 0; i < SIDE * SIDE; i++) {
        const uint8_t *c = p->pixels + 3 * (permuted ? order[i] : i);
        double grey = 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2];
        x->values[i] = (float)((grey - 122.6) / 61);
    }
    return 0;
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    const image_grey *c = (const image_grey *)s->settings;
    kr_map map;
    const char *path;
    kr_picture p = {0};
    (void)r;
    KR_TRY(kr_example_size(x, s, SIDE * SIDE, e));
    KR_TRY(kr_labelled_files_map(s, part, index, &map, &path, &x->label, e));
    int rc = kr_jpeg_decode(&p, map.data, map.size, SIDE * SIDE, path, e);
    if (rc == 0) rc = take_pixels(&p, path, c->permuted, x, e);
    kr_picture_free(&p);
    kr_map_close(&map);
    return rc;
}

static const char *label(const kr_task_source *s, int32_t i) {
    (void)s;
    return names[i];
}

const kr_task kr_task_image_grey = {
    .name = "image_grey",
    .about = "CIFAR-10 as a sequence of 1024 grey values",
    .settings = settings,
    .settings_size = sizeof(image_grey),
    .files = "CIFAR-10 as {train,test}/CLASS/NAME.jpg",
    .open = open_task,
    .close = kr_labelled_files_close,
    .make = make,
    .label = label,
};
