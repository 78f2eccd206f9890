/* fasta.h - the bases of FASTA files, plain or compressed by gzip. */
#ifndef KR_FASTA_H
#define KR_FASTA_H

#include <krait/error.h>
#include <stddef.h>
#include <stdint.h>

enum { KR_DNA_A, KR_DNA_C, KR_DNA_G, KR_DNA_T, KR_DNA_N, KR_DNA_IDS };

typedef struct kr_fasta {
    uint8_t *bases;                   /* [count], KR_DNA_..., records one after the other */
    int64_t count, records, unpacked; /* unpacked: bytes that came out of gzip */
    size_t capacity;
} kr_fasta;

/* Adds the bases of a file's bytes; other letters of the alphabet of nucleic acids (R, Y, ...) are
 * N. `most`: the most bases in all; compressed files may hold twice as many bytes, names and line
 * ends included, in all. */
int kr_fasta_add(kr_fasta *f, const unsigned char *bytes, size_t size, int64_t most,
                 const char *path, krait_error *e);
void kr_fasta_free(kr_fasta *f);

#endif
