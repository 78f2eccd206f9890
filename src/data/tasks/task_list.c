/* task_list.c - the list of tasks, from tasks.def. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "data/tasks/task.h"

#define KR_TASK(name) extern const kr_task kr_task_##name;
#include "data/tasks/tasks.def"
#undef KR_TASK

#define KR_TASK(name) &kr_task_##name,
const kr_task *const kr_tasks[] = {
#include "data/tasks/tasks.def"
    NULL};
#undef KR_TASK

const kr_task *kr_task_find(const char *name) {
    for (int i = 0; kr_tasks[i]; i++)
        if (strcmp(kr_tasks[i]->name, name) == 0) return kr_tasks[i];
    return NULL;
}

const kr_task *kr_task_need(const char *name, krait_error *e) {
    const kr_task *task = kr_task_find(name);
    char names[300] = "";
    for (int i = 0; !task && kr_tasks[i]; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", kr_tasks[i]->name);
    }
    if (!task)
        kr_fail(e, KRAIT_ERR_ARGUMENT, "there is no task \"%.60s\"; there are: %s", name, names);
    return task;
}
