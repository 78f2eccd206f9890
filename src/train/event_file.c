/* event_file.c - TensorBoard's record frames and the few fields of its messages, by hand. */
#define _DEFAULT_SOURCE
#include "train/event_file.h"

#include <errno.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/err.h"

/* A protobuf message being written; the capacity is what KR_MAX_SCALARS scalars can take. */
typedef struct message {
    unsigned char bytes[KR_MAX_SCALARS * 128 + 64];
    size_t size;
} message;

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

static void put_bytes(message *m, const void *bytes, size_t n) {
    if (n > sizeof m->bytes - m->size) n = sizeof m->bytes - m->size;
    memcpy(m->bytes + m->size, bytes, n);
    m->size += n;
}

static void put_varint(message *m, uint64_t x) {
    for (; x >= 128; x >>= 7) put_bytes(m, &(unsigned char){(unsigned char)(x | 128)}, 1);
    put_bytes(m, &(unsigned char){(unsigned char)x}, 1);
}

static void put_tag(message *m, unsigned field, unsigned type) { put_varint(m, field << 3 | type); }

static void put_little_endian(unsigned char *to, uint64_t x, int bytes) {
    for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(x >> 8 * i);
}

static void put_fixed(message *m, uint64_t x, int bytes) {
    unsigned char raw[8];
    put_little_endian(raw, x, bytes);
    put_bytes(m, raw, (size_t)bytes);
}

static void put_double(message *m, unsigned field, double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    put_tag(m, field, FIXED64);
    put_fixed(m, bits, 8);
}

static void put_float(message *m, unsigned field, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    put_tag(m, field, FIXED32);
    put_fixed(m, bits, 4);
}

static void put_block(message *m, unsigned field, const void *bytes, size_t n) {
    put_tag(m, field, BYTES);
    put_varint(m, n);
    put_bytes(m, bytes, n);
}

/* Event: wall_time = 1 (double), step = 2 (int64). */
static void put_event_head(message *m, int64_t step) {
    struct timeval now;
    gettimeofday(&now, NULL);
    put_double(m, 1, (double)now.tv_sec + (double)now.tv_usec * 1e-6);
    put_tag(m, 2, VARINT);
    put_varint(m, (uint64_t)step);
}

static uint32_t masked_crc(const void *bytes, size_t n) {
    uint32_t crc = kr_crc32c(0, bytes, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static int write_record(kr_event_file *f, const message *m, krait_error *e) {
    unsigned char head[12], tail[4];
    put_little_endian(head, m->size, 8);
    put_little_endian(head + 8, masked_crc(head, 8), 4);
    put_little_endian(tail, masked_crc(m->bytes, m->size), 4);
    if (fwrite(head, 12, 1, f->stream) == 1 && fwrite(m->bytes, m->size, 1, f->stream) == 1 &&
        fwrite(tail, 4, 1, f->stream) == 1 && fflush(f->stream) == 0)
        return 0;
    return kr_fail(e, KRAIT_ERR_IO, "%s: writing failed: %s", f->path, strerror(errno));
}

int kr_event_file_open(kr_event_file *f, const char *folder, int64_t step, krait_error *e) {
    static const char version[] = "brain.Event:2";
    char host[64] = "";
    struct timeval now;
    gettimeofday(&now, NULL);
    (void)gethostname(host, sizeof host - 1);
    snprintf(f->path, sizeof f->path, "%s/events.out.tfevents.%010lld.%s.%ld.%06ld", folder,
             (long long)now.tv_sec, host, (long)getpid(), (long)now.tv_usec);
    f->stream = fopen(f->path, "wb");
    if (!f->stream)
        return kr_fail(e, KRAIT_ERR_IO, "%s: cannot be written: %s", f->path, strerror(errno));
    message first = {.size = 0}, start = {.size = 0};
    put_event_head(&first, 0);
    put_block(&first, 3, version, sizeof version - 1); /* Event.file_version */
    KR_TRY(write_record(f, &first, e));
    put_event_head(&start, step);
    put_block(&start, 7, "\x08\x01", 2); /* Event.session_log { status: START } */
    return write_record(f, &start, e);
}

int kr_event_file_scalars(kr_event_file *f, int64_t step, const kr_scalar *scalars, int n,
                          krait_error *e) {
    message event = {.size = 0}, summary = {.size = 0};
    for (int i = 0; i < n && i < KR_MAX_SCALARS; i++) {
        message value = {.size = 0}; /* Summary.Value: tag = 1, simple_value = 2 */
        put_block(&value, 1, scalars[i].name, strlen(scalars[i].name));
        put_float(&value, 2, (float)scalars[i].value);
        put_block(&summary, 1, value.bytes, value.size);
    }
    put_event_head(&event, step);
    put_block(&event, 5, summary.bytes, summary.size); /* Event.summary */
    return write_record(f, &event, e);
}

void kr_event_file_close(kr_event_file *f) {
    if (f->stream) fclose(f->stream);
    f->stream = NULL;
}
