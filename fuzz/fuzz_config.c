/* fuzz_config.c - libFuzzer target of config.json: any text is refused or gives sizes that hold. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "models/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kr_config c;
    if (kr_config_read_bytes(&c, (const char *)data, size, "input", NULL) < 0) return 0;
    if (kr_config_check(&c, NULL) < 0) abort();
    return 0;
}
