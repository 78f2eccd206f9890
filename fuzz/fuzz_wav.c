/* fuzz_wav.c - libFuzzer target of WAV files: any bytes are refused, or every sample that was
 * promised can be read and lies in [-1, 1). */
#include <stdlib.h>

#include "data/audio/wav.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kr_wav w;
    if (kr_wav_parse(&w, data, size, "input", NULL) < 0) return 0;
    for (int64_t i = 0; i < w.count; i++)
        for (int k = 0; k < w.channels; k++) {
            float x = kr_wav_at(&w, i, k);
            if (!(x >= -1 && x < 1)) abort();
        }
    return 0;
}
