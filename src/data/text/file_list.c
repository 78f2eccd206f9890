/* file_list.c - files and folders as one sorted list. */
#define _DEFAULT_SOURCE
#include "data/text/file_list.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

enum { DEEPEST = 64 };

typedef struct names {
    char **list;
    size_t count, capacity;
} names;

static void free_names(names *n) {
    for (size_t i = 0; i < n->count; i++) kr_free(n->list[i]);
    kr_free(n->list);
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_names(names *n, const char *folder, krait_error *e) {
    DIR *dir = opendir(folder);
    if (!dir) return kr_fail(e, KRAIT_ERR_IO, "%s: cannot be listed: %s", folder, strerror(errno));
    int rc = 0;
    for (struct dirent *d; rc == 0 && (d = readdir(dir));) {
        if (d->d_name[0] == '.') continue;
        if (kr_grow((void **)&n->list, &n->capacity, n->count + 1, sizeof *n->list) < 0 ||
            !(n->list[n->count] = kr_path_join(folder, d->d_name)))
            rc = kr_fail_memory(e, "a list of files");
        else
            n->count++;
    }
    closedir(dir);
    if (n->count) qsort(n->list, n->count, sizeof *n->list, by_bytes);
    return rc;
}

static int push(kr_file_list *l, const char *path, const struct stat *st, krait_error *e) {
    kr_file_entry f = {.path = kr_strdup(path), .size = -1};
    if (st && S_ISREG(st->st_mode)) {
        f.size = st->st_size;
        f.seconds = st->st_mtim.tv_sec;
        f.nanoseconds = st->st_mtim.tv_nsec;
    }
    if (!f.path || kr_grow((void **)&l->files, &l->capacity, l->count + 1, sizeof f) < 0) {
        kr_free(f.path);
        return kr_fail_memory(e, "a list of files");
    }
    l->files[l->count++] = f;
    return 0;
}

static int add(kr_file_list *l, const char *path, int depth, krait_error *e) {
    struct stat st;
    if (stat(path, &st) != 0)
        return kr_fail(e, KRAIT_ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return push(l, path, &st, e);
    if (depth && (lstat(path, &st) != 0 || S_ISLNK(st.st_mode))) return 0;
    if (depth == DEEPEST)
        return kr_fail(e, KRAIT_ERR_IO, "%s: folders nested deeper than %d", path, DEEPEST);
    names inside = {0};
    int rc = read_names(&inside, path, e);
    for (size_t i = 0; rc == 0 && i < inside.count; i++) rc = add(l, inside.list[i], depth + 1, e);
    free_names(&inside);
    return rc;
}

int kr_file_list_add(kr_file_list *l, const char *path, krait_error *e) {
    if (strcmp(path, "-") == 0) return push(l, path, NULL, e);
    size_t before = l->count;
    KR_TRY(add(l, path, 0, e));
    if (l->count == before)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: the folder holds no files", path);
    return 0;
}

void kr_file_list_free(kr_file_list *l) {
    for (size_t i = 0; i < l->count; i++) kr_free(l->files[i].path);
    kr_free(l->files);
    *l = (kr_file_list){0};
}
