/* pth.c - pytorch_model.bin and .pth as torch.save writes them since version 1.6: a zip archive.
 *
 *   NAME/data.pkl   a pickle that describes the tensors (pickle.c)
 *   NAME/data/KEY   the bytes of a storage; tensors are views into storages
 *   NAME/byteorder  "little"
 *
 * libzip reads the archive and verifies its checksums. Members that are stored as they are
 * (torch.save compresses nothing) are used where they lie in the mapped file: the source below
 * notes the place that libzip reads them from, and every byte is compared. Compressed members are
 * read into memory, no more than the tensors need and the file's size makes likely. */
#include <limits.h>
#include <stdio.h>
#include <zip.h>

#include "base/err.h"
#include "base/mem.h"
#include "formats/pth/pickle.h"
#include "formats/weights.h"

#define MAX_PICKLE ((uint64_t)8 << 20)
#define CHUNK ((size_t)64 << 10)
/* Compressed members may swell to this many times the file: weights hardly compress, bombs swell a
 * thousandfold. */
#define MAX_SWELL 64

/* A file in memory as libzip sees it. */
typedef struct spy {
    const unsigned char *bytes;
    zip_uint64_t size, at;
    zip_uint64_t first; /* where the first read since it was set to UINT64_MAX began */
    zip_error_t error;
} spy;

typedef struct archive {
    spy spy;
    zip_t *zip;
    const char *path;
    kr_weights *w;
    void **storages;  /* by member of the archive: the bytes, once loaded */
    char prefix[256]; /* "NAME/" */
    uint64_t swollen; /* bytes that came out of compressed members */
    uint64_t loaded, copied;
    unsigned char *chunk;
} archive;

static zip_int64_t spy_read(spy *s, void *data, zip_uint64_t length) {
    zip_uint64_t left = s->size - s->at, n = length < left ? length : left;
    if (s->first == UINT64_MAX) s->first = s->at;
    if (n) memcpy(data, s->bytes + s->at, n);
    s->at += n;
    return (zip_int64_t)n;
}

static zip_int64_t spy_seek(spy *s, void *data, zip_uint64_t length) {
    zip_int64_t to = zip_source_seek_compute_offset(s->at, s->size, data, length, &s->error);
    if (to < 0) return -1;
    s->at = (zip_uint64_t)to;
    return 0;
}

static zip_int64_t spy_stat(const spy *s, zip_stat_t *st) {
    zip_stat_init(st);
    st->size = s->size;
    st->valid |= ZIP_STAT_SIZE;
    return (zip_int64_t)sizeof *st;
}

static zip_int64_t spy_call(void *user, void *data, zip_uint64_t length, zip_source_cmd_t command) {
    spy *s = user;
    switch (command) {
    case ZIP_SOURCE_OPEN: s->at = 0; return 0;
    case ZIP_SOURCE_READ: return spy_read(s, data, length);
    case ZIP_SOURCE_SEEK: return spy_seek(s, data, length);
    case ZIP_SOURCE_TELL: return (zip_int64_t)s->at;
    case ZIP_SOURCE_STAT: return spy_stat(s, data);
    case ZIP_SOURCE_ERROR: return zip_error_to_data(&s->error, data, length);
    case ZIP_SOURCE_CLOSE:
    case ZIP_SOURCE_FREE: return 0;
    case ZIP_SOURCE_SUPPORTS:
        return zip_source_make_command_bitmap(ZIP_SOURCE_OPEN, ZIP_SOURCE_READ, ZIP_SOURCE_SEEK,
                                              ZIP_SOURCE_TELL, ZIP_SOURCE_STAT, ZIP_SOURCE_ERROR,
                                              ZIP_SOURCE_CLOSE, ZIP_SOURCE_FREE, -1);
    default: zip_error_set(&s->error, ZIP_ER_OPNOTSUPP, 0); return -1;
    }
}

/* ---- members ---- */

static int member_fail(const archive *a, zip_uint64_t index, const char *reason, krait_error *e) {
    const char *name = zip_get_name(a->zip, index, ZIP_FL_ENC_RAW);
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: member %.100s: %s", a->path, name ? name : "?",
                   reason);
}

static int member_stat(const archive *a, zip_uint64_t index, zip_stat_t *st, krait_error *e) {
    const zip_uint64_t need = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
    if (zip_stat_index(a->zip, index, 0, st) != 0 || (st->valid & need) != need)
        return member_fail(a, index, "its entry is damaged", e);
    if ((st->valid & ZIP_STAT_ENCRYPTION_METHOD) && st->encryption_method != ZIP_EM_NONE)
        return member_fail(a, index, "it is encrypted", e);
    if (st->comp_method != ZIP_CM_STORE && st->comp_method != ZIP_CM_DEFLATE)
        return member_fail(a, index, "it is compressed by another method than deflate", e);
    return 0;
}

/* Reads the whole member into `to`, or, when to is NULL, compares it with the bytes at the place
 * that it is read from and stores that place. libzip verifies the checksum at the end. *same is
 * false when the bytes are not found there. */
static int read_through(archive *a, zip_file_t *f, zip_uint64_t size, unsigned char *to,
                        const unsigned char **place, bool *same) {
    *same = true;
    a->spy.first = UINT64_MAX;
    for (zip_uint64_t done = 0; done < size;) {
        zip_uint64_t n = size - done < CHUNK ? size - done : CHUNK;
        unsigned char *into = to ? to + done : a->chunk;
        zip_int64_t got = zip_fread(f, into, n);
        if (got <= 0) return -1;
        if (!to && *same)
            *same = a->spy.first <= a->spy.size && size <= a->spy.size - a->spy.first &&
                    memcmp(into, a->spy.bytes + a->spy.first + done, (size_t)got) == 0;
        done += (zip_uint64_t)got;
    }
    if (!to && *same && size > 0) *place = a->spy.bytes + a->spy.first;
    return zip_fread(f, a->chunk, 1) == 0 ? 0 : -1; /* meets the end: the checksum is compared */
}

static int read_once(archive *a, zip_uint64_t index, zip_uint64_t size, unsigned char *to,
                     const unsigned char **place, bool *same, krait_error *e) {
    zip_file_t *f = zip_fopen_index(a->zip, index, 0);
    if (!f) return member_fail(a, index, zip_strerror(a->zip), e);
    int rc = read_through(a, f, size, to, place, same);
    if (rc < 0) rc = member_fail(a, index, "it is truncated or its checksum is wrong", e);
    zip_fclose(f);
    return rc;
}

/* Reads a member into new memory of w's. */
static int load_copy(archive *a, zip_uint64_t index, zip_uint64_t size, void **data,
                     krait_error *e) {
    bool same;
    const unsigned char *place;
    *data = kr_weights_block(a->w, (size_t)size, a->path, e);
    if (!*data) return KRAIT_ERR_MEMORY;
    return read_once(a, index, size, *data, &place, &same, e);
}

/* The member's bytes: in place where it is stored and aligned, else in memory. */
static int load_member(archive *a, zip_uint64_t index, const zip_stat_t *st, size_t alignment,
                       void **data, krait_error *e) {
    if (st->comp_method == ZIP_CM_STORE) {
        bool same;
        const unsigned char *place = a->spy.bytes;
        if (st->size > a->spy.size) return member_fail(a, index, "it is larger than the file", e);
        KR_TRY(read_once(a, index, st->size, NULL, &place, &same, e));
        *data = (void *)(uintptr_t)place;
        if (same && (uintptr_t)place % alignment == 0) return 0;
    } else if (st->size > a->spy.size * MAX_SWELL - a->swollen) {
        return member_fail(a, index, "it swells beyond belief (a zip bomb?)", e);
    } else {
        a->swollen += st->size;
    }
    return load_copy(a, index, st->size, data, e);
}

/* ---- tensors ---- */

/* The bytes of a tensor's storage, loaded at its first use. */
static int load_storage(archive *a, const kr_pickle_tensor *t, const char **data, krait_error *e) {
    char name[512];
    snprintf(name, sizeof name, "%sdata/%.*s", a->prefix, t->key_length, t->key);
    zip_int64_t index = zip_name_locate(a->zip, name, ZIP_FL_ENC_RAW);
    if (index < 0)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: tensor %.*s: its member %.100s is missing",
                       a->path, t->name_length, t->name, name);
    zip_stat_t st;
    KR_TRY(member_stat(a, (zip_uint64_t)index, &st, e));
    size_t width = kr_dtype_size(t->dtype);
    if (st.size % width != 0 || st.size / width != (zip_uint64_t)t->storage_count)
        return kr_fail(e, KRAIT_ERR_FORMAT,
                       "%s: tensor %.*s: its storage should hold %lld elements of %zu bytes, the "
                       "member %.100s has %llu bytes",
                       a->path, t->name_length, t->name, (long long)t->storage_count, width, name,
                       (unsigned long long)st.size);
    void **slot = &a->storages[index];
    if (!*slot) {
        KR_TRY(load_member(a, (zip_uint64_t)index, &st, 8, slot, e));
        a->loaded += st.size;
    }
    *data = *slot;
    return 0;
}

static int tensor_fail(const archive *a, const kr_pickle_tensor *t, const char *reason,
                       krait_error *e) {
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: tensor %.*s: %s", a->path, t->name_length, t->name,
                   reason);
}

/* The view must lie in its storage, and must not repeat elements (an expanded view of one number
 * could be of any size). */
static int check_view(const archive *a, const kr_pickle_tensor *t, krait_error *e) {
    int64_t count = kr_checked_count(t->rank, t->shape), last = t->offset;
    if (count < 0 || count > t->storage_count)
        return tensor_fail(a, t, "its shape is larger than its storage", e);
    for (int i = 0; count > 0 && i < t->rank; i++) {
        int64_t reach;
        if (__builtin_mul_overflow(t->shape[i] - 1, t->stride[i], &reach) ||
            __builtin_add_overflow(last, reach, &last))
            return tensor_fail(a, t, "its strides leave its storage", e);
    }
    if (count > 0 ? last >= t->storage_count : t->offset > t->storage_count)
        return tensor_fail(a, t, "it reaches past the end of its storage", e);
    return 0;
}

/* Elements of `width` bytes of a view with any strides, one after the other. */
static void copy_view(char *to, const char *from, const kr_pickle_tensor *t, size_t width) {
    int64_t shape[4] = {1, 1, 1, 1}, stride[4] = {0};
    for (int i = 0; i < t->rank; i++) {
        shape[4 - t->rank + i] = t->shape[i];
        stride[4 - t->rank + i] = t->stride[i] * (int64_t)width;
    }
    for (int64_t i = 0; i < shape[0]; i++)
        for (int64_t j = 0; j < shape[1]; j++)
            for (int64_t k = 0; k < shape[2]; k++) {
                const char *row = from + i * stride[0] + j * stride[1] + k * stride[2];
                for (int64_t l = 0; l < shape[3]; l++, to += width)
                    memcpy(to, row + l * stride[3], width);
            }
}

/* A contiguous view points into the storage; another is copied, in all at most what the storages
 * hold. */
static int place(archive *a, const kr_pickle_tensor *t, const char *storage, kr_tensor *out,
                 krait_error *e) {
    size_t width = kr_dtype_size(t->dtype);
    const char *from = storage + (size_t)t->offset * width;
    *out = kr_tensor_make((void *)(uintptr_t)from, t->dtype, t->rank, t->shape);
    kr_tensor strided = *out;
    memcpy(strided.stride, t->stride, sizeof strided.stride);
    if (kr_tensor_count(out) == 0 || kr_tensor_contiguous(&strided)) return 0;
    size_t bytes = kr_tensor_bytes(out);
    a->copied += bytes;
    if (a->copied > a->loaded) return tensor_fail(a, t, "it overlaps other tensors", e);
    out->data = kr_weights_block(a->w, bytes, a->path, e);
    if (!out->data) return KRAIT_ERR_MEMORY;
    copy_view(out->data, from, t, width);
    return 0;
}

static int add_tensor(archive *a, const kr_pickle_tensor *t, krait_error *e) {
    const char *storage = NULL;
    kr_tensor tensor;
    KR_TRY(check_view(a, t, e));
    KR_TRY(load_storage(a, t, &storage, e));
    KR_TRY(place(a, t, storage, &tensor, e));
    char *name = kr_strndup(t->name, (size_t)t->name_length);
    if (!name) return kr_fail_memory(e, a->path);
    int rc = kr_weights_add(a->w, name, &tensor, e);
    kr_free(name);
    return rc;
}

/* ---- the archive ---- */

/* The member NAME/data.pkl; NAME/ becomes the prefix of all others. */
static int find_pickle(archive *a, zip_int64_t members, zip_uint64_t *index, krait_error *e) {
    static const char tail[] = "/data.pkl";
    for (zip_int64_t i = 0; i < members; i++) {
        const char *name = zip_get_name(a->zip, (zip_uint64_t)i, ZIP_FL_ENC_RAW);
        const char *slash = name ? strchr(name, '/') : NULL;
        if (!slash || strcmp(slash, tail) != 0) continue;
        size_t length = (size_t)(slash - name) + 1;
        if (length >= sizeof a->prefix) break;
        memcpy(a->prefix, name, length);
        a->prefix[length] = 0;
        *index = (zip_uint64_t)i;
        return 0;
    }
    return kr_fail(e, KRAIT_ERR_FORMAT,
                   "%s: a zip archive without a data.pkl: not written by torch.save", a->path);
}

static int check_byte_order(archive *a, krait_error *e) {
    char name[300];
    snprintf(name, sizeof name, "%sbyteorder", a->prefix);
    zip_int64_t index = zip_name_locate(a->zip, name, ZIP_FL_ENC_RAW);
    if (index < 0) return 0; /* older files have none: they are little-endian */
    zip_file_t *f = zip_fopen_index(a->zip, (zip_uint64_t)index, 0);
    char text[7] = {0};
    if (f) zip_fread(f, text, 6);
    if (f) zip_fclose(f);
    if (strcmp(text, "little") == 0) return 0;
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "%s: its byte order is \"%s\", only little is read",
                   a->path, text);
}

static int read_pickled(archive *a, zip_uint64_t index, krait_error *e) {
    zip_stat_t st;
    KR_TRY(member_stat(a, index, &st, e));
    if (st.size > MAX_PICKLE) return member_fail(a, index, "more than 8 MB of pickle", e);
    void *bytes = NULL;
    KR_TRY(load_member(a, index, &st, 1, &bytes, e));
    kr_pickle p;
    int rc = kr_pickle_read(&p, bytes, (size_t)st.size, a->path, e);
    for (int64_t i = 0; rc == 0 && i < p.count; i++) rc = add_tensor(a, &p.tensors[i], e);
    kr_pickle_free(&p);
    return rc;
}

static int read_archive(archive *a, krait_error *e) {
    zip_int64_t members = zip_get_num_entries(a->zip, 0);
    zip_uint64_t index = 0;
    KR_TRY(find_pickle(a, members, &index, e));
    KR_TRY(check_byte_order(a, e));
    a->storages = kr_calloc((size_t)members, sizeof *a->storages);
    a->chunk = kr_malloc(CHUNK);
    int rc = a->storages && a->chunk ? read_pickled(a, index, e) : kr_fail_memory(e, a->path);
    kr_free(a->storages);
    kr_free(a->chunk);
    if (rc < 0) return rc;
    kr_weights_sort(a->w);
    return kr_weights_check_unique(a->w, a->path, e);
}

/* What else such a file may be, to say it plainly. */
static int check_magic(const unsigned char *b, size_t size, const char *path, krait_error *e) {
    static const unsigned char legacy[] = {0x80, 0x02, 0x8a, 0x0a};
    if (size >= 4 && memcmp(b, "PK\3\4", 4) == 0) return 0;
    bool old = (size >= 4 && memcmp(b, legacy, 4) == 0) ||
               (size >= 262 && memcmp(b + 257, "ustar", 5) == 0);
    if (old)
        return kr_fail(
            e, KRAIT_ERR_UNSUPPORTED,
            "%s: the format of torch before version 1.6: load and save it with a newer torch",
            path);
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: not a file of torch.save (a zip archive)", path);
}

static int open_archive(archive *a, krait_error *e) {
    zip_error_t error;
    zip_error_init(&error);
    zip_error_init(&a->spy.error);
    zip_source_t *source = zip_source_function_create(spy_call, &a->spy, &error);
    if (source) a->zip = zip_open_from_source(source, ZIP_RDONLY, &error);
    int rc = 0;
    if (!a->zip)
        rc = kr_fail(e,
                     zip_error_code_zip(&error) == ZIP_ER_MEMORY ? KRAIT_ERR_MEMORY
                                                                 : KRAIT_ERR_FORMAT,
                     "%s: a damaged zip archive: %s", a->path, zip_error_strerror(&error));
    if (!a->zip && source) zip_source_free(source);
    zip_error_fini(&error);
    return rc;
}

int kr_pth_read_bytes(kr_weights *w, const void *bytes, size_t size, const char *path,
                      krait_error *e) {
    KR_TRY(check_magic(bytes, size, path, e));
    archive a = {.spy = {.bytes = bytes, .size = size}, .path = path, .w = w};
    int rc = open_archive(&a, e);
    if (rc == 0) rc = read_archive(&a, e);
    if (a.zip) zip_discard(a.zip);
    zip_error_fini(&a.spy.error);
    return rc;
}

int kr_pth_read(kr_weights *w, const char *path, krait_error *e) {
    kr_map map;
    KR_TRY(kr_map_open(&map, path, e));
    KR_TRY(kr_weights_own_map(w, map, e));
    return kr_pth_read_bytes(w, map.data, map.size, path, e);
}
