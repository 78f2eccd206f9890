/* pth_write.c - pytorch_model.bin as torch.load reads it: a zip archive of a pickle and of storages
 * (pth.c has the layout).
 *
 * The pickle is that of torch.save, in protocol 2: a dictionary whose values are calls of
 * torch._utils._rebuild_tensor_v2 on storages that it names by number. Tensors at one place in
 * memory share a storage: a tied head is tied again where the file is loaded. The archive is
 * written by libzip through the source below, uncompressed, and appears whole or not at all. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zip.h>

#include "base/err.h"
#include "base/mem.h"
#include "formats/weights.h"

#define FOLDER "pytorch_model/"

/* ---- the pickle ---- */

typedef struct pickle {
    unsigned char *bytes;
    size_t size, capacity;
    bool failed;
} pickle;

static void put(pickle *p, const void *bytes, size_t n) {
    if (p->failed) return;
    if (p->size + n > p->capacity) {
        size_t capacity = 2 * (p->size + n) + 4096;
        unsigned char *grown = kr_realloc(p->bytes, capacity);
        p->failed = !grown;
        if (!grown) return;
        p->bytes = grown;
        p->capacity = capacity;
    }
    memcpy(p->bytes + p->size, bytes, n);
    p->size += n;
}

static void put_text(pickle *p, const char *text) { put(p, text, strlen(text)); }

static void put_little(pickle *p, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) put(p, &(unsigned char){(unsigned char)(v >> 8 * i)}, 1);
}

/* BINUNICODE */
static void put_string(pickle *p, const char *text) {
    put_text(p, "X");
    put_little(p, strlen(text), 4);
    put_text(p, text);
}

/* BININT, or LONG1 of 8 bytes. */
static void put_int(pickle *p, int64_t v) {
    bool small = v <= INT32_MAX;
    put(p, small ? "J" : "\x8a\x08", small ? 1 : 2);
    put_little(p, (uint64_t)v, small ? 4 : 8);
}

static void put_tuple(pickle *p, const int64_t *v, int n) {
    put_text(p, "(");
    for (int i = 0; i < n; i++) put_int(p, v[i]);
    put_text(p, "t");
}

static const char *storage_of(kr_dtype t) {
    switch (t) {
    case KR_F32: return "FloatStorage";
    case KR_F64: return "DoubleStorage";
    case KR_BF16: return "BFloat16Storage";
    case KR_F16: return "HalfStorage";
    case KR_I64: return "LongStorage";
    case KR_I32: return "IntStorage";
    case KR_U8: return "ByteStorage";
    default: return NULL;
    }
}

static void put_tensor(pickle *p, const kr_tensor *t, int64_t storage) {
    char key[24];
    snprintf(key, sizeof key, "%lld", (long long)storage);
    put_text(p, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_string(p, "storage");
    put_text(p, "ctorch\n");
    put_text(p, storage_of(t->dtype));
    put_text(p, "\n");
    put_string(p, key);
    put_string(p, "cpu");
    put_int(p, kr_tensor_count(t));
    put_text(p, "tQ"); /* the storage: a persistent id */
    put_int(p, 0);
    put_tuple(p, t->shape, t->rank);
    put_tuple(p, t->stride, t->rank);
    put_text(p, "\x89"
                "ccollections\nOrderedDict\n)RtR"); /* no gradient, no hooks */
}

/* The first tensor at the same place. */
static int64_t storage_at(const kr_weights *w, int64_t i) {
    for (int64_t k = 0; k < i; k++)
        if (w->items[k].tensor.data == w->items[i].tensor.data &&
            kr_tensor_bytes(&w->items[k].tensor) == kr_tensor_bytes(&w->items[i].tensor) &&
            w->items[k].tensor.dtype == w->items[i].tensor.dtype)
            return k;
    return i;
}

static void put_all(pickle *p, const kr_weights *w) {
    put(p, "\x80\x02}(", 4);
    for (int64_t i = 0; i < w->count; i++) {
        put_string(p, w->items[i].name);
        put_tensor(p, &w->items[i].tensor, storage_at(w, i));
    }
    put_text(p, "u.");
}

/* ---- where libzip writes to ---- */

typedef struct sink {
    kr_out *out;
    zip_error_t error;
} sink;

static zip_int64_t sink_fail(sink *s) {
    zip_error_set(&s->error, ZIP_ER_WRITE, errno);
    return -1;
}

static zip_int64_t sink_seek(sink *s, void *data, zip_uint64_t length) {
    zip_source_args_seek_t *to =
        ZIP_SOURCE_GET_ARGS(zip_source_args_seek_t, data, length, &s->error);
    if (!to) return -1;
    return fseeko(s->out->stream, to->offset, to->whence) == 0 ? 0 : sink_fail(s);
}

static zip_int64_t sink_call(void *user, void *data, zip_uint64_t length,
                             zip_source_cmd_t command) {
    sink *s = user;
    switch (command) {
    case ZIP_SOURCE_STAT: /* there is nothing yet */
        zip_stat_init(data);
        zip_error_set(&s->error, ZIP_ER_READ, ENOENT);
        return -1;
    case ZIP_SOURCE_WRITE:
        if (fwrite(data, 1, length, s->out->stream) != length) return sink_fail(s);
        return (zip_int64_t)length;
    case ZIP_SOURCE_SEEK_WRITE: return sink_seek(s, data, length);
    case ZIP_SOURCE_TELL_WRITE: return ftello(s->out->stream);
    case ZIP_SOURCE_ERROR: return zip_error_to_data(&s->error, data, length);
    case ZIP_SOURCE_BEGIN_WRITE:
    case ZIP_SOURCE_COMMIT_WRITE: /* kr_out_commit does */
    case ZIP_SOURCE_ROLLBACK_WRITE:
    case ZIP_SOURCE_REMOVE:
    case ZIP_SOURCE_CLOSE:
    case ZIP_SOURCE_FREE: return 0;
    case ZIP_SOURCE_SUPPORTS: return ZIP_SOURCE_SUPPORTS_WRITABLE;
    default: zip_error_set(&s->error, ZIP_ER_OPNOTSUPP, 0); return -1;
    }
}

/* ---- the archive ---- */

static int zip_fail(zip_t *zip, const char *path, krait_error *e) {
    return kr_fail(e, KRAIT_ERR_IO, "%s: writing failed: %s", path, zip_strerror(zip));
}

/* A member of bytes that stay where they are until the archive is closed. */
static int add_member(zip_t *zip, const char *name, const void *bytes, size_t size,
                      const char *path, krait_error *e) {
    char full[64];
    snprintf(full, sizeof full, FOLDER "%s", name);
    zip_source_t *source = zip_source_buffer(zip, bytes, size, 0);
    if (!source) return zip_fail(zip, path, e);
    zip_int64_t index = zip_file_add(zip, full, source, ZIP_FL_ENC_UTF_8);
    if (index < 0) {
        zip_source_free(source);
        return zip_fail(zip, path, e);
    }
    if (zip_set_file_compression(zip, (zip_uint64_t)index, ZIP_CM_STORE, 0) != 0 ||
        zip_file_set_dostime(zip, (zip_uint64_t)index, 0, 1 << 5 | 1, 0) != 0) /* the first day: a
                                                          date of today would change the bytes */
        return zip_fail(zip, path, e);
    return 0;
}

static int add_members(zip_t *zip, const pickle *p, const kr_weights *w, const char *path,
                       krait_error *e) {
    KR_TRY(add_member(zip, "data.pkl", p->bytes, p->size, path, e));
    KR_TRY(add_member(zip, "byteorder", "little", 6, path, e));
    for (int64_t i = 0; i < w->count; i++) {
        char name[40];
        if (storage_at(w, i) != i) continue;
        snprintf(name, sizeof name, "data/%lld", (long long)i);
        KR_TRY(add_member(zip, name, w->items[i].tensor.data, kr_tensor_bytes(&w->items[i].tensor),
                          path, e));
    }
    return add_member(zip, "version", "3\n", 2, path, e);
}

static int write_archive(kr_out *out, const pickle *p, const kr_weights *w, const char *path,
                         krait_error *e) {
    sink s = {.out = out};
    zip_error_t error;
    zip_error_init(&error);
    zip_error_init(&s.error);
    zip_source_t *source = zip_source_function_create(sink_call, &s, &error);
    zip_t *zip = source ? zip_open_from_source(source, ZIP_CREATE | ZIP_TRUNCATE, &error) : NULL;
    int rc = 0;
    if (!zip)
        rc = kr_fail(e, KRAIT_ERR_IO, "%s: writing failed: %s", path, zip_error_strerror(&error));
    if (!zip && source) zip_source_free(source);
    if (zip) rc = add_members(zip, p, w, path, e);
    if (zip && rc == 0 && zip_close(zip) != 0)
        rc = zip_fail(zip, path, e);
    else if (rc == 0)
        zip = NULL;
    if (zip) zip_discard(zip);
    zip_error_fini(&error);
    zip_error_fini(&s.error);
    return rc;
}

static int check_types(const kr_weights *w, const char *path, krait_error *e) {
    for (int64_t i = 0; i < w->count; i++)
        if (!storage_of(w->items[i].tensor.dtype))
            return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "%s: tensor %s: torch has no %s", path,
                           w->items[i].name, kr_dtype_name(w->items[i].tensor.dtype));
    return 0;
}

int kr_pth_write(const kr_weights *w, const char *path, krait_error *e) {
    pickle p = {0};
    kr_out out = {0};
    KR_TRY(check_types(w, path, e));
    put_all(&p, w);
    int rc = p.failed ? kr_fail_memory(e, path) : kr_out_open(&out, path, e);
    if (rc == 0) rc = write_archive(&out, &p, w, path, e);
    if (rc == 0) rc = kr_out_commit(&out, e);
    kr_out_abort(&out);
    kr_free(p.bytes);
    return rc;
}
