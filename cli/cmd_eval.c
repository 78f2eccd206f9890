/* cmd_eval.c - krait eval: how well a model predicts text, and tasks. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include <krait/train.h>
#include "cli.h"
#include "cli_json.h"

typedef struct printer {
    cli_progress bar;
    const char *unit;
    bool json;
} printer;

static int on_token(void *user, int64_t doc, int64_t pos, int32_t id, double logprob) {
    (void)user;
    cli_json(json_pack("{s:I, s:I, s:i, s:o}", "doc", (json_int_t)doc, "pos", (json_int_t)pos, "id",
                       (int)id, "logprob", cli_json_real(logprob)));
    return ferror(stdout);
}

static int on_progress(void *user, int64_t done, int64_t all) {
    printer *p = user;
    cli_progress_update(&p->bar, (double)done, (double)all, p->unit, "");
    return 0;
}

static json_t *positions(const krait_eval_result *r) {
    json_t *list = json_array();
    for (int i = 0; i < KRAIT_EVAL_POSITIONS; i++) {
        if (r->position_count[i] == 0) continue;
        json_array_append_new(list, json_pack("{s:I, s:I, s:o}", "from", (json_int_t)1 << i,
                                              "tokens", (json_int_t)r->position_count[i], "loss",
                                              cli_json_real(r->position_loss[i])));
    }
    return list;
}

static void print_json(const krait_eval_result *r, bool task) {
    bool text = r->bytes > 0; /* ids alone stand for no bytes that could be counted */
    json_t *o =
        json_pack("{s:I, s:I, s:o, s:o, s:o, s:o}", "documents", (json_int_t)r->documents, "tokens",
                  (json_int_t)r->tokens, "bytes", text ? json_integer(r->bytes) : json_null(),
                  "loss", cli_json_real(r->loss), "perplexity", cli_json_real(r->perplexity),
                  "bits_per_byte", text ? cli_json_real(r->bits_per_byte) : json_null());
    if (task) {
        json_object_set_new(o, "questions", json_integer(r->questions));
        json_object_set_new(o, "accuracy", cli_json_real(r->accuracy));
        json_object_set_new(o, "task_perplexity", cli_json_real(r->task_perplexity));
    } else {
        json_object_set_new(o, "loss_by_position", positions(r));
    }
    json_object_set_new(o, "seconds", cli_json_real(r->seconds));
    cli_json(o);
}

static void print_text(const krait_eval_result *r, bool task) {
    char time[32];
    if (task) {
        printf("questions       %" PRId64 "\naccuracy        %.2f%%\nperplexity      %.6g\n",
               r->questions, 100 * r->accuracy, r->task_perplexity);
    } else {
        printf("predicted       %" PRId64 " tokens of %" PRId64 " documents\n", r->tokens,
               r->documents);
        printf("loss            %.4f nats a token\nperplexity      %.6g\n", r->loss, r->perplexity);
        if (r->bytes > 0)
            printf("bits per byte   %.4f over %" PRId64 " bytes\n", r->bits_per_byte, r->bytes);
        printf("by position     loss\n");
        for (int i = 0; i < KRAIT_EVAL_POSITIONS; i++)
            if (r->position_count[i] > 0)
                printf("  %8" PRId64 " ..   %.4f   (%" PRId64 " tokens)\n", (int64_t)1 << i,
                       r->position_loss[i], r->position_count[i]);
    }
    printf("time            %s\n", cli_human_time(r->seconds, time));
}

/* Is it a task of sequences, which needs no text? */
static bool is_sequences(const cli_args *a) {
    return cli_given(a, "task") && strcmp(cli_text(a, "task"), "lambada") != 0;
}

static int check(const cli_args *a) {
    static const char *const of_tasks[] = {"set", "examples", "seed", "part", "answers"};
    for (size_t i = 0; !is_sequences(a) && i < sizeof of_tasks / sizeof *of_tasks; i++)
        if (cli_given(a, of_tasks[i]))
            return cli_usage(a, "--%s needs --task with a sequence task", of_tasks[i]);
    if (is_sequences(a) && cli_given(a, "max-tokens"))
        return cli_usage(a, "--max-tokens has no effect on a sequence task: give --examples");
    if (!is_sequences(a) && cli_idle_threads(a)) return CLI_USAGE; /* threads make examples */
    if (cli_need(a, "model") || (!is_sequences(a) && cli_need_text(a)) ||
        cli_exclusive(a, "task", "token-ids") || cli_exclusive(a, "task", "context") ||
        cli_exclusive(a, "task", "per-token"))
        return CLI_USAGE;
    if (cli_flag(a, "per-token") && !cli_flag(a, "json"))
        return cli_usage(a, "--per-token prints JSON lines: give --json too");
    return 0;
}

/* ---- sequence tasks ---- */

static int on_answer(void *user, int64_t example, int64_t row, int32_t right, int32_t said,
                     double logprob) {
    printer *p = user;
    cli_progress_clear(&p->bar);
    if (p->json)
        cli_json(json_pack("{s:I, s:I, s:i, s:i, s:o}", "example", (json_int_t)example, "row",
                           (json_int_t)row, "right", (int)right, "said", (int)said, "logprob",
                           cli_json_real(logprob)));
    else
        printf("example %" PRId64 " row %" PRId64 ": %d (%.1f%%), right is %d%s\n", example, row,
               (int)said, 100 * exp(logprob), (int)right, said == right ? "" : "  WRONG");
    return ferror(stdout);
}

static void print_sequences(const krait_eval_result *r, bool json) {
    char time[32];
    if (json) {
        cli_json(json_pack("{s:I, s:I, s:o, s:o, s:o, s:o}", "examples", (json_int_t)r->questions,
                           "answers", (json_int_t)r->tokens, "accuracy", cli_json_real(r->accuracy),
                           "accuracy_whole", cli_json_real(r->accuracy_whole), "loss",
                           cli_json_real(r->loss), "seconds", cli_json_real(r->seconds)));
        return;
    }
    if (isnan(r->accuracy)) { /* answers in numbers */
        printf("square error    %.6g, mean of %" PRId64 " answers\n", r->loss, r->tokens);
    } else {
        printf("answers right   %.2f%% of %" PRId64 "\n", 100 * r->accuracy, r->tokens);
        printf("examples right  %.2f%% of %" PRId64 "\n", 100 * r->accuracy_whole, r->questions);
        printf("loss            %.4f nats an answer\n", r->loss);
    }
    printf("time            %s\n", cli_human_time(r->seconds, time));
}

static int evaluate(const cli_args *a, const krait_model *model) {
    krait_eval_options o = KRAIT_EVAL_OPTIONS_INIT;
    krait_eval_result r = {0};
    krait_error e;
    int n, n_sets;
    bool ids = cli_given(a, "token-ids"), task = cli_given(a, "task");
    printer p = {.unit = is_sequences(a) ? "examples"
                         : task          ? "questions"
                         : ids           ? "tokens"
                                         : "bytes",
                 .json = cli_flag(a, "json")};
    o.data = cli_values(a, ids ? "token-ids" : "data", &n);
    o.n_data = n;
    o.data_is_ids = ids;
    o.task = cli_text(a, "task");
    o.context = cli_int(a, "context");
    o.max_tokens = cli_int(a, "max-tokens");
    o.sets = cli_values(a, "set", &n_sets);
    o.n_sets = n_sets;
    o.examples = cli_int(a, "examples");
    o.seed = (uint64_t)cli_int(a, "seed");
    o.part = cli_task_part(cli_text(a, "part"));
    o.on_answer = cli_flag(a, "answers") ? on_answer : NULL;
    o.threads = (int)cli_int(a, "threads");
    o.user = &p;
    o.on_token = cli_flag(a, "per-token") ? on_token : NULL;
    o.on_progress = on_progress;
    cli_progress_start(&p.bar, "eval");
    int rc = krait_eval(model, &o, &r, &e);
    cli_progress_clear(&p.bar);
    if (rc == KRAIT_ERR_CANCELLED && ferror(stdout)) return CLI_OK;
    if (rc < 0) return cli_fail(a, "%s", e.message);
    if (cli_flag(a, "per-token") || (cli_flag(a, "answers") && cli_flag(a, "json"))) return CLI_OK;
    if (is_sequences(a))
        print_sequences(&r, cli_flag(a, "json"));
    else if (cli_flag(a, "json"))
        print_json(&r, task);
    else
        print_text(&r, task);
    return CLI_OK;
}

static int run(const cli_args *a) {
    int rc = check(a);
    if (rc) return rc;
    bool ids = cli_given(a, "token-ids");
    bool none = ids || is_sequences(a);
    krait_model *model = cli_open_model(a, none ? CLI_NO_TOKENIZER : CLI_TOKENIZER);
    if (!model) return CLI_FAILED;
    rc = evaluate(a, model);
    krait_model_close(&model);
    return rc;
}

static const cli_option options[] = {
    CLI_OPT_MODEL,
    CLI_OPT_DATA("; with --task, its JSON lines"),
    CLI_OPT_TOKEN_IDS,
    {.kind = CLI_TEXT,
     .name = "task",
     .arg = "NAME",
     .help = "Accuracy of a task instead: lambada, the last word of {\"text\"} lines; or a "
             "sequence task (krait task lists them)."},
    CLI_OPT_TASK_SET,
    {.kind = CLI_INT,
     .name = "examples",
     .arg = "N",
     .value = "0",
     .least = 0,
     .most = 1e12,
     .help = "How many examples of the sequence task; 0: all of a part that ends, else 1000."},
    CLI_OPT_TASK_SEED,
    CLI_OPT_TASK_PART("test"),
    {.kind = CLI_FLAG,
     .name = "answers",
     .help = "Print each answer of a sequence task: what the model says and what is right."},
    {.kind = CLI_INT,
     .name = "context",
     .arg = "N",
     .value = "0",
     .least = 0,
     .most = 1e12,
     .help =
         "Cut documents in windows of N tokens, each from a fresh state; 0: each document whole."},
    {.kind = CLI_INT,
     .name = "max-tokens",
     .arg = "N",
     .value = "0",
     .least = 0,
     .most = 1e15,
     .help = "Predict this many tokens, the first of the data; a task stops after the question "
             "that reaches it; 0: all."},
    {.kind = CLI_FLAG,
     .name = "per-token",
     .help = "Print {\"doc\", \"pos\", \"id\", \"logprob\"} a line for each token after the first "
             "of its "
             "document. Needs --json."},
    CLI_OPT_RATE,
    CLI_OPT_DTYPE,
    CLI_OPT_DEVICE,
    CLI_OPT_THREADS,
    CLI_OPT_JSON,
    {.kind = CLI_END}};

const cli_command cli_command_eval = {
    .name = "eval",
    .summary = "Measure how well a model predicts text",
    .synopsis = "--model M --data PATH [OPTION ...]\n"
                "--model M --token-ids FILE [--per-token --json] [OPTION ...]\n"
                "--model M --task lambada --data FILE [OPTION ...]\n"
                "--model M --task NAME [--set KEY=VALUE ...] [--answers] [OPTION ...]",
    .description = "Prints the mean loss (nats a token), perplexity, bits per byte of text, and "
                   "the loss by position "
                   "in the document. A document of any length is read whole, its state carried "
                   "from piece to piece; "
                   "the first token of a document is not predicted.\n\n"
                   "With --json: one object with the same numbers (bytes and bits_per_byte are "
                   "null with --token-ids: ids stand for no text), or with --per-token a line for "
                   "each token, whose "
                   "pos counts from 0 in its document and whose logprob is in nats.",
    .options = options,
    .example =
        "krait eval --model demo --data /usr/share/common-licenses/GPL-3\n"
        "echo '72 101 108 108 111' | krait eval --model demo --token-ids - --per-token --json",
    .most_words = 0,
    .run = run,
};
