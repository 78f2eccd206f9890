/* jpeg.h - pictures from JPEG files, by libjpeg-turbo. */
#ifndef KR_JPEG_H
#define KR_JPEG_H

#include <krait/error.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kr_picture {
    int64_t width, height;
    uint8_t *pixels; /* [height, width, 3]: red, green, blue */
    size_t capacity; /* kept from picture to picture */
} kr_picture;

/* Decodes a file's bytes; pictures above `most` pixels are refused before memory is taken. Without
 * libjpeg in the build: an error that says so. */
int kr_jpeg_decode(kr_picture *p, const unsigned char *bytes, size_t size, int64_t most,
                   const char *path, krait_error *e);
void kr_picture_free(kr_picture *p);

#endif
