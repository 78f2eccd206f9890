/* test_folder.h - for tests: folders and files of their own, and files that must be the same. */
#ifndef KR_TEST_FOLDER_H
#define KR_TEST_FOLDER_H

#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* mkdtemp */
#endif
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

/* In memory where that is possible: some tests sync files a thousand times. */
static inline const char *kr_test_place(void) {
    return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

/* A new folder there. 0 or -1. */
static inline int kr_test_folder_make(char folder[64]) {
    snprintf(folder, 64, "%s/krait-test-XXXXXX", kr_test_place());
    return mkdtemp(folder) ? 0 : -1;
}

/* Removes it with all that is in it. */
static inline int kr_test_folder_drop(const char *folder) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

/* A new empty file in such a place, to be unlinked. 0 or -1. */
static inline int kr_test_file_make(char path[64]) {
    snprintf(path, 64, "%s/krait-test-XXXXXX", kr_test_place());
    int file = mkstemp(path);
    return file < 0 ? -1 : close(file);
}

/* "folder/name"; the 64 newest stay. */
static inline const char *kr_test_path(const char *folder, const char *name) {
    static char paths[64][256];
    static int next;
    char *path = paths[next++ % 64];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* Do both files exist, and hold the same bytes, at least one? */
static inline bool kr_test_same_files(const char *a, const char *b) {
    kr_map x = {0}, y = {0};
    bool same = kr_map_open(&x, a, NULL) == 0 && kr_map_open(&y, b, NULL) == 0 && x.size > 0 &&
                x.size == y.size && memcmp(x.data, y.data, x.size) == 0;
    kr_map_close(&x);
    kr_map_close(&y);
    return same;
}

#endif
