/* fuzz_fasta.c - libFuzzer target of FASTA files, plain and gzip: any bytes are refused, or give
 * bases that are ids, at most as many as were allowed. */
#include <stdlib.h>

#include "data/dna/fasta.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { MOST = 100000 };
    kr_fasta f = {0};
    (void)kr_fasta_add(&f, data, size, MOST, "input", NULL);
    if (f.count > MOST || f.records < 0) abort();
    for (int64_t i = 0; i < f.count; i++)
        if (f.bases[i] >= KR_DNA_IDS) abort();
    kr_fasta_free(&f);
    return 0;
}
