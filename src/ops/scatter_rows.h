/* scatter_rows.h - rows added to the rows that an index names, on the GPU: the gradients of
 * embedding and gather_rows. scatter_rows.cu has the how. */
#ifndef KR_SCATTER_ROWS_H
#define KR_SCATTER_ROWS_H

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Entries that a block of the sort takes, values of a digit of its keys, and rows that a warp adds
 */
enum { KR_SCATTER_TILE = 2048, KR_SCATTER_BINS = 512, KR_SCATTER_RUN = 32 };

/* in: dy [M,D], index I32 or I64 [M]   out: dx [N,D] = or += sum of dy[m] over index[m] = n, in the
 * order of m. dy and dx are both f32 or both bf16. */
kr_kernel kr_scatter_rows_cuda;

/* Its scratch: two orders of the M rows, the sort's counts, and the sums of rows whose runs several
 * warps share. */
static inline size_t kr_scatter_rows_scratch(const kr_call *c) {
    size_t M = (size_t)c->in[0].shape[0], D = (size_t)c->in[0].shape[1];
    size_t tiles = (M + KR_SCATTER_TILE - 1) / KR_SCATTER_TILE;
    size_t runs = (M + KR_SCATTER_RUN - 1) / KR_SCATTER_RUN;
    size_t head = 8 * M + tiles * KR_SCATTER_BINS * 4;
    return (head + 15) / 16 * 16 + 2 * runs * D * 4;
}

#ifdef __cplusplus
}
#endif

#endif
