/* cli.h - what the sub-commands of the program share. A sub-command is one file with a const
 * cli_command and a line in commands.def; it includes include/krait and this, nothing of src/.
 *
 * Results go to stdout; progress, notes and errors to stderr. Exit 0: done; 1: failed, one line
 * says why; 2: bad usage. */
#ifndef CLI_H
#define CLI_H

#include <krait/krait.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

/* ---- options --------------------------------------------------------------------------------- */

typedef enum cli_kind { CLI_END, CLI_FLAG, CLI_TEXT, CLI_DEVICE, CLI_INT, CLI_REAL } cli_kind;

typedef struct cli_option {
    cli_kind kind;
    const char *name;  /* without the dashes */
    char letter;       /* -m; 0: none */
    const char *arg;   /* what the help calls the value */
    const char *value; /* the default, as it would be typed; NULL: none. The help prints it, the
                          program reads it. */
    const char *help;
    double least, most;  /* of numbers */
    const char *choices; /* "f32|bf16|f16"; NULL: any text */
    bool many;           /* may be given several times */
    bool empty;          /* the value may be an empty text */
} cli_option;

/* Options that several commands have, worded once. */
#define CLI_OPT_MODEL                                                                              \
    {                                                                                              \
        .kind = CLI_TEXT, .name = "model", .letter = 'm', .arg = "M",                              \
        .help = "The model: a folder in the Hugging Face or state-spaces layout, or the name of "  \
                "one that ships with the program (demo)."                                          \
    }
/* Text to read, or ids instead (cli_need_text checks that one of them is given). */
#define CLI_OPT_DATA(more)                                                                         \
    {                                                                                              \
        .kind = CLI_TEXT, .name = "data", .letter = 'd', .arg = "PATH",                            \
        .help = "A file or folder of text, or - for standard input" more ".", .many = true         \
    }
#define CLI_OPT_TOKEN_IDS                                                                          \
    {                                                                                              \
        .kind = CLI_TEXT, .name = "token-ids", .arg = "FILE",                                      \
        .help = "Decimal token ids, a document a line, instead of text.", .many = true             \
    }
/* Of a sequence task. */
#define CLI_OPT_TASK_SET                                                                           \
    {                                                                                              \
        .kind = CLI_TEXT, .name = "set", .letter = 's', .arg = "KEY=VALUE",                        \
        .help = "A setting of the sequence task.", .many = true                                    \
    }
#define CLI_OPT_TASK_SEED                                                                          \
    {                                                                                              \
        .kind = CLI_INT, .name = "seed", .arg = "N", .value = "1", .least = 0,                     \
        .most = 9007199254740992.0,                                                                \
        .help = "Of a sequence task that is made: another seed, other examples."                   \
    }
#define CLI_OPT_TASK_PART(usual)                                                                   \
    {                                                                                              \
        .kind = CLI_TEXT, .name = "part", .arg = "NAME", .value = usual,                           \
        .choices = "train|valid|test",                                                             \
        .help = "Which examples of the sequence task: those of training, of validation or of "     \
                "the test."                                                                        \
    }
#define CLI_OPT_JSON                                                                               \
    { .kind = CLI_FLAG, .name = "json", .help = "Print one JSON object a line." }
#define CLI_OPT_THREADS                                                                            \
    {                                                                                              \
        .kind = CLI_INT, .name = "threads", .arg = "N", .value = "0", .least = 0, .most = 4096,    \
        .help = "Threads; 0: OMP_NUM_THREADS, or all cores."                                       \
    }
#define CLI_OPT_DEVICE                                                                             \
    {                                                                                              \
        .kind = CLI_DEVICE, .name = "device", .arg = "NAME", .value = "cpu",                       \
        .help = "cpu, cuda or cuda:N: where to compute."                                           \
    }
#define CLI_OPT_RATE                                                                               \
    {                                                                                              \
        .kind = CLI_REAL, .name = "rate", .arg = "R", .value = "1", .least = 1e-6, .most = 1e6,    \
        .help = "The data's steps are R times as long as those of training: 2 where they are "     \
                "sampled half as often. Only mixers in continuous time (s4, s4d, lssl) can."       \
    }
#define CLI_OPT_DTYPE                                                                              \
    {                                                                                              \
        .kind = CLI_TEXT, .name = "dtype", .arg = "TYPE", .value = "keep",                         \
        .choices = "keep|f32|bf16|f16",                                                            \
        .help = "Type of the matrices in memory; keep: as the file has them. On a GPU f32 or "     \
                "bf16; what a file has in f16 becomes f32 there."                                  \
    }

#define CLI_OPT_STATE_TYPE                                                                         \
    {                                                                                              \
        .kind = CLI_TEXT, .name = "state-type", .arg = "TYPE", .value = "f32",                     \
        .choices = "f32|bf16",                                                                     \
        .help =                                                                                    \
            "Type of the recurrence's states; bf16: half the memory, and many sequences decode "   \
            "faster, rounded at every step. Mamba-2 in bf16 on a GPU."                             \
    }

typedef struct cli_args cli_args;

typedef struct cli_command {
    const char *name, *summary;
    const char *synopsis;      /* lines after "krait NAME " */
    const char *description;   /* paragraphs, wrapped when printed */
    const cli_option *options; /* ended by CLI_END */
    const char *appendix_title;
    const char *(*appendix)(void); /* printed as it is after the options; NULL: none */
    const char *example;           /* lines that work as they stand */
    int most_words;                /* arguments that are no options; -1: any number */
    int (*run)(const cli_args *args);
} cli_command;

struct cli_args {
    const cli_command *command;
    const char ***values; /* for each option, what was given, in order */
    int *counts;
    const char **words;
    int n_words;
};

extern const cli_command *const cli_commands[]; /* NULL-ended, in the order of commands.def */
const cli_command *cli_command_find(const char *name);
/* Of NULL-ended `names`, the one nearest to `typed`; NULL: none is near. */
const char *cli_nearest(const char *typed, const char *const *names);

/* Fills args; 0, or CLI_USAGE after one line on stderr. --help is handled before. */
int cli_parse(cli_args *args, const cli_command *command, int argc, char **argv);
void cli_args_free(cli_args *args);
bool cli_given(const cli_args *a, const char *name);
bool cli_flag(const cli_args *a, const char *name);
const char *cli_text(const cli_args *a, const char *name); /* given or default; NULL: neither */
int64_t cli_int(const cli_args *a, const char *name);
double cli_real(const cli_args *a, const char *name);
const char *const *cli_values(const cli_args *a, const char *name, int *count);

/* "krait NAME: message" on stderr; returns CLI_USAGE / CLI_FAILED. */
int cli_usage(const cli_args *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
int cli_fail(const cli_args *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* CLI_USAGE with a line unless `name` was given / if two that exclude each other were. */
int cli_need(const cli_args *a, const char *name);
int cli_exclusive(const cli_args *a, const char *one, const char *other);
/* The same where --threads was given and the CPU does not compute. */
int cli_idle_threads(const cli_args *a);
/* The same unless exactly one of --data and --token-ids was given. */
int cli_need_text(const cli_args *a);

void cli_help_overview(FILE *f);
void cli_help_command(FILE *f, const cli_command *c);

/* ---- models, text and ids -------------------------------------------------------------------- */

/* What a command needs of the model's tokenizer: it must be there, may be, or is not read. */
typedef enum cli_tokenizer { CLI_TOKENIZER, CLI_ANY_TOKENIZER, CLI_NO_TOKENIZER } cli_tokenizer;

/* Opens --model in --dtype on --device (where the command has them); NULL after a line on stderr.
 */
krait_model *cli_open_model(const cli_args *a, cli_tokenizer tokenizer);

typedef struct cli_buffer {
    char *bytes; /* terminated */
    size_t length, capacity;
} cli_buffer;
void cli_append(cli_buffer *b, const void *bytes, size_t n);
void cli_buffer_free(cli_buffer *b);

/* Documents: each a text, or token ids. */
typedef struct cli_documents {
    int64_t n;
    char **texts; /* texts[i] NULL: document i is ids */
    size_t *lengths;
    int32_t **ids;
    int64_t *counts;
    size_t capacity;
    cli_buffer source;
} cli_documents;

/* A whole file, "-" for stdin; negative after filling e. */
int cli_read_file(cli_buffer *b, const char *path, krait_error *e);
/* A document a line: text, or decimal ids apart by blanks. Errors name the line. */
int cli_read_lines(cli_documents *d, const char *path, krait_error *e);
int cli_read_ids(cli_documents *d, const char *path, krait_error *e);
/* One document: a whole file; a text, which is copied. */
int cli_add_file(cli_documents *d, const char *path, krait_error *e);
void cli_add_text(cli_documents *d, const char *text);
void cli_documents_free(cli_documents *d);
int cli_error(krait_error *e, krait_err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Memory, or one line on stderr and exit 1. */
void *cli_alloc(size_t size);
void *cli_resize(void *old, size_t size);

/* "train", "valid" or "test" as KRAIT_TASK_... */
int cli_task_part(const char *name);

/* ---- output ---------------------------------------------------------------------------------- */

double cli_seconds(void);
bool cli_utf8(void); /* the terminal's locale is UTF-8 */
/* Numbers for people, written into text and returned: "1.23 M", "98.5 MB", "3 min 12 s". */
const char *cli_human_count(double n, char text[32]);
const char *cli_human_bytes(double n, char text[32]);
const char *cli_human_time(double seconds, char text[32]);

/* A bar on a terminal, else a line every ten seconds; silent for the first second. One at a time.
 */
typedef struct cli_progress {
    const char *label;
    bool terminal, drawn;
    double start, last;
} cli_progress;
void cli_progress_start(cli_progress *p, const char *label);
/* done of all units so far (all 0: unknown); `extra` goes behind, and rate and time left before it
 * when unit is set. */
void cli_progress_update(cli_progress *p, double done, double all, const char *unit,
                         const char *extra);
void cli_progress_clear(cli_progress *p); /* before anything else is printed, and at the end */

/* Points of curves, x rising. */
typedef struct cli_series {
    double *x, *y;
    size_t n, capacity;
} cli_series;
void cli_series_add(cli_series *s, double x, double y);
void cli_series_free(cli_series *s);
/* Draws `line` as a curve and `marks` on top of it; nothing when there are fewer than two points.
 */
void cli_plot(FILE *f, const cli_series *line, const cli_series *marks, int columns, int rows,
              bool utf8);

#endif
