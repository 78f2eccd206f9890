/* tokenizer_test.c - tokenizers against ids made with Hugging Face's library, and damaged input. */
#define _DEFAULT_SOURCE
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <krait/train.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/test_folder.h"
#include "data/tokenizer/nfc.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/word_count.h"

static char folder[64];

static krait_tokenizer *open_tokenizer(const char *path) {
    krait_tokenizer *t;
    krait_error e;
    if (krait_tokenizer_open(&t, path, &e) < 0) fail_msg("%s", e.message);
    return t;
}

static kr_ids encode(const krait_tokenizer *t, const char *text, size_t size) {
    kr_encoder *x;
    kr_ids ids = {0};
    krait_error e;
    if (kr_encoder_open(&x, t, size, &e) < 0 || kr_encoder_run(x, text, size, &ids, &e) < 0)
        fail_msg("%s", e.message);
    kr_encoder_close(&x);
    return ids;
}

/* Encodes, compares with decoding; the caller frees the ids. */
static kr_ids round_trip(const krait_tokenizer *t, const char *text, size_t size) {
    kr_ids ids = encode(t, text, size);
    krait_error e;
    int64_t n = krait_tokenizer_decode(t, ids.data, (int64_t)ids.count, NULL, 0, &e);
    assert_int_equal(n, size);
    char *back = malloc(size + 1);
    krait_tokenizer_decode(t, ids.data, (int64_t)ids.count, back, n, &e);
    assert_memory_equal(back, text, size);
    free(back);
    return ids;
}

static const char *data_path(const char *name) {
    static char path[512];
    const char *from = getenv("KRAIT_DATA");
    snprintf(path, sizeof path, "%s/%s", from ? from : KR_SOURCE_DIR "/../shared/data", name);
    return path;
}

static void bytes(void **state) {
    (void)state;
    krait_tokenizer *t = open_tokenizer("bytes");
    char all[256];
    for (int i = 0; i < 256; i++) all[i] = (char)i;
    kr_ids ids = round_trip(t, all, 256);
    for (int i = 0; i < 256; i++) assert_int_equal(ids.data[i], i);
    assert_int_equal(krait_tokenizer_end(t), 256);
    assert_int_equal(krait_tokenizer_vocabulary(t), 257);
    int32_t few[4] = {0}, outside[1] = {257};
    krait_error e;
    assert_int_equal(krait_tokenizer_encode(t, "abcdef", 6, few, 4, &e), 6);
    assert_int_equal(few[3], 'd');
    char text[4];
    assert_int_equal(krait_tokenizer_decode(t, few, 4, text, 2, &e), 4);
    assert_memory_equal(text, "ab", 2);
    assert_int_equal(krait_tokenizer_decode(t, outside, 1, NULL, 0, &e), KRAIT_ERR_ARGUMENT);
    kr_ids_free(&ids);
    krait_tokenizer_close(&t);
    assert_null(t);
}

static void complete_utf8(void **state) {
    (void)state;
    const char *text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80";
    const size_t expected[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10};
    for (size_t n = 0; n <= 10; n++) assert_int_equal(krait_utf8_complete(text, n), expected[n]);
    assert_int_equal(krait_utf8_complete("\xFF", 1), 1);
    assert_int_equal(krait_utf8_complete("a\x80\x80\x80\x80", 5), 5);
}

/* One file of vectors: 47 texts between separator lines, and a line of ids for each. */
static void check_vectors(const char *tokenizer, const char *name) {
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char file[200];
    kr_map in, out;
    krait_error e;
    snprintf(file, sizeof file, "tokenizers/vectors/ggml-vocab-%s.gguf.inp", name);
    if (kr_map_open(&in, data_path(file), &e) < 0) {
        print_message("skipped: no data (%s)\n", name);
        skip();
    }
    snprintf(file, sizeof file, "tokenizers/vectors/ggml-vocab-%s.gguf.out", name);
    assert_int_equal(kr_map_open(&out, data_path(file), &e), 0);
    krait_tokenizer *t = open_tokenizer(data_path(tokenizer));
    char *texts = kr_strndup((const char *)in.data, in.size);
    char *lines = kr_strndup((const char *)out.data, out.size), *line = lines;
    int count = 0;
    for (char *text = texts, *next; text; text = next, count++) {
        next = strstr(text, separator);
        if (next) *next = 0;
        kr_ids ids = round_trip(t, text, strlen(text));
        char *line_end = strchr(line, '\n');
        if (line_end) *line_end = 0;
        for (size_t i = 0; i < ids.count; i++)
            assert_int_equal(strtol(line, &line, 10), ids.data[i]);
        assert_int_equal(strspn(line, " "), strlen(line));
        line = line_end ? line_end + 1 : line;
        kr_ids_free(&ids);
        if (next) next += sizeof separator - 1;
    }
    print_message("%s: %d of %d vectors equal\n", name, count, count);
    assert_int_equal(count, 47);
    krait_tokenizer_close(&t);
    kr_free(texts);
    kr_free(lines);
    kr_map_close(&in);
    kr_map_close(&out);
}

static void vectors_neox(void **state) {
    (void)state;
    check_vectors("tokenizers/gpt-neox-20b/tokenizer.json", "mpt");
}

static void vectors_gpt2(void **state) {
    (void)state;
    check_vectors("tokenizers/gpt2", "gpt-2");
}

#define FIXTURE(name) KR_TEST_DATA "/tokenizer/" name

/* ids of samples.jsonl under `key`, against ours. */
static void check_samples(const char *tokenizer, const char *key) {
    krait_tokenizer *t = open_tokenizer(tokenizer);
    FILE *f = fopen(FIXTURE("samples.jsonl"), "rb");
    assert_non_null(f);
    static char line[1 << 16];
    int samples = 0;
    int64_t total = 0;
    while (fgets(line, sizeof line, f)) {
        json_t *sample = json_loads(line, 0, NULL);
        const json_t *text = json_object_get(sample, "text"), *want = json_object_get(sample, key);
        assert_true(json_is_string(text) && json_is_array(want));
        kr_ids ids = encode(t, json_string_value(text), json_string_length(text));
        assert_int_equal(ids.count, json_array_size(want));
        for (size_t i = 0; i < ids.count; i++)
            assert_int_equal(ids.data[i], json_integer_value(json_array_get(want, i)));
        total += (int64_t)ids.count;
        samples++;
        kr_ids_free(&ids);
        json_decref(sample);
    }
    fclose(f);
    print_message("%s: %d samples, %lld ids equal\n", key, samples, (long long)total);
    assert_int_equal(samples, 192);
    krait_tokenizer_close(&t);
}

static void samples_plain(void **state) {
    (void)state;
    check_samples(FIXTURE("tokenizer.json"), "plain");
}

static void samples_variant(void **state) {
    (void)state;
    check_samples(FIXTURE("variant.json"), "variant");
}

static void training(void **state) {
    (void)state;
    const char *data[1] = {FIXTURE("corpus.txt")};
    krait_bpe_options o = KRAIT_BPE_OPTIONS_INIT;
    krait_error e;
    o.vocabulary = 512;
    assert_int_equal(krait_tokenizer_train(data, 1, kr_test_path(folder, "learned.json"), &o, &e),
                     0);
    assert_true(
        kr_test_same_files(kr_test_path(folder, "learned.json"), FIXTURE("tokenizer.json")));
    o.vocabulary = 100;
    assert_int_equal(krait_tokenizer_train(data, 1, kr_test_path(folder, "no.json"), &o, &e),
                     KRAIT_ERR_ARGUMENT);
    o.vocabulary = 300;
    data[0] = "/nowhere.txt";
    assert_int_equal(krait_tokenizer_train(data, 1, kr_test_path(folder, "no.json"), &o, &e),
                     KRAIT_ERR_IO);
    assert_false(kr_is_file(kr_test_path(folder, "no.json")));
}

/* Text that spells the end token must not become it, and merges may meet in one string. */
static void training_on_odd_text(void **state) {
    (void)state;
    FILE *f = fopen(kr_test_path(folder, "odd.txt"), "wb");
    for (int i = 0; i < 50; i++) fputs("<|end|> abcabc abc bcbc aaaa aaaaaaa \xFF\xFE z\xC3\n", f);
    fclose(f);
    const char *data[1] = {kr_test_path(folder, "odd.txt")};
    krait_bpe_options o = KRAIT_BPE_OPTIONS_INIT;
    krait_error e;
    o.vocabulary = 600;
    o.end_token = "abc";
    char path[256];
    snprintf(path, sizeof path, "%s", kr_test_path(folder, "odd.json"));
    if (krait_tokenizer_train(data, 1, path, &o, &e) < 0) fail_msg("%s", e.message);
    krait_tokenizer *t = open_tokenizer(path);
    assert_int_equal(krait_tokenizer_end(t), 0);
    kr_ids ids = round_trip(t, "bcbc aaaa \xFF z", 13);
    assert_true(ids.count < 10);
    kr_ids_free(&ids);
    krait_tokenizer_close(&t);
}

static void words_are_counted_in_bounds(void **state) {
    (void)state;
    kr_word_count w;
    kr_word *k;
    krait_error e;
    char word[32];
    assert_int_equal(kr_word_count_make(&w, 1000, 0, &e), 0);
    for (int i = 0; i < 20000; i++) { /* every fourth word is one of ten */
        int n = snprintf(word, sizeof word, i % 4 ? "rare%d" : "often%d", i % 4 ? i : i / 4 % 10);
        assert_int_equal(kr_word_count_get(&w, word, (size_t)n, &k, &e), 0);
        k->count++;
        assert_true(w.count <= 1000);
    }
    for (int i = 0; i < 10; i++) {
        int n = snprintf(word, sizeof word, "often%d", i);
        assert_int_equal(kr_word_count_get(&w, word, (size_t)n, &k, &e), 0);
        assert_int_equal(k->count, 500);
    }
    kr_word_count_free(&w);
}

static void foreign_bytes(void **state) {
    (void)state;
    static const char *const tokenizers[] = {FIXTURE("tokenizer.json"), "bytes"};
    unsigned seed = 1;
    for (int k = 0; k < 2; k++) {
        krait_tokenizer *t = open_tokenizer(tokenizers[k]);
        char text[300];
        for (int round = 0; round < 200; round++) {
            for (size_t i = 0; i < sizeof text; i++) {
                seed = seed * 1664525u + 1013904223u;
                text[i] = (char)(seed >> 24 & (round % 2 ? 0xFF : 0xDF));
            }
            kr_ids ids = round_trip(t, text, sizeof text);
            kr_ids_free(&ids);
        }
        krait_tokenizer_close(&t);
    }
}

/* What takes n log n steps for one word takes a day when it is quadratic. */
static void long_words(void **state) {
    (void)state;
    krait_tokenizer *t = open_tokenizer(FIXTURE("tokenizer.json"));
    static char text[4][1 << 20];
    memset(text[0], 'a', sizeof text[0]);
    memset(text[1], ' ', sizeof text[1]);
    for (size_t i = 0; i < sizeof text[2]; i++) {
        text[2][i] = "returnsize"[i % 10];
        text[3][i] = (i & 1) ? '\n' : ' ';
    }
    for (int k = 0; k < 4; k++) {
        clock_t start = clock();
        kr_ids ids = round_trip(t, text[k], sizeof text[k]);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        print_message("a word of 1 MiB: %zu ids, %.2f s\n", ids.count, seconds);
        assert_true(seconds < 20);
        kr_ids_free(&ids);
    }
    krait_tokenizer_close(&t);
    kr_nfc n = {0}; /* marks in the wrong order, as many as there is room for */
    krait_error e;
    const char *out;
    size_t size;
    for (size_t i = 0; i + 4 <= sizeof text[0]; i += 4) memcpy(text[0] + i, "\xCC\x81\xCC\xA3", 4);
    clock_t start = clock();
    assert_int_equal(kr_nfc_run(&n, text[0], sizeof text[0], &out, &size, &e), 0);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 20);
    assert_int_equal(size, sizeof text[0]);
    assert_memory_equal(out, "\xCC\xA3\xCC\xA3", 4);
    kr_nfc_free(&n);
}

static void normal_form(void **state) {
    (void)state;
    static const char *const pairs[][2] = {
        {"plain", "plain"},
        {"cafe\xCC\x81!", "caf\xC3\xA9!"},
        {"\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81"}, /* Hangul */
        {"\xEA\xB0\x80\xE1\x86\xA7", "\xEA\xB0\x80\xE1\x86\xA7"}, /* U+11A7 stays */
        {"\xE2\x84\xAB", "\xC3\x85"},                             /* Angstrom sign */
        {"a\xCC\xA3\xCC\x82", "\xE1\xBA\xAD"},                    /* two marks */
        {"e\xCC\x82 e\xCC\x82", "\xC3\xAA \xC3\xAA"},
    };
    kr_nfc n = {0};
    krait_error e;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const char *out;
        size_t size;
        assert_int_equal(kr_nfc_run(&n, pairs[i][0], strlen(pairs[i][0]), &out, &size, &e), 0);
        assert_int_equal(size, strlen(pairs[i][1]));
        assert_memory_equal(out, pairs[i][1], size);
    }
    kr_nfc_free(&n);
}

/* Saved tokenizers open again with the same ids. */
static void saving(void **state) {
    (void)state;
    static const char *const from[] = {"bytes", FIXTURE("variant.json")};
    krait_error e;
    for (int k = 0; k < 2; k++) {
        char path[256];
        snprintf(path, sizeof path, "%s", kr_test_path(folder, "saved.json"));
        krait_tokenizer *t = open_tokenizer(from[k]), *again;
        if (kr_tokenizer_save(t, path, &e) < 0) fail_msg("%s", e.message);
        again = open_tokenizer(path);
        assert_int_equal(krait_tokenizer_end(t), krait_tokenizer_end(again));
        assert_int_equal(krait_tokenizer_vocabulary(t), krait_tokenizer_vocabulary(again));
        kr_ids a = encode(t, "Saved, then read\n\xFF", 18),
               b = encode(again, "Saved, then read\n\xFF", 18);
        assert_int_equal(a.count, b.count);
        assert_memory_equal(a.data, b.data, a.count * sizeof *a.data);
        kr_ids_free(&a);
        kr_ids_free(&b);
        krait_tokenizer_close(&t);
        krait_tokenizer_close(&again);
    }
}

/* ---- refusals -------------------- */

#define BYTE_LEVEL "{\"type\":\"ByteLevel\"}"
#define MODEL "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define FILE_OF(pre, model, more)                                                                  \
    "{\"pre_tokenizer\":" pre ",\"decoder\":" BYTE_LEVEL ",\"model\":" model more "}"

static void refuses(const char *json, const char *part) {
    const char *path = kr_test_path(folder, "refused.json");
    FILE *f = fopen(path, "wb");
    fputs(json, f);
    fclose(f);
    krait_tokenizer *t;
    krait_error e = {0};
    int rc = krait_tokenizer_open(&t, path, &e);
    print_message("refused: %s\n", e.message + strlen(folder));
    assert_true(rc == KRAIT_ERR_UNSUPPORTED || rc == KRAIT_ERR_FORMAT);
    assert_null(t);
    assert_non_null(strstr(e.message, part));
    assert_non_null(strstr(e.message, "refused.json"));
}

static void refusals_of_parts(void **state) {
    (void)state;
    refuses("", "JSON");
    refuses("[]", "not an object");
    refuses(FILE_OF(BYTE_LEVEL, MODEL, ",\"extra\":1"), "extra");
    refuses(FILE_OF(BYTE_LEVEL, MODEL, ",\"truncation\":{}"), "truncation");
    refuses(FILE_OF(BYTE_LEVEL, MODEL, ",\"normalizer\":{\"type\":\"NFKC\"}"), "NFKC");
    refuses(FILE_OF("{\"type\":\"Metaspace\"}", MODEL, ""), "Metaspace");
    refuses(FILE_OF("null", MODEL, ""), "ByteLevel");
    refuses("{\"pre_tokenizer\":" BYTE_LEVEL ",\"model\":" MODEL ",\"decoder\":null}", "decoder");
    refuses(FILE_OF(BYTE_LEVEL, MODEL,
                    ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
                    "[{\"SpecialToken\":{}},{\"Sequence\":{}}]}"),
            "post_processor");
    refuses(FILE_OF("{\"type\":\"Split\",\"behavior\":\"MergedWithNext\",\"pattern\":"
                    "{\"Regex\":\"a\"}}",
                    MODEL, ""),
            "MergedWithNext");
    static const char *const patterns[] = {"\\\\b", "a*", "[a&&b]", "[[:alpha:]]", "(", "\\\\1"};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        char json[500];
        snprintf(json, sizeof json,
                 FILE_OF("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
                         "\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"%s\"}}]}",
                         MODEL, ""),
                 patterns[i]);
        refuses(json, "the pattern");
    }
}

static void refusals_of_tokens(void **state) {
    (void)state;
    refuses(FILE_OF(BYTE_LEVEL, "{\"type\":\"WordPiece\"}", ""), "WordPiece");
    refuses(FILE_OF(BYTE_LEVEL, "{\"vocab\":{\"a\":-1},\"merges\":[]}", ""), "'a'");
    refuses(FILE_OF(BYTE_LEVEL, "{\"vocab\":{\"a\":99999999},\"merges\":[]}", ""), "99999999");
    refuses(FILE_OF(BYTE_LEVEL, "{\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}", ""), "two tokens");
    refuses(FILE_OF(BYTE_LEVEL, "{\"vocab\":{\"a\":1},\"merges\":[\"a b\"]}", ""), "'b'");
    refuses(FILE_OF(BYTE_LEVEL, "{\"vocab\":{\"a\":1},\"merges\":[\"a\"]}", ""), "two strings");
    refuses(FILE_OF(BYTE_LEVEL, "{\"vocab\":{\"a\":1},\"merges\":[[\"a\",1]]}", ""), "two strings");
    refuses(FILE_OF(BYTE_LEVEL, "{\"vocab\":{\"a\":1},\"merges\":[],\"dropout\":0.1}", ""),
            "dropout");
    refuses(FILE_OF(BYTE_LEVEL, "{\"vocab\":{\"a\":1},\"merges\":[],\"unk_token\":\"a\"}", ""),
            "unk_token");
    refuses(FILE_OF(BYTE_LEVEL, MODEL, ",\"added_tokens\":[{\"id\":7,\"content\":\"a\"}]"), "'a'");
    refuses(FILE_OF(BYTE_LEVEL, MODEL, ",\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]"), "'x'");
    refuses(
        FILE_OF(BYTE_LEVEL, MODEL,
                ",\"added_tokens\":[{\"id\":7,\"content\":\"x\"},{\"id\":7,\"content\":\"x\"}]"),
        "'x'");
    char deep[3000];
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    refuses(deep, "nested");
    krait_tokenizer *t;
    krait_error e;
    assert_int_equal(krait_tokenizer_open(&t, "/nowhere", &e), KRAIT_ERR_IO);
    assert_non_null(strstr(e.message, "/nowhere"));
}

/* A vocabulary without some bytes: what it has is encoded, what it lacks is named. */
static void missing_bytes(void **state) {
    (void)state;
    const char *path = kr_test_path(folder, "small.json");
    FILE *f = fopen(path, "wb");
    fputs(FILE_OF(BYTE_LEVEL, MODEL, ""), f);
    fclose(f);
    krait_tokenizer *t = open_tokenizer(path);
    int32_t ids[8];
    krait_error e;
    assert_int_equal(krait_tokenizer_encode(t, "x", 1, ids, 8, &e), KRAIT_ERR_FORMAT);
    assert_non_null(strstr(e.message, "0x20")); /* the space in front comes first */
    krait_tokenizer_close(&t);
}

/* ---- memory -------------------- */

static void use_all(krait_error *e, int *rc) {
    krait_tokenizer *t;
    int32_t ids[64];
    *rc = krait_tokenizer_open(&t, FIXTURE("variant.json"), e);
    if (*rc == 0) {
        int64_t n = krait_tokenizer_encode(t, "caf\x65\xCC\x81 <left> \xFF ok 12", 21, ids, 64, e);
        *rc = n < 0 ? (int)n : 0;
    }
    krait_tokenizer_close(&t);
    const char *data[1] = {FIXTURE("corpus.txt")};
    krait_bpe_options o = KRAIT_BPE_OPTIONS_INIT;
    o.vocabulary = 270;
    if (*rc == 0) *rc = krait_tokenizer_train(data, 1, kr_test_path(folder, "memory.json"), &o, e);
}

static void allocations_fail(void **state) {
    (void)state;
    json_set_alloc_funcs(kr_malloc, kr_free);
    int failures = 0;
    for (int n = 1;; n += 1 + n / 40) {
        krait_error e = {0};
        int rc;
        kr_mem_fail_after(n);
        use_all(&e, &rc);
        if (kr_mem_fail_after(0) < n) break;
        failures += rc < 0;
        /* jansson itself calls some failures inside a string a syntax error */
        bool told = rc == KRAIT_ERR_MEMORY || strstr(e.message, "not valid JSON");
        if (rc < 0 && !told) fail_msg("allocation %d: %s", n, e.message);
        assert_true(rc < 0 || n > 0);
    }
    print_message("%d failed allocations, all reported\n", failures);
    assert_true(failures > 100);
    json_set_alloc_funcs(malloc, free);
}

static int make_folder(void **state) {
    (void)state;
    return kr_test_folder_make(folder);
}

static int remove_folder(void **state) {
    (void)state;
    return kr_test_folder_drop(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes),
        cmocka_unit_test(complete_utf8),
        cmocka_unit_test(vectors_neox),
        cmocka_unit_test(vectors_gpt2),
        cmocka_unit_test(samples_plain),
        cmocka_unit_test(samples_variant),
        cmocka_unit_test(training),
        cmocka_unit_test(training_on_odd_text),
        cmocka_unit_test(words_are_counted_in_bounds),
        cmocka_unit_test(foreign_bytes),
        cmocka_unit_test(long_words),
        cmocka_unit_test(normal_form),
        cmocka_unit_test(saving),
        cmocka_unit_test(refusals_of_parts),
        cmocka_unit_test(refusals_of_tokens),
        cmocka_unit_test(missing_bytes),
        cmocka_unit_test(allocations_fail),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
