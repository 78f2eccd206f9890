/* mnist.c - MNIST as a sequence: 28 x 28 pixels, row by row or permuted, x = pixel / 255.
 *
 * Files are the four of the set, unpacked: IDX, big-endian numbers and then bytes, one a pixel or a
 * label. Of those for training every tenth is for validation. Source: LeCun et al. 1998; sMNIST and
 * psMNIST of the S4 repository, whose order pixel_order.h has. */
#include <stdio.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "data/tasks/pixel_order.h"
#include "data/tasks/task.h"

enum { SIDE = 28, PIXELS = SIDE * SIDE, CLASSES = 10, VALID_OF = 10 };
enum { IMAGES, LABELS, IMAGES_HEAD = 16, LABELS_HEAD = 8, MOST_ITEMS = 1 << 20 };

typedef struct mnist {
    bool permuted;
} mnist;

static const kr_setting settings[] = {
    KR_SETTING_BOOL_OF(mnist, permuted, false,
                       "pixels in the order of their indices' bits read backward (psMNIST)"),
    {.name = NULL}};

/* Of each part, training and test: images [count,PIXELS] and labels [count]. In memory: a file that
 * another process cuts off while it is mapped would end the program. */
typedef struct mnist_files {
    unsigned char *items[2][2];
    int64_t count[2];
    int32_t order[PIXELS];
} mnist_files;

static const char *const names[2][2] = {{"train-images-idx3-ubyte", "train-labels-idx1-ubyte"},
                                        {"t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"}};

static int64_t number(const unsigned char *p) {
    return (int64_t)p[0] << 24 | (int64_t)p[1] << 16 | (int64_t)p[2] << 8 | p[3];
}

/* The number of items of an IDX file, by its first numbers, which are as they must be. */
static int read_head(FILE *stream, int kind, const char *path, int64_t *count, krait_error *e) {
    unsigned char head[IMAGES_HEAD];
    size_t size = kind == IMAGES ? IMAGES_HEAD : LABELS_HEAD;
    int64_t magic = kind == IMAGES ? 0x803 : 0x801;
    if (fread(head, 1, size, stream) != size || number(head) != magic)
        return kr_fail(e, KRAIT_ERR_FORMAT,
                       "%s: no IDX file of %s (it must be unpacked, and begin with %lld)", path,
                       kind == IMAGES ? "images" : "labels", (long long)magic);
    if (kind == IMAGES && (number(head + 8) != SIDE || number(head + 12) != SIDE))
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: %lld x %lld pixels, must be %d x %d", path,
                       (long long)number(head + 12), (long long)number(head + 8), SIDE, SIDE);
    *count = number(head + 4);
    if (*count <= MOST_ITEMS) return 0;
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: %lld items, at most %d are read", path,
                   (long long)*count, MOST_ITEMS);
}

static int read_items(FILE *stream, int kind, const char *path, unsigned char **items,
                      int64_t *count, krait_error *e) {
    KR_TRY(read_head(stream, kind, path, count, e));
    size_t size = (size_t)*count * (kind == IMAGES ? PIXELS : 1);
    *items = kr_malloc(size ? size : 1);
    if (!*items) return kr_fail_memory(e, "a task");
    if (fread(*items, 1, size, stream) == size && getc(stream) == EOF) return 0;
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: its bytes are not those of %lld items", path,
                   (long long)*count);
}

static int check_labels(const unsigned char *labels, int64_t count, const char *path,
                        krait_error *e) {
    for (int64_t i = 0; i < count; i++)
        if (labels[i] >= CLASSES)
            return kr_fail(e, KRAIT_ERR_FORMAT, "%s: label %lld is %d, must be below %d", path,
                           (long long)i, labels[i], CLASSES);
    return 0;
}

static int open_file(mnist_files *f, const char *folder, int test, int kind, int64_t *count,
                     krait_error *e) {
    char *path = kr_path_join(folder, names[test][kind]);
    if (!path) return kr_fail_memory(e, "a task");
    FILE *stream = kr_is_file(path) ? fopen(path, "rb") : NULL;
    int rc = stream ? read_items(stream, kind, path, &f->items[test][kind], count, e)
                    : kr_fail(e, KRAIT_ERR_IO, "%s: no file that can be read", path);
    if (stream) fclose(stream);
    if (rc == 0 && kind == LABELS) rc = check_labels(f->items[test][LABELS], *count, path, e);
    kr_free(path);
    return rc;
}

static int open_part(kr_task_source *s, mnist_files *f, int test, krait_error *e) {
    int64_t labels = 0;
    KR_TRY(open_file(f, s->paths[0], test, IMAGES, &f->count[test], e));
    KR_TRY(open_file(f, s->paths[0], test, LABELS, &labels, e));
    if (labels == f->count[test] && labels >= (test ? 1 : VALID_OF)) return 0;
    return kr_fail(e, KRAIT_ERR_FORMAT,
                   "%s: %lld images in %s and %lld labels in %s, must be as many, from %d on",
                   s->paths[0], (long long)f->count[test], names[test][IMAGES], (long long)labels,
                   names[test][LABELS], test ? 1 : VALID_OF);
}

static int open_task(kr_task_source *s, krait_error *e) {
    s->channels = 1;
    s->classes = CLASSES;
    s->width = SIDE;
    s->longest = PIXELS;
    s->answers = 1;
    if (s->n_paths != 1)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "task mnist reads one folder, %lld are given",
                       (long long)s->n_paths);
    mnist_files *f = s->inside = kr_calloc(1, sizeof *f);
    if (!f) return kr_fail_memory(e, "a task");
    KR_TRY(open_part(s, f, 0, e));
    KR_TRY(open_part(s, f, 1, e));
    kr_pixel_order(PIXELS, f->order);
    s->examples[KR_TASK_VALID] = f->count[0] / VALID_OF;
    s->examples[KR_TASK_TRAIN] = f->count[0] - s->examples[KR_TASK_VALID];
    s->examples[KR_TASK_TEST] = f->count[1];
    return 0;
}

static void close_task(kr_task_source *s) {
    mnist_files *f = s->inside;
    for (int i = 0; f && i < 4; i++) kr_free(f->items[i / 2][i % 2]);
    kr_free(f);
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    const mnist_files *f = s->inside;
    bool test = part == KR_TASK_TEST, permuted = ((const mnist *)s->settings)->permuted;
    (void)r;
    if (part == KR_TASK_TRAIN) index += index / (VALID_OF - 1);
    if (part == KR_TASK_VALID) index = index * VALID_OF + VALID_OF - 1;
    const unsigned char *from = f->items[test][IMAGES] + index * PIXELS;
    x->label = f->items[test][LABELS][index];
    KR_TRY(kr_example_size(x, s, PIXELS, e));
    for (int i = 0; i < PIXELS; i++) x->values[i] = (float)from[permuted ? f->order[i] : i] / 255;
    return 0;
}

const kr_task kr_task_mnist = {
    .name = "mnist",
    .about = "which digit is written, as a sequence of 784 grey values",
    .settings = settings,
    .settings_size = sizeof(mnist),
    .files = "a folder of the four IDX files, unpacked",
    .open = open_task,
    .close = close_task,
    .make = make,
};
