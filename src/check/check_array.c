/* check_array.c - tensors with guard bytes around them, in ordinary or in sparse memory. */
#include "check/check.h"

#include <sys/mman.h>

#include "base/err.h"
#include "base/mem.h"

enum { GUARD = 256, MARK = 0xff }; /* as wide as the GPU aligns its memory */

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
    kr_device_free(KR_LEVEL_CUDA, a->device);
    a->block = a->device = NULL;
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

/* ---- the copy on the GPU --------------------------------------------------------------------- */

static int move(kr_check_array *a, bool there, size_t at, size_t bytes, krait_error *e) {
    if (there) return kr_device_put(KR_LEVEL_CUDA, a->device + at, a->block + at, bytes, e);
    return kr_device_get(KR_LEVEL_CUDA, a->block + at, a->device + at, bytes, e);
}

/* Of sparse memory only the guards and the rows. */
static int move_all(kr_check_array *a, bool there, krait_error *e) {
    if (!a->mapped) return move(a, there, 0, a->bytes, e);
    KR_TRY(move(a, there, 0, (size_t)((unsigned char *)a->t.data - a->block), e));
    for (int64_t i = 0; i < row_count(&a->t); i++)
        KR_TRY(move(a, there, (size_t)(row_start(a, i) - a->block),
                    row_bytes(&a->t) + behind(&a->t, i), e));
    return 0;
}

int kr_check_array_send(kr_check_array *a, krait_error *e) {
    size_t left, all;
    a->device = kr_device_alloc(KR_LEVEL_CUDA, a->bytes);
    kr_device_memory(KR_LEVEL_CUDA, &left, &all);
    if (!a->device)
        return kr_fail(e, KRAIT_ERR_MEMORY, "an array of %zu MiB, %zu MiB of the GPU are free",
                       a->bytes >> 20, left >> 20);
    if (a->mapped) KR_TRY(kr_device_fill(KR_LEVEL_CUDA, a->device, MARK, a->bytes, e));
    return move_all(a, true, e);
}

int kr_check_array_fetch(kr_check_array *a, krait_error *e) { return move_all(a, false, e); }

kr_tensor kr_check_array_there(const kr_check_array *a) {
    kr_tensor t = a->t;
    t.data = a->device + ((unsigned char *)t.data - a->block);
    return t;
}
