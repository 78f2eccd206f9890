/* cuda.h - the GPU of this process: its queue, and matrix products by cuBLASLt. For src/device and
 * *.cu alone; everybody else uses device.h. */
#ifndef KR_CUDA_H
#define KR_CUDA_H

#include <cuda_runtime_api.h>
#include <krait/error.h>
#include <stdbool.h>
#include <stdint.h>

#include "tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

int kr_cuda_open(int ordinal, krait_error *e); /* once a process; later calls must agree */
bool kr_cuda_is_open(void);
cudaStream_t kr_cuda_stream(void); /* the one queue */
int kr_cuda_processors(void);      /* multiprocessors of the card */
int kr_cuda_shared(void);          /* bytes of shared memory that a block can have */
bool kr_cuda_begins_early(void);   /* a kernel may begin before the one in front of it ends */
bool kr_cuda_hopper(void);         /* what *_hopper.cu is compiled for can run */

/* C [m,n] = op(A) [m,k] op(B) [k,n] (+ C with `accumulate`) (+ bias), rows contiguous, ld elements
 * from row to row, sums in f32. a and b are both f32 (computed in f32) or both bf16; c is f32 or
 * bf16, but not bf16 for f32 factors.
 *   A is [m,k], or [k,m] when a_transposed;  B is [k,n], or [n,k] when b_transposed
 *   bias [n] of c's type, or NULL. */
typedef struct kr_cuda_gemm {
    bool a_transposed, b_transposed, accumulate;
    int64_t m, n, k, lda, ldb, ldc;
    const void *a, *b;
    void *c;
    kr_dtype in, out;
    const void *bias;
} kr_cuda_gemm;
/* Queued: by cuBLASLt, or by a kernel of our own for what that refuses (cuda_gemm.cu). */
void kr_cuda_gemm_run(const kr_cuda_gemm *g);
/* By cuBLASLt; false when it refuses, and nothing is queued. The plan for a shape is sought at its
 * first use and kept. Deterministic: one plan a shape, chosen by rule, never by timing. */
bool kr_cuda_blas_run(const kr_cuda_gemm *g);
int kr_cuda_blas_open(krait_error *e); /* by kr_cuda_open */

#ifdef __cplusplus
}
#endif

#endif
