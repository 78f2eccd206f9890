/* mem.c - the allocation hook. */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static _Atomic int64_t fail_countdown;
static _Atomic int64_t allocation_count;

static bool must_fail(void) {
    atomic_fetch_add_explicit(&allocation_count, 1, memory_order_relaxed);
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) <= 0) return false;
    return atomic_fetch_sub_explicit(&fail_countdown, 1, memory_order_relaxed) == 1;
}

int64_t kr_mem_fail_after(int64_t n) {
    atomic_store(&fail_countdown, n);
    return atomic_exchange(&allocation_count, 0);
}

void *kr_malloc(size_t size) { return must_fail() ? NULL : malloc(size ? size : 1); }

void *kr_calloc(size_t count, size_t size) {
    if (must_fail()) return NULL;
    return calloc(count ? count : 1, size ? size : 1);
}

void *kr_realloc(void *old, size_t size) {
    return must_fail() ? NULL : realloc(old, size ? size : 1);
}

void *kr_aligned(size_t size) {
    if (must_fail() || size > SIZE_MAX - KR_ALIGN) return NULL;
    size_t rounded = (size + KR_ALIGN - 1) / KR_ALIGN * KR_ALIGN;
    return aligned_alloc(KR_ALIGN, rounded ? rounded : KR_ALIGN);
}

void kr_free(void *p) { free(p); }

char *kr_strndup(const char *s, size_t n) {
    char *copy = kr_malloc(n + 1);
    if (!copy) return NULL;
    memcpy(copy, s, n);
    copy[n] = 0;
    return copy;
}

char *kr_strdup(const char *s) { return kr_strndup(s, strlen(s)); }

int kr_grow(void **array, size_t *capacity, size_t need, size_t size) {
    if (need <= *capacity) return 0;
    size_t wanted = *capacity ? *capacity : 16;
    while (wanted < need) {
        if (wanted > SIZE_MAX / 2) return -1;
        wanted *= 2;
    }
    if (wanted > SIZE_MAX / size) return -1;
    void *grown = kr_realloc(*array, wanted * size);
    if (!grown) return -1;
    *array = grown;
    *capacity = wanted;
    return 0;
}
