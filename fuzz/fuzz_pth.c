/* fuzz_pth.c - libFuzzer target of torch.save archives: any bytes are read or refused. */
#include <stddef.h>
#include <stdint.h>

#include "formats/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kr_weights w = {0};
    uint64_t hash; /* the scan reads every byte of every tensor that was accepted */
    if (kr_pth_read_bytes(&w, data, size, "input", NULL) == 0) kr_weights_scan(&w, 1, &hash, NULL);
    kr_weights_free(&w);
    return 0;
}
