/* cuda_blas.c - matrix products on the GPU by cuBLASLt, which is loaded at run time: a program
 * built with CUDA starts on machines that have neither. What it refuses is cuda_gemm.cu's. */
#include <cublasLt.h>
#include <dlfcn.h>
#include <math.h>
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
    X(Destroy)                                                                                     \
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
    size_t room;   /* of the workspace, for it */
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

static int open_library(krait_error *e) {
    char name[32];
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

int kr_cuda_blas_open(krait_error *e) {
    if (blas.open) return 0;
    int rc = open_library(e);
    if (rc == 0) return 0;
    if (blas.handle) blas.Destroy(blas.handle);
    if (blas.library) dlclose(blas.library);
    blas.handle = NULL;
    blas.library = NULL;
    return rc;
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

/* What the library offers, best first by its own guess. */
typedef cublasLtMatmulHeuristicResult_t offer;
typedef struct offers {
    offer list[OFFERS];
    int count;
} offers;

/* Rows and columns of an offer's tile, of the library's C^T; those that are not known here: 0. */
static void tile_of(const offer *o, int64_t *n, int64_t *m) {
#define TILE(a, b)                                                                                 \
    { CUBLASLT_MATMUL_TILE_##a##x##b, a, b }
    static const struct {
        cublasLtMatmulTile_t id;
        int64_t n, m;
    } tiles[] = {TILE(128, 256), TILE(256, 128), TILE(128, 192), TILE(192, 128), TILE(128, 160),
                 TILE(160, 128), TILE(176, 128), TILE(128, 128), TILE(192, 192), TILE(256, 96)};
#undef TILE
    uint32_t id = 0;
    size_t written;
    blas.MatmulAlgoConfigGetAttribute(&o->algo, CUBLASLT_ALGO_CONFIG_TILE_ID, &id, sizeof id,
                                      &written);
    *n = *m = 0;
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++)
        if (tiles[i].id == id) *n = tiles[i].n, *m = tiles[i].m;
}

/* What a product would cost in these tiles, in elements that one processor after the other makes:
 * where sums are short, those of tiles so large that one is not written while the next is made
 * cost more; where they are long, smaller tiles do, which read more. */
static double cost_of(const kr_cuda_gemm *g, const offer *o) {
    enum { SHORT = 1536, SMALL = 176 * 128, LARGE = 256 * 128 };
    int64_t n, m, processors = kr_cuda_processors();
    tile_of(o, &n, &m);
    if (!n) return INFINITY;
    int64_t tiles = ((g->n + n - 1) / n) * ((g->m + m - 1) / m);
    double rounds = (double)((tiles + processors - 1) / processors), slower;
    if (g->k <= SHORT)
        slower = n * m > SMALL ? 1.08 : 1;
    else
        slower = n * m <= SMALL ? 1.08 : n * m < LARGE ? 1.03 : 1;
    return rounds * (double)(n * m) * slower + (double)n; /* of alike ones the wider rows of C */
}

static const offer *cheapest(const kr_cuda_gemm *g, const offers *o) {
    int best = 0;
    for (int i = 1; i < o->count; i++)
        if (cost_of(g, &o->list[i]) < cost_of(g, &o->list[best])) best = i;
    return &o->list[best];
}

/* The first whose tile is one of these two, the first tile first; else the first. */
static const offer *tiled(const offers *o, const int64_t tiles[2][2]) {
    for (int t = 0; t < 2; t++)
        for (int i = 0; i < o->count; i++) {
            int64_t n, m;
            tile_of(&o->list[i], &n, &m);
            if (n == tiles[t][0] && m == tiles[t][1]) return &o->list[i];
        }
    return &o->list[0];
}

/* Which of the offers: `any`, or `bare`, those without a workspace. The library's guess is good for
 * small products; of large ones of bf16, measured on an H100:
 *   - many that it offers count their tiles in the workspace, which is cleared in front of each
 *     product: 5 us of a step's recording, more than the counting gains (16384 x 768 x 1536: 54.8
 *     us, bare 52.9)
 *   - sums in f32 over the tokens need no parts summed apart: 768 x 1536 x 16384: 61.5 us, bare
 *     56.7; but what is added to f32 in passing wants the counting: 50280 x 768 x 2816: 349 us, in
 *     tiles of 256 x 128 326, bare 343. */
static const offer *preferred(const kr_cuda_gemm *g, const offers *any, const offers *bare) {
    static const int64_t added[2][2] = {{256, 128}, {128, 256}};
    static const int64_t added_short[2][2] = {{192, 128}, {128, 192}};
    enum { SHORT = 1536, LARGE_HALVES = 1 << 22, LARGE_SUMS = 1 << 20, ADDED = 1 << 24 };
    int64_t size = g->m * g->n;
    bool half = g->in == KR_BF16, sums = g->out == KR_F32;
    if (half && sums && g->accumulate && size >= ADDED)
        return tiled(any, g->k <= SHORT ? added_short : added);
    if (!half || bare->count == 0 || size < (sums ? LARGE_SUMS : LARGE_HALVES))
        return &any->list[0];
    return sums ? &bare->list[0] : cheapest(g, bare);
}

static void ask(plan *p, cublasLtMatmulPreference_t want, size_t room, offers *o) {
    o->count = 0;
    blas.MatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room,
                                      sizeof room);
    if (blas.MatmulAlgoGetHeuristic(blas.handle, p->op, p->b, p->a, p->c, p->c, want, OFFERS,
                                    o->list, &o->count) != 0)
        o->count = 0;
}

static bool choose(plan *p, const kr_cuda_gemm *g) {
    cublasLtMatmulPreference_t want;
    offers any, bare;
    /* Sums of parts in f32 and in a fixed order, or none. */
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t a = alignment(g->b, g->ldb, g->in), b = alignment(g->a, g->lda, g->in);
    uint32_t c = alignment(g->c, g->ldc, g->out);
    if (blas.MatmulPreferenceCreate(&want) != 0) return false;
#define SET(name, value)                                                                           \
    blas.MatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_##name, &(value), sizeof(value))
    SET(REDUCTION_SCHEME_MASK, reductions);
    SET(MIN_ALIGNMENT_A_BYTES, a);
    SET(MIN_ALIGNMENT_B_BYTES, b);
    SET(MIN_ALIGNMENT_C_BYTES, c);
    SET(MIN_ALIGNMENT_D_BYTES, c);
#undef SET
    ask(p, want, WORKSPACE, &any);
    ask(p, want, 0, &bare);
    blas.MatmulPreferenceDestroy(want);
    if (any.count == 0) return false;
    const offer *chosen = preferred(g, &any, &bare);
    p->algo = chosen->algo;
    p->room = chosen->workspaceSize;
    return true;
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
                           p->c, &p->algo, blas.workspace, p->room, kr_cuda_stream()) == 0;
    pthread_mutex_unlock(&blas.lock);
    return good;
}
