/* cpu_gemm.c - calls the matrix-product library on fixed slices of the result, one thread each.
 *
 * The library's own threading is left alone: it may cut the summed dimension, and then the bytes of
 * a result would depend on the number of threads. Whole slices of rows or columns keep them. */
#include "device/cpu/cpu_gemm.h"

#include <omp.h>
#include <string.h>

#if defined(KR_HAVE_DNNL)
#include <oneapi/dnnl/dnnl.h>

static bool library_product(const kr_gemm *g) {
    return dnnl_sgemm(g->a_transposed ? 'T' : 'N', g->b_transposed ? 'T' : 'N', g->m, g->n, g->k, 1,
                      g->a, g->lda, g->b, g->ldb, g->accumulate ? 1.0F : 0.0F, g->c,
                      g->ldc) == dnnl_success;
}
#else
#include <cblas.h>

static bool library_product(const kr_gemm *g) {
    cblas_sgemm(CblasRowMajor, g->a_transposed ? CblasTrans : CblasNoTrans,
                g->b_transposed ? CblasTrans : CblasNoTrans, (int)g->m, (int)g->n, (int)g->k, 1,
                g->a, (int)g->lda, g->b, (int)g->ldb, g->accumulate ? 1.0F : 0.0F, g->c,
                (int)g->ldc);
    return true;
}
#endif

/* What is left when the library has no memory for its copies: slow, but a kernel cannot fail. */
static void plain_product(const kr_gemm *g) {
    for (int64_t i = 0; i < g->m; i++) {
        float *c = g->c + i * g->ldc;
        if (!g->accumulate) memset(c, 0, (size_t)g->n * sizeof *c);
        for (int64_t p = 0; p < g->k; p++) {
            float a = g->a_transposed ? g->a[p * g->lda + i] : g->a[i * g->lda + p];
            for (int64_t j = 0; j < g->n; j++)
                c[j] += a * (g->b_transposed ? g->b[j * g->ldb + p] : g->b[p * g->ldb + j]);
        }
    }
}

/* Rows or columns [first, first + count) of C. */
static kr_gemm slice(const kr_gemm *g, bool rows, int64_t first, int64_t count) {
    kr_gemm s = *g;
    if (rows) {
        s.m = count;
        s.a += g->a_transposed ? first : first * g->lda;
        s.c += first * g->ldc;
    } else {
        s.n = count;
        s.b += g->b_transposed ? first * g->ldb : first;
        s.c += first;
        if (g->bias) s.bias += first;
    }
    return s;
}

static void product(const kr_gemm *g) {
    if (!library_product(g)) plain_product(g);
    for (int64_t i = 0; g->bias && i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) g->c[i * g->ldc + j] += g->bias[j];
}

void kr_gemm_run(const kr_gemm *g, int threads) {
    enum { UNIT = 16 }; /* no slice is narrower: the library sums narrower ones in another order */
    if (g->m <= 0 || g->n <= 0) return;
    bool rows = g->m > g->n;
    int64_t whole = rows ? g->m : g->n, units = whole / UNIT;
    int parts = units < threads ? (int)units : threads;
    if (parts < 1) parts = 1;
#pragma omp parallel num_threads(parts)
    {
        omp_set_num_threads(1); /* of this region only: the library starts no threads of its own */
#pragma omp for schedule(static, 1)
        for (int p = 0; p < parts; p++) {
            int64_t first = units * p / parts * UNIT;
            int64_t end = p + 1 == parts ? whole : units * (p + 1) / parts * UNIT;
            kr_gemm s = slice(g, rows, first, end - first);
            product(&s);
        }
    }
}
