/* state_file.c - parsing and writing state files; state_file.h has the layout. Knows nothing of
 * models and sessions. */
#include "serve/state_file.h"

#include <inttypes.h>

#include "base/err.h"
#include "base/file.h"

#define MAGIC "KRAITSTA"
#define VERSION 1u
#define BYTE_ORDER_MARK 0x01020304u
#define HEADER 56u
#define MAX_TENSORS 65536u

static uint64_t checksum(uint64_t h, const void *bytes, size_t size) {
    const unsigned char *p = bytes;
    for (size_t i = 0; i < size; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static const uint64_t checksum_start = 0xcbf29ce484222325u;

static uint32_t get32(const unsigned char *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static uint64_t get64(const unsigned char *p) {
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

uint64_t kr_state_tensor_bytes(const kr_state_file *f, uint32_t i) {
    return get64(f->sizes + 8u * i);
}

static int check_kind(const unsigned char *bytes, size_t size, const char *name, krait_error *e) {
    if (size < 8 || memcmp(bytes, MAGIC, 8) != 0)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: not a state file (written by --state-out)", name);
    if (size < HEADER + 8)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: truncated: %zu bytes, the header alone takes %u",
                       name, size, HEADER);
    if (get32(bytes + 12) != BYTE_ORDER_MARK)
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "%s: written on a machine of the other byte order",
                       name);
    if (get32(bytes + 8) != VERSION)
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "%s: version %" PRIu32 "; this krait reads %u",
                       name, get32(bytes + 8), VERSION);
    return 0;
}

/* The sizes of the tensors add up to the payload, and header, payload and checksum to the file. */
static int check_sizes(const kr_state_file *f, size_t size, const char *name, krait_error *e) {
    uint64_t head = HEADER + 8u * (uint64_t)f->n_tensors, sum = 0;
    if (f->payload_bytes > UINT64_MAX / 2 || size != head + f->payload_bytes + 8)
        return kr_fail(e, KRAIT_ERR_FORMAT,
                       "%s: %s: its header says %" PRIu64
                       " bytes of state, the file has %zu bytes in all",
                       name, size < head + f->payload_bytes + 8 ? "truncated" : "damaged",
                       f->payload_bytes, size);
    for (uint32_t i = 0; i < f->n_tensors; i++) {
        uint64_t bytes = kr_state_tensor_bytes(f, i);
        if (bytes > f->payload_bytes - sum)
            return kr_fail(e, KRAIT_ERR_FORMAT, "%s: damaged: tensor %" PRIu32 " leaves the file",
                           name, i);
        sum += bytes;
    }
    if (sum == f->payload_bytes) return 0;
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: damaged: %" PRIu64 " bytes belong to no tensor", name,
                   f->payload_bytes - sum);
}

int kr_state_parse(kr_state_file *f, const unsigned char *bytes, size_t size, const char *name,
                   krait_error *e) {
    KR_TRY(check_kind(bytes, size, name, e));
    uint32_t dtype = get32(bytes + 24);
    uint64_t position = get64(bytes + 32);
    *f = (kr_state_file){.model_hash = get64(bytes + 16),
                         .n_tensors = get32(bytes + 28),
                         .next = (int32_t)get32(bytes + 40),
                         .payload_bytes = get64(bytes + 48),
                         .sizes = bytes + HEADER};
    if (f->n_tensors > MAX_TENSORS || dtype >= KR_DTYPE_COUNT || position > INT64_MAX ||
        f->next < -1 || get32(bytes + 44) != 0)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: damaged: its header makes no sense", name);
    f->dtype = (kr_dtype)dtype;
    if (f->dtype != KR_F32 && f->dtype != KR_BF16)
        return kr_fail(e, KRAIT_ERR_FORMAT,
                       "%s: damaged: states of type %s, krait has f32 and bf16", name,
                       kr_dtype_name(f->dtype));
    f->position = (int64_t)position;
    KR_TRY(check_sizes(f, size, name, e));
    f->payload = f->sizes + 8u * (size_t)f->n_tensors;
    if (checksum(checksum_start, bytes, size - 8) == get64(bytes + size - 8)) return 0;
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: damaged: its checksum does not fit its bytes", name);
}

/* Writes bytes and carries the checksum on. */
static int put(kr_out *out, uint64_t *sum, const void *bytes, size_t size, krait_error *e) {
    *sum = checksum(*sum, bytes, size);
    return kr_out_write(out, bytes, size, e);
}

static int write_all(kr_out *out, const kr_state_file *f, const void *const *parts,
                     const uint64_t *sizes, krait_error *e) {
    unsigned char head[HEADER] = MAGIC;
    uint32_t words[2] = {VERSION, BYTE_ORDER_MARK}, kind[2] = {(uint32_t)f->dtype, f->n_tensors};
    uint64_t sum = checksum_start, payload = 0;
    for (uint32_t i = 0; i < f->n_tensors; i++) payload += sizes[i];
    memcpy(head + 8, words, 8);
    memcpy(head + 16, &f->model_hash, 8);
    memcpy(head + 24, kind, 8);
    memcpy(head + 32, &f->position, 8);
    memcpy(head + 40, &f->next, 4);
    memcpy(head + 48, &payload, 8);
    KR_TRY(put(out, &sum, head, HEADER, e));
    KR_TRY(put(out, &sum, sizes, 8u * (size_t)f->n_tensors, e));
    for (uint32_t i = 0; i < f->n_tensors; i++)
        KR_TRY(put(out, &sum, parts[i], (size_t)sizes[i], e));
    return kr_out_write(out, &sum, 8, e);
}

int kr_state_write(const kr_state_file *f, const void *const *parts, const uint64_t *sizes,
                   const char *path, krait_error *e) {
    kr_out out;
    KR_TRY(kr_out_open(&out, path, e));
    int rc = write_all(&out, f, parts, sizes, e);
    if (rc == 0) rc = kr_out_commit(&out, e);
    kr_out_abort(&out);
    return rc;
}
