/* generate_test.c - each prompt of a batch gives what it gives alone; a run that was cut in two by
 * a state file gives what the whole run gives; text is whole UTF-8; ends, stops and mistakes. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <threads.h>
#include <cmocka.h>
#include <unistd.h>

#include "base/mem.h"
#include "models/test_model.h"

enum { V = 257, N = 9, MOST = 400 };

static krait_model *model;
static const char *const prompts[N] = {"In the beginning",
                                       "",
                                       "a",
                                       "And the earth was without form, and void; and darkness was",
                                       "zyx",
                                       "\xe2\x82\xac and \xf0\x9f\x90\x8d",
                                       "The quick brown fox",
                                       "In the beginning",
                                       "q"};

static int setup(void **state) {
    (void)state;
    return kr_test_model(&model, 40, 2);
}

static int teardown(void **state) {
    (void)state;
    krait_model_close(&model);
    return 0;
}

typedef struct heard {
    int32_t ids[N][MOST];
    int64_t counts[N];
    char *text[N], *streamed[N]; /* may hold zero bytes: a byte model draws them */
    size_t text_length[N], streamed_length[N];
    size_t stop_after; /* bytes of stream, then stop; 0: never */
    size_t bytes;
} heard;

static int on_text(void *user, int64_t index, const char *text, size_t length) {
    heard *h = user;
    size_t old = h->streamed_length[index];
    h->streamed[index] = realloc(h->streamed[index], old + length + 1);
    memcpy(h->streamed[index] + old, text, length);
    h->streamed_length[index] = old + length;
    h->bytes += length;
    assert_true(length > 0 && ((unsigned char)text[0] & 0xc0) != 0x80); /* begins a character */
    return h->stop_after && h->bytes >= h->stop_after;
}

static int on_done(void *user, int64_t index, const int32_t *ids, int64_t count, const char *text,
                   size_t length) {
    heard *h = user;
    assert_true(count <= MOST && h->text[index] == NULL && text[length] == 0);
    memcpy(h->ids[index], ids, (size_t)count * sizeof *ids);
    h->counts[index] = count;
    h->text[index] = malloc(length + 1);
    memcpy(h->text[index], text, length + 1);
    h->text_length[index] = length;
    return 0;
}

static void same_text(const heard *a, int i, const heard *b, int j) {
    assert_int_equal(a->text_length[i], b->text_length[j]);
    assert_memory_equal(a->text[i], b->text[j], a->text_length[i]);
}

static void forget(heard *h) {
    for (int i = 0; i < N; i++) {
        free(h->text[i]);
        free(h->streamed[i]);
    }
    *h = (heard){0};
}

static krait_generate_options options(heard *h, int64_t tokens) {
    krait_generate_options o = KRAIT_GENERATE_OPTIONS_INIT;
    o.tokens = tokens;
    o.user = h;
    o.on_done = on_done;
    o.sampler.temperature = 0;
    return o;
}

static void generate(const char *const *texts, int64_t n, const krait_generate_options *o) {
    krait_error e;
    if (krait_generate(model, texts, n, o, NULL, &e) < 0) fail_msg("%s", e.message);
}

/* Prompt i by itself, with the seed that it has as one of several. */
static void alone(int i, krait_generate_options o, heard *h) {
    o.user = h;
    o.sampler.seed += (uint64_t)i;
    generate(&prompts[i], 1, &o);
}

static void batch_equals_each_alone(double temperature) {
    static const int64_t lanes[] = {1, 2, 4, 32}, chunks[] = {512, 3, 16, 64};
    static heard batch, single;
    int64_t distinct = 0;
    for (size_t k = 0; k < sizeof lanes / sizeof *lanes; k++) {
        krait_generate_options o = options(&batch, 60);
        o.lanes = lanes[k];
        o.max_tokens = chunks[k];
        o.sampler.temperature = temperature;
        o.sampler.seed = 100;
        generate(prompts, N, &o);
        for (int i = 0; i < N; i++) {
            o.lanes = 32;
            o.max_tokens = 512;
            alone(i, o, &single);
            assert_int_equal(batch.counts[i], single.counts[0]);
            assert_memory_equal(batch.ids[i], single.ids[0], (size_t)batch.counts[i] * 4);
            same_text(&batch, i, &single, 0);
            distinct += i > 0 && batch.ids[i][1] != batch.ids[0][1];
            forget(&single);
        }
        forget(&batch);
    }
    printf("temperature %.1f: %d prompts with 1, 2, 4 and 32 lanes: each as alone\n", temperature,
           N);
    assert_true(distinct >= 4 * (N - 2));
}

static void greedy_batch(void **state) {
    (void)state;
    batch_equals_each_alone(0);
}

static void sampled_batch(void **state) {
    (void)state;
    batch_equals_each_alone(0.9);
}

/* ---- state files ---- */

static void resumed_equals_uninterrupted(void **state) {
    (void)state;
    static heard whole, part;
    char path[64];
    snprintf(path, sizeof path, "/tmp/krait-generate-%ld", (long)getpid());
    krait_generate_options o = options(&whole, 60);
    o.ignore_end = 1;
    generate(&prompts[3], 1, &o);
    static const int64_t cuts[] = {0, 1, 17, 59};
    for (size_t k = 0; k < sizeof cuts / sizeof *cuts; k++) {
        o = options(&part, cuts[k]);
        o.ignore_end = 1;
        o.state_out = path;
        generate(&prompts[3], 1, &o);
        assert_memory_equal(part.ids[0], whole.ids[0], (size_t)cuts[k] * 4);
        forget(&part);
        o = options(&part, 60 - cuts[k]);
        o.ignore_end = 1;
        o.state_in = path;
        o.state_out = path;
        generate((const char *[]){""}, 1, &o);
        assert_memory_equal(part.ids[0], whole.ids[0] + cuts[k], (size_t)(60 - cuts[k]) * 4);
        forget(&part);
    }
    /* A prompt after a state is what it is after the text. */
    krait_error e;
    o = options(&part, 0);
    o.state_out = path;
    generate((const char *[]){"And the earth was"}, 1, &o);
    forget(&part);
    o = options(&part, 60);
    o.ignore_end = 1;
    o.state_in = path;
    generate((const char *[]){" without form, and void; and darkness was"}, 1, &o);
    same_text(&part, 0, &whole, 0);
    assert_int_equal(truncate(path, 64), 0);
    assert_int_equal(krait_generate(model, prompts, 1, &o, NULL, &e), KRAIT_ERR_FORMAT);
    printf("cut at 0, 1, 17 and 59 of 60 tokens, and within the prompt: the same tokens\n%s\n",
           e.message);
    forget(&whole);
    forget(&part);
    unlink(path);
}

/* ---- ends, streams, ids ---- */

static void the_end_token_ends(void **state) {
    (void)state;
    static heard on, off;
    krait_generate_options o = options(&on, MOST);
    o.sampler = (krait_sampler_options){sizeof o.sampler, 3, 0, 1, 0, 1, 5};
    o.ignore_end = 1;
    generate(prompts, N, &o);
    o.ignore_end = 0;
    o.user = &off;
    generate(prompts, N, &o);
    int ended = 0;
    for (int i = 0; i < N; i++) {
        int64_t end = 0;
        while (end < on.counts[i] && on.ids[i][end] != 256) end++;
        assert_int_equal(on.counts[i], MOST);
        assert_int_equal(off.counts[i], end);
        assert_memory_equal(off.ids[i], on.ids[i], (size_t)end * 4);
        ended += end < MOST;
    }
    printf("%d of %d texts met the end token\n", ended, N);
    assert_true(ended > 2);
    forget(&on);
    forget(&off);
}

/* A hot sampler of bytes makes much that is no UTF-8: what is streamed is whole, and adds up to the
 * text. */
static void streams_whole_characters(void **state) {
    (void)state;
    static heard h;
    krait_error e;
    krait_generate_options o = options(&h, 300);
    o.sampler = (krait_sampler_options){sizeof o.sampler, 5, 0, 1, 0, 1, 5};
    o.ignore_end = 1;
    o.on_text = on_text;
    generate(prompts, N, &o);
    for (int i = 0; i < N; i++) {
        size_t n = h.text_length[i];
        assert_int_equal(h.streamed_length[i], n);
        assert_memory_equal(h.streamed[i], h.text[i], n);
        assert_int_equal(krait_utf8_complete(h.text[i], n), n);
        assert_non_null(memmem(h.text[i], n, "\xef\xbf\xbd", 3));
    }
    forget(&h);
    h.stop_after = 100;
    o.on_done = NULL;
    assert_int_equal(krait_generate(model, prompts, N, &o, NULL, &e), KRAIT_ERR_CANCELLED);
    printf("stopped after %zu bytes\n", h.bytes);
    assert_in_range(h.bytes, 100, 110);
    forget(&h);
}

static void ids_are_prompts_too(void **state) {
    (void)state;
    static heard texts, numbers;
    int32_t ids[100];
    krait_error e;
    const krait_tokenizer *t = krait_model_tokenizer(model);
    int64_t n = krait_tokenizer_encode(t, prompts[0], strlen(prompts[0]), ids, 100, &e);
    krait_generate_options o = options(&texts, 30);
    generate(prompts, 1, &o);
    o.user = &numbers;
    o.ids = (const int32_t *const[]){ids};
    o.counts = &n;
    generate(NULL, 1, &o);
    same_text(&texts, 0, &numbers, 0);
    ids[2] = V;
    assert_int_equal(krait_generate(model, NULL, 1, &o, NULL, &e), KRAIT_ERR_ARGUMENT);
    printf("%s\n", e.message);
    forget(&texts);
    forget(&numbers);
}

static void statistics_and_mistakes(void **state) {
    (void)state;
    static heard h;
    krait_error e;
    krait_generate_stats stats;
    krait_generate_options o = options(&h, 10);
    o.ignore_end = 1;
    assert_int_equal(krait_generate(model, prompts, 3, &o, &stats, &e), 0);
    assert_int_equal(stats.prompt_tokens, 16 + 1 + 1); /* the empty one begins with the end token */
    assert_int_equal(stats.new_tokens, 30);
    forget(&h);
    assert_int_equal(krait_generate(model, NULL, 0, &o, NULL, &e), 0);
    o.state_out = "/tmp/never-written";
    assert_int_equal(krait_generate(model, prompts, 2, &o, NULL, &e), KRAIT_ERR_ARGUMENT);
    o.state_out = "/nonexistent/state";
    assert_int_equal(krait_generate(model, prompts, 1, &o, NULL, &e), KRAIT_ERR_IO);
    printf("%s\n", e.message);
    o = options(&h, -1);
    assert_int_equal(krait_generate(model, prompts, 1, &o, NULL, &e), KRAIT_ERR_ARGUMENT);
    o = options(&h, 1);
    o.sampler.top_p = 0;
    assert_int_equal(krait_generate(model, prompts, 1, &o, NULL, &e), KRAIT_ERR_ARGUMENT);
    o = options(&h, 1);
    assert_int_equal(krait_generate(NULL, prompts, 1, &o, NULL, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_generate(model, (const char *[]){NULL}, 1, &o, NULL, &e),
                     KRAIT_ERR_ARGUMENT);
    printf("%s\n", e.message);
    o.ids = (const int32_t *const[]){NULL};
    o.counts = (const int64_t[]){1};
    assert_int_equal(krait_generate(model, NULL, 1, &o, NULL, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_sampler_draw(NULL, NULL, &e), KRAIT_ERR_ARGUMENT);
    forget(&h);
}

/* ---- one model, several threads -------------------------------------------------------------- */

enum { THREADS = 4 };

static int generate_alone(void *user) {
    krait_generate_options o = options(user, 60);
    o.sampler.temperature = 1;
    o.threads = 2;
    return krait_generate(model, prompts, N, &o, NULL, NULL);
}

/* Each with a session, an encoder and samplers of its own, all with the same model: what one alone
 * gives. */
static void threads_share_a_model(void **state) {
    (void)state;
    static heard alone, shared[THREADS];
    thrd_t threads[THREADS];
    assert_int_equal(generate_alone(&alone), 0);
    for (int k = 0; k < THREADS; k++)
        assert_int_equal(thrd_create(&threads[k], generate_alone, &shared[k]), thrd_success);
    for (int k = 0; k < THREADS; k++) {
        int rc;
        assert_int_equal(thrd_join(threads[k], &rc), thrd_success);
        assert_int_equal(rc, 0);
    }
    for (int k = 0; k < THREADS; k++)
        for (int i = 0; i < N; i++) same_text(&shared[k], i, &alone, i);
    printf("%d threads, %d prompts each: the texts of one alone\n", THREADS, N);
    for (int k = 0; k < THREADS; k++) forget(&shared[k]);
    forget(&alone);
}

static void memory_fails(void **state) {
    (void)state;
    static heard h;
    krait_error e;
    int64_t n = 1;
    for (;; n++) {
        krait_generate_options o = options(&h, 20);
        o.lanes = 2;
        kr_mem_fail_after(n);
        int rc = krait_generate(model, prompts, 3, &o, NULL, &e);
        kr_mem_fail_after(0);
        forget(&h);
        if (rc == 0) break;
        assert_int_equal(rc, KRAIT_ERR_MEMORY);
    }
    printf("each of %lld allocations failed once\n", (long long)n - 1);
    assert_true(n > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_batch),
        cmocka_unit_test(sampled_batch),
        cmocka_unit_test(resumed_equals_uninterrupted),
        cmocka_unit_test(the_end_token_ends),
        cmocka_unit_test(streams_whole_characters),
        cmocka_unit_test(ids_are_prompts_too),
        cmocka_unit_test(statistics_and_mistakes),
        cmocka_unit_test(threads_share_a_model),
        cmocka_unit_test(memory_fails),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
