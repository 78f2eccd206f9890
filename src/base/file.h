/* file.h - whole files: mapping for reading, and writing that never leaves a half-written file
 * behind. */
#ifndef KR_FILE_H
#define KR_FILE_H

#include <krait/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* A file mapped read-only and private. `data` may be NULL when size is 0. */
typedef struct kr_map {
    const unsigned char *data;
    size_t size;
} kr_map;

/* Errors name the path and the system's reason. The file may be closed or unlinked afterwards. */
int kr_map_open(kr_map *map, const char *path, krait_error *e);
void kr_map_close(kr_map *map);
/* Bytes [at, at + size) of the mapping are not needed soon: their memory goes back to the system,
 * and comes again from the file when they are read. */
void kr_map_forget(const kr_map *map, const void *at, size_t size);

/* An output file under a temporary name in the same folder. kr_out_commit flushes, syncs and
 * renames it to `path` and syncs the folder; until then the old file stays whole. kr_out_abort
 * removes the temporary file; both are safe to call twice. Temporary names end in ".tmp-<pid>".
 * What exists and is no regular file (a pipe, a device) is written directly, and never replaced. */
typedef struct kr_out {
    FILE *stream;
    char *path;
    char *temporary;
} kr_out;

int kr_out_open(kr_out *out, const char *path, krait_error *e);
/* Whether it can be opened, for who works long before there is something to write; leaves nothing,
 * and a pipe alone. */
int kr_out_check(const char *path, krait_error *e);
int kr_out_write(kr_out *out, const void *bytes, size_t size, krait_error *e);
int kr_out_commit(kr_out *out, krait_error *e);
void kr_out_abort(kr_out *out);

bool kr_is_dir(const char *path);
bool kr_is_file(const char *path);
int kr_make_dirs(const char *path, krait_error *e); /* like mkdir -p */
/* Whether a folder has a file of this name; not where memory fails. */
bool kr_holds_file(const char *folder, const char *name);
/* Removes folder/name, which something that was written replaces, if it is there. */
int kr_remove_old(const char *folder, const char *name, krait_error *e);
int kr_sync_dir(const char *path, krait_error *e);
/* kr_free it; NULL when memory fails */
char *kr_path_join(const char *folder, const char *name);

#endif
