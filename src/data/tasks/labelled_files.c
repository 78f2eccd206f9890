/* labelled_files.c - folders of labelled files, split in parts. */
#include "data/tasks/labelled_files.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "data/text/file_list.h"

enum { MOST_LABELS = 1024, VALID_OF = 10 };

static int push(kr_labelled_files *f, kr_task_part part, const char *path, int32_t label,
                krait_error *e) {
    char *copy = kr_strdup(path);
    if (!copy || kr_grow((void **)&f->files[part], &f->room[part], (size_t)f->count[part] + 1,
                         sizeof **f->files)) {
        kr_free(copy);
        return kr_fail_memory(e, "the files of a task");
    }
    f->files[part][f->count[part]++] = (struct kr_labelled_file){copy, label};
    return 0;
}

/* The last three components of a path, each cut to what fits. */
static void split(const char *path, char parts[3][256]) {
    const char *end = path + strlen(path);
    for (int i = 0; i < 3; i++) {
        const char *begin = end;
        while (begin > path && begin[-1] != '/') begin--;
        snprintf(parts[i], 256, "%.*s", (int)(end - begin > 255 ? 255 : end - begin), begin);
        end = begin > path ? begin - 1 : begin;
    }
}

static int sort_out(kr_labelled_files *f, const kr_file_list *list, kr_labelling *rule,
                    krait_error *e) {
    int64_t seen[MOST_LABELS] = {0};
    for (size_t i = 0; i < list->count; i++) {
        char parts[3][256];
        int32_t label = 0;
        bool test = false;
        split(list->files[i].path, parts);
        if (!rule(parts[2], parts[1], parts[0], &label, &test)) continue;
        bool valid = !test && seen[label % MOST_LABELS]++ % VALID_OF == VALID_OF - 1;
        kr_task_part part = test ? KR_TASK_TEST : valid ? KR_TASK_VALID : KR_TASK_TRAIN;
        KR_TRY(push(f, part, list->files[i].path, label, e));
    }
    return 0;
}

/* Files come by name and so by label; now the first ones of a part are a fair draw from it. */
static void mix(kr_labelled_files *f) {
    for (int p = 0; p < KR_TASK_PARTS; p++) {
        kr_rng r = kr_rng_make(0, (uint64_t)p);
        for (int64_t i = f->count[p] - 1; i > 0; i--) {
            int64_t k = (int64_t)kr_rng_below(&r, (uint64_t)i + 1);
            struct kr_labelled_file one = f->files[p][i];
            f->files[p][i] = f->files[p][k];
            f->files[p][k] = one;
        }
    }
}

static int check(kr_task_source *s, const kr_labelled_files *f, krait_error *e) {
    static const char *const missing[] = {"to train on",
                                          "for validation (each tenth of a label is)",
                                          "of the test"};
    for (int p = 0; p < KR_TASK_PARTS; p++) {
        s->examples[p] = f->count[p];
        if (f->count[p] == 0)
            return kr_fail(e, KRAIT_ERR_FORMAT, "%s: no files %s; expected %s", s->paths[0],
                           missing[p], s->task->files);
    }
    return 0;
}

int kr_labelled_files_open(kr_task_source *s, kr_labelling *rule, krait_error *e) {
    kr_file_list list = {0};
    kr_labelled_files *f = s->inside = kr_calloc(1, sizeof *f);
    int rc = f ? 0 : kr_fail_memory(e, "a task");
    for (int64_t i = 0; rc == 0 && i < s->n_paths; i++)
        rc = kr_file_list_add(&list, s->paths[i], e);
    if (rc == 0) rc = sort_out(f, &list, rule, e);
    kr_file_list_free(&list);
    if (rc == 0) mix(f);
    return rc < 0 ? rc : check(s, f, e);
}

void kr_labelled_files_close(kr_task_source *s) {
    kr_labelled_files *f = s->inside;
    for (int p = 0; f && p < KR_TASK_PARTS; p++) {
        for (int64_t i = 0; i < f->count[p]; i++) kr_free(f->files[p][i].path);
        kr_free(f->files[p]);
    }
    kr_free(f);
}

int kr_labelled_files_map(const kr_task_source *s, kr_task_part part, int64_t index, kr_map *map,
                          const char **path, int32_t *label, krait_error *e) {
    const kr_labelled_files *f = s->inside;
    const struct kr_labelled_file *file = &f->files[part][index];
    *path = file->path;
    *label = file->label;
    return kr_map_open(map, file->path, e);
}

bool kr_ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}
