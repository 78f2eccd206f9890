/* evaluate_test.c - documents together equal documents alone and one long run; tasks against values
 * by hand. */
#define _DEFAULT_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/test_folder.h"
#include "train/eval_lanes.h"

enum { DOCS = 24 };
static char folder[64];
static char paths[DOCS][128];
static const char *list[DOCS];
static int64_t sizes[DOCS];
static krait_model *model, *uniform;

static unsigned char byte_of(int doc, int64_t i) {
    return (unsigned char)(32 + kr_hash_string((char[]){(char)(doc + 1), (char)(i % 97 + 1),
                                                        (char)(i / 97 % 120 + 1), 0}) %
                                    90);
}

static int write_documents(void) {
    for (int d = 0; d < DOCS; d++) {
        sizes[d] = d == 3 ? 3000 : d == 5 ? 1 : 2 + 37 * d;
        snprintf(paths[d], sizeof paths[d], "%s/doc-%02d.txt", folder, d);
        list[d] = paths[d];
        FILE *f = fopen(paths[d], "wb");
        if (!f) return -1;
        for (int64_t i = 0; i < sizes[d]; i++) fputc(byte_of(d, i), f);
        fclose(f);
    }
    return 0;
}

static krait_model *make_model(bool even) {
    kr_config c;
    kr_weights w = {0};
    krait_tokenizer *t;
    krait_model *m;
    krait_error e = {0};
    assert_int_equal(kr_config_make(&c, "mamba1", 24, 2, 264, NULL, NULL), 0);
    c.vocabulary_used = 257;
    assert_int_equal(krait_tokenizer_open(&t, "bytes", &e), 0);
    assert_int_equal(kr_lm_init_weights(&c, 3, &w, &e), 0);
    kr_weights_sort(&w);
    if (even) { /* the norm in front of the head gives zeros, so every id has probability 1/264 */
        const kr_tensor *norm = kr_weights_find(&w, "backbone.norm_f.weight");
        memset(norm->data, 0, kr_tensor_bytes(norm));
    }
    assert_int_equal(kr_model_from_weights(&m, &c, &w, t, &e), 0);
    return m;
}

static krait_eval_result evaluate(const krait_eval_options *o) {
    krait_eval_result r;
    krait_error e = {0};
    if (krait_eval(model, o, &r, &e) < 0) fail_msg("%s", e.message);
    return r;
}

/* The losses of a whole document in one run, the state beginning anew every `context` tokens. */
static double by_hand(int d, int64_t context, double *losses) {
    kr_scorer s;
    krait_error e = {0};
    double sum = 0;
    int64_t n = sizes[d] - 1;
    kr_scorer_options o = {.graph.threads = 1, .tokens = n, .lanes = 1};
    assert_int_equal(kr_device_level(&o.graph.level, &e), 0);
    assert_int_equal(kr_scorer_create(&s, &model->config, &model->weights, &o, &e), 0);
    assert_int_equal(kr_scorer_allocate(&s, NULL, &e), 0);
    for (int64_t i = 0; i < n; i++) {
        s.ids[i] = byte_of(d, i);
        s.targets[i] = byte_of(d, i + 1);
        s.reset[i] = context && i % context == 0;
    }
    s.seqs[0] = 0;
    s.seqs[1] = n;
    s.seqs[2] = 0;
    assert_int_equal(kr_scorer_run(&s, n, 1, &e), 0);
    for (int64_t i = 0; i < n; i++) sum += (losses[i + 1] = (double)kr_scorer_nll(&s)[i]);
    kr_scorer_free(&s);
    return sum;
}

static double expected[DOCS][4096], worst;
static int64_t seen, last_doc, next_position[DOCS];

static int check_token(void *user, int64_t doc, int64_t pos, int32_t id, double logprob) {
    (void)user;
    assert_true(doc < DOCS && pos == ++next_position[doc] && pos < sizes[doc]);
    assert_true(doc >= last_doc); /* though they are read side by side */
    last_doc = doc;
    assert_int_equal(id, byte_of((int)doc, pos));
    worst = fmax(worst, fabs(logprob + expected[doc][pos]));
    seen++;
    return 0;
}

static void compare(int64_t context) {
    krait_eval_options o = KRAIT_EVAL_OPTIONS_INIT;
    double sum = 0;
    int64_t tokens = 0;
    o.data = list;
    o.n_data = DOCS;
    o.context = context;
    o.on_token = check_token;
    o.threads = 2;
    worst = 0;
    seen = last_doc = 0;
    memset(next_position, 0, sizeof next_position);
    for (int d = 0; d < DOCS; d++) {
        if (sizes[d] > 1) sum += by_hand(d, context, expected[d]);
        tokens += sizes[d] - 1;
    }
    krait_eval_result r = evaluate(&o);
    print_message("  %lld tokens, loss %.6f, by hand %.6f; a token differs by %.2g at most\n",
                  (long long)r.tokens, r.loss, sum / (double)tokens, worst);
    assert_true(r.tokens == tokens && seen == tokens && r.bytes == tokens);
    assert_true(worst <= 1e-5);
    assert_true(fabs(r.loss - sum / (double)tokens) <= 1e-6);
    assert_true(fabs(r.bits_per_byte * log(2) - r.loss) < 1e-12);
    assert_true(fabs(log(r.perplexity) - r.loss) < 1e-12);
}

static void together_equals_alone(void **state) {
    (void)state;
    compare(0);
}

static void windows_begin_anew(void **state) {
    (void)state;
    compare(50);
}

static void loss_by_position(void **state) {
    (void)state;
    krait_eval_options o = KRAIT_EVAL_OPTIONS_INIT;
    o.data = &list[3];
    o.n_data = 1;
    krait_eval_result r = evaluate(&o);
    int64_t counted = 0;
    double sum = 0, bucket = 0;
    by_hand(3, 0, expected[3]);
    for (int i = 64; i < 128; i++) bucket += expected[3][i] / 64;
    for (int i = 0; i < KRAIT_EVAL_POSITIONS; i++) {
        int64_t first = (int64_t)1 << i, after = 2 * first;
        int64_t all = (after < 3000 ? after : 3000) - first;
        assert_int_equal(r.position_count[i], all > 0 ? all : 0);
        counted += r.position_count[i];
        sum += r.position_loss[i] * (double)r.position_count[i];
    }
    print_message("  positions 64 to 127: %.6f, by hand %.6f\n", r.position_loss[6], bucket);
    assert_true(counted == 2999 && fabs(sum / 2999 - r.loss) < 1e-9);
    assert_true(fabs(r.position_loss[6] - bucket) < 1e-5);
}

static int stop_at_once(void *user, int64_t doc, int64_t pos, int32_t id, double logprob) {
    (void)doc, (void)pos, (void)id, (void)logprob;
    ++*(int *)user;
    return 1;
}

static void stops(void **state) {
    (void)state;
    krait_eval_options o = KRAIT_EVAL_OPTIONS_INIT;
    krait_eval_result r;
    krait_error e = {0};
    int calls = 0;
    o.data = list;
    o.n_data = DOCS;
    o.max_tokens = 700;
    assert_int_equal(evaluate(&o).tokens, 700);
    o.on_token =
        check_token; /* the first 700 of the data, though documents are read side by side */
    worst = 0;
    seen = last_doc = 0;
    memset(next_position, 0, sizeof next_position);
    krait_eval_result first = evaluate(&o);
    int64_t whole = 0, doc = 0;
    while (whole + sizes[doc] - 1 <= 700) whole += sizes[doc++] - 1;
    print_message("  %lld documents whole, then %lld tokens of the next\n", (long long)doc,
                  (long long)(700 - whole));
    assert_true(seen == 700 && first.tokens == 700 && last_doc == doc);
    assert_int_equal(next_position[doc], 700 - whole);
    o.on_token = stop_at_once;
    o.user = &calls;
    assert_int_equal(krait_eval(model, &o, &r, &e), KRAIT_ERR_CANCELLED);
    assert_int_equal(calls, 1);
}

static void write_text(const char *name, const char *text, char path[128]) {
    snprintf(path, 128, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void lambada(void **state) {
    (void)state;
    char path[128];
    const char *paths1[] = {path};
    krait_eval_options o = KRAIT_EVAL_OPTIONS_INIT;
    krait_eval_result r;
    krait_error e = {0};
    write_text("questions.jsonl",
               "{\"text\": \"the cat sat on the mat\"}\n"
               "{\"text\": \"a longer passage that ends in window \\n\"}\n"
               "{\"text\": \"x  y\"}\n",
               path);
    o.data = paths1;
    o.n_data = 1;
    o.task = "lambada";
    if (krait_eval(uniform, &o, &r, &e) < 0) fail_msg("%s", e.message);
    /* " mat", " window", "  y": 4, 7 and 3 tokens of probability 1/264, none of them likelier than
     * the others */
    double by_hand_perplexity = pow(264, 14.0 / 3);
    print_message("  accuracy %.2f, perplexity %.6g, by hand %.6g\n", r.accuracy, r.task_perplexity,
                  by_hand_perplexity);
    assert_true(r.questions == 3 && r.tokens == 14 && r.accuracy == 0);
    assert_true(fabs(r.task_perplexity / by_hand_perplexity - 1) < 1e-5);
    assert_int_equal(krait_eval(model, &o, &r, &e), 0);
    assert_true(r.questions == 3 && r.accuracy == 0); /* a model that was never trained */
    o.max_tokens = 5;
    assert_int_equal(krait_eval(model, &o, &r, &e), 0);
    assert_true(r.questions == 2 && r.tokens == 11);
}

static void refuses(const char *data, const char *task, const char *part) {
    krait_eval_options o = KRAIT_EVAL_OPTIONS_INIT;
    krait_eval_result r;
    krait_error e = {0};
    o.data = &data;
    o.n_data = 1;
    o.task = task;
    assert_true(krait_eval(model, &o, &r, &e) < 0);
    print_message("  %s\n", e.message);
    assert_non_null(strstr(e.message, part));
}

static void refuses_what_is_wrong(void **state) {
    (void)state;
    char path[128];
    refuses(paths[0], "chess", "there are: lambada");
    refuses("/tmp/krait-not-there", NULL, "/tmp/krait-not-there");
    refuses(paths[5], NULL, "no document has a second token");
    write_text("one.jsonl", "{\"text\": \"word\"}\n", path);
    refuses(path, "lambada", "several words");
    write_text("one.txt", "a text of several words\n", path);
    refuses(path, "lambada", ".jsonl");
}

static int set_up(void **state) {
    (void)state;
    if (kr_test_folder_make(folder) < 0 || write_documents() < 0) return -1;
    model = make_model(false);
    uniform = make_model(true);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    krait_model_close(&model);
    krait_model_close(&uniform);
    return kr_test_folder_drop(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(together_equals_alone),
        cmocka_unit_test(windows_begin_anew),
        cmocka_unit_test(loss_by_position),
        cmocka_unit_test(stops),
        cmocka_unit_test(lambada),
        cmocka_unit_test(refuses_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
