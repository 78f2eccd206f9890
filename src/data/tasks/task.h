/* task.h - sequence tasks: examples made from a seed, or read from files, with answers that are
 * right or wrong.
 *
 * A task is one const kr_task, plus a line in tasks.def. Its settings are a table
 * (base/settings.h). An example depends on (settings, seed, part, index) alone: it may be made in
 * any order, by any thread, again after a resume, and on any machine.
 *
 * What an example is:
 *   input   ids [T], below `vocabulary`; or values [T,C], real
 *   answer  targets [T]: the id that is to be said at that row, -1: nothing is asked there;
 *           or one label in [0, classes) for all of it;
 *           or numbers [K] for all of it, or [T,K] with each_row: a regression, more or less off */
#ifndef KR_TASK_H
#define KR_TASK_H

#include "base/rng.h"
#include "base/settings.h"

typedef enum kr_task_part {
    KR_TASK_TRAIN,
    KR_TASK_VALID,
    KR_TASK_TEST,
    KR_TASK_PARTS
} kr_task_part;

/* One example; its memory is reused by the next. */
typedef struct kr_example {
    int64_t count;    /* T */
    int32_t *ids;     /* [T], or unused */
    float *values;    /* [T,C], or unused */
    int32_t *targets; /* [T], or unused */
    float *numbers;   /* [K], or with each_row [T,K], or unused */
    int32_t label;    /* -1: none */
    size_t ids_room, values_room, targets_room, numbers_room;
} kr_example;

/* Room for `count` rows of a source's kind of input, all targets -1; sets x->count. */
struct kr_task_source;
int kr_example_size(kr_example *x, const struct kr_task_source *s, int64_t count, krait_error *e);
void kr_example_free(kr_example *x);

typedef struct kr_task {
    const char *name, *about;
    const kr_setting *settings;
    size_t settings_size;
    const char *files; /* that its examples come from; NULL: it makes them, and takes no paths */
    /* Checks settings together, and fills the facts of the source; on failure `close` is called. */
    int (*open)(struct kr_task_source *s, krait_error *e);
    void (*close)(struct kr_task_source *s); /* NULL: nothing inside */
    int (*make)(const struct kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r,
                kr_example *x, krait_error *e);
    /* How an id is written for people; NULL: as a number. Returns text. */
    const char *(*token)(const struct kr_task_source *s, int32_t id, char text[16]);
    /* The name of a class; NULL: its number. */
    const char *(*label)(const struct kr_task_source *s, int32_t label);
} kr_task;

extern const kr_task *const kr_tasks[]; /* NULL-ended, in the order of tasks.def */
const kr_task *kr_task_find(const char *name);
/* The same, or an error that lists the tasks. */
const kr_task *kr_task_need(const char *name, krait_error *e);

#define KR_TASK_SETTINGS 256 /* bytes: the most of a task's settings */

typedef struct kr_task_source {
    const kr_task *task;
    uint64_t seed;
    const char *const *paths; /* the caller's, as long as the source lives */
    int64_t n_paths;
    _Alignas(8) unsigned char settings[KR_TASK_SETTINGS];
    void *inside; /* the task's own */
    /* facts, filled by open */
    int64_t vocabulary;              /* > 0: input is ids */
    int64_t channels;                /* > 0: input is real rows */
    int64_t classes;                 /* > 0: the answer is a label */
    int64_t numbers;                 /* K > 0: the answer is so many numbers */
    bool each_row;                   /* numbers are asked at each row */
    int64_t longest;                 /* rows of the longest example */
    int64_t answers;                 /* the most rows of an example whose target is not -1 */
    int64_t width;                   /* > 0: an example is a picture of rows of so many values */
    int64_t examples[KR_TASK_PARTS]; /* of each part; 0: without end */
} kr_task_source;

/* What a head has to tell: classes or numbers; 0: ids. */
static inline int64_t kr_task_tells(const kr_task_source *s) {
    return s->classes ? s->classes : s->numbers;
}

/* settings: the task's struct, or NULL for the defaults. */
int kr_task_open(kr_task_source *s, const kr_task *task, const void *settings, uint64_t seed,
                 const char *const *paths, int64_t n_paths, krait_error *e);
void kr_task_close(kr_task_source *s);
/* Example `index` of a part; of a part that ends, index is below its number of examples. */
int kr_task_make(const kr_task_source *s, kr_task_part part, int64_t index, kr_example *x,
                 krait_error *e);

/* A random number in [low, high], both included. */
static inline int64_t kr_task_between(kr_rng *r, int64_t low, int64_t high) {
    return low + (int64_t)kr_rng_below(r, (uint64_t)(high - low + 1));
}

#endif
