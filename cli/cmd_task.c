/* cmd_task.c - krait task: the sequence tasks, their settings, and what their examples look like.
 */
#include <inttypes.h>
#include <string.h>

#include <krait/train.h>
#include "cli.h"
#include "cli_json.h"

/* ---- the list -------------------------------------------------------------------------------- */

static void print_settings(int64_t index, const krait_task_info *info) {
    krait_task_setting s;
    for (int64_t i = 0; i < info->settings; i++) {
        krait_task_describe_setting(index, i, &s);
        printf("    %-12s %-8s %s (%s)\n", s.name, s.value, s.help, s.range);
    }
}

static json_t *settings_object(int64_t index, const krait_task_info *info) {
    json_t *all = json_object();
    krait_task_setting s;
    for (int64_t i = 0; i < info->settings; i++) {
        krait_task_describe_setting(index, i, &s);
        json_object_set_new(all, s.name,
                            json_pack("{s:s, s:s, s:s}", "default", s.value, "range", s.range,
                                      "help", s.help));
    }
    return all;
}

static void print_facts(const krait_task_facts *f) {
    if (f->vocabulary) printf("input        ids below %" PRId64 "\n", f->vocabulary);
    if (f->channels) printf("input        %" PRId64 " number(s) a row\n", f->channels);
    if (f->classes) printf("answer       one of %" PRId64 " classes\n", f->classes);
    if (f->numbers)
        printf("answer       %" PRId64 " number(s) %s\n", f->numbers,
               f->each_row ? "a row" : "in all");
    if (!f->classes && !f->numbers)
        printf("answer       ids at up to %" PRId64 " rows\n", f->answers);
    printf("rows         up to %" PRId64 "\n", f->longest);
    if (f->examples) printf("examples     %" PRId64 "\n", f->examples);
}

static void add_fact(json_t *o, const char *name, int64_t value) {
    if (value) json_object_set_new(o, name, json_integer(value));
}

static void add_facts(json_t *o, const krait_task_facts *f) {
    add_fact(o, "vocabulary", f->vocabulary);
    add_fact(o, "channels", f->channels);
    add_fact(o, "classes", f->classes);
    add_fact(o, "numbers", f->numbers);
    add_fact(o, "answers", f->answers);
    add_fact(o, "rows", f->longest);
    add_fact(o, "examples", f->examples);
}

/* `t`: the task with its settings; NULL: it was not opened, and only the settings are told. */
static void list_task(const cli_args *a, int64_t index, const krait_task *t) {
    krait_task_info info;
    krait_task_facts f;
    krait_task_describe(index, &info);
    if (t) krait_task_facts_of(t, &f);
    if (cli_flag(a, "json")) {
        json_t *o = json_pack("{s:s, s:s, s:b, s:o}", "task", info.name, "about", info.about,
                              "files", info.files, "settings", settings_object(index, &info));
        if (t) add_facts(o, &f);
        cli_json(o);
        return;
    }
    printf("%s: %s%s\n", info.name, info.about, info.files ? " (from files)" : "");
    print_settings(index, &info);
    if (t) print_facts(&f);
}

/* ---- an example ------------------------------------------------------------------------------ */

enum { COLUMNS = 78 };

/* Words, wrapped; `used` columns of the line are taken. */
static void print_word(const char *word, int *used) {
    int n = (int)strlen(word);
    if (*used + 1 + n > COLUMNS) {
        printf("\n        ");
        *used = 8;
    }
    printf(" %s", word);
    *used += 1 + n;
}

static void print_ids(const krait_task *t, const krait_task_example *x) {
    int used = printf("input   ");
    char text[16];
    for (int64_t i = 0; i < x->rows; i++) print_word(krait_task_token(t, x->ids[i], text), &used);
    putchar('\n');
}

/* From its darkest to its lightest; two columns a value: a picture is then about as wide as it is
 * high. */
static void print_picture(const krait_task_example *x, int64_t width) {
    static const char *const blocks[] = {" ", "\xe2\x96\x91", "\xe2\x96\x92", "\xe2\x96\x93",
                                         "\xe2\x96\x88"};
    static const char *const plain[] = {" ", ".", "+", "*", "#"};
    float low = x->values[0], high = low;
    bool utf8 = cli_utf8();
    for (int64_t i = 0; i < x->rows; i++) {
        low = x->values[i] < low ? x->values[i] : low;
        high = x->values[i] > high ? x->values[i] : high;
    }
    for (int64_t i = 0; i < x->rows; i++) {
        int level = high > low ? (int)((x->values[i] - low) / (high - low) * 4 + 0.5f) : 0;
        const char *block = utf8 ? blocks[level] : plain[level];
        printf("%s%s", block, block);
        if ((i + 1) % width == 0) putchar('\n');
    }
}

static void print_values(const krait_task_example *x, int64_t channels) {
    int used = printf("input   ");
    char text[32];
    for (int64_t i = 0; i < x->rows * channels; i++) {
        snprintf(text, sizeof text, "%.4g", (double)x->values[i]);
        print_word(text, &used);
    }
    putchar('\n');
}

static void print_numbers(const krait_task_facts *f, const krait_task_example *x) {
    int used = printf(f->each_row ? "answers " : "answer  ");
    char text[32];
    for (int64_t i = 0; i < f->numbers * (f->each_row ? x->rows : 1); i++) {
        snprintf(text, sizeof text, "%.4g", (double)x->numbers[i]);
        print_word(text, &used);
    }
    putchar('\n');
}

static void print_answer(const krait_task *t, const krait_task_example *x) {
    char text[16], word[48];
    if (!x->targets) {
        printf("answer   %s\n", krait_task_label(t, x->label, text));
        return;
    }
    int used = printf("answers ");
    for (int64_t i = 0; i < x->rows; i++) {
        if (x->targets[i] < 0) continue;
        snprintf(word, sizeof word, "%" PRId64 ":%s", i, krait_task_token(t, x->targets[i], text));
        print_word(word, &used);
    }
    putchar('\n');
}

static void print_example(const krait_task *t, const krait_task_facts *f,
                          const krait_task_example *x, int64_t index) {
    printf("example %" PRId64 ", %" PRId64 " rows\n", index, x->rows);
    if (x->ids) print_ids(t, x);
    if (x->values && f->width && f->channels == 1) print_picture(x, f->width);
    if (x->values && !(f->width && f->channels == 1)) print_values(x, f->channels);
    if (x->numbers)
        print_numbers(f, x);
    else
        print_answer(t, x);
}

static json_t *reals(const float *x, int64_t n) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(list, cli_json_real((double)x[i]));
    return list;
}

static void print_json(const krait_task_facts *f, const krait_task_example *x, int64_t index) {
    json_t *o = json_pack("{s:I}", "example", (json_int_t)index);
    if (x->ids) json_object_set_new(o, "ids", cli_json_ids(x->ids, x->rows));
    if (x->values) json_object_set_new(o, "values", reals(x->values, x->rows * f->channels));
    if (x->numbers)
        json_object_set_new(o, "numbers",
                            reals(x->numbers, f->numbers * (f->each_row ? x->rows : 1)));
    if (x->targets) json_object_set_new(o, "targets", cli_json_ids(x->targets, x->rows));
    if (f->classes) json_object_set_new(o, "label", json_integer(x->label));
    cli_json(o);
}

static int show(const cli_args *a, krait_task *t) {
    krait_task_facts f;
    krait_task_example x;
    krait_error e;
    krait_task_facts_of(t, &f);
    int64_t first = cli_int(a, "first"), count = cli_int(a, "count");
    for (int64_t i = first; i < first + count; i++) {
        if (krait_task_make(t, i, &x, &e) < 0) return cli_fail(a, "%s", e.message);
        if (cli_flag(a, "json"))
            print_json(&f, &x, i);
        else
            print_example(t, &f, &x, i);
    }
    return CLI_OK;
}

/* ---- the command ----------------------------------------------------------------------------- */

static int64_t find(const char *name) {
    krait_task_info info;
    for (int64_t i = 0; i < krait_task_count(); i++)
        if (krait_task_describe(i, &info) == 0 && strcmp(info.name, name) == 0) return i;
    return -1;
}

/* Options that change nothing in what is asked for. */
static int check_use(const cli_args *a) {
    static const char *const of_examples[] = {"seed", "count", "first", "part"};
    static const char *const of_one[] = {"set", "data", "print"};
    for (int i = 0; i < 4 && !cli_flag(a, "print"); i++)
        if (cli_given(a, of_examples[i]) && !(i == 3 && cli_given(a, "data")))
            return cli_usage(a, "--%s has no effect without --print", of_examples[i]);
    for (int i = 0; i < 3 && a->n_words == 0; i++)
        if (cli_given(a, of_one[i]))
            return cli_usage(a, "--%s needs the name of a task", of_one[i]);
    return 0;
}

static int run_one(const cli_args *a, const char *name) {
    krait_task_options o = KRAIT_TASK_OPTIONS_INIT;
    krait_task *t;
    krait_error e;
    krait_task_info info = {.files = 0};
    int n_sets, n_data;
    int64_t index = find(name);
    o.name = name;
    o.sets = cli_values(a, "set", &n_sets);
    o.n_sets = n_sets;
    o.data = cli_values(a, "data", &n_data);
    o.n_data = n_data;
    o.seed = (uint64_t)cli_int(a, "seed");
    o.part = cli_task_part(cli_text(a, "part"));
    krait_task_describe(index, &info);
    if (info.files && n_data + n_sets == 0 && !cli_flag(a, "print")) {
        list_task(a, index, NULL);
        return CLI_OK;
    }
    if (krait_task_open(&t, &o, &e) < 0) return cli_fail(a, "%s", e.message);
    int rc = CLI_OK;
    if (cli_flag(a, "print"))
        rc = show(a, t);
    else
        list_task(a, index, t);
    krait_task_close(&t);
    return rc;
}

static int run(const cli_args *a) {
    int rc = check_use(a);
    if (rc) return rc;
    if (a->n_words > 0) return run_one(a, a->words[0]);
    for (int64_t i = 0; i < krait_task_count(); i++) list_task(a, i, NULL);
    return CLI_OK;
}

static const cli_option options[] = {
    CLI_OPT_TASK_SET,
    CLI_OPT_DATA(", for tasks that read files"),
    {.kind = CLI_FLAG, .name = "print", .help = "Print examples."},
    {.kind = CLI_INT,
     .name = "count",
     .letter = 'n',
     .arg = "N",
     .value = "1",
     .least = 1,
     .most = 1e12,
     .help = "How many examples to print, from the one that --first names."},
    {.kind = CLI_INT,
     .name = "first",
     .arg = "N",
     .value = "0",
     .least = 0,
     .most = 1e15,
     .help = "The first of them, counted from 0."},
    CLI_OPT_TASK_SEED,
    CLI_OPT_TASK_PART("train"),
    CLI_OPT_JSON,
    {.kind = CLI_END}};

const cli_command cli_command_task = {
    .name = "task",
    .summary = "List the sequence tasks, or print examples of one",
    .synopsis = "[NAME] [--print] [--count N] [--seed N] [--set KEY=VALUE ...] [OPTION ...]",
    .description =
        "Without a name: every task with its settings (default, meaning, range). With one: its "
        "settings, and what it asks with those that --set gives (rows, ids, classes; of a task "
        "that reads files with --data); or with --print its examples: tokens as words, pictures "
        "as grey blocks, and the answers, as row:token or as a label.\n\n"
        "krait train --task NAME trains on a task, krait eval --task NAME measures the accuracy.",
    .options = options,
    .example = "krait task\n"
               "krait task selective_copying --print --set length=40 --set memorise=4\n"
               "krait task pathfinder --print --count 2",
    .most_words = 1,
    .run = run,
};
