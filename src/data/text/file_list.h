/* file_list.h - the files behind paths given by a user: files as they are, folders sorted and
 * recursive. */
#ifndef KR_FILE_LIST_H
#define KR_FILE_LIST_H

#include <krait/error.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kr_file_entry {
    char *path;                   /* "-": stdin */
    int64_t size;                 /* -1: unknown (stdin, a pipe) */
    int64_t seconds, nanoseconds; /* of the last change */
} kr_file_entry;

typedef struct kr_file_list {
    kr_file_entry *files;
    size_t count, capacity;
} kr_file_list;

/* Names that begin with "." are left out of folders, and folders behind symbolic links are not
 * entered. */
int kr_file_list_add(kr_file_list *l, const char *path, krait_error *e);
void kr_file_list_free(kr_file_list *l);

#endif
