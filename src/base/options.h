/* options.h - reading the public options structs, which begin with their size. */
#ifndef KR_OPTIONS_H
#define KR_OPTIONS_H

#include <krait/error.h>
#include <stddef.h>

/* Copies the caller's struct over `to`, which holds the defaults and is `room` bytes: a program
 * built against an older header passes a smaller size and keeps the defaults of what it does not
 * know. A size of 0 or above `room` is refused, naming the struct `what`. given NULL: the defaults
 * stay. */
int kr_options_read(void *to, size_t room, const void *given, const char *what, krait_error *e);

#endif
