/* cmd_bench.c - krait bench: speeds on this machine, beside what the machine allows. */
#include <string.h>

#include <krait/train.h>
#include "cli.h"
#include "cli_json.h"

static void print_json(const krait_bench_row *r) {
    json_t *o = json_pack("{s:s, s:s, s:o, s:o, s:o}", "name", r->name, "unit", r->unit, "median",
                          cli_json_real(r->median), "minimum", cli_json_real(r->minimum), "maximum",
                          cli_json_real(r->maximum));
    if (r->ceiling > 0) json_object_set_new(o, "ceiling", cli_json_real(r->ceiling));
    if (r->note) json_object_set_new(o, "note", json_string(r->note));
    if (r->ms > 0) json_object_set_new(o, "ms", cli_json_real(r->ms));
    cli_json(o);
}

static void on_row(void *user, const krait_bench_row *r) {
    if (cli_flag(user, "json")) {
        print_json(r);
        return;
    }
    printf("%-30s %10.2f %-12s (%.2f to %.2f)", r->name, r->median, r->unit, r->minimum,
           r->maximum);
    if (r->ms > 0) printf("  %8.4f ms", r->ms);
    if (r->ceiling > 0) printf("  %3.0f%% of %.2f", 100 * r->median / r->ceiling, r->ceiling);
    printf("%s%s\n", r->note && *r->note ? "  " : "", r->note ? r->note : "");
    fflush(stdout);
}

/* The argument, if there is one, names a part. */
static int check_part(const cli_args *a) {
    static const char *const parts[] = {"machine", "ops",   "scan", "prefill",
                                        "decode",  "train", NULL};
    if (a->n_words == 0) return 0;
    for (int i = 0; parts[i]; i++)
        if (strcmp(a->words[0], parts[i]) == 0) return 0;
    const char *near = cli_nearest(a->words[0], parts);
    return cli_usage(a, "there is no part %s%s%s; krait bench --help lists them", a->words[0],
                     near ? ": the nearest is " : "", near ? near : "");
}

static int run(const cli_args *a) {
    krait_bench_options o = KRAIT_BENCH_OPTIONS_INIT;
    krait_error e;
    if (check_part(a)) return CLI_USAGE;
    o.what = a->n_words ? a->words[0] : NULL;
    o.model = cli_given(a, "model") ? cli_text(a, "model") : NULL;
    o.dtype = cli_given(a, "dtype") ? cli_text(a, "dtype") : NULL;
    o.batch = cli_int(a, "batch");
    o.tokens = cli_int(a, "tokens");
    o.runs = (int)cli_int(a, "runs");
    o.state_type = cli_given(a, "state-type") ? cli_text(a, "state-type") : NULL;
    o.device = cli_text(a, "device");
    o.threads = (int)cli_int(a, "threads");
    o.on_row = on_row;
    o.user = (void *)(uintptr_t)a;
    int rc = krait_bench(&o, &e);
    if (rc == KRAIT_ERR_ARGUMENT) return cli_usage(a, "%s", e.message);
    return rc < 0 ? cli_fail(a, "%s", e.message) : CLI_OK;
}

static const cli_option options[] = {
    {.kind = CLI_TEXT,
     .name = "model",
     .letter = 'm',
     .arg = "M",
     .value = "mamba-130m",
     .help = "A model, or a shape with random weights: mamba-130m, -370m, -790m, -1.4b, -2.8b, "
             "mamba2-130m, -370m, -780m, -1.3b, -2.7b, mamba3-130m, -370m."},
    {.kind = CLI_TEXT,
     .name = "dtype",
     .arg = "TYPE",
     .value = "f32",
     .choices = "f32|bf16|f16",
     .help = "Type of the matrices; on a GPU f32 or bf16, and bf16 of the activations too."},
    {.kind = CLI_INT,
     .name = "batch",
     .arg = "N",
     .value = "0",
     .least = 0,
     .most = 1e6,
     .help = "Sequences at once; 0: what suits the row."},
    {.kind = CLI_INT,
     .name = "tokens",
     .arg = "N",
     .value = "0",
     .least = 0,
     .most = 1e9,
     .help = "Tokens of each; 0: what suits the row."},
    {.kind = CLI_INT,
     .name = "runs",
     .arg = "N",
     .value = "5",
     .least = 1,
     .most = 1000,
     .help = "The median, smallest and largest of this many runs are printed."},
    CLI_OPT_STATE_TYPE,
    CLI_OPT_DEVICE,
    CLI_OPT_THREADS,
    CLI_OPT_JSON,
    {.kind = CLI_END}};

const cli_command cli_command_bench = {
    .name = "bench",
    .summary = "Time kernels, prefill, decoding and training",
    .synopsis = "[machine | ops | scan | prefill | decode | train] [OPTION ...]",
    .description = "Prints the median of several runs, the range, and, where one is known, the "
                   "share of what this "
                   "machine allows: its read bandwidth and its rate of matrix products are "
                   "measured first. Without an "
                   "argument, everything. An option that a part does not look at is refused.\n\n"
                   "With --json: {\"name\", \"unit\", \"median\", \"minimum\", \"maximum\", "
                   "\"ceiling\", \"note\", "
                   "\"ms\"} a line.",
    .options = options,
    .example = "krait bench machine\nkrait bench decode --dtype bf16 --runs 3",
    .most_words = 1,
    .run = run,
};
