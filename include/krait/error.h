/* error.h - how every call of the library reports failure.
 *
 * A function of the library returns 0 (KRAIT_OK) or a negative krait_err. The sentence that names
 * the cause (which file, which tensor, what was expected, what was found, what to do) is written
 * into the caller's krait_error when the caller passed one. The library never prints, exits or
 * aborts.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KRAIT_ERROR_H
#define KRAIT_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KRAIT_API __attribute__((visibility("default")))
#else
#define KRAIT_API
#endif

typedef enum krait_err {
    KRAIT_OK = 0,
    KRAIT_ERR_ARGUMENT = -1, /* the caller's argument is outside what the function documents */
    KRAIT_ERR_MEMORY = -2,   /* an allocation failed */
    /* the operating system refused a file: missing, unreadable, disk full */
    KRAIT_ERR_IO = -3,
    KRAIT_ERR_FORMAT = -4,      /* a file is damaged, hostile or not of its format */
    KRAIT_ERR_SHAPE = -5,       /* a tensor's shape or type does not fit where it is used */
    KRAIT_ERR_UNSUPPORTED = -6, /* well formed, but not something this build can do */
    KRAIT_ERR_NUMERIC = -7,     /* a NaN or an infinity where none may be */
    /* two things that must belong together do not (a state and a model) */
    KRAIT_ERR_MISMATCH = -8,
    KRAIT_ERR_CANCELLED = -9 /* a callback asked to stop */
} krait_err;

/* Filled on failure, untouched on success. `message` is one line, always terminated. */
typedef struct krait_error {
    krait_err code;
    char message[500];
} krait_error;

/* The name of a code, as "KRAIT_ERR_FORMAT"; never NULL. */
KRAIT_API const char *krait_err_name(krait_err code);

#ifdef __cplusplus
}
#endif
#endif
