/* fuzz_jpeg.c - libFuzzer target of JPEG files: any bytes are refused, or give a picture of at most
 * as many pixels as were allowed. */
#include <stdlib.h>

#include "data/image/jpeg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { MOST = 4096 };
    kr_picture p = {0};
    int rc = kr_jpeg_decode(&p, data, size, MOST, "input", NULL);
    if (rc == 0 && (p.width < 1 || p.height < 1 || p.width * p.height > MOST)) abort();
    kr_picture_free(&p);
    return 0;
}
