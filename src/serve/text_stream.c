/* text_stream.c - an incremental UTF-8 validator; table 3-7 of the Unicode standard gives the
 * ranges. */
#include "serve/text_stream.h"

#include <string.h>

#include "base/mem.h"

/* Length of the sequence that `lead` begins; 0: it begins none. */
static size_t sequence_length(unsigned char lead) {
    if (lead < 0x80) return 1;
    if (lead >= 0xc2 && lead <= 0xdf) return 2;
    if (lead >= 0xe0 && lead <= 0xef) return 3;
    if (lead >= 0xf0 && lead <= 0xf4) return 4;
    return 0;
}

/* Whether `next` can follow the held bytes: the second byte's range keeps out overlong forms,
 * surrogates and > U+10FFFF. */
static bool fits(const unsigned char *held, size_t n, unsigned char next) {
    unsigned char low = 0x80, high = 0xbf;
    if (n == 1) {
        if (held[0] == 0xe0) low = 0xa0;
        if (held[0] == 0xed) high = 0x9f;
        if (held[0] == 0xf0) low = 0x90;
        if (held[0] == 0xf4) high = 0x8f;
    }
    return next >= low && next <= high;
}

static void append(kr_text_stream *s, const void *bytes, size_t n) {
    memcpy(s->text + s->length, bytes, n);
    s->length += n;
}

static void give_up_held(kr_text_stream *s) {
    if (s->n_held > 0) append(s, "\xef\xbf\xbd", 3);
    s->n_held = 0;
}

static void push_byte(kr_text_stream *s, unsigned char byte) {
    if (s->n_held > 0 && !fits(s->held, s->n_held, byte)) give_up_held(s);
    if (s->n_held == 0 && sequence_length(byte) == 0) {
        append(s, "\xef\xbf\xbd", 3);
        return;
    }
    s->held[s->n_held++] = byte;
    if (s->n_held < sequence_length(s->held[0])) return;
    append(s, s->held, s->n_held);
    s->n_held = 0;
}

int kr_text_push(kr_text_stream *s, const char *bytes, size_t n) {
    size_t need = s->length + 3 * (n + 2) + 1; /* each byte, and what was held, at most 3 bytes */
    if (kr_grow((void **)&s->text, &s->capacity, need, 1) < 0) return -1;
    for (size_t i = 0; i < n; i++) push_byte(s, (unsigned char)bytes[i]);
    s->text[s->length] = 0;
    return 0;
}

int kr_text_end(kr_text_stream *s) {
    if (kr_text_push(s, "", 0) < 0) return -1;
    give_up_held(s);
    s->text[s->length] = 0;
    return 0;
}

void kr_text_free(kr_text_stream *s) {
    kr_free(s->text);
    *s = (kr_text_stream){0};
}
