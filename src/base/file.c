/* file.c - mapping and durable writing, over POSIX. */
#define _DEFAULT_SOURCE
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"

static int map_descriptor(kr_map *map, int fd, const char *path, krait_error *e) {
    struct stat st;
    if (fstat(fd, &st) != 0)
        return kr_fail(e, KRAIT_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return kr_fail(e, KRAIT_ERR_IO, "%s: not a regular file", path);
    if ((uintmax_t)st.st_size > SIZE_MAX)
        return kr_fail(e, KRAIT_ERR_IO, "%s: larger than the address space", path);
    map->size = (size_t)st.st_size;
    if (map->size == 0) return 0;
    void *data = mmap(NULL, map->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return kr_fail(e, KRAIT_ERR_IO, "%s: cannot be mapped: %s", path, strerror(errno));
    map->data = data;
    return 0;
}

/* Without O_NONBLOCK a pipe's open would wait for a writer, before it could be refused. */
int kr_map_open(kr_map *map, const char *path, krait_error *e) {
    *map = (kr_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return kr_fail(e, KRAIT_ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    int rc = map_descriptor(map, fd, path, e);
    close(fd);
    return rc;
}

void kr_map_close(kr_map *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (kr_map){0};
}

void kr_map_forget(const kr_map *map, const void *at, size_t size) {
    const unsigned char *p = at;
    if (!map->data || p < map->data || size > map->size ||
        p - map->data > (ptrdiff_t)(map->size - size))
        return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)p + page - 1) / page * page,
              end = ((uintptr_t)p + size) / page * page;
    if (first < end) (void)madvise((void *)first, end - first, MADV_DONTNEED);
}

int kr_out_open(kr_out *out, const char *path, krait_error *e) {
    *out = (kr_out){0};
    size_t room = strlen(path) + 32;
    out->path = kr_strdup(path);
    out->temporary = kr_malloc(room);
    if (!out->path || !out->temporary) {
        kr_out_abort(out);
        return kr_fail_memory(e, path);
    }
    bool special = access(path, F_OK) == 0 && !kr_is_file(path);
    snprintf(out->temporary, room, "%s.tmp-%ld", path, (long)getpid());
    if (special) {
        kr_free(out->temporary);
        out->temporary = NULL;
    }
    out->stream = fopen(special ? path : out->temporary, "wb");
    if (out->stream) return 0;
    int rc = kr_fail(e, KRAIT_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
    kr_out_abort(out);
    return rc;
}

int kr_out_check(const char *path, krait_error *e) {
    kr_out out;
    if (access(path, F_OK) == 0 && !kr_is_file(path) && !kr_is_dir(path)) return 0;
    KR_TRY(kr_out_open(&out, path, e));
    kr_out_abort(&out);
    return 0;
}

int kr_out_write(kr_out *out, const void *bytes, size_t size, krait_error *e) {
    if (size == 0 || fwrite(bytes, 1, size, out->stream) == size) return 0;
    return kr_fail(e, KRAIT_ERR_IO, "%s: writing failed: %s", out->path, strerror(errno));
}

static int sync_parent(const char *path, krait_error *e) {
    const char *slash = strrchr(path, '/');
    if (!slash) return kr_sync_dir(".", e);
    if (slash == path) return kr_sync_dir("/", e);
    char *folder = kr_strndup(path, (size_t)(slash - path));
    if (!folder) return kr_fail_memory(e, path);
    int rc = kr_sync_dir(folder, e);
    kr_free(folder);
    return rc;
}

int kr_out_commit(kr_out *out, krait_error *e) {
    int failed = fflush(out->stream) != 0 || (out->temporary && fsync(fileno(out->stream)) != 0);
    int reason = errno;
    if (fclose(out->stream) != 0 && !failed) {
        failed = 1;
        reason = errno;
    }
    out->stream = NULL;
    if (!failed && out->temporary && rename(out->temporary, out->path) != 0) {
        failed = 1;
        reason = errno;
    }
    int rc = 0;
    if (failed)
        rc = kr_fail(e, KRAIT_ERR_IO, "%s: writing failed: %s", out->path, strerror(reason));
    else if (out->temporary)
        rc = sync_parent(out->path, e);
    if (!failed) {
        kr_free(out->temporary);
        out->temporary = NULL;
    }
    kr_out_abort(out);
    return rc;
}

void kr_out_abort(kr_out *out) {
    if (out->stream) fclose(out->stream);
    if (out->temporary) unlink(out->temporary);
    kr_free(out->temporary);
    kr_free(out->path);
    *out = (kr_out){0};
}

bool kr_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool kr_is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

int kr_make_dirs(const char *path, krait_error *e) {
    char *copy = kr_strdup(path);
    if (!copy) return kr_fail_memory(e, path);
    int rc = 0;
    for (char *p = copy + 1; rc == 0; p++) {
        if (*p != '/' && *p != 0) continue;
        char old = *p;
        *p = 0;
        if (mkdir(copy, 0777) == 0)
            rc = sync_parent(copy, e);
        else if (errno != EEXIST)
            rc = kr_fail(e, KRAIT_ERR_IO, "%s: cannot be created: %s", copy, strerror(errno));
        *p = old;
        if (old == 0) break;
    }
    kr_free(copy);
    if (rc == 0 && !kr_is_dir(path))
        rc = kr_fail(e, KRAIT_ERR_IO, "%s: exists and is not a folder", path);
    return rc;
}

int kr_sync_dir(const char *path, krait_error *e) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return kr_fail(e, KRAIT_ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    /* Some file systems refuse to sync a folder (EINVAL); the rename is then as durable as they
     * make it. */
    int failed = fsync(fd) != 0 && errno != EINVAL;
    int reason = errno;
    close(fd);
    if (!failed) return 0;
    return kr_fail(e, KRAIT_ERR_IO, "%s: cannot be synced: %s", path, strerror(reason));
}

char *kr_path_join(const char *folder, const char *name) {
    size_t room = strlen(folder) + strlen(name) + 2;
    char *path = kr_malloc(room);
    if (path) snprintf(path, room, "%s/%s", folder, name);
    return path;
}

bool kr_holds_file(const char *folder, const char *name) {
    char *path = kr_path_join(folder, name);
    bool yes = path && kr_is_file(path);
    kr_free(path);
    return yes;
}

int kr_remove_old(const char *folder, const char *name, krait_error *e) {
    char *path = kr_path_join(folder, name);
    if (!path) return kr_fail_memory(e, folder);
    int rc = 0;
    if (kr_is_file(path) && unlink(path) != 0)
        rc = kr_fail(e, KRAIT_ERR_IO, "%s: an old file that cannot be removed", path);
    kr_free(path);
    return rc;
}
