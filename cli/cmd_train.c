/* cmd_train.c - krait train: runs a recipe, shows how it goes, and draws the loss at the end. */
#define _XOPEN_SOURCE 700 /* sigaltstack */
#include <math.h>
#include <krait/train.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli.h"
#include "cli_json.h"

static volatile sig_atomic_t interrupted;

/* The first signal asks for a checkpoint and an end; the second one kills, as usual. */
static void on_signal(int number) { interrupted = number; }

/* Signals have a stack of their own in this thread: on AVX-512 machines matrix products of oneDNN
 * keep data where a signal's frame would go, so that an interrupted run now and then ended in a
 * damaged heap. */
static void catch_signals(void) {
    static _Alignas(16) char stack[1 << 16];
    stack_t own = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    if (sigaltstack(&own, NULL) == 0) act.sa_flags |= SA_ONSTACK;
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
}

typedef struct trainer {
    const cli_args *args;
    cli_progress bar;
    cli_series loss, held_out;
    krait_train_event last, eval; /* texts are not kept */
    double plain_drawn;
} trainer;

static const char *event_name(krait_event_kind kind) {
    static const char *const names[] = {[KRAIT_EVENT_PLAN] = "plan",
                                        [KRAIT_EVENT_STEP] = "step",
                                        [KRAIT_EVENT_EVAL] = "eval",
                                        [KRAIT_EVENT_SAMPLE] = "sample",
                                        [KRAIT_EVENT_CHECKPOINT] = "checkpoint",
                                        [KRAIT_EVENT_SKIPPED] = "skipped",
                                        [KRAIT_EVENT_NOTE] = "note"};
    return names[kind];
}

static void print_json(const krait_train_event *v) {
    json_t *o =
        json_pack("{s:s, s:I, s:I, s:I}", "event", event_name(v->kind), "step", (json_int_t)v->step,
                  "steps", (json_int_t)v->steps, "tokens", (json_int_t)v->tokens);
    if (v->kind == KRAIT_EVENT_STEP || v->kind == KRAIT_EVENT_EVAL)
        json_object_set_new(o, "loss", cli_json_real(v->loss));
    if (v->kind == KRAIT_EVENT_EVAL && v->answers > 0) {
        json_object_set_new(o, "accuracy", cli_json_real(v->accuracy));
        json_object_set_new(o, "accuracy_whole", cli_json_real(v->accuracy_whole));
    } else if (v->kind == KRAIT_EVENT_EVAL) {
        json_object_set_new(o, "bits_per_byte", cli_json_real(v->bits_per_byte));
    }
    if (v->kind == KRAIT_EVENT_STEP) {
        json_object_set_new(o, "grad_norm", cli_json_real(v->grad_norm));
        json_object_set_new(o, "learning_rate", cli_json_real(v->learning_rate));
        json_object_set_new(o, "tokens_per_second", cli_json_real(v->tokens_per_second));
    }
    json_object_set_new(o, "seconds", cli_json_real(v->seconds));
    if (v->text) json_object_set_new(o, "text", cli_json_text(v->text, strlen(v->text)));
    cli_json(o);
}

static void show_step(trainer *t, const krait_train_event *v) {
    char extra[160], rate[32], left[32];
    snprintf(extra, sizeof extra, "step %lld/%lld  loss %.4f  %s tokens/s  %s left",
             (long long)v->step, (long long)v->steps, v->loss,
             cli_human_count(v->tokens_per_second, rate), cli_human_time(v->seconds_left, left));
    cli_progress_update(&t->bar, (double)v->step, (double)v->steps, NULL, extra);
}

/* A line on stderr, or for a text of several lines (a plan, a sample) the text below its name. */
static void show_text(trainer *t, const krait_train_event *v) {
    const char *text = v->text ? v->text : "";
    size_t n = strlen(text);
    bool several = strchr(text, '\n') != NULL;
    cli_progress_clear(&t->bar);
    if (v->kind == KRAIT_EVENT_PLAN || v->kind == KRAIT_EVENT_NOTE)
        fprintf(stderr, "%s", text);
    else
        fprintf(stderr, "%s at step %lld:%c%s", event_name(v->kind), (long long)v->step,
                several ? '\n' : ' ', text);
    if (n == 0 || text[n - 1] != '\n') fputc('\n', stderr);
}

static void show_eval(trainer *t, const krait_train_event *v) {
    cli_progress_clear(&t->bar);
    fprintf(stderr, "step %lld: held-out loss %.4f", (long long)v->step, v->loss);
    if (v->answers > 0 && isnan(v->accuracy)) fprintf(stderr, " (mean square error)");
    if (v->answers > 0 && !isnan(v->accuracy))
        fprintf(stderr, ", %.2f%% of %lld answers right, %.2f%% of examples", 100 * v->accuracy,
                (long long)v->answers, 100 * v->accuracy_whole);
    if (v->bits_per_byte > 0) fprintf(stderr, ", %.4f bits per byte", v->bits_per_byte);
    fputc('\n', stderr);
}

static int on_event(void *user, const krait_train_event *v) {
    trainer *t = user;
    if (v->kind == KRAIT_EVENT_STEP) {
        cli_series_add(&t->loss, (double)v->step, v->loss);
        t->last = *v;
    }
    if (v->kind == KRAIT_EVENT_EVAL) {
        cli_series_add(&t->held_out, (double)v->step, v->loss);
        t->eval = *v;
    }
    if (cli_flag(t->args, "json")) print_json(v);
    if (v->kind == KRAIT_EVENT_STEP)
        show_step(t, v);
    else if (cli_flag(t->args, "json"))
        return interrupted || ferror(stdout);
    else if (v->kind == KRAIT_EVENT_EVAL)
        show_eval(t, v);
    else
        show_text(t, v);
    return interrupted || ferror(stdout);
}

static void show_curve(const trainer *t) {
    struct winsize size;
    int columns = 72;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 40)
        columns = size.ws_col - 12;
    if (columns > 100) columns = 100;
    if (t->loss.n < 2) return;
    printf("\nloss in nats a token by step; %s: held-out\n", cli_utf8() ? "\xe2\x97\x8f" : "o");
    cli_plot(stdout, &t->loss, &t->held_out, columns, 16, cli_utf8());
}

static void show_end(const trainer *t) {
    char time[32], rate[32], tokens[32];
    const krait_train_event *v = &t->last;
    show_curve(t);
    printf("\n%lld steps, %s tokens in %s (%s tokens/s); last loss %.4f", (long long)v->step,
           cli_human_count((double)v->tokens, tokens), cli_human_time(v->seconds, time),
           cli_human_count(v->seconds > 0 ? (double)v->tokens / v->seconds : 0, rate), v->loss);
    if (t->held_out.n > 0) printf("; held-out %.4f", t->eval.loss);
    if (t->held_out.n > 0 && t->eval.answers > 0 && !isnan(t->eval.accuracy))
        printf(" (%.2f%% of answers right, %.2f%% of examples)", 100 * t->eval.accuracy,
               100 * t->eval.accuracy_whole);
    if (t->held_out.n > 0 && t->eval.bits_per_byte > 0)
        printf(" (%.4f bits per byte)", t->eval.bits_per_byte);
    printf("\nthe model is in %s\n", cli_text(t->args, "out"));
}

static int finish(trainer *t, int rc, const krait_error *e) {
    const cli_args *a = t->args;
    cli_progress_clear(&t->bar);
    if (rc == KRAIT_ERR_CANCELLED && interrupted)
        return cli_fail(a,
                        "stopped after step %lld of %lld; the same command with --resume goes on",
                        (long long)t->last.step, (long long)t->last.steps);
    if (rc < 0) return cli_fail(a, "%s", e->message);
    if (!cli_flag(a, "json")) show_end(t);
    return CLI_OK;
}

/* Two tasks, of which the second would win. */
static int check_task(const cli_args *a) {
    int n;
    const char *const *sets = cli_values(a, "set", &n);
    for (int i = 0; cli_given(a, "task") && i < n; i++)
        if (strncmp(sets[i], "task=", 5) == 0)
            return cli_usage(a, "--task and --set %s exclude each other", sets[i]);
    return 0;
}

/* --task NAME is the recipe key "task", set before the keys that it brings. */
static const char **take_sets(const cli_args *a, char *task, size_t size, int *n) {
    const char *const *given = cli_values(a, "set", n);
    const char **sets = cli_alloc((size_t)(*n + 1) * sizeof *sets);
    int used = 0;
    if (cli_given(a, "task")) {
        snprintf(task, size, "task=%s", cli_text(a, "task"));
        sets[used++] = task;
    }
    for (int i = 0; i < *n; i++) sets[used++] = given[i];
    *n = used;
    return sets;
}

static int run(const cli_args *a) {
    krait_train_options o = KRAIT_TRAIN_OPTIONS_INIT;
    trainer t = {.args = a};
    krait_error e;
    int n, n_sets;
    char task[128] = "";
    bool may_be_task = cli_given(a, "task") || cli_given(a, "recipe") || cli_given(a, "set");
    if (cli_need(a, "out") || (!may_be_task && cli_need_text(a)) ||
        cli_exclusive(a, "data", "token-ids") || check_task(a))
        return CLI_USAGE;
    o.recipe = cli_text(a, "recipe");
    o.data_is_ids = cli_given(a, "token-ids");
    o.data = cli_values(a, o.data_is_ids ? "token-ids" : "data", &n);
    o.n_data = n;
    o.out = cli_text(a, "out");
    o.resume = cli_flag(a, "resume");
    o.init_model = cli_text(a, "init");
    const char **sets = take_sets(a, task, sizeof task, &n_sets);
    o.sets = sets;
    o.n_sets = n_sets;
    o.threads = (int)cli_int(a, "threads");
    o.device = cli_text(a, "device");
    o.on_event = on_event;
    o.user = &t;
    catch_signals();
    cli_progress_start(&t.bar, "train");
    int rc = finish(&t, krait_train(&o, &e), &e);
    cli_series_free(&t.loss);
    cli_series_free(&t.held_out);
    free(sets);
    return rc;
}

static const cli_option options[] = {
    {.kind = CLI_TEXT,
     .name = "recipe",
     .letter = 'r',
     .arg = "FILE",
     .help = "A JSON file of the keys below; without one, every key has its default."},
    CLI_OPT_DATA("; with a task, the files that it reads"),
    CLI_OPT_TOKEN_IDS,
    {.kind = CLI_TEXT,
     .name = "task",
     .arg = "NAME",
     .help = "Train on a sequence task (krait task lists them) instead of text; --set takes its "
             "settings too."},
    {.kind = CLI_TEXT,
     .name = "out",
     .letter = 'o',
     .arg = "DIR",
     .help =
         "The folder of the run: the final model, checkpoints/, log.jsonl, TensorBoard events."},
    {.kind = CLI_FLAG, .name = "resume", .help = "Go on from the newest checkpoint in --out."},
    {.kind = CLI_TEXT,
     .name = "init",
     .arg = "M",
     .help = "Start from the weights of this model instead of fresh ones."},
    {.kind = CLI_TEXT,
     .name = "set",
     .letter = 's',
     .arg = "KEY=VALUE",
     .help = "A recipe key, over what the recipe says.",
     .many = true},
    CLI_OPT_DEVICE,
    CLI_OPT_THREADS,
    CLI_OPT_JSON,
    {.kind = CLI_END}};

const cli_command cli_command_train = {
    .name = "train",
    .summary = "Train a model from a recipe and text",
    .synopsis = "--data PATH --out DIR [--recipe FILE] [--set KEY=VALUE ...] [OPTION ...]\n"
                "--task NAME --out DIR [--set KEY=VALUE ...] [OPTION ...]",
    .description = "Trains to the end of the recipe and leaves a model that the other commands, "
                   "and transformers, "
                   "load. What it will take of memory is printed before the first step. "
                   "Interrupted (Ctrl-C, SIGTERM), "
                   "it writes a checkpoint and ends with status 1; with --resume it goes on and "
                   "ends with the same "
                   "bytes as a run that was never stopped.\n\n"
                   "On a terminal a bar shows loss, tokens a second and the time left; elsewhere a "
                   "line appears every "
                   "ten seconds. At the end the loss curve is drawn. With --json every event is an "
                   "object on stdout.",
    .options = options,
    .appendix_title = "RECIPE KEYS               (key, default, meaning)",
    .appendix = krait_recipe_keys,
    .example = "krait train --data /usr/share/common-licenses/GPL-3 --out my-run \\\n"
               "  --set steps=30 --set warmup=5 --set width=64 --set layers=2\n"
               "krait generate --model my-run --prompt \"The \" --tokens 40",
    .most_words = 0,
    .run = run,
};
