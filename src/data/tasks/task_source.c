/* task_source.c - opening a task with its settings, and making its examples. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/tasks/task.h"

int kr_task_open(kr_task_source *s, const kr_task *task, const void *settings, uint64_t seed,
                 const char *const *paths, int64_t n_paths, krait_error *e) {
    *s = (kr_task_source){.task = task, .seed = seed, .paths = paths, .n_paths = n_paths};
    if (settings)
        memcpy(s->settings, settings, task->settings_size);
    else
        kr_settings_default(task->settings, s->settings);
    if (task->files && n_paths < 1)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "task %s reads files: give --data of %s", task->name,
                       task->files);
    if (!task->files && n_paths > 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "task %s makes its own data: --data has no effect",
                       task->name);
    int rc = task->open(s, e);
    if (rc < 0) {
        kr_fail_prefix(e, "task %s", task->name);
        kr_task_close(s);
    }
    return rc;
}

void kr_task_close(kr_task_source *s) {
    if (s->task && s->task->close) s->task->close(s);
    *s = (kr_task_source){0};
}

/* Parts never share a stream: the two highest bits are the part's. */
int kr_task_make(const kr_task_source *s, kr_task_part part, int64_t index, kr_example *x,
                 krait_error *e) {
    kr_rng r = kr_rng_make(s->seed, (uint64_t)index | (uint64_t)part << 62);
    x->label = -1;
    return s->task->make(s, part, index, &r, x, e);
}

int kr_example_size(kr_example *x, const kr_task_source *s, int64_t count, krait_error *e) {
    size_t n = (size_t)count;
    bool failed = false;
    if (s->vocabulary > 0) failed |= kr_grow((void **)&x->ids, &x->ids_room, n, sizeof *x->ids);
    if (s->channels > 0)
        failed |= kr_grow((void **)&x->values, &x->values_room, n * (size_t)s->channels,
                          sizeof *x->values);
    if (s->numbers > 0)
        failed |= kr_grow((void **)&x->numbers, &x->numbers_room,
                          (s->each_row ? n : 1) * (size_t)s->numbers, sizeof *x->numbers);
    if (kr_task_tells(s) == 0)
        failed |= kr_grow((void **)&x->targets, &x->targets_room, n, sizeof *x->targets);
    if (failed) return kr_fail_memory(e, "an example");
    for (size_t i = 0; kr_task_tells(s) == 0 && i < n; i++) x->targets[i] = -1;
    x->count = count;
    return 0;
}

void kr_example_free(kr_example *x) {
    kr_free(x->ids);
    kr_free(x->values);
    kr_free(x->targets);
    kr_free(x->numbers);
    *x = (kr_example){0};
}
