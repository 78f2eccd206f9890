/* cli_main.c - the program: finds the sub-command, parses its options, runs it, and sees that its
 * output was written. */
#include <errno.h>
#include <locale.h>
#include <string.h>

#include "cli.h"

#define COMMAND(name) extern const cli_command cli_command_##name;
#include "commands.def"
#undef COMMAND

const cli_command *const cli_commands[] = {
#define COMMAND(name) &cli_command_##name,
#include "commands.def"
#undef COMMAND
    NULL};

const cli_command *cli_command_find(const char *name) {
    for (int i = 0; cli_commands[i]; i++)
        if (strcmp(cli_commands[i]->name, name) == 0) return cli_commands[i];
    return NULL;
}

static bool wants_help(int argc, char **argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

static int unknown_command(const char *name) {
    const char *names[64] = {0};
    for (int i = 0; cli_commands[i] && i < 63; i++) names[i] = cli_commands[i]->name;
    const char *near = cli_nearest(name, names);
    if (near)
        fprintf(stderr, "krait: unknown command %s; did you mean %s?\n", name, near);
    else
        fprintf(stderr, "krait: unknown command %s; krait --help lists them\n", name);
    return CLI_USAGE;
}

static int run_command(int argc, char **argv) {
    const cli_command *c = cli_command_find(argv[1]);
    cli_args args;
    if (!c) return unknown_command(argv[1]);
    if (wants_help(argc - 2, argv + 2)) {
        cli_help_command(stdout, c);
        return CLI_OK;
    }
    int rc = cli_parse(&args, c, argc - 2, argv + 2);
    if (rc == CLI_OK) rc = c->run(&args);
    cli_args_free(&args);
    return rc;
}

/* Output that could not be written is a failure, but a reader that has seen enough (| head) is not.
 */
static int finish(int rc) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return rc;
    if (errno == EPIPE) return rc;
    fprintf(stderr, "krait: writing to standard output failed: %s\n", strerror(errno));
    return rc == CLI_OK ? CLI_FAILED : rc;
}

int main(int argc, char **argv) {
    setlocale(LC_CTYPE, ""); /* numbers stay with the point: LC_NUMERIC is left alone */
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        cli_help_overview(stdout);
        return finish(CLI_OK);
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("krait %s\n", krait_version());
        return finish(CLI_OK);
    }
    if (argv[1][0] == '-' || argv[1][0] == 0) {
        fprintf(stderr, "krait: %s is no command; krait --help lists them\n",
                argv[1][0] ? argv[1] : "an empty text");
        return CLI_USAGE;
    }
    return finish(run_command(argc, argv));
}
