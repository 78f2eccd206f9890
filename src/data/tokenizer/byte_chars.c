/* byte_chars.c - vocabulary strings back to bytes. */
#include "data/tokenizer/byte_chars.h"

#include <string.h>

#include "data/tokenizer/utf8.h"

size_t kr_bytes_of_chars(const char *text, size_t size, char *out, bool *all) {
    size_t n = 0;
    *all = true;
    for (size_t i = 0, step; i < size && *all; i += step) {
        uint32_t c = 0;
        step = kr_utf8_step(text + i, size - i, &c);
        int byte = step ? kr_char_byte(c) : -1;
        *all = byte >= 0;
        if (*all) out[n++] = (char)byte;
    }
    if (*all) return n;
    memcpy(out, text, size);
    return size;
}
