/* pth_test.c - files of torch.save, good and hostile, from fuzz/corpus/{pth,pickle}, and damage to
 * them. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "formats/pth/pickle.h"
#include "formats/weights.h"

#define CORPUS KR_SOURCE_DIR "/fuzz/corpus/"

static double element(const kr_tensor *t, int64_t i) {
    double v = 0;
    switch (t->dtype) {
    case KR_I32: return ((const int32_t *)t->data)[i];
    case KR_I64: return (double)((const int64_t *)t->data)[i];
    case KR_U8: return ((const unsigned char *)t->data)[i];
    default:
        kr_convert(&v, KR_F64, (const char *)t->data + (size_t)i * kr_dtype_size(t->dtype),
                   t->dtype, 1);
        return v;
    }
}

/* Every tensor of a good file counts 0, 1, 2, ... */
static void check_counts(const kr_weights *w, const char *name) {
    for (int64_t k = 0; k < w->count; k++) {
        const kr_tensor *t = &w->items[k].tensor;
        assert_true(kr_tensor_contiguous(t));
        for (int64_t i = 0; i < kr_tensor_count(t); i++)
            if (element(t, i) != (double)i)
                fail_msg("%s: %s[%lld] is %g", name, w->items[k].name, (long long)i, element(t, i));
    }
}

static void good_files(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int tensors;
    } files[] = {{"ok_plain", 2},      {"ok_types", 9},   {"ok_state_dict", 2},
                 {"ok_parameters", 2}, {"ok_nested", 2},  {"ok_nested_model", 1},
                 {"ok_strided", 3},    {"ok_tied", 3},    {"ok_protocol4", 1},
                 {"ok_protocol5", 1},  {"ok_deflated", 2}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[512];
        snprintf(path, sizeof path, CORPUS "pth/%s", files[i].name);
        kr_weights w = {0};
        krait_error e;
        if (kr_pth_read(&w, path, &e) < 0) fail_msg("%s", e.message);
        assert_int_equal(w.count, files[i].tensors);
        check_counts(&w, files[i].name);
        kr_weights_free(&w);
    }
}

/* Stored members are used in place: no memory but the map's. */
static void in_place(void **state) {
    (void)state;
    kr_weights w = {0};
    assert_int_equal(kr_pth_read(&w, CORPUS "pth/ok_tied", NULL), 0);
    assert_int_equal(w.n_blocks, 0);
    const kr_tensor *a = kr_weights_find(&w, "a"), *b = kr_weights_find(&w, "b");
    assert_ptr_equal(a->data, b->data); /* tied */
    assert_int_equal(b->rank, 2);
    const unsigned char *data = a->data;
    assert_true(data > w.maps[0].data && data < w.maps[0].data + w.maps[0].size);
    kr_weights_free(&w);
}

static void refused(const char *name, int code, const char *part) {
    char path[512];
    snprintf(path, sizeof path, CORPUS "pth/%s", name);
    kr_weights w = {0};
    krait_error e = {0};
    int rc = kr_pth_read(&w, path, &e);
    if (rc != code || !strstr(e.message, part) || !strstr(e.message, name))
        fail_msg("%s: %d, \"%s\", expected %d and \"%s\"", name, rc, e.message, code, part);
    kr_weights_free(&w);
}

static void bad_files(void **state) {
    (void)state;
    refused("bad_legacy", KRAIT_ERR_UNSUPPORTED, "before version 1.6");
    refused("bad_tar", KRAIT_ERR_UNSUPPORTED, "before version 1.6");
    refused("bad_zip", KRAIT_ERR_FORMAT, "not a file of torch.save");
    refused("bad_big_endian", KRAIT_ERR_UNSUPPORTED, "byte order is \"big\"");
    refused("bad_missing_member", KRAIT_ERR_FORMAT, "data/1 is missing");
    refused("bad_short_member", KRAIT_ERR_FORMAT, "tensor b: its storage should hold 4 elements");
    refused("bad_bzip2", KRAIT_ERR_FORMAT, "method");
    refused("bad_expanded", KRAIT_ERR_FORMAT, "tensor a: its shape is larger than its storage");
    refused("bad_module", KRAIT_ERR_UNSUPPORTED, "torch.nn.modules.linear.Linear");
    refused("bad_bool", KRAIT_ERR_UNSUPPORTED, "torch.BoolStorage");
    refused("bad_rank", KRAIT_ERR_UNSUPPORTED, "5 dimensions");
    refused("bad_no_tensors", KRAIT_ERR_FORMAT, "no dictionary of tensors");
    refused("bad_list", KRAIT_ERR_FORMAT, "no dictionary of tensors");
    refused("bad_bomb", KRAIT_ERR_FORMAT, "zip bomb");
    refused("bad_system", KRAIT_ERR_UNSUPPORTED, "os.system");
    refused("gone", KRAIT_ERR_IO, "No such file");
}

/* Reads a copy of exactly n bytes, so that the address sanitizer sees a step past the end. */
static int read_pickle(const unsigned char *bytes, size_t n, krait_error *e) {
    unsigned char *copy = malloc(n ? n : 1);
    memcpy(copy, bytes, n);
    kr_pickle p;
    memset(e, 0, sizeof *e);
    int rc = kr_pickle_read(&p, copy, n, "x.pth", e);
    kr_pickle_free(&p);
    free(copy);
    return rc;
}

/* Whole, cut at every length, and with every bit flipped. */
static void abuse(const kr_map *map, const char *name) {
    krait_error e;
    static const unsigned char none[1];
    const unsigned char *data = map->data ? map->data : none;
    int rc = read_pickle(data, map->size, &e);
    if ((rc == 0) != (strncmp(name, "ok_", 3) == 0)) fail_msg("%s: %d %s", name, rc, e.message);
    for (size_t n = 0; n < map->size; n++) {
        rc = read_pickle(data, n, &e);
        if (rc >= 0 || e.message[0] == 0) fail_msg("%s cut to %zu bytes is accepted", name, n);
    }
    unsigned char *copy = malloc(map->size + 1);
    memcpy(copy, data, map->size);
    for (size_t bit = 0; bit < 8 * map->size; bit++) {
        copy[bit / 8] ^= (unsigned char)(1u << bit % 8);
        read_pickle(copy, map->size, &e);
        copy[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    free(copy);
}

static void pickles(void **state) {
    (void)state;
    DIR *d = opendir(CORPUS "pickle");
    assert_non_null(d);
    int files = 0;
    for (struct dirent *f; (f = readdir(d));) {
        if (f->d_name[0] == '.') continue;
        char path[512];
        kr_map map;
        snprintf(path, sizeof path, CORPUS "pickle/%.200s", f->d_name);
        assert_int_equal(kr_map_open(&map, path, NULL), 0);
        if (strncmp(f->d_name, "ok_", 3) == 0 || strncmp(f->d_name, "bad_", 4) == 0) {
            abuse(&map, f->d_name);
            files++;
        }
        kr_map_close(&map);
    }
    closedir(d);
    print_message("%d pickles whole, cut and flipped\n", files);
    assert_true(files > 20);
}

static void pickle_names(void **state) {
    (void)state;
#define CASE(text, part)                                                                           \
    { text, sizeof text - 1, part }
    static const struct {
        const char *text;
        size_t size;
        const char *part;
    } cases[] = {
        CASE("\x80\x02(X\1\0\0\0aios\nsystem\n.", "INST"),
        CASE("\x80\x02(cos\nsystem\no.", "os.system"),
        CASE("\x80\x02"
             "ccollections\nOrderedDict\n)\x81.",
             "NEWOBJ"),
        CASE("\x80\x02\x82\1.", "EXT1"),
        CASE("\x80\x02]}b.", "BUILD"),
        CASE("\x80\x01.", "protocol"),
        CASE("\x80\x02}.x", "stops before its end"),
    };
    krait_error e;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int rc = read_pickle((const unsigned char *)cases[i].text, cases[i].size, &e);
        if (rc >= 0 || !strstr(e.message, cases[i].part)) fail_msg("%zu: %s", i, e.message);
    }
}

/* Pickles that ask for much: depth, objects, memo. All end in an error before much is allocated. */
static void greedy_pickles(void **state) {
    (void)state;
    static const char *const openers[] = {"(", "]", "}", ")", "N", "(]", "]a", "}q\1"};
    const size_t size = 4 << 20;
    unsigned char *bytes = malloc(size);
    krait_error e;
    for (size_t i = 0; i < sizeof openers / sizeof *openers; i++) {
        size_t n = strlen(openers[i]);
        bytes[0] = 0x80;
        bytes[1] = 2;
        for (size_t k = 2; k < size; k++) bytes[k] = (unsigned char)openers[i][(k - 2) % n];
        assert_true(read_pickle(bytes, size, &e) < 0);
    }
    free(bytes);
}

static int read_copy(const unsigned char *bytes, size_t n, krait_error *e) {
    unsigned char *copy = kr_aligned(n);
    memcpy(copy, bytes, n);
    kr_weights w = {0};
    memset(e, 0, sizeof *e);
    int rc = kr_pth_read_bytes(&w, copy, n, "x.pth", e);
    if (rc == 0) check_counts(&w, "flipped");
    kr_weights_free(&w);
    kr_free(copy);
    return rc;
}

/* The archive cut at every length, and every byte changed: read right or refused, as its checksums
 * promise. */
static void damaged_archives(void **state) {
    (void)state;
    static const char *const names[] = {"ok_plain", "ok_deflated", "ok_strided"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        kr_map map;
        krait_error e;
        snprintf(path, sizeof path, CORPUS "pth/%s", names[i]);
        assert_int_equal(kr_map_open(&map, path, NULL), 0);
        for (size_t n = 0; n < map.size; n++)
            if (read_copy(map.data, n, &e) >= 0) fail_msg("%s cut to %zu bytes", names[i], n);
        unsigned char *copy = malloc(map.size);
        memcpy(copy, map.data, map.size);
        int whole = 0;
        for (size_t k = 0; k < map.size; k++) {
            copy[k] ^= 0xff;
            int rc = read_copy(copy, map.size, &e);
            whole += rc == 0;
            if (rc < 0 && e.message[0] == 0) fail_msg("%s: byte %zu: no message", names[i], k);
            copy[k] ^= 0xff;
        }
        print_message("%s: %d of %zu changed bytes do not matter\n", names[i], whole, map.size);
        assert_true(whole < (int)map.size * 3 / 4);
        free(copy);
        kr_map_close(&map);
    }
}

static void no_memory(void **state) {
    (void)state;
    static const char *const names[] = {"ok_strided", "ok_nested", "ok_deflated"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        snprintf(path, sizeof path, CORPUS "pth/%s", names[i]);
        int64_t n = 0, made = 1;
        while (made >= n) {
            kr_weights w = {0};
            krait_error e = {0};
            kr_mem_fail_after(++n);
            int rc = kr_pth_read(&w, path, &e);
            made = kr_mem_fail_after(0);
            if (made >= n)
                assert_int_equal(rc, KRAIT_ERR_MEMORY);
            else
                assert_int_equal(rc, 0);
            kr_weights_free(&w);
        }
        print_message("%s: each of %lld allocations failed once\n", names[i], (long long)n - 1);
        assert_true(n > 10);
    }
}

/* What is written is read again; two tensors at one place are one storage; each allocation that
 * fails is an error, and leaves nothing unfinished. */
static void written_and_read(void **state) {
    (void)state;
    static const kr_dtype types[] = {KR_F32, KR_F64, KR_BF16, KR_F16, KR_I64, KR_I32, KR_U8};
    enum { TYPES = sizeof types / sizeof *types, N = 24 };
    static unsigned char bytes[TYPES][8 * N];
    kr_weights w = {0};
    char folder[] = "/tmp/krait-pth-XXXXXX", path[64];
    krait_error e = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/x.pth", folder);
    for (int i = 0; i < TYPES; i++) {
        double counts[N];
        for (int k = 0; k < N; k++) {
            counts[k] = k;
            if (types[i] == KR_I64) ((int64_t *)(void *)bytes[i])[k] = k;
            if (types[i] == KR_I32) ((int32_t *)(void *)bytes[i])[k] = k;
            if (types[i] == KR_U8) bytes[i][k] = (unsigned char)k;
        }
        if (i < 4) kr_convert(bytes[i], types[i], counts, KR_F64, N);
        kr_tensor t = kr_tensor_make(bytes[i], types[i], 3, (int64_t[]){2, 3, 4});
        assert_int_equal(kr_weights_add(&w, (char[]){(char)('a' + i), 0}, &t, &e), 0);
    }
    kr_tensor tied = kr_tensor_make(bytes[0], KR_F32, 2, (int64_t[]){6, 4});
    assert_int_equal(kr_weights_add(&w, "tied", &tied, &e), 0);
    int64_t failed = 0;
    for (int64_t n = 1;; n++) { /* libzip has memory of its own */
        kr_mem_fail_after(n);
        int rc = kr_pth_write(&w, path, &e);
        kr_mem_fail_after(0);
        if (rc == 0) break;
        failed++;
        assert_int_equal(rc, KRAIT_ERR_MEMORY);
    }
    kr_weights back = {0};
    if (kr_pth_read(&back, path, &e) < 0) fail_msg("%s", e.message);
    print_message("%lld allocations failed first; %lld tensors come back\n", (long long)failed,
                  (long long)back.count);
    assert_true(failed > 1 && back.count == w.count);
    check_counts(&back, path);
    for (int i = 0; i < TYPES; i++) assert_int_equal(back.items[i].tensor.dtype, types[i]);
    assert_ptr_equal(kr_weights_find(&back, "a")->data, kr_weights_find(&back, "tied")->data);
    kr_weights_free(&back);
    kr_weights_free(&w);
    unlink(path);
    assert_int_equal(rmdir(folder), 0); /* nothing else was left there */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_and_read), cmocka_unit_test(good_files),
        cmocka_unit_test(in_place),         cmocka_unit_test(bad_files),
        cmocka_unit_test(pickles),          cmocka_unit_test(pickle_names),
        cmocka_unit_test(greedy_pickles),   cmocka_unit_test(damaged_archives),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
