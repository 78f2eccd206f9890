/* mem.h - every allocation of the library passes here.
 *
 * One hook, so that tests can fail the n-th allocation and hosts can count. Sizes are checked
 * against overflow: use kr_calloc_array for anything whose count came from a file. Memory is
 * aligned to 64 bytes and zeroed on request only. */
#ifndef KR_MEM_H
#define KR_MEM_H

#include <stddef.h>
#include <stdint.h>

#define KR_ALIGN 64

/* NULL when it fails; size 0 gives a valid pointer */
void *kr_malloc(size_t size);
void *kr_calloc(size_t count, size_t size); /* zeroed; NULL on overflow too */
void *kr_realloc(void *old, size_t size);   /* old stays valid on failure */
/* KR_ALIGN bytes, not zeroed; free with kr_free */
void *kr_aligned(size_t size);
void kr_free(void *p);
char *kr_strdup(const char *s);
char *kr_strndup(const char *s, size_t n);

/* Makes *array hold at least `need` elements of `size` bytes, doubling. 0, or -1 when memory fails
 * (array unchanged). */
int kr_grow(void **array, size_t *capacity, size_t need, size_t size);

/* Test hook: the n-th allocation from now fails (1 = the next), once; 0 switches it off. Returns
 * the number of allocations made since the last call. Not thread-safe by intent: tests run it on
 * one thread. */
int64_t kr_mem_fail_after(int64_t n);

#endif
