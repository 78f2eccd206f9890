/* cpu_gemm.h - the one door to the matrix-product library: oneDNN on x86, OpenBLAS elsewhere. */
#ifndef KR_CPU_GEMM_H
#define KR_CPU_GEMM_H

#include <stdbool.h>
#include <stdint.h>

/* C = op(A) op(B), or C += with `accumulate`; all f32, rows contiguous, `ld` elements from row to
 * row.
 *   op(A) [m,k]: A is [m,k], or [k,m] when a_transposed
 *   op(B) [k,n]: B is [k,n], or [n,k] when b_transposed
 *   C [m,n]
 *   bias [n]: is added to each row of C; NULL: nothing */
typedef struct kr_gemm {
    bool a_transposed, b_transposed, accumulate;
    int64_t m, n, k;
    const float *a, *b;
    float *c;
    int64_t lda, ldb, ldc;
    const float *bias;
} kr_gemm;

/* Cuts the longer side of C over `threads`. An element's bytes do not depend on the number of
 * threads, nor on the rows beside it, as long as C has at least 16 rows and 2 columns. */
void kr_gemm_run(const kr_gemm *g, int threads);

#endif
