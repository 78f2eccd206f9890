/* file_test.c - what is mapped and what is refused; an output file is whole or is the old one. */
#define _DEFAULT_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/test_folder.h"

static char folder[64];

static int set_up(void **state) {
    (void)state;
    return kr_test_folder_make(folder);
}

static int tear_down(void **state) {
    (void)state;
    return kr_test_folder_drop(folder);
}

static void write_whole(const char *path, const char *text) {
    kr_out out;
    assert_int_equal(kr_out_open(&out, path, NULL), 0);
    assert_int_equal(kr_out_write(&out, text, strlen(text), NULL), 0);
    assert_int_equal(kr_out_commit(&out, NULL), 0);
}

static void check_text(const char *path, const char *text) {
    kr_map map;
    assert_int_equal(kr_map_open(&map, path, NULL), 0);
    assert_int_equal(map.size, strlen(text));
    if (map.size) assert_memory_equal(map.data, text, map.size);
    kr_map_close(&map);
}

static void writing(void **state) {
    (void)state;
    const char *path = kr_test_path(folder, "x");
    kr_out out;
    write_whole(path, "old");
    check_text(path, "old");
    assert_int_equal(kr_out_open(&out, path, NULL), 0);
    assert_int_equal(kr_out_write(&out, "half", 4, NULL), 0);
    check_text(path, "old");
    kr_out_abort(&out);
    check_text(path, "old");
    write_whole(path, "");
    check_text(path, "");
}

/* What was there stays, what was not does not come; a pipe that nobody reads is not waited for. */
static void checking(void **state) {
    (void)state;
    krait_error e = {0};
    const char *path = kr_test_path(folder, "kept"), *pipe = kr_test_path(folder, "out-pipe");
    write_whole(path, "old");
    assert_int_equal(kr_out_check(path, &e), 0);
    check_text(path, "old");
    assert_int_equal(kr_out_check(kr_test_path(folder, "none"), &e), 0);
    assert_false(kr_is_file(kr_test_path(folder, "none")));
    assert_int_equal(kr_out_check(folder, &e), KRAIT_ERR_IO);
    assert_int_equal(kr_out_check(kr_test_path(folder, "gone/x"), &e), KRAIT_ERR_IO);
    print_message("%s\n", e.message);
    assert_int_equal(mkfifo(pipe, 0600), 0);
    alarm(20);
    assert_int_equal(kr_out_check(pipe, &e), 0);
    alarm(0);
}

/* A pipe that nobody writes to must be refused at once; the alarm ends a test that waits. */
static void no_regular_file(void **state) {
    (void)state;
    kr_map map;
    krait_error e;
    const char *path = kr_test_path(folder, "pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(20);
    assert_true(kr_map_open(&map, path, &e) < 0);
    alarm(0);
    printf("%s\n", e.message);
    assert_non_null(strstr(e.message, "/pipe: not a regular file"));
    assert_true(kr_map_open(&map, folder, &e) < 0);
    assert_non_null(strstr(e.message, "not a regular file"));
    assert_true(kr_map_open(&map, kr_test_path(folder, "none"), &e) < 0);
    assert_non_null(strstr(e.message, "/none: cannot be opened: No such file"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(writing), cmocka_unit_test(checking),
                                       cmocka_unit_test(no_regular_file)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
