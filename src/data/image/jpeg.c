/* jpeg.c - decoding with libjpeg's defaults (slow integer DCT, smooth chroma), its errors turned
 * into ours. */
#include "data/image/jpeg.h"

#include "base/err.h"
#include "base/mem.h"

void kr_picture_free(kr_picture *p) {
    kr_free(p->pixels);
    *p = (kr_picture){0};
}

#ifndef KR_HAVE_JPEG

int kr_jpeg_decode(kr_picture *p, const unsigned char *bytes, size_t size, int64_t most,
                   const char *path, krait_error *e) {
    (void)p, (void)bytes, (void)size, (void)most;
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "%s: this build reads no JPEG: install libjpeg-turbo (Debian: libjpeg-dev) and "
                   "build again",
                   path);
}

#else

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

typedef struct catcher {
    struct jpeg_error_mgr base;
    jmp_buf back;
    char message[JMSG_LENGTH_MAX];
} catcher;

static void on_error(j_common_ptr c) {
    catcher *k = (catcher *)c->err;
    k->base.format_message(c, k->message);
    longjmp(k->back, 1);
}

/* A warning means damaged data: a picture that is half there is refused. */
static void on_message(j_common_ptr c, int level) {
    if (level < 0) on_error(c);
}

/* Runs between setjmp and longjmp: owns nothing but what *p holds. */
static int decode(struct jpeg_decompress_struct *c, kr_picture *p, const unsigned char *bytes,
                  size_t size, int64_t most, const char *path, krait_error *e) {
    jpeg_mem_src(c, bytes, size);
    jpeg_read_header(c, TRUE);
    int64_t pixels = (int64_t)c->image_width * c->image_height;
    if (pixels > most)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: %u x %u pixels, at most %lld are read", path,
                       c->image_width, c->image_height, (long long)most);
    c->out_color_space = JCS_RGB;
    jpeg_start_decompress(c);
    p->width = c->output_width;
    p->height = c->output_height;
    if (kr_grow((void **)&p->pixels, &p->capacity, (size_t)(3 * pixels), 1))
        return kr_fail_memory(e, path);
    while (c->output_scanline < c->output_height) {
        JSAMPROW row = p->pixels + (size_t)3 * c->output_scanline * c->output_width;
        jpeg_read_scanlines(c, &row, 1);
    }
    jpeg_finish_decompress(c);
    return 0;
}

int kr_jpeg_decode(kr_picture *p, const unsigned char *bytes, size_t size, int64_t most,
                   const char *path, krait_error *e) {
    struct jpeg_decompress_struct c;
    catcher k;
    c.err = jpeg_std_error(&k.base);
    k.base.error_exit = on_error;
    k.base.emit_message = on_message;
    if (setjmp(k.back)) {
        jpeg_destroy_decompress(&c);
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: no JPEG that can be read: %s", path, k.message);
    }
    jpeg_create_decompress(&c);
    int rc = decode(&c, p, bytes, size, most, path, e);
    jpeg_destroy_decompress(&c);
    return rc;
}

#endif
