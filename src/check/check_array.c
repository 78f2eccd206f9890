/* check_array.c - tensors with guard bytes around them, in ordinary or in sparse memory. */
#include "check/check.h"

#include <sys/mman.h>

#include "base/err.h"
#include "base/mem.h"

enum { GUARD = 128, MARK = 0xff };

/* Any tensor is rows of contiguous elements: a vector is one row, and of more than two dimensions
 * the first counts the rows. */
static int64_t row_count(const kr_tensor *t) { return t->rank > 1 ? t->shape[0] : 1; }

static size_t row_bytes(const kr_tensor *t) {
    int64_t rows = row_count(t);
    return rows > 0 ? kr_tensor_bytes(t) / (size_t)rows : 0;
}

static size_t row_step(const kr_tensor *t) {
    return t->rank > 1 ? (size_t)t->stride[0] * kr_dtype_size(t->dtype) : 0;
}

static size_t span(const kr_tensor *t) {
    int64_t rows = row_count(t);
    return rows > 0 ? (size_t)(rows - 1) * row_step(t) + row_bytes(t) : 0;
}

/* Marked bytes behind row i: up to the next row, or the tail guard. */
static size_t behind(const kr_tensor *t, int64_t i) {
    if (i + 1 == row_count(t)) return GUARD;
    size_t gap = row_step(t) - row_bytes(t);
    return gap < GUARD ? gap : GUARD;
}

static unsigned char *row_start(const kr_check_array *a, int64_t i) {
    return (unsigned char *)a->t.data + (size_t)i * row_step(&a->t);
}

static unsigned char *sparse_memory(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int kr_check_array_make(kr_check_array *a, const kr_tensor *shape, const kr_check_layout *layout,
                        krait_error *e) {
    *a = (kr_check_array){.t = *shape};
    size_t unit = kr_dtype_size(shape->dtype);
    bool real = shape->dtype != KR_I32 && shape->dtype != KR_I64 && shape->dtype != KR_U8;
    if (shape->rank == 2 && real && kr_tensor_contiguous(shape)) a->t.stride[0] += layout->gap;
    size_t offset = GUARD + (size_t)layout->offset * unit;
    a->bytes = offset + span(&a->t) + GUARD;
    a->mapped = span(&a->t) > (size_t)1 << 28;
    a->block = a->mapped ? sparse_memory(a->bytes) : kr_aligned(a->bytes);
    if (!a->block) return kr_fail_memory(e, "a checked array");
    a->t.data = a->block + offset;
    if (!a->mapped) memset(a->block, MARK, a->bytes);
    memset(a->block, MARK, offset);
    for (int64_t i = 0; a->mapped && i < row_count(&a->t); i++)
        memset(row_start(a, i), MARK, row_bytes(&a->t) + behind(&a->t, i));
    return 0;
}

void kr_check_array_free(kr_check_array *a) {
    if (a->mapped)
        munmap(a->block, a->bytes);
    else
        kr_free(a->block);
    a->block = NULL;
    a->mapped = false;
}

void kr_check_array_put(const kr_check_array *a, const void *packed) {
    size_t width = row_bytes(&a->t);
    for (int64_t i = 0; i < row_count(&a->t); i++)
        memcpy(row_start(a, i), (const char *)packed + (size_t)i * width, width);
}

void kr_check_array_get(const kr_check_array *a, void *packed) {
    size_t width = row_bytes(&a->t);
    for (int64_t i = 0; i < row_count(&a->t); i++)
        memcpy((char *)packed + (size_t)i * width, row_start(a, i), width);
}

static bool marked(const unsigned char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != MARK) return false;
    return true;
}

bool kr_check_array_guarded(const kr_check_array *a) {
    bool good = marked(a->block, (size_t)((unsigned char *)a->t.data - a->block));
    for (int64_t i = 0; good && i < row_count(&a->t); i++)
        good = marked(row_start(a, i) + row_bytes(&a->t), behind(&a->t, i));
    return good;
}
