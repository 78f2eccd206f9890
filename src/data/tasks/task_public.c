/* task_public.c - krait_task_...: the tasks, their settings and examples, for programs. */
#include <krait/train.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/options.h"
#include "data/tasks/task.h"

struct krait_task {
    kr_task_source source;
    kr_task_part part;
    kr_example example;
};

int64_t krait_task_count(void) {
    int64_t n = 0;
    while (kr_tasks[n]) n++;
    return n;
}

int krait_task_describe(int64_t index, krait_task_info *info) {
    if (!info || index < 0 || index >= krait_task_count()) return KRAIT_ERR_ARGUMENT;
    const kr_task *t = kr_tasks[index];
    *info = (krait_task_info){t->name, t->about, t->files != NULL, kr_settings_count(t->settings)};
    return 0;
}

int krait_task_describe_setting(int64_t index, int64_t i, krait_task_setting *s) {
    krait_task_info info;
    unsigned char values[KR_TASK_SETTINGS];
    int rc = krait_task_describe(index, &info);
    if (rc < 0 || !s || i < 0 || i >= info.settings) return KRAIT_ERR_ARGUMENT;
    const kr_setting *k = kr_tasks[index]->settings + i;
    kr_settings_default(kr_tasks[index]->settings, values);
    s->name = k->name;
    s->help = k->help;
    kr_setting_text(k, values, s->value);
    kr_setting_range(k, s->range);
    return 0;
}

/* ---- examples ---- */

static int open_source(krait_task *t, const krait_task_options *o, krait_error *e) {
    unsigned char values[KR_TASK_SETTINGS];
    char of[64];
    const kr_task *task = kr_task_need(o->name, e);
    if (!task) return KRAIT_ERR_ARGUMENT;
    snprintf(of, sizeof of, "task %s", task->name);
    kr_settings_default(task->settings, values);
    for (int64_t i = 0; i < o->n_sets; i++)
        KR_TRY(kr_settings_assign(task->settings, values, o->sets[i], "--set", of, e));
    t->part = (kr_task_part)o->part;
    return kr_task_open(&t->source, task, values, o->seed, o->data, o->n_data, e);
}

int krait_task_open(krait_task **out, const krait_task_options *options, krait_error *e) {
    krait_task_options o = KRAIT_TASK_OPTIONS_INIT;
    if (!out) return kr_fail_null(e, "krait_task_open");
    *out = NULL;
    KR_TRY(kr_options_read(&o, sizeof o, options, "krait_task_options", e));
    if (!o.name || o.part < KRAIT_TASK_TRAIN || o.part > KRAIT_TASK_TEST)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "krait_task_open needs a name and a part");
    krait_task *t = kr_calloc(1, sizeof *t);
    if (!t) return kr_fail_memory(e, "a task");
    int rc = open_source(t, &o, e);
    if (rc < 0)
        kr_free(t);
    else
        *out = t;
    return rc;
}

void krait_task_close(krait_task **task) {
    if (!task || !*task) return;
    kr_example_free(&(*task)->example);
    kr_task_close(&(*task)->source);
    kr_free(*task);
    *task = NULL;
}

int krait_task_facts_of(const krait_task *t, krait_task_facts *f) {
    if (!t || !f) return KRAIT_ERR_ARGUMENT;
    const kr_task_source *s = &t->source;
    *f = (krait_task_facts){.vocabulary = s->vocabulary,
                            .channels = s->channels,
                            .classes = s->classes,
                            .longest = s->longest,
                            .answers = s->answers,
                            .width = s->width,
                            .examples = s->examples[t->part],
                            .numbers = s->numbers,
                            .each_row = s->each_row};
    return 0;
}

int krait_task_make(krait_task *t, int64_t index, krait_task_example *x, krait_error *e) {
    if (!t || !x) return kr_fail_null(e, "krait_task_make");
    int64_t all = t->source.examples[t->part];
    if (!all) all = (int64_t)1 << 62; /* behind them lie those of another part (kr_task_make) */
    if (index < 0 || index >= all)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "task %s: there is no example %lld; there are %lld",
                       t->source.task->name, (long long)index, (long long)all);
    KR_TRY(kr_task_make(&t->source, t->part, index, &t->example, e));
    const kr_example *m = &t->example;
    *x = (krait_task_example){.rows = m->count,
                              .ids = t->source.vocabulary ? m->ids : NULL,
                              .values = t->source.channels ? m->values : NULL,
                              .targets = kr_task_tells(&t->source) ? NULL : m->targets,
                              .numbers = t->source.numbers ? m->numbers : NULL,
                              .label = m->label};
    return 0;
}

const char *krait_task_token(const krait_task *t, int32_t id, char text[16]) {
    snprintf(text, 16, "%d", (int)id);
    if (!t || !t->source.task->token || id < 0 || id >= t->source.vocabulary) return text;
    return t->source.task->token(&t->source, id, text);
}

const char *krait_task_label(const krait_task *t, int32_t label, char text[16]) {
    snprintf(text, 16, "%d", (int)label);
    if (!t || !t->source.task->label || label < 0 || label >= t->source.classes) return text;
    return t->source.task->label(&t->source, label);
}
