/* byte_chars.h - the characters that stand for bytes in byte-level vocabularies.
 *
 * The 188 bytes that print (! to ~, the Latin-1 characters from U+00A1 but the soft hyphen) stand
 * for themselves; the other 68 become U+0100, U+0101, ... in order (Radford et al. 2019, GPT-2). */
#ifndef KR_BYTE_CHARS_H
#define KR_BYTE_CHARS_H

#include <krait/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The code point of a byte, below 0x144. */
static inline uint32_t kr_byte_char(unsigned char b) {
    if (b <= 32) return 256u + b;
    if (b >= 127 && b <= 160) return 256u + 33 + (b - 127u);
    return b == 173 ? 256u + 67 : b;
}

/* The byte of a code point; -1: it stands for none. */
static inline int kr_char_byte(uint32_t c) {
    if (c < 256) return kr_byte_char((unsigned char)c) == c ? (int)c : -1;
    if (c <= 256 + 32) return (int)(c - 256);
    if (c <= 256 + 66) return (int)(c - 256 - 33 + 127);
    return c == 256 + 67 ? 173 : -1;
}

/* Writes the character of a byte as UTF-8 and returns its 1 or 2 bytes. */
static inline size_t kr_byte_put(unsigned char b, char *out) {
    uint32_t c = kr_byte_char(b);
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xC0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3F));
    return 2;
}

/* The bytes that a vocabulary string stands for, into out[size]: how many; where a character stands
 * for no byte, the string's own bytes (as Hugging Face decodes it), and *all is false. */
size_t kr_bytes_of_chars(const char *text, size_t size, char *out, bool *all);

#endif
