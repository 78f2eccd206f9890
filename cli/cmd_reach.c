/* cmd_reach.c - krait reach: how far back a model looks. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include <krait/train.h>
#include "cli.h"
#include "cli_json.h"

/* The ids of text i behind the first `count`; makes room where a normal form has more ids than the
 * text has bytes. Their number, or negative. */
static int64_t encode(const krait_model *model, const cli_documents *d, int64_t i, int32_t **ids,
                      int64_t count, size_t *room, krait_error *e) {
    const krait_tokenizer *t = krait_model_tokenizer(model);
    int64_t left = (int64_t)*room - count;
    int64_t k = krait_tokenizer_encode(t, d->texts[i], d->lengths[i], *ids + count, left, e);
    if (k <= left) return k;
    *room += (size_t)(k - left);
    *ids = cli_resize(*ids, (*room + 1) * sizeof **ids);
    return krait_tokenizer_encode(t, d->texts[i], d->lengths[i], *ids + count, k, e);
}

/* The ids of --data (one text, whatever the number of files) or of --token-ids. */
static int read_ids(const cli_args *a, const krait_model *model, cli_documents *d, int32_t **ids,
                    int64_t *count, krait_error *e) {
    bool given = cli_given(a, "token-ids");
    int n;
    const char *const *paths = cli_values(a, given ? "token-ids" : "data", &n);
    for (int i = 0; i < n; i++) {
        int rc = given ? cli_read_ids(d, paths[i], e) : cli_add_file(d, paths[i], e);
        if (rc < 0) return rc;
    }
    size_t most = 0;
    for (int64_t i = 0; i < d->n; i++) most += given ? (size_t)d->counts[i] : d->lengths[i];
    *ids = cli_alloc((most + 1) * sizeof **ids);
    for (int64_t i = 0; i < d->n; i++) {
        int64_t k = given ? d->counts[i] : encode(model, d, i, ids, *count, &most, e);
        if (k < 0) return (int)k;
        for (int64_t j = 0; given && j < k; j++) (*ids)[*count + j] = d->ids[i][j];
        *count += k;
    }
    return 0;
}

static void print_json(const double *sizes, int64_t length) {
    for (int64_t k = 0; k < length; k++)
        cli_json(
            json_pack("{s:I, s:o}", "back", (json_int_t)k, "gradient", cli_json_real(sizes[k])));
}

/* Powers of two; behind them how much of all squares lies at least so far back. */
static void print_text(const double *sizes, int64_t length, int64_t windows) {
    double all = 0, beyond = 0;
    for (int64_t k = 0; k < length; k++) all += sizes[k] * sizes[k];
    beyond = all;
    printf("%8s  %12s  %s\n", "back", "gradient", "share of its square from here on");
    for (int64_t k = 0; k < length; k++) {
        if ((k & (k - 1)) == 0)
            printf("%8" PRId64 "  %12.4e  %8.4f%%\n", k, sizes[k],
                   all > 0 ? 100 * beyond / all : 0);
        beyond = fmax(0, beyond - sizes[k] * sizes[k]);
    }
    printf("mean of %" PRId64 " windows of %" PRId64 " tokens\n", windows, length);
}

static int measure(const cli_args *a, const krait_model *model) {
    krait_reach_options o = KRAIT_REACH_OPTIONS_INIT;
    cli_documents d = {0};
    krait_error e;
    int32_t *ids = NULL;
    int64_t count = 0;
    o.length = cli_int(a, "length");
    o.windows = cli_int(a, "windows");
    o.threads = (int)cli_int(a, "threads");
    double *sizes = cli_alloc((size_t)o.length * sizeof *sizes);
    int64_t n = read_ids(a, model, &d, &ids, &count, &e);
    if (n == 0) n = krait_reach(model, ids, count, &o, sizes, &e);
    if (n > 0 && cli_flag(a, "json"))
        print_json(sizes, o.length);
    else if (n > 0)
        print_text(sizes, o.length, n);
    cli_documents_free(&d);
    free(ids);
    free(sizes);
    return n < 0 ? cli_fail(a, "%s", e.message) : CLI_OK;
}

static int run(const cli_args *a) {
    if (cli_need(a, "model") || cli_need_text(a)) return CLI_USAGE;
    krait_model *model =
        cli_open_model(a, cli_given(a, "token-ids") ? CLI_NO_TOKENIZER : CLI_TOKENIZER);
    if (!model) return CLI_FAILED;
    int rc = measure(a, model);
    krait_model_close(&model);
    return rc;
}

static const cli_option options[] = {CLI_OPT_MODEL,
                                     CLI_OPT_DATA(""),
                                     CLI_OPT_TOKEN_IDS,
                                     {.kind = CLI_INT,
                                      .name = "length",
                                      .arg = "N",
                                      .value = "1024",
                                      .least = 1,
                                      .most = 1e8,
                                      .help = "Tokens of a window, each from a fresh state."},
                                     {.kind = CLI_INT,
                                      .name = "windows",
                                      .arg = "N",
                                      .value = "16",
                                      .least = 1,
                                      .most = 1e9,
                                      .help = "The most windows, the first of the data."},
                                     CLI_OPT_THREADS,
                                     CLI_OPT_JSON,
                                     {.kind = CLI_END}};

const cli_command cli_command_reach = {
    .name = "reach",
    .summary = "Measure how far back a model looks",
    .synopsis = "--model M --data PATH [--length N] [--windows N] [OPTION ...]\n"
                "--model M --token-ids FILE [OPTION ...]",
    .description =
        "Prints, by distance, the size of the gradient of a token's loss by the embedding that "
        "entered so many tokens before: the root of its mean square over windows of the data. "
        "Where it is small nothing can be learned from that far back, and nothing that "
        "stood there matters. Of a fresh model (a recipe trained with steps=1, learning_rate=0) "
        "it shows what its initial values allow. On the CPU, in f32.\n\n"
        "With --json: {\"back\", \"gradient\"} a line, for every distance.",
    .options = options,
    .example = "krait reach --model demo --data /usr/share/common-licenses/GPL-3 --length 256",
    .most_words = 0,
    .run = run,
};
