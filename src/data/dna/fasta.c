/* fasta.c - FASTA: a line that begins with > names a record, the lines below hold its letters. Read
 * in pieces, so that a gzip bomb is stopped at the limit, whether of bases or of what is none. */
#include "data/dna/fasta.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>
#include <zlib.h>

#include "base/err.h"
#include "base/mem.h"

typedef struct reader {
    kr_fasta *f;
    const char *path;
    int64_t most, line;
    bool begun, in_name; /* a record has begun; inside its name */
} reader;

/* -1: no letter of nucleic acids. */
static int base_of(int c) {
    static const char letters[] = "ACGT";
    const char *p = strchr(letters, toupper(c));
    if (p && c) return (int)(p - letters);
    if (c == 'U' || c == 'u') return KR_DNA_T;
    return c && strchr("NRYSWKMBDHVnryswkmbdhv-", c) ? KR_DNA_N : -1;
}

static int take(reader *r, int c, krait_error *e) {
    if (c == '\n') {
        r->line++;
        r->in_name = false;
        return 0;
    }
    if (r->in_name || c == '\r' || c == ' ' || c == '\t') return 0;
    if (c == '>') {
        r->in_name = r->begun = true;
        r->f->records++;
        return 0;
    }
    int base = base_of(c);
    if (base < 0 || !r->begun)
        return kr_fail(e, KRAIT_ERR_FORMAT,
                       r->begun ? "%s: line %lld: byte %d is no letter of DNA"
                                : "%s: line %lld: no FASTA file (byte %d where > is expected)",
                       r->path, (long long)r->line, c);
    if (r->f->count >= r->most)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: line %lld: more than %lld bases in all", r->path,
                       (long long)r->line, (long long)r->most);
    if (kr_grow((void **)&r->f->bases, &r->f->capacity, (size_t)r->f->count + 1, 1))
        return kr_fail_memory(e, r->path);
    r->f->bases[r->f->count++] = (uint8_t)base;
    return 0;
}

static int take_all(reader *r, const unsigned char *bytes, size_t size, krait_error *e) {
    for (size_t i = 0; i < size; i++) KR_TRY(take(r, bytes[i], e));
    return 0;
}

/* One or several gzip members. */
static int unpack(reader *r, z_stream *z, krait_error *e) {
    unsigned char piece[1 << 14];
    for (int state = Z_OK; z->avail_in > 0 || state == Z_OK;) {
        z->next_out = piece;
        z->avail_out = sizeof piece;
        state = inflate(z, Z_NO_FLUSH);
        bool stuck = state == Z_BUF_ERROR || (z->avail_in == 0 && z->avail_out == sizeof piece);
        if (state != Z_STREAM_END && (state != Z_OK || stuck))
            return kr_fail(e, KRAIT_ERR_FORMAT, "%s: damaged or cut off (gzip: %s)", r->path,
                           z->msg ? z->msg : "unexpected end");
        size_t n = sizeof piece - z->avail_out;
        r->f->unpacked += (int64_t)n;
        KR_TRY(take_all(r, piece, n, e));
        if (r->f->unpacked > 2 * r->most)
            return kr_fail(e, KRAIT_ERR_FORMAT,
                           "%s: line %lld: more than %lld bytes unpacked in all", r->path,
                           (long long)r->line, (long long)(2 * r->most));
        if (state == Z_STREAM_END && z->avail_in > 0 && inflateReset(z) != Z_OK)
            return kr_fail_memory(e, r->path);
    }
    return 0;
}

int kr_fasta_add(kr_fasta *f, const unsigned char *bytes, size_t size, int64_t most,
                 const char *path, krait_error *e) {
    reader r = {.f = f, .path = path, .most = most, .line = 1};
    bool packed = size >= 2 && bytes[0] == 0x1F && bytes[1] == 0x8B;
    if (!packed) return take_all(&r, bytes, size, e);
    if (size > UINT32_MAX)
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "%s: compressed files above 4 GiB", path);
    z_stream z = {.next_in = (unsigned char *)(uintptr_t)bytes, .avail_in = (uInt)size};
    if (inflateInit2(&z, 15 + 16) != Z_OK) return kr_fail_memory(e, path);
    int rc = unpack(&r, &z, e);
    inflateEnd(&z);
    return rc;
}

void kr_fasta_free(kr_fasta *f) {
    kr_free(f->bases);
    *f = (kr_fasta){0};
}
