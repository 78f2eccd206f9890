/* safetensors.c - the safetensors file: an 8-byte little-endian header length n, n bytes of JSON,
 * then the tensors.
 *
 *   {"__metadata__": {...},
 *    "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
 *
 * Offsets count from the end of the header; the tensors tile the rest of the file without gap or
 * overlap. Reading maps the file and points into it; only a tensor whose place is not aligned for
 * its type is copied. Which names belong together is left to the models. Source: the format
 * description of the safetensors project. */
#include <limits.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "formats/weights.h"

/* Room for some 100,000 tensors. jansson takes about 20 times this for the worst text, so memory
 * stays bounded too. */
#define MAX_HEADER ((uint64_t)16 << 20)

static const char *const dtype_names[KR_DTYPE_COUNT] = {
    [KR_F32] = "F32", [KR_F64] = "F64", [KR_BF16] = "BF16", [KR_F16] = "F16",
    [KR_I32] = "I32", [KR_I64] = "I64", [KR_U8] = "U8",
};

/* One tensor of the header: bytes [begin, end) of the data. */
typedef struct entry {
    const char *name;
    kr_tensor tensor;
    uint64_t begin, end;
} entry;

typedef struct reader {
    const char *path;
    const unsigned char *data; /* the first byte after the header */
    uint64_t data_size;
    entry *entries;
    size_t count;
} reader;

static int bad(const reader *r, const char *name, const char *reason, krait_error *e) {
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: tensor %s: %s", r->path, name, reason);
}

static int parse_dtype(const reader *r, entry *t, const json_t *v, krait_error *e) {
    const char *text = json_string_value(v);
    if (!text) return bad(r, t->name, "its \"dtype\" is missing or not a string", e);
    for (int i = 0; i < KR_DTYPE_COUNT; i++) {
        if (strcmp(text, dtype_names[i]) != 0) continue;
        t->tensor.dtype = (kr_dtype)i;
        return 0;
    }
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "%s: tensor %s: its type %.20s is not one of F32 F64 BF16 F16 I32 I64 U8",
                   r->path, t->name, text);
}

static int parse_shape(const reader *r, entry *t, const json_t *v, krait_error *e) {
    if (!json_is_array(v)) return bad(r, t->name, "its \"shape\" is missing or not a list", e);
    size_t rank = json_array_size(v);
    if (rank > KR_MAX_RANK)
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                       "%s: tensor %s: %zu dimensions, at most %d are read", r->path, t->name, rank,
                       KR_MAX_RANK);
    int64_t shape[KR_MAX_RANK];
    for (size_t i = 0; i < rank; i++) {
        const json_t *n = json_array_get(v, i);
        if (!json_is_integer(n) || json_integer_value(n) < 0)
            return bad(r, t->name, "its \"shape\" holds something other than counts", e);
        shape[i] = json_integer_value(n);
    }
    if (kr_checked_count((int)rank, shape) < 0)
        return bad(r, t->name, "its \"shape\" is larger than any file", e);
    t->tensor = kr_tensor_make(NULL, t->tensor.dtype, (int)rank, shape);
    return 0;
}

static int parse_offsets(const reader *r, entry *t, const json_t *v, krait_error *e) {
    const json_t *b = json_array_get(v, 0), *n = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_integer(b) || !json_is_integer(n))
        return bad(r, t->name, "its \"data_offsets\" are missing or not two integers", e);
    int64_t begin = json_integer_value(b), end = json_integer_value(n);
    if (begin < 0 || end < begin || (uint64_t)end > r->data_size)
        return kr_fail(
            e, KRAIT_ERR_FORMAT,
            "%s: tensor %s: bytes %lld to %lld of %llu: the file is truncated or damaged", r->path,
            t->name, (long long)begin, (long long)end, (unsigned long long)r->data_size);
    int64_t count = kr_tensor_count(&t->tensor), size = (int64_t)kr_dtype_size(t->tensor.dtype);
    if ((end - begin) % size != 0 || (end - begin) / size != count) {
        char text[96];
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: tensor %s: %s does not fit its %lld bytes",
                       r->path, t->name, kr_tensor_describe(&t->tensor, text),
                       (long long)(end - begin));
    }
    t->begin = (uint64_t)begin;
    t->end = (uint64_t)end;
    return 0;
}

static int parse_entry(const reader *r, entry *t, json_t *v, krait_error *e) {
    if (!json_is_object(v)) return bad(r, t->name, "its description is not an object", e);
    const char *key;
    json_t *unused;
    json_object_foreach(v, key, unused) {
        if (strcmp(key, "dtype") && strcmp(key, "shape") && strcmp(key, "data_offsets"))
            return bad(r, t->name, "its description has an unknown key", e);
    }
    KR_TRY(parse_dtype(r, t, json_object_get(v, "dtype"), e));
    KR_TRY(parse_shape(r, t, json_object_get(v, "shape"), e));
    return parse_offsets(r, t, json_object_get(v, "data_offsets"), e);
}

static int by_place(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* The tensors must tile the data: a gap could hide bytes, an overlap means that the file lies about
 * one of them. */
static int check_tiling(reader *r, krait_error *e) {
    if (r->count > 1) qsort(r->entries, r->count, sizeof *r->entries, by_place);
    uint64_t at = 0;
    for (size_t i = 0; i < r->count; i++) {
        const entry *t = &r->entries[i];
        if (t->begin < at) return bad(r, t->name, "it overlaps another tensor", e);
        if (t->begin > at) return bad(r, t->name, "there is a gap in the file before it", e);
        at = t->end;
    }
    if (at == r->data_size) return 0;
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: %llu bytes after the last tensor", r->path,
                   (unsigned long long)(r->data_size - at));
}

static int parse_entries(reader *r, json_t *header, krait_error *e) {
    if (!json_is_object(header))
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: its header is not an object", r->path);
    r->entries = kr_calloc(json_object_size(header) + 1, sizeof *r->entries);
    if (!r->entries) return kr_fail_memory(e, r->path);
    const char *name;
    json_t *v;
    json_object_foreach(header, name, v) {
        if (strcmp(name, "__metadata__") == 0) continue;
        entry *t = &r->entries[r->count];
        t->name = name;
        KR_TRY(parse_entry(r, t, v, e));
        r->count++;
    }
    return check_tiling(r, e);
}

/* Points at the tensor's bytes; copies them where they do not lie as their type needs. */
static int place(kr_weights *w, const reader *r, entry *t, krait_error *e) {
    const unsigned char *from = r->data + t->begin;
    size_t size = (size_t)(t->end - t->begin);
    t->tensor.data = (void *)(uintptr_t)from;
    if ((uintptr_t)from % kr_dtype_size(t->tensor.dtype) == 0) return 0;
    t->tensor.data = kr_weights_block(w, size, t->name, e);
    if (!t->tensor.data) return KRAIT_ERR_MEMORY;
    memcpy(t->tensor.data, from, size);
    return 0;
}

static int add_entries(kr_weights *w, reader *r, json_t *header, krait_error *e) {
    KR_TRY(parse_entries(r, header, e));
    for (size_t i = 0; i < r->count; i++) {
        KR_TRY(place(w, r, &r->entries[i], e));
        KR_TRY(kr_weights_add(w, r->entries[i].name, &r->entries[i].tensor, e));
    }
    kr_weights_sort(w);
    return kr_weights_check_unique(w, r->path, e);
}

static uint64_t load_u64(const unsigned char *p) {
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

int kr_safetensors_read_bytes(kr_weights *w, const void *bytes, size_t size, const char *path,
                              krait_error *e) {
    const unsigned char *p = bytes;
    uint64_t n = size < 8 ? 0 : load_u64(p);
    if (n < 2 || n > size - 8)
        return kr_fail(e, KRAIT_ERR_FORMAT,
                       "%s: not a safetensors file, or truncated: %zu bytes, header of %llu", path,
                       size, (unsigned long long)n);
    if (n > MAX_HEADER)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: header of %llu bytes, at most %llu are read", path,
                       (unsigned long long)n, (unsigned long long)MAX_HEADER);
    json_t *header;
    KR_TRY(kr_json_parse(&header, (const char *)p + 8, (size_t)n, path, e));
    reader r = {.path = path, .data = p + 8 + n, .data_size = size - 8 - n};
    int rc = add_entries(w, &r, header, e);
    kr_free(r.entries);
    json_decref(header);
    return rc;
}

int kr_safetensors_read(kr_weights *w, const char *path, krait_error *e) {
    kr_map map;
    KR_TRY(kr_map_open(&map, path, e));
    KR_TRY(kr_weights_own_map(w, map, e));
    return kr_safetensors_read_bytes(w, map.data, map.size, path, e);
}

/* Wide types first, so that each tensor begins at a multiple of its element's size; then by name.
 */
static int by_width(const void *a, const void *b) {
    const kr_weight *x = a, *y = b;
    size_t sx = kr_dtype_size(x->tensor.dtype), sy = kr_dtype_size(y->tensor.dtype);
    if (sx != sy) return sx > sy ? -1 : 1;
    return strcmp(x->name, y->name);
}

static json_t *describe(const kr_tensor *t, int64_t *at) {
    json_t *shape = json_array();
    for (int i = 0; i < t->rank; i++)
        if (json_array_append_new(shape, json_integer(t->shape[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    int64_t begin = *at;
    *at += (int64_t)kr_tensor_bytes(t);
    return json_pack("{s:s, s:o, s:[I,I]}", "dtype", dtype_names[t->dtype], "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)*at);
}

/* {"format": "pt"} tells transformers that the tensors are as PyTorch lays them out. */
static json_t *make_header(const kr_weight *items, int64_t count) {
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    int64_t at = 0;
    for (int64_t i = 0; header && i < count; i++)
        if (json_object_set_new(header, items[i].name, describe(&items[i].tensor, &at)) != 0) {
            json_decref(header);
            return NULL;
        }
    return header;
}

/* The length and the text, padded by spaces so that the data begins at a multiple of KR_ALIGN. */
static int write_header(kr_out *out, const char *text, krait_error *e) {
    static const char spaces[KR_ALIGN + 1] =
        "                                                                ";
    size_t length = strlen(text), padding = (KR_ALIGN - (8 + length) % KR_ALIGN) % KR_ALIGN;
    unsigned char n[8];
    for (int i = 0; i < 8; i++) n[i] = (unsigned char)((uint64_t)(length + padding) >> (8 * i));
    KR_TRY(kr_out_write(out, n, 8, e));
    KR_TRY(kr_out_write(out, text, length, e));
    return kr_out_write(out, spaces, padding, e);
}

static int write_items(kr_out *out, const kr_weight *items, int64_t count, krait_error *e) {
    json_t *header = make_header(items, count);
    char *text = header ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (!text) return kr_fail_memory(e, out->path);
    int rc = write_header(out, text, e);
    kr_free(text);
    for (int64_t i = 0; rc == 0 && i < count; i++)
        rc = kr_out_write(out, items[i].tensor.data, kr_tensor_bytes(&items[i].tensor), e);
    return rc;
}

int kr_safetensors_put(kr_out *out, const kr_weight *items, int64_t count, krait_error *e) {
    kr_weight *sorted = kr_malloc((size_t)count * sizeof *sorted);
    if (!sorted) return kr_fail_memory(e, out->path);
    if (count > 0) {
        memcpy(sorted, items, (size_t)count * sizeof *sorted);
        qsort(sorted, (size_t)count, sizeof *sorted, by_width);
    }
    int rc = write_items(out, sorted, count, e);
    kr_free(sorted);
    return rc;
}

int kr_safetensors_write(const kr_weights *w, const char *path, krait_error *e) {
    kr_out out;
    KR_TRY(kr_out_open(&out, path, e));
    int rc = kr_safetensors_put(&out, w->items, w->count, e);
    if (rc == 0) rc = kr_out_commit(&out, e);
    kr_out_abort(&out);
    return rc;
}
