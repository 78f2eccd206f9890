/* cmd_generate.c - krait generate: text or ids in, their continuation out, as it is drawn. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "cli_json.h"

/* Results in the order of the prompts: what ends before its turn waits. */
typedef struct printer {
    const cli_args *args;
    const cli_documents *prompts;
    cli_buffer *waiting; /* texts that are done but not yet printed */
    json_t **objects;
    int64_t next;
    bool ids_only; /* the model has no tokenizer */
} printer;

static void print_prompt(const printer *p, int64_t i) {
    if (p->prompts->n > 1) printf("%s== %lld ==\n", i ? "\n" : "", (long long)i + 1);
    if (cli_flag(p->args, "echo")) fputs(p->prompts->texts[i], stdout);
}

/* A single prompt is shown as it comes. */
static int on_text(void *user, int64_t index, const char *text, size_t length) {
    (void)user;
    (void)index;
    fwrite(text, 1, length, stdout);
    return fflush(stdout) != 0;
}

static void print_ready(printer *p) {
    for (; p->next < p->prompts->n; p->next++) {
        int64_t i = p->next;
        if (p->objects[i]) {
            cli_json(p->objects[i]);
            p->objects[i] = NULL;
        } else if (p->waiting[i].bytes) {
            print_prompt(p, i);
            fwrite(p->waiting[i].bytes, 1, p->waiting[i].length, stdout);
            putchar('\n');
            fflush(stdout);
            cli_buffer_free(&p->waiting[i]);
        } else {
            break;
        }
    }
}

/* As --token-ids reads them. */
static void append_ids(cli_buffer *b, const int32_t *ids, int64_t count) {
    char number[16];
    cli_append(b, "", 0);
    for (int64_t i = 0; i < count; i++)
        cli_append(b, number,
                   (size_t)snprintf(number, sizeof number, "%s%d", i ? " " : "", (int)ids[i]));
}

static int on_done(void *user, int64_t index, const int32_t *ids, int64_t count, const char *text,
                   size_t length) {
    printer *p = user;
    if (cli_flag(p->args, "json")) {
        p->objects[index] =
            json_pack("{s:I, s:o, s:o}", "doc", (json_int_t)index, "ids", cli_json_ids(ids, count),
                      "text", cli_json_text(text, length));
    } else if (p->ids_only) {
        append_ids(&p->waiting[index], ids, count);
    } else {
        cli_append(&p->waiting[index], text, length);
    }
    print_ready(p);
    return ferror(stdout);
}

static int on_single_done(void *user, int64_t index, const int32_t *ids, int64_t count,
                          const char *text, size_t length) {
    (void)user, (void)index, (void)ids, (void)count, (void)text, (void)length;
    putchar('\n');
    return 0;
}

/* Prompts from --prompt, --prompts, --token-ids, or stdin ("-"); a state alone is continued without
 * any. */
static int read_prompts(const cli_args *a, cli_documents *d) {
    krait_error e;
    int n, rc = 0;
    const char *const *given = cli_values(a, "prompt", &n);
    for (int i = 0; i < n; i++)
        if (strcmp(given[i], "-") != 0) cli_add_text(d, given[i]);
    bool from_stdin = a->n_words > 0 || (n == 1 && strcmp(given[0], "-") == 0);
    if (a->n_words > 0 && strcmp(a->words[0], "-") != 0)
        return cli_usage(a, "%s stands alone; give text with --prompt", a->words[0]);
    int sources =
        (n > 0 && !from_stdin) + from_stdin + cli_given(a, "prompts") + cli_given(a, "token-ids");
    if (sources > 1)
        return cli_usage(a, "prompts come from one place: --prompt, --prompts, --token-ids or -");
    if (from_stdin) rc = cli_read_lines(d, "-", &e);
    if (cli_given(a, "prompts")) rc = cli_read_lines(d, cli_text(a, "prompts"), &e);
    if (cli_given(a, "token-ids")) rc = cli_read_ids(d, cli_text(a, "token-ids"), &e);
    if (rc < 0) return cli_fail(a, "%s", e.message);
    if (d->n == 0 && sources == 0 && cli_given(a, "state-in")) cli_add_text(d, "");
    if (d->n > 0) return 0;
    if (sources > 0) return cli_fail(a, "there is no prompt: the input is empty");
    return cli_usage(a, "a prompt is needed: --prompt TEXT, --prompts FILE, --token-ids FILE or -");
}

/* Options that could not take effect. */
static int check(const cli_args *a, const cli_documents *d) {
    static const char *const sampling[] = {"top-k", "top-p", "min-p", "seed"};
    if (cli_need(a, "model") || cli_idle_threads(a)) return CLI_USAGE;
    for (size_t i = 0; cli_real(a, "temperature") == 0 && i < sizeof sampling / sizeof *sampling;
         i++)
        if (cli_given(a, sampling[i]))
            return cli_usage(a, "--%s has no effect with --temperature 0", sampling[i]);
    if (cli_flag(a, "echo") && (cli_flag(a, "json") || !d->texts[0]))
        return cli_usage(a, "--echo has no effect with --%s",
                         cli_flag(a, "json") ? "json" : "token-ids");
    if (d->n > 1 && (cli_given(a, "state-in") || cli_given(a, "state-out")))
        return cli_usage(a, "--state-%s takes one prompt; there are %lld",
                         cli_given(a, "state-in") ? "in" : "out", (long long)d->n);
    return 0;
}

static void fill(const cli_args *a, const cli_documents *d, krait_generate_options *o) {
    o->tokens = cli_int(a, "tokens");
    o->sampler.temperature = cli_real(a, "temperature");
    o->sampler.top_k = cli_int(a, "top-k");
    o->sampler.top_p = cli_real(a, "top-p");
    o->sampler.min_p = cli_real(a, "min-p");
    o->sampler.repeat_penalty = cli_real(a, "repeat-penalty");
    o->sampler.seed = (uint64_t)cli_int(a, "seed");
    o->lanes = cli_int(a, "lanes");
    o->max_tokens = cli_int(a, "chunk");
    o->threads = (int)cli_int(a, "threads");
    if (strcmp(cli_text(a, "state-type"), "bf16") == 0) o->state_type = KRAIT_BF16;
    o->ignore_end = cli_flag(a, "ignore-end");
    o->state_in = cli_text(a, "state-in");
    o->state_out = cli_text(a, "state-out");
    if (d->texts[0]) return;
    o->ids = (const int32_t *const *)d->ids;
    o->counts = d->counts;
}

static void print_stats(const krait_generate_stats *s) {
    double prompt = s->prompt_seconds > 0 ? (double)s->prompt_tokens / s->prompt_seconds : 0;
    double decode = s->decode_seconds > 0 ? (double)s->new_tokens / s->decode_seconds : 0;
    fprintf(stderr,
            "prompt: %lld tokens in %.2f s (%.1f/s); new: %lld tokens in %.2f s (%.1f/s); "
            "setting up: %.2f s\n",
            (long long)s->prompt_tokens, s->prompt_seconds, prompt, (long long)s->new_tokens,
            s->decode_seconds, decode, s->load_seconds);
}

static int generate(const cli_args *a, const krait_model *model, const cli_documents *d) {
    krait_generate_options o = KRAIT_GENERATE_OPTIONS_INIT;
    krait_generate_stats stats = {0};
    krait_error e;
    printer p = {.args = a, .prompts = d, .ids_only = !krait_model_tokenizer(model)};
    p.waiting = cli_alloc((size_t)d->n * sizeof *p.waiting);
    p.objects = cli_alloc((size_t)d->n * sizeof *p.objects);
    fill(a, d, &o);
    o.user = &p;
    o.on_done = on_done;
    if (d->n == 1 && !cli_flag(a, "json") && !p.ids_only) {
        print_prompt(&p, 0);
        o.on_text = on_text;
        o.on_done = on_single_done;
    }
    int rc = krait_generate(model, (const char *const *)d->texts, d->n, &o, &stats, &e);
    for (int64_t i = 0; i < d->n; i++) {
        cli_buffer_free(&p.waiting[i]);
        json_decref(p.objects[i]);
    }
    free(p.waiting);
    free(p.objects);
    if (rc == KRAIT_ERR_CANCELLED && ferror(stdout))
        return CLI_OK; /* main says why, if it was no pipe */
    if (rc < 0) return cli_fail(a, "%s", e.message);
    if (cli_flag(a, "stats")) print_stats(&stats);
    return CLI_OK;
}

static int run(const cli_args *a) {
    cli_documents d = {0};
    krait_model *model = NULL;
    int rc = read_prompts(a, &d);
    if (rc == 0) rc = check(a, &d);
    bool no_text = rc == 0 && (!d.texts[0] || (d.n == 1 && !d.texts[0][0]));
    if (rc == 0 && !(model = cli_open_model(a, no_text ? CLI_ANY_TOKENIZER : CLI_TOKENIZER)))
        rc = CLI_FAILED;
    if (rc == 0) rc = generate(a, model, &d);
    krait_model_close(&model);
    cli_documents_free(&d);
    return rc;
}

static const cli_option options[] = {
    CLI_OPT_MODEL,
    {.kind = CLI_TEXT,
     .name = "prompt",
     .letter = 'p',
     .arg = "TEXT",
     .help = "What is to be continued; - reads prompts from standard input, one a line.",
     .many = true,
     .empty = true},
    {.kind = CLI_TEXT, .name = "prompts", .arg = "FILE", .help = "Prompts, one a line."},
    {.kind = CLI_TEXT,
     .name = "token-ids",
     .arg = "FILE",
     .help = "Prompts as decimal token ids, one prompt a line."},
    {.kind = CLI_INT,
     .name = "tokens",
     .letter = 'n',
     .arg = "N",
     .value = "256",
     .least = 0,
     .most = 1e12,
     .help = "New tokens for each prompt, unless the end token comes first."},
    {.kind = CLI_REAL,
     .name = "temperature",
     .letter = 't',
     .arg = "T",
     .value = "0.8",
     .least = 0,
     .most = 1e6,
     .help = "Logits are divided by this; 0 always takes the most likely token."},
    {.kind = CLI_INT,
     .name = "top-k",
     .arg = "K",
     .value = "40",
     .least = 0,
     .most = 2147483647,
     .help = "Keep the K most likely tokens; 0: all."},
    {.kind = CLI_REAL,
     .name = "top-p",
     .arg = "P",
     .value = "0.95",
     .least = 1e-12,
     .most = 1,
     .help = "Keep the most likely tokens that together reach this probability; 1: all."},
    {.kind = CLI_REAL,
     .name = "min-p",
     .arg = "P",
     .value = "0",
     .least = 0,
     .most = 1,
     .help = "Keep tokens at least this probable relative to the most likely one; 0: all."},
    {.kind = CLI_REAL,
     .name = "repeat-penalty",
     .arg = "R",
     .value = "1",
     .least = 1e-6,
     .most = 1e6,
     .help = "Above 1: tokens of the prompt and of what was drawn become less likely; 1: off."},
    {.kind = CLI_INT,
     .name = "seed",
     .arg = "N",
     .value = "0",
     .least = 0,
     .most = 9e18,
     .help = "Prompt i draws with seed N + i; the same seed gives the same text."},
    {.kind = CLI_FLAG, .name = "ignore-end", .help = "Go on past the end token."},
    {.kind = CLI_FLAG, .name = "echo", .help = "Print each prompt before its continuation."},
    {.kind = CLI_TEXT,
     .name = "state-in",
     .arg = "FILE",
     .help = "Continue from a saved state; a prompt, if given, is read after it."},
    {.kind = CLI_TEXT,
     .name = "state-out",
     .arg = "FILE",
     .help = "Save the state at the end; its size does not depend on the length of the text."},
    {.kind = CLI_INT,
     .name = "lanes",
     .arg = "N",
     .value = "32",
     .least = 1,
     .most = 65536,
     .help = "Prompts that run together at most."},
    {.kind = CLI_INT,
     .name = "chunk",
     .arg = "N",
     .value = "0",
     .least = 0,
     .most = 1048576,
     .help = "Prompts are read in pieces of at most this many tokens; 0: 512, on a GPU "
             "4096."},
    CLI_OPT_RATE,
    CLI_OPT_DTYPE,
    CLI_OPT_STATE_TYPE,
    CLI_OPT_DEVICE,
    CLI_OPT_THREADS,
    {.kind = CLI_FLAG, .name = "stats", .help = "Print tokens and speeds on stderr at the end."},
    CLI_OPT_JSON,
    {.kind = CLI_END}};

const cli_command cli_command_generate = {
    .name = "generate",
    .summary = "Continue text with a model",
    .synopsis = "--model M --prompt TEXT [OPTION ...]\n"
                "--model M --prompts FILE | --token-ids FILE | - [OPTION ...]\n"
                "--model M --state-in FILE [--prompt TEXT] [OPTION ...]",
    .description =
        "Prints the continuation as it is drawn, always as whole UTF-8 characters. Several prompts "
        "run "
        "together as one ragged batch; each one's text is what it would be alone, and texts are "
        "printed in the order of the prompts. An empty prompt begins with the end token.\n\n"
        "Tokens are chosen in this order: repetition penalty, top-k, temperature, top-p, min-p, "
        "draw.\n\n"
        "--state-out writes the model's state, which is all it remembers, with the model's hash "
        "and a "
        "checksum. --state-in goes on from there bit for bit: with --temperature 0, 100 tokens and "
        "then 100 more are the 200 of one run. The draws of a sampler begin again from --seed, and "
        "the repetition penalty counts from there. A state of another model, or a damaged one, is "
        "refused.\n\n"
        "With --json: {\"doc\", \"ids\", \"text\"} a line for each prompt; doc counts from 0; text "
        "and "
        "ids are the new ones alone, and the end token that ends them is in neither. A model "
        "without a tokenizer reads and prints ids.",
    .options = options,
    .example = "krait generate --model demo --prompt \"In the beginning\" --tokens 100\n"
               "printf 'The king\\nThe sea\\n' | krait generate --model demo --temperature 0 -",
    .most_words = 1,
    .run = run,
};
