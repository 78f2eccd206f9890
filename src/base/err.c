/* err.c - one-line error messages. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <krait/version.h>

int kr_fail(krait_error *e, krait_err code, const char *format, ...) {
    if (!e) return code;
    e->code = code;
    va_list args;
    va_start(args, format);
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    /* One line whatever a file name or a foreign string held. */
    for (char *p = e->message; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    return code;
}

int kr_fail_memory(krait_error *e, const char *what) {
    return kr_fail(e, KRAIT_ERR_MEMORY, "not enough memory for %s", what);
}

int kr_fail_null(krait_error *e, const char *function) {
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: NULL argument", function);
}

int kr_fail_prefix(krait_error *e, const char *format, ...) {
    if (!e) return KRAIT_ERR_ARGUMENT;
    char prefix[sizeof e->message], old[sizeof e->message];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    memcpy(old, e->message, sizeof old);
    old[sizeof old - 1] = 0;
    return kr_fail(e, e->code, "%.200s: %.290s", prefix, old);
}

const char *krait_err_name(krait_err code) {
    switch (code) {
    case KRAIT_OK: return "KRAIT_OK";
    case KRAIT_ERR_ARGUMENT: return "KRAIT_ERR_ARGUMENT";
    case KRAIT_ERR_MEMORY: return "KRAIT_ERR_MEMORY";
    case KRAIT_ERR_IO: return "KRAIT_ERR_IO";
    case KRAIT_ERR_FORMAT: return "KRAIT_ERR_FORMAT";
    case KRAIT_ERR_SHAPE: return "KRAIT_ERR_SHAPE";
    case KRAIT_ERR_UNSUPPORTED: return "KRAIT_ERR_UNSUPPORTED";
    case KRAIT_ERR_NUMERIC: return "KRAIT_ERR_NUMERIC";
    case KRAIT_ERR_MISMATCH: return "KRAIT_ERR_MISMATCH";
    case KRAIT_ERR_CANCELLED: return "KRAIT_ERR_CANCELLED";
    }
    return "KRAIT_ERR_?";
}

const char *krait_version(void) { return KRAIT_VERSION; }
