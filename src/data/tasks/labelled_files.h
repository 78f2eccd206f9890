/* labelled_files.h - tasks whose examples are files with a label each. */
#ifndef KR_LABELLED_FILES_H
#define KR_LABELLED_FILES_H

#include "base/file.h"
#include "data/tasks/task.h"

typedef struct kr_labelled_files {
    struct kr_labelled_file {
        char *path;
        int32_t label;
    } * files[KR_TASK_PARTS];
    int64_t count[KR_TASK_PARTS];
    size_t room[KR_TASK_PARTS];
} kr_labelled_files;

/* Reads a path: is the file one of the task's, has it which label, is it of the test part? `name`
 * is the last component, `folder` and `above` the two before it ("" where there is none). */
typedef bool kr_labelling(const char *above, const char *folder, const char *name, int32_t *label,
                          bool *test);

/* Every file behind the source's paths that `rule` knows; of those for training every tenth of a
 * label is for validation. The order of each part is mixed, the same way each time. Fills s->inside
 * and s->examples. The task's `files` says how the folder looks. */
int kr_labelled_files_open(kr_task_source *s, kr_labelling *rule, krait_error *e);
void kr_labelled_files_close(kr_task_source *s);
/* Maps the file of an example. */
int kr_labelled_files_map(const kr_task_source *s, kr_task_part part, int64_t index, kr_map *map,
                          const char **path, int32_t *label, krait_error *e);
/* Does the file's name end so ("x.wav", ".wav")? */
bool kr_ends_with(const char *name, const char *end);

#endif
