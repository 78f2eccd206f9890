/* fuzz_state_file.c - libFuzzer target of the state file parser: any bytes are read or refused. */
#include <stddef.h>
#include <stdint.h>

#include "serve/state_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sum; /* keeps the reads */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kr_state_file f;
    if (kr_state_parse(&f, data, size, "input", NULL) < 0) return 0;
    /* what was accepted can be read to its last byte */
    for (uint32_t i = 0; i < f.n_tensors; i++) sum += kr_state_tensor_bytes(&f, i);
    for (uint64_t i = 0; i < f.payload_bytes; i++) sum += f.payload[i];
    (void)sum;
    return 0;
}
