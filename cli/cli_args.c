/* cli_args.c - parsing options against a command's table: --name VALUE, --name=VALUE, -n VALUE,
 * flags,
 * -- and words. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* A message of the library may begin with its own name, which is the command's. */
static int say(const cli_args *a, int rc, const char *format, va_list list) {
    char text[1024];
    const char *name = a->command->name;
    size_t n = strlen(name);
    vsnprintf(text, sizeof text, format, list);
    bool named = strncmp(text, name, n) == 0 && text[n] == ':' && text[n + 1] == ' ';
    fprintf(stderr, "krait %s: %s\n", name, named ? text + n + 2 : text);
    return rc;
}

int cli_usage(const cli_args *a, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int rc = say(a, CLI_USAGE, format, list);
    va_end(list);
    return rc;
}

int cli_fail(const cli_args *a, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int rc = say(a, CLI_FAILED, format, list);
    va_end(list);
    return rc;
}

/* Edit distance (Levenshtein), words of up to 31 letters. */
static int distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    int row[32];
    if (n > 31 || m > 31) return 99;
    for (size_t j = 0; j <= m; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[m];
}

const char *cli_nearest(const char *typed, const char *const *names) {
    const char *near = NULL;
    int best = (int)strlen(typed) / 2 + 1;
    for (; *names; names++) {
        bool starts = strncmp(*names, typed, strlen(typed)) == 0;
        int d = starts ? 0 : distance(typed, *names);
        if (d < best) {
            best = d;
            near = *names;
        }
    }
    return near;
}

static int option_count(const cli_command *c) {
    int n = 0;
    while (c->options[n].kind != CLI_END) n++;
    return n;
}

static int unknown_option(const cli_args *a, const char *typed) {
    const char *names[64] = {0}, *name = typed + strspn(typed, "-");
    char bare[32];
    for (int i = 0; i < option_count(a->command) && i < 63; i++)
        names[i] = a->command->options[i].name;
    snprintf(bare, sizeof bare, "%.*s", (int)strcspn(name, "="), name);
    const char *near = cli_nearest(bare, names);
    if (near) return cli_usage(a, "unknown option %s; did you mean --%s?", typed, near);
    return cli_usage(a, "unknown option %s; krait %s --help lists them", typed, a->command->name);
}

/* The option that argv[i] names, and the value after '=' if there is one; -1: none. */
static int match(const cli_command *c, const char *arg, const char **value) {
    *value = NULL;
    for (int i = 0; c->options[i].kind != CLI_END; i++) {
        const cli_option *o = &c->options[i];
        size_t n = strlen(o->name);
        if (arg[1] != '-') {
            if (o->letter && arg[1] == o->letter && arg[2] == 0) return i;
            continue;
        }
        if (strncmp(arg + 2, o->name, n) != 0 || (arg[2 + n] != 0 && arg[2 + n] != '=')) continue;
        if (arg[2 + n] == '=') *value = arg + 3 + n;
        return i;
    }
    return -1;
}

static bool is_choice(const char *choices, const char *value) {
    size_t n = strlen(value);
    for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strcspn(p, "|") == n && strncmp(p, value, n) == 0) return true;
    return false;
}

/* Decimal digits: no 0x10, no inf. */
static bool read_number(const cli_option *o, const char *text, double *x) {
    char *end;
    errno = 0;
    for (const char *p = text; *p; p++)
        if (!strchr("0123456789+-.eE", *p)) return false;
    *x = o->kind == CLI_INT ? (double)strtoll(text, &end, 10) : strtod(text, &end);
    return end > text && *end == 0 && errno == 0;
}

/* cpu, cuda or cuda:N; whether there is such a one is found out when it is used. */
static bool is_device(const char *value) {
    if (strncmp(value, "cuda:", 5) != 0)
        return strcmp(value, "cpu") == 0 || strcmp(value, "cuda") == 0;
    const char *number = value + 5, *end = number;
    while (*end >= '0' && *end <= '9') end++;
    return end > number && end - number < 5 && *end == 0;
}

static int check_value(const cli_args *a, const cli_option *o, const char *value) {
    double x;
    const char *shown = *value ? value : "empty";
    if (o->choices && !is_choice(o->choices, value))
        return cli_usage(a, "--%s is %s; one of %s is needed", o->name, shown, o->choices);
    if (o->kind == CLI_DEVICE && !is_device(value))
        return cli_usage(a, "--%s is %s; cpu, cuda or cuda:N is needed", o->name, shown);
    if (o->kind == CLI_TEXT && !*value && !o->empty)
        return cli_usage(a, "--%s is empty; %s is needed", o->name, o->arg);
    if (o->kind == CLI_TEXT || o->kind == CLI_DEVICE) return 0;
    if (!read_number(o, value, &x))
        return cli_usage(a, "--%s is %s; a%s number is needed", o->name, shown,
                         o->kind == CLI_INT ? " whole" : "");
    if (x < o->least || x > o->most)
        return cli_usage(a, "--%s is %s; a number from %g to %g is needed", o->name, value,
                         o->least, o->most);
    return 0;
}

/* Handles the option at argv[*i], and moves *i over its value. */
static int take_option(cli_args *a, int argc, char **argv, int *i) {
    const char *value;
    int k = match(a->command, argv[*i], &value);
    if (k < 0) return unknown_option(a, argv[*i]);
    const cli_option *o = &a->command->options[k];
    if (o->kind == CLI_FLAG && value) return cli_usage(a, "--%s takes no value", o->name);
    if (o->kind != CLI_FLAG && !value) {
        if (*i + 1 >= argc) return cli_usage(a, "--%s needs a value: %s", o->name, o->arg);
        value = argv[++*i];
    }
    if (o->kind != CLI_FLAG && check_value(a, o, value)) return CLI_USAGE;
    if (a->counts[k] > 0 && !o->many) return cli_usage(a, "--%s is given twice", o->name);
    a->values[k][a->counts[k]++] = value;
    return 0;
}

int cli_parse(cli_args *a, const cli_command *command, int argc, char **argv) {
    int n = option_count(command);
    bool only_words = false;
    *a = (cli_args){.command = command};
    a->values = cli_alloc((size_t)(n + 1) * sizeof *a->values);
    a->counts = cli_alloc((size_t)(n + 1) * sizeof *a->counts);
    a->words = cli_alloc((size_t)(argc + 1) * sizeof *a->words);
    for (int i = 0; i < n; i++) a->values[i] = cli_alloc((size_t)(argc + 1) * sizeof **a->values);
    for (int i = 0; i < argc; i++) {
        if (!only_words && strcmp(argv[i], "--") == 0) {
            only_words = true;
        } else if (!only_words && argv[i][0] == '-' && argv[i][1] != 0) {
            if (take_option(a, argc, argv, &i)) return CLI_USAGE;
        } else if (!argv[i][0]) {
            return cli_usage(a, "an argument is empty; krait %s --help shows the usage",
                             command->name);
        } else if (command->most_words >= 0 && a->n_words == command->most_words) {
            return cli_usage(a, "%s is one argument too many; krait %s --help shows the usage",
                             argv[i], command->name);
        } else {
            a->words[a->n_words++] = argv[i];
        }
    }
    return 0;
}

void cli_args_free(cli_args *a) {
    if (!a->values) return;
    for (int i = 0; i < option_count(a->command); i++) free(a->values[i]);
    free(a->values);
    free(a->counts);
    free(a->words);
    *a = (cli_args){0};
}

/* A name that is not in the table is a mistake of the program: caught by the first run of the
 * command. */
static int find(const cli_args *a, const char *name) {
    for (int i = 0; a->command->options[i].kind != CLI_END; i++)
        if (strcmp(a->command->options[i].name, name) == 0) return i;
    fprintf(stderr, "krait %s: no option %s in its table\n", a->command->name, name);
    abort();
}

bool cli_given(const cli_args *a, const char *name) { return a->counts[find(a, name)] > 0; }
bool cli_flag(const cli_args *a, const char *name) { return cli_given(a, name); }

const char *cli_text(const cli_args *a, const char *name) {
    int i = find(a, name);
    return a->counts[i] > 0 ? a->values[i][0] : a->command->options[i].value;
}

int64_t cli_int(const cli_args *a, const char *name) {
    return strtoll(cli_text(a, name), NULL, 10);
}

double cli_real(const cli_args *a, const char *name) { return strtod(cli_text(a, name), NULL); }

const char *const *cli_values(const cli_args *a, const char *name, int *count) {
    int i = find(a, name);
    *count = a->counts[i];
    return a->values[i];
}

int cli_need(const cli_args *a, const char *name) {
    if (cli_given(a, name)) return 0;
    return cli_usage(a, "--%s %s is needed; krait %s --help shows an example", name,
                     a->command->options[find(a, name)].arg, a->command->name);
}

int cli_exclusive(const cli_args *a, const char *one, const char *other) {
    if (!cli_given(a, one) || !cli_given(a, other)) return 0;
    return cli_usage(a, "--%s and --%s exclude each other", one, other);
}

int cli_idle_threads(const cli_args *a) {
    if (!cli_given(a, "threads") || strcmp(cli_text(a, "device"), "cpu") == 0) return 0;
    return cli_usage(a, "--threads has no effect with --device %s", cli_text(a, "device"));
}

int cli_need_text(const cli_args *a) {
    if (cli_given(a, "data") != cli_given(a, "token-ids")) return 0;
    if (cli_given(a, "data")) return cli_exclusive(a, "data", "token-ids");
    return cli_usage(a, "text is needed: --data PATH or --token-ids FILE");
}
