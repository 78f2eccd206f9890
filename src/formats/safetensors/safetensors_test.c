/* safetensors_test.c - what a safetensors file may say, what it may not, and that neither harms. */
#define _DEFAULT_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/test_folder.h"
#include "formats/weights.h"

/* A file image from a header text and a number of data bytes; the caller frees it. */
static unsigned char *image(const char *header, size_t data, size_t *size) {
    size_t n = strlen(header);
    *size = 8 + n + data;
    unsigned char *p = calloc(1, *size);
    assert_non_null(p);
    for (int i = 0; i < 8; i++) p[i] = (unsigned char)((uint64_t)n >> (8 * i));
    memcpy(p + 8, header, n);
    return p;
}

static int read_image(const unsigned char *p, size_t size, krait_error *e) {
    kr_weights w = {0};
    memset(e, 0, sizeof *e);
    int rc = kr_safetensors_read_bytes(&w, p, size, "x.safetensors", e);
    kr_weights_free(&w);
    return rc;
}

/* The header must be refused with this code and a message that holds `part`. */
static void refused(const char *header, size_t data, int code, const char *part) {
    size_t size;
    unsigned char *p = image(header, data, &size);
    krait_error e;
    int rc = read_image(p, size, &e);
    if (rc != code || !strstr(e.message, part))
        fail_msg("%s: %d, \"%s\", expected %d and \"%s\"", header, rc, e.message, code, part);
    free(p);
}

#define ONE(dtype, shape, offsets)                                                                 \
    "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(first, second)                                                                         \
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" first "},"                         \
    "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" second "}}"

static void hostile_headers(void **state) {
    (void)state;
    const int bad = KRAIT_ERR_FORMAT, no = KRAIT_ERR_UNSUPPORTED;
    refused("[]", 0, bad, "not an object");
    refused("{\"a\":1}", 0, bad, "not an object");
    refused("{\"a\":{}}", 0, bad, "dtype");
    refused(ONE("1", "[2]", "[0,8]"), 8, bad, "dtype");
    refused(ONE("\"F8_E4M3\"", "[8]", "[0,8]"), 8, no, "F8_E4M3");
    refused(ONE("\"F32\"", "[1,1,1,1,2]", "[0,8]"), 8, no, "5 dimensions");
    refused(ONE("\"F32\"", "[-2]", "[0,8]"), 8, bad, "counts");
    refused(ONE("\"F32\"", "[2.0]", "[0,8]"), 8, bad, "counts");
    refused(ONE("\"F32\"", "{}", "[0,8]"), 8, bad, "shape");
    refused(ONE("\"F32\"", "[4294967296,4294967296]", "[0,8]"), 8, bad, "larger than any file");
    refused(ONE("\"F32\"", "[4611686018427387906]", "[0,8]"), 8, bad, "does not fit");
    refused(ONE("\"F32\"", "[99999999999999999999]", "[0,8]"), 8, bad, "not valid JSON");
    refused(ONE("\"F32\"", "[3]", "[0,8]"), 8, bad, "does not fit its 8 bytes");
    refused(ONE("\"F32\"", "[2]", "[0,7]"), 8, bad, "does not fit");
    refused(ONE("\"F32\"", "[2]", "[8,0]"), 8, bad, "truncated or damaged");
    refused(ONE("\"F32\"", "[2]", "[-8,0]"), 8, bad, "truncated or damaged");
    refused(ONE("\"F32\"", "[2]", "[0,8,9]"), 8, bad, "data_offsets");
    refused(ONE("\"F32\"", "[2]", "[0,8]"), 7, bad, "truncated");
    refused(ONE("\"F32\"", "[2]", "[0,8]"), 9, bad, "1 bytes after");
    refused(ONE("\"F32\"", "[2]", "[0,8],\"x\":1"), 8, bad, "unknown key");
    refused(TWO("[0,8]", "[4,12]"), 12, bad, "overlaps");
    refused(TWO("[0,8]", "[0,8]"), 8, bad, "overlaps");
    refused(TWO("[0,8]", "[12,20]"), 20, bad, "gap");
    refused(TWO("[4,12]", "[12,20]"), 20, bad, "gap");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
            "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
            0, bad, "duplicate");
    refused("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, bad,
            "not valid JSON");
    refused("{\"a\xff\":1}", 0, bad, "not valid JSON");
}

static void lengths(void **state) {
    (void)state;
    size_t size;
    unsigned char *p = image(ONE("\"F32\"", "[2]", "[0,8]"), 8, &size);
    krait_error e;
    assert_int_equal(read_image(p, size, &e), 0);
    for (size_t n = 0; n < size; n++) { /* exact blocks, so that ASan sees a read past the end */
        unsigned char *cut = malloc(n ? n : 1);
        memcpy(cut, p, n);
        assert_int_equal(read_image(cut, n, &e), KRAIT_ERR_FORMAT);
        assert_non_null(strstr(e.message, "x.safetensors"));
        free(cut);
    }
    for (int i = 0; i < 8; i++) { /* a lying header length */
        for (int bit = 0; bit < 8; bit++) {
            p[i] ^= (unsigned char)(1 << bit);
            assert_true(read_image(p, size, &e) < 0);
            p[i] ^= (unsigned char)(1 << bit);
        }
    }
    free(p);
}

static void deep_json(void **state) {
    (void)state;
    for (size_t depth = 60; depth < 3000000; depth *= 8) {
        char *text = malloc(depth + 1);
        memset(text, '[', depth);
        text[depth] = 0;
        refused(text, 0, KRAIT_ERR_FORMAT, depth > 64 ? "nested deeper" : "not valid JSON");
        free(text);
    }
}

/* A small set of weights of every type. */
static void fill(kr_weights *w, float *data) {
    for (int i = 0; i < 64; i++) data[i] = (float)i - 7.5f;
    const struct {
        const char *name;
        kr_dtype type;
        int rank;
        int64_t shape[4];
    } t[] = {{"zeta", KR_F32, 2, {3, 2}}, {"alpha", KR_U8, 1, {3}},   {"beta", KR_BF16, 1, {5}},
             {"gamma", KR_F64, 0, {0}},   {"eta", KR_F16, 2, {1, 1}}, {"empty", KR_F32, 2, {0, 4}},
             {"theta", KR_I32, 1, {2}},   {"iota", KR_I64, 1, {3}}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        kr_tensor v = kr_tensor_make(data + i, t[i].type, t[i].rank, t[i].shape);
        assert_int_equal(kr_weights_add(w, t[i].name, &v, NULL), 0);
    }
    kr_weights_sort(w);
}

static void same(const kr_weights *a, const kr_weights *b) {
    assert_int_equal(a->count, b->count);
    for (int64_t i = 0; i < a->count; i++) {
        const kr_tensor *x = &a->items[i].tensor, *y = &b->items[i].tensor;
        assert_string_equal(a->items[i].name, b->items[i].name);
        assert_int_equal(x->dtype, y->dtype);
        assert_true(kr_tensor_same_shape(x, y));
        if (kr_tensor_bytes(x)) assert_memory_equal(x->data, y->data, kr_tensor_bytes(x));
        assert_int_equal((uintptr_t)y->data % kr_dtype_size(y->dtype), 0);
    }
}

/* Any limit on the shards, one after the other into one folder: what is read is what was written
 * last. */
static void folders(void **state) {
    (void)state;
    float data[64];
    char folder[64];
    kr_weights w = {0};
    krait_error e;
    fill(&w, data);
    assert_int_equal(kr_test_folder_make(folder), 0);
    static const int64_t limits[] = {0, 1, 1000, 24, 40};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        data[0] += 1;
        assert_int_equal(kr_weights_write_folder(&w, folder, limits[i], &e), 0);
        kr_weights back = {0};
        if (kr_weights_read_folder(&back, folder, &e) < 0) fail_msg("%s", e.message);
        same(&w, &back);
        kr_weights_free(&back);
    }
    kr_weights_free(&w);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

static void write_text(const char *folder, const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static bool there(const char *folder, const char *name) {
    return kr_is_file(kr_test_path(folder, name));
}

/* A new model takes the place of all weights of the old one, and of nothing else. */
static void old_weights_go(void **state) {
    (void)state;
    static const char *const old[] = {"model.safetensors",
                                      "model-00001-of-00009.safetensors",
                                      "model-00002-of-00009.safetensors",
                                      "model.safetensors.index.json",
                                      "pytorch_model.bin",
                                      "pytorch_model-00001-of-00002.bin",
                                      "pytorch_model.bin.index.json"};
    static const char *const others[] = {"notes.txt", "model-00001-of-00004.safetensors",
                                         "model-final.safetensors", "model-00001-of-9.safetensors"};
    static const char *const fresh[] = {"model.safetensors", "model.safetensors.index.json",
                                        "pytorch_model.bin"};
    float data[64];
    kr_weights w = {0};
    krait_error e;
    fill(&w, data);
    for (int kind = 0; kind < 3; kind++) {
        char folder[64];
        kr_weights back = {0};
        assert_int_equal(kr_test_folder_make(folder), 0);
        for (size_t i = 0; i < sizeof old / sizeof *old; i++) write_text(folder, old[i], "old");
        for (size_t i = 0; i < 4; i++) write_text(folder, others[i], "another's");
        write_text(
            folder, old[3],
            "{\"weight_map\":{\"a\":\"model-00001-of-00009.safetensors\",\"b\":\"notes.txt\","
            "\"c\":\"model-00002-of-00009.safetensors\",\"d\":\"model-final.safetensors\","
            "\"e\":\"model-00001-of-9.safetensors\",\"f\":7}}");
        write_text(
            folder, old[6],
            "{\"weight_map\":{\"a\":\"pytorch_model-00001-of-00002.bin\",\"b\":\"notes.txt\"}}");
        int rc = kind == 2 ? kr_weights_write_pth(&w, folder, &e)
                           : kr_weights_write_folder(&w, folder, kind, &e);
        if (rc < 0) fail_msg("%s", e.message);
        for (size_t i = 0; i < sizeof old / sizeof *old; i++)
            if (there(folder, old[i]) != (strcmp(old[i], fresh[kind]) == 0))
                fail_msg("%s: %s", fresh[kind], old[i]);
        for (size_t i = 0; i < 4; i++)
            if (!there(folder, others[i])) fail_msg("%s is gone", others[i]);
        if (kr_weights_read_folder(&back, folder, &e) < 0) fail_msg("%s", e.message);
        same(&w, &back);
        kr_weights_free(&back);
        assert_int_equal(kr_test_folder_drop(folder), 0);
    }
    kr_weights_free(&w);
}

static void hostile_index(void **state) {
    (void)state;
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"../model.safetensors\"}}", "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "not a plain file name"},
        {"{\"weight_map\":{\"a\":7}}", "not a string"},
        {"{\"weight_map\":[]}", "weight_map"},
        {"[]", "weight_map"},
        {"{", "not valid JSON"},
        {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", "gone.safetensors"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"x.safetensors\"}}", "b is in none"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"y.safetensors\"}}", "there twice"},
    };
    char folder[64], path[128];
    assert_int_equal(kr_test_folder_make(folder), 0);
    size_t size;
    unsigned char *p = image(ONE("\"F32\"", "[2]", "[0,8]"), 8, &size);
    for (const char *name = "xy"; *name; name++) {
        snprintf(path, sizeof path, "%s/%c.safetensors", folder, *name);
        FILE *f = fopen(path, "wb");
        assert_int_equal(fwrite(p, 1, size, f), size);
        fclose(f);
    }
    free(p);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(folder, "model.safetensors.index.json", cases[i].text);
        kr_weights w = {0};
        krait_error e = {0};
        int rc = kr_weights_read_folder(&w, folder, &e);
        if (rc >= 0 || !strstr(e.message, cases[i].part))
            fail_msg("%s: %d, \"%s\"", cases[i].text, rc, e.message);
        kr_weights_free(&w);
    }
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

/* A tensor of floats that begins at an odd address is copied to where floats may lie. */
static void unaligned(void **state) {
    (void)state;
    static const char header[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                                 "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[1,9]},"
                                 "\"__metadata__\":{\"x\":\"y\"}}";
    size_t size;
    unsigned char *p = image(header, 9, &size);
    float values[2] = {1.5f, -2.0f};
    for (size_t shift = 0; shift < 4; shift++) {
        unsigned char *moved = malloc(size + shift);
        memcpy(moved + shift, p, size);
        memcpy(moved + shift + size - 8, values, 8);
        kr_weights w = {0};
        assert_int_equal(kr_safetensors_read_bytes(&w, moved + shift, size, "x", NULL), 0);
        const kr_tensor *b = kr_weights_find(&w, "b");
        assert_int_equal((uintptr_t)b->data % 4, 0);
        assert_memory_equal(b->data, values, 8);
        kr_weights_free(&w);
        free(moved);
    }
    free(p);
}

/* Write and read a folder in which the n-th allocation fails: an error and no leak, or all is
 * right. */
static int write_and_read(const kr_weights *w, const char *folder, int64_t shard) {
    krait_error e;
    int rc = kr_weights_write_folder(w, folder, shard, &e);
    if (rc < 0) return rc;
    kr_weights back = {0};
    rc = kr_weights_read_folder(&back, folder, &e);
    if (rc == 0) same(w, &back);
    kr_weights_free(&back);
    return rc;
}

static void no_memory(void **state) {
    (void)state;
    float data[64];
    char folder[64];
    kr_weights w = {0};
    fill(&w, data);
    assert_int_equal(kr_test_folder_make(folder), 0);
    json_set_alloc_funcs(kr_malloc, kr_free);
    for (int64_t shard = 0; shard <= 24; shard += 24) {
        int64_t n = 0, made = 1, failed = 0;
        while (made >= n) {
            kr_mem_fail_after(++n);
            failed += write_and_read(&w, folder, shard) < 0;
            made = kr_mem_fail_after(0);
        }
        print_message("shards of %lld bytes: each of %lld allocations failed once, %lld errors\n",
                      (long long)shard, (long long)n - 1, (long long)failed);
        assert_true(n > 20 && failed > n / 2);
    }
    json_set_alloc_funcs(malloc, free);
    kr_weights_free(&w);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

/* ---- what a save that ends halfway leaves -------------------------------------------------- */

enum { SHARD = 24 }; /* bytes: the tensors of fill() make several */

/* Saves as many shards as ever whose bytes are all `value`. */
static int save_marked(const kr_weights *w, float data[64], int value, const char *folder) {
    memset(data, value, 64 * sizeof *data);
    return kr_weights_write_folder(w, folder, SHARD, NULL);
}

/* The value that all bytes of the weights are; fails where they are a mixture. */
static int read_marked(const char *folder) {
    kr_weights w = {0};
    krait_error e;
    int value = -1;
    if (kr_weights_read_folder(&w, folder, &e) < 0) fail_msg("%s", e.message);
    for (int64_t i = 0; i < w.count; i++) {
        const unsigned char *p = w.items[i].tensor.data;
        for (size_t k = 0; k < kr_tensor_bytes(&w.items[i].tensor); k++) {
            if (value < 0) value = p[k];
            if (p[k] != value) fail_msg("%s is of another save", w.items[i].name);
        }
    }
    kr_weights_free(&w);
    return value;
}

/* Each allocation fails once: the old weights or the new ones are there. */
static void a_failing_save_mixes_nothing(void **state) {
    (void)state;
    float data[64];
    char folder[64];
    kr_weights w = {0};
    int64_t n = 0, made = 1, failed = 0, kept = 0;
    int before = 1;
    fill(&w, data);
    assert_int_equal(kr_test_folder_make(folder), 0);
    assert_int_equal(save_marked(&w, data, before, folder), 0);
    while (made >= n) {
        int next = before % 100 + 1;
        kr_mem_fail_after(++n);
        int rc = save_marked(&w, data, next, folder);
        made = kr_mem_fail_after(0);
        int now = read_marked(folder);
        assert_true(now == next || (rc < 0 && now == before));
        failed += rc < 0;
        kept += now == before;
        before = now;
    }
    print_message("%lld saves failed, %lld of them left the old weights\n", (long long)failed,
                  (long long)kept);
    assert_true(failed > 20 && kept > 20);
    kr_weights_free(&w);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

/* Values from `value` on, each once; says when the first of them is saved. */
static void save_for_ever(const char *folder, int value, int pipe) {
    float data[64];
    kr_weights w = {0};
    fill(&w, data);
    for (int saves = 0; saves < 99; saves++, value = value % 100 + 1) {
        if (save_marked(&w, data, value, folder) < 0) _exit(1);
        if (saves == 0 && write(pipe, "", 1) != 1) _exit(1);
    }
    for (;;) pause();
}

/* Killed at sixty moments of the saves that follow. */
static void a_killed_save_mixes_nothing(void **state) {
    (void)state;
    enum { KILLS = 60 };
    char folder[64], byte;
    int ends[2], status, before = 0, last = 0;
    assert_int_equal(kr_test_folder_make(folder), 0);
    for (int i = 0; i < KILLS; i++) {
        assert_int_equal(pipe(ends), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) save_for_ever(folder, before % 100 + 1, ends[1]);
        close(ends[1]);
        assert_int_equal(read(ends[0], &byte, 1), 1);
        close(ends[0]);
        usleep((useconds_t)(67 * i));
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        last = read_marked(folder);
        assert_true(last != before);
        before = last;
    }
    print_message("%d kills, the last one behind value %d\n", (int)KILLS, last);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_headers),
        cmocka_unit_test(lengths),
        cmocka_unit_test(deep_json),
        cmocka_unit_test(folders),
        cmocka_unit_test(old_weights_go),
        cmocka_unit_test(hostile_index),
        cmocka_unit_test(unaligned),
        cmocka_unit_test(no_memory),
        cmocka_unit_test(a_failing_save_mixes_nothing),
        cmocka_unit_test(a_killed_save_mixes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
