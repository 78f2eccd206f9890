/* nfc.h - Unicode normal form C of valid UTF-8, by utf8proc. */
#ifndef KR_NFC_H
#define KR_NFC_H

#include <krait/error.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kr_nfc {
    char *text; /* the result of the last call, when it differs from its input */
    size_t capacity;
    int32_t *points;
    size_t points_capacity;
} kr_nfc;

/* *out is the normal form: the input itself where nothing can change, else memory of *n, valid
 * until the next call. */
int kr_nfc_run(kr_nfc *n, const char *text, size_t size, const char **out, size_t *out_size,
               krait_error *e);
void kr_nfc_free(kr_nfc *n);

#endif
