/* cmd_selftest.c - krait selftest: every kernel against its reference, or a model's forms against
 * each other. */
#include <stdlib.h>
#include <string.h>

#include <krait/train.h>
#include "cli.h"
#include "cli_json.h"

/* ---- kernels --------------------------------------------------------------------------------- */

typedef struct tally {
    const cli_args *args;
    cli_progress bar;
    long long passed, failed, skipped;
    char op[64]; /* the op whose rows are being counted, for the line that sums it up */
    long long op_passed;
    double op_worst; /* error / tolerance */
} tally;

static void end_op(tally *t) {
    if (t->op[0] && t->op_passed > 0 && !cli_flag(t->args, "json"))
        printf("ok    %-28s %5lld rows, worst error %.0f%% of its tolerance\n", t->op, t->op_passed,
               100 * t->op_worst);
    t->op_passed = 0;
    t->op_worst = 0;
}

static void print_row(const krait_check_row *r) {
    cli_json(json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:o, s:o, s:s}", "op", r->op, "case",
                       r->kase, "level", r->level, "what", r->what, "passed", r->passed, "skipped",
                       r->skipped, "error", cli_json_real(r->error), "tolerance",
                       cli_json_real(r->tolerance), "detail", r->detail ? r->detail : ""));
}

static void on_row(void *user, const krait_check_row *r) {
    tally *t = user;
    char extra[96];
    if (strcmp(t->op, r->op) != 0) {
        cli_progress_clear(&t->bar);
        end_op(t);
        snprintf(t->op, sizeof t->op, "%s", r->op);
    }
    if (cli_flag(t->args, "json")) print_row(r);
    if (r->skipped) {
        t->skipped++;
    } else if (r->passed) {
        t->passed++;
        t->op_passed++;
        if (r->tolerance > 0 && r->error / r->tolerance > t->op_worst)
            t->op_worst = r->error / r->tolerance;
    } else {
        t->failed++;
        cli_progress_clear(&t->bar);
        if (!cli_flag(t->args, "json"))
            printf("FAIL  %s (%s) at %s, %s: error %.3g, tolerance %.3g%s%s\n", r->op, r->kase,
                   r->level, r->what, r->error, r->tolerance, r->detail ? ": " : "",
                   r->detail ? r->detail : "");
    }
    snprintf(extra, sizeof extra, "%s: %lld rows passed, %lld failed", r->op, t->passed, t->failed);
    cli_progress_update(&t->bar, 0, 0, NULL, extra);
}

/* --share "K/N". */
static int read_share(const cli_args *a, int *share, int *shares) {
    char behind;
    if (!cli_given(a, "share")) return 0;
    int n = sscanf(cli_text(a, "share"), "%6d/%6d%c", share, shares, &behind);
    if (n == 2 && *share >= 1 && *share <= *shares) return 0;
    return cli_usage(a, "--share %s: K/N with K from 1 to N is needed, as 2/8",
                     cli_text(a, "share"));
}

static int check_kernels(const cli_args *a) {
    krait_check_options o = KRAIT_CHECK_OPTIONS_INIT;
    tally t = {.args = a};
    krait_error e;
    if (read_share(a, &o.share, &o.shares)) return CLI_USAGE;
    o.only = cli_text(a, "only");
    o.corrupt = cli_text(a, "corrupt");
    o.large = cli_flag(a, "large");
    o.threads = (int)cli_int(a, "threads");
    o.device = cli_text(a, "device");
    o.on_row = on_row;
    o.user = &t;
    cli_progress_start(&t.bar, "selftest");
    int rc = krait_selftest(&o, &e);
    cli_progress_clear(&t.bar);
    end_op(&t);
    if (!cli_flag(a, "json") && t.passed + t.failed + t.skipped > 0)
        printf("%lld rows passed, %lld failed, %lld skipped\n", t.passed, t.failed, t.skipped);
    if (rc < 0) return cli_fail(a, "%s", e.message);
    if (t.passed + t.failed == 0) return cli_fail(a, "no row was checked");
    return CLI_OK;
}

/* ---- models ---------------------------------------------------------------------------------- */

typedef struct listing {
    bool json, begun;
} listing;

static void on_tensor(void *user, const char *name, double grad_norm) {
    listing *l = user;
    if (l->json) {
        cli_json(json_pack("{s:s, s:o}", "tensor", name, "grad_norm", cli_json_real(grad_norm)));
        return;
    }
    if (!l->begun) printf("%-52s gradient norm of the mean next-token loss\n", "tensor");
    printf("%-52s %.6g\n", name, grad_norm);
    l->begun = true;
}

static int check_model(const cli_args *a, const krait_model *model, const cli_documents *d) {
    listing l = {.json = cli_flag(a, "json")};
    krait_model_check c = {.on_tensor = on_tensor, .user = &l};
    krait_error e;
    if (krait_selftest_model(model, (const int32_t *const *)d->ids, d->counts, d->n, &c, &e) < 0)
        return cli_fail(a, "%s", e.message);
    if (l.json)
        cli_json(json_pack("{s:o, s:o, s:o, s:I}", "step_error", cli_json_real(c.step_error),
                           "chunk_error", cli_json_real(c.chunk_error), "loss",
                           cli_json_real(c.loss), "tensors", (json_int_t)c.tensors));
    else
        printf("\nloss %.6f nats a token\nlargest difference of logits, relative to the largest:\n"
               "  token by token against whole  %.3g\n  in chunks against whole       %.3g\n",
               c.loss, c.step_error, c.chunk_error);
    return CLI_OK;
}

static int run_model(const cli_args *a) {
    cli_documents d = {0};
    krait_model *model = NULL;
    krait_error e;
    int rc = CLI_OK;
    if (cli_read_ids(&d, cli_text(a, "token-ids"), &e) < 0) rc = cli_fail(a, "%s", e.message);
    if (rc == CLI_OK && !(model = cli_open_model(a, CLI_NO_TOKENIZER))) rc = CLI_FAILED;
    if (rc == CLI_OK) rc = check_model(a, model, &d);
    krait_model_close(&model);
    cli_documents_free(&d);
    return rc;
}

static int run(const cli_args *a) {
    static const char *const kernels[] = {"only", "corrupt", "large", "share", "threads", "device"};
    bool model = cli_given(a, "model");
    if (!model && cli_given(a, "token-ids"))
        return cli_usage(a, "--token-ids has no effect without --model");
    if (!model && cli_idle_threads(a)) return CLI_USAGE;
    if (!model) return check_kernels(a);
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (cli_given(a, kernels[i]))
            return cli_usage(a, "--%s has no effect with --model", kernels[i]);
    return cli_need(a, "token-ids") ? CLI_USAGE : run_model(a);
}

static const cli_option options[] = {
    {.kind = CLI_TEXT, .name = "only", .arg = "TEXT", .help = "Only ops whose name contains this."},
    {.kind = CLI_TEXT,
     .name = "corrupt",
     .arg = "OP",
     .help =
         "Spoil one value of this op's output after it ran: the check must then fail. This is the "
         "test of the test."},
    {.kind = CLI_FLAG,
     .name = "large",
     .help = "Also the rows with offsets past 2^31, which take gigabytes of address space, or with "
             "very many sequences."},
    {.kind = CLI_TEXT,
     .name = "share",
     .arg = "K/N",
     .help = "Only every N-th case, beginning with the K-th: N processes with K from 1 to N check "
             "all."},
    CLI_OPT_DEVICE,
    CLI_OPT_THREADS,
    CLI_OPT_MODEL,
    {.kind = CLI_TEXT,
     .name = "token-ids",
     .arg = "FILE",
     .help = "With --model: the documents to check it on, decimal ids, one a line; - for standard "
             "input."},
    CLI_OPT_JSON,
    {.kind = CLI_END}};

const cli_command cli_command_selftest = {
    .name = "selftest",
    .summary = "Check every kernel, or a model, on this machine",
    .synopsis =
        "[--device cuda] [--only TEXT] [--large] [--share K/N]\n[--corrupt OP] [--json]\n--model M "
        "--token-ids FILE [--json]",
    .description =
        "Runs every kernel at every level that this machine has, on odd shapes and misaligned "
        "memory with "
        "guarded edges, against the scalar reference, and the reference's gradients against finite "
        "differences. With --device cuda: the GPU's kernels, in f32 and with bf16 activations. "
        "Fails "
        "when one row does.\n\n"
        "With --model: how far the model's forms differ on the documents (token by token, in "
        "chunks, "
        "whole), and the norm of the gradient of the mean next-token loss for every tensor.\n\n"
        "With --json: a line for each row, or {\"tensor\", \"grad_norm\"} lines and one with "
        "\"step_error\", \"chunk_error\", \"loss\" and \"tensors\".",
    .options = options,
    .example = "krait selftest --only rmsnorm\n"
               "echo '73 110 32 116 104 101' | krait selftest --model demo --token-ids -",
    .most_words = 0,
    .run = run,
};
