/* text_stream.h - bytes as tokens bring them -> valid UTF-8, as early as it can be shown. */
#ifndef KR_TEXT_STREAM_H
#define KR_TEXT_STREAM_H

#include <stdbool.h>
#include <stddef.h>

typedef struct kr_text_stream {
    char *text; /* all valid text so far, terminated once kr_text_push returned */
    size_t length, capacity;
    unsigned char held[4]; /* the start of a sequence that is not complete */
    size_t n_held;
} kr_text_stream;

/* Appends bytes. What is no UTF-8 becomes U+FFFD, one for each maximal part of a sequence, as the
 * Unicode standard recommends. -1: no memory. */
int kr_text_push(kr_text_stream *s, const char *bytes, size_t n);
/* Ends the stream: an incomplete sequence becomes U+FFFD. */
int kr_text_end(kr_text_stream *s);
void kr_text_free(kr_text_stream *s);

#endif
