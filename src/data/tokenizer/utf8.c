/* utf8.c - the well-formed sequences of UTF-8 (Unicode standard, table 3-7). */
#include "data/tokenizer/utf8.h"

#include <string.h>

size_t kr_utf8_step(const char *text, size_t size, uint32_t *c) {
    const unsigned char *s = (const unsigned char *)text;
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (size == 0) return 0;
    *c = s[0];
    if (s[0] < 0x80) return 1;
    size_t n = s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    if (n == 0 || n > size) return 0;
    *c = s[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0;
        *c = *c << 6 | (s[i] & 0x3Fu);
    }
    if (*c < least[n] || *c > 0x10FFFF || (*c >= 0xD800 && *c < 0xE000)) return 0;
    return n;
}

size_t kr_utf8_valid(const char *text, size_t size) {
    size_t at = 0;
    while (at < size) {
        uint64_t eight;
        while (at + 8 <= size) { /* eight ASCII characters at once */
            memcpy(&eight, text + at, 8);
            if (eight & 0x8080808080808080u) break;
            at += 8;
        }
        uint32_t c;
        size_t n = kr_utf8_step(text + at, size - at, &c);
        if (n == 0) break;
        at += n;
    }
    return at;
}
