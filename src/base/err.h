/* err.h - filling the caller's krait_error. */
#ifndef KR_ERR_H
#define KR_ERR_H

#include <krait/error.h>

/* Writes code and message into e (which may be NULL) and returns code, so that `return kr_fail(e,
 * ...)` reads well. The first failure wins where a caller passes one krait_error along: callers
 * stop at the first negative return. */
int kr_fail(krait_error *e, krait_err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Out of memory while making `what` ("session", "tokenizer"). */
int kr_fail_memory(krait_error *e, const char *what);

/* A public function was given NULL where it needs something. */
int kr_fail_null(krait_error *e, const char *function);

/* Puts "prefix: " before a message already in e: a caller adds the file or the layer that the
 * callee could not know. */
int kr_fail_prefix(krait_error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The code of the failure that e tells, for callers of what returns NULL instead of it. */
static inline int kr_code(const krait_error *e) { return e ? e->code : KRAIT_ERR_UNSUPPORTED; }

/* Runs an expression that returns 0 or a krait_err, and returns from the function if it failed. */
#define KR_TRY(expr)                                                                               \
    do {                                                                                           \
        int kr_try_rc_ = (expr);                                                                   \
        if (kr_try_rc_ < 0) return kr_try_rc_;                                                     \
    } while (0)

/* The same, going to a cleanup label with `rc` set. */
#define KR_TRY_GOTO(expr, label)                                                                   \
    do {                                                                                           \
        rc = (expr);                                                                               \
        if (rc < 0) goto label;                                                                    \
    } while (0)

#endif
