/* cmd_help.c - the pages of --help, set from the commands' tables, and the command that shows them.
 */
#include <string.h>

#include "cli.h"

#define WIDTH 80

/* Prints text wrapped at WIDTH with an indent; a newline in the text starts a line. The cursor
 * stands at `column`. */
static void wrap(FILE *f, const char *text, int indent, int column) {
    for (const char *p = text; *p;) {
        if (*p == '\n') {
            fputc('\n', f);
            column = 0;
            p++;
            continue;
        }
        p += strspn(p, " ");
        int n = (int)strcspn(p, " \n");
        if (column > indent && column + 1 + n > WIDTH) {
            fputc('\n', f);
            column = 0;
        }
        int pad = column < indent ? indent - column : column > indent ? 1 : 0;
        fprintf(f, "%*s%.*s", pad, "", n, p);
        column += pad + n;
        p += n;
    }
    fputc('\n', f);
}

static void print_option(FILE *f, const cli_option *o) {
    char left[64], text[1200];
    int n = snprintf(left, sizeof left, "  ");
    if (o->letter) n += snprintf(left + n, sizeof left - (size_t)n, "-%c, ", o->letter);
    snprintf(left + n, sizeof left - (size_t)n, "--%s%s%s", o->name, o->arg ? " " : "",
             o->arg ? o->arg : "");
    n = snprintf(text, sizeof text, "%s", o->help);
    if (o->choices) n += snprintf(text + n, sizeof text - (size_t)n, " One of %s.", o->choices);
    if (o->many) n += snprintf(text + n, sizeof text - (size_t)n, " May be given several times.");
    if (o->value) snprintf(text + n, sizeof text - (size_t)n, " [%s]", o->value);
    fputs(left, f);
    int column = (int)strlen(left);
    if (column > 25) {
        fputc('\n', f);
        column = 0;
    }
    wrap(f, text, 26, column);
}

static void print_lines(FILE *f, const char *prefix, const char *lines) {
    for (const char *p = lines; *p;) {
        int n = (int)strcspn(p, "\n");
        fprintf(f, "  %s%.*s\n", prefix, n, p);
        p += n + (p[n] == '\n');
    }
}

void cli_help_command(FILE *f, const cli_command *c) {
    char prefix[64];
    snprintf(prefix, sizeof prefix, "krait %s ", c->name);
    fprintf(f, "krait %s - %s\n\nSYNOPSIS\n", c->name, c->summary);
    print_lines(f, prefix, c->synopsis);
    fprintf(f, "\nDESCRIPTION\n");
    wrap(f, c->description, 2, 0);
    fprintf(f, "\nOPTIONS                   (the default in brackets)\n");
    for (int i = 0; c->options[i].kind != CLI_END; i++) print_option(f, &c->options[i]);
    static const cli_option help = {.kind = CLI_FLAG,
                                    .name = "help",
                                    .letter = 'h',
                                    .help = "Print this page."};
    print_option(f, &help);
    if (c->appendix) fprintf(f, "\n%s\n%s", c->appendix_title, c->appendix());
    fprintf(f, "\nEXIT STATUS\n  0 done; 1 failed, one line on stderr says why; 2 bad usage\n");
    fprintf(f, "\nEXAMPLE\n");
    print_lines(f, "", c->example);
}

void cli_help_overview(FILE *f) {
    fprintf(f, "krait %s - trains and runs sequence models whose state is fixed in size\n\n",
            krait_version());
    fprintf(f, "  krait COMMAND [OPTION ...]        krait COMMAND --help tells all about one\n\n");
    for (int i = 0; cli_commands[i]; i++)
        fprintf(f, "  %-10s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
    fprintf(
        f,
        "\nResults go to stdout, progress and errors to stderr; with --json every result is one\n"
        "JSON object a line. Try:\n\n"
        "  krait generate --model demo --prompt \"In the beginning\"\n");
}

static int run(const cli_args *a) {
    if (a->n_words == 0) {
        cli_help_overview(stdout);
        return CLI_OK;
    }
    const cli_command *c = cli_command_find(a->words[0]);
    if (!c) return cli_usage(a, "there is no command %s; krait --help lists them", a->words[0]);
    cli_help_command(stdout, c);
    return CLI_OK;
}

static const cli_option options[] = {{.kind = CLI_END}};

const cli_command cli_command_help = {
    .name = "help",
    .summary = "Show the overview, or the page of a command",
    .synopsis = "[COMMAND]",
    .description = "The same pages as krait --help and krait COMMAND --help.",
    .options = options,
    .example = "krait help train",
    .most_words = 1,
    .run = run,
};
