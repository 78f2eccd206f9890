/* run_log.c - the JSON lines of a run. */
#define _DEFAULT_SOURCE
#include "train/run_log.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"

static int system_error(const kr_run_log *l, krait_error *e) {
    return kr_fail(e, KRAIT_ERR_IO, "%s: writing failed: %s", l->path, strerror(errno));
}

int kr_run_log_open(kr_run_log *l, const char *path, int64_t length, krait_error *e) {
    struct stat st;
    snprintf(l->path, sizeof l->path, "%s", path);
    l->length = length;
    l->stream = fopen(path, "ab");
    if (!l->stream || fstat(fileno(l->stream), &st) != 0) return system_error(l, e);
    if (st.st_size < length)
        return kr_fail(e, KRAIT_ERR_MISMATCH,
                       "%s: has %lld bytes, fewer than the %lld it had at the checkpoint: put the "
                       "whole file back, or train into another folder",
                       path, (long long)st.st_size, (long long)length);
    if (ftruncate(fileno(l->stream), length) != 0) return system_error(l, e);
    return 0;
}

int kr_run_log_line(kr_run_log *l, krait_error *e, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vfprintf(l->stream, format, args);
    va_end(args);
    if (n < 0 || fputc('\n', l->stream) == EOF || fflush(l->stream) != 0) return system_error(l, e);
    l->length += n + 1;
    return 0;
}

int kr_run_log_sync(kr_run_log *l, krait_error *e) {
    if (fflush(l->stream) != 0 || fsync(fileno(l->stream)) != 0) return system_error(l, e);
    return 0;
}

void kr_run_log_close(kr_run_log *l) {
    if (l->stream) fclose(l->stream);
    l->stream = NULL;
}
