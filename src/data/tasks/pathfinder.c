/* pathfinder.c - do the two markers lie on the same dashed path?
 *
 * A picture of W x W values in [0,1], read row by row; label 1: the same path. The pictures are
 * those of the Long Range Arena (W 32: Pathfinder, 128: Path-X) drawn anew: the same task, not the
 * same data. W 16, a small one of our own, is for CPUs; `fewest` puts easy pictures among the hard
 * ones. pathfinder_draw.c has the drawing. */
#include "data/tasks/pathfinder.h"

#include "base/err.h"
#include "data/tasks/task.h"

typedef struct pathfinder {
    int size;
    int64_t strokes, fewest;
} pathfinder;

static const kr_setting settings[] = {
    KR_SETTING_CHOICE_OF(pathfinder, size, 0, "32|64|128|256|16",
                         "width and height of the picture"),
    KR_SETTING_INT_OF(pathfinder, strokes, 14, 3, 14,
                      "of each of the two paths: 6, 9 and 14 are the published levels"),
    KR_SETTING_INT_OF(pathfinder, fewest, 0, 0, 14,
                      "strokes of the easiest pictures, up to `strokes` of others; 0: always "
                      "`strokes`",
                      .later = true),
    {.name = NULL}};

/* The Long Range Arena's parameters, and ours of 16; the number of other paths is this much of
 * their strokes. */
static const struct shape {
    kr_path_shape shape;
    int others;
} shapes[] = {
    {{.width = 32,
      .least_margin = 1,
      .most_margin = 1,
      .padding = 1,
      .length = 2,
      .thickness = 0.5,
      .radius = 1.5,
      .continuity = 1.0,
      .distance = 7},
     20},
    {{.width = 64,
      .least_margin = 1,
      .most_margin = 1,
      .padding = 1,
      .length = 5,
      .thickness = 1,
      .radius = 2.5,
      .continuity = 1.8,
      .distance = 12},
     22},
    {{.width = 128,
      .least_margin = 2,
      .most_margin = 3,
      .padding = 1,
      .length = 5,
      .thickness = 1.5,
      .radius = 3,
      .continuity = 1.8,
      .distance = 20},
     35},
    {{.width = 256,
      .least_margin = 3,
      .most_margin = 3,
      .padding = 22,
      .length = 5,
      .thickness = 2,
      .radius = 5,
      .continuity = 1.8,
      .distance = 27},
     30},
    {{.width = 16,
      .least_margin = 1,
      .most_margin = 1,
      .padding = 1,
      .length = 2,
      .thickness = 0.5,
      .radius = 1.5,
      .continuity = 1.0,
      .distance = 4},
     6},
};

static int open_task(kr_task_source *s, krait_error *e) {
    const pathfinder *c = (const pathfinder *)s->settings;
    if (c->fewest && (c->fewest < 3 || c->fewest > c->strokes))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "fewest is %lld, must be 0, or 3 to strokes = %lld",
                       (long long)c->fewest, (long long)c->strokes);
    s->width = shapes[c->size].shape.width;
    s->channels = 1;
    s->classes = 2;
    s->longest = s->width * s->width;
    s->answers = 1;
    return 0;
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    const pathfinder *c = (const pathfinder *)s->settings;
    const struct shape *k = &shapes[c->size];
    kr_path_shape shape = k->shape;
    kr_path_facts facts = {.strokes = NULL};
    (void)part, (void)index;
    shape.strokes = (int)(c->fewest ? kr_task_between(r, c->fewest, c->strokes) : c->strokes);
    shape.distractor = shape.strokes / 3;
    shape.distractors = k->others / shape.distractor;
    int rc = kr_example_size(x, s, s->longest, e);
    if (rc < 0) return rc;
    x->label = (int32_t)kr_rng_below(r, 2);
    return kr_path_draw(&shape, x->label, r, x->values, &facts, e);
}

static const char *label(const kr_task_source *s, int32_t i) {
    (void)s;
    return i ? "same path" : "different paths";
}

const kr_task kr_task_pathfinder = {
    .name = "pathfinder",
    .about = "do the two markers lie on the same path?",
    .settings = settings,
    .settings_size = sizeof(pathfinder),
    .open = open_task,
    .make = make,
    .label = label,
};
