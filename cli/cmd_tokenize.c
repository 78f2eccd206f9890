/* cmd_tokenize.c - krait tokenize: text to ids, ids to text, counts, and the training of a
 * vocabulary.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <krait/train.h>
#include "cli.h"
#include "cli_json.h"

/* ---- training -------------------------------------------------------------------------------- */

static int on_progress(void *user, int64_t done, int64_t all) {
    cli_progress_update(user, (double)done, (double)all, "merges", "");
    return 0;
}

static int train(const cli_args *a) {
    krait_bpe_options o = KRAIT_BPE_OPTIONS_INIT;
    cli_progress bar;
    krait_error e;
    if (cli_need(a, "out")) return CLI_USAGE;
    if (a->n_words == 0)
        return cli_usage(a, "--train needs files or folders of text to learn from");
    o.vocabulary = cli_int(a, "vocabulary");
    o.min_frequency = cli_int(a, "min-frequency");
    o.end_token = cli_text(a, "end-token");
    o.on_progress = on_progress;
    o.user = &bar;
    cli_progress_start(&bar, "tokenize");
    int rc = krait_tokenizer_train(a->words, a->n_words, cli_text(a, "out"), &o, &e);
    cli_progress_clear(&bar);
    if (rc < 0) return cli_fail(a, "%s", e.message);
    fprintf(stderr, "%s: written\n", cli_text(a, "out"));
    return CLI_OK;
}

/* ---- encoding and decoding ------------------------------------------------------------------- */

static int64_t encode(const krait_tokenizer *t, const char *text, size_t n, int32_t **ids,
                      krait_error *e) {
    int64_t room = (int64_t)n + 16;
    *ids = cli_alloc((size_t)room * sizeof **ids);
    int64_t count = krait_tokenizer_encode(t, text, n, *ids, room, e);
    if (count <= room) return count;
    *ids = cli_resize(*ids, (size_t)count * sizeof **ids);
    return krait_tokenizer_encode(t, text, n, *ids, count, e);
}

static void print_ids(const cli_args *a, int64_t doc, const int32_t *ids, int64_t n, size_t bytes) {
    if (cli_flag(a, "count") && cli_flag(a, "json")) {
        cli_json(json_pack("{s:I, s:I, s:I}", "doc", (json_int_t)doc, "tokens", (json_int_t)n,
                           "bytes", (json_int_t)bytes));
    } else if (cli_flag(a, "count")) {
        printf("%" PRId64 " tokens, %zu bytes, %.3f bytes a token\n", n, bytes,
               n ? (double)bytes / (double)n : 0.0);
    } else if (cli_flag(a, "json")) {
        cli_json(json_pack("{s:I, s:o}", "doc", (json_int_t)doc, "ids", cli_json_ids(ids, n)));
    } else {
        for (int64_t i = 0; i < n; i++) printf(i ? " %" PRId32 : "%" PRId32, ids[i]);
        putchar('\n');
    }
}

static int encode_documents(const cli_args *a, const krait_tokenizer *t, const cli_documents *d) {
    krait_error e;
    for (int64_t i = 0; i < d->n; i++) {
        int32_t *ids;
        int64_t n = encode(t, d->texts[i], d->lengths[i], &ids, &e);
        if (n >= 0) print_ids(a, i, ids, n, d->lengths[i]);
        free(ids);
        if (n < 0) return cli_fail(a, "%s", e.message);
    }
    return CLI_OK;
}

static int decode_documents(const cli_args *a, const krait_tokenizer *t, const cli_documents *d) {
    krait_error e;
    for (int64_t i = 0; i < d->n; i++) {
        int64_t n = krait_tokenizer_decode(t, d->ids[i], d->counts[i], NULL, 0, &e);
        if (n < 0) return cli_fail(a, "line %" PRId64 ": %s", i + 1, e.message);
        char *text = cli_alloc((size_t)n);
        krait_tokenizer_decode(t, d->ids[i], d->counts[i], text, n, &e);
        if (cli_flag(a, "json")) {
            cli_json(json_pack("{s:I, s:o}", "doc", (json_int_t)i, "text",
                               cli_json_text(text, (size_t)n)));
        } else {
            fwrite(text, 1, (size_t)n, stdout);
            if (d->n > 1) putchar('\n');
        }
        free(text);
    }
    return CLI_OK;
}

/* The whole of a source is one document, or with --lines each of its lines. */
static int read_texts(const cli_args *a, cli_documents *d) {
    krait_error e;
    if (cli_given(a, "text")) {
        cli_add_text(d, cli_text(a, "text"));
        return 0;
    }
    for (int i = 0; i < (a->n_words ? a->n_words : 1); i++) {
        const char *path = a->n_words ? a->words[i] : "-";
        int rc = cli_flag(a, "lines") ? cli_read_lines(d, path, &e) : cli_add_file(d, path, &e);
        if (rc < 0) return cli_fail(a, "%s", e.message);
    }
    return 0;
}

static int read_ids(const cli_args *a, cli_documents *d) {
    krait_error e;
    const char *path = cli_given(a, "token-ids") ? cli_text(a, "token-ids")
                       : a->n_words              ? a->words[0]
                                                 : "-";
    return cli_read_ids(d, path, &e) < 0 ? cli_fail(a, "%s", e.message) : 0;
}

/* Each mode names the options that mean something in it. */
static int check(const cli_args *a) {
    static const char *const training[] = {"out", "vocabulary", "min-frequency", "end-token"};
    static const char *const using[] = {"tokenizer", "text",      "lines", "count",
                                        "decode",    "token-ids", "json"};
    bool train = cli_flag(a, "train"), decode = cli_flag(a, "decode");
    for (size_t i = 0; !train && i < sizeof training / sizeof *training; i++)
        if (cli_given(a, training[i]))
            return cli_usage(a, "--%s has no effect without --train", training[i]);
    for (size_t i = 0; train && i < sizeof using / sizeof *using; i++)
        if (cli_given(a, using[i]))
            return cli_usage(a, "--%s has no effect with --train", using[i]);
    if (cli_exclusive(a, "decode", "count") || cli_exclusive(a, "decode", "text") ||
        cli_exclusive(a, "decode", "lines") || cli_exclusive(a, "text", "lines"))
        return CLI_USAGE;
    if (!decode && cli_given(a, "token-ids"))
        return cli_usage(a, "--token-ids has no effect without --decode");
    if (a->n_words > 0 && (cli_given(a, "text") || cli_given(a, "token-ids")))
        return cli_usage(a, "%s and --%s exclude each other", a->words[0],
                         cli_given(a, "text") ? "text" : "token-ids");
    if (decode && a->n_words > 1) return cli_usage(a, "--decode reads one file");
    return train ? 0 : cli_need(a, "tokenizer");
}

static int run(const cli_args *a) {
    krait_tokenizer *t = NULL;
    cli_documents d = {0};
    krait_error e;
    int rc = check(a);
    if (rc || cli_flag(a, "train")) return rc ? rc : train(a);
    if (krait_tokenizer_open(&t, cli_text(a, "tokenizer"), &e) < 0)
        return cli_fail(a, "%s", e.message);
    if (cli_flag(a, "decode")) {
        rc = read_ids(a, &d);
        if (rc == 0) rc = decode_documents(a, t, &d);
    } else {
        rc = read_texts(a, &d);
        if (rc == 0) rc = encode_documents(a, t, &d);
    }
    cli_documents_free(&d);
    krait_tokenizer_close(&t);
    return rc;
}

static const cli_option options[] = {
    {.kind = CLI_TEXT,
     .name = "tokenizer",
     .letter = 'm',
     .arg = "T",
     .help = "A tokenizer.json, a folder that holds one, or bytes: ids 0 to 255 are the bytes, 256 "
             "ends a "
             "document."},
    {.kind = CLI_TEXT, .name = "text", .arg = "TEXT", .help = "Encode this.", .empty = true},
    {.kind = CLI_FLAG, .name = "lines", .help = "Each line of the input is a document of its own."},
    {.kind = CLI_FLAG, .name = "count", .help = "Print how many tokens and bytes, not the ids."},
    {.kind = CLI_FLAG,
     .name = "decode",
     .help = "The input is decimal ids, a document a line: print text."},
    {.kind = CLI_TEXT, .name = "token-ids", .arg = "FILE", .help = "The ids to decode."},
    {.kind = CLI_FLAG,
     .name = "train",
     .help = "Learn a byte-level BPE vocabulary from the files."},
    {.kind = CLI_TEXT,
     .name = "out",
     .letter = 'o',
     .arg = "FILE",
     .help = "Training: the tokenizer.json to write."},
    {.kind = CLI_INT,
     .name = "vocabulary",
     .arg = "N",
     .value = "4096",
     .least = 257,
     .most = 10000000,
     .help = "Training: tokens in all, the 256 bytes and the end token among them."},
    {.kind = CLI_INT,
     .name = "min-frequency",
     .arg = "N",
     .value = "2",
     .least = 1,
     .most = 1e15,
     .help = "Training: pairs seen less often are not merged."},
    {.kind = CLI_TEXT,
     .name = "end-token",
     .arg = "TEXT",
     .value = "<|endoftext|>",
     .help = "Training: the added token that ends a document, id 0."},
    CLI_OPT_JSON,
    {.kind = CLI_END}};

const cli_command cli_command_tokenize = {
    .name = "tokenize",
    .summary = "Encode, decode and count tokens; train a vocabulary",
    .synopsis = "--tokenizer T [FILE ... | --text TEXT] [--lines] [--count] [--json]\n"
                "--tokenizer T --decode [FILE | --token-ids FILE] [--json]\n"
                "--train --out FILE [--vocabulary N] [OPTION ...] PATH ...",
    .description =
        "Encodes files (standard input when none is named) and prints the ids of each document on "
        "a line, "
        "as --token-ids of the other commands reads them. --decode goes the other way; --count "
        "counts.\n\n"
        "--train learns a byte-level BPE vocabulary from files and folders of text and writes a "
        "tokenizer.json, which Hugging Face's tokenizers reads too.\n\n"
        "With --json: {\"doc\", \"ids\"}, {\"doc\", \"text\"} or {\"doc\", \"tokens\", \"bytes\"} "
        "a line.",
    .options = options,
    .example = "krait tokenize --tokenizer bytes --text \"Hello\"\n"
               "echo '72 101 108 108 111 10' | krait tokenize --tokenizer bytes --decode\n"
               "krait tokenize --train --vocabulary 512 --out my-tokenizer.json \\\n  "
               "/usr/share/common-licenses/GPL-3",
    .most_words = -1,
    .run = run,
};
