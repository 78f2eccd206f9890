/* utf8.h - stepping through UTF-8 that may be damaged. */
#ifndef KR_UTF8_H
#define KR_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The length (1 to 4) of the valid sequence at text[0], its code point in *c; 0: none is there. */
size_t kr_utf8_step(const char *text, size_t size, uint32_t *c);

/* How many leading bytes are valid UTF-8. */
size_t kr_utf8_valid(const char *text, size_t size);

#endif
