/* run_log.h - log.jsonl: one JSON object a line, for what is the same in every run of one recipe.
 *
 * No times are written here (they go to the TensorBoard files), so a run that was killed and
 * resumed leaves the same bytes as one that was not: resuming cuts the file back to the length that
 * the checkpoint noted. */
#ifndef KR_RUN_LOG_H
#define KR_RUN_LOG_H

#include <krait/error.h>
#include <stdint.h>
#include <stdio.h>

typedef struct kr_run_log {
    FILE *stream;
    char path[1024];
    int64_t length; /* bytes so far */
} kr_run_log;

/* Opens `path` and cuts it to `length` bytes; a file that is shorter is an error. */
int kr_run_log_open(kr_run_log *l, const char *path, int64_t length, krait_error *e);
/* Adds one line and hands it to the system. Numbers that must survive: %.17g. */
int kr_run_log_line(kr_run_log *l, krait_error *e, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int kr_run_log_sync(kr_run_log *l, krait_error *e);
void kr_run_log_close(kr_run_log *l);

#endif
