/* row_sums.h - gradients of weights as sums over rows: into how many chunks the rows are cut. */
#ifndef KR_ROW_SUMS_H
#define KR_ROW_SUMS_H

#include <stddef.h>
#include <stdint.h>

/* Of M rows: chunks of 16 rows or more, 64 at most. */
static inline int kr_row_chunks(int64_t M) { return M < 32 ? 1 : M < 1024 ? (int)(M / 16) : 64; }

/* Bytes of scratch: the chunks' sums over M rows of D columns. */
static inline size_t kr_row_sums_scratch(int64_t M, int64_t D) {
    return (size_t)kr_row_chunks(M) * (size_t)D * sizeof(float);
}

#endif
