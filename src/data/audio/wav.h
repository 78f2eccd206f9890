/* wav.h - sound from a WAV file: PCM of 16 bits. */
#ifndef KR_WAV_H
#define KR_WAV_H

#include <krait/error.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kr_wav {
    const unsigned char
        *data; /* [count][channels] samples, little-endian, inside the file's bytes */
    int64_t count;
    int channels;
    int64_t rate; /* samples a second */
} kr_wav;

/* Finds the sound in a file's bytes. `path` is for messages. */
int kr_wav_parse(kr_wav *w, const unsigned char *bytes, size_t size, const char *path,
                 krait_error *e);
/* Sample i of a channel, in [-1, 1). */
static inline float kr_wav_at(const kr_wav *w, int64_t i, int channel) {
    const unsigned char *p = w->data + 2 * (i * w->channels + channel);
    return (float)(int16_t)(uint16_t)(p[0] | p[1] << 8) / 32768.0f;
}

#endif
