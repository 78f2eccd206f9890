/* tokenizer_test.c - tokenizers against ids made with Hugging Face's library, and damaged input. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "data/tokenizer/tokenizer.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes),
        cmocka_unit_test(complete_utf8),
        cmocka_unit_test(vectors_neox),
        cmocka_unit_test(vectors_gpt2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
