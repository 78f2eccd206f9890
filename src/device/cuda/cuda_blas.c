/* cuda_blas.c - matrix products on the GPU by cuBLASLt, which is loaded at run time: a program
 * built with CUDA starts on machines that have neither. What it refuses is cuda_gemm.cu's. */
#include <cublasLt.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "device/cuda/cuda.h"

enum { WORKSPACE = 32 << 20, SHAPES = 256 };

/* What is used of the library. */
#define BLAS_FUNCTIONS(X)                                                                          \
    X(Create)                                                                                      \
    X(MatmulDescCreate)                                                                            \
    X(MatmulDescDestroy)                                                                           \
    X(MatmulDescSetAttribute)                                                                      \
    X(MatrixLayoutCreate)                                                                          \
    X(MatrixLayoutDestroy)                                                                         \
    X(MatmulPreferenceCreate)                                                                      \
    X(MatmulPreferenceDestroy)                                                                     \
    X(MatmulPreferenceSetAttribute)                                                                \
    X(MatmulAlgoGetHeuristic)                                                                      \
    X(MatmulAlgoConfigGetAttribute)                                                                \
    X(Matmul)

/* A product that was planned once. */
typedef struct plan {
    kr_cuda_gemm key; /* pointers only as present or absent */
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    bool possible; /* the library has an algorithm */
} plan;

static struct {
    bool open;
    void *library, *workspace;
    cublasLtHandle_t handle;
    pthread_mutex_t lock;
    plan plans[SHAPES];
    int n_plans;
#define X(name) __typeof__(cublasLt##name) *name;
    BLAS_FUNCTIONS(X)
#undef X
} blas = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool find_functions(void) {
    bool all = true;
#define X(name)                                                                                    \
    *(void **)&blas.name = dlsym(blas.library, "cublasLt" #name);                                  \
    all = all && blas.name;
    BLAS_FUNCTIONS(X)
#undef X
    return all;
}

int kr_cuda_blas_open(krait_error *e) {
    char name[32];
    if (blas.open) return 0;
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    blas.library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!blas.library || !find_functions())
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                       "%s cannot be loaded: install cuBLAS %d, or name its folder in "
                       "LD_LIBRARY_PATH",
                       name, CUBLAS_VER_MAJOR);
    if (blas.Create(&blas.handle) != CUBLAS_STATUS_SUCCESS)
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "%s does not start on this GPU", name);
    if (cudaMalloc(&blas.workspace, WORKSPACE) != cudaSuccess)
        return kr_fail_memory(e, "matrix products on the GPU");
    blas.open = true;
    return 0;
}

/* ---- plans ----------------------------------------------------------------------------------- */

static cudaDataType_t type_of(kr_dtype t) {
    return t == KR_BF16 ? CUDA_R_16BF : t == KR_F16 ? CUDA_R_16F : CUDA_R_32F;
}

/* Ours are rows, the library's are columns: it computes C^T [n,m] = op(B)^T op(A)^T. */
static bool describe(plan *p, const kr_cuda_gemm *g) {
    cublasOperation_t first = g->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = g->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cudaDataType_t in = type_of(g->in), out = type_of(g->out);
    uint64_t b_rows = (uint64_t)(g->b_transposed ? g->k : g->n);
    uint64_t b_cols = (uint64_t)(g->b_transposed ? g->n : g->k);
    uint64_t a_rows = (uint64_t)(g->a_transposed ? g->m : g->k);
    uint64_t a_cols = (uint64_t)(g->a_transposed ? g->k : g->m);
    bool good = blas.MatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) == 0 &&
                blas.MatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &first,
                                            sizeof first) == 0 &&
                blas.MatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSB, &second,
                                            sizeof second) == 0 &&
                blas.MatrixLayoutCreate(&p->b, in, b_rows, b_cols, g->ldb) == 0 &&
                blas.MatrixLayoutCreate(&p->a, in, a_rows, a_cols, g->lda) == 0 &&
                blas.MatrixLayoutCreate(&p->c, out, (uint64_t)g->n, (uint64_t)g->m, g->ldc) == 0;
    if (!good || !g->bias) return good;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    return blas.MatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                       sizeof epilogue) == 0;
}

/* How far a pointer or a leading dimension is aligned, as the library wants to know it. */
static uint32_t alignment(const void *p, int64_t ld, kr_dtype t) {
    uintptr_t bits = (uintptr_t)p | (uintptr_t)ld * kr_dtype_size(t) | 256;
    return (uint32_t)(bits & -bits);
}

static void release(plan *p) {
    if (p->op) blas.MatmulDescDestroy(p->op);
    if (p->a) blas.MatrixLayoutDestroy(p->a);
    if (p->b) blas.MatrixLayoutDestroy(p->b);
    if (p->c) blas.MatrixLayoutDestroy(p->c);
    memset(p, 0, sizeof *p);
}

enum { OFFERS = 8 };

/* Which of the library's offers: the first, but where many rows are sums of few products one of
 * smaller tiles is faster (16384 x 3072 x 768 on an H100: 101 us instead of 114; 50280 x 768 x 1280
 * added to f32: 209 us instead of 230). */
static const cublasLtMatmulAlgo_t *preferred(const kr_cuda_gemm *g,
                                             const cublasLtMatmulHeuristicResult_t *offers,
                                             int found) {
    enum { SHORT = 1536, MANY = 4096 };
    static const uint32_t halves[] = {CUBLASLT_MATMUL_TILE_128x160, CUBLASLT_MATMUL_TILE_128x128};
    static const uint32_t added[] = {CUBLASLT_MATMUL_TILE_192x128, CUBLASLT_MATMUL_TILE_128x192};
    const uint32_t *tiles = g->out == KR_BF16 ? halves : added;
    bool other =
        g->in == KR_BF16 && g->k <= SHORT && g->m >= MANY && (g->out == KR_BF16 || g->accumulate);
    for (int t = 0; other && t < 2; t++)
        for (int i = 0; i < found; i++) {
            uint32_t tile = 0;
            size_t written;
            blas.MatmulAlgoConfigGetAttribute(&offers[i].algo, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile,
                                              sizeof tile, &written);
            if (tile == tiles[t]) return &offers[i].algo;
        }
    return &offers[0].algo;
}

static bool choose(plan *p, const kr_cuda_gemm *g) {
    cublasLtMatmulPreference_t want;
    cublasLtMatmulHeuristicResult_t offers[OFFERS];
    size_t room = WORKSPACE;
    /* Sums of parts in f32 and in a fixed order, or none. */
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t a = alignment(g->b, g->ldb, g->in), b = alignment(g->a, g->lda, g->in);
    uint32_t c = alignment(g->c, g->ldc, g->out);
    int found = 0;
    if (blas.MatmulPreferenceCreate(&want) != 0) return false;
#define SET(name, value)                                                                           \
    blas.MatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_##name, &(value), sizeof(value))
    SET(MAX_WORKSPACE_BYTES, room);
    SET(REDUCTION_SCHEME_MASK, reductions);
    SET(MIN_ALIGNMENT_A_BYTES, a);
    SET(MIN_ALIGNMENT_B_BYTES, b);
    SET(MIN_ALIGNMENT_C_BYTES, c);
    SET(MIN_ALIGNMENT_D_BYTES, c);
#undef SET
    bool good = blas.MatmulAlgoGetHeuristic(blas.handle, p->op, p->b, p->a, p->c, p->c, want,
                                            OFFERS, offers, &found) == 0 &&
                found > 0;
    blas.MatmulPreferenceDestroy(want);
    if (good) p->algo = *preferred(g, offers, found);
    return good;
}

/* The part of a product that its plan depends on. */
static kr_cuda_gemm key_of(const kr_cuda_gemm *g) {
    static const char there = 0;
    kr_cuda_gemm k;
    memset(&k, 0, sizeof k); /* padding too: keys are compared as bytes */
    k.a_transposed = g->a_transposed;
    k.b_transposed = g->b_transposed;
    k.accumulate = g->accumulate;
    k.m = g->m;
    k.n = g->n;
    k.k = g->k;
    k.lda = g->lda;
    k.ldb = g->ldb;
    k.ldc = g->ldc;
    k.in = g->in;
    k.out = g->out;
    k.bias = g->bias ? &there : NULL;
    k.a = (const void *)(uintptr_t)alignment(g->a, g->lda, g->in);
    k.b = (const void *)(uintptr_t)alignment(g->b, g->ldb, g->in);
    k.c = (void *)(uintptr_t)alignment(g->c, g->ldc, g->out);
    return k;
}

static plan *plan_of(const kr_cuda_gemm *g) {
    kr_cuda_gemm key = key_of(g);
    for (int i = 0; i < blas.n_plans; i++)
        if (memcmp(&blas.plans[i].key, &key, sizeof key) == 0) return &blas.plans[i];
    if (blas.n_plans == SHAPES) { /* a program with that many shapes plans them anew */
        for (int i = 0; i < SHAPES; i++) release(&blas.plans[i]);
        blas.n_plans = 0;
    }
    plan *p = &blas.plans[blas.n_plans];
    p->possible = describe(p, g) && choose(p, g);
    if (!p->possible) release(p);
    p->key = key;
    blas.n_plans++;
    return p;
}

bool kr_cuda_blas_run(const kr_cuda_gemm *g) {
    float one = 1, add = g->accumulate ? 1 : 0;
    pthread_mutex_lock(&blas.lock);
    plan *p = plan_of(g);
    bool good = p && p->possible;
    if (good && g->bias)
        good = blas.MatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->bias,
                                           sizeof g->bias) == 0;
    if (good)
        good = blas.Matmul(blas.handle, p->op, &one, g->b, p->b, g->a, p->a, &add, g->c, p->c, g->c,
                           p->c, &p->algo, blas.workspace, WORKSPACE, kr_cuda_stream()) == 0;
    pthread_mutex_unlock(&blas.lock);
    return good;
}
