/* state_file_test.c - what is written is read back; every flipped bit, every truncation and every
 * extra byte is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "serve/state_file.h"

static const float first[3] = {1, -2, 3}, second[2] = {0.5f, 1e-30f};
static const uint64_t sizes[2] = {sizeof first, sizeof second};
static const void *const parts[2] = {first, second};
static const kr_state_file written = {
    .model_hash = 0x0123456789abcdefu, .dtype = KR_F32, .position = 77, .next = 5, .n_tensors = 2};

static char path[64];

static int setup(void **state) {
    (void)state;
    snprintf(path, sizeof path, "/tmp/krait-state-%ld", (long)getpid());
    return kr_state_write(&written, parts, sizes, path, NULL);
}

static int teardown(void **state) {
    (void)state;
    return unlink(path);
}

static void round_trip(void **state) {
    (void)state;
    kr_map map;
    kr_state_file f;
    krait_error e;
    assert_int_equal(kr_map_open(&map, path, &e), 0);
    assert_int_equal(kr_state_parse(&f, map.data, map.size, path, &e), 0);
    assert_true(f.model_hash == written.model_hash && f.dtype == KR_F32 && f.position == 77);
    assert_int_equal(f.next, 5);
    assert_int_equal(f.n_tensors, 2);
    assert_int_equal(kr_state_tensor_bytes(&f, 1), sizeof second);
    assert_memory_equal(f.payload, first, sizeof first);
    assert_memory_equal(f.payload + sizeof first, second, sizeof second);
    kr_map_close(&map);
}

static void damage_is_refused(void **state) {
    (void)state;
    kr_map map;
    kr_state_file f;
    krait_error e;
    assert_int_equal(kr_map_open(&map, path, &e), 0);
    unsigned char *copy = malloc(map.size + 1);
    for (size_t size = 0; size < map.size;
         size++) { /* exact allocation: the sanitizer sees a read past it */
        unsigned char *cut = malloc(size ? size : 1);
        memcpy(cut, map.data, size);
        assert_true(kr_state_parse(&f, cut, size, "f", &e) < 0);
        free(cut);
    }
    for (size_t bit = 0; bit < 8 * map.size; bit++) {
        memcpy(copy, map.data, map.size);
        copy[bit / 8] ^= (unsigned char)(1u << bit % 8);
        assert_true(kr_state_parse(&f, copy, map.size, "f", &e) < 0);
        assert_memory_equal(e.message, "f: ", 3);
    }
    memcpy(copy, map.data, map.size);
    copy[map.size] = 0;
    assert_true(kr_state_parse(&f, copy, map.size + 1, "f", &e) < 0);
    printf("%zu truncations, %zu flipped bits, 1 extra byte: all refused\n", map.size,
           8 * map.size);
    free(copy);
    kr_map_close(&map);
}

/* A type of the library's that no state has, in a file that is whole otherwise. */
static void other_types_are_refused(void **state) {
    (void)state;
    kr_map map;
    kr_state_file f, other = written;
    krait_error e;
    other.dtype = KR_F16;
    assert_int_equal(kr_state_write(&other, parts, sizes, path, &e), 0);
    assert_int_equal(kr_map_open(&map, path, &e), 0);
    assert_int_equal(kr_state_parse(&f, map.data, map.size, "f", &e), KRAIT_ERR_FORMAT);
    printf("%s\n", e.message);
    assert_non_null(strstr(e.message, "damaged: states of type f16"));
    kr_map_close(&map);
    other.dtype = KR_BF16;
    assert_int_equal(kr_state_write(&other, parts, sizes, path, &e), 0);
    assert_int_equal(kr_map_open(&map, path, &e), 0);
    assert_int_equal(kr_state_parse(&f, map.data, map.size, "f", &e), 0);
    kr_map_close(&map);
    assert_int_equal(kr_state_write(&written, parts, sizes, path, &e), 0);
}

static void writing_fails_cleanly(void **state) {
    (void)state;
    krait_error e;
    assert_int_equal(kr_state_write(&written, parts, sizes, "/nonexistent/x", &e), KRAIT_ERR_IO);
    assert_non_null(strstr(e.message, "/nonexistent/x"));
    kr_mem_fail_after(1);
    assert_int_equal(kr_state_write(&written, parts, sizes, path, &e), KRAIT_ERR_MEMORY);
    kr_mem_fail_after(0);
    round_trip(state); /* the old file stayed whole */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip),
                                       cmocka_unit_test(damage_is_refused),
                                       cmocka_unit_test(other_types_are_refused),
                                       cmocka_unit_test(writing_fails_cleanly)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
