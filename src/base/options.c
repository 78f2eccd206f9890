/* options.c - reading the public options structs, which begin with their size. */
#include "base/options.h"

#include <string.h>

#include "base/err.h"

int kr_options_read(void *to, size_t room, const void *given, const char *what, krait_error *e) {
    size_t size;
    if (!given) return 0;
    memcpy(&size, given, sizeof size);
    if (size < sizeof size || size > room)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "%s: its size says %zu, this library knows %zu: begin with its INIT macro",
                       what, size, room);
    memcpy(to, given, size);
    memcpy(to, &room, sizeof room);
    return 0;
}
